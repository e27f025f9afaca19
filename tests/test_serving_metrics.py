"""Serving metrics: exact small cases by hand, nothing finished, and laws that catch what does not add up."""

from __future__ import annotations

import dataclasses
import json
import warnings
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import Slo
from ridgeline.metrics.serving import serving_metrics, span_s, tpot_s
from ridgeline.metrics.serving_laws import LawError, check
from ridgeline.metrics.spread import counted_spread, spread_of
from ridgeline.sim.serving.outcome import CANCELLED, DONE, ITL_EDGES_S, REFUSED, TIMED_OUT, Outcome

NAN = np.nan


def requests(**changes: Any) -> Requests:
    """Four requests a second apart."""
    fields: dict[str, Any] = {
        "arrival_s": np.array([0.0, 1.0, 2.0, 3.0]),
        "input_tokens": np.array([100, 200, 300, 400]),
        "output_tokens": np.array([11, 5, 1, 9]),
    }
    return Requests(**{**fields, **changes})


def outcome(**changes: Any) -> Outcome:
    """Three done, of which one has a single token, and one cancelled after 4 tokens."""
    counts = np.zeros(ITL_EDGES_S.size + 1, dtype=np.int64)
    counts[np.searchsorted(ITL_EDGES_S, 0.1)] = 10
    counts[np.searchsorted(ITL_EDGES_S, 0.25)] = 4 + 3
    fields: dict[str, Any] = {
        "sent_s": np.array([0.0, 1.0, 2.0, 3.0]),
        "scheduled_s": np.array([0.1, 1.2, 2.3, 3.4]),
        "first_token_s": np.array([0.5, 1.5, 3.0, 4.0]),
        "finish_s": np.array([1.5, 2.5, 3.0, NAN]),
        "made_tokens": np.array([11, 5, 1, 4]),
        "cached_tokens": np.array([0, 50, 0, 100]),
        "preemptions": np.array([0, 2, 0, 1]),
        "replica": np.zeros(4, dtype=np.int64),
        "status": np.array([DONE, DONE, DONE, CANCELLED]),
        "measured": np.ones(4, dtype=np.bool_),
        "itl_counts": counts,
        "times_s": np.array([0.0, 1.0, 3.0]),
        "running": np.array([1, 2, 4]),
        "waiting": np.array([0, 3, 0]),
        "kv_blocks": np.array([10, 30, 50]),
        "batch_steps": np.array([2, 6, 0, 2]),
        "steps": 10,
        "busy_s": 3.0,
        "blocks": 100,
        "end_s": 5.0,
        "energy_j": 2100.0,
        "chips": 2,
    }
    return Outcome(**{**fields, **changes})


def nothing_done() -> Outcome:
    lost = np.full(4, NAN)
    return outcome(
        scheduled_s=lost,
        first_token_s=lost,
        finish_s=lost,
        made_tokens=np.zeros(4, dtype=np.int64),
        cached_tokens=np.zeros(4, dtype=np.int64),
        preemptions=np.zeros(4, dtype=np.int64),
        status=np.array([REFUSED, TIMED_OUT, REFUSED, CANCELLED]),
        itl_counts=np.zeros(ITL_EDGES_S.size + 1, dtype=np.int64),
        times_s=np.zeros(0),
        running=np.zeros(0, dtype=np.int64),
        waiting=np.zeros(0, dtype=np.int64),
        kv_blocks=np.zeros(0, dtype=np.int64),
        batch_steps=np.zeros(1, dtype=np.int64),
        steps=0,
        end_s=0.0,
        energy_j=0.0,
    )


def test_percentiles_are_linear() -> None:
    spread = spread_of(np.array([4.0, 1.0, 3.0, 2.0]))
    assert spread is not None
    assert dataclasses.astuple(spread) == pytest.approx((2.5, 2.5, 3.7, 3.85, 3.97))
    assert spread_of(np.zeros(0)) is None


def test_counted_values_have_the_percentiles_of_the_values() -> None:
    values = np.array([1.0, 2.0, 5.0, 9.0])
    counts = np.array([3, 0, 4, 1])
    counted = counted_spread(values, values, counts)
    listed = spread_of(np.repeat(values, counts))
    assert counted is not None
    assert listed is not None
    assert dataclasses.astuple(counted) == pytest.approx(dataclasses.astuple(listed))
    assert counted_spread(values, values, np.zeros(4, dtype=np.int64)) is None


