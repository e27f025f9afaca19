"""F4: one training step for one plan or a grid of plans: every cost assembled into one time.

The order is the order of a step: micro-batches through the pipeline, gradient reduction and parameter gathering around
them, optimizer, fixed costs, jitter. Everything is an array ``[plans]``; nothing branches on a plan's values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import SPLIT, IntArray, Plan, PlanGrid
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import build, shard
from ridgeline.graph.memory import Parameters, memory_by_kind, parameters
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages, assign
from ridgeline.graph.shape import Shape, shapes_of
from ridgeline.sim.activity import activity, energy, repeated, stretch
from ridgeline.sim.data_parallel import DataParallel, data_parallel
from ridgeline.sim.layers import BlockTimes, block_times
from ridgeline.sim.offload import offload_exposed_s
from ridgeline.sim.phases import Pace, block_weights, phase_times, two_at_hand
from ridgeline.sim.program import gradient_bytes, program_of
from ridgeline.sim.reality import REAL, Reality
from ridgeline.sim.schedule import PipelineTimes, in_flight, parameter_copies, pipeline_seconds
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.stream import stream_rates, stream_seconds
from ridgeline.timing.topology import place


@dataclass(frozen=True, slots=True)
class Step:
    """One training step per plan ``[plans]``, with what the tables and figures need."""

    total_s: FloatArray
    pipeline: PipelineTimes
    costs: StageCosts
    num_micro_batches: FloatArray
    data_parallel: DataParallel
    optimizer_s: FloatArray
    exposed_s: dict[str, FloatArray]  # tp, cp, ep: on the busiest stage over the whole step
    memory: dict[str, FloatArray]  # kind -> [4, plans]
    joules: FloatArray  # of all chips
    executed_flops: FloatArray  # of all chips, recompute apart
    hardware_flops: FloatArray  # of all chips, recompute included
    pace: Pace  # how much slower kernels run inside the step than alone
    stages: Stages
    weights: FloatArray  # [blocks, 4, plans]: how many of each block a stage class holds
    codes: IntArray
    blocks: BlockTimes
    parameters: Parameters
    shape: Shape


def overlaps(plan: Plan | PlanGrid, stack: Stack) -> dict[str, bool]:
    """Overlap switches of the plan, where it has an opinion, else of the stack; those of experts: `message_times`."""
    names = ("overlap_tp", "overlap_grad", "overlap_param", "overlap_p2p")
    chosen = {name: getattr(plan, name) for name in names}
    return {name: getattr(stack, name) if choice is None else choice for name, choice in chosen.items()}


def step(scenario: Scenario, grid: PlanGrid, reality: Reality = REAL) -> Step:
    """Predict one step of every plan of ``grid`` (one structure) in ``scenario`` (whose own plan is not used).

    A ``reality`` of arrays has one variant per plan, or several of a grid of one plan: times are then
    ``[variants]``, and what does not depend on it keeps its one entry.
    """
    arch, job, stack, recipe = scenario.architecture, scenario.job, scenario.stack, scenario.recipe
    switch = overlaps(grid, stack)
    shape, codes = shapes_of(grid)
    if codes.size != len(grid):
        codes = np.broadcast_to(codes, (len(grid),))
    whole_model = build(arch, job, stack, recipe)
    program = program_of(whole_model, stack, recipe)
    model = shard(whole_model, shape)
    blocks = block_times(
        program, model, shape, scenario.chip, scenario.cluster, scenario.calibration, stack,
        overlap_tp=switch["overlap_tp"], overlap_ep=grid.overlap_ep,
    )  # fmt: skip
    stages = assign(arch, grid.pp, grid.vpp)
    params = parameters(model, shape, codes, stages, grid, arch.tied)
    passes = np.asarray(job.batch / (grid.dp * grid.micro_batch), dtype=np.float64)
    num_micro_batches = np.maximum(np.round(passes), 1.0).astype(np.int64)

    weights = block_weights(stages, model.mtp is not None)
    hides = two_at_hand(grid, stack, num_micro_batches)
    done = activity(blocks, (weights * stages.number).sum(axis=1), codes, hides)
    slower = stretch(scenario, done)
    in_situ = scenario.calibration.steps.in_situ
    pace = Pace(in_situ * slower, in_situ)
    forward, input_grad, weight_grad, axes = phase_times(
        blocks, weights, codes, grid, pace, reality, hides, stack
    )
    if grid.offload_activations:
        out_s, back_s = offload_exposed_s(
            model, grid, stages, codes, scenario.chip.host_bandwidth, forward,
            input_grad if grid.schedule in SPLIT else input_grad + weight_grad,
        )  # fmt: skip
        forward = forward + reality.offload * out_s
        input_grad = input_grad + reality.offload * back_s
    gathers = data_parallel(scenario, grid, switch, stages, params, (forward, input_grad, weight_grad))
    forward = forward + gathers.forward_s * reality.dp
    input_grad = input_grad + gathers.backward_s * reality.dp
    weight_grad = weight_grad + gathers.weight_s * reality.dp

    costs = StageCosts(
        forward_s=forward,
        input_grad_s=input_grad,
        weight_grad_s=weight_grad,
        send_s=_send_s(scenario, grid),
        send_overlapped=switch["overlap_p2p"],
    )
    pipeline = pipeline_seconds(grid.schedule, costs, num_micro_batches, grid.pp, grid.vpp)
    mean = num_micro_batches * (costs.stage_s * stages.number).sum(axis=0) / grid.pp
    middle = mean + reality.pipeline * (pipeline.total_s - mean)

    dp_s = gathers.exposed(grid.schedule, costs, grid, switch, stack)
    optimizer_s = _optimizer(scenario, grid, params, stages)
    quiet = middle + reality.dp * dp_s + reality.optimizer * optimizer_s + reality.fixed * stack.step_fixed
    total = quiet * (1.0 + reality.jitter * _jitter(stack, grid))

    kinds = memory_by_kind(
        model, shape, codes, stages, grid, params, stack, recipe,
        in_flight(grid.schedule, num_micro_batches, grid.pp, grid.vpp), parameter_copies(grid.schedule),
    )  # fmt: skip
    again = repeated(blocks, weights, stages, grid, codes)
    joules, plain, flops = energy(scenario, grid, done, again, num_micro_batches, total, slower)
    busy = {name: num_micro_batches * values.max(axis=0) for name, values in axes.items()}
    return Step(
        total, pipeline, costs, num_micro_batches.astype(np.float64), gathers, optimizer_s, busy, kinds,
        joules, plain, flops, pace, stages, weights, codes, blocks, params, shape,
    )  # fmt: skip


def _send_s(scenario: Scenario, grid: PlanGrid) -> FloatArray:
    """One message between neighbouring stages: the bf16 activations of a micro-batch on one chip [s]."""
    job, cluster = scenario.job, scenario.cluster
    size = 2.0 * job.seq * scenario.architecture.hidden * grid.micro_batch / (grid.cp * grid.tp)
    neighbours = place(np.minimum(grid.pp, 2), grid.tp * grid.cp * grid.dp, cluster)
    return collective_seconds("send", size, neighbours, cluster, scenario.calibration.links)


def _jitter(stack: Stack, grid: PlanGrid) -> FloatArray:
    """Relative excess of the slowest chip: the maximum of n draws with exponential tails grows as log n.

    A normal distribution would level off as the root of log n; with exponential tails the growth goes on (Agarwal,
    Garg and Vishnoi, HiPC 2005). Runs that differ in nothing but their number of data-parallel replicas show it: a
    GPT-3 step grows by 0.65 % from 4,096 to 8,192 chips, other steps by as much per doubling from 8 chips on.
    """
    chips = np.maximum(np.asarray(grid.chips, dtype=np.float64), 1.0)
    return np.asarray(stack.jitter * np.log(chips) / np.log(1000.0))


def _optimizer(scenario: Scenario, grid: PlanGrid, params: Parameters, stages: Stages) -> FloatArray:
    """What is done once per step on the fullest stage [s].

    Each chip reads and writes the gradients, states and master weights that it owns; before that it clears and
    scales its whole gradient buffer, and after it converts all gathered weights to a format other than theirs.
    """
    recipe, stack = scenario.recipe, scenario.stack
    rates = stream_rates(scenario.chip, scenario.calibration.kernels)
    per_parameter = (
        recipe.grad_bytes * 2.0 + 2.0 * (recipe.master_bytes + recipe.moment_bytes) + recipe.weight_bytes
    )
    dense, expert = params.dense * params.trained, params.expert * params.trained_expert
    exists, whole = stages.number > 0, np.zeros(len(grid))
    if (
        grid.zero < 3
    ):  # with sharded parameters there is no whole buffer to clear, and casts belong to the gathers
        here = np.where(exists, dense + expert, 0.0).max(axis=0)
        whole = here * (stack.grad_passes * gradient_bytes(stack, recipe) + _converted_bytes(recipe))
    if grid.zero >= 1:
        dense, expert = dense / params.dense_shards, expert / params.expert_shards
    owned = np.where(exists, dense + expert, 0.0).max(axis=0)
    if grid.offload_optimizer:
        moved = 2.0 * owned * (recipe.master_bytes + recipe.moment_bytes)
        return np.asarray(moved / scenario.chip.host_bandwidth) + stream_seconds(whole, rates)
    return stream_seconds(owned * per_parameter + whole, rates, kernels=4.0)


def _converted_bytes(recipe: Recipe) -> float:
    """Bytes per parameter moved to make stored weights of gathered ones: casts and transposes of 8 bits and less."""
    if recipe.scaling == "none":
        return 0.0
    return recipe.gather_bytes + recipe.weight_bytes
