"""Data parallelism over one step: gradient reduction, parameter gathering, gathers and reductions per layer.

Dense parameters are sharded over the data and context ranks of one stage, experts over what expert parallelism leaves
of them. What can be hidden is decided by the schedule's windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import SPLIT, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.stack import Stack
from ridgeline.graph.memory import Parameters
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages
from ridgeline.sim.exposure import exposed_under
from ridgeline.sim.schedule import hidden_gather_s, hidden_reduction_s
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.timing.collectives import Kind, collective_seconds
from ridgeline.timing.topology import Placement, place


@dataclass(frozen=True, slots=True)
class DataParallel:
    """Seconds per step ``[4, plans]`` unless said otherwise."""

    reduce_s: FloatArray  # gradients, once per step; zero where each micro-batch reduces
    gather_s: FloatArray  # parameters, once per step
    forward_s: FloatArray  # exposed in one micro-batch: gathers of ZeRO 3
    backward_s: FloatArray  # the same, with the reductions of ZeRO 2 and 3, beside all of the backward
    weight_s: FloatArray  # these reductions where weight gradients are a pass of their own
    layers: FloatArray  # layers per stage, the buckets of overlap
    sent_bytes: FloatArray  # [plans], per chip and step
    outside: FloatArray  # [plans]: 1 where the traffic leaves the scale-up domain, as pipeline sends then do, else 0

    def exposed(
        self,
        schedule: str,
        costs: StageCosts,
        grid: PlanGrid,
        switch: dict[str, bool],
        stack: Stack,
    ) -> FloatArray:
        """Seconds per step of reduction and gathering that the pipeline does not hide ``[plans]``.

        The last piece to be final has nothing left to hide under, nor the first that is needed. A piece is a layer,
        or a whole chunk of an interleaved pipeline: Megatron reduces and gathers chunk by chunk there, so that all
        stages of the pipeline slow down together (Megatron Bridge guide, "Communication Overlap": the granularity
        "becomes the Transformer layers per virtual pipeline stage"). What is hidden slows the compute beside it.
        """
        pieces = np.maximum(self.layers, 1.0)
        if schedule == "interleaved":
            pieces = np.minimum(pieces, np.where(grid.pp > 1, grid.vpp, pieces))
        last_bucket = 1.0 / pieces
        reduce, gather = self.reduce_s, self.gather_s
        sends = np.zeros_like(self.outside)
        if switch["overlap_grad"]:
            hidden = hidden_reduction_s(schedule, costs, reduce * (1.0 - last_bucket), grid.pp, grid.vpp)
            backward = costs.input_grad_s + costs.weight_grad_s
            sends = sends + self._slower_sends(hidden, backward / grid.vpp, costs.send_s)
            reduce = reduce - hidden * (1.0 - stack.contention)
        if switch["overlap_param"]:
            hidden = hidden_gather_s(schedule, costs, gather * (1.0 - last_bucket), grid.pp, grid.vpp)
            sends = sends + self._slower_sends(hidden, costs.forward_s / grid.vpp, costs.send_s)
            gather = gather - hidden * (1.0 - stack.contention)
        return np.asarray((reduce + gather + sends).max(axis=0))

    def _slower_sends(
        self, hidden_s: FloatArray, chunk_s: FloatArray, send_s: FloatArray | float
    ) -> FloatArray:
        """Delay of pipeline sends that share a NIC with ``hidden_s`` of collectives, stage by stage ``[4, plans]``.

        Two flows get half of the link each, so every chunk that goes by meanwhile hands over one send time later.
        While the pipeline fills and drains nothing else hides that.
        """
        period = np.maximum(chunk_s + 2.0 * np.asarray(send_s), 1e-30)
        delay: FloatArray = self.outside * hidden_s / period * send_s
        return delay


@dataclass(frozen=True, slots=True)
class _Traffic:
    """Who talks to whom for one step's parameters and gradients, and how long a collective among them takes."""

    scenario: Scenario
    grid: PlanGrid
    params: Parameters
    dense: Placement
    expert: Placement | None  # None where the model has no experts
    copies: Placement | None  # None where no plan of the grid has replicas

    @classmethod
    def of(cls, scenario: Scenario, grid: PlanGrid, params: Parameters) -> _Traffic:
        """Groups as their ranks lie on the cluster: tensor-parallel ranks innermost, replicas outermost."""
        cluster, across = scenario.cluster, np.asarray(grid.tp, dtype=np.float64)
        dense, expert, copies = place(params.dense_shards, across, cluster), None, None
        if np.any(params.expert > 0.0):
            expert = place(params.expert_shards, np.asarray(grid.ep * grid.etp, dtype=np.float64), cluster)
        if (grid.replicas != 1).any():
            copies = place(grid.replicas, across * params.dense_shards, cluster)
        return cls(scenario, grid, params, dense, expert, copies)

    def sharded_s(
        self, kind: Kind, dense: FloatArray, expert: FloatArray, pieces: FloatArray | float = 1.0
    ) -> FloatArray:
        """A collective of ``dense`` and of ``expert`` bytes among their shards, in ``pieces`` equal messages [s]."""
        total = self._collective_s(kind, dense / pieces, self.dense)
        if self.expert is not None:
            total = total + self._collective_s(kind, expert / pieces, self.expert)
        return total * pieces

    def copies_s(self, size: FloatArray) -> FloatArray:
        """All-reduce of gradient shards of ``size`` bytes among the replicas of the sharded group (HSDP) [s]."""
        if self.copies is None:
            return np.zeros_like(self.params.dense)
        return self._collective_s("all_reduce", size, self.copies)

    def _collective_s(self, kind: Kind, size: FloatArray, where: Placement) -> FloatArray:
        return collective_seconds(kind, size, where, self.scenario.cluster, self.scenario.calibration.links)

    @property
    def outside(self) -> FloatArray:
        """1 where the dense shards span several scale-up domains, else 0 ``[plans]``.

        Neighbouring pipeline stages lie further apart than the shards of one stage, and are then outside too.
        """
        return np.asarray(self.dense.domains[0] > 1.0, dtype=np.float64)

    @property
    def sent_share(self) -> FloatArray:
        """What a ring over the dense shards sends of each byte: (n - 1) / n."""
        return 1.0 - 1.0 / np.maximum(self.params.dense_shards, 1.0)


