"""The expert layer of a serving engine: two grouped products and the kernels around them, as tables time it whole."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from ridgeline.facts.kernel_calibration import GroupedFit
from ridgeline.timing.gemm import GemmRates
from ridgeline.timing.grouped import SURFACE, GroupedRates, grouped_bound_seconds, grouped_seconds
from ridgeline.timing.rates import Array, Numeric
from ridgeline.timing.surface import factor


def expert_layer_seconds(
    tokens: Numeric,
    routed: Numeric,
    active: Numeric,
    slots: Numeric,
    hidden: float,
    inner: float,
    arms: float,
    fit: GroupedFit,
    dense: GemmRates,
    stream_bytes_per_s: float,
    *,
    skewed: bool = False,
) -> Array:
    """Time of one rank's expert layer [s].

    ::

        layer  = up + down + fixed + 2 ((row_passes routed + slot_passes slots) (3 inner + 2 hidden)
                 + token_passes tokens hidden) / stream
        t      = layer x surface(up)^share x surface(down)^(1 - share)       share = up / (up + down)

    Args:
        tokens: tokens that meet in the expert group, float or array; all sizes broadcast.
        routed: rows of this rank's experts; ``active``: its experts that get any; ``slots``: routed rows of the group.
        hidden, inner: width of a token, and of one expert on this rank.
        arms: matrices of the first product, 2 with a gate (tables time gated layers).
        fit: of the library; its surface is of balanced routing, or of power-law routing where ``skewed``.
        dense: rates of dense products in the same format.
        stream_bytes_per_s: what memory-bound kernels reach.
    """
    rows, busy = np.maximum(np.asarray(routed, dtype=np.float64), 1.0), np.asarray(active, dtype=np.float64)
    rates = GroupedRates(dense, fit.rate, fit.padding, fit.launch)
    up = grouped_seconds(rows, busy, arms * inner, hidden, rates, active=busy)
    down = grouped_seconds(rows, busy, hidden, inner, rates, active=busy)
    width = (1.0 + arms) * inner + 2.0 * hidden
    around = (fit.row_passes * rows + fit.slot_passes * np.asarray(slots)) * width
    around = around + fit.token_passes * np.asarray(tokens) * hidden
    whole = up + down + fit.fixed + 2.0 * around / stream_bytes_per_s
    found = fit.skewed if skewed and fit.skewed is not None else fit.surface
    if found is not None:
        mean, share = rows / busy, up / (up + down)
        above = np.log(factor(SURFACE, found.nodes, (mean, busy, arms * inner, hidden)))
        below = np.log(factor(SURFACE, found.nodes, (mean, busy, hidden, inner)))
        whole = whole * np.exp(share * above + (1.0 - share) * below)
    # weights of active experts come from memory in a step, whatever the repeats of a benchmark kept in the cache
    bound = grouped_bound_seconds(rows, busy, arms * inner, hidden, rates)
    return np.asarray(np.maximum(whole, bound + grouped_bound_seconds(rows, busy, hidden, inner, rates)))


def busiest_share(rows: Numeric, ranks: float) -> Array:
    """Rows of the busiest of ``ranks`` over the mean when each of ``rows`` picks a rank at random [1].

    Mean of the largest of ``R`` Poisson counts of mean ``m = rows / R``: ``1 + z / sqrt(m) + (z^2 - 1) / (6 m)``, at
    most ``R``, with ``z`` of the largest of ``R`` normal numbers, ``Phi^-1((R - 3/8) / (R + 1/4))`` (Blom, 1958),
    and the skewness of the counts (Cornish and Fisher, 1938). Within 5 % of draws from a mean of one row on.
    """
    if ranks <= 1:
        return np.ones_like(np.asarray(rows, dtype=np.float64))
    mean = np.maximum(np.asarray(rows, dtype=np.float64) / ranks, 1e-9)
    z = NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25))
    return np.clip(1.0 + z / np.sqrt(mean) + (z * z - 1.0) / (6.0 * mean), 1.0, ranks)
