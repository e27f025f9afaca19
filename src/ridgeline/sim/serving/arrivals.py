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

#: Arrivals that are inverted together: their arrays stay in a cache; and points of a period they start from.
BLOCK, TABLE = 1 << 15, 2049

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
    """From a table of one period by Newton's steps, and by halves where one leaves the bracket: to the last bits."""
    wave, rate, swing = 2.0 * math.pi / arrivals.period_s, arrivals.rate_per_s, arrivals.swing
    high = expected / rate
    low = high - 2.0 * swing / wave
    grid = np.linspace(0.0, arrivals.period_s, TABLE)
    past, rest = np.divmod(expected, rate * arrivals.period_s)
    table = rate * (grid + swing / wave * (1.0 - np.cos(wave * grid)))
    at = past * arrivals.period_s + np.interp(rest, table, grid)
    close = 4.0 * np.spacing(expected)
    for _ in range(60):
        phase = wave * at
        off = rate * (at + swing / wave * (1.0 - np.cos(phase))) - expected
        if (np.abs(off) <= close).all():
            break
        low, high = np.where(off < 0.0, at, low), np.where(off < 0.0, high, at)
        with np.errstate(divide="ignore", invalid="ignore"):  # at full swing the rate is zero once a period
            near = at - off / (rate * (1.0 + swing * np.sin(phase)))
        at = np.where((near >= low) & (near <= high), near, (low + high) / 2.0)
    return at
