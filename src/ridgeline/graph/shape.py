"""Shape: the few degrees on which the size of an operator depends, as arrays over distinct combinations.

A grid of a million plans has a few hundred shapes: operators are timed once per shape and looked up by code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.facts.plan import IntArray, Plan, PlanGrid
from ridgeline.graph.ops import FloatArray

AXES = ("tp", "cp", "ep", "etp", "micro_batch")


@dataclass(frozen=True, slots=True)
class Shape:
    """Degrees per distinct shape, float64 ``[shapes]``."""

    tp: FloatArray
    cp: FloatArray
    ep: FloatArray
    etp: FloatArray
    micro_batch: FloatArray
    sequence_parallel: bool

    @property
    def sequence_split(self) -> FloatArray:
        """By how much tokens outside tensor-parallel regions are divided."""
        return self.tp if self.sequence_parallel else np.ones_like(self.tp)

    def at(self, index: int) -> Shape:
        """One shape as plain floats: passes then make floats, which cost a tenth of arrays of one element."""
        one: dict[str, Any] = {name: float(getattr(self, name)[index]) for name in AXES}
        return Shape(**one, sequence_parallel=self.sequence_parallel)


def shapes_of(grid: Plan | PlanGrid) -> tuple[Shape, IntArray]:
    """The distinct shapes of ``grid`` and, for each plan, the code of its shape (int64 ``[plans]``)."""
    axes = [np.atleast_1d(np.asarray(getattr(grid, name))) for name in AXES]
    if axes[0].size == 1:
        picked = axes
        codes = np.zeros(1, dtype=np.int64)
    else:
        # degrees are small: mixed-radix keys keep codes on one integer column, and a bincount-sized table
        # avoids sorting a million rows
        key = np.zeros(axes[0].size, dtype=np.int64)
        span = 1
        for axis in axes:
            values, code = _codes(axis)
            key += code * span
            span *= values
        present = np.zeros(span, dtype=bool)
        present[key] = True
        order = np.cumsum(present) - 1
        codes = order[key]
        first = np.zeros(int(order[-1]) + 1, dtype=np.int64)
        first[codes[::-1]] = np.arange(key.size - 1, -1, -1)
        picked = [axis[first] for axis in axes]
    tp, cp, ep, etp, micro_batch = (axis.astype(np.float64) for axis in picked)
    return Shape(tp, cp, ep, etp, micro_batch, grid.sequence_parallel), codes


def _codes(axis: IntArray) -> tuple[int, IntArray]:
    """Dense codes of a column of small positive integers."""
    present = np.zeros(int(axis.max()) + 1, dtype=bool)
    present[axis] = True
    order = np.cumsum(present) - 1
    return int(order[-1]) + 1, order[axis]