def test_latencies_by_hand() -> None:
    found = serving_metrics(outcome(), requests())
    assert found.ttft_s is not None
    assert found.tpot_s is not None
    assert found.e2e_s is not None
    assert found.queue_s is not None
    assert (found.ttft_s.mean, found.ttft_s.p50) == pytest.approx((2.0 / 3, 0.5))
    assert (found.e2e_s.mean, found.e2e_s.p50) == pytest.approx((4.0 / 3, 1.5))
    assert found.queue_s.p50 == pytest.approx(0.2)
    assert found.queue_s.p90 == pytest.approx(0.2 + 0.8 * 0.1)
    # 1 s over 10 gaps, 1 s over 4 gaps; the request of one token has none
    assert found.tpot_s.mean == pytest.approx((0.1 + 0.25) / 2)
    assert found.tokens_per_s_per_user == pytest.approx(1 / 0.175)
    assert np.isnan(tpot_s(outcome())[2:]).all()


def test_gaps_between_tokens_are_within_their_bin() -> None:
    found = serving_metrics(outcome(), requests()).itl_s
    assert found is not None
    assert found.p50 == pytest.approx(0.1, rel=0.01)
    assert found.p99 == pytest.approx(0.25, rel=0.01)
    assert found.mean == pytest.approx((10 * 0.1 + 7 * 0.25) / 17, rel=0.005)


def test_tokens_that_come_out_together_have_no_gap() -> None:
    counts = np.zeros(ITL_EDGES_S.size + 1, dtype=np.int64)
    counts[0] = 10
    found = serving_metrics(outcome(itl_counts=counts), requests()).itl_s
    assert found is not None
    assert (found.mean, found.p99) == (0.0, 0.0)


def test_rates_by_hand() -> None:
    found = serving_metrics(outcome(), requests())
    assert found.duration_s == 3.0  # first send 0 to last token 3
    assert found.requests_per_s == 1.0
    assert found.output_tokens_per_s == pytest.approx(17 / 3)
    assert found.total_tokens_per_s == pytest.approx((17 + 600) / 3)
    assert found.output_tokens_per_s_per_chip == pytest.approx(17 / 6)
    assert found.counts == {
        "done": 3, "cancelled": 1, "timed_out": 0, "lost": 0, "refused": 0, "unfinished": 0,
    }  # fmt: skip


def test_state_batches_and_energy_by_hand() -> None:
    found = serving_metrics(outcome(), requests())
    assert found.kv_use_mean == pytest.approx((10 * 1 + 30 * 2 + 50 * 2) / 5 / 100)
    assert found.kv_use_peak == 0.5
    assert found.running_mean == pytest.approx((1 + 4 + 8) / 5)
    assert (found.waiting_mean, found.waiting_peak) == (pytest.approx(1.2), 3)
    assert found.batch is not None
    assert (found.batch.mean, found.batch.p50) == pytest.approx((1.2, 1.0))
    assert found.batch_steps == ((0, 2), (1, 6), (3, 2))
    assert found.cache_hit_share == pytest.approx(150 / 1000)
    assert (found.preemptions, found.preempted_share) == (3, 0.5)
    assert (found.average_power_w, found.power_w_per_chip) == (420.0, 210.0)
    assert found.energy_j_per_output_token == pytest.approx(2100 / 21)


@pytest.mark.parametrize(
    ("limits", "good"),
    [
        ({"ttft_s": 0.5}, 2), ({"ttft_s": 1.0}, 3), ({"tpot_s": 0.2}, 2), ({"tpot_s": 0.25}, 3),
        ({"ttft_s": 0.5, "tpot_s": 0.2}, 1), ({"e2e_s": 1.2}, 1), ({"ttft_s": 0.1}, 0),
    ],
)  # fmt: skip
def test_goodput(limits: dict[str, float], good: int) -> None:
    found = serving_metrics(outcome(), requests(), Slo(**limits))
    assert found.good_share == good / 4  # the cancelled one is not good
    assert found.good_per_s == good / 3.0


def test_an_slo_limits_something() -> None:
    assert str(Slo(ttft_s=2, tpot_s=0.05)) == "TTFT 2 s, TPOT 0.05 s"
    with pytest.raises(ValidationError, match="no limit; give ttft_s, tpot_s or e2e_s"):
        Slo()


def test_warm_up_counts_in_energy_alone() -> None:
    measured = np.array([False, True, True, True])
    found = serving_metrics(outcome(measured=measured), requests())
    assert found.counts["done"] == 2
    assert found.duration_s == 2.0
    assert found.output_tokens_per_s == 3.0
    assert found.cache_hit_share == pytest.approx(150 / 900)
    assert found.energy_j_per_output_token == pytest.approx(100)


def test_nothing_finished_is_none_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = serving_metrics(nothing_done(), requests(), Slo(ttft_s=1))
        check(nothing_done(), requests())
        plain = json.dumps(found.to_dict(), allow_nan=False)
    assert (found.good_share, found.good_per_s) == (0.0, None)
    for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "duration_s", "output_tokens_per_s",
                 "tokens_per_s_per_user", "kv_use_mean", "batch", "average_power_w", "cache_hit_share",
                 "energy_j_per_output_token"):  # fmt: skip
        assert json.loads(plain)[name] is None, name
    assert found.counts["refused"] == 2


