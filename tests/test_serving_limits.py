"""Limits where the answer is known: queueing theory, a lone request, conservation of work, and monotony."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.drive import simulate_fleet
from ridgeline.sim.serving.fleet import Fleet
from ridgeline.sim.serving.policy import step_seconds
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.state import REQUEST
from ridgeline.sim.serving.table import StepTable
from test_serving_loop import step_table, traffic


def constant(step_s: float, **changes: Any) -> StepTable:
    """Every step takes the same time, whatever it runs."""
    fields: dict[str, Any] = {
        "tokens_s": np.full((2, 513), step_s),
        "rows_s": np.zeros(65),
        "windows": np.array([np.inf]),
        "contexts": np.array([1.0, 1e6]),
        "decode_s": np.zeros((1, 33, 2)),
        "longest_s": np.zeros((1, 2)),
        "prefill_s": np.zeros((10, 13)),
        "prefill_fixed_s": 0.0,
        "host_hidden_s": (0.0, 0.0),
        "host_s": (0.0, 0.0, 0.0),
        "num_blocks": 10**9,
    }
    return step_table(**{**fields, **changes})


def poisson(n: int, rate: float, output_tokens: np.ndarray, seed: int = 3) -> Requests:
    rng = np.random.default_rng(seed)
    return Requests(np.cumsum(rng.exponential(1 / rate, n)), np.ones(n, np.int64), output_tokens)


@pytest.mark.parametrize("load", [0.3, 0.8])
def test_one_token_one_at_a_time_is_m_d_1(load: float) -> None:
    """Pollaczek-Khinchine for constant service: wait = load s / (2 (1 - load))."""
    n, service_s = 400_000, 0.01
    outcome = simulate(poisson(n, load / service_s, np.ones(n, np.int64)), constant(service_s, max_seqs=1))
    wait = float(np.mean(outcome.scheduled_s - outcome.sent_s))
    assert wait == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.03)
    np.testing.assert_allclose(outcome.finish_s - outcome.scheduled_s, service_s, rtol=1e-6)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.7), (4, 0.8)])
def test_geometric_outputs_are_m_m_c(servers: int, load: float) -> None:
    """Erlang C; steps are short beside a request, and a request begins at a boundary, half a step late."""
    n, step_s, mean = 200_000, 1e-4, 1000
    outputs = np.random.default_rng(5).geometric(1 / mean, n)
    service_s = mean * step_s
    requests = poisson(n, load * servers / service_s, outputs)
    outcome = simulate(requests, constant(step_s, max_seqs=servers))
    wait = float(np.mean(outcome.scheduled_s - outcome.sent_s))
    offered = load * servers
    last = offered**servers / math.factorial(servers) / (1 - load)
    queued = last / (sum(offered**k / math.factorial(k) for k in range(servers)) + last)
    assert wait == pytest.approx(queued * service_s / (servers * (1 - load)), rel=0.05)


def test_a_lone_request_takes_its_steps() -> None:
    table = step_table()
    outcome = simulate(Requests(np.array([2.0]), np.array([700]), np.array([100])), table)
    first = step_seconds(table, [], [(512, 512)], 0, 1) + step_seconds(table, [], [(188, 700)], 1, 0)
    decode = sum(step_seconds(table, [context], [], 1, 0) for context in range(701, 800))
    assert outcome.first_token_s[0] - 2.0 == pytest.approx(first, rel=1e-9)
    assert outcome.finish_s[0] - outcome.first_token_s[0] == pytest.approx(decode, rel=1e-9)
    assert outcome.steps == 101


def test_planning_ahead_leaves_a_lone_request_alone() -> None:
    request = Requests(np.array([2.0, 9.0]), np.array([700, 30]), np.array([100, 1]))
    for schedule in ("chunked", "prefill_first"):
        now, ahead = (simulate(request, step_table(schedule=schedule, lag=lag)) for lag in (0, 1))
        for name in ("scheduled_s", "first_token_s", "finish_s"):
            np.testing.assert_array_equal(getattr(now, name), getattr(ahead, name))


@pytest.mark.parametrize("schedule", ["chunked", "prefill_first", "whole"])
def test_planning_ahead_costs_exactly_one_more_step(schedule: str) -> None:
    """One request decodes in steps that end at 1, 2, ...; another comes in the step that ends at 4."""
    requests = Requests(np.array([0.0, 3.25]), np.array([10, 10]), np.array([50, 3]))
    outcome = simulate(requests, constant(1.0, lag=1, schedule=schedule))
    assert outcome.scheduled_s[1] == pytest.approx(4.0)  # planned then, while the step to 5 begins
    assert outcome.first_token_s[1] == pytest.approx(6.0)
    assert outcome.finish_s[1] == pytest.approx(8.0)
    assert simulate(requests, constant(1.0, schedule=schedule)).first_token_s[1] == pytest.approx(5.0)


def test_planning_ahead_keeps_a_slot_for_one_more_step() -> None:
    """Of two slots one is free after the step that ends at 5, which the plan made then is the first to know."""
    requests = Requests(np.array([0.0, 0.0, 1.5]), np.array([10, 10, 10]), np.array([20, 5, 2]))
    outcome = simulate(requests, constant(1.0, lag=1, max_seqs=2))
    assert outcome.finish_s[1] == pytest.approx(5.0)
    assert outcome.scheduled_s[2] == pytest.approx(5.0)
    assert outcome.first_token_s[2] == pytest.approx(7.0)


def test_what_comes_as_the_last_step_ends_enters_at_once() -> None:
    requests = Requests(np.array([0.0, 1.5]), np.array([10, 10]), np.array([2, 1]))
    outcome = simulate(requests, constant(1.0, lag=1, max_seqs=1))
    assert outcome.scheduled_s[1] == pytest.approx(2.0)
    assert outcome.first_token_s[1] == pytest.approx(3.0)


def test_work_is_conserved() -> None:
    """Where a step costs its tokens alone, the server works off a fluid, whatever the chunks and the order."""
    n, token_s = 5000, 1e-5
    rng = np.random.default_rng(7)
    arrival_s = np.cumsum(rng.exponential(0.006, n))
    tokens = rng.integers(1, 900, n)
    end = 0.0
    for at_s, work in zip(arrival_s, tokens * token_s, strict=True):
        end = max(end, at_s) + work
    for limit in (64, 512):
        table = constant(0.0, tokens_s=token_s * np.arange(513)[None].repeat(2, 0), max_tokens=limit)
        for priority in (None, rng.integers(0, 3, n)):
            requests = Requests(arrival_s, tokens, np.ones(n, np.int64), priority=priority)
            outcome = simulate(requests, table)
            assert outcome.busy_s == pytest.approx(tokens.sum() * token_s, rel=1e-9)
            assert outcome.end_s == pytest.approx(end, rel=1e-9)


def test_none_waits_beside_an_idle_engine() -> None:
    outcome = simulate(traffic(rate=40.0), step_table(num_blocks=200))
    assert outcome.waiting.any()
    assert (outcome.running[outcome.waiting > 0] > 0).all()


def test_littles_law() -> None:
    requests = traffic(3000, rate=10.0)
    outcome = simulate(requests, step_table())
    inside = float(np.mean(outcome.running + outcome.waiting))
    assert inside == pytest.approx(float(np.sum(outcome.finish_s - outcome.sent_s)) / outcome.end_s, rel=0.03)


def burst(seed: int) -> Requests:
    return traffic(120, seed=seed, arrival_s=np.zeros(120))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), speed=st.floats(1.0, 10.0))
def test_a_faster_engine_is_faster(seed: int, speed: float) -> None:
    """All times divided by ``speed``: the same schedule in so much less time."""
    slow = step_table(num_blocks=150)
    names = ("tokens_s", "rows_s", "decode_s", "longest_s", "prefill_s", "prefill_fixed_s")
    changes = {name: getattr(slow, name) / speed for name in names}
    changes["host_hidden_s"] = tuple(t / speed for t in slow.host_hidden_s)
    changes["host_s"] = tuple(t / speed for t in slow.host_s)
    fast = simulate(burst(seed), step_table(num_blocks=150, **changes))
    assert fast.end_s == pytest.approx(simulate(burst(seed), slow).end_s / speed, rel=1e-9)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), blocks=st.integers(80, 400), more=st.integers(1, 400))
def test_more_blocks_do_not_lower_throughput(seed: int, blocks: int, more: int) -> None:
    """Up to the anomalies of list scheduling, which a few percent bound here."""
    few, many = (
        simulate(burst(seed), step_table(num_blocks=count)).end_s for count in (blocks, blocks + more)
    )
    assert many <= few * 1.05


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), replicas=st.integers(1, 4))
def test_more_replicas_do_not_lower_throughput(seed: int, replicas: int) -> None:
    table = step_table(num_blocks=150)
    few, many = (
        simulate_fleet(burst(seed), Fleet(replicas=(table,) * count)).end_s
        for count in (replicas, replicas + 1)
    )
    assert many <= few * 1.05


def test_memory_is_a_fixed_size_per_request() -> None:
    assert REQUEST.itemsize <= 128  # 10 million requests: 1.3 GB, however many tokens they make
