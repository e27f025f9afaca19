"""Context axis: tokens of a sequence are divided; attention sees the other ranks' keys and values.

Zigzag layout: every rank holds an early and a late part, so causal work is equal (arXiv:2310.01889;
Megatron-Core). Keys and values travel around the ring: ``cp - 1`` passes forward, twice the bytes backward
(with their gradients). State-space and linear-attention mixers swap tokens for heads before their scan and
back after it (Megatron- Core).
"""

from __future__ import annotations

from ridgeline.graph.ops import Block, FusedAttention, Gemm, Message, Op, Stream, change
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Divide tokens by ``cp`` and add the messages of attention and scans."""
    cp = shape.cp
    ops = tuple(_divide(op, shape) for op in block.ops)
    messages = [change(message, size=message.size / cp) for message in block.messages]
    for op in ops:
        messages += _messages(op)
    return change(block, ops=ops, messages=tuple(messages), input_bytes=block.input_bytes / cp)


def _messages(op: Op) -> list[Message]:
    if isinstance(op, FusedAttention):
        # keys and values of the whole sequence, as one rank has gathered them at the end [byte]
        gathered = 2.0 * op.batch * op.kv_len * op.kv_heads * (op.qk_dim + op.v_dim)
        return [
            Message("kv ring", "cp", "all_gather", gathered, "forward", op.name),
            Message("kv ring", "cp", "all_gather", 2.0 * gathered, "backward", op.name),
        ]
    if isinstance(op, Stream) and op.name in ("scan", "recurrence"):
        return [
            Message("heads for tokens", "cp", "all_to_all", op.exchange, phase, op.name)
            for phase in ("forward", "backward")
        ]
    return []


def _divide(op: Op, shape: Shape) -> Op:
    cp = shape.cp
    if isinstance(op, FusedAttention):
        return change(op, q_len=op.q_len / cp, saved=op.saved / cp)
    if isinstance(op, Gemm):
        saved, saved_out = op.saved / cp, op.saved_out / cp
        if op.chunked:
            return change(op, batch=op.batch / cp, saved=saved, saved_out=saved_out)
        return change(op, m=op.m / cp, saved=saved, saved_out=saved_out)
    return change(
        op,
        forward_bytes=op.forward_bytes / cp,
        backward_bytes=op.backward_bytes / cp,
        saved=op.saved / cp,
        transient=op.transient / cp,
        exchange=op.exchange / cp,
        partial=op.partial / cp,
    )
