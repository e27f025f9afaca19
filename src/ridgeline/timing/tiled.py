"""Decodes inside a prefill's kernel: FlashAttention 2 in steps with prefills and in the verification of drafts.

Its kernel packs the query heads of a KV head into one tile, and splits keys over cores, only where every sequence has
one query. Beside a prefill each query head of each request is a block of its own: a tile of queries of which one row
counts, against all keys of the request, on one core.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ridgeline.timing.attention import HEAD_DIM, AttentionRates
from ridgeline.timing.rates import Array, Numeric

#: Query rows of a block of the kernel that reads a paged cache (flash_fwd_launch_template.h, ``kBlockM``).
TILE = 64.0
#: From so many blocks a core on, its decode kernel for single queries no longer splits keys: 0.8 of twice the cores
#: (flash_api.cpp, ``num_splits_heuristic``).
UNSPLIT = 1.6


class Tiled(NamedTuple):
    """Numbers of the kernel.

    ``rate``: over that of long prefills. ``block_s``: start and end of a block [s]. ``last_wave``: waves beyond the
    whole work, as the last one is not full. ``memory``: reached share of the bandwidth. ``overflow``: keys of one KV
    head over the cache where half of them miss it, and ``sharpness``, how sudden that is.
    """

    rate: float
    block_s: float
    last_wave: float
    memory: float
    overflow: float
    sharpness: float


#: ``ridgeline calibrate mixed --chip rtx-pro-6000``, on the timings of `facts/data/timings/mixed_attention.csv`.
TIMED = Tiled(0.8955, 4.711e-6, 0.5944, 0.8377, 1.119, 4.076)


def tiled_seconds(
    batch: Numeric,
    heads: Numeric,
    kv_heads: Numeric,
    kv_len: Numeric,
    head_dim: float,
    v_dim: float,
    rates: AttentionRates,
    cache_bytes: Numeric,
    fit: Tiled = TIMED,
) -> Array:
    """Attention of ``batch`` requests of one or few queries each inside a prefill's kernel, without its launch [s].

    ::

        block   = block_s + 2 TILE kv (head_dim + v_dim) cores / (peak rate fit.rate)
        waves   = max(1, batch heads / cores + last_wave)                      (1 where all blocks run together)
        missed  = 1 / (1 + (overflow cache / (batch kv (head_dim + v_dim) kv_bytes))^sharpness)
        again   = max(heads / kv_heads / max(cores / batch, 1), 1) - 1
        memory  = bytes of K and V (1 + again missed) / (fit.memory bandwidth)
        t       = ((waves block)^4 + memory^4)^(1/4)

    Blocks run head by head over the whole batch, so the query heads of a KV head read the same keys again unless they
    run at the same time or the keys of one KV head of all requests stay in the cache.

    Args:
        batch, kv_len: requests and keys of each, floats or arrays that broadcast, as all sizes do; at least 1.
        heads, kv_heads, head_dim, v_dim: of this rank.
        rates: of prefills, one format (`attention_rates`); its fields may be arrays of the shape of the sizes.
        cache_bytes: last-level cache of the chip.
        fit: numbers of the kernel.
    """
    batch, keys = np.asarray(batch, np.float64), np.asarray(kv_len, np.float64)
    rate, peak, cores, kv_bytes, bandwidth, head_half = (
        _plain(value)
        for value in (rates.rate, rates.peak_flops_per_s, rates.cores, rates.kv_bytes, rates.bandwidth_bytes_per_s,
                      rates.head_half)
    )  # fmt: skip
    wide = head_dim * (HEAD_DIM + head_half) / (HEAD_DIM * (head_dim + head_half))
    width = head_dim + v_dim
    block = fit.block_s + 2.0 * TILE * keys * width * cores / (peak * rate * wide * fit.rate)
    blocks = batch * heads / cores
    waves = np.where(blocks > 1.0, blocks + fit.last_wave, 1.0)
    head_keys = batch * keys * width * kv_bytes  # of one KV head
    missed = 1.0 / (1.0 + (fit.overflow * cache_bytes / head_keys) ** fit.sharpness)
    again = np.maximum(np.asarray(heads) / kv_heads / np.maximum(cores / batch, 1.0), 1.0) - 1.0
    memory = kv_heads * head_keys * (1.0 + again * missed) / (fit.memory * bandwidth)
    return np.asarray(np.sqrt(np.sqrt(np.square(np.square(waves * block)) + np.square(np.square(memory)))))


def _plain(value: Numeric) -> Array:
    """One number without the axes of operators, or one a row."""
    found = np.asarray(value, np.float64)
    return found.reshape(()) if found.size == 1 else found
