"""How a deployment is run, from words: what is accepted, what is refused, and what reaches the simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ridgeline.api.errors import InputError
from ridgeline.api.serving_operation import operation, to_dict, words
from ridgeline.api.serving_simulation import fleet_of, prepared, simulated
from ridgeline.cli.main import main
from ridgeline.explore.serving_check import Pool
from ridgeline.sim.serving.fleet import Operation
from ridgeline.sim.serving.outcome import DONE, TIMED_OUT
from test_serving_loop import hashed, step_table, traffic

JOB = [
    "serve", "llama-3.1-8b", "--on", "h100-sxm", "--isl", "1024", "--osl", "256", "--rate", "20", "--engine", "vllm",
    "--tp", "1", "--precision", "fp8",
]  # fmt: skip


def test_words_become_a_fleet() -> None:
    made = operation(
        replicas=3, router="session", min_replicas="2", scale_at="16", scale_every="5 s", cold_start="20 s",
        fail=["60s:2min:1", "5s:1s"], on_failure="lose", timeout="4 s", urgent="10 %",
        kv_tier=["host:200GB:50GB/s:10us", "ssd:4 TB:7 GB/s"], preemption="swap", prefix_cache=False,
    )  # fmt: skip
    fleet = fleet_of(Pool((step_table(),) * 3), made)
    fleet.check()
    assert fleet.router == "sticky"
    assert fleet.autoscale is not None
    assert (fleet.autoscale.minimum, fleet.autoscale.target, fleet.autoscale.cold_start_s) == (2, 16.0, 20.0)
    assert [(f.at_s, f.down_s, f.replica) for f in fleet.failures] == [(60.0, 120.0, 1), (5.0, 1.0, 0)]
    host, ssd = fleet.settings.tiers
    assert (host.bytes, host.bytes_per_s, host.latency_s, ssd.name) == (2e11, 5e10, 1e-5, "ssd")
    assert (fleet.settings.preemption, fleet.settings.prefix_cache, fleet.on_failure) == (
        "swap",
        False,
        "lose",
    )
    assert made.together_s == pytest.approx(270.0)  # past the last failure
    said = words(made, 3)
    for part in (
        "router session",
        "2 to 3 replicas",
        "replica 1 down from 60 s",
        "timeout 4 s",
        "host (200 GB)",
    ):
        assert part in said
    assert to_dict(made)["settings"]["tiers"][1]["name"] == "ssd"


def test_nothing_given_is_nothing_said() -> None:
    assert operation(replicas=None) == Operation()
    assert words(Operation(), 1) == ""
    assert Operation().together_s is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"router": "prefx"}, "router = prefx is unknown; did you mean 'prefix'? choose round-robin"),
        ({"min_replicas": 2}, "give replicas too"),
        ({"replicas": 2, "min_replicas": 3}, "min_replicas = 3: expected 1 to replicas = 2"),
        ({"cold_start": "5 s"}, "has no effect without min_replicas"),
        ({"fail": "60"}, "write it as AT:DOWN"),
        ({"fail": "60s:0s"}, "fail = 0s: expected seconds above 0"),
        ({"fail": "60s:9s:2", "replicas": 2}, "replica 2 is not there; expected 0 to 1"),
        ({"on_failure": "lose"}, "without a failure"),
        ({"timeout": "soon"}, "timeout: 'soon' is not a time"),
        ({"urgent": 1.5}, "urgent = 1.5: expected a share from 0 to 1"),
        ({"kv_tier": "host:200GB"}, "write it as NAME:SIZE:BANDWIDTH"),
        ({"kv_tier": "host:50GB/s:200GB"}, "'50GB/s' is a rate, expected a size"),
        ({"preemption": "swap"}, "needs a memory to swap to"),
    ],
)
def test_mistakes_name_field_value_and_choices(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        operation(**{"replicas": None, **given})


def test_deadlines_and_levels_reach_the_simulation() -> None:
    requests = traffic(300, rate=80.0)
    first = prepared(requests, Operation(urgent=0.1)).priority
    assert first is not None
    assert np.count_nonzero(first == 0) == pytest.approx(30, abs=2)
    outcome = simulated(requests, Pool((step_table(),)), Operation(urgent=0.1))
    waited = outcome.first_token_s - outcome.sent_s
    assert waited[first == 0].mean() < 0.5 * waited[first == 1].mean()
    late = simulated(requests, Pool((step_table(),)), Operation(timeout_s=0.2))
    assert set(np.unique(late.status)) == {DONE, TIMED_OUT}
    own = traffic(priority=np.arange(300) % 3)
    assert prepared(own, Operation(urgent=0.1)).priority is own.priority


def test_tiers_and_routers_reach_the_simulation() -> None:
    pool = Pool((step_table(num_blocks=120),))
    tier = operation(replicas=None, kv_tier="host:1GB:50GB/s")
    assert simulated(hashed(), pool, tier).cached_tokens.sum() > simulated(hashed(), pool).cached_tokens.sum()
    off = operation(replicas=None, prefix_cache=False)
    assert simulated(hashed(), pool, off).cached_tokens.sum() == 0
    two = Pool((step_table(),) * 2)
    turns = simulated(traffic(), two, operation(replicas=2, router="round-robin"))
    np.testing.assert_array_equal(turns.replica, np.arange(300) % 2)
    assert turns.replica_s == pytest.approx(2 * turns.end_s)
    with pytest.raises(InputError, match="replica 5 is not there; the plan has 2 engines, 0 to 1"):
        simulated(traffic(), two, operation(replicas=None, fail="1s:1s:5"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["--replicas", "3", "--chips", "2"],
            "replicas = 3: 3 x 1 = 3 chips, but chips = 2; choose at most 2",
        ),
        (["--replicas", "2", "--disaggregated"], "goes with one pool of engines"),
        (["--router", "session", "--no-simulate"], "has an effect in the simulation alone"),
        (["--replicas", "0"], "replicas = 0 must be a whole number of at least 1"),
    ],
)
def test_the_command_refuses_with_one_line(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*JOB, *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_replicas_are_kept_and_what_was_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--replicas", "2", "--router", "round-robin", "--fail", "5s:5s:1", "--urgent", "0.2"]
    assert main([*JOB, *words]) == 0
    out, _ = capsys.readouterr()
    assert "2 x tp1" in out
    assert "Run with router round-robin, replica 1 down from 5 s for 5 s, 20 % of requests go first" in out
    assert "of 2 engines were up in the mean" in out
    assert "TTFT P95 of those that go first" in out
