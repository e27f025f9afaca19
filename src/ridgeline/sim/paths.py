"""Longest paths: the makespan of each pipeline schedule as closed forms over arrays of plans.

Every schedule is a fixed order of operations on each stage, so its makespan is the longest path through the
graph of those operations (max-plus algebra). The forms evaluate the few paths that can be longest: steady
state on one *home* stage, reached through the forwards of the stages above it, left through their backwards,
with the detours through the stages below it that happen while the pipeline fills, drains or waits for a send.

gpipe, 1f1b, interleaved, zb-h1, zb-h2 are lower bounds (each is the length of a real path), exact
for equal stages; zb-v and dualpipe are exact for equal stages, else an estimate: a home stage and the mean of all.
Every form is a longest path whose counts of passes depend on whole numbers alone (degrees, micro-batches), never on
what a pass costs, so that nothing that takes longer can make the whole shorter (as it may where a schedule is made
greedily from costs: Graham, "Bounds on multiprocessing timing anomalies", 1969).

A detour's length is a term of the stage where it turns minus a term of the home stage, so the longest one is
a running maximum over homes, not a search over pairs. Arrays are float64; their last two axes are *cases* (sends
taking no time, sends taking theirs; one row where both are the same) and plans.
"""

from __future__ import annotations

import numpy as np

from ridgeline.sim.pipeline_pass import Pass, top, whole_pipeline
from ridgeline.sim.stage_costs import FIRST, LAST, MIDDLE, SECOND, FloatArray, above, class_stages
from ridgeline.sim.two_slices import dualpipe, mirrored, zero_bubble_v

# Stages that can rule, in order: between them every path length is convex in the stage index.
HOMES = np.array([FIRST, SECOND, MIDDLE, MIDDLE, LAST])  # the first and the last of the middle ones
UPPER, LOWER = np.triu_indices(len(HOMES), 1)  # pairs of homes, ordered by the upper one


def makespan(schedule: str, costs: Pass) -> tuple[FloatArray, FloatArray]:
    """Makespan, and the longest time from first to last operation of any single stage -> two [cases, plans]."""
    if schedule == "gpipe":
        total = _gpipe(costs)
    elif schedule == "1f1b":
        total = _ramps(costs)
    elif schedule == "interleaved":
        total = _interleaved(costs)
    elif schedule == "zb-v":
        return zero_bubble_v(costs)
    elif schedule == "dualpipe":
        total = dualpipe(costs)
    else:
        depth = 1 if schedule == "zb-h1" else 2
        total = _zero_bubble(costs, depth)
        return total, total - _skew(costs, depth)
    return total, total


def _best_above(values: FloatArray) -> FloatArray:
    """Largest of this stage and those before it [..., stages, cases, plans]."""
    best = np.empty(values.shape)
    best[..., 0, :, :] = values[..., 0, :, :]
    for i in range(1, values.shape[-3]):
        np.maximum(values[..., i, :, :], best[..., i - 1, :, :], out=best[..., i, :, :])
    return best


def _best_below(values: FloatArray) -> FloatArray:
    """Largest of this stage and those behind it [..., stages, cases, plans]."""
    best = np.empty(values.shape)
    best[..., -1, :, :] = values[..., -1, :, :]
    for i in range(values.shape[-3] - 2, -1, -1):
        np.maximum(values[..., i, :, :], best[..., i + 1, :, :], out=best[..., i, :, :])
    return best


def _homes(pp: FloatArray) -> FloatArray:
    """Index of the home stages [5, 1, plans]."""
    stages = class_stages(pp)[HOMES]
    np.maximum(stages[2], pp - 2.0, out=stages[3])
    homes: FloatArray = stages[:, None]
    return homes


def _gpipe(costs: Pass) -> FloatArray:
    """Two flow shops, forwards down, backwards up: ``sum F + (m - 1) max F + sum B + (m - 1) max B``."""
    rows = costs.fused
    way = whole_pipeline(rows, costs.pp) + (costs.m - 1.0) * top(rows.swapaxes(0, 1))
    total: FloatArray = way[0] + way[1] + 2.0 * (costs.pp - 1.0) * costs.latency
    return total


def _ramps(costs: Pass) -> FloatArray:
    """Longest path of 1f1b -> [cases, plans].

    Stage k runs ``w_k = pp - 1 - k`` forwards before it alternates. With F, B (both gradients) and c = F + B
    at home stage k and s the send latency:

        T = max_k  sum_{i<k} (c_i + 2 s) + m c_k + start_k + middle_k + end_k
        start_k  = max_d sum_{k<i<=d} (c_i + 2 s) + w_d max_{i<=d} F_i - w_k F_k
        end_k    = max_d sum_{k<i<=d} (c_i + 2 s) + w_d max_{i<=d} B_i - w_k B_k
        middle_k = as often as fits, max_d sum_{k<i<=d} (c_i + 2 s) - (w_k - w_d) c_k

    start: until the first backward is back; end: until the last is; middle: what sends add in between. A
    slower stage above can hold up the first forwards, hence the maximum over ``i <= d``.
    """
    home, at = _homes(costs.pp), costs.fused[:, HOMES]
    cycle = at[0] + at[1]
    into = above(cycle, home) + 2.0 * home * costs.latency
    trip = into + cycle
    warm = np.minimum(costs.pp - 1.0 - home, costs.m - 1.0)
    ramps = _best_below(trip + warm * _best_above(at)) - (trip + warm * at)
    return top(into + costs.m * cycle + _around(costs, ramps, trip, warm, cycle, cycle, 1))


