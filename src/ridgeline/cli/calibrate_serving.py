"""``ridgeline calibrate serving`` and ``ranges``: engines, and widths of ranges, from measured points of serving."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli import shared


def serving(
    points: Annotated[
        Path,
        typer.Argument(
            parser=shared.file,
            metavar="POINTS.csv",
            help="measured points of serving; split 'fit' is fitted on",
        ),
    ],
    engine: Annotated[str | None, typer.Option(metavar="NAME", help="only this engine [all]")] = None,
    rounds: Annotated[int, typer.Option(help="most rounds of the search, each some ten evaluations")] = 6,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="catalog folder whose engines are rewritten")
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Fit what only whole servers show: a few host and launch times of each engine."""
    from ridgeline.calibrate.serving.cases import read_serving_cases
    from ridgeline.calibrate.serving.fit import fit_engines
    from ridgeline.calibrate.serving.write import write as write_engines

    if write is not None and not (write / "engines").is_dir():
        raise shared.Mistake(f"--write {write}: not a catalog folder, it has no engines")
    if rounds < 1:
        raise shared.Mistake(f"--rounds {rounds} must be at least 1")
    counter = shared.Counter("evaluations")
    try:
        unread: list[str] = []
        cases = read_serving_cases(points, unread)
        shared.say_unread(unread)
        fits = fit_engines(cases, rounds, counter.add, only=engine)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; nothing is written") from None
    finally:
        counter.wipe()
    if not fits:
        raise shared.Mistake(
            f"{points}: no point to fit on; it needs split 'fit', quality A or B, and a known engine"
        )
    if as_json:
        shared.echo_json([asdict(fit) for fit in fits])
    else:
        head = ("engine", "points", "median", "80 % within", "numbers")
        cells = [
            (
                fit.engine, f"{fit.rows:,}", f"{fit.median_abs_err:.1%}", f"{fit.spread:.0%}",
                ", ".join(f"{name} {value:.3g}" for name, value in fit.numbers.items()),
            )
            for fit in fits
        ]  # fmt: skip
        shared.say("\n".join(shared.columns(head, cells, 1)))
    if write is not None:
        for path in write_engines(fits, write):
            shared.say(f"wrote {path}", err=True)


def ranges(
    points: Annotated[
        Path,
        typer.Argument(
            parser=shared.file,
            metavar="POINTS.csv",
            help="measured points of serving; split 'fit' is fitted on",
        ),
    ],
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="catalog folder whose serving_ranges.yaml is rewritten")
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Fit the widths of the 80 % ranges of serving: what holds 80 % of the fit share, by metric and kind of model."""
    from ridgeline.calibrate.serving import ranges as found
    from ridgeline.calibrate.serving.score import validate
    from ridgeline.facts import serving_ranges

    if write is not None and not (write / serving_ranges.FILE).is_file():
        raise shared.Mistake(f"--write {write}: not a catalog folder, it has no {serving_ranges.FILE}")
    counter = shared.Counter("points")
    try:
        board = validate(points, progress=lambda *_: counter.add(1))
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; nothing is written") from None
    finally:
        counter.wipe()
    shared.say_unread(board.unread)
    widths = found.fit_ranges(board)
    if not widths:
        raise shared.Mistake(
            f"{points}: no point to fit on; it needs split 'fit', quality A or B, and a known engine"
        )
    if as_json:
        shared.echo_json(widths)
    else:
        cells = [
            (metric, kind, f"{width:.3f}")
            for metric, kinds in widths.items()
            for kind, width in kinds.items()
        ]
        shared.say("\n".join(shared.columns(("metric", "kind", "half width"), cells, 2)))
    if write is not None:
        shared.say(f"wrote {found.write(widths, write)}", err=True)
