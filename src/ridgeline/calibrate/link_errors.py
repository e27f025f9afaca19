"""Errors of shipped link fits on sizes held out of them, and what they are meant to reach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ridgeline.calibrate.markdown import percent, table
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.facts.observation import Label

#: Median and P90 that a fit inside a scale-up domain is meant to keep within.
TARGET = (0.06, 0.20)
#: Median that achieved bandwidth between nodes is meant to keep within; it has no P90.
TARGET_BETWEEN_NODES = (0.15, None)


@dataclass(frozen=True, slots=True)
class Held:
    """One fit: chip, tier (``scale_up`` or ``scale_out``) and collective, with its provenance."""

    chip: str
    tier: str
    op: str
    provenance: Provenance

    @property
    def misses(self) -> str:
        """What it misses of median and P90, in words; empty where it keeps both or has no error."""
        found = self.provenance
        targets = TARGET if self.tier == "scale_up" else TARGET_BETWEEN_NODES
        missed = [
            name
            for name, error, target in zip(
                ("median", "P90"), (found.median_abs_err, found.p90_abs_err), targets, strict=True
            )
            if error is not None and target is not None and error > target
        ]
        return " and ".join(missed)


def held(links: LinkCalibration) -> Iterator[Held]:
    """Every fit of a calibration that was made on rows."""
    for tier, fits in (("scale_up", links.scale_up), ("scale_out", links.scale_out)):
        for op, fit in fits.items():
            if fit.provenance.rows:
                yield Held(links.chip, tier, op, fit.provenance)


def link_errors() -> str:
    """The part of the accuracy page on collectives: held-out errors by collective and chip, targets missed."""
    every = [
        one
        for chip in catalog.readable("links")
        for one in held(catalog.link_calibration(chip))
        if one.provenance.median_abs_err is not None
    ]
    inside = [one for one in every if one.tier == "scale_up" and one.provenance.label == Label.FITTED]
    chips = list(dict.fromkeys(one.chip for one in inside))
    rows = [
        [f"`{op}`", *(_cell([one for one in inside if (one.op, one.chip) == (op, chip)]) for chip in chips)]
        for op in dict.fromkeys(one.op for one in inside)
    ]
    missed = [one for one in inside if one.misses]
    kept = len(inside) - len(missed)
    median, ninth = TARGET
    return f"""Collectives on 2 to 8 chips of a scale-up domain: a fit per chip on seven of ten sizes, median / P90 of
the errors on the other three; `all_reduce_in_network` has four rows and is judged by leaving one out. Wanted
{percent(median)} / {percent(ninth)}: {kept} of {len(inside)} fits keep both.{_named(missed)}

{table(["collective", *chips], rows)}

{_between_nodes([one for one in every if one.tier == "scale_out"])}"""


def _cell(fits: Sequence[Held]) -> str:
    """Median and P90 of one fit, bold where it misses."""
    if not fits:
        return ""
    found = fits[0].provenance
    text = f"{percent(found.median_abs_err)} / {percent(found.p90_abs_err)}"
    return f"**{text}**" if fits[0].misses else text


def _named(missed: Sequence[Held]) -> str:
    names = "; ".join(f"`{one.op}` of {one.chip} ({one.misses})" for one in missed)
    return f" Bold ones do not: {names}." if missed else ""


def _between_nodes(fits: Sequence[Held]) -> str:
    """One sentence for each collective: every chip shares its fit."""
    first = {one.op: one for one in reversed(fits)}
    errors = "; ".join(
        f"`{op}` {percent(one.provenance.median_abs_err)} / {percent(one.provenance.p90_abs_err)}"
        for op, one in sorted(first.items())
    )
    return f"""Achieved bandwidth between 2 to 128 nodes, median / P90 on three of ten rows held out of tables that name
no machine (wanted {percent(TARGET_BETWEEN_NODES[0])} in the median): {errors}. Every chip takes these fits, labelled
transferred."""
