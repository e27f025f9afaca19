"""Time of each block (layer kind, embedding, head) for one micro-batch, per shape and phase, with its causes.

All kernels of a model are timed in one call per kernel class: arrays ``[kernels, shapes]``, summed into
``[blocks, shapes]`` per phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.ops import FloatArray, FusedAttention, Gemm, Message, Stream
from ridgeline.graph.shape import Shape
from ridgeline.sim.exposure import exposed_under
from ridgeline.timing.attention import attention_bytes, attention_rates, attention_seconds
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.gemm import gemm_rates, gemm_seconds
from ridgeline.timing.grouped import grouped_rates, grouped_seconds
from ridgeline.timing.stream import stream_rates, stream_seconds
from ridgeline.timing.topology import place

FORWARD, INPUT_GRAD, WEIGHT_GRAD = range(3)
PHASES = ("forward", "input_grad", "weight_grad")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One timed kernel: where it belongs and what it did, for sums, rooflines and energy."""

    block: int
    phase: int
    name: str
    kind: str
    format: str
    selective: bool
    launches: float
    flops: FloatArray  # [shapes]
    bytes: FloatArray
    peak_s: FloatArray  # FLOPs at the matrix peak
    seconds: FloatArray


@dataclass(frozen=True, slots=True)
class BlockTimes:
    """Seconds of one micro-batch ``[3 phases, blocks, shapes]`` and what recomputing the forward pass costs."""

    peak_s: FloatArray  # matrix FLOPs at peak
    kernel_s: FloatArray  # what matrix kernels take beyond that
    stream_s: FloatArray
    host_s: FloatArray  # dispatch of all kernels
    tp_s: FloatArray  # exposed communication
    cp_s: FloatArray
    ep_s: FloatArray
    link_bytes: FloatArray  # [blocks, shapes] sent per micro-batch, all axes
    flops: FloatArray  # [3, blocks, shapes]
    bytes: FloatArray
    selective_peak_s: (
        FloatArray  # [blocks, shapes]: forward of the operators that selective recompute repeats
    )
    selective_kernel_s: FloatArray
    selective_stream_s: FloatArray
    kernels: tuple[Kernel, ...]
    num_layer_kinds: int  # blocks come as layer kinds, embedding, head and perhaps multi-token prediction


@dataclass(slots=True)
class _Batch:
    """Kernels of one class collected for one vectorised call."""

    rows: list[tuple[int, int, str, str, bool, float]] = field(default_factory=list)
    sizes: list[tuple[FloatArray | float, ...]] = field(default_factory=list)

    def add(
        self,
        block: int,
        phase: int,
        name: str,
        format: str,
        selective: bool,
        launches: float,
        *sizes: FloatArray | float,
    ) -> None:
        self.rows.append((block, phase, name, format, selective, launches))
        self.sizes.append(sizes)

    def arrays(self, shapes: int) -> list[FloatArray]:
        """One array ``[kernels, shapes]`` per size."""
        columns = zip(*self.sizes, strict=True)
        return [
            np.stack([np.broadcast_to(np.asarray(value, dtype=np.float64), (shapes,)) for value in column])
            for column in columns
        ]

    @property
    def formats(self) -> tuple[str, ...]:
        return tuple(row[3] for row in self.rows)


