"""F4: one training step for one plan or a grid of plans: every cost assembled into one time.

The order is the order of a step: micro-batches through the pipeline, gradient reduction and parameter gathering around
them, optimizer, fixed costs, jitter. Everything is an array ``[plans]``; nothing branches on a plan's values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import IntArray, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.build import build, shard
from ridgeline.graph.memory import Parameters, memory_by_kind, parameters
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages, assign
from ridgeline.graph.shape import Shape, shapes_of
from ridgeline.sim.data_parallel import DataParallel, data_parallel
from ridgeline.sim.layers import BlockTimes, block_times
from ridgeline.sim.program import FORWARD, INPUT_GRAD, STREAM, WEIGHT_GRAD, program_of
from ridgeline.sim.reality import REAL, Reality
from ridgeline.sim.schedule import PipelineTimes, in_flight, parameter_copies, pipeline_seconds
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.energy import CLOCK_POWER, chip_joules, joules_per_flop, power_stretch
from ridgeline.timing.stream import stream_rates, stream_seconds
from ridgeline.timing.topology import place


@dataclass(frozen=True, slots=True)
class Pace:
    """How much slower kernels run inside a step than alone: matrix kernels (power cap and in-situ), streams."""

    matrix: FloatArray
    stream: float

    def device(self, peak: FloatArray, kernel: FloatArray, stream: FloatArray, real: Reality) -> FloatArray:
        """Seconds of kernels with FLOP time ``peak``, ``kernel`` beyond it and memory-bound time ``stream``."""
        matrix = peak * (1.0 + real.kernels * (self.matrix - 1.0)) + kernel * self.matrix * real.kernels
        return matrix + stream * self.stream * real.streams


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
    codes: IntArray
    blocks: BlockTimes
    parameters: Parameters
    shape: Shape


def overlaps(scenario: Scenario) -> dict[str, bool]:
    """Overlap switches of the plan, where it has an opinion, else of the stack."""
    plan, stack = scenario.plan, scenario.stack
    names = ("overlap_tp", "overlap_grad", "overlap_param", "overlap_p2p", "overlap_ep")
    return {
        name: getattr(stack, name) if getattr(plan, name) is None else getattr(plan, name) for name in names
    }


def step(scenario: Scenario, grid: PlanGrid, reality: Reality = REAL) -> Step:
    """Predict one step of every plan of ``grid`` (one structure) in ``scenario`` (whose own plan is not used)."""
    arch, job, stack, recipe = scenario.architecture, scenario.job, scenario.stack, scenario.recipe
    switch = overlaps(scenario.replace(plan=grid))
    shape, codes = shapes_of(grid)
    if codes.size != len(grid):
        codes = np.broadcast_to(codes, (len(grid),))
    whole_model = build(arch, job, stack, recipe)
    program = program_of(whole_model, stack, recipe)
    model = shard(whole_model, shape)
    blocks = block_times(
        program, model, shape, scenario.chip, scenario.cluster, scenario.calibration, stack,
        overlap_tp=switch["overlap_tp"], overlap_ep=switch["overlap_ep"],
    )  # fmt: skip
    stages = assign(arch, grid.pp, grid.vpp)
    params = parameters(model, shape, codes, stages, grid, arch.tied)
    m = np.asarray(job.batch / (grid.dp * grid.micro_batch), dtype=np.float64)

    weights = _weights(stages, model.mtp is not None)
    per_stage = _PerStage(weights, codes)
    in_situ = scenario.calibration.steps.in_situ
    flop_joules = _flop_joules(scenario, blocks)
    stretch = _stretch(scenario, blocks, per_stage, stages, flop_joules, in_situ)

    pace = Pace(in_situ * stretch, in_situ)
    forward, input_grad, weight_grad, axes = _phases(blocks, per_stage, grid, pace, reality, stack.hand_over)
    gathers = data_parallel(
        scenario, grid, switch, shape, codes, model, stages, params, (forward, input_grad + weight_grad)
    )
    forward = forward + gathers.fsdp_forward_s * reality.dp
    input_grad = input_grad + gathers.fsdp_backward_s * reality.dp

    width = 2.0 * job.seq * arch.hidden * grid.micro_batch / (grid.cp * grid.tp)
    hand_over = collective_seconds(
        "send", width, place(np.minimum(grid.pp, 2), grid.tp * grid.cp * grid.dp, scenario.cluster),
        scenario.cluster, scenario.calibration.links,
    )  # fmt: skip
    costs = StageCosts(
        forward_s=forward,
        input_grad_s=input_grad,
        weight_grad_s=weight_grad,
        send_s=hand_over,
        send_overlapped=switch["overlap_p2p"],
    )
    whole = np.maximum(np.round(m), 1.0).astype(np.int64)
    pipeline = pipeline_seconds(grid.schedule, costs, whole, grid.pp, grid.vpp)
    mean = whole * (costs.stage_s * stages.number).sum(axis=0) / grid.pp
    middle = mean + reality.pipeline * (pipeline.total_s - mean)

    dp_s = gathers.exposed(grid.schedule, costs, grid, switch, stack)
    optimizer_s = _optimizer(scenario, grid, params, stages)
    quiet = middle + reality.dp * dp_s + reality.optimizer * optimizer_s + reality.fixed * stack.step_fixed
    excess = stack.jitter * np.sqrt(
        np.log(np.maximum(np.asarray(grid.chips, dtype=np.float64), 1.0)) / np.log(1000.0)
    )
    total = quiet * (1.0 + reality.jitter * excess)

    kinds = memory_by_kind(
        model, shape, codes, stages, grid, params, stack, recipe,
        in_flight(grid.schedule, whole, grid.pp, grid.vpp), parameter_copies(grid.schedule),
    )  # fmt: skip
    joules, plain, flops = _energy(
        scenario, blocks, per_stage, stages, grid, whole, total, flop_joules, stretch
    )
    busy = {name: whole * values.max(axis=0) for name, values in axes.items()}
    return Step(
        total, pipeline, costs, whole.astype(np.float64), gathers, optimizer_s, busy, kinds, joules, plain, flops,
        pace, stages, codes, blocks, params, shape,
    )  # fmt: skip


def block_weights(result: Step) -> FloatArray:
    """How many of each block a stage class holds ``[blocks, 4, plans]``."""
    return _weights(result.stages, result.blocks.peak_s.shape[1] > len(result.stages.layers) + 2)


def _weights(stages: Stages, has_mtp: bool) -> FloatArray:
    """How many of each block (layers, embedding, head, mtp) a stage class holds ``[blocks, 4, plans]``."""
    rows = [*stages.layers, stages.embedding, stages.head]
    if has_mtp:  # one prediction depth: its projection, one more layer and one more head on the last stage
        rows[len(stages.layers) - 1] = rows[len(stages.layers) - 1] + stages.head
        rows[-1] = rows[-1] * 2.0
        rows.append(stages.head)
    return np.stack(rows)


@dataclass(frozen=True, slots=True)
class _PerStage:
    """Sums block values over the blocks of each stage class."""

    weights: FloatArray  # [blocks, 4, plans]
    codes: IntArray

    def __call__(self, values: FloatArray) -> FloatArray:
        """``[blocks, shapes] -> [4, plans]``."""
        return np.einsum("bcp,bp->cp", self.weights, values[:, self.codes])  # type: ignore[no-any-return]


def _phases(
    blocks: BlockTimes, per_stage: _PerStage, grid: PlanGrid, pace: Pace, real: Reality, hand_over: float
) -> tuple[FloatArray, FloatArray, FloatArray, dict[str, FloatArray]]:
    """Seconds per micro-batch and stage class of forward, input gradient (with recompute) and weight gradient."""

    def device(phase: int) -> FloatArray:
        return pace.device(
            per_stage(blocks.peak_s[phase]),
            per_stage(blocks.kernel_s[phase]),
            per_stage(blocks.stream_s[phase]),
            real,
        )

    axes = {
        "tp": per_stage(blocks.tp_s.sum(axis=0)),
        "cp": per_stage(blocks.cp_s.sum(axis=0)),
        "ep": per_stage(blocks.ep_s.sum(axis=0)),
    }

    def talk(phase: int) -> FloatArray:
        return (
            real.tp * per_stage(blocks.tp_s[phase])
            + real.cp * per_stage(blocks.cp_s[phase])
            + real.ep * per_stage(blocks.ep_s[phase])
        )

    forward = device(FORWARD) + talk(FORWARD)
    input_grad = device(INPUT_GRAD) + talk(INPUT_GRAD)
    weight_grad = device(WEIGHT_GRAD)
    if grid.recompute == "full":
        again = forward - _ends(blocks, per_stage, pace, real)
        chosen = np.asarray(grid.recompute_layers, dtype=np.float64)
        count = np.maximum(per_stage.weights[: blocks.num_layer_kinds].sum(axis=0), 1e-9)
        share = np.where(chosen < 0, 1.0, np.minimum(chosen / count, 1.0))
        input_grad = input_grad + real.recompute * share * again
    elif grid.recompute == "selective":
        again = pace.device(
            per_stage(blocks.selective_peak_s),
            per_stage(blocks.selective_kernel_s),
            per_stage(blocks.selective_stream_s),
            real,
        )
        input_grad = input_grad + real.recompute * again
    # launching is a race: a phase ends when both the device and the host that feeds it are done
    forward = forward + real.host * np.maximum(per_stage(blocks.host_s[FORWARD]) - forward, 0.0)
    behind = per_stage(blocks.host_s[INPUT_GRAD] + blocks.host_s[WEIGHT_GRAD])
    if grid.recompute == "full":
        behind = behind + per_stage(blocks.host_s[FORWARD])
    late = real.host * np.maximum(behind - input_grad - weight_grad, 0.0)
    # a blocking hand-over stops host and device alike, once each way
    blocked = real.host * hand_over * (grid.pp > 1)
    return forward + blocked, input_grad + late + blocked, weight_grad, axes


def _ends(blocks: BlockTimes, per_stage: _PerStage, pace: Pace, real: Reality) -> FloatArray:
    """Forward time of embedding and head, which are never computed again ``[4, plans]``."""
    n = blocks.num_layer_kinds
    ends = _PerStage(per_stage.weights[n:], per_stage.codes)
    device = pace.device(
        ends(blocks.peak_s[FORWARD][n:]),
        ends(blocks.kernel_s[FORWARD][n:]),
        ends(blocks.stream_s[FORWARD][n:]),
        real,
    )
    return device + real.tp * ends(blocks.tp_s[FORWARD][n:])


def _optimizer(scenario: Scenario, grid: PlanGrid, params: Parameters, stages: Stages) -> FloatArray:
    """Reading gradients, states and master weights and writing them back, on the fullest stage [s]."""
    recipe = scenario.recipe
    per_parameter = (
        recipe.grad_bytes * 2.0 + 2.0 * (recipe.master_bytes + recipe.moment_bytes) + recipe.weight_bytes
    )
    dense, expert = params.dense * params.trained, params.expert * params.trained_expert
    if grid.zero >= 1:
        dense, expert = dense / params.dense_shards, expert / params.expert_shards
    owned = np.where(stages.number > 0, dense + expert, 0.0).max(axis=0)
    if grid.offload_optimizer:
        moved = 2.0 * owned * (recipe.master_bytes + recipe.moment_bytes)
        return np.asarray(moved / scenario.chip.host_bandwidth)
    rates = stream_rates(scenario.chip, scenario.calibration.kernels)
    return stream_seconds(owned * per_parameter, rates, kernels=4.0)


def _flop_joules(scenario: Scenario, blocks: BlockTimes) -> FloatArray:
    """Dynamic joules of the matrix FLOPs of each phase and block ``[3, blocks, shapes]``."""
    fit = scenario.calibration.kernels.energy
    program = blocks.program
    matrix = slice(0, program.span[STREAM].start)
    each = np.array([[joules_per_flop(fit, row.format)] for row in program.rows[matrix]])
    joules: FloatArray = program.incidence[:, matrix] @ (blocks.kernels.flops[matrix] * each)
    return joules.reshape(blocks.flops.shape)


def _stretch(
    scenario: Scenario,
    blocks: BlockTimes,
    per_stage: _PerStage,
    stages: Stages,
    flop_joules: FloatArray,
    in_situ: float,
) -> FloatArray:
    """Slow-down of matrix kernels under the chip's power cap, over the mix of all stages ``[plans]``.

    Kernel tables are timed in short runs at the boost clock; a training step holds the load and meets the cap.
    """
    fit = scenario.calibration.kernels.energy

    def mean(values: FloatArray) -> FloatArray:
        return (per_stage(values) * stages.number).sum(axis=0)  # type: ignore[no-any-return]

    matrix_s = mean((blocks.peak_s + blocks.kernel_s).sum(axis=0)) * in_situ
    talk_s = mean((blocks.tp_s + blocks.cp_s + blocks.ep_s).sum(axis=0))
    other_s = mean(blocks.stream_s.sum(axis=0)) * in_situ + talk_s
    matrix_j = scenario.calibration.steps.boost_energy * mean(flop_joules.sum(axis=0))
    other_j = fit.joules_per_byte * mean(blocks.bytes.sum(axis=0)) + fit.joules_per_link_byte * mean(
        blocks.link_bytes
    )
    return power_stretch(scenario.chip, fit, matrix_s, matrix_j, other_s, other_j)


def _energy(
    scenario: Scenario,
    blocks: BlockTimes,
    per_stage: _PerStage,
    stages: Stages,
    grid: PlanGrid,
    m: IntArray,
    total_s: FloatArray,
    flop_joules: FloatArray,
    stretch: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Joules, FLOPs without and with recompute of all chips in one step ``[plans]``."""
    fit = scenario.calibration.kernels.energy

    def everywhere(values: FloatArray) -> FloatArray:
        """Sum over all stages and micro-batches of one rank per stage."""
        return m * (per_stage(values) * stages.number).sum(axis=0)  # type: ignore[no-any-return]

    passes = np.array([1.0, 1.0, 1.0])
    if grid.recompute == "full":
        passes = np.array([2.0, 1.0, 1.0])
    flops = everywhere(np.tensordot(passes, blocks.flops, axes=1))
    boost = scenario.calibration.steps.boost_energy * stretch ** (1.0 - CLOCK_POWER)
    dynamic = boost * everywhere(np.tensordot(passes, flop_joules, axes=1))
    moved = everywhere(np.tensordot(passes, blocks.bytes, axes=1))
    sent = everywhere(blocks.link_bytes)
    ranks = grid.chips / grid.pp
    joules = chip_joules(fit, total_s * grid.pp, dynamic, moved, sent) * ranks
    return joules, everywhere(blocks.flops.sum(axis=0)) * ranks, flops * ranks
