"""Operators of the busiest stage: the dots of the roofline and the table behind it."""

from __future__ import annotations

from operator import attrgetter

import numpy as np

from ridgeline.metrics import OperatorTime
from ridgeline.sim.program import KINDS, PHASES, STREAM
from ridgeline.sim.step import Step


def operator_times(result: Step, plan: int = -1) -> tuple[OperatorTime, ...]:
    """One row per kernel of one micro-batch on the busiest stage of the plan at index ``plan``."""
    present = result.stages.number[:, plan] > 0
    where = int(np.where(present, result.costs.stage_s[:, plan], -1.0).argmax())
    held = result.weights[:, where, plan].tolist()
    program, kernels = result.blocks.program, result.blocks.kernels
    matrix, stream = float(result.pace.matrix[plan]), result.pace.stream
    table = np.stack([kernels.seconds, kernels.peak_s, kernels.flops, kernels.bytes])
    found = []
    for row, (alone, peak, flops, moved) in zip(
        program.rows, table[:, :, int(result.codes[plan])].T.tolist(), strict=True
    ):
        times = held[row.block]
        if times <= 0.0:
            continue
        seconds = alone * (stream if row.kind == STREAM else matrix)
        found.append(
            OperatorTime(
                name=row.name,
                phase=PHASES[row.phase],
                kind=KINDS[row.kind],
                count=times * row.launches,
                seconds=times * seconds,
                flops=times * flops,
                bytes=times * moved,
                format=row.format,
                binds="memory" if row.kind == STREAM else "compute" if peak > 0.5 * seconds else "kernel",
            )
        )
    return tuple(sorted(found, key=attrgetter("seconds"), reverse=True))
