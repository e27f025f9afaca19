"""Memory per chip and pipeline stage, by kind, at the moment of its peak.

All arrays are ``[4, plans]`` bytes: stage classes first, second, middle, last on axis 0. States (weights,
gradients, optimizer) are always there; of what comes and goes, three moments can be the peak, all after the
last warm-up forward with every micro-batch in flight:

    loss    on the stage with the head: the logits, their softmax and their gradient
    head    the backward of the output layer: gradient of the logits and of the output matrix
    layer   the backward of a layer, computed again before where recompute is full, with what it makes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import IntArray, Plan, PlanGrid
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.graph.activations import activation_bytes, gradient_bytes, largest_matrix, working_bytes
from ridgeline.graph.model import Model
from ridgeline.graph.ops import FloatArray, Gemm, Size, Stream
from ridgeline.graph.parallel.pp import Stages, recomputed_share
from ridgeline.graph.parameters import Parameters, parameters
from ridgeline.graph.shape import Shape

__all__ = ["KINDS", "Parameters", "memory_by_kind", "parameters"]

KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve")


@dataclass(frozen=True, slots=True)
class _Run:
    """What is trained and how: the arguments of `memory_by_kind` that every part of it reads."""

    model: Model
    shape: Shape
    codes: IntArray
    stages: Stages
    plan: Plan | PlanGrid
    params: Parameters
    stack: Stack
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class _Moment:
    """Bytes of one candidate for the peak ``[4, plans]``."""

    activations: FloatArray
    logits: FloatArray
    buffers: FloatArray

    @property
    def live(self) -> FloatArray:
        return self.activations + self.logits + self.buffers


def memory_by_kind(
    model: Model,
    shape: Shape,
    codes: IntArray,
    stages: Stages,
    plan: Plan | PlanGrid,
    params: Parameters,
    stack: Stack,
    recipe: Recipe,
    in_flight: FloatArray,
    parameter_copies: float,
) -> dict[str, FloatArray]:
    """Peak bytes per kind ``[4, plans]``; ``in_flight`` counts micro-batches of a whole stage, same shape."""
    run = _Run(model, shape, codes, stages, plan, params, stack, recipe)
    weights, gradients, optimizer = _states(run, parameter_copies)
    moments = _moments(run, in_flight)
    peak = moments[0]
    for other in moments[1:]:
        later = other.live > peak.live
        peak = _Moment(*(np.where(later, getattr(other, kind), getattr(peak, kind)) for kind in KINDS[3:6]))
    reserve = stack.reserve + stack.fragmentation * peak.live
    exists = stages.number > 0
    parts = (weights, gradients, optimizer, peak.activations, peak.logits, peak.buffers, reserve)
    return {kind: np.where(exists, part, 0.0) for kind, part in zip(KINDS, parts, strict=True)}


def _states(run: _Run, copies: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Weights, gradients and optimizer state of one chip.

    ZeRO (arXiv:1910.02054, fig. 1): stage 1 shards the optimizer, 2 the gradients, 3 the weights. Without
    resharding after forward, stage 3 keeps the gathered weights too; under a pipeline it reduces after the
    last micro-batch, so that whole gradients stay beside the sharded ones.
    """
    plan, params, recipe = run.plan, run.params, run.recipe
    d, e = params.dense * copies, params.expert * copies
    ds, es = params.dense_shards, params.expert_shards
    td, te = d * params.trained, e * params.trained_expert
    grad_bytes = recipe.grad_bytes if run.stack.grad_fp32 else min(recipe.grad_bytes, 2.0)
    state_bytes = recipe.master_bytes + recipe.moment_bytes
    # a frozen matrix has no master copy to be made from: it is stored once, in the format it is multiplied in
    frozen = min(recipe.weight_bytes, recipe.saved_linear_bytes)
    share = td / np.maximum(d, 1.0)
    dense_bytes = np.where(share < 0.5, frozen, recipe.weight_bytes)
    expert_bytes = np.where(params.trained_expert < 0.5, frozen, recipe.weight_bytes)

    if plan.zero == 3:
        weights = d / ds * dense_bytes + e / es * expert_bytes
        if not plan.fsdp_reshard:
            weights = weights + (d + e) * recipe.gather_bytes
    else:
        weights = d * dense_bytes + e * expert_bytes
    sharded = td / ds + te / es
    gradients = (sharded if plan.zero >= 2 else td + te) * grad_bytes
    if plan.zero == 2:  # gradients of a chunk are summed over a row of micro-batches before they are sharded
        gradients = (
            gradients + np.where(np.asarray(plan.vpp) > 1, (td + te) / np.asarray(plan.vpp), 0.0) * grad_bytes
        )
    if plan.zero == 3:
        gradients = gradients + np.where(np.asarray(plan.pp) > 1, (td + te) * grad_bytes, 0.0)
    optimizer = (sharded if plan.zero >= 1 else td + te) * state_bytes
    if plan.offload_optimizer:
        optimizer = np.zeros_like(optimizer)
    return weights, gradients, optimizer


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of operators looked up for each plan: sizes of a sharded model have one value for each shape."""

    count: int
    codes: IntArray

    def __call__(self, *sizes: Size) -> FloatArray:
        """Floats or ``[shapes]`` -> ``[sizes, plans]``."""
        table = np.empty((len(sizes), self.count))
        for row, size in enumerate(sizes):
            table[row] = size
        return table[:, self.codes]


def _moments(run: _Run, in_flight: FloatArray) -> tuple[_Moment, ...]:
    """What comes and goes at each candidate for the peak."""
    model, sizes = run.model, _Sizes(run.shape.tp.size, run.codes)
    kept, again = _kept(run, sizes, in_flight)
    standing, passing = _buffers(run, sizes)
    working = sizes(*(working_bytes(block) for block in model.layers)).max(axis=0)
    loss, head = _loss_and_output(model)
    softmax, made, inputs, gradient, output_work, output_gradient = sizes(
        loss.saved,
        loss.transient,
        activation_bytes(model.head, "none") - loss.saved,
        2.0 * head.m * head.n,
        4.0 * head.m * head.k,
        gradient_bytes(model.head),
    )
    # a prediction depth has a loss of its own, and its softmax waits beside the first
    waiting = softmax if model.mtp else np.zeros_like(softmax)
    here = run.stages.head
    return (
        _Moment(kept + again + working, np.zeros_like(kept), standing + passing),
        _Moment(kept + here * inputs, here * (softmax + waiting + made), standing),
        _Moment(
            kept + here * (inputs + output_work),
            here * (gradient + waiting),
            standing + here * output_gradient,
        ),
    )


def _kept(run: _Run, sizes: _Sizes, in_flight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Activations that wait for their backward ``[4, plans]``, and those of a layer that is computed again."""
    model, plan, stages = run.model, run.plan, run.stages
    layers = stages.layers
    policy = "selective" if plan.recompute == "selective" else "none"
    saved = sizes(*(activation_bytes(block, policy) for block in model.layers))
    each, again = saved[:, None], np.zeros_like(in_flight)
    if plan.recompute == "full":
        inputs = sizes(*(block.input_bytes for block in model.layers))
        share = recomputed_share(plan, layers.sum(axis=0))
        each = share * inputs[:, None] + (1.0 - share) * saved[:, None]
        again = np.where(share > 0.0, saved.max(axis=0), 0.0)
    # offloaded: two layers' worth is on the chip, the rest is at the host or on its way
    held = 2.0 / np.maximum(layers.sum(axis=0), 1.0) if plan.offload_activations else in_flight
    kept = (layers * each).sum(axis=0) * held
    kept = kept + stages.embedding * sizes(activation_bytes(model.embedding, "none"))[0] * in_flight
    if model.mtp:
        kept = kept + stages.head * (saved[-1] + sizes(activation_bytes(model.mtp, policy))[0])
    return kept, again


