"""``ridgeline calibrate``: fit coefficients to measured kernels and to measured steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import outputs, shared

if TYPE_CHECKING:
    from ridgeline.calibrate.kernels import ChipFits
    from ridgeline.calibrate.tables import Table
    from ridgeline.calibrate.whole_step import Fit
    from ridgeline.facts.kernel_calibration import KernelCalibration, KernelLibraries

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
    nearest_median_abs_err: float | None  # of the three nearest timed shapes
    nearest_p90_abs_err: float | None
    misses: str  # what it misses of its target
    beyond_nearest: str  # what of it is also beyond 1.3 times the nearest shapes
    catalog_median_abs_err: float | None = None
    catalog_p90_abs_err: float | None = None


@app.command()
def kernels(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=shared.file,
            metavar="FILES",
            help="parquet tables of gemm, attention, mla, moe; any names, any of them",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="folder for kernels/CHIP.yaml and libraries/CHIP.yaml; nothing is written without it",
        ),
    ] = None,
    chips: Annotated[
        list[str] | None, typer.Option("--chip", metavar="NAME", help="only this chip; may be repeated")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="show the errors of the catalog's own fits beside")
    ] = False,
    as_json: shared.Json = False,
) -> None:
    """Fit kernel coefficients per chip, format and library; errors are of shapes held out of each fit."""
    from ridgeline.calibrate.kernels import derived, fit_each
    from ridgeline.calibrate.write import calibration_yaml

    found: dict[str, ChipFits] = {}
    counter = shared.Counter("fits")
    stopped = False

    def write(folder: str, chip: str, one: KernelCalibration | KernelLibraries) -> None:
        """One file of the catalog, where a folder was asked for."""
        if out is not None:
            outputs.write_text(out / folder / f"{chip}.yaml", calibration_yaml(one))

    try:
        tables = _tables(files)
        for fits in fit_each(tables, chips or (), lambda _: counter.add()):
            chip = fits.calibration.chip
            found[chip] = fits
            write("kernels", chip, fits.calibration)
            write("libraries", chip, fits.libraries)
    except ValueError as error:
        raise shared.Mistake(str(error)) from None
    except KeyboardInterrupt:
        stopped = True
    finally:
        counter.wipe()
    lent = derived({chip: fits.calibration for chip, fits in found.items()})
    for chip, calibration in lent.items():
        write("kernels", chip, calibration)
    lines = [line for fits in found.values() for line in _lines(fits, report)]
    if not stopped or lines:
        shared.say(
            shared.json_text({"fits": [asdict(line) for line in lines]}) if as_json else _table(lines, report)
        )
    written = sorted([*found, *lent])
    if out is not None and written and not as_json:
        shared.say(f"\nwritten to {out}: {', '.join(written)}")
    if stopped:
        raise shared.Interrupted(f"{counter}{', files written' if found and out is not None else ''}")


def _tables(files: Sequence[Path]) -> dict[str, Table]:
    """Tables by kind, which their columns tell."""
    from ridgeline.calibrate.kernel_scores import kind_of
    from ridgeline.calibrate.kernels import PARTS
    from ridgeline.calibrate.tables import read

    found: dict[str, Table] = {}
    try:
        for path in files:
            kind = kind_of(path)
            if kind not in PARTS:
                raise shared.Mistake(f"{path}: a table of {kind}; this verb fits {', '.join(PARTS)}")
            if kind in found:
                raise shared.Mistake(f"{path}: a second table of {kind}; give one of each kind")
            found[kind] = read(path)
    except ImportError as error:  # the optional reader; the message says what to install
        raise shared.Mistake(str(error)) from None
    return found


def _lines(fits: ChipFits, report: bool) -> Iterator[Line]:
    from ridgeline.calibrate.kernel_errors import held, shipped

    chip = fits.calibration.chip
    known = {(one.op, one.format, one.library): one.provenance for one in shipped(chip)} if report else {}
    for one in sorted(
        held(chip, fits.calibration, fits.libraries.libraries),
        key=lambda one: (one.op, one.format, one.library),
    ):
        before = known.get((one.op, one.format, one.library))
        yield Line(
            chip,
            one.op,
            one.format,
            one.library,
            str(one.provenance.label),
            one.provenance.rows,
            one.provenance.median_abs_err,
            one.provenance.p90_abs_err,
            one.provenance.nearest_median_abs_err,
            one.provenance.nearest_p90_abs_err,
            one.misses,
            one.beyond_nearest,
            before.median_abs_err if before else None,
            before.p90_abs_err if before else None,
        )


def _table(lines: Sequence[Line], report: bool) -> str:
    head = ["chip", "op", "format", "library", "label", "rows", "median", "P90", "nearest", "P90", "misses"]
    cells = [
        [
            line.chip, line.op, line.format, line.library, line.label, f"{line.rows:,}",
            _percent(line.median_abs_err), _percent(line.p90_abs_err), _percent(line.nearest_median_abs_err),
            _percent(line.nearest_p90_abs_err), line.misses,
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
        Path,
        typer.Argument(
            parser=shared.file, metavar="CASES.csv", help="measured runs; split 'fit' is fitted on"
        ),
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
        shared.say(text, err=True)

    try:
        unread: list[str] = []
        rows = whole_step.collect(read_cases(cases, unread))
        shared.say_unread(unread)
        if not rows:
            raise shared.Mistake(
                f"{cases}: no row to fit on; it needs split 'fit', quality A or B, and a run that can be predicted"
            )
        shared.say(f"{len(rows)} rows of the fit share", err=True)
        result = whole_step.fit(rows, progress)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"after {len(sweeps)} sweeps; nothing is written") from None
    shared.say(_numbers_json(result) if as_json else _numbers(result, whole_step.LEAST_ROWS))
    if write is not None:
        for path in whole_step.write(result, write):
            shared.say(f"wrote {path}", err=True)


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


@app.command()
def mixed(
    timings: Annotated[
        Path | None,
        typer.Argument(
            parser=shared.file,
            metavar="TIMINGS.csv",
            help="columns chip, num_heads, num_key_value_heads, head_dim, requests, kv_tokens, latency_us; without it "
            "those that the catalog holds",
        ),
    ] = None,
    chip: Annotated[
        str | None,
        typer.Option("--chip", metavar="NAME", help="fit on this chip alone; all others are unseen"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Fit decodes that share a kernel with prefills (FlashAttention 2); errors are of rows held out."""
    from ridgeline.calibrate.columns import CaseError
    from ridgeline.calibrate.mixed_fit import FILE, fit, read
    from ridgeline.facts.catalog import CatalogError
    from ridgeline.timing.tiled import TIMED

    try:
        numbers, errors = fit(read(timings or FILE), chip)
    except (CaseError, CatalogError) as error:
        raise shared.Mistake(str(error)) from None
    if as_json:
        shared.say(
            shared.json_text({"numbers": numbers._asdict(), "unseen": [asdict(one) for one in errors]})
        )
        return
    cells = [
        (name, f"{found:.4g}", f"{known:.4g}")
        for name, found, known in zip(numbers._fields, numbers, TIMED, strict=True)
    ]
    shared.say("\n".join(shared.columns(("number", "fitted", "shipped"), cells, 1)) + "\n")
    head = ("chip", "heads", "KV heads", "unseen rows", "median", "P90", "shipped: median", "P90")
    lines = [
        (
            one.chip, str(one.heads), str(one.kv_heads), str(one.rows), f"{one.median_abs_err:.1%}",
            f"{one.p90_abs_err:.1%}", f"{one.shipped_median_abs_err:.1%}", f"{one.shipped_p90_abs_err:.1%}",
        )
        for one in errors
    ]  # fmt: skip
    shared.say("\n".join(shared.columns(head, lines, 1)))
