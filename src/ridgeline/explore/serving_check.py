"""Serving check: the chosen plans in the event simulation: percentiles, and the largest rate within the target.

The simulation comes in as an argument (`Simulate`), so that a search alone never loads it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ridgeline.explore.serving_loads import capacity, plan_of, table_of, with_replicas
from ridgeline.explore.serving_plan import SPREAD, Load, ServingPlan, Target
from ridgeline.explore.serving_search import ServingSearch
from ridgeline.facts.requests import MOST_REQUESTS, Requests, room
from ridgeline.facts.traffic import Closed, Independent, Poisson, Slo, Traffic, UniformLength
from ridgeline.metrics.serving import ServingMetrics, serving_metrics, tpot_s
from ridgeline.sim.serving.outcome import DONE, Outcome
from ridgeline.sim.serving.steady import closed_loop
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.traffic import requests_of

FEWEST, MOST = 1000, 20_000  # requests of one check
LONGEST = 200_000  # where a span of time is asked for
BISECTIONS = 10
TRIES = 10  # plans that are simulated until one keeps the target
REFINEMENTS = 4  # batches tried between two powers of two
POINTS = 3  # loads of one service among them
#: A queue grows if the last third of requests waits so many times as long as the first third.
GROWTH = 1.6


@dataclass(frozen=True, slots=True)
class Pool:
    """The step tables of a deployment's engines, and how the cache goes from prefill to decode."""

    replicas: tuple[StepTable, ...]
    prefill: tuple[StepTable, ...] = ()
    transfer_bytes_per_s: float = math.inf


