"""Phases: seconds of forward, input gradient and weight gradient of one micro-batch on each class of stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ridgeline.facts.plan import SPLIT, IntArray, PlanGrid
from ridgeline.facts.stack import Stack
from ridgeline.graph.block_sums import over_blocks
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages, recomputed_share
from ridgeline.sim.layers import BlockTimes
from ridgeline.sim.program import FORWARD, INPUT_GRAD, WEIGHT_GRAD
from ridgeline.sim.reality import Reality


@dataclass(frozen=True, slots=True)
class Pace:
    """How much slower kernels run inside a step than alone: matrix kernels (power cap and in-situ), streams."""

    matrix: FloatArray
    stream: float


class Phases(NamedTuple):
    """Seconds of one micro-batch per stage class ``[4, plans]``."""

    forward_s: FloatArray
    input_grad_s: FloatArray  # with what is computed again
    weight_grad_s: FloatArray
    exposed_s: dict[str, FloatArray]  # tp, cp, ep: messages among these that nothing hides


def block_weights(stages: Stages, has_mtp: bool) -> FloatArray:
    """How many of each block (layers, embedding, head, mtp) a stage class holds ``[blocks, 4, plans]``."""
    kinds = len(stages.layers)
    weights = np.empty((kinds + 2 + has_mtp, *stages.head.shape))
    weights[:kinds], weights[kinds], weights[kinds + 1] = stages.layers, stages.embedding, stages.head
    if has_mtp:  # one prediction depth: its projection, one more layer and one more head on the last stage
        weights[kinds - 1] += stages.head
        weights[kinds + 1] *= 2.0
        weights[kinds + 2] = stages.head
    return weights


def phase_times(
    blocks: BlockTimes,
    weights: FloatArray,
    codes: IntArray,
    grid: PlanGrid,
    pace: Pace,
    real: Reality,
    hides: FloatArray,
    stack: Stack,
) -> Phases:
    """Sum the blocks of each stage class; ``hides`` is `two_at_hand`."""
    hidden_ep = blocks.ep_hidden_s
    # effects that differ from plan to plan need blocks plan by plan; otherwise one set per shape does
    shared = not any(
        isinstance(effect, np.ndarray) for effect in (real.kernels, real.streams, real.tp, real.cp, real.ep)
    )

    def at(values: FloatArray) -> FloatArray:
        return values if shared else values[..., codes]

    def apart(peak_s: FloatArray, stream_s: FloatArray) -> FloatArray:
        """Device time that the clock of matrix kernels does not touch."""
        return at(peak_s) * (1.0 - real.kernels) + at(stream_s) * (pace.stream * real.streams)

    talk = at(blocks.tp_s) * real.tp + at(blocks.cp_s) * real.cp + at(blocks.ep_s) * real.ep
    rest = apart(blocks.peak_s, blocks.stream_s) + talk
    matrix = at(blocks.matrix_s) * real.kernels
    rows = [*rest, *matrix]
    if grid.recompute == "full":  # embedding and head are never computed again
        layers = np.arange(len(rest[FORWARD]))[:, None] < blocks.num_layer_kinds
        repeated = rest[FORWARD] - apart(blocks.spared_peak_s, 0.0 * blocks.spared_peak_s)
        spared = at(blocks.spared_matrix_s) * real.kernels
        rows += [repeated * layers, (matrix[FORWARD] - spared) * layers]
    elif grid.recompute == "selective":
        rows.append(apart(blocks.selective_peak_s, blocks.selective_stream_s))
        rows.append(at(blocks.selective_matrix_s) * real.kernels)
    if hidden_ep is not None:
        rows += [*(at(hidden_ep) * real.ep)]
    sums = _per_stage(weights, np.stack(rows), codes if shared else None)
    forward, input_grad, weight_grad = sums[:3] + sums[3:6] * pace.matrix
    if hidden_ep is not None:
        forward, input_grad = forward - sums[-3] * hides, input_grad - sums[-2] * hides
    if grid.recompute != "none":
        again = sums[6] + sums[7] * pace.matrix
        share = recomputed_share(grid, weights[: blocks.num_layer_kinds].sum(axis=0))
        input_grad = input_grad + real.recompute * share * again
    # launching is a race: a pass ends when both the device and the host that feeds it are done
    split = grid.schedule in SPLIT
    ahead, *behind = _host(blocks, weights, codes, again=grid.recompute == "full", split=split)
    forward = forward + real.host * np.maximum(ahead - forward, 0.0)
    if split:  # two passes, two races: what one is late by is not the other's
        input_grad = input_grad + real.host * np.maximum(behind[0] - input_grad, 0.0)
        weight_grad = weight_grad + real.host * np.maximum(behind[1] - weight_grad, 0.0)
    else:
        input_grad = input_grad + real.host * np.maximum(behind[0] - input_grad - weight_grad, 0.0)
    if stack.hand_over:  # a blocking hand-over stops host and device alike, once each way
        blocked = real.host * stack.hand_over * (grid.pp > 1)
        forward, input_grad = forward + blocked, input_grad + blocked
    return Phases(forward, input_grad, weight_grad, _exposed(blocks, weights, codes, hides))


def two_at_hand(grid: PlanGrid, stack: Stack, num_micro_batches: IntArray) -> FloatArray:
    """Share of micro-batches that run beside another one's expert messages, 0 where none can ``[plans]``.

    A pipeline with one chunk per stage has no forward at hand when it runs a backward, and a layer computed again
    as a whole sends once more in between; Megatron-Core refuses both (``overlap_moe_expert_parallel_comm``). Without
    a pipeline the next micro-batch can come forward, which recipes did not use before they did so everywhere.

    A forward before the first backward has none beside it, nor has a backward after the last forward: on the mean
    stage ``pp - 1 + (vpp - 1) pp + 1 = vpp pp`` of ``m vpp`` passes over a chunk (warm-up of the interleaved schedule).
    """
    if grid.schedule == "dualpipe":
        return np.ones(len(grid))
    everywhere = stack.overlap_ep if grid.overlap_ep is None else grid.overlap_ep
    found = (grid.vpp > 1) | ((grid.pp == 1) & everywhere)
    beside = np.maximum(1.0 - grid.pp / num_micro_batches, 0.0)
    return np.asarray(found * beside * float(grid.recompute != "full"))


def _per_stage(weights: FloatArray, values: FloatArray, codes: IntArray | None) -> FloatArray:
    """Sums over the blocks of each stage class: ``[values, blocks, shapes]`` (or plans) to ``[values, 4, plans]``."""
    if codes is not None:
        values = np.take(values, codes, axis=-1)
    return over_blocks(weights, values)


def _host(
    blocks: BlockTimes, weights: FloatArray, codes: IntArray, *, again: bool, split: bool
) -> FloatArray:
    """Dispatch of the kernels of forward and of backward, or of its two passes where they are ``split``
    ``[2 or 3, 4, plans]``."""
    forward, grad, weight = (blocks.host_s[phase] for phase in (FORWARD, INPUT_GRAD, WEIGHT_GRAD))
    first = grad if split else grad + weight
    launched = [forward, first + forward if again else first, *([weight] if split else [])]
    return _per_stage(weights, np.stack(launched), codes)


def _exposed(
    blocks: BlockTimes, weights: FloatArray, codes: IntArray, hides: FloatArray
) -> dict[str, FloatArray]:
    """Exposed messages of each axis, all phases ``[4, plans]``."""
    axes = {"tp": blocks.tp_s, "cp": blocks.cp_s, "ep": blocks.ep_s}
    heard = [name for name, seconds in axes.items() if seconds.any()]
    found = {name: np.zeros(weights.shape[1:]) for name in axes}
    if heard:
        values = np.stack([axes[name].sum(axis=0) for name in heard])
        found.update(zip(heard, _per_stage(weights, values, codes), strict=True))
    if blocks.ep_hidden_s is not None:
        hidden = _per_stage(weights, blocks.ep_hidden_s.sum(axis=0)[None], codes)[0]
        found["ep"] = found["ep"] - hidden * hides
    return found
