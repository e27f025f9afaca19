"""Context axis: tokens of a sequence are divided; attention sees the other ranks' keys and values.

Zigzag layout: every rank holds an early and a late part, so causal work is equal (arXiv:2310.01889; Megatron-Core).
Keys and values travel around the ring: ``cp - 1`` passes forward, twice the bytes backward (with their gradients).
"""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import Block, FusedAttention, Gemm, Message, Op, change
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Divide tokens by ``cp`` and add the ring messages of attention."""
    cp = shape.cp
    if np.all(cp == 1.0):
        return block
    messages = [change(message, size=message.size / cp) for message in block.messages]
    for op in block.ops:
        if isinstance(op, FusedAttention):
            # keys and values of the whole sequence, as one rank has gathered them at the end [byte]
            gathered = 2.0 * op.batch * op.kv_len * op.kv_heads * (op.qk_dim + op.v_dim)
            messages.append(Message("kv ring", "cp", "all_gather", gathered, "forward", op.name))
            messages.append(Message("kv ring", "cp", "all_gather", 2.0 * gathered, "backward", op.name))
    return change(  # type: ignore[no-any-return]
        block,
        ops=tuple(_divide(op, shape) for op in block.ops),
        messages=tuple(messages),
        input_bytes=block.input_bytes / cp,
    )


def _divide(op: Op, shape: Shape) -> Op:
    cp = shape.cp
    if isinstance(op, FusedAttention):
        divided = change(op, q_len=op.q_len / cp, saved=op.saved / cp)
    elif isinstance(op, Gemm):
        divided = change(op, m=op.m / cp, saved=op.saved / cp)
    else:
        divided = change(
            op,
            forward_bytes=op.forward_bytes / cp,
            backward_bytes=op.backward_bytes / cp,
            saved=op.saved / cp,
        )
    return divided  # type: ignore[no-any-return]
