"""Extent: how much of a step runs at sizes that no kernel table reaches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.scenario import Scenario
from ridgeline.graph.build import Model, build, shard
from ridgeline.graph.cache import by_identity
from ridgeline.graph.ops import FloatArray
from ridgeline.sim.layers import sizes_of
from ridgeline.sim.program import ATTENTION, GEMM, GROUPED, WEIGHT_GRAD, Program
from ridgeline.sim.step import Step
from ridgeline.timing.attention import PREFILL
from ridgeline.timing.gemm import SURFACE as PRODUCTS
from ridgeline.timing.grouped import SURFACE as EXPERTS
from ridgeline.timing.grouped import active_experts
from ridgeline.timing.surface import Knots, outside

#: Part of the prediction, as `ridgeline.insight.labels` names it, of each kind of kernel.
PARTS = {GEMM: "linear layers", GROUPED: "experts", ATTENTION: "attention"}


def beyond_tables(scenario: Scenario, result: Step, plan: int = -1) -> dict[str, float]:
    """Share of the kernel time of each part whose sizes lie outside the fitted range; 0 where no part has any."""
    program = result.blocks.program
    code = int(result.codes[plan])
    model = shard(build(scenario.architecture, scenario.job, scenario.stack, scenario.recipe), result.shape)
    held = (result.weights * result.stages.number).sum(axis=1)[:, plan]
    shares = {}
    for kind, beyond in _outside(program, model, result.shape.tp.size).items():
        rows = program.span[kind]
        seconds = result.blocks.kernels.seconds[rows, code] * held[[row.block for row in program.of(kind)]]
        shares[PARTS[kind]] = float((seconds * beyond[:, code]).sum() / max(seconds.sum(), 1e-30))
    return shares


@by_identity
def _outside(program: Program, model: Model, shapes: int) -> dict[int, NDArray[np.bool_]]:
    """Which kernels lie outside the fitted range, by kind ``[rows, shapes]``; kinds without a kernel are left out."""
    found = {}
    for kind in PARTS:
        if program.span[kind].start < program.span[kind].stop:
            grid, axes = _axes(program, kind, sizes_of(program, model, kind, shapes))
            found[kind] = np.broadcast_to(outside(grid, axes), axes[0].shape)
    return found


def _axes(program: Program, kind: int, sizes: FloatArray) -> tuple[Knots, tuple[FloatArray, ...]]:
    """The sizes that the correction of one kind of kernel is read at, ``[rows, shapes]`` each."""
    if kind == ATTENTION:
        batch, heads, kv_heads, _, kv, head, _, share = np.maximum(sizes, 1e-9)
        return PREFILL, (kv, batch * kv_heads, head, heads / kv_heads, share)
    a, b, c, copies = np.maximum(sizes, 1.0)
    if kind == GEMM:
        return PRODUCTS, (a * copies, b, c)
    weight = program.phase(GROUPED, WEIGHT_GRAD)
    rows, wide, deep = np.where(weight, c, a), np.where(weight, a, b), np.where(weight, b, c)
    active = active_experts(rows, copies)
    return EXPERTS, (rows / active, active, wide, deep)
