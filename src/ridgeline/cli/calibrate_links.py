"""``ridgeline calibrate links``: fit coefficients of collectives to measured tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli import outputs, shared

if TYPE_CHECKING:
    from ridgeline.calibrate.link_tables import Samples, Shares
    from ridgeline.facts.kernel_calibration import Provenance
    from ridgeline.facts.link_calibration import LinkCalibration

TABLE, SHARES = ".parquet", ".csv"
#: Kinds of tables that this verb fits.
LINKS = ("collective", "engine_all_reduce", "expert_parallel")


@dataclass(frozen=True, slots=True)
class Line:
    """One fit: rows it was made on, errors on the sizes held out of it, and those of the catalog's own fit."""

    chip: str
    tier: str
    op: str
    label: str
    source: str
    rows: int
    median_abs_err: float | None
    p90_abs_err: float | None
    misses: str  # what it misses of its target
    catalog_median_abs_err: float | None = None
    catalog_p90_abs_err: float | None = None


def links(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=shared.file,
            metavar="FILES",
            help="parquet tables of collectives, engine all-reduce or expert kernels; .csv shares between nodes",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="folder for CHIP.yaml; without it nothing is written")
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="show the errors of the catalog's own fits beside")
    ] = False,
    as_json: shared.Json = False,
) -> None:
    """Fit collectives and expert kernels per chip; errors are of sizes held out of each fit.

    Without a .csv of shares, or for collectives that no table has, the catalog's coefficients stay.
    """
    from ridgeline.calibrate.links import borrow, derived, fit_each, text
    from ridgeline.facts import catalog

    tables, shares = _tables(files)
    found: dict[str, LinkCalibration] = {}
    counter = shared.Counter("chips fitted")
    stopped = False

    def keep(name: str, fit: LinkCalibration) -> None:
        found[name] = fit
        if out is not None:
            outputs.write_text(out / f"{name}.yaml", text(fit))

    try:
        for fit in fit_each(tables, shares):
            keep(fit.chip, fit)
            counter.add()
    except KeyboardInterrupt:
        stopped = True
    finally:
        counter.wipe()
    own = list(found)
    for name in own:
        keep(name, borrow(found[name], catalog.chip(name), found))
    for name, fit in derived(found).items():
        keep(name, fit)
    lines = [line for name in own for line in _lines(found[name], report)]
    if not stopped or lines:
        shared.say(
            shared.json_text({"fits": [asdict(line) for line in lines]}) if as_json else _table(lines, report)
        )
    if out is not None and found and not as_json:
        shared.say(f"\n{len(found)} files in {out}: {', '.join(sorted(found))}")
    if stopped:
        raise shared.Interrupted(f"{counter}{', files written' if found and out is not None else ''}")


def _tables(files: Sequence[Path]) -> tuple[dict[str, list[Samples]], list[Shares]]:
    """Samples by chip, and shares between nodes."""
    from ridgeline.calibrate.kernel_scores import kind_of
    from ridgeline.calibrate.link_tables import read_shares, read_table

    tables: dict[str, list[Samples]] = {}
    shares: dict[str, Shares] = {}
    keys: dict[tuple[str, str], Path] = {}
    try:
        for path in files:
            ending = path.suffix.lower()
            if ending == SHARES:
                table = read_shares(path)
                if table.inside:
                    raise shared.Mistake(
                        f"{path}: shares of links inside a node; fits between nodes take shares of NICs"
                    )
                if table.key in shares:
                    raise shared.Mistake(
                        f"{path}: a second table of {table.key} between nodes; give one of each"
                    )
                shares[table.key] = table
                continue
            if ending != TABLE:
                raise shared.Mistake(
                    f"{path}: the ending '{ending}' tells no table; choose {TABLE} or {SHARES}"
                )
            if (kind := kind_of(path)) not in LINKS:
                raise shared.Mistake(f"{path}: a table of {kind}; links are fitted to {', '.join(LINKS)}")
            for chip, samples in read_table(path).items():
                for one in samples:
                    if (chip, one.key) in keys:
                        first = keys[chip, one.key]
                        raise shared.Mistake(
                            f"{path}: {one.key} of {chip} stands in {first} too; give one of each"
                        )
                    keys[chip, one.key] = path
                tables.setdefault(chip, []).extend(samples)
    except ImportError as error:  # the optional reader; the message says what to install
        raise shared.Mistake(str(error)) from None
    if not tables:
        raise shared.Mistake(f"{files[0]}: no table of one domain; give a {TABLE} of {', '.join(LINKS)}")
    return tables, list(shares.values())


def _lines(fit: LinkCalibration, report: bool) -> Iterator[Line]:
    from ridgeline.calibrate.link_errors import held

    shipped = _shipped(fit.chip) if report else {}
    for one in held(fit):
        known, provenance = shipped.get((one.tier, one.op)), one.provenance
        yield Line(
            fit.chip,
            one.tier,
            one.op,
            str(provenance.label),
            provenance.source,
            provenance.rows,
            provenance.median_abs_err,
            provenance.p90_abs_err,
            one.misses,
            known.median_abs_err if known else None,
            known.p90_abs_err if known else None,
        )


def _shipped(chip: str) -> dict[tuple[str, str], Provenance]:
    from ridgeline.calibrate.link_errors import held
    from ridgeline.facts import catalog

    known = catalog.entry_path("links", chip) is not None
    return (
        {(one.tier, one.op): one.provenance for one in held(catalog.link_calibration(chip))} if known else {}
    )


def _table(lines: Sequence[Line], report: bool) -> str:
    head = ["chip", "tier", "op", "label", "rows", "median", "P90"]
    cells = [
        [
            line.chip, line.tier, line.op, line.label, f"{line.rows:,}",
            _percent(line.median_abs_err), _percent(line.p90_abs_err),
            *([_percent(line.catalog_median_abs_err), _percent(line.catalog_p90_abs_err)] if report else []),
            line.misses,
        ]
        for line in lines
    ]  # fmt: skip
    return "\n".join(shared.columns([*head, *(["catalog", "P90"] if report else []), "misses"], cells, 4))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
