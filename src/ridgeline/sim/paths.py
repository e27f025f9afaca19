"""Longest paths: the makespan of each pipeline schedule as closed forms over arrays of plans.

Every schedule is a fixed order of operations on each stage, so its makespan is the longest path through the
graph of those operations (max-plus algebra). The forms evaluate the few paths that can be longest: steady
state on one *home* stage, reached through the forwards of the stages above it, left through their backwards,
with the detours through the stages below it that happen while the pipeline fills, drains or waits for a send.

gpipe, 1f1b, interleaved, zb-h1, zb-h2 are lower bounds (each is the length of a real path), exact
for equal stages; zb-v and dualpipe are exact for equal stages, else an estimate from mean stage costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from ridgeline.sim.stage_costs import FloatArray, IntArray, at_stage, before_stage, busiest


@dataclass(frozen=True, slots=True)
class Pass:
    """Seconds of one micro-batch per stage class [4, plans], and of a hand-over that keeps no stage busy."""

    forward: FloatArray
    grad: FloatArray  # input gradient
    weight: FloatArray
    latency: FloatArray

    @property
    def fused(self) -> Pass:
        """Both gradients in one pass."""
        return Pass(self.forward, self.grad + self.weight, np.zeros_like(self.weight), self.latency)


def makespan(
    schedule: str, costs: Pass, m: IntArray, pp: IntArray, vpp: IntArray
) -> tuple[FloatArray, FloatArray]:
    """Makespan, and the longest time from first to last operation of any single stage."""
    if schedule == "gpipe":
        total = _gpipe(costs, m, pp)
    elif schedule == "1f1b":
        total = _ramps(costs.fused, m, pp, depth=1, debt=0)
    elif schedule == "interleaved":
        plain = _ramps(costs.fused, m, pp, depth=1, debt=0) if np.any(vpp == 1) else np.zeros(())
        total = np.where(vpp > 1, _interleaved(costs.fused, m, pp, vpp), plain)
    elif schedule == "zb-v":
        return _zero_bubble_v(costs, m, pp)
    elif schedule == "dualpipe":
        total = _dualpipe(costs, m, pp)
    else:
        depth = 1 if schedule == "zb-h1" else 2
        total = _ramps(costs, m, pp, depth=depth, debt=depth)
        return total, total - _skew(costs, pp, depth)
    return total, total


def _gpipe(costs: Pass, m: IntArray, pp: IntArray) -> FloatArray:
    """Two flow shops, forwards down, backwards up: ``sum F + (m - 1) max F + sum B + (m - 1) max B``."""
    total = 2 * (pp - 1) * costs.latency
    for values in (costs.forward, costs.grad + costs.weight):
        total = total + before_stage(values, pp, pp) + (m - 1) * busiest(values, pp)
    return total


def _homes(pp: IntArray) -> list[IntArray]:
    """Stages that can rule, in order: between them every path length is convex in the stage index."""
    third = np.minimum(2, pp - 1)
    return [np.zeros_like(pp), np.minimum(1, pp - 1), third, np.maximum(pp - 2, third), pp - 1]


def _ramps(costs: Pass, m: IntArray, pp: IntArray, *, depth: int, debt: int) -> FloatArray:
    """Longest path of the 1F1B family (1f1b, zb-h1, zb-h2) -> [plans].

    Stage k runs ``w_k = depth (pp - 1 - k)`` forwards before it alternates and still owes ``D_k = debt k``
    weight gradients when the last micro-batch comes back. With F, B, W at home stage k and s the send
    latency:

        T = max_k  sum_{i<k} (F_i + s) + m c_k + start_k + middle_k + end_k + leave_k
        start_k  = max_d sum_{k<i<=d} (F_i + B_i + 2 s) + w_d max_{i<=d} F_i - w_k F_k
        end_k    = max_d sum_{k<i<=d} (F_i + B_i + 2 s) + w_d (B_d + W_d) - w_k (B_k + W_k)
        middle_k = as often as fits, max_d sum_{k<i<=d} (F_i + B_i + 2 s) - (w_k - w_d) c_k
        leave_k  = max_{e<=k} sum_{e<=i<k} (B_i + s) + (D_e + 1) W_e - (D_k + 1) W_k

    start: until the first backward is back; end: until the last is; middle: what sends add in between; leave:
    the drain and the weight gradients left over.
    """
    chain, cycle = costs.forward + costs.grad, costs.forward + costs.grad + costs.weight
    back = costs.grad + costs.weight
    homes = _homes(pp)
    sums = [before_stage(chain, home, pp) for home in homes]
    at = [
        [at_stage(values, home, pp) for home in homes]
        for values in (chain, costs.forward, back, cycle, costs.weight)
    ]
    warm = [np.minimum(depth * (pp - 1 - home), m - 1) for home in homes]
    owed = [np.clip(debt * home, 0, np.maximum(m - 1 - w, 0)) for home, w in zip(homes, warm, strict=True)]
    up = [before_stage(costs.grad, home, pp) for home in homes]
    widest = list(accumulate(at[1], np.maximum))  # a slower forward above can hold up the first ones
    longest = at[2] if debt else list(accumulate(at[2], np.maximum))
    total = np.zeros(())
    for k, home in enumerate(homes):
        start = end = middle = leave = np.zeros(())
        spare = m - 2 - warm[k]  # micro-batches between the trip of the first and that of the last
        for d in range(k, len(homes)):
            trip = sums[d] + at[0][d] - sums[k] - at[0][k] + 2 * (homes[d] - home) * costs.latency
            start = np.maximum(start, trip + warm[d] * widest[d] - warm[k] * at[1][k])
            end = np.maximum(end, trip + warm[d] * longest[d] - warm[k] * at[2][k])
            length = warm[k] - warm[d] + 1
            gain = (trip - (length - 1) * at[3][k]) * (np.maximum(spare, 0) // length)
            below = np.maximum(spare % length - 1, 0) // depth  # a shorter trip uses up what is left
            short = before_stage(chain, home + below + 1, pp) - sums[k] - at[0][k]
            short = short + below * (2 * costs.latency - depth * at[3][k])
            middle = np.maximum(middle, gain + np.maximum(short, 0.0))
        for e in range(k + 1):
            rest = up[k] - up[e] + (home - homes[e]) * costs.latency
            leave = np.maximum(leave, rest + (owed[e] + 1) * at[4][e] - (owed[k] + 1) * at[4][k])
        ramps = np.where(spare >= 0, start + end + middle, np.maximum(start, end))
        into = before_stage(costs.forward, home, pp) + home * costs.latency
        total = np.maximum(total, into + m * at[3][k] + ramps + leave)
    return total


def _skew(costs: Pass, pp: IntArray, depth: int) -> FloatArray:
    """What zb-h1 (depth 1) and zb-h2 (depth 2) lose if all stages wait for the last; mean stage costs."""
    f, b, w = (before_stage(values, pp, pp) / pp for values in (costs.forward, costs.grad, costs.weight))
    own = np.maximum(np.maximum(b - (depth - 1) * f, f + b - depth * w), 0.0)
    return np.asarray((pp - 1) * np.maximum(f - own, 0.0), dtype=np.float64)


def _interleaved(costs: Pass, m: IntArray, pp: IntArray, vpp: IntArray) -> FloatArray:
    """Longest path of interleaved 1F1B with at least two chunks -> [plans].

    Stage k runs ``2 w_k + (vpp - 1) pp`` chunk forwards before it alternates, ``w_k = pp - 1 - k``. With f, b
    and t = f + b those of one chunk at home stage k:

        T = max_k  sum_{i<k} (f_i + b_i + 2 s) + m vpp t_k + loops_k + first_k + last_k
        loops_k = (vpp - 1) (max(0, sum f + pp s - pp f_k) + max(0, sum b + pp s - pp b_k))
        first_k = max_d sum_{k<i<=d} (t_i + 2 s) + 2 w_d max_{i<=d} f_i - 2 w_k f_k, until the first backward
        last_k  = the same with b for f, from the last forward

    or, where it is longer, a `_round` instead of first or last; and when ``m = pp``, all one round trip,

        joint_k = max_d sum_{k<i<d} t_i + pp t_d - (pp - 1) t_k + 2 (d - k) s
    """
    f, b = costs.forward / vpp, (costs.grad + costs.weight) / vpp
    t, s = f + b, costs.latency
    homes = _homes(pp)
    sums = [before_stage(t, home, pp) for home in homes]
    at_f, at_b, at_t = ([at_stage(values, home, pp) for home in homes] for values in (f, b, t))
    most_f, most_b = list(accumulate(at_f, np.maximum)), list(accumulate(at_b, np.maximum))
    all_f, all_b = before_stage(f, pp, pp), before_stage(b, pp, pp)
    warm = [np.minimum(2 * (pp - 1 - home), np.where(m > pp, 2 * pp, pp - 1)) for home in homes]
    total = np.zeros(())
    for k, home in enumerate(homes):
        first = last = joint = np.zeros(())
        fill, drain = np.full((), -np.inf), np.full((), -np.inf)
        for d in range(k, len(homes)):
            trip = sums[d] + at_t[d] - sums[k] - at_t[k] + 2 * (homes[d] - home) * s
            first = np.maximum(first, trip + warm[d] * most_f[d] - warm[k] * at_f[k])
            last = np.maximum(last, trip + warm[d] * most_b[d] - warm[k] * at_b[k])
            joint = np.maximum(joint, trip + (pp - 1) * (at_t[d] - at_t[k]))
            below = homes[d] > home
            fill = np.maximum(fill, np.where(below, _round(all_f, at_f, at_b, warm, k, d, pp) + pp * s, 0.0))
            drain = np.maximum(
                drain, np.where(below, _round(all_b, at_b, at_f, warm, k, d, pp) + pp * s, 0.0)
            )
        single = np.maximum(np.where(warm[k] < pp - 1, first + last, np.maximum(first, last)), joint)
        ramps = np.where(m > pp, first + last, single)
        rounds = np.maximum(fill + last, first + drain)  # two rounds need three groups of micro-batches
        rounds = np.maximum(rounds, np.where(m > 2 * pp, fill + drain, rounds))
        ramps = np.maximum(ramps, np.where(m > pp, rounds, ramps))
        loops = np.maximum(all_f + pp * (s - at_f[k]), 0.0) + np.maximum(all_b + pp * (s - at_b[k]), 0.0)
        into = sums[k] + 2 * home * s
        total = np.maximum(total, into + m * vpp * at_t[k] + (vpp - 1) * loops + ramps)
    return total


def _round(
    whole: FloatArray,
    go: list[FloatArray],
    come: list[FloatArray],
    warm: list[IntArray],
    k: int,
    d: int,
    pp: IntArray,
) -> FloatArray:
    """Gain over staying on stage k: down to d with the first of the last chunk, ``pp`` chunks of work there,
    then into the next group at the top. ``go`` are forwards when filling and backwards when draining (the
    mirror image).
    """
    there = (pp + 1) * go[d] + np.maximum(pp - warm[d], 0) * come[d]
    skipped = (2 * pp - 1) * go[k] + np.maximum(2 * pp - warm[k], 0) * come[k]
    gain: FloatArray = whole - go[k] - go[d] + there - skipped
    return gain


def _zero_bubble_v(costs: Pass, m: IntArray, pp: IntArray) -> tuple[FloatArray, FloatArray]:
    """Makespan and span of one stage for zb-v: ``m max_i c_i`` and a ramp of mean stage costs -> two [plans].

    The ramp is the largest of the linear forms in F, B, W below, the critical paths of the order of
    `order.order` found by differentiating its exact timeline; sends are exposed ``5 pp - 7`` times (both ways
    along the V, and once more where it fills). Exact for equal stages and ``m >= 2 pp - 1``.
    """
    f, b, w = (before_stage(values, pp, pp) / pp for values in (costs.forward, costs.grad, costs.weight))
    q, h = pp - 1, pp / 2 - 1
    shared = (q * (b - w), (q - 0.5) * f + 0.5 * b - q * w, q * f - (q + 0.5) * w)
    makespan = (
        q * b / 2,
        b / 2 + h * w,
        f / 2 + h * w,
        (q - 0.5) * f - h * b,
        q * f - (q * b + w) / 2,
    )
    span = (
        q * (b - f) / 2,
        (b - q * f) / 2 + h * w,
        h * (w - f),
        h * (f - b),
        q * (f - (b + w) / 2),
    )
    busy = m * busiest(costs.forward + costs.grad + costs.weight, pp)
    sends = np.where(pp > 1, np.maximum(5 * pp - 7, 0), 0) * costs.latency
    many = pp > 1
    total = busy + np.where(
        many, np.maximum(np.max(np.stack(np.broadcast_arrays(*shared, *makespan)), axis=0), 0.0), 0.0
    )
    own = busy + np.where(
        many, np.maximum(np.max(np.stack(np.broadcast_arrays(*shared, *span)), axis=0), 0.0), 0.0
    )
    return total + sends, own + sends


def mirrored(values: FloatArray, pp: IntArray) -> FloatArray:
    """Mean of each stage and its mirror image [4, plans]: what a dualpipe rank holds, one of each copy."""
    pairs = []
    for home in (np.zeros_like(pp), np.minimum(1, pp - 1), np.minimum(2, pp - 1), pp - 1):
        pairs.append((at_stage(values, home, pp) + at_stage(values, pp - 1 - home, pp)) / 2)
    pairs_s: FloatArray = np.stack(np.broadcast_arrays(*pairs))
    return pairs_s


def _dualpipe(costs: Pass, m: IntArray, pp: IntArray) -> FloatArray:
    """DualPipe (2412.19437 figure 5): ``m max c + max(2 n F, (n - 1) F + n B) + n max(0, B - W)``, n = pp / 2
    - 1.

    Ramps take mean stage costs. Each micro-batch meets ``(pp - 1) / pp`` exposed sends in steady state,
    because a stage holds pp + 1 of them and their trip through all stages is longer by two sends a stage.
    Exact for equal stages and no sends, pp even and m >= 2 pp.
    """
    f, b, w = (before_stage(values, pp, pp) / pp for values in (costs.forward, costs.grad, costs.weight))
    n = np.maximum(pp / 2 - 1, 0.0)
    ramp = np.maximum(2 * n * f, (n - 1) * f + n * b) + n * np.maximum(b - w, 0.0)
    busy = m * busiest(mirrored(costs.forward + costs.grad + costs.weight, pp), pp)
    return busy + np.where(pp > 1, np.maximum(ramp, 0.0) + (m * (pp - 1) / pp + 3 * n) * costs.latency, 0.0)
