"""ServingMetrics: the numbers a service is judged by, as benchmark clients state them.

Latencies and rates are of measured requests that got all their tokens; how many did not, ``counts`` says. A latency
counts from the send: in an open loop that is the scheduled arrival, so that a late client hides nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import Slo
from ridgeline.metrics.spread import Spread, counted_spread, spread_of
from ridgeline.sim.serving.outcome import CANCELLED, DONE, ITL_EDGES_S, LOST, REFUSED, TIMED_OUT, Outcome

FloatArray = NDArray[np.float64]
Mask = NDArray[np.bool_]

STATUS = {DONE: "done", CANCELLED: "cancelled", TIMED_OUT: "timed_out", LOST: "lost", REFUSED: "refused"}


@dataclass(frozen=True, slots=True)
class ServingMetrics:
    """What a service did. Times in seconds, energy in joules; None where there is nothing to take it from.

    Attributes:
        counts: measured requests by how they ended.
        duration_s: from the first send to the last token of measured requests.
        ttft_s: send to first token; ``queue_s``: send to the first step; ``e2e_s``: send to last token.
        tpot_s: per request ``(last token - first token) / (tokens - 1)``; requests of one token have none.
        itl_s: gaps between tokens of all requests, from a histogram with 1 % wide bins.
        requests_per_s, output_tokens_per_s, total_tokens_per_s: total is prompt and output.
        tokens_per_s_per_user: 1 / median TPOT.
        good_share: share of measured requests that are done and keep the limits of ``slo``; ``good_per_s``: the rate.
        cache_hit_share: of prompt tokens of measured requests that were begun.
        preemptions: of measured requests; ``preempted_share``: of these requests, those that had any.
        kv_use_mean, kv_use_peak: share of all blocks, over time and at the fullest sample.
        running_mean, waiting_mean, waiting_peak: requests, over time.
        batch: decoding requests of a step; ``batch_steps``: pairs of that number and its steps.
        energy_j, average_power_w: of all chips from 0 to the end; ``power_w_per_chip``: of one.
        energy_j_per_output_token: all energy over all tokens made, warm-up and cancelled requests included.
    """

    counts: dict[str, int]
    duration_s: float | None
    ttft_s: Spread | None
    tpot_s: Spread | None
    itl_s: Spread | None
    e2e_s: Spread | None
    queue_s: Spread | None
    requests_per_s: float | None
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    output_tokens_per_s_per_chip: float | None
    total_tokens_per_s_per_chip: float | None
    tokens_per_s_per_user: float | None
    slo: Slo | None
    good_share: float | None
    good_per_s: float | None
    cache_hit_share: float | None
    preemptions: int
    preempted_share: float | None
    kv_use_mean: float | None
    kv_use_peak: float | None
    running_mean: float | None
    waiting_mean: float | None
    waiting_peak: int | None
    steps: int
    batch: Spread | None
    batch_steps: tuple[tuple[int, int], ...]
    energy_j: float
    average_power_w: float | None
    power_w_per_chip: float | None
    energy_j_per_output_token: float | None

    def to_dict(self) -> dict[str, Any]:
        """The metrics as plain JSON values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name, value in plain.items():
            if isinstance(value, Spread):
                plain[name] = dataclasses.asdict(value)
        plain["counts"] = dict(self.counts)
        plain["slo"] = None if self.slo is None else self.slo.model_dump(exclude_none=True)
        plain["batch_steps"] = [list(pair) for pair in self.batch_steps]
        return plain


def serving_metrics(outcome: Outcome, requests: Requests, slo: Slo | None = None) -> ServingMetrics:
    """Metrics of what happened to ``requests``; ``slo`` adds goodput."""
    done = outcome.measured & (outcome.status == DONE)
    return ServingMetrics(
        slo=slo,
        counts=_counts(outcome),
        **_latencies(outcome, done),
        **_rates(outcome, requests, done),
        **_goodput(outcome, done, slo),
        **_cache(outcome, requests),
        **_state(outcome),
        **_batches(outcome),
        **_energy(outcome),
    )


def tpot_s(outcome: Outcome) -> FloatArray:
    """Seconds per output token after the first ``[n]``; NaN where a request has fewer than two or did not finish."""
    gaps = np.where(outcome.made_tokens > 1, outcome.made_tokens - 1, np.nan)
    return np.asarray((outcome.finish_s - outcome.first_token_s) / gaps)


def span_s(outcome: Outcome, done: Mask) -> float | None:
    """First send to last token of measured requests; None where none is done or no time passed."""
    if not done.any():
        return None
    span = float(np.max(outcome.finish_s[done]) - np.min(outcome.sent_s[outcome.measured]))
    return span if span > 0 else None


def _counts(outcome: Outcome) -> dict[str, int]:
    status = outcome.status[outcome.measured]
    counts = {name: int(np.count_nonzero(status == code)) for code, name in STATUS.items()}
    return {**counts, "unfinished": int(status.size - sum(counts.values()))}


