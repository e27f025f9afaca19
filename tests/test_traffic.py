"""Synthetic traffic: the same seed gives the same requests, and their statistics are those that were asked for."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import (
    AtOnce,
    Bursts,
    Closed,
    Diurnal,
    Drawn,
    FixedLength,
    Gamma,
    Independent,
    LognormalLength,
    Poisson,
    Ramp,
    Sessions,
    Steady,
    Traffic,
    UniformLength,
    inferencex,
    offline,
)
from ridgeline.sim.serving import conversations
from ridgeline.sim.serving.arrivals import arrival_times
from ridgeline.sim.serving.lengths import sigma_of, tokens
from ridgeline.sim.serving.traffic import requests_of

SHORT = Independent(input=FixedLength(tokens=40), output=FixedLength(tokens=8))
ALL = (
    Poisson(rate_per_s=5), Gamma(rate_per_s=5, cv=3), Steady(rate_per_s=5), AtOnce(), Closed(users=3),
    Bursts(on_per_s=20, on_s=2, off_per_s=1, off_s=3), Ramp(from_per_s=0, to_per_s=9, over_s=10),
    Diurnal(rate_per_s=5, swing=1.0, period_s=60),
)  # fmt: skip


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def traffic(**fields: Any) -> Traffic:
    return Traffic(**{"arrivals": Poisson(rate_per_s=5), "lengths": SHORT, "num_requests": 50, **fields})


def hashes(requests: Requests, i: int) -> list[int]:
    assert requests.block_hashes is not None
    assert requests.block_starts is not None
    return requests.block_hashes[requests.block_starts[i] : requests.block_starts[i + 1]].tolist()


@pytest.mark.parametrize("arrivals", ALL, ids=lambda a: a.kind)
def test_arrivals_ascend_from_zero(arrivals: Any) -> None:
    times = arrival_times(arrivals, 1000, rng())
    assert times.shape == (1000,)
    assert np.all(np.isfinite(times))
    assert times[0] >= 0
    assert np.all(np.diff(times) >= 0)


@pytest.mark.parametrize("cv", [0.2, 1.0, 3.0])
def test_gaps_have_the_mean_and_the_variation(cv: float) -> None:
    gaps = np.diff(arrival_times(Gamma(rate_per_s=4, cv=cv), 200_000, rng()))
    assert gaps.mean() == pytest.approx(0.25, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_poisson_and_steady_gaps() -> None:
    gaps = np.diff(arrival_times(Poisson(rate_per_s=4), 200_000, rng()))
    assert gaps.mean() == pytest.approx(0.25, rel=0.01)
    assert gaps.std() == pytest.approx(0.25, rel=0.01)
    assert arrival_times(Steady(rate_per_s=4), 3, rng()).tolist() == [0.0, 0.25, 0.5]


def test_bursts_keep_their_rates() -> None:
    times = arrival_times(Bursts(on_per_s=50, on_s=2, off_per_s=5, off_s=8), 140_000, rng())
    high = times % 10 < 2
    assert high.mean() == pytest.approx(100 / 140, abs=0.01)
    assert times[-1] == pytest.approx(10_000, rel=0.02)
    quiet = arrival_times(Bursts(on_per_s=50, on_s=2, off_s=8), 10_000, rng())
    assert np.all(quiet % 10 <= 2)


def test_ramp_keeps_its_rate_at_each_time() -> None:
    times = arrival_times(Ramp(from_per_s=10, to_per_s=30, over_s=1000), 50_000, rng())
    counts = np.histogram(times, bins=[0, 500, 1000, 2000])[0]
    np.testing.assert_allclose(counts, [7500, 12500, 30000], rtol=0.04)
    flat = arrival_times(Ramp(from_per_s=5, to_per_s=5, over_s=10), 1000, rng())
    np.testing.assert_allclose(flat, arrival_times(Poisson(rate_per_s=5), 1000, rng()), rtol=1e-12)


def test_diurnal_rises_first_and_has_its_mean() -> None:
    times = arrival_times(Diurnal(rate_per_s=100, swing=0.8, period_s=1000), 100_000, rng())
    counts = np.histogram(times % 1000, bins=[0, 500, 1000])[0]
    share = 0.5 + 0.8 / math.pi  # of the half period above the mean
    assert counts[0] / counts.sum() == pytest.approx(share, abs=0.01)
    still = arrival_times(Diurnal(rate_per_s=5, swing=0), 1000, rng())
    np.testing.assert_allclose(still, arrival_times(Poisson(rate_per_s=5), 1000, rng()), rtol=1e-12)


def test_uniform_lengths_reach_both_bounds() -> None:
    drawn = tokens(UniformLength(nominal=10), 10_000, rng())
    assert sorted(set(drawn.tolist())) == [8, 9, 10]
    assert tokens(UniformLength(nominal=1), 5, rng()).tolist() == [1] * 5


def test_lognormal_lengths_have_mean_and_p99() -> None:
    drawn = tokens(LognormalLength(mean=1000, p99=6000), 400_000, rng())
    assert drawn.mean() == pytest.approx(1000, rel=0.01)
    assert np.percentile(drawn, 99) == pytest.approx(6000, rel=0.03)
    assert tokens(LognormalLength(mean=1000, sigma=2, most=500), 1000, rng()).max() == 500
    assert tokens(LognormalLength(mean=1, sigma=3), 1000, rng()).min() == 1
    assert sigma_of(LognormalLength(mean=7, p99=7)) == 0.0
    widest = sigma_of(LognormalLength(mean=1, p99=14.96))
    assert math.exp(2.3263479 * widest - widest**2 / 2) == pytest.approx(14.96, rel=1e-6)


def test_lengths_of_a_file_keep_their_pairs(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("input_tokens,output_tokens\n10,1\n20,2\n30,3\n")
    drawn = requests_of(traffic(lengths=Drawn(path=str(path)), num_requests=300))
    assert np.all(drawn.input_tokens == 10 * drawn.output_tokens)
    assert set(drawn.output_tokens.tolist()) == {1, 2, 3}
    with pytest.raises(ValueError, match=r"none.csv: no such file"):
        requests_of(traffic(lengths=Drawn(path=str(tmp_path / "none.csv"))))


MIXED = Independent(input=LognormalLength(mean=300, p99=2000), output=UniformLength(nominal=100))


@pytest.mark.parametrize("arrivals", ALL, ids=lambda a: a.kind)
def test_the_same_seed_gives_the_same_requests(arrivals: Any) -> None:
    asked = traffic(
        arrivals=arrivals,
        lengths=MIXED,
        sessions=Sessions(turns=3, varied=True, gap_s=2),
        system_tokens=64,
        system_prompts=3,
    )
    one, two = requests_of(asked), requests_of(Traffic.model_validate(asked.to_dict()))
    other = requests_of(asked.model_copy(update={"seed": 1}))
    assert len(one) == 50
    for field in dataclasses.fields(Requests):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))
    assert not np.array_equal(one.input_tokens, other.input_tokens)
    assert np.all(np.diff(one.arrival_s) >= 0)


def test_another_rate_meets_the_same_lengths() -> None:
    slow = requests_of(traffic(lengths=MIXED))
    fast = requests_of(traffic(lengths=MIXED, arrivals=Gamma(rate_per_s=50, cv=2)))
    np.testing.assert_array_equal(slow.input_tokens, fast.input_tokens)
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens)


def test_turns_carry_the_conversation_on() -> None:
    asked = traffic(
        arrivals=Steady(rate_per_s=0.001),
        sessions=Sessions(turns=3, gap_s=1),
        system_tokens=40,
        num_requests=6,
    )
    requests = requests_of(asked)
    # 40 of the system, then 40 new and 8 of an answer each turn
    assert requests.input_tokens.tolist() == [80, 128, 176, 80, 128, 176]
    assert requests.session is not None
    assert requests.session.tolist() == [0, 0, 0, 1, 1, 1]
    turns = [hashes(requests, i) for i in range(6)]
    assert [len(blocks) for blocks in turns] == [5, 8, 11, 5, 8, 11]
    assert turns[1][:5] == turns[0]
    assert turns[2][:8] == turns[1]
    # the first 2 blocks of 16 hold nothing but the system prompt, the third has text of the session
    assert turns[3][:2] == turns[0][:2]
    assert not set(turns[5][2:]) & set(turns[2])
    assert 0 < requests.arrival_s[1] - requests.arrival_s[0] < 100


def test_equal_hashes_are_equal_places() -> None:
    asked = traffic(
        lengths=MIXED, sessions=Sessions(turns=4, varied=True), system_tokens=50, system_prompts=2
    )
    requests = requests_of(asked)
    places: dict[int, set[int]] = {}
    for i in range(len(requests)):
        for place, one in enumerate(hashes(requests, i)):
            places.setdefault(one, set()).add(place)
    assert all(len(found) == 1 for found in places.values())
    assert len({tuple(hashes(requests, i)[:3]) for i in range(len(requests))}) == 2


def test_turns_vary_around_their_mean() -> None:
    turns = conversations.turns_of(Sessions(turns=4, varied=True, gap_s=5), 100_000, rng())
    assert turns.session.size / (turns.session[-1] + 1) == pytest.approx(4, rel=0.03)
    gaps = np.diff(turns.wait_s)[np.diff(turns.session) == 0]
    assert gaps.mean() == pytest.approx(5, rel=0.02)
    assert np.all(turns.wait_s[turns.turn == 0] == 0)


def test_users_take_their_turns_together() -> None:
    requests = requests_of(
        traffic(arrivals=Closed(users=2, think_s=3), sessions=Sessions(turns=2), num_requests=8)
    )
    assert requests.session is not None
    assert requests.session.tolist() == [0, 1, 0, 1, 2, 3, 2, 3]
    assert (requests.users, requests.think_s) == (2, 3.0)


def test_too_many_hashes_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "MOST_HASHES", 99)
    with pytest.raises(
        ValueError, match="block_tokens 16: 150 hashed blocks; expected 99 at most, choose larger"
    ):
        requests_of(traffic(system_tokens=16))


def test_client_inferencex() -> None:
    asked = inferencex(32, 1024, 512)
    requests = requests_of(asked)
    assert str(asked) == (
        "client inferencex, 320 requests, 32 users, input 819-1,024, output 409-512, 64 warm-up requests before"
    )
    assert (requests.users, requests.warmup, len(requests)) == (32, 64, 384)
    assert requests.measured is not None
    assert requests.measured.tolist() == [False] * 64 + [True] * 320
    assert set(requests.input_tokens[:65].tolist()) == {int(requests.input_tokens[64])}
    assert requests.input_tokens[64:].min() >= 819
    assert requests.input_tokens[64:].max() <= 1024
    assert requests.input_tokens[64:].mean() == pytest.approx(921.5, rel=0.02)
    assert not requests.arrival_s.any()
    assert requests.block_hashes is None


def test_client_offline() -> None:
    requests = requests_of(offline(7, 100, 10))
    assert requests.arrival_s.tolist() == [0.0] * 7
    assert (requests.users, set(requests.input_tokens.tolist())) == (0, {100})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arrivals": {"kind": "poisson", "rate_per_s": 0}}, "greater than or equal to"),
        ({"arrivals": {"kind": "poison", "rate_per_s": 1}}, "'poisson', 'gamma', 'steady', 'bursts'"),
        ({"arrivals": {"kind": "poisson", "rate_per_s": 1, "cv": 2}}, "Extra inputs are not permitted"),
        ({"warmup": 3}, "warmup 3: only a closed loop has warm-up requests"),
        ({"num_requests": 0}, "greater than or equal to 1"),
        ({"lengths": {"kind": "drawn"}}, "Field required"),
    ],
)
def test_wrong_traffic_is_an_error(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        traffic(**fields)


def test_wrong_lengths_are_an_error() -> None:
    with pytest.raises(ValidationError, match="give either p99 or sigma"):
        LognormalLength(mean=10)
    with pytest.raises(ValidationError, match=r"p99 5: expected 1 to 14.96 times the mean of 10"):
        LognormalLength(mean=10, p99=5)
    with pytest.raises(ValidationError, match="low 2 is above high 1"):
        UniformLength(nominal=10, low=2)


def test_descriptions_name_what_was_asked() -> None:
    asked = traffic(sessions=Sessions(turns=3, varied=True, gap_s=9), system_tokens=1000, system_prompts=2)
    assert str(asked) == (
        "50 requests, Poisson 5/s, input 40, output 8, sessions of about 3 turns, 9 s apart, "
        "2 system prompts of 1,000 tokens"
    )
    assert len({str(arrivals) for arrivals in ALL}) == len(ALL)


def test_the_guide_shows_code_that_runs() -> None:
    page = (Path(__file__).parents[1] / "docs" / "guides" / "serving-traffic.md").read_text(encoding="utf-8")
    code = [block.split("```")[0] for block in page.split("```python\n")[1:]]
    names: dict[str, Any] = {}
    exec(compile(code[1], "serving-traffic.md", "exec"), names)
    assert len(names["requests"]) == 5000
