"""Arrival times ``[n]`` in seconds, ascending, of every kind of `ridgeline.facts.traffic.Arrivals`.

A Poisson process of changing rate ``r(t)`` is one of rate 1 in the time ``m(t) = integral of r``: its arrivals are
``m^-1`` of sums of unit exponentials (Devroye, Non-Uniform Random Variate Generation, 1986, VI.1.3).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.traffic import (
    AtOnce,
    Bursts,
    Closed,
    Diurnal,
    Gamma,
    Poisson,
    Ramp,
    Steady,
)

#: Arrivals that are bisected together: their arrays stay in a cache.
BLOCK = 1 << 15

FloatArray = NDArray[np.float64]
Kind = Poisson | Gamma | Steady | Bursts | Ramp | Diurnal | AtOnce | Closed


def arrival_times(arrivals: Kind, count: int, rng: np.random.Generator) -> FloatArray:
    """``count`` arrivals from time 0."""
    match arrivals:
        case AtOnce() | Closed():
            return np.zeros(count)
        case Steady():
            return np.arange(count) / arrivals.rate_per_s
        case Gamma():
            shape = arrivals.cv**-2
            return np.cumsum(rng.gamma(shape, 1.0 / (shape * arrivals.rate_per_s), count))
    expected = np.cumsum(rng.standard_exponential(count))
    match arrivals:
        case Poisson():
            return expected / arrivals.rate_per_s
        case Bursts():
            return _bursts(arrivals, expected)
        case Ramp():
            return _ramp(arrivals, expected)
        case Diurnal():
            return _diurnal(arrivals, expected)


def _bursts(arrivals: Bursts, expected: FloatArray) -> FloatArray:
    """Time by which ``expected`` arrivals are due."""
    on = arrivals.on_per_s * arrivals.on_s
    cycle = on + arrivals.off_per_s * arrivals.off_s
    past, due = np.divmod(expected, cycle)
    quiet = (due - on) / arrivals.off_per_s if arrivals.off_per_s else np.zeros_like(due)
    within = np.where(due <= on, due / arrivals.on_per_s, arrivals.on_s + quiet)
    return past * (arrivals.on_s + arrivals.off_s) + within


def _ramp(arrivals: Ramp, expected: FloatArray) -> FloatArray:
    """Time by which ``expected`` arrivals are due: a root of a parabola, then a line."""
    start, end, over = arrivals.from_per_s, arrivals.to_per_s, arrivals.over_s
    slope, whole = (end - start) / over, (start + end) / 2.0 * over
    due = np.minimum(expected, whole)
    root = np.sqrt(np.maximum(start**2 + 2.0 * slope * due, 0.0))
    rising = 2.0 * due / (start + root)  # the form that holds for slope 0 too
    return np.where(expected < whole, rising, over + (expected - whole) / end)


def _diurnal(arrivals: Diurnal, expected: FloatArray) -> FloatArray:
    """Time by which ``expected`` arrivals are due."""
    due = np.empty_like(expected)
    for start in range(0, expected.size, BLOCK):
        due[start : start + BLOCK] = _diurnal_block(arrivals, expected[start : start + BLOCK])
    return np.maximum.accumulate(np.maximum(due, 0.0))


def _diurnal_block(arrivals: Diurnal, expected: FloatArray) -> FloatArray:
    """By bisection to the last bits."""
    wave = 2.0 * math.pi / arrivals.period_s
    high = expected / arrivals.rate_per_s
    low = high - 2.0 * arrivals.swing / wave
    for _ in range(60):
        middle = (low + high) / 2.0
        due = arrivals.rate_per_s * (middle + arrivals.swing / wave * (1.0 - np.cos(wave * middle)))
        early = due < expected
        before = low, high
        low, high = np.where(early, middle, low), np.where(early, high, middle)
        if np.array_equal(low, before[0]) and np.array_equal(high, before[1]):
            break  # the last bits are reached: more steps would change nothing
    return high
