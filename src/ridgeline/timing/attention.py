"""Fused softmax attention: forward, backward and decode, from one small fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import AttentionFit, KernelSet
from ridgeline.facts.observation import Label
from ridgeline.timing.rates import (
    Array,
    Numeric,
    column,
    operand,
    peak_flops_per_s,
    resolve,
    tiling_cores,
    worst,
)
from ridgeline.timing.surface import Knots, count, factor, knots, nodes, stacked

#: Matrix work of backward over forward: five products instead of two (FlashAttention-2, arXiv:2307.08691).
BACKWARD_FLOPS = 2.5
#: Tensors moved: forward q k v o; backward reads q k v o and the output gradient and writes three gradients.
BACKWARD_BYTES = 2.0
#: Query rows of one block, and the least keys a split-KV part keeps.
QUERY_BLOCK = 128.0
SPLIT_KEYS = 512.0
#: Head dimension that the fitted rate refers to.
HEAD_DIM = 128.0


#: Nodes of the corrections: keys, sequences x KV heads, head dimension, query heads a KV head, causal share. Kernels
#: pad a head dimension of 192 to 256, so it is no mean of its neighbours: a knot of its own (7.585).
PREFILL = knots(
    (0, 5, 7, 8, 9, 10, 12, 14),
    (0, 2, 4, 5.5, 7, 8.5, 10.5, 13),
    (6, 7, 7.585, 8, 9),
    (0, 2, 4, 6.5),
    (-5, -1),
)
#: Decode kernels take up to 32 query heads of a KV head in one tile and are others above: knots at 32 and 48. The last
#: axis is the share of its context that a layer with a window sees.
DECODE = knots(
    (0, 5, 7, 8, 9, 10, 12, 14, 17), (0, 2, 4, 5, 6, 7, 8, 9, 10, 12), (6, 7, 7.585, 8, 9),
    (0, 2, 4, 5, 5.58, 7), (-4, 0),
)  # fmt: skip
#: Latent attention has one head dimension: expanded heads in prefill, one latent for all heads in decode.
LATENT = knots((0, 4, 6, 7, 8, 9, 10, 11, 12, 14), (0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13), (7,), (0,), (-1,))
LATENT_DECODE = knots(
    (0, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17),
    (0, 1, 2, 3, 4, 5, 6, 7, 8, 10),
    (9,),
    (0, 2, 3, 4, 5, 6, 7),
    (0,),
)
Kind = Literal["attention", "decode", "latent", "latent_decode"]
GRIDS: dict[Kind, Knots] = {
    "attention": PREFILL, "decode": DECODE, "latent": LATENT, "latent_decode": LATENT_DECODE,
}  # fmt: skip


class AttentionRates(NamedTuple):
    """Hardware and fit. Each field is a float or an array that broadcasts with the shapes."""

    peak_flops_per_s: Numeric
    bandwidth_bytes_per_s: Numeric
    cores: Numeric
    value_bytes: Numeric  # per value of Q and O
    kv_bytes: Numeric  # per value of K and V
    rate: Numeric
    half: Numeric
    head_half: Numeric
    backward: Numeric
    memory: Numeric
    memory_half: Numeric
    ramp: Numeric
    launch: Numeric
    solo: Numeric = 0.0
    surface: Array | None = None  # nodes on ``grid``, the last axis
    grid: Knots = PREFILL
    labels: tuple[Label, ...] = ()  # one per operator


class AttentionSizes(NamedTuple):
    """Sizes on one rank, floats or arrays that broadcast, as `attention_seconds` takes them."""

    batch: Numeric
    heads: Numeric
    kv_heads: Numeric
    q_len: Numeric
    kv_len: Numeric
    head_dim: Numeric
    v_dim: Numeric


def attention_rates(
    chip: Chip,
    kernels: KernelSet,
    formats: Sequence[str],
    kv_formats: Sequence[str] | None = None,
    kind: Kind = "attention",
) -> AttentionRates:
    """Stack hardware and fit for operators computing in ``formats``; every field is ``[len(formats), 1]``.

    Q and O are kept in 2 bytes; ``kv_formats`` is the storage of K and V and defaults to ``formats``. A kind
    that the calibration lacks is priced as ``attention``, labelled transferred.
    """
    stored = tuple(kv_formats or formats)
    fits, labels = zip(
        *(fit_of(kernels, kind, *pair) for pair in zip(formats, stored, strict=True)), strict=True
    )
    names = ("rate", "half", "head_half", "backward", "memory", "memory_half", "ramp", "launch", "solo")
    own = bool(getattr(kernels, kind))
    grid = GRIDS[kind if own else "attention"]
    return AttentionRates(
        peak_flops_per_s=column([peak_flops_per_s(chip, name) for name in formats]),
        bandwidth_bytes_per_s=chip.memory.bandwidth,
        cores=tiling_cores(chip),
        value_bytes=2.0,
        kv_bytes=column([operand(name).bytes for name in stored]),
        **{name: column([getattr(fit, name) for fit in fits]) for name in names},
        surface=stacked([nodes(fit.surface) for fit in fits], count(grid)),
        grid=grid,
        labels=labels,
    )


def fit_of(kernels: KernelSet, kind: Kind, name: str, stored: str) -> tuple[AttentionFit, Label]:
    """The fit that speaks for computing in ``name`` with a cache in ``stored``, and how far it is trusted."""
    fits: dict[str, AttentionFit] = getattr(kernels, kind) or kernels.attention
    own = f"{name}/{stored}"
    if stored != name and own in fits:
        return fits[own], fits[own].provenance.label
    fit, label = resolve(fits, name)
    borrowed = stored != name or fits is not getattr(kernels, kind)
    return fit, worst(label, Label.TRANSFERRED) if borrowed else label


def fit_rates(
    fit: AttentionFit,
    *,
    peak_flops_per_s: float,
    bandwidth_bytes_per_s: float,
    cores: float,
    value_bytes: float = 2.0,
    kv_bytes: float = 2.0,
    kind: Kind = "attention",
) -> AttentionRates:
    """Rates of one fit on one piece of hardware, all floats."""
    return AttentionRates(
        peak_flops_per_s, bandwidth_bytes_per_s, cores, value_bytes, kv_bytes,
        fit.rate, fit.half, fit.head_half, fit.backward, fit.memory, fit.memory_half, fit.ramp, fit.launch,
        fit.solo, nodes(fit.surface), GRIDS[kind], (fit.provenance.label,),
    )  # fmt: skip


def attention_flops(
    batch: Numeric,
    heads: Numeric,
    q_len: Numeric,
    kv_len: Numeric,
    head_dim: Numeric,
    v_dim: Numeric,
    causal_share: Numeric = 1.0,
    *,
    backward: bool | NDArray[np.bool_] = False,
) -> Array:
    """Matrix work [FLOP]: 2 batch heads q kv share (head_dim + v_dim), times 2.5 for backward."""
    pairs = np.asarray(q_len, dtype=np.float64) * kv_len * causal_share
    forward = 2.0 * batch * heads * pairs * (np.asarray(head_dim, dtype=np.float64) + v_dim)
    return np.asarray(forward * np.where(backward, BACKWARD_FLOPS, 1.0))


def attention_bytes(
    batch: Numeric,
    heads: Numeric,
    kv_heads: Numeric,
    q_len: Numeric,
    kv_len: Numeric,
    head_dim: Numeric,
    v_dim: Numeric,
    rates: AttentionRates,
    *,
    backward: bool | NDArray[np.bool_] = False,
) -> Array:
    """Memory traffic with Q, K, V and O moved once [byte]; backward moves twice as much."""
    width = np.asarray(head_dim, dtype=np.float64) + v_dim
    queries = np.asarray(heads, dtype=np.float64) * q_len * rates.value_bytes
    keys = np.asarray(kv_heads, dtype=np.float64) * kv_len * rates.kv_bytes
    return np.asarray(batch * width * (queries + keys) * np.where(backward, BACKWARD_BYTES, 1.0))


def attention_bound_seconds(
    batch: Numeric,
    heads: Numeric,
    kv_heads: Numeric,
    q_len: Numeric,
    kv_len: Numeric,
    head_dim: Numeric,
    v_dim: Numeric,
    rates: AttentionRates,
    *,
    causal_share: Numeric = 1.0,
    backward: bool | NDArray[np.bool_] = False,
) -> Array:
    """Roofline lower bound [s]: max(FLOPs / peak, bytes / bandwidth). Shapes as in `attention_seconds`."""
    flops = attention_flops(batch, heads, q_len, kv_len, head_dim, v_dim, causal_share, backward=backward)
    traffic = attention_bytes(
        batch, heads, kv_heads, q_len, kv_len, head_dim, v_dim, rates, backward=backward
    )
    return np.maximum(flops / rates.peak_flops_per_s, traffic / rates.bandwidth_bytes_per_s)


def attention_seconds(
    batch: Numeric,
    heads: Numeric,
    kv_heads: Numeric,
    q_len: Numeric,
    kv_len: Numeric,
    head_dim: Numeric,
    v_dim: Numeric,
    rates: AttentionRates,
    *,
    causal_share: Numeric = 1.0,
    backward: bool | NDArray[np.bool_] = False,
) -> Array:
    """Time of one fused attention kernel [s].

    ::

        wide    = (head_dim / (head_dim + head_half)) / (128 / (128 + head_half))
        share   = rate wide (times ``backward`` of the fit in backward)
        blocks  = batch max(kv_heads, heads q / 128)
        compute = FLOPs (1 + half / (q + 128)) / (peak share) + blocks ramp / cores
        keys    = min(kv, 512 + kv q / 128)
        longest = 2 min(q, 128) keys (head_dim + v_dim) cores / (peak share)
        memory  = (bytes + memory_half) / (memory bandwidth)
        alone   = solo kv (head_dim + v_dim) kv_bytes / (memory bandwidth)
        t       = (launch + (compute^4 + longest^4 + memory^4 + alone^4)^(1/4)) x surface

    ``half`` is the tile waste of short queries: the masked half of the diagonal blocks, the padding of the
    last block, the start of the pipeline. ``longest`` is the last query block alone on its core: few heads
    and short batches cannot fill the chip, and below one block of queries (decode) the keys are split over
    cores instead. Decode is otherwise the same formula on its memory side; kernels that split the keys in few parts
    only (Triton's: 8) read those of one KV head with a few cores, ``alone``. ``surface`` is the fitted correction
    over keys, sequences x KV heads, head dimension, query group and causal share.

    Args:
        batch, heads, kv_heads, q_len, kv_len, head_dim, v_dim: sizes on this rank, floats or arrays that
            broadcast; at least 1. ``head_dim`` is of queries and keys, ``v_dim`` of values (they differ in
            latent attention).
        rates: hardware and fit, `attention_rates` or `fit_rates`.
        causal_share: computed pairs over q_len x kv_len: about 0.5 for a causal mask; a sliding window or a
            packed document is expressed by it and by ``kv_len``.
        backward: input gradients (dQ, dK, dV), recomputation of the scores included; a flag or one per operator.

    Valid range: head dimensions 64-256 (measured), 576 for latent attention (transferred).
    """
    sizes = AttentionSizes(batch, heads, kv_heads, q_len, kv_len, head_dim, v_dim)
    seconds = corrected_seconds(sizes, rates, causal_share, backward)
    if rates.surface is None:
        return seconds
    # short contexts stay in the cache between the repeats of a benchmark, not between the kernels of a step
    bound = attention_bound_seconds(*sizes, rates, causal_share=causal_share, backward=backward)
    return np.maximum(seconds, bound)


def corrected_seconds(
    sizes: AttentionSizes,
    rates: AttentionRates,
    causal_share: Numeric = 1.0,
    backward: bool | NDArray[np.bool_] = False,
    seen: Numeric | None = None,
) -> Array:
    """`attention_seconds` as a benchmark times it, which may be less than the bound of the memory [s].

    ``seen`` is what the last axis of the surface is read at: the causal share of a prefill, the keys over the context
    of a decode step whose layer has a window.
    """
    seconds = formula_seconds(sizes, rates, causal_share, backward)
    if rates.surface is None:
        return seconds
    copies = np.asarray(sizes.batch, dtype=np.float64) * sizes.kv_heads
    group = np.asarray(sizes.heads, dtype=np.float64) / sizes.kv_heads
    at = (sizes.kv_len, copies, sizes.head_dim, group, causal_share if seen is None else seen)
    return np.asarray(seconds * factor(rates.grid, rates.surface, at))


def formula_seconds(
    sizes: AttentionSizes,
    rates: AttentionRates,
    causal_share: Numeric = 1.0,
    backward: bool | NDArray[np.bool_] = False,
) -> Array:
    """`attention_seconds` without the surface [s]."""
    batch, heads, kv_heads, q_len, kv_len, head_dim, v_dim = sizes
    q, kv = np.asarray(q_len, dtype=np.float64), np.asarray(kv_len, dtype=np.float64)
    batch = np.asarray(batch, dtype=np.float64)
    head = np.asarray(head_dim, dtype=np.float64)
    flops = attention_flops(batch, heads, q, kv, head, v_dim, causal_share, backward=backward)
    traffic = attention_bytes(batch, heads, kv_heads, q, kv, head, v_dim, rates, backward=backward)
    wide = head * (HEAD_DIM + rates.head_half) / (HEAD_DIM * (head + rates.head_half))
    share = rates.rate * wide * np.where(backward, rates.backward, 1.0)
    core = rates.peak_flops_per_s * share
    blocks = batch * np.maximum(kv_heads, q * heads / QUERY_BLOCK)
    compute = flops * (1.0 + rates.half / (q + QUERY_BLOCK)) / core + blocks * rates.ramp / rates.cores
    keys = np.minimum(kv, SPLIT_KEYS + kv * q / QUERY_BLOCK)
    work = attention_flops(1.0, rates.cores, np.minimum(q, QUERY_BLOCK), keys, head, v_dim, backward=backward)
    longest = work / core
    bandwidth = rates.memory * np.asarray(rates.bandwidth_bytes_per_s)
    memory = (traffic + rates.memory_half) / bandwidth
    both = np.square(np.square(compute)) + np.square(np.square(longest)) + np.square(np.square(memory))
    if np.any(rates.solo):
        alone = rates.solo * kv * (head + v_dim) * rates.kv_bytes / bandwidth
        both = both + np.square(np.square(alone))
    return np.asarray(rates.launch + np.sqrt(np.sqrt(both)))
