"""Pipeline schedules in closed form, over one plan or a grid of plans: time, bubble, sends, memory, windows.

For equal stages and no sends the times are exact and reduce to the published laws, with F, B, W the forward,
input- and weight-gradient seconds of one micro-batch on one stage, c = F + B + W, p = pp and m micro-batches:

    gpipe, 1f1b   (m + p - 1) c                              2104.04473 (Narayanan et al. 2021), section 2.2
    interleaved   (m + (p - 1) / vpp) c, m % p == 0          2104.04473, section 2.2.2
    zb-h1         m c + (p - 1) max(F, B, F + B - W)         2401.10241 (Qi et al.), table 2
    zb-h2         m c + (p - 1) max(F, B - F, F + B - 2 W)   2401.10241, table 2, and the skew between stages
    zb-v          m c + a ramp, see `paths`; no bubble inside a stage for F = B = W (2401.10241, section 6)
    dualpipe      m c + max(2 n F, (n - 1) F + n B) + n max(0, B - W), n = p / 2 - 1
                  (2412.19437, table 2: n (F + 2 B - W), an upper bound where B >= F and B >= W)

`paths` has the derivation for stages that differ and for sends; `timeline` evaluates the same orders exactly,
and the tests hold the two together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import SCHEDULES
from ridgeline.sim.paths import busiest, makespan
from ridgeline.sim.pipeline_pass import Pass
from ridgeline.sim.stage_costs import MIDDLE, Degree, FloatArray, StageCosts, above, class_rows, class_stages

BLOCK = 1024  # plans evaluated together, so that what is in use stays in the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTimes:
    """Seconds of one pipeline pass over all micro-batches; ``total = busy + bubble + exposed_send``."""

    total_s: FloatArray  # first forward of any stage to last backward of any stage
    busy_s: FloatArray  # compute of the busiest stage
    bubble_s: FloatArray  # what waiting for other stages adds to it, sends taking no time
    exposed_send_s: FloatArray  # what sends add
    skew_s: FloatArray  # part of the bubble that goes when stages start the next step without waiting for all


def pipeline_seconds(
    schedule: str, costs: StageCosts, num_micro_batches: Degree, pp: Degree, vpp: Degree = 1
) -> PipelineTimes:
    """Time of all micro-batches through the pipeline -> arrays [plans] (0-d for one plan).

    ``vpp`` chunks per stage count for *interleaved* only; *zb-v* and *dualpipe* always hold two. Any ``m >=
    1`` is accepted, m < pp included; where a schedule has no order for these numbers (interleaved with ``m %
    pp``, dualpipe with odd numbers or ``m < 2 pp``) the form is continued smoothly.

    Raises ValueError for an unknown schedule.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    phases = (costs.forward_s, costs.input_grad_s, costs.weight_grad_s)
    shape = np.broadcast(*(values[0] for values in phases), costs.send_s, num_micro_batches, pp, vpp).shape
    num_plans = math.prod(shape)
    stages = np.empty((3, 4, *shape))
    for i, values in enumerate(phases):
        missing = 1 + len(shape) - values.ndim
        stages[i] = values.reshape(4, *(1,) * missing, *values.shape[1:]) if missing else values
    stages = stages.reshape(3, 4, 1, num_plans)
    scalars = np.empty((4, *shape))
    scalars[0], scalars[1], scalars[2], scalars[3] = costs.send_s, num_micro_batches, pp, vpp
    scalars = scalars.reshape(4, num_plans)
    times = np.empty((5, num_plans))
    block = 2 * BLOCK if schedule == "interleaved" else BLOCK  # interleaved splits it by kinds of plans
    for start in range(0, num_plans, block):
        part = slice(start, start + block)
        times[:, part] = _times(schedule, Pass(stages[..., part], *scalars[:, part]), costs.send_overlapped)
    total, busy, bubble, exposed_send, skew = times.reshape(5, *shape)
    return PipelineTimes(
        total_s=total, busy_s=busy, bubble_s=bubble, exposed_send_s=exposed_send, skew_s=skew
    )


def _times(schedule: str, plain: Pass, overlapped: bool) -> FloatArray:
    """Rows of `PipelineTimes` [5, plans]; ``plain`` has class values as given and the time of a send."""
    several = plain.pp > 1.0
    rows = class_rows(plain.rows.swapaxes(0, 1), plain.pp).swapaxes(0, 1)
    busy = plain.m * busiest(schedule, rows, plain.pp)[0]
    times = np.zeros((5, busy.size))
    times[0] = times[1] = busy
    if several.any():
        send = several * plain.latency
        costs = _with_and_without(schedule, Pass(rows, send[None], plain.m, plain.pp, plain.vpp), overlapped)
        total, span = makespan(schedule, costs)
        times[2] = several * np.maximum(total[0] - busy, 0.0)
        quiet = busy + times[2]
        times[3] = several * np.maximum(total[-1] - quiet, 0.0)
        times[0] = quiet + times[3]
        times[4] = several * np.maximum(quiet - np.maximum(span[0], busy), 0.0)
    return times


