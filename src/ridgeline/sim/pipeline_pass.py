"""A pass of all micro-batches through a pipeline: what its longest path depends on, for arrays of plans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.sim.stage_costs import LAST, FloatArray, above, class_stages


@dataclass(frozen=True, slots=True)
class Pass:
    """What a makespan depends on."""

    rows: FloatArray  # [3, 4, cases, plans]: F, B, W of one micro-batch on each stage class, see `class_rows`
    latency: FloatArray  # [cases, plans]: a hand-over that keeps no stage busy
    m: FloatArray  # [plans]
    pp: FloatArray
    vpp: FloatArray

    @property
    def fused(self) -> FloatArray:
        """Forward, and both gradients in one pass [2, 4, cases, plans]."""
        rows = self.rows[:2].copy()
        rows[1] += self.rows[2]
        return rows

    def choose(self, plans: NDArray[np.bool_]) -> Pass:
        """Some of the plans."""
        kept = np.flatnonzero(plans)
        scalars = (values.take(kept, axis=-1) for values in (self.latency, self.m, self.pp, self.vpp))
        return Pass(self.rows.take(kept, axis=-1), *scalars)


def top(values: FloatArray) -> FloatArray:
    """Largest row [stages, ...] -> [...]."""
    largest: FloatArray = np.maximum.reduce(values, axis=0)
    return largest


def whole_pipeline(rows: FloatArray, pp: FloatArray) -> FloatArray:
    """Sum over all stages [phases, 4, cases, plans] -> [phases, cases, plans]."""
    classes = rows.swapaxes(0, 1)
    total: FloatArray = above(classes, class_stages(pp)[:, None, None])[LAST] + classes[LAST]
    return total
