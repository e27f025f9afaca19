"""Activations of one block and micro-batch: what backward needs, and what lives while an operator runs.

All results are bytes per chip, a float or ``[shapes]`` as the sharded block has them.
"""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import COLUMN, EXPERT, Block, Gemm, Size, Stream


def activation_bytes(block: Block, recompute: str) -> Size:
    """Kept between forward and backward: under full recompute only the input.

    Korthikanti et al., arXiv:2205.05198, eq. 1-5.
    """
    if recompute == "full":
        return block.input_bytes
    kept: Size = 0.0
    for op in block.ops:
        again = recompute == "selective"
        if isinstance(op, Stream) and again and op.selective and not op.keeps:
            continue  # made again; the inputs of repeated matmuls and the output of fused attention stay
        if isinstance(op, Gemm):
            kept = kept + op.saved_out
            if again and op.remade:
                continue
        kept = kept + op.saved
    return kept


def working_bytes(block: Block) -> Size:
    """The most that one operator's backward holds besides what was kept, in bf16.

    A matmul holds the gradients of its output and its input and, where the input is column-parallel, the
    gathered input for the weight gradient.
    """
    most: Size = 0.0
    for op in block.ops:
        if isinstance(op, Gemm):
            inputs = 2.0 if op.weight and op.split in (COLUMN, EXPERT) else 1.0
            most = np.maximum(most, 2.0 * op.batch * op.m * (op.n + inputs * op.k))
        elif isinstance(op, Stream):
            most = np.maximum(most, op.transient)
    return most


def largest_matrix(block: Block) -> Size:
    """Parameters of the largest matrix, all local experts together."""
    most: Size = 0.0
    for op in block.ops:
        if isinstance(op, Gemm) and op.weight:
            most = np.maximum(most, op.n * op.k * np.maximum(op.groups, 1.0))
    return most


def gradient_bytes(block: Block) -> Size:
    """Weight gradients in bf16 as matmuls hand them over; the experts of a rank pass one at a time."""
    held: Size = 0.0
    for op in block.ops:
        if isinstance(op, Gemm) and op.weight and op.trained:
            held = held + 2.0 * op.n * op.k
    return held
