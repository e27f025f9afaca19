"""A model's blocks: built once for one sequence on one device, then passed through the parallel axes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.blocks import embedding_block, head_block, layer_block, mtp_block
from ridgeline.graph.cache import by_identity
from ridgeline.graph.laws import verify
from ridgeline.graph.mixers import Style
from ridgeline.graph.model import Model
from ridgeline.graph.ops import Block, FusedAttention, Gemm
from ridgeline.graph.parallel import cp, dp, ep, tp
from ridgeline.graph.shape import AXES, Shape

__all__ = ["Model", "build", "model_flops", "shard"]


@by_identity
def build(arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe) -> Model:
    """The single-device model for one sequence. Cached by identity of its facts, which are frozen."""
    lora = job.kind == "lora"
    style = Style(
        seq=float(job.seq),
        document=float(job.packed or job.seq),
        stack=stack,
        recipe=recipe,
        rotary=not (arch.positions or arch.embedding_norm),
        trained=not lora,
        lora_rank=job.lora_rank if lora else 0,
    )
    return Model(
        layers=tuple(layer_block(arch, layer, style) for layer in arch.layers),
        embedding=embedding_block(arch, style),
        head=head_block(arch, style),
        mtp=mtp_block(arch, style) if job.mtp else None,
    )


def shard(model: Model, shape: Shape) -> Model:
    """Pass every block through the axes micro-batch, tensor, context and expert, but for those that are all
    1.

    Cached; the conservation laws are checked on the first shape of each combination of axes.

    Raises:
        LawError: a pass lost or made FLOPs, bytes or parameters: a mistake in our own code.
    """
    degrees = tuple(np.asarray(getattr(shape, name), dtype=np.float64).tobytes() for name in AXES)
    return _shard(model, degrees, shape.sequence_parallel)


@lru_cache(maxsize=64)
def _shard(model: Model, degrees: tuple[bytes, ...], sequence_parallel: bool) -> Model:
    columns = {
        name: np.frombuffer(column, dtype=np.float64) for name, column in zip(AXES, degrees, strict=True)
    }
    shape = Shape(**columns, sequence_parallel=sequence_parallel)
    used = tuple(bool((column != 1.0).any()) for column in columns.values())
    many = shape.tp.size > 1
    sharded = _through(model, shape if many else shape.at(0), used)
    structure = (model, sequence_parallel, used)
    if structure not in _VERIFIED:
        if len(_VERIFIED) >= 256:
            _VERIFIED.clear()
        verify(model, sharded if not many else _through(model, shape.at(0), used), shape.at(0))
        _VERIFIED.add(structure)
    return sharded


_VERIFIED: set[tuple[Model, bool, tuple[bool, ...]]] = set()


def _through(model: Model, shape: Shape, used: tuple[bool, ...]) -> Model:
    uses = dict(zip(AXES, used, strict=True))
    passes = [
        axis.apply
        for axis, wanted in (
            (dp, uses["micro_batch"]),
            (tp, uses["tp"]),
            (cp, uses["cp"]),
            (ep, uses["ep"] or uses["etp"]),
        )
        if wanted
    ]

    def through(block: Block) -> Block:
        for apply in passes:
            block = apply(block, shape)
        return block

    return Model(
        layers=tuple(through(block) for block in model.layers),
        embedding=through(model.embedding),
        head=through(model.head),
        mtp=through(model.mtp) if model.mtp else None,
    )


def model_flops(
    arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe, *, full_attention: bool = False
) -> float:
    """FLOPs that one training step needs on any machine: matmul weights and attention, forward and backward.

    Attention counts the computed half of causal pairs; ``full_attention`` counts all of them, as Megatron
    reports. Recompute is never counted. LoRA needs no weight gradients: 4 instead of 6 FLOPs per weight and
    token.
    """
    return _sequence_flops(arch, job, _fused(stack), recipe, full_attention) * job.batch


@by_identity
def _sequence_flops(
    arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe, full_attention: bool
) -> float:
    model = build(arch, job, stack, recipe)
    head = _block_flops(model.head, full_attention)
    layers = [_block_flops(block, full_attention) for block in model.layers]
    total = head + sum(layer.count * flops for layer, flops in zip(arch.layers, layers, strict=True))
    if model.mtp:
        total += job.mtp * (_block_flops(model.mtp, full_attention) + layers[-1] + head)
    return total


@by_identity
def _fused(stack: Stack) -> Stack:
    """The stack with fused attention: what is needed does not depend on how a kernel wastes work."""
    return stack if stack.attention == "flash" else stack.model_copy(update={"attention": "flash"})


def _block_flops(block: Block, full_attention: bool) -> float:
    total = 0.0
    for op in block.ops:
        if isinstance(op, Gemm):
            total += float(op.flops) * (3.0 if op.trained or not op.weight else 2.0)
        elif isinstance(op, FusedAttention):
            total += 3.0 * float(op.flops) / (float(op.share) if full_attention else 1.0)
    return total
