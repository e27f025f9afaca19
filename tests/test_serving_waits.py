"""Conversations whose turns wait for the answer before them, and traffic that a file describes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ridgeline.api.serving import serve
from ridgeline.facts.request_edits import chosen, first
from ridgeline.facts.request_lines import RequestFileError
from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import FixedLength, Independent, Poisson, Sessions, Traffic
from ridgeline.facts.traffic_files import read_traffic
from ridgeline.sim.serving.drive import simulate_fleet
from ridgeline.sim.serving.fleet import Fleet
from ridgeline.sim.serving.outcome import DONE
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.traffic import requests_of
from test_serving_loop import step_table

SPEC = """\
arrivals: {kind: poisson, rate_per_s: 4}
lengths:
  kind: independent
  input: {kind: lognormal, mean: 600, p99: 3000}
  output: {kind: uniform, nominal: 200}
sessions: {turns: 3, gap_s: 2, waits: true}
system_tokens: 128
num_requests: 300
"""


def conversations(*, waits: bool = True, gap_s: float = 1.0, count: int = 60) -> Requests:
    return requests_of(
        Traffic(
            arrivals=Poisson(rate_per_s=2.0),
            lengths=Independent(input=FixedLength(tokens=100), output=FixedLength(tokens=40)),
            sessions=Sessions(turns=4, gap_s=gap_s, waits=waits),
            num_requests=count,
            seed=3,
        )
    )


@pytest.mark.parametrize("replicas", [1, 3])
def test_each_turn_is_sent_its_pause_after_the_answer(replicas: int) -> None:
    requests = conversations()
    assert requests.after is not None
    assert requests.pause_s is not None
    outcome = simulate_fleet(requests, Fleet(replicas=(step_table(),) * replicas))
    assert (outcome.status == DONE).all()
    follows = requests.after >= 0
    assert 30 < follows.sum() < 60
    answered = outcome.finish_s[requests.after[follows]]
    np.testing.assert_allclose(outcome.sent_s[follows], answered + requests.pause_s[follows], rtol=1e-12)
    np.testing.assert_array_equal(outcome.sent_s[~follows], requests.arrival_s[~follows])


def test_one_engine_and_a_fleet_of_one_agree() -> None:
    requests = conversations()
    alone, fleet = simulate(requests, step_table()), simulate_fleet(requests, Fleet(replicas=(step_table(),)))
    np.testing.assert_array_equal(alone.finish_s, fleet.finish_s)


def test_waiting_turns_never_run_beside_each_other() -> None:
    """Without pauses scheduled turns of a session are sent at once; waiting ones come one by one."""
    scheduled, waiting = (conversations(waits=waits, gap_s=0.0) for waits in (False, True))
    early, late = simulate(scheduled, step_table()), simulate(waiting, step_table())
    assert late.end_s > early.end_s
    assert waiting.session is not None
    for session in np.unique(waiting.session):
        own = np.flatnonzero(waiting.session == session)
        assert (late.sent_s[own][1:] >= late.finish_s[own][:-1]).all()


def test_a_turn_follows_one_that_was_lost() -> None:
    requests = dataclasses.replace(conversations(), timeout_s=1e-9)
    outcome = simulate(requests, step_table())
    assert (outcome.status != DONE).all()
    assert np.isfinite(outcome.sent_s).all()


def test_choosing_keeps_who_follows_whom() -> None:
    requests = conversations()
    half = first(requests, 30)
    assert half.after is not None
    assert requests.after is not None
    np.testing.assert_array_equal(half.after, requests.after[:30])  # those before are all there
    odd = chosen(requests, np.arange(1, 60, 2))
    assert odd.after is not None
    assert (odd.after < np.arange(30)).all()


def test_impossible_orders_are_refused() -> None:
    requests = conversations()
    assert requests.after is not None
    bad = dataclasses.replace(requests, after=np.arange(len(requests)))
    with pytest.raises(ValueError, match="after: each request may follow one earlier"):
        simulate(bad, step_table())
    with pytest.raises(ValueError, match="as many of pause_s"):
        simulate(dataclasses.replace(requests, pause_s=None), step_table())


def test_serve_takes_a_file_that_describes_traffic(tmp_path: Path) -> None:
    path = tmp_path / "chat.yaml"
    path.write_text(SPEC)
    found = serve("llama-3.1-8b", on="h100-sxm", chips=1, trace=path, engine="vllm", tp=1, chunk=8192)
    assert found.check is not None
    assert len(found.check.requests) == 300
    assert any("3 turns, each 2 s after the answer before" in note for note in found.all_notes)
    again = serve("llama-3.1-8b", on="h100-sxm", chips=1, trace=path, engine="vllm", tp=1, chunk=8192)
    assert found.to_dict()["check"] == again.to_dict()["check"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("arrivals: {kind: poison, rate_per_s: 4}", "arrivals"),
        ("num_requests: -3", "num_requests"),
        ("sesions: {turns: 3}", "sesions"),
    ],
)
def test_wrong_fields_are_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "chat.yaml"
    name = line.split(":")[0]
    kept = [old for old in SPEC.splitlines() if not old.startswith(f"{name}:")]
    path.write_text("\n".join([*kept, line, ""]))
    with pytest.raises(RequestFileError, match=f"{path.name}.*{said}"):
        read_traffic(path)
