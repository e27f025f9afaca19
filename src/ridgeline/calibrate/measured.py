"""Chips without kernel tables: a relative's calibration with the one rate that was measured, large products.

Everything but the products' rate (and the attention rate, which follows it) is the relative's share of the
data sheet, labelled transferred.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ridgeline.calibrate.energy import energy_fit, sustained_flops_per_s
from ridgeline.facts import catalog, transfer
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import AttentionFit, GemmFit, KernelCalibration, Provenance
from ridgeline.facts.observation import Label

#: L2 over memory bandwidth that never limits a product.
NOT_BINDING = 30.0
#: Tile area at which half of the rate is reached, so small that tiles never limit a product.
ANY_TILE = 10.0
#: Start and end of a wave of tiles where the relative needs longer, as A100 does.
SHORT_RAMP_S = 3e-7

#: Parts of a calibration that are fused attention.
ATTENTION = ("attention", "decode", "latent", "latent_decode")


def measured_chips(tabled: Collection[str]) -> list[Chip]:
    """Chips of the catalog with measured products but no kernel table, each after the relative it leans on."""
    chips = [catalog.chip(name) for name in catalog.readable("chips") if name not in tabled]
    found = {chip.name: chip for chip in chips if chip.products}

    def depth(chip: Chip) -> int:
        """Measured relatives between the chip and one with tables."""
        relative = found.get(chip.relative or "")
        return 0 if relative is None else 1 + depth(relative)

    return sorted(found.values(), key=depth)


def from_measured(
    relative: KernelCalibration, donor: Chip, chip: Chip, measured: Mapping[str, float], source: str
) -> KernelCalibration:
    """The relative's calibration with the rate of products scaled so that a large one meets ``measured``.

    A format without a measurement takes the bf16 ratio to the relative. The attention rate takes it
    too, where it is below one: a chip that loses on products loses the same on attention, but nothing says it
    wins.

    Raises:
        ValueError: ``measured`` has no bf16 rate, or one that the data sheet cannot hold.
    """
    if "bf16" not in measured:
        raise ValueError(
            f"{chip.name}: the bf16 rate must be among the measured ones, got {sorted(measured)}"
        )
    base = transfer.kernels(relative, donor, chip)
    for name, rate in measured.items():
        if name in chip.matrix and not 0 < rate <= chip.matrix[name]:
            raise ValueError(f"{chip.name}: measured {name} rate {rate:g} is not within the data sheet's")
    ratio = measured["bf16"] / sustained_flops_per_s(chip, base.gemm["bf16"], "bf16")
    gemm = {
        name: _scaled(chip, base.gemm.get(name, base.gemm["bf16"]), name, measured.get(name), ratio, source)
        for name in ("bf16", "fp8")
        if name in measured or (name in base.gemm and name in chip.matrix)
    }
    slower = min(1.0, ratio)
    attention: dict[str, dict[str, AttentionFit]] = {
        part: {name: _attention(fit, slower) for name, fit in getattr(base, part).items()}
        for part in ATTENTION
    }
    return base.model_copy(
        update={
            **attention,
            "gemm": gemm,
            "energy": energy_fit(chip, gemm),
        }
    )


def _scaled(
    chip: Chip, fit: GemmFit, name: str, measured: float | None, ratio: float, source: str
) -> GemmFit:
    """``fit`` with its rate moved until a large product runs at ``measured``, or by ``ratio``."""
    target = measured or ratio * sustained_flops_per_s(chip, fit, name)
    # The cache and the tiles of another design are unknown; its rate with them included is what was measured.
    fit = fit.model_copy(update={"l2": NOT_BINDING, "ramp": min(fit.ramp, SHORT_RAMP_S), "tile": ANY_TILE})
    for _ in range(20):  # launch, ramps and the softened maximum make it slightly less than proportional
        fit = fit.model_copy(update={"rate": fit.rate * target / sustained_flops_per_s(chip, fit, name)})
    what = f"rate from {source}" if measured else f"rate by the bf16 ratio, {source}"
    return fit.model_copy(
        update={"provenance": Provenance(label=Label.TRANSFERRED, source=f"{what}; {fit.provenance.source}")}
    )


def _attention(fit: AttentionFit, ratio: float) -> AttentionFit:
    source = f"rate times the ratio of large products ({ratio:.2f}); {fit.provenance.source}"
    provenance = Provenance(label=Label.TRANSFERRED, source=source)
    return fit.model_copy(update={"rate": fit.rate * ratio, "provenance": provenance})
