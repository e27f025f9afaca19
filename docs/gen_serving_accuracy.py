"""Write the page on the accuracy of serving and its pictures from measured points and folders of measured runs.

    python docs/gen_serving_accuracy.py POINTS.csv [RUN_FOLDER ...] [--out docs/serving-accuracy.md]

Pictures go beside the page, as ``images/serving-*.svg``.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ridgeline.calibrate.serving.page import Stamp, page
from ridgeline.calibrate.serving.plot import replay_svg, scatter_svg
from ridgeline.calibrate.serving.replay import replay
from ridgeline.calibrate.serving.score import validate

PAGE = Path(__file__).parent / "serving-accuracy.md"
COMMAND = "python docs/gen_serving_accuracy.py POINTS.csv RUN_FOLDER ..."


def write(points: Path, folders: Sequence[Path], out: Path, date: str) -> list[Path]:
    """Predict all points, replay all runs, write page and pictures; raises CaseError where a file is wrong."""
    runs = [replay(folder) for folder in folders]
    board = validate(points, progress=_progress)
    pictures = {"images/serving-tpot.svg": scatter_svg(board.headline)}
    pictures |= {f"images/serving-replay-{_slug(run.name)}.svg": replay_svg(run) for run in runs}
    (out.parent / "images").mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        (out.parent / name).write_text(picture, encoding="utf-8")
    first, *others = pictures
    out.write_text(page(board, runs, Stamp(date, COMMAND, first, tuple(others))), encoding="utf-8")
    return [out, *(out.parent / name for name in pictures)]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {of} points predicted", end="\n" if done == of else "", file=sys.stderr)


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("points", type=Path, help="measured points of serving, one per line")
    parser.add_argument("runs", type=Path, nargs="*", help="folders of measured runs, to be replayed")
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date printed on the page")
    given = parser.parse_args(words)
    for path in write(given.points, given.runs, given.out, given.date):
        print(f"wrote {path}, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
