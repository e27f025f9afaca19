"""Errors of shipped kernel fits on shapes held out of them, and what they are meant to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.calibrate.markdown import percent, table
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import KernelSet, Provenance

#: Parts of a calibration and the operators that `validate` calls them.
OPS = {
    "gemm": "gemm", "attention": "attention_prefill", "decode": "attention_decode", "latent": "mla_prefill",
    "latent_decode": "mla_decode", "grouped": "moe",
}  # fmt: skip
#: Median and P90 that a fit is meant to keep within.
TARGETS = {
    "gemm": (0.04, 0.12), "attention_prefill": (0.05, 0.15), "attention_decode": (0.05, 0.15),
    "mla_prefill": (0.06, 0.18), "mla_decode": (0.06, 0.18), "moe": (0.07, 0.22), "moe_skewed": (0.07, 0.22),
}  # fmt: skip
#: Where the nearest timed shapes are further off than the target, a fit may be this much worse than they.
ABOVE_NEAREST = 1.3


@dataclass(frozen=True, slots=True)
class Held:
    """One fit: operator, chip, format and library, with its provenance."""

    op: str
    chip: str
    format: str
    library: str
    provenance: Provenance

    @property
    def misses(self) -> str:
        """What it misses of median and P90, in words; empty where it keeps both.

        Products alone may be `ABOVE_NEAREST` times as far off as the nearest timed shapes.
        """
        return self._over(spared=self.op == "gemm")

    @property
    def beyond_nearest(self) -> str:
        """What it would miss if all operators were measured by their nearest shapes, as products are: no target."""
        return self._over(spared=True)

    def _over(self, *, spared: bool) -> str:
        found = self.provenance
        errors = (found.median_abs_err, found.p90_abs_err)
        floors = (found.nearest_median_abs_err, found.nearest_p90_abs_err)
        missed = [
            name
            for name, error, target, floor in zip(
                ("median", "P90"), errors, TARGETS[self.op], floors, strict=True
            )
            if error is not None and error > max(target, ABOVE_NEAREST * (floor or 0.0) * spared)
        ]
        return " and ".join(missed)


def held(chip: str, own: KernelSet, others: Mapping[str, KernelSet]) -> Iterator[Held]:
    """Every fit of a chip that has an error, its own first."""
    for library, fits in (("", own), *others.items()):
        for part, op in OPS.items():
            for name, fit in getattr(fits, part).items():
                speaks = fit.provenance.library or library or "(transferred)"
                skewed: Provenance | None = getattr(fit, "skewed_provenance", None)
                if skewed is None or fit.surface is not None:  # without a surface there were no balanced rows
                    yield Held(op, chip, name, speaks, fit.provenance)
                if skewed is not None:
                    yield Held(f"{op}_skewed", chip, name, speaks, skewed)


def shipped(chip: str) -> list[Held]:
    """Fits of the catalog for one chip."""
    return list(held(chip, catalog.calibration(chip).kernels, catalog.libraries(chip)))


def kernel_errors() -> str:
    """The part of the accuracy page on kernels: errors by operator and chip, and every target missed."""
    found = [
        one
        for chip in catalog.readable("libraries")
        for one in shipped(chip)
        if one.provenance.median_abs_err is not None
    ]
    chips = sorted({one.chip for one in found})
    rows = []
    for op, (median, ninth) in TARGETS.items():
        cells = [op, f"{median:.0%} / {ninth:.0%}"]
        for chip in chips:
            cells.append(_kept([one for one in found if (one.op, one.chip) == (op, chip)]))
        cells.append(_kept([one for one in found if one.op == op]))
        rows.append(cells)
    missed = [
        [
            one.op, one.chip, one.format, one.library, str(one.provenance.rows),
            percent(one.provenance.median_abs_err), percent(one.provenance.p90_abs_err),
            percent(one.provenance.nearest_median_abs_err), percent(one.provenance.nearest_p90_abs_err), one.misses,
            "" if one.beyond_nearest else "yes",
        ]
        for one in sorted(found, key=lambda one: (list(TARGETS).index(one.op), one.chip, one.format))
        if one.misses
    ]  # fmt: skip
    headers = ["operator", "chip", "format", "library", "rows", "median", "P90"]
    headers += ["nearest shapes: median", "P90", "missed", f"within {ABOVE_NEAREST} of them"]
    near = sum(bool(one.misses) and not one.beyond_nearest for one in found)
    return f"""Kernels: a fit per chip, number format and library on seven of ten shapes, errors on the other three.
A cell is the median of the fits' median errors, and how many of them keep the target of median and P90; its last line
is the same median of the **nearest shapes**: what the three nearest timed shapes say of a held-out one, scaled by the
roofline (products) or by the formula without its correction (all others). It tells noise and changes of kernel from a
lack of the model. A product whose nearest shapes are further off than the target may be {ABOVE_NEAREST} times that.
Fits, {len(found)} in all: {len(found) - len(missed)} keep their targets, and {near} of the others, all operators taken
as products are, would be within {ABOVE_NEAREST} times their nearest shapes. The held-out shapes inform no number; how
fine the grids are was chosen with their errors in view.

{table(["operator", "target", *chips, "all"], rows)}

The {len(missed)} that do not. Expert layers: whole sweeps of some libraries run three to four times slower than the
same layer with more experts on a rank, as an engine does that falls back to an untuned kernel; no size tells which.
Decode: engines switch between kernels by rules of their own (split keys, tiles of query heads) between two nodes.

{table(headers, missed)}"""


def _kept(fits: Sequence[Held]) -> str:
    """Median of the median errors of some fits, and how many keep their target."""
    if not fits:
        return ""
    middle = float(np.median([one.provenance.median_abs_err or 0.0 for one in fits]))
    floors = [floor for one in fits if (floor := one.provenance.nearest_median_abs_err) is not None]
    nearest = f"<br>nearest {percent(float(np.median(floors)))}" if floors else ""
    return f"{percent(middle)} ({sum(not one.misses for one in fits)} of {len(fits)}){nearest}"
