"""What is predicted for a measured point: its client is simulated, its metrics read as it read them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.offline import offline_tokens_per_s
from ridgeline.calibrate.serving.run_settings import run_settings
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts import catalog
from ridgeline.facts.requests import Requests
from ridgeline.facts.serving import Service
from ridgeline.facts.traffic import Independent, Length, LognormalLength, Poisson, Traffic, UniformLength
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.outcome import DONE, Outcome
from ridgeline.sim.serving.steady import closed_loop, decode_step_s, mixed_step_s
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.traffic import requests_of

Array = NDArray[Any]
Regime = Literal["light", "middle", "near saturation", "offline", "static"]
#: Prompts of a closed loop for each user, and the most that are simulated: statistics settle far below.
PROMPTS, MOST_PROMPTS = 10, 4096
#: Lengths that the InferenceX client draws, as shares of the nominal ones.
DRAWN = (0.8, 1.0)
LIGHT_BATCH = 8
SEED = 20_25
#: Requests of an open loop whose number is not stated.
OPEN_PROMPTS = 2000
#: Draws of its requests: some hundred leave the queue of one draw to chance.
OPEN_DRAWS = 5
#: Half-width of lengths of which only the mean is stated, over that mean: an assumption, that of `ridgeline serve` too.
SPREAD = 0.2
_COUNTED = re.compile(r"\b(\d+) (?:\S+ )?req\b")


@dataclass(frozen=True, slots=True)
class Predicted:
    """Values by metric, and how loaded the engine is."""

    values: dict[str, float]
    regime: Regime


def predict_case(case: ServingCase, service: Service) -> Predicted:
    """Metrics of one aggregated or offline point.

    Raises:
        NotPredictable: the model or its requests do not fit, or the load is not stated.
    """
    assert case.isl is not None
    assert case.osl is not None
    if case.mode == "offline":
        return Predicted({"output_tokens_per_s": offline_tokens_per_s(case, service)}, "offline")
    table = step_table(service, 1 << math.ceil(math.log2(case.isl + case.osl)))
    if table.num_blocks * table.block_size < case.isl + case.osl:
        raise NotPredictable(f"a request of {case.isl + case.osl:.0f} tokens does not fit in the memory left")
    if case.static:
        return static_case(case, table)
    if case.open_loop:
        return _open_loop(case, table)
    if case.concurrency is None:
        raise NotPredictable("neither users nor a rate of requests are stated")
    found = _simulated(case, table) if case.client == "inferencex" else steady_case(case, table)
    waited = run_settings(case, service.chip).wait_steps(case.concurrency, table.ranks, case.osl)
    step = found.values["tpot"] * service.speculation.tokens_per_step
    return Predicted({**found.values, "ttft": found.values["ttft"] + waited * step}, found.regime)


def static_case(case: ServingCase, table: StepTable) -> Predicted:
    """One batch from start to end: prompts in as few steps as fit, then decodes, nobody joins."""
    assert case.isl is not None
    assert case.osl is not None
    batch = int(case.concurrency or case.batch_size or 1)
    together = max(1, int(table.max_tokens // case.isl))
    first = sum(
        mixed_step_s(table, 0.0, case.isl, [(case.isl, case.isl)] * min(together, batch - done))
        for done in range(0, batch, together)
    )
    step = decode_step_s(table, float(batch), case.isl + case.osl / 2.0)
    whole = first + step * (case.osl - 1.0)
    return Predicted({"ttft": first, "tpot": step, "output_tokens_per_s": batch * case.osl / whole}, "static")


def steady_case(case: ServingCase, table: StepTable) -> Predicted:
    """A closed loop whose client is not known, in steady state: users are out of step with each other."""
    assert case.isl is not None
    assert case.osl is not None
    assert case.concurrency is not None
    engines = max(case.num_chips // table.chips, 1)
    found = closed_loop(table, case.isl, case.osl, case.concurrency / engines)
    batch = found.running / (table.ranks * table.stages)
    regime: Regime = "light" if batch <= LIGHT_BATCH else "middle"
    if found.waiting > 0.0 or found.prefill_share > 0.5:
        regime = "near saturation"
    rate = found.output_tokens_per_s * engines
    return Predicted({"ttft": found.ttft_s, "tpot": found.tpot_s, "output_tokens_per_s": rate}, regime)


def _simulated(case: ServingCase, table: StepTable) -> Predicted:
    from ridgeline.sim.serving.simulate import simulate

    requests = client_requests(case)
    outcome = simulate(requests, table)
    done = outcome.status == DONE
    if not done.any():
        raise NotPredictable("no request of the client could be served")
    values = _values(case, outcome, done)
    if case.num_chips > table.chips:  # replicas of one engine share the users
        values["output_tokens_per_s"] *= case.num_chips / table.chips
    return Predicted(values, _regime(outcome, table))


def _open_loop(case: ServingCase, table: StepTable) -> Predicted:
    """Poisson arrivals at the stated rate, simulated; means of `OPEN_DRAWS` draws of the requests."""
    from ridgeline.sim.serving.simulate import simulate

    spread = run_settings(case, catalog.chip(case.chip)).spread
    found: list[dict[str, float]] = []
    regimes: list[Regime] = []
    for draw in range(OPEN_DRAWS):
        outcome = simulate(poisson_requests(case, spread, SEED + draw), table)
        done = outcome.status == DONE
        if not done.any():
            raise NotPredictable("no request could be served")
        found.append(_values(case, outcome, done))
        regimes.append(_regime(outcome, table))
    values = {name: math.fsum(one[name] for one in found) / OPEN_DRAWS for name in found[0]}
    return Predicted(values, regimes[0])


def poisson_requests(case: ServingCase, spread: tuple[float, ...], seed: int) -> Requests:
    """As many requests as the notes count (``300 ... req``), or `OPEN_PROMPTS`, at the stated rate.

    Lengths are lognormal where ``spread`` has the sigmas of prompts and answers, else drawn evenly about the stated
    means, which are then all that is known of them.
    """
    assert case.request_rate is not None
    assert case.isl is not None
    assert case.osl is not None
    counted = _COUNTED.search(case.notes)
    means = (case.isl, case.osl)
    lengths: list[Length] = [
        UniformLength(nominal=max(round(mean), 1), low=1.0 - SPREAD, high=1.0 + SPREAD) for mean in means
    ]
    if spread:
        lengths = [
            LognormalLength(mean=max(mean, 1.0), sigma=sigma)
            for mean, sigma in zip(means, spread, strict=True)
        ]
    traffic = Traffic(
        arrivals=Poisson(rate_per_s=case.request_rate),
        lengths=Independent(input=lengths[0], output=lengths[1]),
        num_requests=int(counted[1]) if counted else OPEN_PROMPTS,
        seed=seed,
    )
    return requests_of(traffic)


def _values(case: ServingCase, outcome: Outcome, done: Array) -> dict[str, float]:
    first, last = outcome.first_token_s[done], outcome.finish_s[done]
    sent, made = outcome.sent_s[done], outcome.made_tokens[done]
    several = made > 1
    ttft = _statistic(case, first - sent)
    tpot = _statistic(case, (last - first)[several] / (made[several] - 1)) if several.any() else math.nan
    span = float(last.max() - sent.min())
    return {"ttft": ttft, "tpot": tpot, "output_tokens_per_s": float(made.sum()) / span}


def _statistic(case: ServingCase, values: Array) -> float:
    if case.percentile == "mean":
        return float(values.mean())
    return float(np.quantile(values, {"median": 0.5, "p99": 0.99}.get(case.percentile, 0.5)))


def client_requests(case: ServingCase) -> Requests:
    """The closed loop of the InferenceX client: all users start at once, and each sends when it has an answer.

    Lengths are drawn evenly from 0.8 to 1.0 of nominal. Warm-up requests, copies of one prompt, are left out.
    """
    assert case.concurrency is not None
    assert case.isl is not None
    assert case.osl is not None
    users = max(1, round(case.concurrency))
    count = max(users * 2, min(PROMPTS * users, MOST_PROMPTS))
    draw = np.random.default_rng(SEED)

    def lengths(nominal: float) -> Array:
        return np.maximum(draw.integers(int(nominal * DRAWN[0]), int(nominal * DRAWN[1]) + 1, count), 1)

    return Requests(
        arrival_s=np.zeros(count),
        input_tokens=lengths(case.isl),
        output_tokens=lengths(case.osl),
        users=users,
    )


def _regime(outcome: Outcome, table: StepTable) -> Regime:
    """By what the engine did: few decodes at a time; requests that wait or a full cache; or between."""
    waiting = float(np.mean(outcome.waiting)) if outcome.waiting.size else 0.0
    running = float(np.mean(outcome.running)) if outcome.running.size else 0.0
    full = outcome.blocks and float(np.max(outcome.kv_blocks, initial=0)) > 0.9 * outcome.blocks
    if (full and waiting > 0.05 * running) or waiting > 0.25 * running:
        return "near saturation"
    return "light" if running / table.ranks <= LIGHT_BATCH else "middle"