def block_times(
    model: Model,
    shape: Shape,
    chip: Chip,
    cluster: Cluster,
    calibration: Calibration,
    stack: Stack,
    recipe: Recipe,
    *,
    overlap_tp: bool,
    overlap_ep: bool,
) -> BlockTimes:
    """Time every operator and message of a sharded ``model`` for one micro-batch."""
    shapes = shape.tp.size
    gemms, grouped, attentions, streams = _Batch(), _Batch(), _Batch(), _Batch()
    for index, block in enumerate(model.blocks):
        for op in block.ops:
            if isinstance(op, Gemm):
                _add_gemm(grouped if _is_grouped(op) else gemms, index, op, recipe)
            elif isinstance(op, FusedAttention):
                sizes = (op.batch, op.heads, op.kv_heads, op.q_len, op.kv_len, op.qk_dim, op.v_dim, op.share)
                form = recipe.attention
                attentions.add(index, FORWARD, op.name, form, op.selective, op.launches, *sizes)
                attentions.add(index, INPUT_GRAD, op.name, form, False, 2.0 * op.launches, *sizes)
            else:
                _add_stream(streams, index, op, stack)

    kernels: list[Kernel] = []
    kernels += _time_gemms(gemms, shapes, chip, calibration, stack)
    kernels += _time_grouped(grouped, shapes, chip, calibration)
    kernels += _time_attention(attentions, shapes, chip, calibration)
    kernels += _time_streams(streams, shapes, chip, calibration)
    return _sum(kernels, model, shape, cluster, calibration, stack, recipe, overlap_tp, overlap_ep)


def _is_grouped(op: Gemm) -> bool:
    return bool(np.all(np.asarray(op.groups) > 0.0))


def _format(op: Gemm, recipe: Recipe, backward: bool) -> str:
    if op.role == "linear":
        return recipe.linear_backward if backward else recipe.linear
    if op.role == "attention":
        return recipe.attention
    return recipe.head if op.role == "head" else "bf16"


def _add_gemm(batch: _Batch, block: int, op: Gemm, recipe: Recipe) -> None:
    forward, backward = _format(op, recipe, False), _format(op, recipe, True)
    copies = op.groups if op.split == "expert" else op.batch
    batch.add(block, FORWARD, op.name, forward, op.selective, op.launches, op.m, op.n, op.k, copies)
    batch.add(block, INPUT_GRAD, op.name, backward, False, op.launches, op.m, op.k, op.n, copies)
    if not op.weight:
        batch.add(block, INPUT_GRAD, op.name, backward, False, op.launches, op.n, op.k, op.m, copies)
    elif op.trained:
        batch.add(block, WEIGHT_GRAD, op.name, backward, False, op.launches, op.n, op.k, op.m, copies)


def _add_stream(batch: _Batch, block: int, op: Stream, stack: Stack) -> None:
    passes = stack.elementwise_passes if op.fusible else 1.0
    launches = op.launches * passes
    batch.add(block, FORWARD, op.name, "bf16", op.selective, launches, op.forward_bytes * passes)
    if np.any(np.asarray(op.backward_bytes) > 0.0):
        batch.add(block, INPUT_GRAD, op.name, "bf16", False, launches, op.backward_bytes * passes)


def _kernels(
    batch: _Batch,
    kind: str,
    flops: FloatArray,
    moved: FloatArray,
    peak: FloatArray | float,
    seconds: FloatArray,
) -> list[Kernel]:
    peak_s = flops / peak
    return [
        Kernel(block, phase, name, kind, form, selective, launches, flops[i], moved[i], peak_s[i], seconds[i])
        for i, (block, phase, name, form, selective, launches) in enumerate(batch.rows)
    ]


def _time_gemms(
    batch: _Batch, shapes: int, chip: Chip, calibration: Calibration, stack: Stack
) -> list[Kernel]:
    m, n, k, copies = batch.arrays(shapes)
    rates = gemm_rates(chip, calibration.kernels, batch.formats)
    # a weight gradient is added to the gradient buffer: read and written, in fp32 or bf16
    accumulate = 8.0 if stack.grad_fp32 else 4.0
    out = np.array([[accumulate if row[1] == WEIGHT_GRAD else 2.0] for row in batch.rows])
    rates = rates._replace(out_bytes=out)
    seconds = gemm_seconds(np.maximum(m, 1.0), np.maximum(n, 1.0), np.maximum(k, 1.0), copies, rates)
    moved = (np.asarray(rates.in_bytes) * k * (m + n) + out * m * n) * copies
    return _kernels(
        batch, "gemm", 2.0 * m * n * k * copies, moved, np.asarray(rates.peak_flops_per_s), seconds
    )


