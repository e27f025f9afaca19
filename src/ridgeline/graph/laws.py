"""Laws: what every parallel pass must conserve. The rules of legal plans are in `ridgeline.graph.legality`.

A pass divides work over ranks, it neither makes nor loses any. With ``N = tp cp`` ranks on one micro-batch:

    FLOPs       N x FLOPs of a rank = FLOPs of one device x micro-batch x copies
    bytes       a message brings what the operator beside it reads or writes; forward and backward balance
    parameters  ranks x parameters of a rank = parameters of the model x copies

``copies`` are known: work outside tensor-parallel regions repeats on all ``tp`` ranks without sequence
parallelism, a key-value head is held by ``tp / kv_heads`` ranks where there are fewer heads than ranks,
norms and low-rank compressions by all.
"""

from __future__ import annotations

import math
from collections import defaultdict

from ridgeline.graph.legality import PlanError, Rule, check_plan, rules
from ridgeline.graph.model import Model
from ridgeline.graph.ops import (
    COLUMN,
    EXPERT,
    SEQUENCE,
    WHOLE,
    Block,
    FusedAttention,
    Gemm,
    Message,
    Op,
    Stream,
)
from ridgeline.graph.shape import Shape

__all__ = ["LawError", "PlanError", "Rule", "check_plan", "rules", "verify"]

_TOLERANCE = 1e-9


class LawError(AssertionError):
    """A parallel pass broke a conservation law: a mistake in our own code, never in a user's plan."""


def verify(model: Model, sharded: Model, shape: Shape) -> None:
    """Hold a sharded model to the laws; ``shape`` is one shape of plain floats (`Shape.at`).

    Raises:
        LawError: naming the block, the operator and both sides.
    """
    for before, after in zip(model.blocks, sharded.blocks, strict=True):
        _flops(before, after, shape)
        _messages(after, shape)
        _parameters(before, after, shape)


def _same(left: float, right: float, what: str) -> None:
    if not math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=1e-6):
        raise LawError(f"{what}: {left:.12g} is not {right:.12g}")


def copies(op: Op, shape: Shape) -> float:
    """How often the ranks of a tensor-parallel group do the same work of ``op``."""
    tp = float(shape.tp)
    if op.split == WHOLE or (op.split in (SEQUENCE, EXPERT) and not shape.sequence_parallel):
        return tp
    if isinstance(op, Gemm) and op.split == COLUMN and op.kv_columns:
        share = op.kv_columns / float(op.n)
        return 1.0 - share + share * tp / min(tp, op.kv_heads)
    return 1.0


def _flops(before: Block, after: Block, shape: Shape) -> None:
    ranks, work = float(shape.tp * shape.cp), float(shape.micro_batch)
    for one, part in zip(before.ops, after.ops, strict=True):
        if not isinstance(one, Stream):
            assert not isinstance(part, Stream)
            expected = float(one.flops) * work * copies(one, shape)
            _same(float(part.flops) * ranks, expected, f"FLOPs of {before.name}, {one.name} over all ranks")


def _messages(block: Block, shape: Shape) -> None:
    """Each message carries the tensor its operator reads or writes; an axis moves as much back as forth."""
    ops = {op.name: op for op in block.ops}
    moved: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for message in block.messages:
        size = float(message.size)
        where = f"bytes of {block.name}, {message.name}"
        _same(size, _tensor_bytes(message, ops[message.near]), where)
        way = 1 if message.phase == "backward" else 0
        if not message.name.endswith("again"):  # the second gather spares memory, it moves no new tensor
            moved[message.axis, message.near][way] += size
    for (axis, near), (forth, back) in moved.items():
        if axis == "cp" and isinstance(ops[near], FusedAttention):
            _same(back, 2.0 * forth, f"ring of {block.name}: backward carries keys, values and gradients")
        elif axis != "tp" or shape.sequence_parallel:
            # an all-reduce has its counterpart at the other end of the region, a gather or scatter here
            _same(back, forth, f"{axis} bytes of {block.name}, {near}, backward and forward")


def _tensor_bytes(message: Message, op: Op) -> float:
    """The tensor of ``op`` that ``message`` brings or takes, in bf16 [byte]."""
    if isinstance(op, FusedAttention):
        whole = 2.0 * float(op.batch * op.kv_len * op.kv_heads) * (op.qk_dim + op.v_dim)
        return whole * (2.0 if message.phase == "backward" else 1.0)
    if isinstance(op, Stream):
        return float(op.exchange if message.axis == "cp" else op.partial)
    wide = op.k if op.split == COLUMN or message.name == "dispatch" else op.n
    return 2.0 * float(op.m * wide)


def _parameters(before: Block, after: Block, shape: Shape) -> None:
    whole, part, tp = before.weights, after.weights, float(shape.tp)
    held = {
        "sharded": (part.sharded * tp, whole.sharded),
        "replicated": (part.replicated * tp, whole.replicated * tp),
        "key and value": (part.kv * tp, whole.kv * tp / min(tp, whole.kv_heads)),
        "expert": (part.expert * shape.ep * shape.etp, whole.expert),
    }
    for name, (ranks, expected) in held.items():
        _same(float(ranks), float(expected), f"{name} parameters of {before.name} over all ranks")