def test_no_measured_request_at_all() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = serving_metrics(outcome(measured=np.zeros(4, dtype=np.bool_)), requests(), Slo(ttft_s=1))
    assert (found.good_share, found.preempted_share, found.ttft_s) == (None, None, None)
    assert span_s(outcome(), np.zeros(4, dtype=np.bool_)) is None


def test_plain_values_are_json_and_keep_the_names() -> None:
    found = serving_metrics(outcome(), requests(), Slo(ttft_s=1))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["slo"] == {"ttft_s": 1.0}
    assert plain["ttft_s"]["p50"] == 0.5
    assert plain["batch_steps"] == [[0, 2], [1, 6], [3, 2]]
    assert set(plain) == {field.name for field in dataclasses.fields(found)}


def test_the_laws_hold_for_what_is_right() -> None:
    check(outcome(), requests())


def changed(name: str, i: int, value: float) -> dict[str, Any]:
    """One entry of an array of the outcome set to ``value``."""
    array = np.array(getattr(outcome(), name))
    array[i] = value
    return {name: array}


BROKEN = {
    "tokens lost": (
        changed("made_tokens", 0, 10),
        "request 0: done, but tokens made differ .*: 10 against 11",
    ),
    "tokens made up": (
        changed("made_tokens", 3, 10),
        "request 3: more tokens made than asked for: 10 against 9",
    ),
    "refused": (changed("status", 3, REFUSED), "request 3: refused, but tokens made: 4 against 0"),
    "cache": (changed("cached_tokens", 1, 201), "request 1: more tokens cached than the prompt has: 201"),
    "gaps": (changed("itl_counts", 5, 1), "gaps between tokens: 18 counted, 17 made"),
    "status": (changed("status", 2, 9), "request 2: unknown status: 9"),
    "early": (
        changed("scheduled_s", 1, 0.9),
        "request 1: sent after first step, or missing: 1.0 against 0.9",
    ),
    "token": (changed("first_token_s", 0, 1.6), "request 0: first token after last token"),
    "missing": (changed("finish_s", 0, NAN), "request 0: first token after last token, or missing"),
    "end": ({"end_s": 2.9}, "request 2: last token after end"),
    "late client": (changed("sent_s", 0, 0.05), "request 0: sent at another time than it arrives: 0.05"),
    "blocks": (changed("kv_blocks", 1, 101), "KV blocks: 101 held of 100"),
    "negative": (changed("waiting", 1, -1), "waiting: -1 is below zero"),
    "samples": (changed("times_s", 2, 0.5), "samples of the state: times do not ascend"),
    "steps": ({"steps": 9}, "steps: 10 by batch size, 9 in all"),
    "energy": ({"energy_j": NAN}, "energy_j: nan is below zero"),
    "size": ({"replica": np.zeros(3, dtype=np.int64)}, "replica has 3 entries for 4 requests"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_laws_catch(name: str) -> None:
    changes, message = BROKEN[name]
    with pytest.raises(LawError, match=message):
        check(outcome(**changes), requests())


def closed_loop(**changes: Any) -> tuple[Outcome, Requests]:
    """Two users, two warm-up requests and two others; all of two tokens."""
    times = np.array([0.0, 0.0, 2.0, 2.0])
    counts = np.zeros(ITL_EDGES_S.size + 1, dtype=np.int64)
    counts[-1] = 4
    fields = {
        "sent_s": times,
        "scheduled_s": times,
        "first_token_s": times + 0.5,
        "finish_s": np.array([1.0, 2.0, 3.0, 4.0]),
        "made_tokens": np.full(4, 2),
        "status": np.full(4, DONE),
        "measured": np.array([False, False, True, True]),
        "itl_counts": counts,
        "batch_steps": np.array([3, 4]),
        **changes,
    }
    asked = requests(
        arrival_s=np.zeros(4), output_tokens=np.full(4, 2), input_tokens=np.full(4, 200), users=2, warmup=2
    )
    return outcome(**fields), asked


def test_the_laws_of_a_closed_loop() -> None:
    check(*closed_loop())
    with pytest.raises(LawError, match="users: 3 requests under way of 2 users"):
        check(*closed_loop(sent_s=np.array([0.0, 0.0, 0.9, 1.0])))
    with pytest.raises(
        LawError, match=r"warm-up: a request is sent at 1.0 before the last warm-up one ends at 2.0"
    ):
        check(*closed_loop(sent_s=np.array([0.0, 0.0, 1.0, 2.0])))
    with pytest.raises(LawError, match="decodes: 6 in all steps for 4 tokens after the first"):
        check(*closed_loop(batch_steps=np.array([2, 2, 2])))
