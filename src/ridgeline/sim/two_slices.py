"""Longest paths of zb-v and dualpipe, whose stages hold two slices of the model: exact for equal stages.

With stages that differ a path is of one *home* stage and of the mean of all: what the schedule adds to the work of the
home stage lies on all of them, what it leaves out is missing at home.
"""

from __future__ import annotations

import numpy as np

from ridgeline.sim.pipeline_pass import Pass, top, whole_pipeline
from ridgeline.sim.stage_costs import FIRST, LAST, MIDDLE, SECOND, FloatArray


def zero_bubble_v(costs: Pass) -> tuple[FloatArray, FloatArray]:
    """Makespan and span of one stage for zb-v, from the critical paths of the order of `order.order`, found by
    differentiating its exact timeline with equal stages.

    Exact for equal stages up to ``m = pp`` and from ``m = 2 pp - 1``, where the order is periodic; between the two the
    time runs straight. Sends are exposed both ways along the V, and once more where it fills a steady pipeline.
    """
    pp, m = costs.pp, costs.m
    short, steady = np.minimum(m, pp), np.maximum(m, 2.0 * pp - 1.0)
    part = np.clip((m - pp) / np.maximum(pp - 1.0, 1.0), 0.0, 1.0)
    few, many = _v_round_trip(costs, short), _v_steady(costs, steady)
    total, own = ((1.0 - part) * few + part * rows for rows in many)
    return total, own


def _v_round_trip(costs: Pass, m: FloatArray) -> FloatArray:
    """zb-v of at most ``pp`` micro-batches: the V down and up once, and what follows on one stage -> [cases, plans]."""
    pp, more = costs.pp, m - 1.0
    trip = whole_pipeline(costs.rows, pp)
    way = trip[0] + trip[1] + 4.0 * (pp - 1.0) * costs.latency
    f, b, w = costs.rows
    behind = (
        more * b + m * w,
        more * (f + b) / 2.0 + m * w,
        more * f + w,
        more * f + (m + 1.0) / 2.0 * w - more / 2.0 * trip[1] / pp,
    )
    longest = way + top(np.stack(behind).reshape(-1, *w.shape[1:]))
    return np.asarray(np.maximum(longest, m * top(f + b + w)))


def _v_steady(costs: Pass, m: FloatArray) -> tuple[FloatArray, FloatArray]:
    """zb-v of at least ``2 pp - 1`` micro-batches: makespan and span of one stage -> two [cases, plans]."""
    q, h, one = costs.pp - 1.0, costs.pp / 2.0 - 1.0, np.ones_like(costs.pp)
    none = 0.0 * one
    shared = ((none, q, -q), (q - 0.5, one / 2.0, -q), (q, none, -q - 0.5))
    makespan = (
        (none, q / 2.0, none),
        (none, one / 2.0, h),
        (one / 2.0, none, h),
        (q - 0.5, -h, none),
        (q, -q / 2.0, -one / 2.0),
    )
    span = (
        (-q / 2.0, q / 2.0, none),
        (-q / 2.0, one / 2.0, h),
        (-h, none, h),
        (h, -h, none),
        (q, -q / 2.0, -q / 2.0),
    )
    sends = np.maximum(5.0 * costs.pp - 7.0, 0.0) * costs.latency
    at, mean = costs.rows, whole_pipeline(costs.rows, costs.pp) / costs.pp
    return (
        sends + _home_paths(at, mean, m, (*shared, *makespan)),
        sends + _home_paths(at, mean, m, (*shared, *span)),
    )


def dualpipe(costs: Pass) -> FloatArray:
    """DualPipe (2412.19437 figure 5): ``m max c + max(2 n F, (n - 1) F + n B) + n max(0, B - W)``, n = pp / 2
    - 1.

    Each micro-batch meets ``(pp - 1) / pp`` exposed sends in steady state, because a stage holds pp + 1 of them and
    their trip through all stages is longer by two sends a stage. Exact for equal stages and no sends, pp even and m >=
    2 pp.
    """
    m, pp = costs.m, costs.pp
    n = np.maximum(pp / 2.0 - 1.0, 0.0)
    none = np.zeros_like(n)
    ramps = tuple((f, b + more, -more) for f, b in ((2.0 * n, none), (n - 1.0, n)) for more in (none, n))
    mean = whole_pipeline(costs.rows, pp) / pp
    sends = (pp > 1.0) * (m * (pp - 1.0) / pp + 3.0 * n) * costs.latency
    return np.asarray(sends + _home_paths(mirrored(costs.rows, pp), mean, m, ramps))


def mirrored(rows: FloatArray, pp: FloatArray) -> FloatArray:
    """A dualpipe rank holds two stages, one of each copy of the model: the mean of a stage and its mirror image."""
    ends = (rows[:, FIRST] + rows[:, LAST]) / 2.0
    next_to_end = (rows[:, SECOND] + np.where(pp > 3.0, rows[:, MIDDLE], rows[:, SECOND])) / 2.0
    inner = np.where(pp > 2.0, next_to_end, ends)
    return np.asarray(np.stack((ends, inner, np.where(pp > 4.0, rows[:, MIDDLE], ends)), axis=1))


def _home_paths(
    at: FloatArray,
    mean: FloatArray,
    m: FloatArray,
    ramps: tuple[tuple[FloatArray, FloatArray, FloatArray], ...],
) -> FloatArray:
    """Longest of ``m`` micro-batches on a home stage ``at`` [3, homes, cases, plans] and a ramp -> [cases, plans].

    A ramp counts each phase: what it adds lies on all stages and takes their ``mean`` [3, cases, plans], what it leaves
    out is missing at home. No path then has a negative number of any phase: nothing that costs more makes it shorter.
    """
    longest = m * (at[0] + at[1] + at[2])
    for counts in ramps:
        path = np.zeros_like(longest)
        for phase, count in enumerate(counts):
            path += np.maximum(m + np.minimum(count, 0.0), 0.0) * at[phase]
            path += np.maximum(count, 0.0) * mean[phase]
        np.maximum(longest, path, out=longest)
    found: FloatArray = top(longest)
    return found
