"""Operators of the busiest stage: the dots of the roofline and the table behind it."""

from __future__ import annotations

import numpy as np

from ridgeline.metrics import OperatorTime
from ridgeline.sim.program import KINDS, PHASES, STREAM
from ridgeline.sim.step import Step


def operator_times(result: Step, plan: int = -1) -> tuple[OperatorTime, ...]:
    """One row per kernel of one micro-batch on the busiest stage of the plan at index ``plan``."""
    present = result.stages.number[:, plan] > 0
    where = int(np.where(present, result.costs.stage_s[:, plan], -1.0).argmax())
    weights = result.weights[:, where, plan]
    code = int(result.codes[plan])
    kernels = result.blocks.kernels
    rows = []
    for i, row in enumerate(result.blocks.program.rows):
        times = float(weights[row.block])
        if times <= 0.0:
            continue
        pace = result.pace.stream if row.kind == STREAM else float(result.pace.matrix[plan])
        seconds, peak = pace * float(kernels.seconds[i, code]), float(kernels.peak_s[i, code])
        rows.append(
            OperatorTime(
                name=row.name,
                phase=PHASES[row.phase],
                kind=KINDS[row.kind],
                count=times * row.launches,
                seconds=times * seconds,
                flops=times * float(kernels.flops[i, code]),
                bytes=times * float(kernels.bytes[i, code]),
                format=row.format,
                binds="memory" if row.kind == STREAM else "compute" if peak > 0.5 * seconds else "kernel",
            )
        )
    return tuple(sorted(rows, key=lambda operator: -operator.seconds))
