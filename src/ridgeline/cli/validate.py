"""``ridgeline validate``: hold the predictor to measured runs, or its coefficients to measured kernels."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline import files
from ridgeline.cli import outputs, shared

if TYPE_CHECKING:
    from ridgeline.calibrate.kernel_scores import KernelScores
    from ridgeline.calibrate.scoreboard import Scoreboard
    from ridgeline.calibrate.serving.score import ServingBoard

#: A header has some hundred bytes.
LONGEST_HEADER = 64 * 2**10
KERNELS, LOGS = ".parquet", (".log", ".txt")
OUTPUTS = (".json", ".csv", ".txt")


def validate(
    cases: Annotated[
        Path,
        typer.Argument(
            parser=shared.file,
            metavar="FILE",
            help="measured runs or serving points (.csv, one per line), measured kernels or collectives (.parquet), "
            "shares of link bandwidth by node count (.csv with a column Size), what nccl-tests print (.log), or the "
            "folder of a run of a server, which is replayed",
        ),
    ],
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="at most this many rows, spread evenly over the file")
    ] = None,
    lent: Annotated[
        bool,
        typer.Option(
            "--lent", help="kernels: leave each chip's own coefficients out, take its nearest relative's"
        ),
    ] = False,
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="write scores.json, rows.csv or table.txt; repeatable"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Predict every measured run of a file and show the errors, beside predictors without physics.

    Tables of kernels, collectives and link shares score the coefficients of the catalog by operator, chip, format
    (or node count, or size) and library.
    """
    if lent and cases.suffix.lower() != KERNELS:
        raise shared.Mistake(f"--lent is for tables of kernels ({KERNELS}); {cases} is none")
    chosen = outputs.named(out, OUTPUTS, inputs=[cases])
    scores = _table_scores(cases, limit, lent)
    if scores is not None:
        _give(
            {
                ".json": lambda: _kernel_json(scores),
                ".csv": lambda: _kernel_rows(scores),
                ".txt": lambda: _kernel_table(scores),
            },
            chosen,
            as_json,
        )
        return
    if cases.is_dir():
        _replay(cases, chosen, as_json)
        return
    board = _serving_board(cases, limit) if _is_serving(cases) else _board(cases, limit)
    _give(
        {".json": lambda: _json(board), ".csv": lambda: _rows(board), ".txt": lambda: _table(board)},
        chosen,
        as_json,
    )


def _give(texts: Mapping[str, Callable[[], str]], chosen: list[outputs.Output], as_json: bool) -> None:
    """Write what is asked for, by ending, and show the scores."""
    unsaved = outputs.save(chosen, {ending: outputs.text_of(make) for ending, make in texts.items()})
    shared.say(texts[".json" if as_json else ".txt"]())
    outputs.complain(unsaved)


def _replay(folder: Path, chosen: list[outputs.Output], as_json: bool) -> None:
    """A measured run of a server, replayed."""
    from ridgeline.calibrate.serving.replay import is_run, replay

    if not is_run(folder):
        raise shared.Mistake(f"{folder}: a folder of a measured run holds meta.json and requests.jsonl")
    for path, ending in chosen:
        if ending == ".csv":
            raise shared.Mistake(f"--out {path}: a replay is written as .json or .txt")
    found = replay(folder)
    _give({".json": lambda: shared.json_text(found.to_dict()), ".txt": found.table}, chosen, as_json)


def _is_serving(path: Path) -> bool:
    """Whether the header of a CSV file is that of serving points; a file that cannot be read is not."""
    from ridgeline.calibrate.serving.cases import is_serving

    try:
        with files.open_file(path) as file:
            header = file.readline(LONGEST_HEADER).decode("utf-8-sig", errors="replace")
        return is_serving(set(next(csv.reader([header]), ())))
    except (OSError, files.FileError, csv.Error):
        return False


def _serving_board(cases: Path, limit: int | None) -> ServingBoard:
    from ridgeline.calibrate.serving import score

    if limit is not None and limit < 1:
        raise shared.Mistake(f"--limit {limit} must be at least 1")
    counter = shared.Counter("points predicted")
    try:
        return score.validate(cases, limit, counter.reach)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; --limit N predicts fewer") from None
    finally:
        counter.wipe()


def _board(cases: Path, limit: int | None) -> Scoreboard:
    from ridgeline.api import training

    counter = shared.Counter("runs predicted")
    try:
        return training.validate(cases, limit, counter.reach)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; --limit N predicts fewer") from None
    finally:
        counter.wipe()


def _json(board: Scoreboard | ServingBoard) -> str:
    return shared.json_text(board.to_dict())


def _table(board: Scoreboard | ServingBoard) -> str:
    return board.table(max(shared.width(), 80)).rstrip()


def _rows(board: Scoreboard | ServingBoard) -> str:
    return _csv([row.to_dict() for row in board.rows], "id")


def _csv(rows: list[dict[str, Any]], only: str) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else [only], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: files.cell(value) for name, value in row.items()} for row in rows)
    return out.getvalue()


def _table_scores(path: Path, limit: int | None, lent: bool) -> KernelScores | None:
    """Scores of a table of kernels or links; None for measured runs."""
    ending = path.suffix.lower()
    if ending == KERNELS:
        return _kernel_scores(path, limit, lent)
    if ending not in (".csv", *LOGS):
        return None
    from ridgeline.calibrate import share_scores
    from ridgeline.calibrate.link_tables import is_shares

    if ending in LOGS:
        return share_scores.score_log(path, limit)
    return share_scores.score_shares(path, limit) if is_shares(path) else None


def _kernel_scores(table: Path, limit: int | None, lent: bool) -> KernelScores:
    from ridgeline.calibrate.kernel_scores import score_table

    counter = shared.Counter("kernels predicted")
    try:
        return score_table(table, limit, counter.add, lent)
    except ImportError as error:  # the optional reader; the message says what to install
        raise shared.Mistake(str(error)) from None
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; --limit N predicts fewer") from None
    finally:
        counter.wipe()


def _kernel_json(scores: KernelScores) -> str:
    return shared.json_text(scores.to_dict())


def _kernel_rows(scores: KernelScores) -> str:
    return _csv([asdict(group) for group in scores.groups], "op")


def _kernel_table(scores: KernelScores) -> str:
    scored = sum(group.n for group in scores.groups)
    lines = [f"{scores.rows:,} rows of {scores.kind}: {scored:,} scored, {scores.rows - scored:,} left out"]
    lines += [f"  {n:,}: {reason}" for reason, n in scores.left_out.items()]
    if not scores.groups:
        return "\n".join(lines)
    head = ("op", "chip", "format", "library", "label", "n", "median", "P90", "bias")
    cells = [
        (
            g.op, g.chip, g.format, g.library, g.label, f"{g.n:,}",
            f"{g.median_abs_err:.1%}", f"{g.p90_abs_err:.1%}", f"{g.bias:+.1%}",
        )
        for g in scores.groups
    ]  # fmt: skip
    return "\n".join([*lines, "", *shared.columns(head, cells, 5)])
