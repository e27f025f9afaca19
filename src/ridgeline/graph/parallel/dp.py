"""Data axis: a rank works on ``micro_batch`` sequences at a time. Gradients are reduced once per step (see
sim).
"""

from __future__ import annotations

from ridgeline.graph.ops import Block, FusedAttention, Gemm, Op, Size, change
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Scale a one-sequence block to a micro-batch."""
    b = shape.micro_batch
    return change(
        block,
        ops=tuple(_scale(op, b) for op in block.ops),
        messages=tuple(change(message, size=message.size * b) for message in block.messages),
        input_bytes=block.input_bytes * b,
    )


def _scale(op: Op, b: Size) -> Op:
    if isinstance(op, FusedAttention):
        return change(op, batch=op.batch * b, saved=op.saved * b)
    if isinstance(op, Gemm):
        saved, saved_out = op.saved * b, op.saved_out * b
        if op.weight:
            return change(op, m=op.m * b, saved=saved, saved_out=saved_out)
        return change(op, batch=op.batch * b, saved=saved, saved_out=saved_out)
    return change(
        op,
        forward_bytes=op.forward_bytes * b,
        backward_bytes=op.backward_bytes * b,
        saved=op.saved * b,
        transient=op.transient * b,
        exchange=op.exchange * b,
        partial=op.partial * b,
    )
