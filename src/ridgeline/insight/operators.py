"""Operators of the busiest stage: the dots of the roofline and the table behind it."""

from __future__ import annotations

import numpy as np

from ridgeline.metrics import OperatorTime
from ridgeline.sim.layers import PHASES, Kernel
from ridgeline.sim.step import Step, block_weights


def operator_times(result: Step, plan: int = -1) -> tuple[OperatorTime, ...]:
    """One row per kernel of one micro-batch on the busiest stage of the plan at index ``plan``."""
    present = result.stages.number[:, plan] > 0
    where = int(np.where(present, result.costs.stage_s[:, plan], -1.0).argmax())
    weights = block_weights(result)[:, where, plan]
    code = int(result.codes[plan])
    rows = []
    for kernel in result.blocks.kernels:
        times = float(weights[kernel.block])
        if times > 0.0:
            rows.append(_row(kernel, times, code))
    return tuple(sorted(rows, key=lambda row: -row.seconds))


def _row(kernel: Kernel, times: float, code: int) -> OperatorTime:
    seconds, peak = float(kernel.seconds[code]), float(kernel.peak_s[code])
    return OperatorTime(
        name=kernel.name,
        phase=PHASES[kernel.phase],
        kind=kernel.kind,
        count=times * kernel.launches,
        seconds=times * seconds,
        flops=times * float(kernel.flops[code]),
        bytes=times * float(kernel.bytes[code]),
        format=kernel.format,
        binds="compute" if peak > 0.5 * seconds else "memory" if kernel.kind == "stream" else "kernel",
    )