def data_parallel(
    scenario: Scenario,
    grid: PlanGrid,
    switch: dict[str, bool],
    stages: Stages,
    params: Parameters,
    compute: tuple[FloatArray, FloatArray, FloatArray],
) -> DataParallel:
    """Times of all data-parallel traffic; ``compute`` is forward, input and weight gradient of one micro-batch
    ``[4, plans]`` [s].

    Where the gradients are passes of their own, each hides only what belongs to it: gathers hide under input
    gradients, which need the parameters, and reductions under weight gradients, which make them.
    """
    traffic = _Traffic.of(scenario, grid, params)
    layers = stages.layers.sum(axis=0)
    if grid.zero == 3:
        return _by_layer(traffic, layers, compute)
    return _by_step(
        traffic, switch, layers, compute[2] if grid.schedule in SPLIT else compute[1] + compute[2]
    )


def _by_step(
    traffic: _Traffic, switch: dict[str, bool], layers: FloatArray, backward_s: FloatArray
) -> DataParallel:
    """ZeRO 0 to 2: gradients are reduced and parameters gathered whole; ZeRO 2 reduces at every micro-batch.

    An interleaved pipeline runs as many micro-batches of one chunk in a row as it has stages; ZeRO 2 then sums their
    gradients and reduces once (arXiv:2407.21783 section 3.3.4: accumulation over several micro-batches).
    """
    grid, params, recipe = traffic.grid, traffic.params, traffic.scenario.recipe
    zeros = np.zeros_like(params.dense)
    dense, expert = params.dense * params.trained, params.expert * params.trained_expert
    size, experts = dense * recipe.grad_reduce_bytes, expert * recipe.grad_reduce_bytes
    gathered, gathered_experts = dense * recipe.gather_bytes, expert * recipe.gather_bytes
    if grid.zero == 0:
        reduce, gather = traffic.sharded_s("all_reduce", size, experts), zeros
    else:
        reduce = traffic.sharded_s("reduce_scatter", size, experts)
        reduce = reduce + traffic.copies_s(size / params.dense_shards)
        gather = traffic.sharded_s("all_gather", gathered, gathered_experts)
    sent = ((size + experts + gathered + gathered_experts) * traffic.sent_share).max(axis=0)
    if grid.zero < 2:
        return DataParallel(reduce, gather, zeros, zeros, zeros, layers, sent, traffic.outside)
    # sharded gradients cannot wait for the other micro-batches: each one is reduced as it comes, or each row of them
    m = np.maximum(
        np.asarray(traffic.scenario.job.batch / (grid.dp * grid.micro_batch), dtype=np.float64), 1.0
    )
    row = np.where(grid.vpp > 1, np.minimum(np.asarray(grid.pp, dtype=np.float64), m), 1.0)
    reduce, sent = reduce / row, sent + ((size + experts) * traffic.sent_share).max(axis=0) * (m / row - 1.0)
    if switch["overlap_grad"]:
        reduce = exposed_under(reduce, _overlapped(backward_s, layers), traffic.scenario.stack.contention)
    together, apart = (zeros, reduce) if grid.schedule in SPLIT else (reduce, zeros)
    return DataParallel(zeros, gather, zeros, together, apart, layers, sent, traffic.outside)


