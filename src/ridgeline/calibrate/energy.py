"""Energy of one chip from its data sheet and the rate it sustains at its power cap."""

from __future__ import annotations

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import EnergyFit, Provenance
from ridgeline.facts.observation import Label

#: Power of a clocked chip that runs nothing, over TDP: 70-120 W of 700 W idle, and the clock tree under load.
STATIC_SHARE = 0.17
#: Device memory, one byte at the pins and through controller and chip network [J/byte]: 3.9 pJ/bit for HBM2
#: (O'Connor et al., MICRO 2017), 3.5-4 for HBM3 and HBM3e, 7-8 for GDDR, and up to as much again on chip.
MEMORY_JOULES_PER_BYTE = {"HBM": 5.5e-11, "GDDR": 9.0e-11}
#: One byte over the scale-up link, both ends [J/byte]: 1.3 pJ/bit for short electrical links (NVLink-C2C) to
#: 10 pJ/bit with switch and retimers.
LINK_JOULES_PER_BYTE = 6.0e-11
#: Share of the bandwidth that a large matrix product draws while it runs.
PRODUCT_TRAFFIC = 0.25
#: Large products in bf16, measured over data sheet: public sustained-matmul search (ml-engineering).
SUSTAINED = {
    "a100-80gb-sxm": 0.869, "h100-sxm": 0.803, "h200-sxm": 0.803, "b200-sxm": 0.776, "b300-sxm": 0.786,
    "gb200": 0.729, "mi300x": 0.511, "mi325x": 0.600, "mi355x": 0.622, "gaudi2": 0.969, "gaudi3": 0.741,
    "tpu-v7": 0.829,
}  # fmt: skip
TYPICAL_SUSTAINED = 0.8
#: Energy of a FLOP relative to bf16: operands and multipliers shrink, accumulators do not; as sustained rates
#: at one power cap show (H100 fp8 over bf16 1.77, B200 1.97).
RELATIVE_FLOP = {
    "fp32": 4.0, "tf32": 2.0, "bf16": 1.0, "fp16": 1.0, "fp8": 0.56, "mxfp8": 0.56, "int8": 0.5, "mxfp6": 0.5,
    "nvfp4": 0.33, "mxfp4": 0.33,
}  # fmt: skip


def energy_fit(chip: Chip) -> EnergyFit:
    """Static power, and joules per FLOP such that a large bf16 product at its sustained rate draws the TDP.

    ``joules_per_flop = (tdp - static - 0.25 bandwidth joules_per_byte) / (sustained share x peak)``
    """
    static = STATIC_SHARE * chip.tdp
    per_byte = MEMORY_JOULES_PER_BYTE["GDDR" if chip.memory.kind.startswith("GDDR") else "HBM"]
    dynamic = chip.tdp - static - PRODUCT_TRAFFIC * chip.memory.bandwidth * per_byte
    base = "bf16" if "bf16" in chip.matrix else "fp16"
    flop = dynamic / (SUSTAINED.get(chip.name, TYPICAL_SUSTAINED) * chip.matrix[base])
    return EnergyFit(
        static=f"{static!r} W",
        joules_per_flop={name: flop * RELATIVE_FLOP[name] for name in chip.matrix if name in RELATIVE_FLOP},
        joules_per_byte=per_byte,
        joules_per_link_byte=LINK_JOULES_PER_BYTE,
        provenance=Provenance(
            label=Label.TRANSFERRED,
            source="data-sheet TDP at the sustained bf16 rate; memory energy of O'Connor et al. (MICRO 2017) "
            "and vendor statements; not metered on this chip",
        ),
    )