def _zero_bubble(costs: Pass, depth: int) -> FloatArray:
    """Longest path of zb-h1 (depth 1) and zb-h2 (depth 2) -> [cases, plans].

    As `_ramps`, with ``w_k = depth (pp - 1 - k)`` and trips of F and B alone; stage k still owes ``D_k =
    depth k`` weight gradients W when the last micro-batch comes back:

        T = max_k  sum_{i<k} (F_i + s) + m c_k + start_k + middle_k + end_k + leave_k
        end_k    = max_d sum_{k<i<=d} (F_i + B_i + 2 s) + w_d (B_d + W_d) - w_k (B_k + W_k)
        leave_k  = max_{e<=k} sum_{e<=i<k} (B_i + s) + (D_e + 1) W_e - (D_k + 1) W_k

    leave: the drain and the weight gradients left over.
    """
    home, at = _homes(costs.pp), costs.rows[:, HOMES]
    forward, grad, weight = at
    wait = home * costs.latency
    into, back = above(forward, home), above(grad, home)
    chain = forward + grad
    cycle = chain + weight
    trip = into + back + chain + 2.0 * wait
    warm = np.minimum(depth * (costs.pp - 1.0 - home), costs.m - 1.0)
    pair = np.stack((forward, grad + weight))
    most = np.stack((_best_above(forward), pair[1]))
    ramps = _best_below(trip + warm * most) - (trip + warm * pair)
    owed = np.minimum(depth * home, costs.m - 1.0 - warm)
    left = (owed + 1.0) * weight - back - wait
    total = into + wait + costs.m * cycle + (_best_above(left) - left)
    return top(total + _around(costs, ramps, trip, warm, chain, cycle, depth))


def _around(
    costs: Pass,
    ramps: FloatArray,
    trip: FloatArray,
    warm: FloatArray,
    chain: FloatArray,
    cycle: FloatArray,
    depth: int,
) -> FloatArray:
    """start + middle + end per home stage [5, cases, plans]; the longer ramp where they are one."""
    spare = costs.m - 2.0 - warm  # micro-batches between the trip of the first and that of the last
    start, end = ramps
    around = start + end
    if costs.latency.any():  # it is sends that make trips longer than the work of the busiest stage
        loud = costs.latency[-1]
        around[:-1, -1] += _middle(
            spare[:, 0], trip[:, -1], warm[:, 0], chain[:, -1], cycle[:, -1], loud, depth
        )
    chosen: FloatArray = np.where(spare >= 0.0, around, np.maximum(start, end))
    return chosen


def _middle(
    spare: FloatArray,
    trip: FloatArray,
    warm: FloatArray,
    chain: FloatArray,
    cycle: FloatArray,
    latency: FloatArray,
    depth: int,
) -> FloatArray:
    """What trips to stages below add in steady state, as often as they fit [5, plans] -> [4, plans]."""
    extra, own = warm[UPPER] - warm[LOWER], cycle[UPPER]
    fits = np.maximum(spare, 0.0)[UPPER]
    times = np.floor(fits / (extra + 1.0))
    gain = (trip[LOWER] - trip[UPPER] - extra * own) * times
    rest = fits - times * (extra + 1.0)
    below = np.maximum(rest - 1.0, 0.0)  # a shorter trip uses up what is left
    if depth > 1:
        below = np.floor(below / depth)
    short = below * (chain[2] + 2.0 * latency - depth * own)
    short[:4] += np.minimum(below[:4], 1.0) * (chain[1] - chain[2])
    gain += np.maximum(short, 0.0)
    np.maximum(gain, 0.0, out=gain)
    return np.stack((top(gain[:4]), top(gain[4:7]), top(gain[7:9]), gain[9]))


def _skew(costs: Pass, depth: int) -> FloatArray:
    """What zb-h1 (depth 1) and zb-h2 (depth 2) lose if all stages wait for the last; mean stage costs."""
    f, b, w = whole_pipeline(costs.rows, costs.pp) / costs.pp  # [cases, plans]
    own = np.maximum(np.maximum(b - (depth - 1) * f, f + b - depth * w), 0.0)
    return np.asarray((costs.pp - 1.0) * np.maximum(f - own, 0.0), dtype=np.float64)


