"""Spread: mean and percentiles of many values, or of values that are only counted. Percentiles are NumPy's linear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_SHARES = np.array([0.5, 0.9, 0.95, 0.99])


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and percentiles, in the unit of the values."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


def spread_of(values: NDArray[np.floating] | NDArray[np.integer]) -> Spread | None:
    """Spread of ``values`` ``[n]``; None where there are none."""
    if not values.size:
        return None
    return Spread(float(np.mean(values)), *np.quantile(values, _SHARES).tolist())


def counted_spread(low: FloatArray, high: FloatArray, counts: NDArray[np.int64]) -> Spread | None:
    """Spread of ``counts[i]`` values that lie evenly between ``low[i]`` and ``high[i]``, ascending.

    Exact where ``low`` equals ``high``, else within the width of a bin; None where nothing is counted.
    """
    total = int(counts.sum())
    if not total:
        return None
    mean = float(np.sum(counts * (low + high)) / 2.0 / total)
    ends = np.cumsum(counts)

    def ranked(rank: FloatArray) -> FloatArray:
        """The value of a whole ``rank`` from 0."""
        at = np.searchsorted(ends, rank, side="right")
        within = (rank - (ends - counts)[at] + 0.5) / counts[at]
        return np.asarray(low[at] + (high - low)[at] * within)

    ranks = _SHARES * (total - 1)
    below, above = ranked(np.floor(ranks)), ranked(np.ceil(ranks))
    return Spread(mean, *(below + (above - below) * (ranks % 1.0)).tolist())
