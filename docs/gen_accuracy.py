"""Write the accuracy page and its picture from a file of measured runs.

    python docs/gen_accuracy.py CASES.csv [--out docs/accuracy.md]

The picture goes beside the page, as ``images/accuracy.svg``.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path

from ridgeline.calibrate.cases import read_cases
from ridgeline.calibrate.page import Stamp, page
from ridgeline.calibrate.plot import svg
from ridgeline.calibrate.published import read_published
from ridgeline.calibrate.scoreboard import validate
from ridgeline.predict import train

PAGE = Path(__file__).parent / "accuracy.md"
FIGURE = "images/accuracy.svg"
COMMAND = "python docs/gen_accuracy.py CASES.csv"


def write(cases: Path, out: Path, date: str) -> list[Path]:
    """Predict every run of ``cases`` and write page and picture; raises CaseError where the file is wrong."""
    board = validate(read_cases(cases), train, progress=_progress)
    runs = read_published()
    held = validate([run.case for run in runs], train).rows
    figure = out.parent / FIGURE
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(svg(board.headline), encoding="utf-8")
    text = page(board, list(zip(runs, held, strict=True)), Stamp(date, COMMAND, FIGURE))
    out.write_text(text, encoding="utf-8")
    return [out, figure]


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {of} runs predicted", end="\n" if done == of else "", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", type=Path, help="measured runs, one per line")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date printed on the page")
    given = parser.parse_args(words)
    for path in write(given.cases, given.out, given.date):
        print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
