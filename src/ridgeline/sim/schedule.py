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

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import SCHEDULES
from ridgeline.sim.paths import Pass, makespan, mirrored
from ridgeline.sim.stage_costs import (
    Degree,
    FloatArray,
    IntArray,
    StageCosts,
    at_stage,
    before_stage,
    busiest,
)


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
    m = np.asarray(num_micro_batches, dtype=np.int64)
    degree = np.asarray(pp, dtype=np.int64)
    chunks = np.asarray(vpp, dtype=np.int64)
    plain = Pass(costs.forward_s, costs.input_grad_s, costs.weight_grad_s, np.zeros(()))
    busy = m * busiest(mirrored(costs.stage_s, degree) if schedule == "dualpipe" else costs.stage_s, degree)
    quiet, span = makespan(schedule, plain, m, degree, chunks)
    quiet = np.maximum(quiet, busy)
    loud = quiet
    if np.any(costs.send_s):
        sending = _with_sends(schedule, costs, degree, chunks)
        loud = np.maximum(makespan(schedule, sending, m, degree, chunks)[0], quiet)
    return PipelineTimes(
        total_s=busy + (quiet - busy) + (loud - quiet),
        busy_s=busy,
        bubble_s=quiet - busy,
        exposed_send_s=loud - quiet,
        skew_s=np.maximum(quiet - np.maximum(span, busy), 0.0),
    )


def _with_sends(schedule: str, costs: StageCosts, pp: IntArray, vpp: IntArray) -> Pass:
    """Overlapped sends are latency between stages; others keep the sender busy at every chunk boundary."""
    send = np.where(pp > 1, np.asarray(costs.send_s, dtype=np.float64), 0.0)
    forward, grad, weight = costs.forward_s, costs.input_grad_s, costs.weight_grad_s
    if costs.send_overlapped:
        return Pass(forward, grad, weight, send)
    chunks = vpp if schedule == "interleaved" else np.ones_like(pp)
    inner = 2 * chunks if schedule == "zb-v" else chunks
    # The first slice sends no gradient, the last no activation; at the tip of a V both stay at home.
    ends = np.ones_like(pp) if schedule == "zb-v" else chunks - 1
    down = np.stack(np.broadcast_arrays(chunks, inner, inner, ends))
    up = np.stack(np.broadcast_arrays(ends, inner, inner, chunks))
    grow = (slice(None),) + (None,) * max(0, send.ndim - forward.ndim + 1)
    return Pass(forward[grow] + down * send, grad[grow] + up * send, weight[grow] + 0.0 * send, np.zeros(()))


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
    m = np.asarray(num_micro_batches, dtype=np.int64)
    degree, chunks = np.asarray(pp, dtype=np.int64), np.asarray(vpp, dtype=np.int64)
    m, degree, chunks = np.broadcast_arrays(m, degree, chunks)
    stage = _class_stages(degree)
    below = degree - 1 - stage
    limits: dict[str, FloatArray] = {
        "gpipe": m + 0.0 * stage,
        "1f1b": np.asarray(below + 1, dtype=np.float64),
        "interleaved": np.where(chunks > 1, (2 * below + (chunks - 1) * degree + 1) / chunks, below + 1.0),
        "zb-h1": degree + 0.0 * stage,
        "zb-h2": 2 * degree - 1 + 0.0 * stage,
        "zb-v": degree + 0.0 * stage,
        "dualpipe": degree + 1 + 0.0 * stage,
    }
    if schedule not in limits:
        raise ValueError(f"schedule: {schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    held: FloatArray = np.minimum(m, limits[schedule])
    return held if schedule == "gpipe" else np.where(degree > 1, held, 1.0).astype(np.float64)


def _class_stages(pp: IntArray) -> IntArray:
    """Index of the first stage of each class [4, plans]; a class a short pipeline lacks: the nearest."""
    first = np.zeros_like(pp)
    return np.stack([first, np.minimum(first + 1, pp - 1), np.minimum(first + 2, pp - 1), pp - 1])


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


def _hidden(seconds: FloatArray, window: FloatArray, edge: FloatArray, chunks: IntArray) -> FloatArray:
    late = np.maximum(np.maximum(seconds - window, seconds / chunks - edge), 0.0)
    return seconds - late


def _chunks(schedule: str, vpp: Degree) -> IntArray:
    if schedule == "interleaved":
        return np.asarray(vpp, dtype=np.int64)
    return np.asarray(2 if schedule in ("zb-v", "dualpipe") else 1, dtype=np.int64)


def _reduction(schedule: str, costs: StageCosts, pp: Degree, vpp: Degree) -> tuple[FloatArray, FloatArray]:
    """Window of all chunks and of the last one [4, plans]."""
    degree = np.asarray(pp, dtype=np.int64)
    chunks = _chunks(schedule, vpp)
    stage = _class_stages(degree)
    grad = _per_class(costs.input_grad_s, stage, degree)
    weight = _per_class(costs.weight_grad_s, stage, degree)
    back = grad + weight
    if schedule in ("gpipe", "1f1b", "interleaved"):
        one = back / chunks
        slack = _above(costs.input_grad_s + costs.weight_grad_s, stage, degree) / chunks
        last = one + slack
        window = (chunks - 1) * degree * one + last
    elif schedule == "zb-v":
        last = weight / 2
        window = last + np.where(stage == 0, degree * back, stage * weight) / 2
    elif schedule == "dualpipe":
        end = _to_nearer_end(stage, degree)
        last = weight
        window = last + (degree / 2 - end) * weight + np.maximum(degree / 2 - 2 * end, 0.0) * grad
    else:
        last = window = weight
    alone = degree == 1
    return np.where(alone, back, window), np.where(alone, back, last)


def _gathering(schedule: str, costs: StageCosts, pp: Degree, vpp: Degree) -> tuple[FloatArray, FloatArray]:
    """Window of all chunks and of the first one [4, plans]."""
    degree = np.asarray(pp, dtype=np.int64)
    chunks = _chunks(schedule, vpp)
    stage = _class_stages(degree)
    forward = _per_class(costs.forward_s, stage, degree)
    if schedule == "dualpipe":
        end = _to_nearer_end(stage, degree)
        first, window = (end + 1) * forward, (degree - end) * forward
    else:
        one = forward / chunks
        wait = _above(costs.forward_s, stage, degree) / chunks
        first = one + wait
        later = 2 * (degree - stage) - 1 if schedule == "zb-v" else (chunks - 1) * degree
        window = first + later * one
    alone = degree == 1
    return np.where(alone, forward, window), np.where(alone, forward, first)


def _per_class(values: FloatArray, stage: IntArray, pp: IntArray) -> FloatArray:
    """Stage values [4, plans], classes a short pipeline lacks filled in from the nearest stage."""
    return np.stack([at_stage(values, index, pp) for index in stage])


def _above(values: FloatArray, stage: IntArray, pp: IntArray) -> FloatArray:
    """``sum of values over the stages above`` [4, plans]."""
    return np.stack(np.broadcast_arrays(*[before_stage(values, index, pp) for index in stage]))


def _to_nearer_end(stage: IntArray, pp: IntArray) -> IntArray:
    """Distance to the nearer end [4, plans]; for class *middle* the farthest, whose windows are shortest."""
    distance: IntArray = np.minimum(stage, pp - 1 - stage)
    return np.stack([distance[0], distance[1], np.maximum(pp // 2 - 1, 0), distance[3]])
