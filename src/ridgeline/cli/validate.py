"""``ridgeline validate``: hold the predictor to measured runs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import shared

if TYPE_CHECKING:
    from ridgeline.calibrate.scoreboard import Scoreboard

OUTPUTS = (".json", ".csv", ".txt")


def validate(
    cases: Annotated[Path, typer.Argument(metavar="CASES.csv", help="measured runs, one per line")],
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="at most this many runs, spread evenly over the file")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="write scores.json, rows.csv or table.txt; repeatable"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Predict every measured run of a file and show the errors, beside predictors without physics."""
    outputs = [(path, shared.suffix_of(path, OUTPUTS)) for path in out or []]
    board = _board(cases, limit)
    for path, ending in outputs:
        text = {".json": _json, ".csv": _rows, ".txt": _table}[ending](board)
        shared.write_text(path, text)
    typer.echo(_json(board) if as_json else _table(board))


def _board(cases: Path, limit: int | None) -> Scoreboard:
    from ridgeline.api import training

    counter = shared.Counter("runs predicted")
    try:
        return training.validate(cases, limit, lambda done, of: counter.add())
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; --limit N predicts fewer") from None
    finally:
        counter.wipe()


def _json(board: Scoreboard) -> str:
    return shared.json_text(board.to_dict())


def _table(board: Scoreboard) -> str:
    return board.table(max(shared.width(), 80)).rstrip()


def _rows(board: Scoreboard) -> str:
    rows = [row.to_dict() for row in board.rows]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]) if rows else ["id"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
