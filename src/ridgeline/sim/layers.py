"""Time of each block (layer kind, embedding, head) for one micro-batch, per shape and phase, with its causes.

All kernels of a model are timed in one call per kernel class, arrays ``[kernels, shapes]``, and summed into
``[3 phases, blocks, shapes]`` by one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.kernel_calibration import KernelCalibration
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.cache import by_identity
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
from ridgeline.timing.attention import (
    AttentionRates,
    attention_bytes,
    attention_flops,
    attention_rates,
    attention_seconds,
)
from ridgeline.timing.energy import joules_per_flop
from ridgeline.timing.gemm import (
    GemmRates,
    accumulation_seconds,
    gemm_bytes,
    gemm_flops,
    gemm_rates,
    gemm_seconds,
)
from ridgeline.timing.grouped import GroupedRates, grouped_rates, grouped_seconds
from ridgeline.timing.stream import stream_rates, stream_seconds


@dataclass(frozen=True, slots=True)
class KernelTimes:
    """Every kernel of the program ``[rows, shapes]``."""

    flops: FloatArray  # that the model needs: scores computed again inside a kernel do not count
    bytes: FloatArray
    peak_s: FloatArray  # FLOPs at the matrix peak
    seconds: FloatArray


@dataclass(frozen=True, slots=True)
class Work:
    """What the energy of a step counts, per micro-batch and block ``[blocks, shapes]``."""

    flops: FloatArray  # of matrix kernels
    joules: FloatArray  # dynamic energy of these
    bytes: FloatArray  # of device memory


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """Seconds of one micro-batch ``[3 phases, blocks, shapes]`` and what selective recompute repeats of forward."""

    program: Program
    kernels: KernelTimes
    peak_s: FloatArray  # matrix FLOPs at peak
    matrix_s: FloatArray  # matrix kernels
    stream_s: FloatArray
    host_s: FloatArray  # dispatch of all kernels
    tp_s: FloatArray  # exposed communication
    cp_s: FloatArray
    ep_s: FloatArray
    ep_hidden_s: FloatArray | None  # of it, what another micro-batch hides where the schedule has one at hand
    link_bytes: FloatArray  # [blocks, shapes] sent per micro-batch, all axes
    forward: Work  # what full recompute repeats of layers
    selective: Work  # what selective recompute repeats
    work: Work  # of all phases
    selective_peak_s: FloatArray  # [blocks, shapes]
    selective_matrix_s: FloatArray
    selective_stream_s: FloatArray
    spared_peak_s: FloatArray  # [blocks, shapes]: matmuls that full recompute leaves out
    spared_matrix_s: FloatArray
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
    overlap_ep: bool | None,
) -> BlockTimes:
    """Time every operator and message of a sharded ``model`` for one micro-batch."""
    make = _of_one_shape if shape.tp.size == 1 else _of_many_shapes
    return make(program, model, chip, cluster, calibration, stack, overlap_tp, overlap_ep, shape=shape)


def _block_times(
    program: Program,
    model: Model,
    chip: Chip,
    cluster: Cluster,
    calibration: Calibration,
    stack: Stack,
    overlap_tp: bool,
    overlap_ep: bool | None,
    *,
    shape: Shape,
) -> BlockTimes:
    kernels = kernel_times(program, model, shape.tp.size, chip, calibration, stack)
    messages = message_times(
        program, kernels.seconds, model, shape, cluster, calibration.links, stack,
        cores=float(chip.cores), overlap_tp=overlap_tp, overlap_ep=overlap_ep,
    )  # fmt: skip
    host_s = _host(program, model, shape.tp.size, stack)
    return _sum(program, kernels, messages, host_s, calibration, len(model.layers))


def _host(program: Program, model: Model, shapes: int, stack: Stack) -> FloatArray:
    """Host time to dispatch every block ``[3 phases, blocks, shapes]``: so much a kernel and an expert's product."""
    host_s = np.repeat((program.launches * stack.host)[:, None], shapes, axis=1)
    rows = program.span[GROUPED]
    if stack.host_expert and rows.start < rows.stop:
        experts = sizes_of(program, model, GROUPED, shapes)[3]
        host_s += stack.host_expert * (program.incidence[:, rows] @ experts)
    return host_s.reshape(3, program.num_blocks, shapes)


