"""Tensor axis: features and heads are divided, with or without sequence parallelism.

Megatron (arXiv:1909.08053): one all-reduce after each row-parallel layer forward and before each column-parallel
layer backward. With sequence parallelism (arXiv:2205.05198, fig. 5) each becomes an all-gather and a reduce-scatter,
and backward gathers the column input once more for its weight gradient.
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
    change,
)
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Divide dimensions by ``tp`` and add the messages of each linear layer."""
    if np.all(shape.tp == 1.0):
        return block
    messages = [change(message, size=message.size / shape.tp) for message in block.messages]
    for op in block.ops:
        messages += _messages(op, shape)
    return change(  # type: ignore[no-any-return]
        block,
        ops=tuple(_divide(op, shape) for op in block.ops),
        messages=tuple(messages),
        input_bytes=block.input_bytes / shape.sequence_split,
    )


def divisor(split: str, shape: Shape) -> FloatArray | float:
    """By how much bytes of a tensor in region ``split`` are divided on each rank."""
    if split in (SHARD, HEADS, COLUMN, ROW):
        return shape.tp
    if split in (
        SEQUENCE,
        EXPERT,
    ):  # expert rows start as a rank's own tokens; the ep pass goes on from there
        return shape.sequence_split
    return 1.0


def _divide(op: Op, shape: Shape) -> Op:
    tp = shape.tp
    saved = op.saved / divisor(op.saved_split, shape)
    if isinstance(op, FusedAttention):
        return change(op, heads=op.heads / tp, kv_heads=np.maximum(op.kv_heads / tp, 1.0), saved=saved)  # type: ignore[no-any-return]
    if isinstance(op, Gemm):
        if op.split == COLUMN:
            return change(op, n=op.n / tp, saved=saved)  # type: ignore[no-any-return]
        if op.split == ROW:
            return change(op, k=op.k / tp, saved=saved)  # type: ignore[no-any-return]
        if op.split == HEADS:
            return change(op, batch=op.batch / tp, saved=saved)  # type: ignore[no-any-return]
        return change(op, m=op.m / divisor(op.split, shape), saved=saved)  # type: ignore[no-any-return]
    by = divisor(op.split, shape)
    return change(  # type: ignore[no-any-return]
        op, forward_bytes=op.forward_bytes / by, backward_bytes=op.backward_bytes / by, saved=saved
    )


def _messages(op: Op, shape: Shape) -> list[Message]:
    """Messages around one linear layer; sizes are of the whole activation in bf16, as each rank gathers it."""
    if not isinstance(op, Gemm) or not op.weight or op.split not in (COLUMN, ROW):
        return []
    name = op.name
    if op.split == COLUMN:
        size = 2.0 * op.m * op.k
        if not shape.sequence_parallel:
            return [
                Message(f"{name} input gradient", "tp", "all_reduce", size, "backward", name, native=True)
            ]
        return [
            Message(f"{name} input", "tp", "all_gather", size, "forward", name),
            Message(f"{name} input again", "tp", "all_gather", size, "backward", name, native=True),
            Message(f"{name} input gradient", "tp", "reduce_scatter", size, "backward", name, native=True),
        ]
    size = 2.0 * op.m * op.n
    if not shape.sequence_parallel:
        return [Message(f"{name} output", "tp", "all_reduce", size, "forward", name)]
    return [
        Message(f"{name} output", "tp", "reduce_scatter", size, "forward", name),
        Message(f"{name} output gradient", "tp", "all_gather", size, "backward", name),
    ]