def _time_grouped(batch: _Batch, shapes: int, chip: Chip, calibration: Calibration) -> list[Kernel]:
    if not batch.rows:
        return []
    a, n, k, groups = batch.arrays(shapes)
    rates = grouped_rates(chip, calibration.kernels, batch.formats)
    # the routed rows are the first size forward and the third in a weight gradient: same work, same formula
    weight = np.array([[row[1] == WEIGHT_GRAD] for row in batch.rows])
    rows, wide, deep = np.where(weight, k, a), np.where(weight, a, n), np.where(weight, n, k)
    seconds = grouped_seconds(rows, groups, wide, deep, rates)
    moved = np.asarray(rates.gemm.in_bytes) * (rows * (wide + deep) + groups * wide * deep)
    peak = np.asarray(rates.gemm.peak_flops_per_s)
    return _kernels(batch, "grouped", 2.0 * rows * wide * deep, moved, peak, seconds)


def _time_attention(batch: _Batch, shapes: int, chip: Chip, calibration: Calibration) -> list[Kernel]:
    if not batch.rows:
        return []
    b, heads, kv_heads, q, kv, qk, v, share = batch.arrays(shapes)
    rates = attention_rates(chip, calibration.kernels, batch.formats)
    forward = attention_seconds(b, heads, kv_heads, q, kv, qk, v, rates, causal_share=share)
    backward = attention_seconds(b, heads, kv_heads, q, kv, qk, v, rates, causal_share=share, backward=True)
    back = np.array([[row[1] != FORWARD] for row in batch.rows])
    flops = 2.0 * b * heads * q * kv * share * (qk + v)
    moved = attention_bytes(b, heads, kv_heads, q, kv, qk, v, rates) * np.where(back, 2.0, 1.0)
    # the ideal counts two products backward per product forward; the scores computed again are the kernel's choice
    peak = np.asarray(rates.peak_flops_per_s)
    ideal = flops * np.where(back, 2.0, 1.0)
    kernels = _kernels(batch, "attention", ideal, moved, peak, np.where(back, backward, forward))
    return kernels


def _time_streams(batch: _Batch, shapes: int, chip: Chip, calibration: Calibration) -> list[Kernel]:
    (moved,) = batch.arrays(shapes)
    launches = np.array([[row[5]] for row in batch.rows])
    seconds = stream_seconds(moved, stream_rates(chip, calibration.kernels), kernels=launches)
    return _kernels(batch, "stream", np.zeros_like(moved), moved, 1.0, seconds)


def _sum(
    kernels: Sequence[Kernel],
    model: Model,
    shape: Shape,
    cluster: Cluster,
    calibration: Calibration,
    stack: Stack,
    recipe: Recipe,
    overlap_tp: bool,
    overlap_ep: bool,
) -> BlockTimes:
    blocks, shapes = len(model.blocks), shape.tp.size
    flat = np.array([kernel.phase * blocks + kernel.block for kernel in kernels])
    incidence = np.zeros((3 * blocks, len(kernels)))
    incidence[flat, np.arange(len(kernels))] = 1.0
    seconds = np.stack([kernel.seconds for kernel in kernels])
    peak = np.stack([kernel.peak_s for kernel in kernels])
    is_stream = np.array([[kernel.kind == "stream"] for kernel in kernels])
    launches = np.array([[kernel.launches] for kernel in kernels])
    selective = np.array([[kernel.selective and kernel.phase == FORWARD] for kernel in kernels])
    matrix_extra = np.where(is_stream, 0.0, seconds - peak)
    stream = np.where(is_stream, seconds, 0.0)
    ones = np.ones((1, shapes))

    def total(values: FloatArray) -> FloatArray:
        return (incidence @ values).reshape(3, blocks, shapes)

    def again(values: FloatArray) -> FloatArray:
        return total(np.where(selective, values, 0.0))[FORWARD]

    exposed, link_bytes = _messages(
        kernels, model, shape, cluster, calibration, stack, overlap_tp, overlap_ep
    )
    return BlockTimes(
        peak_s=total(peak),
        kernel_s=total(matrix_extra),
        stream_s=total(stream),
        host_s=total(launches * ones) * stack.host,
        tp_s=exposed["tp"],
        cp_s=exposed["cp"],
        ep_s=exposed["ep"],
        link_bytes=link_bytes,
        flops=total(np.stack([kernel.flops for kernel in kernels])),
        bytes=total(np.stack([kernel.bytes for kernel in kernels])),
        selective_peak_s=again(peak),
        selective_kernel_s=again(matrix_extra),
        selective_stream_s=again(stream),
        kernels=tuple(kernels),
        num_layer_kinds=len(model.layers),
    )


