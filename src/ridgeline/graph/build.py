"""A model's blocks: built once for one sequence on one device, then passed through the parallel axes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.blocks import embedding_block, head_block, layer_block, mtp_block
from ridgeline.graph.mixers import Style
from ridgeline.graph.ops import Block, FusedAttention, Gemm
from ridgeline.graph.parallel import cp, dp, ep, tp
from ridgeline.graph.shape import Shape


@dataclass(frozen=True, slots=True)
class Model:
    """Blocks of a model: one per layer kind (in the order of ``Architecture.layers``) and its ends."""

    layers: tuple[Block, ...]
    embedding: Block
    head: Block
    mtp: Block | None  # projection and norms of one multi-token-prediction depth

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Layers, embedding, head and, where it is trained, the extra block of multi-token prediction."""
        ends = (self.embedding, self.head)
        return self.layers + ends + ((self.mtp,) if self.mtp else ())


_BUILT: dict[tuple[int, ...], tuple[tuple[object, ...], Model]] = {}


def build(arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe) -> Model:
    """The single-device model for one sequence. Cached by identity of its facts, which are frozen."""
    facts = (arch, job, stack, recipe)
    key = tuple(id(fact) for fact in facts)
    cached = _BUILT.get(key)
    if cached is None:
        if len(_BUILT) > 64:
            _BUILT.clear()
        # the facts are kept beside the model: while they live, their ids cannot be given to others
        cached = _BUILT[key] = (facts, _build(arch, job, stack, recipe))
    return cached[1]


def _build(arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe) -> Model:
    lora = job.kind == "lora"
    style = Style(
        seq=float(job.seq),
        document=float(job.packed or job.seq),
        stack=stack,
        recipe=recipe,
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
    """Pass every block through the axes: micro-batch, context, tensor, expert."""

    def through(block: Block) -> Block:
        return ep.apply(tp.apply(cp.apply(dp.apply(block, shape), shape), shape), shape)

    return Model(
        layers=tuple(through(block) for block in model.layers),
        embedding=through(model.embedding),
        head=through(model.head),
        mtp=through(model.mtp) if model.mtp else None,
    )


def model_flops(
    arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe, *, full_attention: bool = False
) -> float:
    """FLOPs that training needs for one step on any machine: matmul weights and attention, forward and backward.

    Attention counts the computed half of causal pairs; ``full_attention`` counts all of them, as Megatron reports.
    Recompute is never counted. LoRA needs no weight gradients: 4 instead of 6 FLOPs per weight and token.
    """
    needed = _fused(stack)
    model = build(arch, job, needed, recipe)
    head = _block_flops(model.head, full_attention)
    per_sequence = head + sum(
        layer.count * _block_flops(block, full_attention)
        for block, layer in zip(model.layers, arch.layers, strict=True)
    )
    if model.mtp:
        extra = (
            _block_flops(model.mtp, full_attention) + _block_flops(model.layers[-1], full_attention) + head
        )
        per_sequence += job.mtp * extra
    return per_sequence * job.batch


@lru_cache(maxsize=64)
def _fused_by_name(stack: _ById) -> Stack:
    return stack.value.model_copy(update={"attention": "flash"})


def _fused(stack: Stack) -> Stack:
    """The stack with fused attention: what is needed does not depend on how a kernel wastes work."""
    return stack if stack.attention == "flash" else _fused_by_name(_ById(stack))


class _ById:
    """Hashable handle of a frozen spec that holds dictionaries."""

    def __init__(self, value: Stack) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.value is self.value


def _block_flops(block: Block, full_attention: bool) -> float:
    total = 0.0
    for op in block.ops:
        if isinstance(op, Gemm):
            total += float(op.flops) * (3.0 if op.trained or not op.weight else 2.0)
        elif isinstance(op, FusedAttention):
            total += 3.0 * float(op.flops) / (float(op.share) if full_attention else 1.0)
    return total
