"""Fleets: routers, pools, transfers, scaling and failures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.drive import simulate_fleet
from ridgeline.sim.serving.fleet import ROUTERS, Autoscale, Failure, Fleet, Transfer
from ridgeline.sim.serving.outcome import CANCELLED, DONE, LOST, TIMED_OUT
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.timeline import fleet_steps
from test_serving_loop import hashed, same, step_table, traffic

TWO = (step_table(), step_table())


@pytest.mark.parametrize(
    "requests",
    [
        traffic(),
        hashed(),
        traffic(arrival_s=np.zeros(300), users=10, think_s=0.01),
        traffic(arrival_s=np.zeros(300), users=10, think_s=0.01, warmup=25),
        traffic(timeout_s=0.5, cancel_s=np.linspace(0.01, 3.0, 300)),
    ],
)
@pytest.mark.parametrize("lag", [0, 1])
def test_a_fleet_of_one_is_the_engine(requests: Requests, lag: int) -> None:
    table = step_table(num_blocks=120, lag=lag)
    same(simulate_fleet(requests, Fleet(replicas=(table,))), simulate(requests, table))


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_serve_everyone(router: str) -> None:
    requests = dataclasses.replace(hashed(rate=60.0), session=np.arange(300) % 40)
    fleet = Fleet(replicas=TWO, router=router)  # type: ignore[arg-type]
    outcome = simulate_fleet(requests, fleet)
    assert (outcome.status == DONE).all()
    np.testing.assert_array_equal(outcome.made_tokens, requests.output_tokens)
    assert outcome.itl_counts.sum() == (requests.output_tokens - 1).sum()
    same(outcome, simulate_fleet(requests, fleet))
    if router == "sticky":
        assert all(np.unique(outcome.replica[requests.session == s]).size == 1 for s in range(40))
    if router == "round_robin":
        np.testing.assert_array_equal(outcome.replica, np.arange(300) % 2)


def test_a_prefix_aware_router_finds_more() -> None:
    fleet = Fleet(replicas=(step_table(num_blocks=150),) * 4)
    found = {
        router: simulate_fleet(
            hashed(rate=20.0), dataclasses.replace(fleet, router=router)
        ).cached_tokens.sum()
        for router in ("round_robin", "prefix_aware")
    }
    assert found["prefix_aware"] > 1.2 * found["round_robin"]


def test_least_loaded_favours_the_faster_replica() -> None:
    slow = step_table(tokens_s=3 * step_table().tokens_s)
    outcome = simulate_fleet(traffic(rate=50.0), Fleet(replicas=(slow, step_table())))
    assert (outcome.replica == 1).sum() > 1.5 * (outcome.replica == 0).sum()


def test_prefill_and_decode_pools() -> None:
    requests = traffic(rate=5.0)
    transfer = Transfer(bytes_per_s=1e9, latency_s=0.003)
    fleet = Fleet(replicas=(step_table(),), prefill=TWO, transfer=transfer)
    outcome = simulate_fleet(requests, fleet)
    assert (outcome.status == DONE).all()
    np.testing.assert_array_equal(outcome.made_tokens, requests.output_tokens)
    assert outcome.itl_counts.sum() == (requests.output_tokens - 1).sum()
    longer = requests.output_tokens > 1
    assert (outcome.replica[longer] == 0).all()
    alone = requests.input_tokens * 1e5 / 1e9 + 0.003
    waited = outcome.first_token_s - outcome.sent_s  # the engine that decodes sends the first token
    assert (waited >= alone)[longer].all()
    one_link = dataclasses.replace(fleet, transfer=dataclasses.replace(transfer, links=1, bytes_per_s=4e8))
    two_links = dataclasses.replace(fleet, transfer=dataclasses.replace(transfer, bytes_per_s=4e8))
    shared, own = simulate_fleet(requests, one_link), simulate_fleet(requests, two_links)
    assert np.mean(shared.finish_s) > np.mean(own.finish_s)


def test_a_lone_request_pays_exactly_its_transfer() -> None:
    requests = Requests(np.array([0.0]), np.array([300]), np.array([50]))
    free = Fleet(replicas=(step_table(),), prefill=(step_table(),))
    paid = dataclasses.replace(free, transfer=Transfer(bytes_per_s=1e8, latency_s=0.01))
    base, moved = simulate_fleet(requests, free), simulate_fleet(requests, paid)
    assert moved.finish_s[0] - base.finish_s[0] == pytest.approx(300 * 1e5 / 1e8 + 0.01, rel=1e-9)
    assert base.finish_s[0] == pytest.approx(simulate(requests, step_table()).finish_s[0], rel=1e-9)


@pytest.mark.parametrize("on_failure", ["retry", "lose"])
def test_a_replica_fails(on_failure: str) -> None:
    requests = traffic(rate=30.0)
    failure = Failure(at_s=3.0, replica=0, down_s=2.0)
    outcome = simulate_fleet(requests, Fleet(replicas=TWO, failures=(failure,), on_failure=on_failure))  # type: ignore[arg-type]
    lost = outcome.status == LOST
    assert lost.any() == (on_failure == "lose")
    assert (outcome.status[~lost] == DONE).all()
    np.testing.assert_array_equal(outcome.made_tokens[~lost], requests.output_tokens[~lost])
    served = outcome.replica[(outcome.sent_s > 3.0) & (outcome.sent_s < 5.0)]
    assert (served == 1).all()
    assert (outcome.replica[outcome.sent_s > 5.0] == 0).any()


def test_planning_ahead_survives_a_failure_and_pools() -> None:
    ahead = tuple(dataclasses.replace(table, lag=1) for table in TWO)
    failing = Fleet(replicas=ahead, failures=(Failure(at_s=3.0, replica=0, down_s=2.0),))
    assert (simulate_fleet(hashed(), failing).status == DONE).all()
    pools = Fleet(replicas=ahead, prefill=ahead, transfer=Transfer(bytes_per_s=1e10))
    assert (simulate_fleet(hashed(), pools).status == DONE).all()


def test_when_all_are_down_requests_wait() -> None:
    requests = traffic(50, rate=30.0)
    outcome = simulate_fleet(
        requests, Fleet(replicas=(step_table(),), failures=(Failure(at_s=0.5, replica=0, down_s=9.0),))
    )
    assert (outcome.status == DONE).all()
    assert outcome.first_token_s[requests.arrival_s > 0.5].min() > 9.5


def test_scaling_follows_the_load_and_saves_energy() -> None:
    quiet, busy = traffic(50, rate=2.0), traffic(600, rate=80.0)
    requests = Requests(
        np.concatenate((quiet.arrival_s, quiet.arrival_s[-1] + busy.arrival_s)),
        np.concatenate((quiet.input_tokens, busy.input_tokens)),
        np.concatenate((quiet.output_tokens, busy.output_tokens)),
    )
    scale = Autoscale(minimum=1, target=16.0, interval_s=1.0, cold_start_s=2.0)
    fixed = Fleet(replicas=TWO * 2)
    scaled = simulate_fleet(requests, dataclasses.replace(fixed, autoscale=scale))
    always = simulate_fleet(requests, fixed)
    assert (scaled.replica[:50] == 0).all()
    assert set(scaled.replica) == {0, 1, 2, 3}
    assert (scaled.status == DONE).all()
    assert scaled.energy_j < always.energy_j


def test_users_leave_a_fleet_with_pools() -> None:
    requests = traffic(300, rate=200.0, timeout_s=0.2, cancel_s=np.where(np.arange(300) % 3, np.inf, 0.4))
    fleet = Fleet(replicas=TWO, prefill=(step_table(),), transfer=Transfer(bytes_per_s=1e9))
    outcome = simulate_fleet(requests, fleet)
    assert set(np.unique(outcome.status)) == {DONE, CANCELLED, TIMED_OUT}
    assert (outcome.made_tokens <= requests.output_tokens).all()


def test_errors_name_the_field() -> None:
    with pytest.raises(ValueError, match="choose one of round_robin"):
        simulate_fleet(traffic(3), Fleet(replicas=TWO, router="best"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="replica 7 is not one of 2"):
        simulate_fleet(traffic(3), Fleet(replicas=TWO, failures=(Failure(at_s=1.0, replica=7, down_s=1.0),)))


@pytest.mark.parametrize("fleet", [Fleet(replicas=TWO), Fleet(replicas=TWO, prefill=(step_table(),))])
def test_the_timeline_of_a_fleet_is_of_the_same_simulation(fleet: Fleet) -> None:
    requests = traffic(150, rate=30.0)
    outcome = simulate_fleet(requests, fleet)
    every = fleet_steps(requests, fleet, (0.0, outcome.end_s + 1.0))
    assert len(every) == outcome.steps
    assert sum(step.end_s - step.start_s for step in every) == pytest.approx(outcome.busy_s)
    some = fleet_steps(requests, fleet, (3.0, 3.5))
    known = {(step.replica, step.start_s): step for step in every}
    assert some
    assert all(known[step.replica, step.start_s] == step for step in some)
    wanted = [step for step in every if step.end_s >= 3.0 and step.start_s < 3.5]
    assert len(some) == len(wanted)
