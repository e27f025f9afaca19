"""Tensor axis: features and heads are divided, with or without sequence parallelism.

Megatron (arXiv:1909.08053): one all-reduce after each row-parallel layer forward and before each column-
parallel layer backward. With sequence parallelism (arXiv:2205.05198, fig. 5) each becomes an all-gather and
a reduce-scatter, and backward gathers the column input once more for its weight gradient.
"""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import (
    COLUMN,
    EXPERT,
    HEADS,
    ROW,
    SEQUENCE,
    SHARD,
    Block,
    FloatArray,
    FusedAttention,
    Gemm,
    Message,
    Op,
    Size,
    Stream,
    change,
)
from ridgeline.graph.shape import Shape

_FEATURES = frozenset((SHARD, HEADS, COLUMN, ROW))
# expert rows start as a rank's own tokens; the ep pass goes on from there
_TOKENS = frozenset((SEQUENCE, EXPERT))


def apply(block: Block, shape: Shape) -> Block:
    """Divide dimensions and weights by ``tp`` and add the messages of each linear layer."""
    messages = list(block.messages)
    for op in block.ops:
        messages += _messages(op, shape)
    held = block.weights
    return change(
        block,
        ops=tuple(_divide(op, shape) for op in block.ops),
        messages=tuple(messages),
        input_bytes=block.input_bytes / divisor(block.input_split, shape),
        weights=change(held, sharded=held.sharded / shape.tp, kv=held.kv / _head_ranks(held.kv_heads, shape)),
    )


def divisor(split: str, shape: Shape) -> FloatArray | float:
    """By how much bytes of a tensor in region ``split`` are divided on each rank."""
    if split in _FEATURES:
        return shape.tp
    if split in _TOKENS and shape.sequence_parallel:
        return shape.tp
    return 1.0


def _head_ranks(kv_heads: float, shape: Shape) -> Size:
    """Over how many ranks key-value heads are spread: each holds at least one, copies beyond that."""
    tp = shape.tp
    return min(tp, kv_heads) if isinstance(tp, float) else np.minimum(tp, kv_heads)


def _divide(op: Op, shape: Shape) -> Op:
    tp = shape.tp
    saved = op.saved / divisor(op.saved_split, shape)
    if isinstance(op, FusedAttention):
        return change(
            op,
            heads=op.heads / tp,
            kv_heads=op.kv_heads / _head_ranks(float(op.kv_heads), shape),
            saved=saved,
        )
    if isinstance(op, Gemm):
        if op.split == COLUMN:
            n = op.n / tp
            if op.kv_columns:
                n = (op.n - op.kv_columns) / tp + op.kv_columns / _head_ranks(op.kv_heads, shape)
            return change(op, n=n, saved=saved, saved_out=op.saved_out * n / op.n)
        if op.split == ROW:
            return change(op, k=op.k / tp, saved=saved)
        if op.split == HEADS:
            return change(op, batch=op.batch / tp, saved=saved)
        return change(op, m=op.m / divisor(op.split, shape), saved=saved)
    by = divisor(op.split, shape)
    return change(
        op,
        forward_bytes=op.forward_bytes / by,
        backward_bytes=op.backward_bytes / by,
        saved=saved,
        transient=op.transient / by,
        exchange=op.exchange / by,
    )


def _messages(op: Op, shape: Shape) -> list[Message]:
    """Messages around one layer; sizes are of the whole activation in bf16, as each rank gathers it."""
    if isinstance(op, Stream):
        return _lookup(op, shape) if op.name == "embedding" else []
    if not isinstance(op, Gemm) or not op.weight or not op.talks or op.split not in (COLUMN, ROW):
        return []
    name = op.name
    if op.split == COLUMN:
        size = 2.0 * op.m * op.k
        if not shape.sequence_parallel:
            return [
                Message(f"{name} input gradient", "tp", "all_reduce", size, "backward", name, native=True)
            ]
        again = [Message(f"{name} input again", "tp", "all_gather", size, "backward", name, native=True)]
        return [
            Message(f"{name} input", "tp", "all_gather", size, "forward", name),
            *(again if op.trained else []),  # the weight gradient reads it
            Message(f"{name} input gradient", "tp", "reduce_scatter", size, "backward", name, native=True),
        ]
    size = 2.0 * op.m * op.n
    if not shape.sequence_parallel:
        return [Message(f"{name} output", "tp", "all_reduce", size, "forward", name)]
    return [
        Message(f"{name} output", "tp", "reduce_scatter", size, "forward", name),
        Message(f"{name} output gradient", "tp", "all_gather", size, "backward", name),
    ]


def _lookup(op: Stream, shape: Shape) -> list[Message]:
    """Each rank looks up its part of the vocabulary; the sum over ranks is the embedding."""
    if not shape.sequence_parallel:
        return [Message("embedding output", "tp", "all_reduce", op.partial, "forward", op.name)]
    return [
        Message("embedding output", "tp", "reduce_scatter", op.partial, "forward", op.name),
        Message("embedding output gradient", "tp", "all_gather", op.partial, "backward", op.name),
    ]