def _interleaved(costs: Pass) -> FloatArray:
    """Interleaved 1F1B; plans of one chunk are plain 1F1B -> [cases, plans]."""
    several = costs.vpp > 1.0
    many = several & (costs.m > costs.pp)
    total = np.empty(np.broadcast_shapes(costs.rows.shape[2:], costs.latency.shape))
    for plans, form in ((many, _groups), (several & ~many, _one_group), (~several, _ramps)):
        if plans.all():
            return form(costs)
        if plans.any():
            total[:, plans] = form(costs.choose(plans))
    return total


def _groups(costs: Pass) -> FloatArray:
    """Longest path of interleaved 1F1B with at least two chunks and ``m > pp`` -> [cases, plans].

    Stage k runs ``2 w_k + (vpp - 1) pp`` chunk forwards before it alternates, ``w_k = pp - 1 - k``. With f, b
    and t = f + b those of one chunk at home stage k:

        T = max_k  sum_{i<k} (f_i + b_i + 2 s) + m vpp t_k + loops_k + first_k + last_k
        loops_k = (vpp - 1) (max(0, sum f + pp s - pp f_k) + max(0, sum b + pp s - pp b_k))
        first_k = max_d sum_{k<i<=d} (t_i + 2 s) + 2 w_d max_{i<=d} f_i - 2 w_k f_k, until the first backward
        last_k  = the same with b for f, from the last forward

    or, where it is longer, a `_rounds` instead of first or last.
    """
    m, pp = costs.m, costs.pp
    home, at = _homes(pp), (costs.fused / costs.vpp)[:, HOMES]
    warm = 2.0 * (pp - 1.0 - home)
    total, trip, whole = _steady(costs, home, at)
    first, last = _best_below(trip + warm * _best_above(at)) - (trip + warm * at)
    fill, drain = np.maximum(whole + _rounds(home, at, warm, pp), 0.0)
    longer = np.maximum(fill + last[:-1], first[:-1] + drain)
    longer = np.maximum(longer, (m > 2.0 * pp) * (fill + drain))  # two of them need three groups
    ramps = first + last
    np.maximum(ramps[:-1], longer, out=ramps[:-1])
    return top(total + ramps)


def _one_group(costs: Pass) -> FloatArray:
    """Longest path of interleaved 1F1B with at least two chunks and ``m = pp`` -> [cases, plans].

    As `_groups`, but all is one round trip: the top stages have no steady state between first and last, and

        joint_k = max_d sum_{k<i<d} t_i + pp t_d - (pp - 1) t_k + 2 (d - k) s
    """
    pp = costs.pp
    home, at = _homes(pp), (costs.fused / costs.vpp)[:, HOMES]
    warm = np.minimum(2.0 * (pp - 1.0 - home), pp - 1.0)
    total, trip, _ = _steady(costs, home, at)
    first, last = _best_below(trip + warm * _best_above(at)) - (trip + warm * at)
    ramps = np.where(warm < pp - 1.0, first + last, np.maximum(first, last))
    turn = trip + (pp - 1.0) * (at[0] + at[1])
    return top(total + np.maximum(ramps, _best_below(turn) - turn))


def _steady(costs: Pass, home: FloatArray, at: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Time without first and last [5, cases, plans]; round trip down to a home stage, its own work included
    [5, cases, plans]; forward and backward of a chunk through all stages [2, 1, cases, plans].
    """
    ahead = above(at.swapaxes(0, 1), home[:, None])
    whole = (ahead[-1] + at[:, -1] + costs.pp * costs.latency)[:, None]
    loops = np.maximum(whole - costs.pp * at, 0.0)
    into = ahead[:, 0] + ahead[:, 1] + 2.0 * home * costs.latency
    t = at[0] + at[1]
    total = into + costs.m * costs.vpp * t + (costs.vpp - 1.0) * (loops[0] + loops[1])
    return total, into + t, whole


def _rounds(home: FloatArray, at: FloatArray, warm: FloatArray, pp: FloatArray) -> FloatArray:
    """Gain over staying on a home stage while filling and while draining, but for a chunk's way through all
    stages [2, 4, cases, plans].

    Down to a stage below with the first of the last chunk, ``pp`` chunks of work there, then into the next
    group at the top; draining is the mirror image, backwards for forwards. The last home has none below.
    """
    come = at[::-1]
    there = pp * at[:, 1:] + np.maximum(pp - warm[1:], 0.0) * come[:, 1:]
    there += np.where(home[1:] > home[:-1], 0.0, -np.inf)  # only stages that exist
    skipped = 2.0 * pp * at[:, :-1] + np.maximum(2.0 * pp - warm[:-1], 0.0) * come[:, :-1]
    gain: FloatArray = _best_below(there) - skipped
    return gain


def busiest(schedule: str, rows: FloatArray, pp: FloatArray) -> FloatArray:
    """Seconds of one micro-batch on the busiest stage [cases, plans]; ``rows`` [3, 4, cases, plans]."""
    own = mirrored(rows, pp) if schedule == "dualpipe" else rows
    return top(own[0] + own[1] + own[2])
