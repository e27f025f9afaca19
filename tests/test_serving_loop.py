"""One serving engine: the fast loop against the plain scheduler, conservation, and results that depend on nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ridgeline.facts.requests import Requests
from ridgeline.metrics.serving_laws import check
from ridgeline.sim.serving.engine import Settings, Tier
from ridgeline.sim.serving.outcome import CANCELLED, DONE, REFUSED, TIMED_OUT, Outcome
from ridgeline.sim.serving.policy import simulate_plainly
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.timeline import busy_window, engine_steps

HOST = Tier(name="host", bytes=1e12, bytes_per_s=50e9, latency_s=1e-5)


def step_table(**changes: Any) -> StepTable:
    """A small engine whose every term counts."""
    contexts = np.array([1.0, 64.0, 300.0, 1000.0, 5000.0])
    d = np.arange(33)[:, None]
    per_token = np.array([0.8, 1.0, 1.1, 1.3, 1.6]) * 1e-7
    windows = np.array([np.inf, 128.0])
    decode = np.stack([d * contexts * per_token, 0.5 * d * contexts * per_token])
    decode[:, 1:] += 1e-4
    fields = {
        "tokens_s": np.stack([2e-3 + 1e-5 * np.arange(513), 2.2e-3 + 1e-5 * np.arange(513)]),
        "rows_s": 1e-6 * np.arange(65),
        "windows": windows,
        "contexts": contexts,
        "decode_s": decode,
        "longest_s": np.stack([9e-7 * contexts, 4e-7 * contexts]),
        "prefill_q": 2.0 ** np.arange(10),
        "prefill_kv": 2.0 ** np.arange(13),
        "prefill_s": 1e-9 * (1 + np.arange(10)[:, None] + 0.5 * np.arange(13)),
        "prefill_fixed_s": 3e-4,
        "host_hidden_s": (2.3e-3, 1e-5),
        "host_s": (1e-4, 1e-6, 2e-5),
        "static_w": 100.0,
        "tokens_j": 0.1 * np.arange(513),
        "pair_j": 1e-6,
        "context_j": 1e-5,
        "block_size": 16,
        "num_blocks": 400,
        "max_seqs": 32,
        "max_tokens": 512,
        "kv_bytes_per_token": 1e5,
    }
    return StepTable(**{**fields, **changes})


#: Decodes that are slower beside prefills; and those that the busiest core holds up.
ONE_KERNEL: dict[str, Any] = {"mixed_s": 1.7 * step_table().decode_s}
UNEVEN: dict[str, Any] = {
    "core_s": np.array([3e-7, 2e-7]), "core_items": np.array([0.4, 0.4]), "unsplit": 1.6
}  # fmt: skip


def traffic(n: int = 300, rate: float = 20.0, seed: int = 1, **changes: Any) -> Requests:
    rng = np.random.default_rng(seed)
    fields = {
        "arrival_s": np.cumsum(rng.exponential(1 / rate, n)),
        "input_tokens": rng.integers(1, 900, n),
        "output_tokens": rng.integers(1, 200, n),
    }
    return Requests(**{**fields, **changes})


def hashed(n: int = 300, rate: float = 20.0, seed: int = 1, block: int = 64, **changes: Any) -> Requests:
    """Prompts of which many begin alike; hash 1000 k + j is block j of conversation k."""
    plain = traffic(n, rate, seed, **changes)
    rng = np.random.default_rng(seed)
    blocks = -(-plain.input_tokens // block)
    starts = np.concatenate(([0], np.cumsum(blocks)))
    talks = rng.integers(0, 12, n)
    hashes = np.concatenate(
        [1000 * talk + np.arange(count) for talk, count in zip(talks, blocks, strict=True)]
    )
    return dataclasses.replace(plain, block_tokens=block, block_hashes=hashes, block_starts=starts)


def same(a: Outcome, b: Outcome) -> None:
    for name in (
        "scheduled_s",
        "first_token_s",
        "finish_s",
        "made_tokens",
        "replica",
        "status",
        "itl_counts",
    ):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("schedule", ["chunked", "prefill_first", "whole"])
@pytest.mark.parametrize("requests", [traffic(), hashed(), traffic(priority=np.arange(300) % 3)])
@pytest.mark.parametrize("blocks", [400, 90])
@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("kernels", [ONE_KERNEL, UNEVEN, {}], ids=["one kernel", "uneven", "kernels apart"])
def test_the_loop_equals_the_plain_scheduler(
    schedule: str, requests: Requests, blocks: int, lag: int, kernels: dict[str, Any]
) -> None:
    requests = dataclasses.replace(requests, input_tokens=np.minimum(requests.input_tokens, 512))
    table = step_table(schedule=schedule, num_blocks=blocks, lag=lag, **kernels)
    outcome = simulate(requests, table)
    first, last, preemptions, gaps = simulate_plainly(requests, table)
    np.testing.assert_allclose(outcome.first_token_s, first, rtol=1e-9)
    np.testing.assert_allclose(outcome.finish_s, last, rtol=1e-9)
    np.testing.assert_array_equal(outcome.preemptions, preemptions)
    assert outcome.itl_counts.sum() == len(gaps)
    if schedule != "whole" and blocks == 90:
        assert outcome.preemptions.sum() > 0


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ranks": 3, "lockstep": True},
        {"ranks": 3, "lockstep": False},
        {"stages": 2},
        {"lag": 1},
        {"lag": 1, "num_blocks": 90},
        {"lag": 1, "schedule": "prefill_first", "num_blocks": 90},
        {"lag": 1, "ranks": 3, "lockstep": True},
        ONE_KERNEL,
        {"lag": 1, **ONE_KERNEL, **UNEVEN},
    ],
)
def test_spans_equal_single_steps(changes: dict[str, Any]) -> None:
    requests, table = traffic(400), step_table(**changes)
    spans, steps = simulate(requests, table), simulate(requests, table, Settings(max_span=1))
    np.testing.assert_allclose(spans.finish_s, steps.finish_s, rtol=1e-9)
    np.testing.assert_allclose(spans.first_token_s, steps.first_token_s, rtol=1e-9)
    assert spans.steps == steps.steps
    assert spans.energy_j == pytest.approx(steps.energy_j, rel=1e-9)
    assert np.abs(spans.itl_counts - steps.itl_counts).sum() <= 2  # one on the edge of a bin


VARIANTS: list[tuple[Requests, dict[str, Any], Settings]] = [
    (traffic(), {}, Settings()),
    (hashed(), {"num_blocks": 120}, Settings()),
    (hashed(), {"num_blocks": 120}, Settings(preemption="swap", tiers=(HOST,))),
    (traffic(), {"acceptance": (0.8, 0.5), "num_blocks": 120}, Settings()),
    (traffic(arrival_s=np.zeros(300), users=10, think_s=0.01), {"ranks": 2, "num_blocks": 200}, Settings()),
    (traffic(timeout_s=0.5, cancel_s=np.linspace(0.01, 3.0, 300)), {"num_blocks": 120}, Settings()),
    (hashed(timeout_s=0.5, cancel_s=np.linspace(0.01, 3.0, 300)), {"num_blocks": 120, "lag": 1}, Settings()),
    (hashed(), {"num_blocks": 120, "lag": 1}, Settings(preemption="swap", tiers=(HOST,))),
    (traffic(arrival_s=np.zeros(300), users=10), {"ranks": 2, "num_blocks": 200, "lag": 1}, Settings()),
]


@pytest.mark.parametrize(("requests", "changes", "settings"), VARIANTS)
def test_conservation(requests: Requests, changes: dict[str, Any], settings: Settings) -> None:
    outcome = simulate(requests, step_table(**changes), settings)
    done = outcome.status == DONE
    assert set(np.unique(outcome.status)) <= {DONE, CANCELLED, TIMED_OUT, REFUSED}
    np.testing.assert_array_equal(outcome.made_tokens[done], requests.output_tokens[done])
    assert (outcome.made_tokens <= requests.output_tokens).all()
    assert outcome.itl_counts.sum() == np.maximum(outcome.made_tokens - 1, 0).sum()
    assert (outcome.sent_s <= outcome.scheduled_s)[done].all()
    assert (outcome.scheduled_s < outcome.first_token_s)[done].all()
    assert (outcome.first_token_s <= outcome.finish_s)[done].all()
    assert outcome.batch_steps.sum() == outcome.steps
    assert outcome.kv_blocks.max() <= outcome.blocks
    assert outcome.busy_s <= outcome.end_s * (1 + 1e-12)


@pytest.mark.parametrize(("requests", "changes", "settings"), VARIANTS)
def test_chunks_of_time_change_nothing(
    requests: Requests, changes: dict[str, Any], settings: Settings
) -> None:
    table = step_table(**changes)
    same(simulate(requests, table, settings), simulate(requests, table, settings, chunk_s=0.37))


def test_everything_is_given_back() -> None:
    from ridgeline.sim.serving import loop
    from ridgeline.sim.serving.engine import new_engine
    from ridgeline.sim.serving.kv import COUNT
    from ridgeline.sim.serving.state import new_requests

    for requests, changes, settings in VARIANTS:
        records = new_requests(requests)
        engine = new_engine(requests, records, step_table(**changes), settings, samples=64, sample_s=0.1)
        loop.run(engine.state, engine.table, np.inf)
        ints = engine.arrays["ints"]
        for lane in engine.arrays["lanes"]:
            unused = ints[lane["lru_at"] + COUNT] * engine.table["hash_blocks"]
            assert lane["free"] + unused == engine.table["num_blocks"]
            assert [lane[name] for name in ("running", "waiting", "decoding", "heap", "contexts")] == [0] * 5
            for name, size in (("phases_at", 16), ("sums_at", 2), ("below_at", 2), ("crossings_at", 129)):
                assert not ints[lane[name] : lane[name] + size].any() or engine.table["drafts"]


def test_speculation_makes_the_mean_it_says_and_depends_on_the_seed_alone() -> None:
    requests = traffic(200, output_tokens=np.full(200, 400), input_tokens=np.full(200, 10))
    table = step_table(acceptance=(0.8, 0.5), num_blocks=10000)
    outcome = simulate(requests, table)
    bursts = outcome.itl_counts[0] / outcome.itl_counts[1:].sum()  # further tokens of each step
    assert bursts == pytest.approx(0.8 + 0.8 * 0.5, rel=0.02)
    same(outcome, simulate(requests, table))
    assert (outcome.finish_s != simulate(requests, table, seed=1).finish_s).any()


def test_prefixes_are_found_and_save_time() -> None:
    requests, table = hashed(rate=5.0), step_table(num_blocks=4000)
    with_cache, without = simulate(requests, table), simulate(requests, table, Settings(prefix_cache=False))
    assert with_cache.cached_tokens.sum() > 0.5 * requests.input_tokens.sum()
    assert without.cached_tokens.sum() == 0
    assert (with_cache.cached_tokens < requests.input_tokens).all()
    assert with_cache.first_token_s.mean() < without.first_token_s.mean()


def test_a_lower_tier_keeps_prefixes_that_hbm_drops() -> None:
    requests, small = hashed(rate=5.0), step_table(num_blocks=110)
    without, with_tier = simulate(requests, small), simulate(requests, small, Settings(tiers=(HOST,)))
    slow = dataclasses.replace(HOST, bytes_per_s=1e8)
    assert with_tier.cached_tokens.sum() > 1.2 * without.cached_tokens.sum()
    slower = simulate(requests, small, Settings(tiers=(slow,)))
    assert np.mean(slower.first_token_s - slower.sent_s) > np.mean(with_tier.first_token_s - with_tier.sent_s)


def test_users_who_leave() -> None:
    requests = traffic(200, rate=200.0, timeout_s=0.5, cancel_s=np.where(np.arange(200) % 2, np.inf, 1.0))
    outcome = simulate(requests, step_table())
    wait = outcome.first_token_s - outcome.sent_s
    assert (outcome.status == TIMED_OUT).any()
    assert (outcome.status == CANCELLED).any()
    assert np.nanmax(wait[outcome.status != TIMED_OUT]) <= 0.5 + 0.02  # a step may be under way
    assert np.isnan(outcome.finish_s[outcome.status != DONE]).all()
    assert not (outcome.status[1::2] == CANCELLED).any()


@pytest.mark.parametrize(("users", "warmup"), [(10, 25), (10, 4), (10, 10), (10, 300), (1, 1), (400, 7)])
@pytest.mark.parametrize("lag", [0, 1])
def test_warm_up_ends_before_the_others_start_together(users: int, warmup: int, lag: int) -> None:
    requests = traffic(arrival_s=np.zeros(300), users=users, warmup=warmup, think_s=0.01)
    outcome = simulate(requests, step_table(lag=lag))
    assert (outcome.status == DONE).all()
    check(outcome, requests)
    others = outcome.sent_s[warmup:]
    if others.size:
        assert (others[:users] == outcome.finish_s[:warmup].max()).all()
        assert (others[users:] > others[0]).all()
    most = np.searchsorted(np.sort(outcome.finish_s), outcome.sent_s, side="right")
    under_way = 1 + np.arange(300) - most
    assert under_way[:warmup].max() == min(users, warmup)


def test_what_never_fits_is_refused() -> None:
    requests = Requests(np.array([0.0, 0.1]), np.array([1600, 160]), np.array([1, 1]))
    outcome = simulate(requests, step_table(num_blocks=50))
    np.testing.assert_array_equal(outcome.status, [REFUSED, DONE])


def test_errors_name_the_field() -> None:
    with pytest.raises(ValueError, match=r"requests\.output_tokens: 0 is below 1"):
        simulate(traffic(3, output_tokens=np.array([1, 0, 2])), step_table())
    with pytest.raises(ValueError, match="not ascending"):
        simulate(traffic(3, arrival_s=np.array([1.0, 0.0, 2.0])), step_table())
    with pytest.raises(ValueError, match=r"requests\.warmup: is 4, expected 0 to 3"):
        simulate(traffic(3, arrival_s=np.zeros(3), users=2, warmup=4), step_table())
    with pytest.raises(ValueError, match=r"requests\.warmup: is 2, but only a closed loop"):
        simulate(traffic(3, warmup=2), step_table())
    with pytest.raises(ValueError, match="lag: 2 steps"):
        simulate(traffic(3), step_table(lag=2))
    with pytest.raises(ValueError, match="choose one of chunked"):
        simulate(traffic(3), step_table(schedule="fifo"))
    with pytest.raises(ValueError, match="needs a tier"):
        simulate(traffic(3), step_table(), Settings(preemption="swap"))


def test_numba_is_imported_only_to_simulate() -> None:
    code = "import ridgeline.sim.serving.drive, sys; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compiled_code_is_stamped_with_all_its_sources() -> None:
    """A file with compiled functions that `sources` does not read would leave stale code on disk."""
    from pathlib import Path

    from ridgeline.sim.serving import jit

    folder = Path(jit.__file__).parent
    stamped = {"jit", "state", "span", "kv", "queues", "admission", "end", "unit", "loop"}
    assert {path.stem for path in folder.glob("*.py") if "serving.jit import" in path.read_text()} <= stamped


@pytest.mark.parametrize("changes", [{}, {"ranks": 2, "lockstep": False}, {"lag": 1}])
def test_the_timeline_is_of_the_same_simulation(changes: dict[str, Any]) -> None:
    requests, table = traffic(120), step_table(**{"num_blocks": 4000, **changes})
    outcome = simulate(requests, table)
    every = engine_steps(requests, table, (0.0, outcome.end_s + 1.0))
    assert len(every) == outcome.steps
    assert sum(step.end_s - step.start_s for step in every) / table.ranks == pytest.approx(outcome.busy_s)
    tokens = requests.input_tokens.sum() + (requests.output_tokens - 1).sum()
    assert sum(step.tokens for step in every) == tokens
    assert {step.kind for step in every} == {"prefill", "decode", "mixed"}
    start, end = busy_window(outcome, 0.2)
    some = engine_steps(requests, table, (start, end))
    assert some == [step for step in every if step.end_s >= start and step.start_s < end]
    assert max(outcome.running) > 0
