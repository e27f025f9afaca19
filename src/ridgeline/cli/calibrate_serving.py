"""``ridgeline calibrate serving``: numbers of serving engines from measured points."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli import shared


def serving(
    points: Annotated[
        Path,
        typer.Argument(metavar="POINTS.csv", help="measured points of serving; split 'fit' is fitted on"),
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
        fits = fit_engines(read_serving_cases(points), rounds, counter.add, only=engine)
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
        typer.echo("\n".join(shared.columns(head, cells, 1)))
    if write is not None:
        for path in write_engines(fits, write):
            typer.echo(f"wrote {path}", err=True)