def _messages(
    kernels: Sequence[Kernel],
    model: Model,
    shape: Shape,
    cluster: Cluster,
    calibration: Calibration,
    stack: Stack,
    overlap_tp: bool,
    overlap_ep: bool,
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Exposed seconds per axis ``[3, blocks, shapes]`` and bytes sent ``[blocks, shapes]``."""
    blocks, shapes = len(model.blocks), shape.tp.size
    exposed = {axis: np.zeros((3, blocks, shapes)) for axis in ("tp", "cp", "ep")}
    sent = np.zeros((blocks, shapes))
    rows = [(index, message) for index, block in enumerate(model.blocks) for message in block.messages]
    if not rows:
        return exposed, sent
    near = {(kernel.block, kernel.phase, kernel.name): kernel.seconds for kernel in kernels}
    places = {
        "tp": (shape.tp, place(shape.tp, np.ones_like(shape.tp), cluster)),
        "cp": (shape.cp, place(shape.cp, shape.tp, cluster)),
        "ep": (shape.ep * shape.etp, place(shape.ep * shape.etp, np.ones_like(shape.tp), cluster)),
    }
    for key in sorted({(message.axis, message.kind) for _, message in rows}):
        axis, kind = key
        group = [(index, message) for index, message in rows if (message.axis, message.kind) == key]
        size = np.stack([np.broadcast_to(message.size, (shapes,)) for _, message in group])
        degree, placement = places[axis]
        seconds = collective_seconds(kind, size, placement, cluster, calibration.links)  # type: ignore[arg-type]
        for (index, message), time, volume in zip(group, seconds, size, strict=True):
            phase = FORWARD if message.phase == "forward" else INPUT_GRAD
            shown = _exposed(message, index, phase, time, degree, near, stack, overlap_tp)
            exposed[axis][phase, index] += shown
            sent[index] += volume * np.maximum(1.0 - 1.0 / degree, 0.0)
    if overlap_ep:
        compute = np.zeros((blocks, shapes))
        for kernel in kernels:
            compute[kernel.block] += kernel.seconds
        whole = exposed["ep"].sum(axis=0)
        left = exposed_under(whole, compute, stack.comm_sms)
        exposed["ep"] *= np.where(whole > 0.0, left / np.maximum(whole, 1e-30), 0.0)
    return exposed, sent


def _exposed(
    message: Message,
    block: int,
    phase: int,
    seconds: FloatArray,
    degree: FloatArray,
    near: dict[tuple[int, int, str], FloatArray],
    stack: Stack,
    overlap_tp: bool,
) -> FloatArray:
    """What of one message the operator beside it cannot hide."""
    if message.axis == "ep":
        return seconds
    if message.axis == "cp":
        # the ring's steps run under the attention of the previous step: all but one of cp parts
        window = near[block, phase, message.near] * (1.0 - 1.0 / degree)
        return exposed_under(seconds, window, stack.comm_sms)
    if message.native:
        # asynchronous: the gather runs under the input gradient, the reduction under the weight gradient
        under = WEIGHT_GRAD if "gradient" in message.name else INPUT_GRAD
        window = near.get((block, under, message.near), np.zeros_like(seconds))
        return exposed_under(seconds, window, stack.comm_sms)
    if overlap_tp:
        # chunks: the first gather or the last scatter of tp parts has nothing to hide under
        first = seconds / degree
        window = near[block, phase, message.near]
        return first + exposed_under(seconds - first, window * (1.0 - 1.0 / degree), stack.comm_sms)
    return seconds
