"""A scoreboard as text: the headline, the slices, memory, rankings, the law and the worst rows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from ridgeline import files
from ridgeline.calibrate.refusals import unread_words
from ridgeline.calibrate.scoreboard import Part, Row, Scoreboard

_SPLITS = {"test-family": "unseen families", "test-config": "unseen configurations", "fit": "fitted on"}
_MANY = 12  # lines of one kind of slice


def text(board: Scoreboard, width: int = 110) -> str:
    """All tables as plain text of at most ``width`` columns."""
    out = io.StringIO()
    # Names of a file are shown as they are: brackets are no markup.
    console = Console(file=out, width=width, highlight=False, color_system=None, markup=False, emoji=False)
    console.print(files.one_line(_first_line(board)))
    if board.unread:
        console.print(files.one_line(unread_words(board.unread)), soft_wrap=True)
    console.print(_scores(board))
    for part in (_memory(board), *_rankings(board), *_laws(board)):
        console.print(files.one_line(part), soft_wrap=True)
    for row in board.worst(5):
        console.print(files.one_line(f"worst: {_worst(row)}"), soft_wrap=True)
    return out.getvalue()


def _first_line(board: Scoreboard) -> str:
    failures = board.failures()
    ok = len(board.rows) - failures.total()
    line = f"{len(board.rows)} rows: {ok} predicted"
    if failures:
        reasons = [f"{count} {reason}" for reason, count in failures.most_common(4)]
        rest = failures.total() - sum(count for _, count in failures.most_common(4))
        line += f", {failures.total()} not ({', '.join([*reasons, *([f'{rest} other'] if rest else [])])})"
    return line


def _scores(board: Scoreboard) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", min_width=22, max_width=26, overflow="ellipsis", no_wrap=True)
    for name in ("n", "median", "macro", "P90", "bias", "Spearman", "in range", "constant MFU", "neighbours"):
        table.add_column(name, justify="right", no_wrap=True, min_width=max(6, len(name)))  # names give way
    splits = board.slices("split")
    for key in (*_SPLITS, *(key for key in splits if key not in _SPLITS)):
        if key in splits:
            table.add_row(*_cells(_SPLITS.get(key, key), splits[key]))
    table.add_row(*_cells("all of quality A, B" if board.rough else "all", board.part()))
    if board.rough:
        table.add_row(*_cells("rough rows (quality C)", board.part(board.rough)))
    for field in ("chip", "framework", "model"):
        slices = board.slices(field)
        if len(slices) > 1:
            table.add_section()
            for key, part in list(slices.items())[:_MANY]:
                table.add_row(*_cells(key, part))
            if len(slices) > _MANY:
                table.add_row(f"({len(slices) - _MANY} more: --json)")
    return table


def _cells(name: str, part: Part) -> list[str]:
    model = part.model
    count = str(model.n) if model.covered == model.n else f"{model.covered}/{model.n}"
    return [
        files.one_line(name),
        count,
        _percent(model.median_abs_err),
        _percent(model.macro_abs_err),
        _percent(model.p90_abs_err),
        _percent(model.bias, signed=True),
        "-" if model.spearman is None else f"{model.spearman:.2f}",
        _percent(model.interval_coverage),
        _percent(part.constant_mfu.median_abs_err),
        _percent(part.neighbour.median_abs_err),
    ]


def _percent(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    digits = 1 if abs(value) < 0.0995 else 0
    return f"{100 * value:{'+' if signed else ''}.{digits}f} %"


def _memory(board: Scoreboard) -> str:
    memory = board.memory()
    line = f"memory: {_percent(memory.fits)} of {memory.judged} runs judged to fit"
    if memory.n:
        error = _percent(memory.median_abs_err)
        line += (
            f"; peak of {memory.n} measured runs: median {error}, bias {_percent(memory.bias, signed=True)}"
        )
    return line


def _rankings(board: Scoreboard) -> Sequence[str]:
    found = board.rankings()
    if not found:
        return []
    regrets = [ranking.regret for ranking in found]
    rhos = [ranking.spearman for ranking in found if ranking.spearman is not None]
    head = f"ranking of plans: {len(found)} jobs with five or more measured plans"
    if rhos:
        head += f"; median Spearman {median(rhos):.2f}"
    middle = _percent(median(regrets))
    lines = [f"{head}; regret of our pick median {middle}, most {_percent(max(regrets))}"]
    for ranking in found[:5]:
        rho = "-" if ranking.spearman is None else f"{ranking.spearman:.2f}"
        result = f"Spearman {rho}, regret {_percent(ranking.regret)}"
        lines.append(f"  {ranking.job}: {ranking.plans} plans, {result}")
    return lines


def _laws(board: Scoreboard) -> list[str]:
    found = board.laws()
    lines = ["law T = a (m + (pp-1)/vpp) + c, measured and predicted:"] if found else []
    for law in found:
        measured, predicted = law.measured, law.predicted
        slopes = f"a {1e3 * measured.slope:.1f} and {1e3 * predicted.slope:.1f} ms"
        intercepts = (
            f"c {measured.intercept:.2f} ± {measured.intercept_error:.2f} and {predicted.intercept:.2f} s"
        )
        lines.append(f"  {law.family}: {law.runs} runs, {slopes}, {intercepts}")
    return lines


def _worst(row: Row) -> str:
    case = row.case
    error = _percent(row.rel_err, signed=True)
    return f"{case.id} measured {case.step_time_s:.3g} s, predicted {row.predicted_s:.3g} s ({error})"