#: Plans with the same degrees inside a layer share one sharded model, which its shape follows from, and its times;
#: so do the structures of a search. Tables of many shapes are large, so few of them are kept.
_of_one_shape = by_identity(_block_times)
_of_many_shapes = by_identity(_block_times, size=4)


def kernel_times(
    program: Program, model: Model, shapes: int, chip: Chip, calibration: Calibration, stack: Stack
) -> KernelTimes:
    """Time the kernels of ``program`` at the sizes of a sharded ``model``."""
    flops, moved, peak, seconds = times = np.zeros((4, len(program.rows), shapes))
    for kind, time in ((GEMM, _gemms), (GROUPED, _grouped), (ATTENTION, _attention), (STREAM, _streams)):
        rows = program.span[kind]
        if rows.start < rows.stop:
            sizes = sizes_of(program, model, kind, shapes)
            for values, part in zip(times, time(program, sizes, chip, calibration, stack), strict=True):
                values[rows] = part
    return KernelTimes(flops, moved, peak, seconds)


def sizes_of(program: Program, model: Model, kind: int, shapes: int) -> FloatArray:
    """Sizes of the rows of one kind ``[sizes, rows, shapes]``."""
    rows = program.of(kind)
    blocks = model.blocks
    table = np.empty((len(rows[0].sizes), len(rows), shapes))
    for i, row in enumerate(rows):
        op = blocks[row.block].ops[row.op]
        for j, name in enumerate(row.sizes):
            table[j, i] = getattr(op, name)
    return table


#: FLOPs, bytes, seconds at peak, seconds.
_Part = tuple[FloatArray, FloatArray, FloatArray | float, FloatArray]


@by_identity
def _gemm_rates(program: Program, chip: Chip, kernels: KernelCalibration, stack: Stack) -> GemmRates:
    # a weight gradient is written in fp32 or bf16 and read again; where its product adds it to the buffer, that is
    # counted beside it
    plain = 2.0 if stack.fused_accumulation else 8.0 if stack.grad_fp32 else 4.0
    out = np.where(program.phase(GEMM, WEIGHT_GRAD), plain, 2.0)
    return gemm_rates(chip, kernels, program.formats(GEMM))._replace(out_bytes=out)


@by_identity
def _grouped_rates(program: Program, chip: Chip, kernels: KernelCalibration) -> GroupedRates:
    return grouped_rates(chip, kernels, program.formats(GROUPED))


@by_identity
def _attention_rates(
    program: Program, chip: Chip, kernels: KernelCalibration, stack: Stack
) -> AttentionRates:
    rates = attention_rates(chip, kernels, program.formats(ATTENTION))
    return rates._replace(rate=np.asarray(rates.rate) * attention_share(stack, chip))


def _gemms(program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack) -> _Part:
    m, n, k = np.maximum(sizes[:3], 1.0)
    copies = sizes[3]
    rates = _gemm_rates(program, chip, calibration.kernels, stack)
    seconds = gemm_seconds(m, n, k, copies, rates) + _accumulation(
        program, GEMM, m, n, copies, chip, calibration
    )
    moved = gemm_bytes(m, n, k, copies, in_bytes=rates.in_bytes, out_bytes=rates.out_bytes)
    flops = gemm_flops(m, n, k, copies)
    return flops, moved, flops / rates.peak_flops_per_s, seconds


def _grouped(
    program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack
) -> _Part:
    a, b, c, groups = sizes
    # the routed rows are the first size forward and the third in a weight gradient: same work, same formula
    weight = program.phase(GROUPED, WEIGHT_GRAD)
    rows, wide, deep = np.where(weight, c, a), np.where(weight, a, b), np.where(weight, b, c)
    rates = _grouped_rates(program, chip, calibration.kernels)
    seconds = grouped_seconds(np.maximum(rows, 1.0), groups, wide, deep, rates) / stack.grouped_share
    seconds = seconds + _accumulation(program, GROUPED, wide, deep, groups, chip, calibration)
    moved = np.asarray(rates.gemm.in_bytes) * (rows * (wide + deep) + groups * wide * deep)
    flops = 2.0 * rows * wide * deep
    return flops, moved, flops / rates.gemm.peak_flops_per_s, seconds


