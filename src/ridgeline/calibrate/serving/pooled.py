"""What is predicted for a point of separate pools: both pools, the links between them and the client, simulated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.pools import Pools
from ridgeline.calibrate.serving.predicted import DRAWN, LIGHT_BATCH, PROMPTS, SEED, Predicted, Regime
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.drive import simulate_fleet
from ridgeline.sim.serving.fleet import Fleet, Transfer
from ridgeline.sim.serving.outcome import DONE, Outcome
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.transfer import transfer_s

Array = NDArray[Any]
#: Prompts of each user that are simulated, and the fewest of all users together: those that the client sends after
#: them stand behind the last ones, with their weight.
ROUNDS, FEWEST = 3, 400


def predict_pools(case: ServingCase, pools: Pools) -> Predicted:
    """Metrics of one disaggregated point.

    Raises:
        NotPredictable: the model or its requests do not fit.
    """
    assert case.isl is not None
    assert case.osl is not None
    longest = 1 << math.ceil(math.log2(case.isl + case.osl))
    before, after = step_table(pools.prefill, longest), step_table(pools.decode, longest)
    for table, tokens in ((before, case.isl), (after, case.isl + case.osl)):
        if table.num_blocks * table.block_size < tokens:
            raise NotPredictable(f"a request of {tokens:.0f} tokens does not fit in the memory left")
    sent = case.isl * before.kv_bytes_per_token
    fleet = Fleet(
        replicas=(after,) * pools.decode_workers,
        prefill=(before,) * pools.prefill_workers,
        router="round_robin",
        transfer=Transfer(bytes_per_s=sent / transfer_s(pools.prefill, before, case.isl, pools.chips)),
    )
    requests, all_prompts = _requests(case, pools.users)
    outcome = simulate_fleet(requests, fleet)
    done = outcome.status == DONE
    if not done.all():
        raise NotPredictable("no request of the client could be served")
    return Predicted(_values(case, outcome, pools.users, all_prompts), _regime(outcome, after, pools))


def _requests(case: ServingCase, users: int) -> tuple[Requests, int]:
    """The first prompts of the client's closed loop (`predicted.client_requests`), and how many it sends in all."""
    assert case.isl is not None
    assert case.osl is not None
    in_all = PROMPTS * users
    count = min(in_all, max(ROUNDS * users, FEWEST))
    draw = np.random.default_rng(SEED)
    low = DRAWN[0] if case.client == "inferencex" else 1.0

    def lengths(nominal: float) -> Array:
        return np.maximum(draw.integers(int(nominal * low), int(nominal) + 1, count), 1)

    requests = Requests(
        arrival_s=np.zeros(count),
        input_tokens=lengths(case.isl),
        output_tokens=lengths(case.osl),
        users=users,
    )
    return requests, in_all


def _values(case: ServingCase, outcome: Outcome, users: int, in_all: int) -> dict[str, float]:
    """Statistics over all prompts of the client: those after the first of each user stand for the rest too.

    The rest takes as long as the simulated ones took in the middle of the run, where all users are busy.
    """
    n = outcome.sent_s.size
    weight = np.ones(n)
    if n > users:
        weight[users:] = (in_all - users) / (n - users)
    finish = np.sort(outcome.finish_s)
    span = float(finish[-1] - outcome.sent_s.min())
    if in_all > n:
        first, last = n // 3, max(n - users, n // 3 + 1)
        span += (in_all - n) * float(finish[last] - finish[first]) / (last - first)
    made = outcome.made_tokens
    several = made > 1
    between = (outcome.finish_s - outcome.first_token_s)[several] / (made[several] - 1)
    return {
        "ttft": _statistic(case, outcome.first_token_s - outcome.sent_s, weight),
        "tpot": _statistic(case, between, weight[several]),
        "output_tokens_per_s": float((made * weight).sum()) / span,
    }


def _statistic(case: ServingCase, values: Array, weight: Array) -> float:
    if case.percentile == "mean":
        return float(np.average(values, weights=weight))
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weight[order])
    share = {"median": 0.5, "p99": 0.99}.get(case.percentile, 0.5)
    return float(values[order][min(int(np.searchsorted(total, share * total[-1])), values.size - 1)])


def _regime(outcome: Outcome, decode: StepTable, pools: Pools) -> Regime:
    """By what the pools did: requests that wait for either; few decodes of a rank at a time; or between."""
    waiting = float(np.mean(outcome.waiting)) if outcome.waiting.size else 0.0
    running = float(np.mean(outcome.running)) if outcome.running.size else 0.0
    if waiting > 0.25 * running:
        return "near saturation"
    return "light" if running / (decode.ranks * pools.decode_workers) <= LIGHT_BATCH else "middle"