def _by_layer(
    traffic: _Traffic, layers: FloatArray, compute: tuple[FloatArray, FloatArray, FloatArray]
) -> DataParallel:
    """ZeRO 3: parameters are gathered and gradients scattered layer by layer, at every micro-batch.

    Under a pipeline gradients are reduced after the last micro-batch, and parameters that stay are gathered once.
    """
    scenario, grid, params = traffic.scenario, traffic.grid, traffic.params
    recipe, stack = scenario.recipe, scenario.stack
    dense_grads = params.dense * params.trained * recipe.grad_reduce_bytes
    expert_grads = params.expert * params.trained_expert * recipe.grad_reduce_bytes
    pieces = np.maximum(layers * stack.layer_messages, 1.0)
    gather = traffic.sharded_s(
        "all_gather", params.dense * recipe.gather_bytes, params.expert * recipe.gather_bytes, pieces
    )
    if stack.gather_piece:
        gather = gather + stack.gather_piece * pieces * params.dense_shards
    scatter = traffic.sharded_s("reduce_scatter", dense_grads, expert_grads, pieces)
    scatter = scatter + traffic.copies_s(dense_grads / params.dense_shards)
    m = np.maximum(np.asarray(scenario.job.batch / (grid.dp * grid.micro_batch), dtype=np.float64), 1.0)
    once = np.where(grid.pp > 1, 1.0 / m, 1.0)
    again, reduce = gather * float(grid.fsdp_reshard), scatter * once
    forward, grad, weight = compute
    zeros = np.zeros_like(params.dense)
    messages = [(gather if grid.fsdp_reshard else gather * once, forward)]
    messages += (
        [(again, grad), (reduce, weight)] if grid.schedule in SPLIT else [(again + reduce, grad + weight)]
    )
    if stack.prefetch:
        found = [
            exposed_under(seconds, _overlapped(under, layers), stack.contention)
            for seconds, under in messages
        ]
    else:
        found = [seconds for seconds, _ in messages]
    ahead, behind, last = (*found, zeros)[:3]
    sent_bytes = 2.0 * recipe.gather_bytes + recipe.grad_reduce_bytes
    sent = (params.dense * traffic.sent_share).max(axis=0) * sent_bytes * m
    return DataParallel(zeros, zeros, ahead, behind, last, layers, sent, traffic.outside)


def _overlapped(compute_s: FloatArray, layers: FloatArray) -> FloatArray:
    """The part of a pass that messages may run under: all but the layer at its edge [s]."""
    return compute_s * (1.0 - 1.0 / np.maximum(layers, 1.0))
