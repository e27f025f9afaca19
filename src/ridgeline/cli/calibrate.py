"""``ridgeline calibrate``: fit coefficients to measured kernels and to measured steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline.cli import shared

if TYPE_CHECKING:
    from ridgeline.calibrate.tables import Table
    from ridgeline.calibrate.whole_step import Fit
    from ridgeline.facts.kernel_calibration import KernelCalibration, Provenance

app = typer.Typer(
    help="Fit the numbers of chips and stacks to measurements.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One fit: rows it was made on, errors on the shapes held out of it, and those of the catalog's own fit."""

    chip: str
    op: str
    format: str
    library: str
    label: str
    rows: int
    median_abs_err: float | None
    p90_abs_err: float | None
    catalog_median_abs_err: float | None = None
    catalog_p90_abs_err: float | None = None


@app.command()
def kernels(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="parquet tables: gemm, attention (2), moe; any names"),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for CHIP.yaml; without it nothing is written")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="show the errors of the catalog's own fits beside")
    ] = False,
    as_json: shared.Json = False,
) -> None:
    """Fit kernel coefficients per chip, format and library; errors are of shapes held out of each fit."""
    from ridgeline.calibrate.kernels import derived, fit_each
    from ridgeline.calibrate.tables import CHIPS
    from ridgeline.calibrate.write import calibration_yaml
    from ridgeline.facts import catalog

    found: dict[str, KernelCalibration] = {}
    counter = shared.Counter("chips fitted")
    stopped = False

    def keep(fits: dict[str, KernelCalibration]) -> None:
        found.update(fits)
        for name, fit in fits.items() if out is not None else ():
            assert out is not None
            shared.write_text(out / f"{name}.yaml", calibration_yaml(fit))

    try:
        tables = _tables(files)
        for fit in fit_each(tables, {name: catalog.chip(name) for name in CHIPS.values()}):
            keep({fit.chip: fit})
            counter.add()
    except KeyboardInterrupt:
        stopped = True
    finally:
        counter.wipe()
    own = list(found)
    keep(derived(found))
    lines = [line for name in own for line in _lines(found[name], report)]
    if not stopped or lines:
        typer.echo(
            shared.json_text({"fits": [asdict(line) for line in lines]}) if as_json else _table(lines, report)
        )
    if out is not None and found and not as_json:
        typer.echo(f"\n{len(found)} files in {out}: {', '.join(sorted(found))}")
    if stopped:
        raise shared.Interrupted(f"{counter}{', files written' if found and out is not None else ''}")


def _tables(files: Sequence[Path]) -> dict[str, Table]:
    """Tables by kind, which their columns tell."""
    from ridgeline.calibrate.kernel_scores import kind_of
    from ridgeline.calibrate.tables import read

    found: dict[str, Table] = {}
    try:
        for path in files:
            kind = kind_of(path)
            if kind in found:
                raise shared.Mistake(f"{path}: a second table of {kind}; give one of each kind")
            found[kind] = read(path)
    except ImportError as error:  # the optional reader; the message says what to install
        raise shared.Mistake(str(error)) from None
    return found


def _lines(fit: KernelCalibration, report: bool) -> Iterator[Line]:
    shipped = _shipped(fit.chip) if report else {}
    for (op, name), provenance in _provenances(fit).items():
        known = shipped.get((op, name))
        yield Line(
            fit.chip,
            op,
            name,
            _library(provenance.source),
            str(provenance.label),
            provenance.rows,
            provenance.median_abs_err,
            provenance.p90_abs_err,
            known.median_abs_err if known else None,
            known.p90_abs_err if known else None,
        )


def _provenances(fit: KernelCalibration) -> dict[tuple[str, str], Provenance]:
    groups: dict[str, dict[str, Any]] = {"gemm": fit.gemm, "attention": fit.attention, "moe": fit.grouped}
    return {(op, name): one.provenance for op, fits in groups.items() for name, one in fits.items()}


def _shipped(chip: str) -> dict[tuple[str, str], Provenance]:
    from ridgeline.facts import catalog

    return _provenances(catalog.calibration(chip).kernels)


def _library(source: str) -> str:
    """Kernel, framework and version, as a provenance line names them after its table."""
    first = source.split("; ")[0]
    parts = first.split(", ")
    return parts[1] if len(parts) > 1 and " of " in parts[1] else first


def _table(lines: Sequence[Line], report: bool) -> str:
    head = ["chip", "op", "format", "library", "label", "rows", "median", "P90"]
    cells = [
        [
            line.chip, line.op, line.format, line.library, line.label, f"{line.rows:,}",
            _percent(line.median_abs_err), _percent(line.p90_abs_err),
            *([_percent(line.catalog_median_abs_err), _percent(line.catalog_p90_abs_err)] if report else []),
        ]
        for line in lines
    ]  # fmt: skip
    return "\n".join(shared.columns([*head, *(["catalog", "P90"] if report else [])], cells, 5))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


@app.command()
def steps(
    cases: Annotated[
        Path, typer.Argument(metavar="CASES.csv", help="measured runs; split 'fit' is fitted on")
    ],
    write: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="catalog folder whose stacks and calibrations/steps are rewritten"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Fit what only whole steps show: two numbers per chip and a few per stack, on 8 rows or more of each."""
    from ridgeline.calibrate import whole_step
    from ridgeline.calibrate.cases import read_cases

    for folder in ("stacks", "calibrations/steps"):
        if write is not None and not (write / folder).is_dir():
            raise shared.Mistake(f"--write {write}: not a catalog folder, it has no {folder}")
    sweeps: list[str] = []

    def progress(text: str) -> None:
        """Show one sweep, and keep its words for the result."""
        sweeps.append(text)
        typer.echo(text, err=True)

    try:
        rows = whole_step.collect(read_cases(cases))
        if not rows:
            raise shared.Mistake(
                f"{cases}: no row to fit on; it needs split 'fit', quality A or B, and a run that can be predicted"
            )
        typer.echo(f"{len(rows)} rows of the fit share", err=True)
        result = whole_step.fit(rows, progress)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"after {len(sweeps)} sweeps; nothing is written") from None
    typer.echo(_numbers_json(result) if as_json else _numbers(result, whole_step.LEAST_ROWS))
    if write is not None:
        for path in whole_step.write(result, write):
            typer.echo(f"wrote {path}", err=True)


def _numbers(result: Fit, least: int) -> str:
    if not result.values:
        return f"no chip or stack has {least} rows; nothing is fitted"
    cells = [(*key, f"{value:.4g}") for key, value in sorted(result.values.items())]
    return "\n".join(shared.columns(("kind", "name", "number", "value"), cells, 3))


def _numbers_json(result: Fit) -> str:
    items = sorted(result.values.items())
    return shared.json_text(
        [dict(zip(("kind", "name", "number", "value"), (*k, v), strict=True)) for k, v in items]
    )
