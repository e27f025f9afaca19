"""Memory per chip and pipeline stage, by kind, at the moment of its peak.

All arrays are ``[4, plans]`` bytes: stage classes first, second, middle, last on axis 0. The peak of a stage is at
the end of its last warm-up forward: states, the activations of every micro-batch in flight, and the working set of
the layer that runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import IntArray, Plan, PlanGrid
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.ops import Block, FloatArray, FusedAttention
from ridgeline.graph.parallel.pp import Stages
from ridgeline.graph.shape import Shape

KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "reserve")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters on one chip: dense ones are sharded over the data axis, experts over what is left of it."""

    dense: FloatArray  # [4, plans]
    expert: FloatArray
    trained: FloatArray  # share of the dense ones that has gradients
    trained_expert: FloatArray
    largest_layer: FloatArray  # [plans], dense and expert parameters of the largest layer, before sharding
    dense_shards: FloatArray  # [plans]
    expert_shards: FloatArray


def parameters(
    model: Model, shape: Shape, codes: IntArray, stages: Stages, plan: Plan | PlanGrid, tied: bool
) -> Parameters:
    """Parameters per chip of each stage class."""
    tp, ep = shape.tp, shape.ep * shape.etp

    def dense(block: Block) -> FloatArray:
        return (block.weights.sharded / tp + block.weights.replicated)[codes]  # type: ignore[no-any-return]

    def expert(block: Block) -> FloatArray:
        return (block.weights.expert / ep)[codes]  # type: ignore[no-any-return]

    per_layer = np.stack([dense(block) for block in model.layers])[:, None]
    per_expert = np.stack([expert(block) for block in model.layers])[:, None]
    n_dense = (stages.layers * per_layer).sum(axis=0)
    n_expert = (stages.layers * per_expert).sum(axis=0)
    n_dense = n_dense + stages.embedding * dense(model.embedding)
    head = dense(model.head)
    if tied:  # the last stage keeps a copy of the embedding
        away = (stages.head - stages.embedding * stages.head) * dense(model.embedding)
        n_dense = n_dense + stages.head * head + away
    else:
        n_dense = n_dense + stages.head * head
    if model.mtp:
        n_dense = n_dense + stages.head * (dense(model.mtp) + per_layer[-1])
        n_expert = n_expert + stages.head * per_expert[-1]
    shards = np.asarray(plan.dp * plan.cp / plan.replicas, dtype=np.float64)
    share = max(block.weights.trained for block in model.layers)
    ones = np.ones_like(n_dense)
    spread = np.asarray(plan.tp * plan.cp * plan.dp / (plan.ep * plan.etp * plan.replicas), dtype=np.float64)
    return Parameters(
        dense=n_dense,
        expert=n_expert,
        trained=share * ones,
        trained_expert=share * ones,
        largest_layer=(per_layer + per_expert).max(axis=0)[0],
        dense_shards=np.maximum(shards, 1.0) * ones[0],
        expert_shards=np.maximum(spread, 1.0) * ones[0],
    )


def activation_bytes(block: Block, shape: Shape, recompute: str) -> FloatArray:
    """Bytes of one layer and micro-batch kept between forward and backward ``[shapes]``."""
    if recompute == "full":
        return np.broadcast_to(np.asarray(block.input_bytes, dtype=np.float64), shape.tp.shape)
    kept = np.zeros_like(shape.tp)
    for op in block.ops:
        if recompute == "selective" and op.selective and not isinstance(op, FusedAttention):
            continue
        kept = kept + op.saved
    return kept


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
    """Peak bytes per kind ``[4, plans]``; ``in_flight`` is in micro-batches of a whole stage ``[4, plans]``."""
    d, e = params.dense * parameter_copies, params.expert * parameter_copies
    ds, es = params.dense_shards, params.expert_shards
    zero = plan.zero
    grad_bytes = recipe.grad_bytes if stack.grad_fp32 else min(recipe.grad_bytes, 2.0)
    state_bytes = recipe.master_bytes + recipe.moment_bytes
    td, te = d * params.trained, e * params.trained_expert

    weights = (d / ds + e / es if zero == 3 else d + e) * recipe.weight_bytes
    gradients = (td / ds + te / es if zero >= 2 else td + te) * grad_bytes
    optimizer = (td / ds + te / es if zero >= 1 else td + te) * state_bytes
    buffers = np.zeros_like(d)
    if zero == 3:
        # two layers are gathered at a time, their gradients not yet reduced
        if not plan.fsdp_reshard:
            weights = weights + (d + e) * recipe.gather_bytes
        buffers = buffers + 2.0 * params.largest_layer * (recipe.gather_bytes + 2.0 * params.trained)
    if plan.offload_optimizer:
        optimizer = np.zeros_like(optimizer)

    activations, working = _activations(model, shape, codes, stages, plan, in_flight)
    if plan.offload_activations:
        activations = activations * 0.0 + 2.0 * activations / np.maximum(
            in_flight * stages.layers.sum(axis=0), 1.0
        )
    sequence = np.asarray(2.0 * model.layers[0].input_bytes * shape.sequence_split)[codes]
    buffers = buffers + np.where(np.asarray(plan.tp) > 1, sequence, 0.0)
    logits = stages.head * activation_bytes(model.head, shape, "none")[codes]
    embedded = stages.embedding * activation_bytes(model.embedding, shape, "none")[codes]
    live = activations + working + embedded + logits + buffers
    reserve = stack.reserve + stack.fragmentation * live
    exists = stages.number > 0
    parts = (weights, gradients, optimizer, activations + working + embedded, logits, buffers, reserve)
    return {kind: np.where(exists, part, 0.0) for kind, part in zip(KINDS, parts, strict=True)}


def _activations(
    model: Model, shape: Shape, codes: IntArray, stages: Stages, plan: Plan | PlanGrid, in_flight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Kept activations, and the working set of the one layer that is computed again ``[4, plans]``."""

    def per_layer(recompute: str) -> FloatArray:
        return np.stack([activation_bytes(block, shape, recompute)[codes] for block in model.layers])[:, None]

    layers = stages.layers
    full_saved = per_layer("none") if plan.recompute != "selective" else per_layer("selective")
    if plan.recompute == "full":
        inputs = per_layer("full")
        total = layers.sum(axis=0)
        chosen = np.asarray(plan.recompute_layers, dtype=np.float64)
        share = np.where(chosen < 0, 1.0, np.minimum(chosen / np.maximum(total, 1e-9), 1.0))
        kept = (layers * (share * inputs + (1.0 - share) * full_saved)).sum(axis=0) * in_flight
        working = np.broadcast_to(full_saved.max(axis=0), kept.shape) * (share > 0)
    else:
        kept = (layers * full_saved).sum(axis=0) * in_flight
        working = np.zeros_like(kept)
    if model.mtp:
        extra = stages.head * (full_saved[-1] + activation_bytes(model.mtp, shape, "none")[codes])
        kept = kept + extra
    return kept, working