Simulate: TypeAlias = Callable[[Requests, Pool], Outcome]


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One plan in the simulation.

    ``ttft_s`` and ``tpot_s`` are at the target's percentile, infinite where no request was served; ``keeps_up``: the
    queue does not grow; ``replicas``: engines that were simulated (one speaks for all where requests are spread
    evenly).
    """

    plan: ServingPlan
    words: str  # the requests, in words
    requests: Requests
    outcome: Outcome
    metrics: ServingMetrics
    percentile: float
    ttft_s: float
    tpot_s: float
    keeps_up: bool
    replicas: int
    met: bool


def pool_of(plan: ServingPlan, load: Load, replicas: int) -> Pool:
    """The engines of a plan; ``replicas`` of them where there is one pool."""
    table = table_of(plan.deployed, load)
    if plan.prefill is None:
        return Pool((table,) * replicas)
    before = table_of(plan.prefill, load)
    sent = load.isl * before.kv_bytes_per_token
    rate = sent / plan.transfer_s if plan.transfer_s > 0 else math.inf
    return Pool((table,) * plan.replicas, (before,) * plan.prefill_replicas, rate)


def check(
    plan: ServingPlan,
    load: Load,
    target: Target,
    simulate: Simulate,
    *,
    requests: Requests | None = None,
    together_s: float | None = None,
    seed: int = 0,
) -> Check:
    """Simulate ``plan`` under ``load`` (or under its own, where that is open), or with the ``requests`` of a trace.

    ``together_s``: all replicas together, for at least so long; None = one with its share of the requests speaks for
    them.
    """
    if requests is not None:
        replicas, words = plan.replicas, f"{len(requests):,} requests of the trace"
    else:
        replicas = plan.replicas if plan.disaggregated or together_s is not None else 1
        share = replicas / plan.replicas
        if load.rate is not None:
            requests, words = open_loop(
                load, load.rate * share, plan.users * share, target, seed, together_s or 0.0
            )
        else:
            requests, words = closed_loop_of(
                load, round((load.users or plan.all_users) * share), target, seed
            )
    return _judged(plan, load, target, simulate, requests, words, replicas)


def _judged(
    plan: ServingPlan,
    load: Load,
    target: Target,
    simulate: Simulate,
    requests: Requests,
    words: str,
    replicas: int,
) -> Check:
    outcome = simulate(requests, pool_of(plan, load, replicas))
    slo = Slo(ttft_s=target.ttft_s, tpot_s=target.tpot_s) if target.given else None
    done = outcome.measured & (outcome.status == DONE)
    first = (outcome.first_token_s - outcome.sent_s)[done]
    between = tpot_s(outcome)[done]
    between = between[~np.isnan(between)]
    ttft = float(np.percentile(first, target.percentile)) if first.size else math.inf
    # answers of one token have no time between tokens, and keep every limit; no answer at all keeps none
    none = 0.0 if first.size else math.inf
    tpot = float(np.percentile(between, target.percentile)) if between.size else none
    keeps_up = bool(requests.users) or _keeps_up(first, float(np.mean(between)) if between.size else 0.0)
    lost = int(np.count_nonzero(outcome.measured & (outcome.status != DONE)))
    return Check(
        plan=plan,
        words=words,
        requests=requests,
        outcome=outcome,
        metrics=serving_metrics(outcome, requests, slo),
        percentile=target.percentile,
        ttft_s=ttft,
        tpot_s=tpot,
        keeps_up=keeps_up,
        replicas=replicas,
        met=keeps_up and not lost and target.met(ttft, tpot),
    )


def _keeps_up(first_s: np.ndarray, between_s: float) -> bool:
    """Whether first tokens do not come ever later."""
    third = len(first_s) // 3
    if third < 10:
        return True
    early, late = float(np.mean(first_s[:third])), float(np.mean(first_s[-third:]))
    return late <= GROWTH * early + 10.0 * between_s


def open_loop(
    load: Load, rate: float, users: float, target: Target, seed: int, least_s: float = 0.0
) -> tuple[Requests, str]:
    """Poisson arrivals of ``rate`` a second, of which ``users`` are under way; the first fifth does not count.

    ``least_s``: they go on for at least so long, but are at most `LONGEST`.
    """
    needed = 40.0 / (1.0 - target.percentile / 100.0) if target.percentile < 100.0 else MOST
    count = int(np.clip(max(needed, 5.0 * users), FEWEST, MOST))
    count = max(count, min(math.ceil(rate * least_s), LONGEST))
    traffic = Traffic(
        arrivals=Poisson(rate_per_s=rate), lengths=_lengths(load), num_requests=count, seed=seed
    )
    requests = requests_of(traffic)
    measured = np.arange(count) >= count // 5
    return dataclasses.replace(requests, measured=measured), f"{count:,} Poisson arrivals"


def closed_loop_of(load: Load, users: int, target: Target, seed: int) -> tuple[Requests, str]:
    """``users`` requests under way at all times; the first two rounds do not count."""
    users = max(users, 1)
    needed = 40.0 / (1.0 - target.percentile / 100.0) if target.percentile < 100.0 else MOST
    count = int(np.clip(max(needed, 8.0 * users), FEWEST, max(MOST, 4 * users)))
    if count > MOST_REQUESTS:
        raise ValueError(
            f"concurrency: the simulation of {users:,} users with {count:,} requests {room(count)}; "
            "fewer users or chips, or --no-simulate"
        )
    traffic = Traffic(arrivals=Closed(users=users), lengths=_lengths(load), num_requests=count, seed=seed)
    requests = requests_of(traffic)
    measured = np.arange(count) >= min(2 * users, count // 2)
    return dataclasses.replace(requests, measured=measured), f"{count:,} requests of {users:,} users"


def _lengths(load: Load) -> Independent:
    """Lengths around the means."""
    low, high = 1.0 - SPREAD, 1.0 + SPREAD
    return Independent(
        input=UniformLength(nominal=max(round(load.isl), 1), low=low, high=high),
        output=UniformLength(nominal=max(round(load.osl), 1), low=low, high=high),
    )


def candidates(found: ServingSearch, load: Load, target: Target) -> list[ServingPlan]:
    """Plans worth a simulation, best first: where the load is open, each service also at lower loads."""
    if load.users is not None or load.rate is not None:
        return list(found.ranked[:TRIES])
    chosen: list[ServingPlan] = []
    for top in found.ranked[:TRIES]:
        same = [
            plan
            for plan in found.plans
            if plan.service is top.service
            and plan.prefill is top.prefill
            and plan.tokens_per_s_chip <= top.tokens_per_s_chip
            and target.met(plan.ttft_s, plan.tpot_s)
        ]
        chosen += sorted(same, key=lambda plan: -plan.tokens_per_s_chip)[:POINTS]
    return sorted(chosen, key=lambda plan: (-plan.tokens_per_s_chip, plan.key))[: 2 * TRIES]


def first_that_keeps(
    plans: Sequence[ServingPlan],
    load: Load,
    target: Target,
    simulate: Simulate,
    *,
    chips: int | None = None,
    requests: Requests | None = None,
    together_s: float | None = None,
    grows: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[Check, int]:
    """The first plan whose percentiles keep the target, else the one that misses least; and how many were tried.

    Where a rate and a target are given the number of replicas follows from them: a plan that misses comes back with
    one more, as long as it ``grows`` and ``chips`` allow.
    """
    closest: Check | None = None
    waiting = [(plan.chips if load.rate is not None else 0, n, plan) for n, plan in enumerate(plans)]
    tried = 0
    while waiting and tried < 2 * TRIES:
        waiting.sort(key=lambda item: item[:2])
        _, number, plan = waiting.pop(0)
        found = check(plan, load, target, simulate, requests=requests, together_s=together_s)
        tried += 1
        if progress:
            progress(1)
        if found.met:
            return found, tried
        if closest is None or _miss(found, target) < _miss(closest, target):
            closest = found
        more = grown(found, load, target) if grows and load.rate is not None and target.given else None
        if more is not None and (chips is None or more.chips <= chips):
            waiting.append((more.chips, number, more))
    assert closest is not None, "a search without plans is checked"
    return closest, tried


def refined(
    found: Check, load: Load, target: Target, simulate: Simulate, *, together_s: float | None = None
) -> Check:
    """The plan of a check that was met, with as many users as its engines hold below twice as many: a few halvings.

    Searched batches are powers of two, so that up to half of what a plan could do lies between them.
    """
    plan = found.plan
    if plan.disaggregated or not found.met or load.users is not None or load.rate is not None:
        return found
    table = table_of(plan.service, load)
    low = plan.users / plan.replicas
    high = min(2.0 * low, capacity(table, load))
    for _ in range(REFINEMENTS):
        users = float(round(0.5 * (low + high)))
        if not low < users < high:
            break
        steady = closed_loop(table, load.isl, load.osl, users)
        more = check(
            plan_of(plan.service, plan.replicas, plan.chips, steady, osl=load.osl),
            load,
            target,
            simulate,
            together_s=together_s,
        )
        if more.met:
            low, found = users, more
        else:
            high = users
    return found


def grown(found: Check, load: Load, target: Target) -> ServingPlan | None:
    """The plan with an engine more where it missed: of the prefill pool for TTFT, else of the decoding ones."""
    plan = found.plan
    assert load.rate is not None
    if plan.prefill is None:
        return with_replicas(plan.service, table_of(plan.service, load), load, plan.replicas + 1, load.rate)
    first = math.isinf(found.tpot_s) or found.tpot_s <= (target.tpot_s or math.inf)
    size = plan.prefill.layout.chips if first else plan.service.layout.chips
    return dataclasses.replace(
        plan,
        chips=plan.chips + size,
        prefill_replicas=plan.prefill_replicas + first,
        replicas=plan.replicas + (not first),
    )


def _miss(found: Check, target: Target) -> float:
    """How many times the worse latency is beyond the target."""
    shares = [1.0 if found.keeps_up else 1e3]
    shares += [found.ttft_s / target.ttft_s] if target.ttft_s else []
    shares += [found.tpot_s / target.tpot_s] if target.tpot_s else []
    return max(shares)


def largest_rate(
    plan: ServingPlan,
    load: Load,
    target: Target,
    simulate: Simulate,
    *,
    together_s: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Requests a second that all replicas of ``plan`` hold under Poisson arrivals, by bisection [1/s].

    Held: the target's percentile of TTFT and of TPOT is within the target, and the queue does not grow. 0 where not
    even a hundredth of the closed form's capacity is held.
    """
    most = 1.05 * _capacity_rate(plan, load)

    def held(rate: float) -> bool:
        """Whether one rate is held; the same random numbers serve every rate."""
        together = together_s is not None or plan.disaggregated
        share = 1.0 if together else 1.0 / plan.replicas
        replicas = plan.replicas if together else 1
        requests, words = open_loop(load, rate * share, plan.users * share, target, 0, together_s or 0.0)
        judged = _judged(plan, load, target, simulate, requests, words, replicas)
        if progress:
            progress(1)
        return judged.met

    low, high = 0.0, most
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        if held(middle):
            low = middle
        else:
            high = middle
    return low


def _capacity_rate(plan: ServingPlan, load: Load) -> float:
    """Requests a second that the closed form gives to all replicas at their limit."""
    if plan.disaggregated:
        return 1.2 * plan.requests_per_s
    table = table_of(plan.deployed, load)
    steady = closed_loop(table, load.isl, load.osl, capacity(table, load))
    return max(steady.output_tokens_per_s / load.osl * plan.replicas, plan.requests_per_s)