def _buffers(run: _Run, sizes: _Sizes) -> tuple[FloatArray, FloatArray]:
    """Bytes beside states and activations ``[4, plans]``: always there, and under the backward of a layer.

    Tensor parallelism keeps a buffer for one gathered sequence. Below ZeRO stage 3 the weight gradients of
    one layer, as its matmuls hand them over, stand beside the gradient buffer (Megatron keeps one such tensor
    for each matrix shape). With stage 3 two units are gathered at a time, and the gradient of one and its
    copy that is being reduced are there: FSDP's unit is a layer, with embedding and head gathered throughout;
    compilers and DeepSpeed go matrix by matrix.
    """
    model, plan, params, recipe = run.model, run.plan, run.params, run.recipe
    sequence = sizes(model.layers[0].input_bytes * run.shape.sequence_split)[0]
    standing = np.where(np.asarray(plan.tp) > 1, sequence, 0.0) + np.zeros_like(params.dense)
    passing = np.zeros_like(params.dense)
    if plan.zero < 3:
        handed = sizes(*(gradient_bytes(block) for block in model.layers)).max(axis=0)
        return standing + handed, passing
    unit, root = params.largest_layer, params.ends
    if run.stack.framework != "fsdp":
        unit = sizes(*(largest_matrix(block) for block in model.layers)).max(axis=0)
        root = passing
    if plan.fsdp_reshard:
        standing = standing + (root + 2.0 * unit) * recipe.gather_bytes
    return standing, unit * params.trained * (2.0 + recipe.grad_reduce_bytes)


def _loss_and_output(model: Model) -> tuple[Stream, Gemm]:
    """The loss and the output layer of the head block."""
    loss, head = model.head.ops[-1], model.head.ops[-2]
    assert isinstance(loss, Stream)
    assert isinstance(head, Gemm)
    return loss, head
