"""Matrix multiplication: a bound, and a tile-and-wave guess with a few fitted numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import GemmFit, KernelSet
from ridgeline.facts.observation import Label
from ridgeline.timing.rates import Array, Numeric, column, operand, peak_flops_per_s, resolve, tiling_cores
from ridgeline.timing.surface import count, factor, knots, nodes, stacked

#: Output tiles (rows, columns) a library chooses from; the best one is taken per shape.
TILES = np.array([(256, 256), (256, 128), (128, 256), (128, 128), (64, 128), (64, 64)], dtype=np.float64)
#: Split-K limits: a part keeps at least this depth, and at most this many parts share a tile.
SPLIT_DEPTH = 256.0
SPLIT_MOST = 16.0
#: Kernels much longer than this run at the lowest clock and cache share.
LONG_S = 1e-3
#: Nodes of the correction: rows of all copies, columns, depth. Tables reach from 1 and 32 to 65,536.
SURFACE = knots(
    (0, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15),
    (5, 7, 8, 9, 10, 11, 12, 13, 16),
    (5, 7, 8, 9, 10, 11, 12, 13, 16),
)
#: Above this many elements the tile candidates are tried one after the other, so that they stay in cache.
STACKED_ELEMENTS = 4096


class GemmRates(NamedTuple):
    """Hardware and fit. Each field is a float or an array that broadcasts with the shapes."""

    peak_flops_per_s: Numeric
    bandwidth_bytes_per_s: Numeric
    cores: Numeric
    in_bytes: Numeric  # per value of A and B
    out_bytes: Numeric  # per value of C
    rate: Numeric
    tile: Numeric
    memory: Numeric
    memory_half: Numeric
    launch: Numeric
    l2: Numeric
    ramp: Numeric
    splitk: Numeric
    droop: Numeric
    surface: Array | None = None  # nodes on `SURFACE`, the last axis
    labels: tuple[Label, ...] = ()  # one per operator


def gemm_rates(chip: Chip, kernels: KernelSet, formats: Sequence[str], out_bytes: float = 2.0) -> GemmRates:
    """Stack hardware and fit for operators of the given input formats; every field is ``[len(formats), 1]``.

    ``out_bytes`` [byte] per value of C is 2 (bf16) unless told. A format without a fit follows its relatives
    (`ridgeline.timing.rates.resolve`) as a share of its own peak, labelled transferred.
    """
    found = [resolve(kernels.gemm, name) for name in formats]
    fits = [fit for fit, _ in found]
    return GemmRates(
        peak_flops_per_s=column([peak_flops_per_s(chip, name) for name in formats]),
        bandwidth_bytes_per_s=chip.memory.bandwidth,
        cores=tiling_cores(chip),
        in_bytes=column([operand(name).bytes for name in formats]),
        out_bytes=out_bytes,
        **_columns(fits),
        surface=stacked([nodes(fit.surface) for fit in fits], count(SURFACE)),
        labels=tuple(label for _, label in found),
    )


def fit_rates(
    fit: GemmFit,
    *,
    peak_flops_per_s: float,
    bandwidth_bytes_per_s: float,
    cores: float,
    in_bytes: float,
    out_bytes: float,
) -> GemmRates:
    """Rates of one fit on one piece of hardware, all floats."""
    return GemmRates(
        peak_flops_per_s, bandwidth_bytes_per_s, cores, in_bytes, out_bytes,
        fit.rate, fit.tile, fit.memory, fit.memory_half, fit.launch, fit.l2, fit.ramp, fit.splitk, fit.droop,
        nodes(fit.surface), (fit.provenance.label,),
    )  # fmt: skip


def _columns(fits: Sequence[GemmFit]) -> dict[str, Array]:
    names = ("rate", "tile", "memory", "memory_half", "launch", "l2", "ramp", "splitk", "droop")
    return {name: column([getattr(fit, name) for fit in fits]) for name in names}


def gemm_flops(m: Numeric, n: Numeric, k: Numeric, batch: Numeric = 1.0) -> Array:
    """Operations of ``batch`` products [FLOP]: 2 m n k batch."""
    return np.asarray(2.0 * np.asarray(m, dtype=np.float64) * n * k * batch)


def gemm_bytes(
    m: Numeric, n: Numeric, k: Numeric, batch: Numeric = 1.0, *, in_bytes: Numeric, out_bytes: Numeric
) -> Array:
    """Memory traffic with every operand moved once [byte]: batch (in (m k + n k) + out m n)."""
    m, n = np.asarray(m, dtype=np.float64), np.asarray(n, dtype=np.float64)
    return np.asarray((in_bytes * (k * (m + n)) + out_bytes * (m * n)) * batch)


def accumulation_seconds(
    m: Numeric,
    n: Numeric,
    batch: Numeric,
    *,
    value_bytes: Numeric,
    exposed: Numeric,
    bandwidth_bytes_per_s: Numeric,
) -> Array:
    """What adding ``batch`` products C[m, n] to a buffer costs beside the products alone [s].

    ::

        t = exposed 2 value_bytes m n batch / bandwidth

    The buffer is read and written once. Timed kernels hide little of it. Of that time ten products of 4,096 rows lose
    0.2 to 1.4 on B200 (median 0.7, beside a clock capped alike), eight groups of 512 to 1,232 rows an expert 0.2 to
    1.1 (median 0.9), five products on A100 0.3 to 0.6 (median 0.5).

    Reference: SimuMax v1.2, configs/system/b200_bf16_ceperm.json and a100_pcie.json: the same products with and
    without ``accumulate``, in fp32 and bf16.
    """
    values = np.asarray(m, dtype=np.float64) * n * batch
    return np.asarray(exposed * 2.0 * value_bytes * values / bandwidth_bytes_per_s)


def gemm_bound_seconds(m: Numeric, n: Numeric, k: Numeric, batch: Numeric, rates: GemmRates) -> Array:
    """Roofline lower bound [s]: max(FLOPs / peak, bytes / bandwidth). Shapes as in `gemm_seconds`."""
    traffic = gemm_bytes(m, n, k, batch, in_bytes=rates.in_bytes, out_bytes=rates.out_bytes)
    compute = gemm_flops(m, n, k, batch) / rates.peak_flops_per_s
    return np.maximum(compute, traffic / rates.bandwidth_bytes_per_s)


def gemm_seconds(m: Numeric, n: Numeric, k: Numeric, batch: Numeric, rates: GemmRates) -> Array:
    """Time of ``batch`` independent products C[m, n] = A[m, k] B[k, n] in one kernel [s].

    For each output tile (tm, tn) of `TILES`, with T = batch ceil(m/tm) ceil(n/tn) tiles on ``cores`` cores::

        share   = rate tm tn / (tm tn + tile)
        depth   = 2 tm tn k cores / (peak share)                    time of one tile
        partial = splitk 4 m n batch / bandwidth                    one fp32 partial sum written and read
        s       = sqrt(depth / partial), at least 1, at most cores / T, k / 256 and 16     split-K parts
        compute = ceil(T / cores) (ramp + depth / s) + (s - 1) partial
        l2      = in k tm tn T (1/tm + 1/tn) / (l2 bandwidth)       operand tiles read through the cache
        memory  = (bytes + memory_half) / (memory bandwidth)
        work    = (compute^4 + l2^4 + memory^4)^(1/4)               softened maximum
        t       = (launch + work (1 + droop work / (work + 1 ms))) x surface(m batch, n, k)

    and the fastest tile wins; ``surface`` is the fitted correction (`ridgeline.timing.surface`), which never leads
    below the bound. ``droop`` is what long kernels lose: the clock under the power cap, operands that no longer
    meet in the cache. The step that dominates hides most of the others; the fourth power was as good as any
    exponent between 3 and 5 on measured shapes.

    Args:
        m, n, k, batch: sizes, floats or arrays that broadcast with each other and with ``rates``; at least 1
            (they need not be whole: an average expert may have 3.7 rows).
        rates: hardware and fit, `gemm_rates` or `fit_rates`.

    Valid range: measured from m = 1, n and k = 32 up to 65,536. More work takes less time only where a measured
    kernel does so between nodes of the surface, by a few per cent. Sizes below 1 have no meaning and are not
    checked here.

    Reference: tiles, waves and split-K as in NVIDIA, "Matrix Multiplication Background User's Guide".
    """
    seconds = corrected_seconds(m, n, k, batch, rates)
    # small operands stay in the cache between the repeats of a benchmark, not between the kernels of a step
    return (
        seconds if rates.surface is None else np.maximum(seconds, gemm_bound_seconds(m, n, k, batch, rates))
    )


def corrected_seconds(m: Numeric, n: Numeric, k: Numeric, batch: Numeric, rates: GemmRates) -> Array:
    """`gemm_seconds` as a benchmark times it, which may be less than the bound of the memory [s]."""
    seconds = formula_seconds(m, n, k, batch, rates)
    if rates.surface is None:
        return seconds
    rows = np.asarray(m, dtype=np.float64) * batch
    return np.asarray(seconds * factor(SURFACE, rates.surface, (rows, n, k)))


def formula_seconds(m: Numeric, n: Numeric, k: Numeric, batch: Numeric, rates: GemmRates) -> Array:
    """`gemm_seconds` without the surface [s]."""
    m, n, k, batch = (np.asarray(size, dtype=np.float64) for size in (m, n, k, batch))
    shape = np.broadcast_shapes(m.shape, n.shape, k.shape, batch.shape, np.shape(rates.rate))
    products = m * n * batch
    traffic = rates.in_bytes * (k * (m + n) * batch) + rates.out_bytes * products
    memory = (traffic + rates.memory_half) / (rates.memory * np.asarray(rates.bandwidth_bytes_per_s))
    floor = np.square(np.square(memory))
    parts = np.minimum(k / SPLIT_DEPTH, SPLIT_MOST)
    partial = products * rates.splitk * (4.0 / np.asarray(rates.bandwidth_bytes_per_s))
    stacks = (TILES,) if math.prod(shape) * len(TILES) <= STACKED_ELEMENTS else TILES[:, None, :]
    best: Array | None = None
    for stack in stacks:
        fastest = _fourth_power(stack, m, n, k, batch, parts, partial, rates, len(shape)).min(axis=0)
        best = fastest if best is None else np.minimum(best, fastest)
    assert best is not None
    work = np.sqrt(np.sqrt(best + floor))
    return np.asarray(rates.launch + work * (1.0 + rates.droop * (work / (work + LONG_S))))


def _fourth_power(
    tiles: Array,
    m: Array,
    n: Array,
    k: Array,
    batch: Array,
    parts: Array,
    partial: Array,
    rates: GemmRates,
    ndim: int,
) -> Array:
    """compute^4 + l2^4 for each tile on a leading axis [s^4]."""
    rows, columns = (tiles[:, side].reshape((-1,) + (1,) * ndim) for side in (0, 1))
    area = rows * columns
    per_depth = (2.0 * (area + rates.tile)) * (
        np.asarray(rates.cores) / (np.asarray(rates.peak_flops_per_s) * rates.rate)
    )
    count = np.ceil(m / rows) * np.ceil(n / columns) * batch
    depth = per_depth * k
    filled = count / rates.cores
    split = np.maximum(1.0, np.minimum(np.minimum(parts, 1.0 / filled), np.sqrt(depth / partial)))
    compute = np.ceil(filled) * (depth / split + rates.ramp) + (split - 1.0) * partial
    cache = (rows + columns) * (
        np.asarray(rates.in_bytes) / (np.asarray(rates.l2) * rates.bandwidth_bytes_per_s)
    )
    reads = cache * (k * count)
    compute *= compute
    compute *= compute
    reads *= reads
    reads *= reads
    compute += reads
    return np.asarray(compute)
