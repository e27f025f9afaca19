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
    limit: float,
) -> Array:
    """Energy of one chip over ``seconds`` [J]: static power and activity, at most its power ``limit`` [W] all the time.

    ``flop_joules`` is the sum over formats of FLOPs x joules per FLOP. Activity that would take more than the limit
    (streams of a chip that stays at its limit in spite of `power_stretch`) would slow down; its time is not changed
    here, but no energy is counted that the chip cannot draw.
    """
    dynamic = (
        flop_joules
        + fit.joules_per_byte * np.asarray(memory_bytes)
        + fit.joules_per_link_byte * np.asarray(link_bytes)
    )
    return np.minimum(fit.static * np.asarray(seconds) + dynamic, limit * np.asarray(seconds))


#: Dynamic power goes with clock x voltage^2. Between 0.6 and 1.0 of the boost clock voltage falls about as
#: (clock)^0.75 on current parts, so power goes as clock^2.5 and the energy of one operation as clock^1.5.
CLOCK_POWER = 2.5


def power_stretch(
    chip: Chip,
    fit: EnergyFit,
    matrix_s: Numeric,
    matrix_joules: Numeric,
    other_s: Numeric,
    other_joules: Numeric,
) -> Array:
    """By how much matrix kernels slow down so that a busy chip stays within its power cap, at least 1.

    The fixed point of clock, power and time: at ``1/x`` of the clock the matrix kernels take ``x matrix_s`` and
    ``matrix_joules x^-1.5``; memory-bound time and its energy stay. The cap holds where::

        static + (matrix_joules x^-1.5 + other_joules) / (x matrix_s + other_s) = TDP

    Newton from x = 1: the left side is convex and falls with x, so five steps from the left converge.
    Arguments are of one micro-batch on one chip, [s] and [J], floats or arrays of one shape.
    """
    room = max(chip.tdp - fit.static, 1.0)
    tm, ts = np.asarray(matrix_s, dtype=np.float64), np.asarray(other_s, dtype=np.float64)
    em, es = np.asarray(matrix_joules, dtype=np.float64), np.asarray(other_joules, dtype=np.float64)
    x = np.ones(np.broadcast_shapes(tm.shape, ts.shape, em.shape, es.shape))
    energy_power = CLOCK_POWER - 1.0
    for _ in range(5):
        shrunk = em * x**-energy_power
        excess = shrunk + es - room * (tm * x + ts)
        slope = -energy_power * shrunk / x - room * tm
        x = np.maximum(x - excess / np.minimum(slope, -1e-30), 1.0)
    return np.asarray(x)
