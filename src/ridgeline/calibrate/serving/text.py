"""A scoreboard of serving as text: by metric and share, load, chip, model, engine, and the worst rows."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from ridgeline import files
from ridgeline.calibrate.refusals import unread_words
from ridgeline.calibrate.scores import Score
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow

_SPLITS = {"test-family": "unseen families", "test-config": "unseen configurations", "fit": "fitted on"}
_NAMES = {"tpot": "TPOT", "ttft": "TTFT", "output_tokens_per_s": "output tokens/s"}
_MANY = 12


def text(board: ServingBoard, width: int = 110) -> str:
    """All tables as plain text of at most ``width`` columns."""
    out = io.StringIO()
    # Names of a file are shown as they are: brackets are no markup.
    console = Console(file=out, width=width, highlight=False, color_system=None, markup=False, emoji=False)
    console.print(files.one_line(_first_line(board)), soft_wrap=True)
    if board.unread:
        console.print(files.one_line(unread_words(board.unread)), soft_wrap=True)
    for metric in _NAMES:
        rows = [row for row in board.headline if row.metric == metric]
        if rows:
            console.print(_scores(board, metric, rows))
    for row in board.worst(5):
        console.print(files.one_line(f"worst: {_worst(row)}"), soft_wrap=True)
    if board.pools and board.headline != board.rows:
        line = _first_line(board, board.pools, "points of separate pools")
        console.print(files.one_line(line), soft_wrap=True)
        for metric in _NAMES:
            rows = [row for row in board.pools if row.metric == metric]
            if rows:
                console.print(_scores(board, metric, rows))
    return out.getvalue()


def _first_line(
    board: ServingBoard, rows: Sequence[ServingRow] | None = None, what: str = "aggregated points"
) -> str:
    points = {row.case.id for row in (board.headline if rows is None else rows)}
    failures = board.failures(rows)
    line = f"{len(points)} {what} of quality A and B: {len(points) - failures.total()} predicted"
    if failures:
        reasons = ", ".join(f"{count} {reason}" for reason, count in failures.most_common(4))
        line += f", {failures.total()} not ({reasons})"
    return line


def _scores(board: ServingBoard, metric: str, rows: Sequence[ServingRow]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=_NAMES[metric], title_justify="left"
    )
    table.add_column("", min_width=22, max_width=34, overflow="ellipsis", no_wrap=True)
    for name in ("n", "median", "macro", "P90", "bias", "Spearman", "in range", "neighbours"):
        table.add_column(name, justify="right", no_wrap=True, min_width=max(6, len(name)))
    for split, title in _SPLITS.items():
        chosen = [row for row in rows if row.case.split == split]
        if not chosen:
            continue
        table.add_section()
        table.add_row(*_cells(title, board.part(chosen), board.neighbours(chosen)))
        for kind in ("dense", "moe", "moe-mtp", "moe-unknown"):
            part = [row for row in chosen if row.kind == kind]
            if part:
                table.add_row(*_cells(f"  {kind}", board.part(part), board.neighbours(part)))
    tested = [row for row in rows if row.case.split != "fit"] or list(rows)
    for field in ("regime", "chip", "engine", "model", "engine_version"):
        table.add_section()
        slices = board.slices(metric, field, tested)
        for key, found in list(slices.items())[:_MANY]:
            table.add_row(*_cells(key, found, None))
    return table


def _cells(name: str, found: Score, null: Score | None) -> list[str]:
    count = str(found.n) if found.covered == found.n else f"{found.covered}/{found.n}"
    return [
        files.one_line(name),
        count,
        _percent(found.median_abs_err),
        _percent(found.macro_abs_err),
        _percent(found.p90_abs_err),
        _percent(found.bias, "+"),
        "" if found.spearman is None else f"{found.spearman:.2f}",
        _percent(found.interval_coverage, digits=0),
        "" if null is None else _percent(null.median_abs_err),
    ]


def _percent(value: float | None, sign: str = "", digits: int = 1) -> str:
    return "" if value is None else f"{value:{sign}.{digits}%}"


def _worst(row: ServingRow) -> str:
    case = row.case
    load = (
        f"{case.isl:.0f}/{case.osl:.0f} x {case.concurrency:.0f}"
        if case.isl and case.osl and case.concurrency
        else ""
    )
    return (
        f"{case.id} ({case.model}, {case.num_chips} x {case.chip}, {case.engine}, {load}) measured "
        f"{row.measured * 1e3:.1f} ms, predicted {row.predicted * 1e3:.1f} ms ({row.rel_err:+.0%}), {row.regime}"
    )