def _with_and_without(schedule: str, costs: Pass, overlapped: bool) -> Pass:
    """Two cases of all plans, sends taking no time and sends taking theirs; one where no plan sends.

    Overlapped sends are latency between stages; others keep the sender busy at every chunk boundary.
    """
    send = costs.latency
    if not send.any():
        return costs
    if overlapped:
        latency = np.concatenate((np.zeros_like(send), send))
        return Pass(costs.rows, latency, costs.m, costs.pp, costs.vpp)
    one = np.ones_like(costs.pp)
    chunks = costs.vpp if schedule == "interleaved" else one
    inner = 2.0 * chunks if schedule == "zb-v" else chunks
    # The first slice sends no gradient, the last no activation; at the tip of a V both stay at home.
    ends = one if schedule == "zb-v" else chunks - 1.0
    sends = np.stack(((chunks, ends), (inner, inner), (inner, inner), (ends, chunks)))
    rows = np.concatenate((costs.rows, costs.rows), axis=2)
    rows[:2, :, 1] += class_rows(sends, costs.pp).swapaxes(0, 1) * send
    return Pass(rows, np.zeros_like(send), costs.m, costs.pp, costs.vpp)


def parameter_copies(schedule: str) -> int:
    """Copies of the parameters a chip holds: two under dualpipe, one otherwise."""
    return 2 if schedule == "dualpipe" else 1


