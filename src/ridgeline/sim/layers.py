"""Time of each block (layer kind, embedding, head) for one micro-batch, per shape and phase, with its causes.

All kernels of a model are timed in one call per kernel class, arrays ``[kernels, shapes]``, and summed into
``[3 phases, blocks, shapes]`` by one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.shape import Shape
from ridgeline.sim.messages import Messages, message_times
from ridgeline.sim.program import (
    ATTENTION,
    FORWARD,
    GEMM,
    GROUPED,
    STREAM,
    WEIGHT_GRAD,
    Program,
)
from ridgeline.timing.attention import attention_bytes, attention_rates, attention_seconds
from ridgeline.timing.gemm import gemm_rates, gemm_seconds
from ridgeline.timing.grouped import grouped_rates, grouped_seconds
from ridgeline.timing.stream import stream_rates, stream_seconds


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Every kernel of the program ``[rows, shapes]``."""

    flops: FloatArray  # that the model needs: scores computed again inside a kernel do not count
    bytes: FloatArray
    peak_s: FloatArray  # FLOPs at the matrix peak
    seconds: FloatArray


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """Seconds of one micro-batch ``[3 phases, blocks, shapes]`` and what selective recompute repeats of forward."""

    program: Program
    kernels: KernelTimes
    peak_s: FloatArray  # matrix FLOPs at peak
    kernel_s: FloatArray  # what matrix kernels take beyond that
    stream_s: FloatArray
    host_s: FloatArray  # dispatch of all kernels
    tp_s: FloatArray  # exposed communication
    cp_s: FloatArray
    ep_s: FloatArray
    link_bytes: FloatArray  # [blocks, shapes] sent per micro-batch, all axes
    flops: FloatArray
    bytes: FloatArray
    selective_peak_s: FloatArray  # [blocks, shapes]
    selective_kernel_s: FloatArray
    selective_stream_s: FloatArray
    num_layer_kinds: int  # blocks come as layer kinds, embedding, head and perhaps multi-token prediction


def block_times(
    program: Program,
    model: Model,
    shape: Shape,
    chip: Chip,
    cluster: Cluster,
    calibration: Calibration,
    stack: Stack,
    *,
    overlap_tp: bool,
    overlap_ep: bool,
) -> BlockTimes:
    """Time every operator and message of a sharded ``model`` for one micro-batch."""
    kernels = kernel_times(program, model, shape.tp.size, chip, calibration, stack)
    messages = message_times(
        program, kernels.seconds, model, shape, cluster, calibration.links, stack,
        overlap_tp=overlap_tp, overlap_ep=overlap_ep,
    )  # fmt: skip
    return _sum(program, kernels, messages, stack, len(model.layers))


def kernel_times(
    program: Program, model: Model, shapes: int, chip: Chip, calibration: Calibration, stack: Stack
) -> KernelTimes:
    """Time the kernels of ``program`` at the sizes of a sharded ``model``."""
    parts = [
        _gemms(program, _sizes(program, model, GEMM, shapes), chip, calibration, stack),
        _grouped(program, _sizes(program, model, GROUPED, shapes), chip, calibration),
        _attention(program, _sizes(program, model, ATTENTION, shapes), chip, calibration, stack),
        _streams(program, _sizes(program, model, STREAM, shapes), chip, calibration),
    ]
    flops, moved, peak, seconds = (
        np.concatenate(columns) for columns in zip(*(p for p in parts if p), strict=True)
    )
    return KernelTimes(flops, moved, peak, seconds)


def _sizes(program: Program, model: Model, kind: int, shapes: int) -> FloatArray:
    """Sizes of the rows of one kind ``[sizes, rows, shapes]``."""
    rows = program.of(kind)
    blocks = model.blocks
    table = np.empty((len(rows[0].sizes) if rows else 0, len(rows), shapes))
    for i, row in enumerate(rows):
        op = blocks[row.block].ops[row.op]
        for j, name in enumerate(row.sizes):
            table[j, i] = getattr(op, name)
    return table


_Part = tuple[FloatArray, FloatArray, FloatArray, FloatArray]


