"""Scores: how far predictions are from measurements. Plain arithmetic on arrays; no files, no predictor.

An error is ``predicted / measured - 1`` of the step time, so +0.10 is a run predicted 10 % too slow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

T = TypeVar("T")
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Score:
    """Errors of a set of rows; ``None`` where no row was predicted."""

    n: int
    covered: int
    median_abs_err: float | None
    p90_abs_err: float | None
    bias: float | None  # median signed error
    macro_abs_err: float | None  # median over families of each family's median
    spearman: float | None  # of throughput per chip; needs three rows
    interval_coverage: float | None  # share of measurements inside low..high
    interval_width: float | None  # median of (high - low) / predicted

    def to_dict(self) -> dict[str, Any]:
        """The score as plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def score(
    measured: ArrayLike,
    predicted: ArrayLike,
    *,
    low: ArrayLike | None = None,
    high: ArrayLike | None = None,
    families: Sequence[Hashable] | None = None,
    work: ArrayLike | None = None,
) -> Score:
    """Score step times [s], arrays ``[rows]``; a prediction of NaN counts as not covered.

    ``work`` is tokens per step and chip: rows are ranked by ``work / time``, without it by time alone.
    """
    measured_s, predicted_s = _floats(measured), _floats(predicted)
    known = np.isfinite(predicted_s)
    n, covered = int(measured_s.size), int(known.sum())
    if not covered:
        return Score(n, 0, None, None, None, None, None, None, None)
    error = predicted_s[known] / measured_s[known] - 1.0
    tokens = np.ones(n) if work is None else _floats(work)
    inside, width = None, None
    if low is not None and high is not None:
        low_s, high_s = _floats(low)[known], _floats(high)[known]
        inside = float(np.mean((low_s <= measured_s[known]) & (measured_s[known] <= high_s)))
        width = float(np.median((high_s - low_s) / predicted_s[known]))
    macro = None
    if families is not None:
        named = [family for family, is_known in zip(families, known, strict=True) if is_known]
        macro = macro_median(np.abs(error), named)
    rates = (tokens / measured_s)[known], (tokens / predicted_s)[known]
    return Score(
        n=n,
        covered=covered,
        median_abs_err=float(np.median(np.abs(error))),
        p90_abs_err=float(np.quantile(np.abs(error), 0.9)),
        bias=float(np.median(error)),
        macro_abs_err=macro,
        spearman=spearman(*rates),
        interval_coverage=inside,
        interval_width=width,
    )


def macro_median(values: ArrayLike, groups: Sequence[Hashable]) -> float:
    """Median over groups of each group's median: many rows of one family count once."""
    parts = grouped(zip(groups, _floats(values), strict=True))
    return float(np.median([float(np.median(part)) for part in parts.values()]))


def grouped(pairs: Iterable[tuple[Hashable, T]]) -> dict[Hashable, list[T]]:
    """Values by key, keys in order of appearance."""
    found: dict[Hashable, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def spearman(x: ArrayLike, y: ArrayLike) -> float | None:
    """Rank correlation with mean ranks for ties; None under three rows or where one side is constant."""
    a, b = ranks(x), ranks(y)
    if a.size < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def ranks(values: ArrayLike) -> Floats:
    """Ranks from 0, ties share their mean rank; shape ``[rows]``."""
    _, inverse, counts = np.unique(_floats(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean: Floats = (ends - 1) - (counts - 1) / 2.0
    return mean[inverse]


def regret(measured: ArrayLike, predicted: ArrayLike) -> float:
    """What trusting predictions costs: measured time of the plan predicted fastest over the best, less 1."""
    measured_s = _floats(measured)
    return float(measured_s[int(np.argmin(_floats(predicted)))] / measured_s.min() - 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """``T = slope x + intercept`` through runs that differ in the number of micro-batches [s]."""

    slope: float
    intercept: float
    residual: float  # largest relative distance of a run from the line
    slope_error: float  # standard errors, if each run scatters by `NOISE`
    intercept_error: float


#: Relative scatter of one configuration between independent submitters: 2 to 3 % in MLPerf Training.
NOISE = 0.02


def line(x: ArrayLike, seconds: ArrayLike) -> Line:
    """Least relative squares of ``seconds`` over ``x``, arrays ``[runs]`` with two or more different x."""
    times = _floats(seconds)
    design = np.stack([_floats(x), np.ones(times.size)], axis=1) / times[:, None]
    (slope, intercept), *_ = np.linalg.lstsq(design, np.ones(times.size), rcond=None)
    residual = float(np.max(np.abs(design @ np.array([slope, intercept]) - 1.0)))
    errors = NOISE * np.sqrt(np.diag(np.linalg.inv(design.T @ design)))
    return Line(float(slope), float(intercept), residual, float(errors[0]), float(errors[1]))


def by(rows: Sequence[T], keys: Sequence[str]) -> Mapping[str, list[T]]:
    """Rows by key, the most frequent key first; rows without a key are left out."""
    found: dict[str, list[T]] = {}
    for key, row in zip(keys, rows, strict=True):
        if key:
            found.setdefault(key, []).append(row)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def finite(value: float | None) -> float | None:
    """``value``, with NaN and infinity as None: JSON has neither."""
    return value if value is not None and math.isfinite(value) else None


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
