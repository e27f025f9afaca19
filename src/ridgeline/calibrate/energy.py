"""Energy of one chip from its data sheet and the rates it sustains at its power limit."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ridgeline.calibrate.gemm_fit import gemm_rates_of
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import EnergyFit, GemmFit, Provenance
from ridgeline.facts.observation import Label
from ridgeline.timing.gemm import gemm_flops, gemm_seconds

#: Power of a clocked chip that runs nothing, over TDP: 70-120 W of 700 W idle, and the clock tree under load.
STATIC_SHARE = 0.20
#: Device memory, one byte at the pins and through controller and chip network [J/byte]: 3.9 pJ/bit for HBM2
#: (O'Connor et al., MICRO 2017), 3.5-4 for HBM3 and HBM3e, 7-8 for GDDR, and up to as much again on chip.
MEMORY_JOULES_PER_BYTE = {"HBM": 5.5e-11, "GDDR": 9.0e-11}
#: One byte over the scale-up link, both ends [J/byte]: 1.3 pJ/bit for short electrical links (NVLink-C2C) to
#: 10 pJ/bit with switch and retimers.
LINK_JOULES_PER_BYTE = 6.0e-11
#: Share of the bandwidth that a large matrix product draws while it runs.
PRODUCT_TRAFFIC = 0.25
#: Sides of the products that are taken as sustained load.
LARGE = np.array([4096.0, 8192.0, 16384.0])
#: Energy of a FLOP over that of bf16 where the format has no fit: operands and multipliers shrink,
#: accumulators do not; as sustained rates at one power limit show (H100 fp8 over bf16 1.77, B200 1.97).
RELATIVE_FLOP = {
    "fp32": 4.0, "tf32": 2.0, "bf16": 1.0, "fp16": 1.0, "fp8": 0.56, "mxfp8": 0.56, "int8": 0.5, "mxfp6": 0.5,
    "nvfp4": 0.33, "mxfp4": 0.33,
}  # fmt: skip


def sustained_flops_per_s(chip: Chip, fit: GemmFit, format_name: str) -> float:
    """Rate of the best large product by the timing formula [FLOP/s]: that one meets the power limit."""
    m, n, k = (side.ravel() for side in np.meshgrid(LARGE, LARGE, LARGE))
    seconds = gemm_seconds(m, n, k, 1.0, gemm_rates_of(fit, chip, format_name))
    return float(np.max(gemm_flops(m, n, k) / seconds))


def energy_fit(chip: Chip, gemm: Mapping[str, GemmFit]) -> EnergyFit:
    """Static power, and joules per FLOP such that a large product at its sustained rate draws the TDP.

    ``joules_per_flop = (tdp - static - 0.25 bandwidth joules_per_byte) / sustained rate`` per fitted format,
    since the power limit is what sets that rate on most chips. Other formats follow bf16 by `RELATIVE_FLOP`.
    """
    static = STATIC_SHARE * chip.tdp
    per_byte = MEMORY_JOULES_PER_BYTE["GDDR" if chip.memory.kind.startswith("GDDR") else "HBM"]
    dynamic = chip.tdp - static - PRODUCT_TRAFFIC * chip.memory.bandwidth * per_byte
    joules = {name: dynamic / sustained_flops_per_s(chip, fit, name) for name, fit in gemm.items()}
    base = joules["bf16"]
    relatives = {name: base * share for name, share in RELATIVE_FLOP.items() if name in chip.matrix}
    return EnergyFit(
        static=f"{static!r} W",
        joules_per_flop=relatives | joules,
        joules_per_byte=per_byte,
        joules_per_link_byte=LINK_JOULES_PER_BYTE,
        provenance=Provenance(
            label=Label.TRANSFERRED,
            source="data-sheet TDP at the sustained product rate; memory energy of O'Connor et al. "
            "(MICRO 2017) and vendor statements; not metered on this chip",
        ),
    )