def _latencies(outcome: Outcome, done: Mask) -> dict[str, Any]:
    sent = outcome.sent_s[done]
    per_token = tpot_s(outcome)[done]
    tpot = spread_of(per_token[~np.isnan(per_token)])
    # below the first edge are tokens that come out together; the last bin has no upper edge
    low = np.concatenate(([0.0], ITL_EDGES_S))
    high = np.concatenate(([0.0], ITL_EDGES_S[1:], ITL_EDGES_S[-1:]))
    return {
        "ttft_s": spread_of(outcome.first_token_s[done] - sent),
        "tpot_s": tpot,
        "itl_s": counted_spread(low, high, outcome.itl_counts),
        "e2e_s": spread_of(outcome.finish_s[done] - sent),
        "queue_s": spread_of(outcome.scheduled_s[done] - sent),
        "tokens_per_s_per_user": 1.0 / tpot.p50 if tpot is not None and tpot.p50 > 0 else None,
    }


def _rates(outcome: Outcome, requests: Requests, done: Mask) -> dict[str, Any]:
    span = span_s(outcome, done)
    output = int(outcome.made_tokens[done].sum())
    total = output + int(requests.input_tokens[done].sum())
    return {
        "duration_s": span,
        "requests_per_s": _over(int(np.count_nonzero(done)), span),
        "output_tokens_per_s": _over(output, span),
        "total_tokens_per_s": _over(total, span),
        "output_tokens_per_s_per_chip": _over(output / outcome.chips, span),
        "total_tokens_per_s_per_chip": _over(total / outcome.chips, span),
    }


def _goodput(outcome: Outcome, done: Mask, slo: Slo | None) -> dict[str, Any]:
    if slo is None:
        return {"good_share": None, "good_per_s": None}
    good = done.copy()
    per_token = np.nan_to_num(tpot_s(outcome), nan=0.0)  # one token keeps every limit, as clients count it
    for limit, values in (
        (slo.ttft_s, outcome.first_token_s - outcome.sent_s),
        (slo.tpot_s, per_token),
        (slo.e2e_s, outcome.finish_s - outcome.sent_s),
    ):
        if limit is not None:
            good &= values <= limit
    count = int(np.count_nonzero(good))
    return {
        "good_share": _over(count, float(np.count_nonzero(outcome.measured))),
        "good_per_s": _over(count, span_s(outcome, done)),
    }


def _cache(outcome: Outcome, requests: Requests) -> dict[str, Any]:
    begun = outcome.measured & ~np.isnan(outcome.scheduled_s)
    preemptions = outcome.preemptions[outcome.measured]
    return {
        "cache_hit_share": _over(
            int(outcome.cached_tokens[begun].sum()), float(requests.input_tokens[begun].sum())
        ),
        "preemptions": int(preemptions.sum()),
        "preempted_share": _over(int(np.count_nonzero(preemptions)), float(preemptions.size)),
    }


def _state(outcome: Outcome) -> dict[str, Any]:
    """Means over time: a sample holds until the next one."""
    names = ("kv_use_mean", "kv_use_peak", "running_mean", "waiting_mean", "waiting_peak")
    if not outcome.times_s.size:
        return dict.fromkeys(names)
    held = np.maximum(np.diff(np.append(outcome.times_s, outcome.end_s)), 0.0)
    weights = held if held.sum() > 0 else np.ones(held.size)
    blocks = float(outcome.blocks)
    return {
        "kv_use_mean": _over(float(np.average(outcome.kv_blocks, weights=weights)), blocks),
        "kv_use_peak": _over(int(outcome.kv_blocks.max()), blocks),
        "running_mean": float(np.average(outcome.running, weights=weights)),
        "waiting_mean": float(np.average(outcome.waiting, weights=weights)),
        "waiting_peak": int(outcome.waiting.max()),
    }


def _batches(outcome: Outcome) -> dict[str, Any]:
    sizes = np.flatnonzero(outcome.batch_steps)
    counts = outcome.batch_steps[sizes]
    at = sizes.astype(np.float64)
    return {
        "steps": outcome.steps,
        "batch": counted_spread(at, at, counts),
        "batch_steps": tuple(zip(sizes.tolist(), counts.tolist(), strict=True)),
    }


def _energy(outcome: Outcome) -> dict[str, Any]:
    power = _over(outcome.energy_j, outcome.end_s)
    return {
        "energy_j": outcome.energy_j,
        "average_power_w": power,
        "power_w_per_chip": None if power is None else power / outcome.chips,
        "energy_j_per_output_token": _over(outcome.energy_j, float(outcome.made_tokens.sum())),
    }


def _over(amount: float, whole: float | None) -> float | None:
    return None if not whole else float(amount / whole)