def _accumulation(
    program: Program,
    kind: int,
    m: FloatArray,
    n: FloatArray,
    copies: FloatArray,
    chip: Chip,
    calibration: Calibration,
) -> FloatArray:
    """What adding weight gradients to the buffer costs beside their products, 0 in other phases ``[rows, shapes]``."""
    extra = accumulation_seconds(
        m, n, copies,
        value_bytes=program.grad_bytes,
        exposed=calibration.kernels.accumulation.exposed,
        bandwidth_bytes_per_s=chip.memory.bandwidth,
    )  # fmt: skip
    return np.where(program.phase(kind, WEIGHT_GRAD), extra, 0.0)


def attention_share(stack: Stack, chip: Chip) -> float:
    """Share of the chip's best attention kernel that the stack's reaches: less on chips newer than the kernel."""
    return stack.attention_share if chip.launch <= stack.attention_for else stack.attention_share_newer


def _attention(
    program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack
) -> _Part:
    b, heads, kv_heads, q, kv, qk, v, share = sizes
    rates = _attention_rates(program, chip, calibration.kernels, stack)
    back = ~program.phase(ATTENTION, FORWARD)
    seconds = attention_seconds(b, heads, kv_heads, q, kv, qk, v, rates, causal_share=share, backward=back)
    # the ideal counts two products backward per product forward; the scores computed again are the kernel's choice
    twice = np.where(back, 2.0, 1.0)
    flops = twice * attention_flops(b, heads, q, kv, qk, v, share)
    moved = twice * attention_bytes(b, heads, kv_heads, q, kv, qk, v, rates)
    return flops, moved, flops / rates.peak_flops_per_s, seconds


def _streams(
    program: Program, sizes: FloatArray, chip: Chip, calibration: Calibration, stack: Stack
) -> _Part:
    rows = program.of(STREAM)
    moved = sizes[0] * np.array([[row.passes] for row in rows])
    launches = np.array([[row.launches] for row in rows])
    seconds = stream_seconds(moved, stream_rates(chip, calibration.kernels), kernels=launches)
    return np.zeros_like(moved), moved, 0.0, seconds


@by_identity
def _flop_joules(program: Program, kernels: KernelCalibration) -> FloatArray:
    """Dynamic joules of one FLOP of every row ``[rows, 1]``; streams count none."""
    return np.array([[joules_per_flop(kernels.energy, row.format)] for row in program.rows])


def _sum(
    program: Program,
    kernels: KernelTimes,
    messages: Messages,
    host_s: FloatArray,
    calibration: Calibration,
    num_layer_kinds: int,
) -> BlockTimes:
    rows, shapes = kernels.seconds.shape
    stream = program.span[STREAM]
    table = np.zeros((rows, 6, shapes))
    table[:, 0] = kernels.peak_s
    table[: stream.start, 1] = kernels.seconds[: stream.start]
    table[stream, 2] = kernels.seconds[stream]
    table[:, 3] = kernels.flops
    table[:, 4] = kernels.flops * _flop_joules(program, calibration.kernels)
    table[:, 5] = kernels.bytes
    flat = table.reshape(rows, -1)
    sums = (program.incidence @ flat).reshape(3, program.num_blocks, 6, shapes)
    again = (program.again @ flat).reshape(program.num_blocks, 6, shapes)
    spared = (program.spared @ flat).reshape(program.num_blocks, 6, shapes)
    whole = sums.sum(axis=0)
    return BlockTimes(
        program=program,
        kernels=kernels,
        peak_s=sums[:, :, 0],
        matrix_s=sums[:, :, 1],
        stream_s=sums[:, :, 2],
        host_s=host_s,
        tp_s=messages.exposed["tp"],
        cp_s=messages.exposed["cp"],
        ep_s=messages.exposed["ep"],
        ep_hidden_s=messages.hidden_ep,
        link_bytes=messages.sent_bytes,
        forward=Work(*np.moveaxis(sums[FORWARD, :, 3:] - spared[:, 3:], 1, 0)),
        selective=Work(*np.moveaxis(again[:, 3:], 1, 0)),
        work=Work(*np.moveaxis(whole[:, 3:], 1, 0)),
        selective_peak_s=again[:, 0],
        selective_matrix_s=again[:, 1],
        selective_stream_s=again[:, 2],
        spared_peak_s=spared[:, 0],
        spared_matrix_s=spared[:, 1],
        num_layer_kinds=num_layer_kinds,
    )
