"""Data parallelism over one step: gradient reduction, parameter gathering, FSDP gathers per layer.

Dense parameters are sharded over the data and context ranks of one stage, experts over what expert parallelism leaves
of them. What can be hidden is decided by the schedule's windows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import IntArray, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.memory import Parameters
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages
from ridgeline.graph.shape import Shape
from ridgeline.sim.exposure import exposed_under
from ridgeline.sim.schedule import hidden_gather_s, hidden_reduction_s
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.timing.collectives import Kind, collective_seconds
from ridgeline.timing.topology import place


@dataclass(frozen=True, slots=True)
class DataParallel:
    """Seconds per step ``[4, plans]`` unless said otherwise."""

    reduce_s: FloatArray  # gradients, once per step
    gather_s: FloatArray  # parameters, once per step
    fsdp_forward_s: FloatArray  # exposed gathers of one micro-batch
    fsdp_backward_s: FloatArray
    layers: FloatArray  # layers per stage, the buckets of overlap
    sent_bytes: FloatArray  # [plans], per chip and step

    def exposed(
        self,
        schedule: str,
        costs: StageCosts,
        grid: PlanGrid,
        switch: dict[str, bool],
        stack: Stack,
    ) -> FloatArray:
        """Seconds per step of reduction and gathering that the pipeline does not hide ``[plans]``."""
        last_bucket = 1.0 / np.maximum(self.layers, 1.0)
        reduce, gather = self.reduce_s, self.gather_s
        if switch["overlap_grad"]:
            hidden = hidden_reduction_s(schedule, costs, reduce * (1.0 - last_bucket), grid.pp, grid.vpp)
            reduce = reduce - hidden * (1.0 - stack.comm_sms)
        if switch["overlap_param"]:
            hidden = hidden_gather_s(schedule, costs, gather * (1.0 - last_bucket), grid.pp, grid.vpp)
            gather = gather - hidden * (1.0 - stack.comm_sms)
        return np.asarray((reduce + gather).max(axis=0))


def data_parallel(
    scenario: Scenario,
    grid: PlanGrid,
    switch: dict[str, bool],
    shape: Shape,
    codes: IntArray,
    model: Model,
    stages: Stages,
    params: Parameters,
    compute: tuple[FloatArray, FloatArray],
) -> DataParallel:
    """Times of all data-parallel traffic; ``compute`` is forward and backward of one micro-batch ``[4, plans]``."""
    cluster, links, recipe = scenario.cluster, scenario.calibration.links, scenario.recipe
    stack = scenario.stack
    layers = stages.layers.sum(axis=0)
    zeros = np.zeros_like(params.dense)
    reduce_bytes = recipe.grad_reduce_bytes
    dense_trained, expert_trained = params.dense * params.trained, params.expert * params.trained_expert

    shards = params.dense_shards
    across = np.asarray(grid.tp, dtype=np.float64)
    dense_place = place(shards, across, cluster)
    has_experts = bool(np.any(params.expert > 0.0))
    if has_experts:
        expert_place = place(params.expert_shards, np.asarray(grid.ep * grid.etp, dtype=np.float64), cluster)

    def both(kind: Kind, dense: FloatArray, expert: FloatArray) -> FloatArray:
        total = collective_seconds(kind, dense, dense_place, cluster, links)
        if has_experts:
            total = total + collective_seconds(kind, expert, expert_place, cluster, links)
        return total

    def copies(size: FloatArray) -> FloatArray:
        if (grid.replicas == 1).all():
            return zeros
        copies_place = place(grid.replicas, across * shards, cluster)
        return collective_seconds("all_reduce", size, copies_place, cluster, links)

    volume = 1.0 - 1.0 / np.maximum(shards, 1.0)
    if grid.zero < 3:
        size, experts = dense_trained * reduce_bytes, expert_trained * reduce_bytes
        gathered, gathered_experts = dense_trained * recipe.gather_bytes, expert_trained * recipe.gather_bytes
        if grid.zero == 0:
            reduce, gather = both("all_reduce", size, experts), zeros
        else:
            reduce = both("reduce_scatter", size, experts) + copies(size / shards)
            gather = both("all_gather", gathered, gathered_experts)
        sent = ((size + experts + gathered + gathered_experts) * volume).max(axis=0)
        if grid.zero == 2:
            # sharded gradients cannot wait for the other micro-batches: each one is reduced as it comes
            part = 1.0 - 1.0 / np.maximum(layers, 1.0)
            each = (
                exposed_under(reduce, compute[1] * part, stack.comm_sms) if switch["overlap_grad"] else reduce
            )
            return DataParallel(zeros, gather, zeros, each, layers, sent)
        return DataParallel(reduce, gather, zeros, zeros, layers, sent)

    pieces = layers * stack.layer_messages
    gather = _per_stage(
        both, params.dense * recipe.gather_bytes, params.expert * recipe.gather_bytes, pieces, "all_gather"
    )
    scatter = _per_stage(
        both, dense_trained * reduce_bytes, expert_trained * reduce_bytes, pieces, "reduce_scatter"
    )
    scatter = scatter + copies(dense_trained * reduce_bytes / shards)
    forward_s, backward_s = compute
    m = np.maximum(np.asarray(scenario.job.batch / (grid.dp * grid.micro_batch), dtype=np.float64), 1.0)
    # under a pipeline gradients are reduced after the last micro-batch, and parameters that stay are gathered once
    once = np.where(grid.pp > 1, 1.0 / m, 1.0)
    again = gather * float(grid.fsdp_reshard)
    gather = gather if grid.fsdp_reshard else gather * once
    behind = again + scatter * once
    if stack.prefetch:
        part = 1.0 - 1.0 / np.maximum(layers, 1.0)
        ahead = exposed_under(gather, forward_s * part, stack.comm_sms)
        behind = exposed_under(behind, backward_s * part, stack.comm_sms)
    else:
        ahead = gather
    sent = (params.dense * volume).max(axis=0) * (2.0 * recipe.gather_bytes + reduce_bytes) * m
    return DataParallel(zeros, zeros, ahead, behind, layers, sent)


def _per_stage(
    both: Callable[[Kind, FloatArray, FloatArray], FloatArray],
    dense: FloatArray,
    expert: FloatArray,
    pieces: FloatArray,
    kind: Kind,
) -> FloatArray:
    """Collectives of a stage issued in ``pieces`` messages of equal size."""
    count = np.maximum(pieces, 1.0)
    return count * both(kind, dense / count, expert / count)