def _gemms(program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack) -> _Part:
    m, n, k, copies = (
        np.maximum(sizes[0], 1.0),
        np.maximum(sizes[1], 1.0),
        np.maximum(sizes[2], 1.0),
        sizes[3],
    )
    # a weight gradient is added to the gradient buffer: read and written, in fp32 or bf16
    out = np.where(program.phase(GEMM, WEIGHT_GRAD), 8.0 if stack.grad_fp32 else 4.0, 2.0)
    rates = gemm_rates(chip, calibration.kernels, program.formats(GEMM))._replace(out_bytes=out)
    seconds = gemm_seconds(m, n, k, copies, rates)
    moved = (np.asarray(rates.in_bytes) * k * (m + n) + out * m * n) * copies
    flops = 2.0 * m * n * k * copies
    return flops, moved, flops / rates.peak_flops_per_s, seconds


def _grouped(program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration) -> _Part | None:
    if not sizes.size:
        return None
    a, b, c, groups = sizes
    # the routed rows are the first size forward and the third in a weight gradient: same work, same formula
    weight = program.phase(GROUPED, WEIGHT_GRAD)
    rows, wide, deep = np.where(weight, c, a), np.where(weight, a, b), np.where(weight, b, c)
    rates = grouped_rates(chip, calibration.kernels, program.formats(GROUPED))
    seconds = grouped_seconds(np.maximum(rows, 1.0), groups, wide, deep, rates)
    moved = np.asarray(rates.gemm.in_bytes) * (rows * (wide + deep) + groups * wide * deep)
    flops = 2.0 * rows * wide * deep
    return flops, moved, flops / rates.gemm.peak_flops_per_s, seconds


def attention_share(stack: Stack, chip: Chip) -> float:
    """Share of the chip's best attention kernel that the stack's reaches: less on chips newer than the kernel."""
    return stack.attention_share if chip.launch <= stack.attention_for else stack.attention_share_newer


def _attention(
    program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack
) -> _Part | None:
    if not sizes.size:
        return None
    b, heads, kv_heads, q, kv, qk, v, share = sizes
    rates = attention_rates(chip, calibration.kernels, program.formats(ATTENTION))
    rates = rates._replace(rate=np.asarray(rates.rate) * attention_share(stack, chip))
    back = ~program.phase(ATTENTION, FORWARD)
    forward = attention_seconds(b, heads, kv_heads, q, kv, qk, v, rates, causal_share=share)
    backward = attention_seconds(b, heads, kv_heads, q, kv, qk, v, rates, causal_share=share, backward=True)
    # the ideal counts two products backward per product forward; the scores computed again are the kernel's choice
    twice = np.where(back, 2.0, 1.0)
    flops = twice * 2.0 * b * heads * q * kv * share * (qk + v)
    moved = twice * attention_bytes(b, heads, kv_heads, q, kv, qk, v, rates)
    return flops, moved, flops / rates.peak_flops_per_s, np.where(back, backward, forward)


def _streams(program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration) -> _Part:
    rows = program.of(STREAM)
    moved = sizes[0] * np.array([[row.passes] for row in rows])
    launches = np.array([[row.launches] for row in rows])
    seconds = stream_seconds(moved, stream_rates(chip, calibration.kernels), kernels=launches)
    nothing = np.zeros_like(moved)
    return nothing, moved, nothing, seconds


def _sum(
    program: Program, kernels: KernelTimes, messages: Messages, stack: Stack, num_layer_kinds: int
) -> BlockTimes:
    matrix = slice(0, program.span[STREAM].start)
    stream = program.span[STREAM]
    extra = kernels.seconds[matrix] - kernels.peak_s[matrix]
    shapes = kernels.seconds.shape[1]

    def total(values: FloatArray, rows: slice) -> FloatArray:
        return (program.incidence[:, rows] @ values).reshape(3, program.num_blocks, shapes)

    host = program.launches.reshape(3, program.num_blocks, 1) * stack.host
    return BlockTimes(
        program=program,
        kernels=kernels,
        peak_s=total(kernels.peak_s[matrix], matrix),
        kernel_s=total(extra, matrix),
        stream_s=total(kernels.seconds[stream], stream),
        host_s=np.broadcast_to(host, (3, program.num_blocks, shapes)),
        tp_s=messages.exposed["tp"],
        cp_s=messages.exposed["cp"],
        ep_s=messages.exposed["ep"],
        link_bytes=messages.sent_bytes,
        flops=total(kernels.flops[matrix], matrix),
        bytes=total(kernels.bytes, slice(None)),
        selective_peak_s=program.again[:, matrix] @ kernels.peak_s[matrix],
        selective_kernel_s=program.again[:, matrix] @ extra,
        selective_stream_s=program.again[:, stream] @ kernels.seconds[stream],
        num_layer_kinds=num_layer_kinds,
    )