def in_flight(schedule: str, num_micro_batches: Degree, pp: Degree, vpp: Degree = 1) -> FloatArray:
    """Micro-batches whose activations a stage class holds at the peak -> [4, plans], in units of a full
    stage.

    Held from the forward to the weight gradient (the zero-bubble schedules keep part of it less long: upper
    bound). *middle* is its fullest stage. Classes that a short pipeline lacks repeat the nearest stage.

        gpipe        m
        1f1b         min(m, pp - stage)
        interleaved  min(m vpp, 2 (pp - stage - 1) + (vpp - 1) pp + 1) / vpp;
                     stage 0: pp (1 + (pp - 1) / (pp vpp)), 2205.05198 section 4.2.3
        zb-h1        min(m, pp)       zb-h2   min(m, 2 pp - 1)       2401.10241 table 2
        zb-v         min(m, pp)                                      2401.10241 section 6
        dualpipe     min(m, pp + 1), next to two copies of the parameters (2412.19437 table 2)
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    m, degree, chunks = (np.asarray(n, dtype=np.float64) for n in (num_micro_batches, pp, vpp))
    shape = np.broadcast_shapes(m.shape, degree.shape, chunks.shape)
    if schedule == "gpipe":
        return np.zeros((4, *shape)) + m
    if schedule in ("1f1b", "interleaved"):
        limit = np.broadcast_to(degree, shape) - class_stages(np.broadcast_to(degree, shape))
        if schedule == "interleaved":
            several = (2.0 * limit - 1.0 + (chunks - 1.0) * degree) / chunks
            limit = np.where(chunks > 1.0, several, limit)
    else:
        whole = {"zb-h2": 2.0 * degree - 1.0, "dualpipe": degree + 1.0}.get(schedule, degree)
        limit = np.zeros((4, *shape)) + whole
    return np.where(degree > 1.0, np.minimum(m, limit), 1.0)


def reduction_window_s(
    schedule: str, costs: StageCosts, num_micro_batches: Degree, pp: Degree, vpp: Degree = 1
) -> FloatArray:
    """Time from the first gradients that are final to the end of the pipeline, per stage class -> [4, plans].

    Gradients of a chunk are final with its last micro-batch, layer by layer as its backward goes. Per stage
    k, with b one chunk's backward and ``slack = sum of b_i, i < k``, by which stage k ends before stage 0:

        gpipe, 1f1b   b + slack
        interleaved   ((vpp - 1) pp + 1) b + slack    the last group of pp micro-batches runs the other chunks
        zb-h1, zb-h2  W                               the last weight gradient ends the stage
        zb-v          W / 2 + pp (B + W) / 2 on stage 0, W / 2 + k W / 2 below
        dualpipe      (pp / 2 - i) W + max(0, pp / 2 - 2 i) B + W, i = distance to the nearer end

    ``num_micro_batches`` does not matter: only the last pass is left to hide under. Sends are not counted.
    """
    return _reduction(schedule, costs, pp, vpp)[0]


def gather_window_s(
    schedule: str, costs: StageCosts, num_micro_batches: Degree, pp: Degree, vpp: Degree = 1
) -> FloatArray:
    """Time from the start of the pipeline to the end of the first forward of a stage's last chunk -> [4,
    plans].

    Parameters must be there, layer by layer, for the first forward of their chunk. Per stage k, f one chunk's
    forward and ``wait = sum of f_i, i < k``:

        gpipe, 1f1b, zb-h1, zb-h2   wait + f
        interleaved                 wait + ((vpp - 1) pp + 1) f
        zb-v                        wait + (2 (pp - k)) f
        dualpipe                    (pp - i) F, i = distance to the nearer end
    """
    return _gathering(schedule, costs, pp, vpp)[0]


def hidden_reduction_s(
    schedule: str, costs: StageCosts, reduce_s: FloatArray, pp: Degree, vpp: Degree = 1
) -> FloatArray:
    """Part of ``reduce_s`` [4, plans], the gradient reduction of a stage, that runs under the pipeline.

    Chunks become final one after another and share the link, ``n`` of them with ``R / n`` each, evenly
    spaced; with ``window`` as in `reduction_window_s` and ``last`` the part of it after the last chunk
    started to be final, the reduction ends ``max(R - window, R / n - last, 0)`` behind the pipeline.
    """
    return _hidden(reduce_s, *_reduction(schedule, costs, pp, vpp), _chunks(schedule, vpp))


def hidden_gather_s(
    schedule: str, costs: StageCosts, gather_s: FloatArray, pp: Degree, vpp: Degree = 1
) -> FloatArray:
    """Part of ``gather_s`` [4, plans], the parameter gathering of a stage, that runs under the first
    forwards.

    The mirror image of `hidden_reduction_s`: the pipeline is late by ``max(G - window, G / n - first, 0)``.
    """
    return _hidden(gather_s, *_gathering(schedule, costs, pp, vpp), _chunks(schedule, vpp))


def _hidden(seconds: FloatArray, window: FloatArray, edge: FloatArray, chunks: FloatArray) -> FloatArray:
    late = np.maximum(np.maximum(seconds - window, seconds / chunks - edge), 0.0)
    return seconds - late


def _chunks(schedule: str, vpp: Degree) -> FloatArray:
    if schedule == "interleaved":
        return np.asarray(vpp, dtype=np.float64)
    return np.asarray(2.0 if schedule in ("zb-v", "dualpipe") else 1.0)


def _degrees(costs: StageCosts, pp: Degree, chunks: FloatArray) -> FloatArray:
    """``pp`` for every plan of the costs."""
    degree = np.asarray(pp, dtype=np.float64)
    return np.broadcast_to(degree, np.broadcast_shapes(costs.forward_s.shape[1:], degree.shape, chunks.shape))


def _reduction(schedule: str, costs: StageCosts, pp: Degree, vpp: Degree) -> tuple[FloatArray, FloatArray]:
    """Window of all chunks and of the last one [4, plans]."""
    chunks = _chunks(schedule, vpp)
    degree = _degrees(costs, pp, chunks)
    stage = class_stages(degree)
    back = class_rows(costs.input_grad_s + costs.weight_grad_s, degree)
    if schedule in ("gpipe", "1f1b", "interleaved"):
        last = (back + above(back, stage)) / chunks
        if schedule != "interleaved":
            return last, last
        window = last + (chunks - 1.0) * degree / chunks * back
    else:
        weight = class_rows(costs.weight_grad_s, degree)
        last = window = weight
        if schedule == "zb-v":
            last = weight / 2.0
            window = last + np.where(stage == 0.0, degree * back, stage * weight) / 2.0
        elif schedule == "dualpipe":
            left = degree / 2.0 - _to_nearer_end(stage, degree)
            grad = class_rows(costs.input_grad_s, degree)
            window = last + left * weight + np.maximum(2.0 * left - degree / 2.0, 0.0) * grad
    alone = degree == 1.0
    return np.where(alone, back, window), np.where(alone, back, last)


def _gathering(schedule: str, costs: StageCosts, pp: Degree, vpp: Degree) -> tuple[FloatArray, FloatArray]:
    """Window of all chunks and of the first one [4, plans]."""
    chunks = _chunks(schedule, vpp)
    degree = _degrees(costs, pp, chunks)
    stage = class_stages(degree)
    forward = class_rows(costs.forward_s, degree)
    if schedule == "dualpipe":
        end = _to_nearer_end(stage, degree)
        first, window = (end + 1.0) * forward, (degree - end) * forward
    else:
        first = (forward + above(forward, stage)) / chunks
        if schedule not in ("interleaved", "zb-v"):
            return first, first
        later = 2.0 * (degree - stage) - 1.0 if schedule == "zb-v" else (chunks - 1.0) * degree
        window = first + later / chunks * forward
    alone = degree == 1.0
    return np.where(alone, forward, window), np.where(alone, forward, first)


def _to_nearer_end(stage: FloatArray, pp: FloatArray) -> FloatArray:
    """Distance to the nearer end [4, plans]; for class *middle* the farthest, whose windows are shortest."""
    distance = np.minimum(stage, pp - 1.0 - stage)
    distance[MIDDLE] = np.maximum(np.floor(pp / 2.0) - 1.0, 0.0)
    return distance
