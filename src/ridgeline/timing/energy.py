"""Energy of a step and the clock a power cap leaves."""

from __future__ import annotations

import numpy as np

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import EnergyFit
from ridgeline.timing.rates import OPERANDS, Array, Numeric


def joules_per_flop(fit: EnergyFit, format_name: str) -> float:
    """Dynamic energy of one matrix FLOP [J]: the format's own, or its nearest relative's."""
    for name in (format_name, *OPERANDS[format_name].relatives):
        if name in fit.joules_per_flop:
            return fit.joules_per_flop[name]
    return next(iter(fit.joules_per_flop.values()))


def chip_joules(
    fit: EnergyFit,
    seconds: Numeric,
    flop_joules: Numeric,
    memory_bytes: Numeric,
    link_bytes: Numeric,
) -> Array:
    """Energy of one chip over ``seconds`` [J]: static power and activity.

    ``flop_joules`` is the sum over formats of FLOPs x joules per FLOP.
    """
    dynamic = (
        flop_joules
        + fit.joules_per_byte * np.asarray(memory_bytes)
        + fit.joules_per_link_byte * np.asarray(link_bytes)
    )
    return np.asarray(fit.static * np.asarray(seconds) + dynamic)


def power_stretch(chip: Chip, fit: EnergyFit, busy_s: Numeric, dynamic_joules: Numeric) -> Array:
    """By how much compute slows so that a busy chip stays within its power cap, at least 1.

    While busy a chip draws ``P = static + E / t``. Voltage falls with the clock, so dynamic power goes with its cube
    and energy per operation with its square: running ``x`` times longer draws ``static + E / (t x^3)``. The cap
    holds for ``x = (E / t / (TDP - static))^(1/3)``, the fixed point of clock, power and time.
    """
    room = max(chip.tdp - fit.static, 1.0)
    power = np.asarray(dynamic_joules) / np.maximum(np.asarray(busy_s), 1e-12)
    return np.asarray(np.maximum(np.cbrt(power / room), 1.0))
