"""Times of serving steps: more never costs less, tables keep what they tabulate, and two clocks agree."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from ridgeline.facts.requests import Requests
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.graph.serving.ops import Block
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.outcome import DONE
from ridgeline.sim.serving.policy import step_seconds
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.steady import closed_loop, decode_step_s, mixed_step_s
from ridgeline.sim.serving.step_time import StepTimes
from ridgeline.sim.serving.table import StepTable

FP8 = Precision(linear="fp8")
BLOCK = Precision(linear="fp8-block")
MXFP4 = Precision(linear="mxfp4-wo", attention="bf16")
#: A model of every kind, on chips and engines of every kind.
SERVED = {
    "dense": ("llama-3.1-8b", "h100-sxm", Layout(), Precision(), "vllm-2026"),
    "dense, tensor ranks": ("llama-3.1-70b", "h200-sxm", Layout(tp=4), FP8, "trtllm-2026"),
    "dense, AMD": ("llama-3.1-8b", "mi300x", Layout(), Precision(), "vllm-2026"),
    "windows": ("gemma-3-27b", "h200-sxm", Layout(), Precision(), "vllm-2026"),
    "windows, experts": ("gpt-oss-120b", "h100-sxm", Layout(tp=2), MXFP4, "vllm-2026"),
    "chunks": ("llama-4-scout", "b200-sxm", Layout(tp=4), FP8, "vllm-2026"),
    "experts": ("qwen3-30b-a3b", "h100-sxm", Layout(), Precision(), "vllm-2026"),
    "latent": ("deepseek-v3", "b200-sxm", Layout(tp=8), BLOCK, "sglang-2026"),
    "latent, attention ranks": ("deepseek-v3", "h200-sxm", Layout(dp=16, ep=16), BLOCK, "vllm-2026"),
    "latent, index": ("glm-5", "b200-sxm", Layout(tp=8), BLOCK, "sglang-2026"),
    "linear": ("qwen3-next-80b-a3b", "h200-sxm", Layout(tp=2), Precision(), "vllm-2026"),
    "one kernel": ("llama-3.1-8b", "rtx-pro-6000", Layout(), Precision(), "vllm-2026"),
    "one kernel, windows": ("gemma-3-27b", "a100-80gb-sxm", Layout(), Precision(), "vllm-2026"),
    "state space": ("nemotron-h-8b", "h100-sxm", Layout(), Precision(), "vllm-2026"),
    "state space, experts": ("jamba-mini", "h200-sxm", Layout(tp=2), Precision(), "trtllm-2026"),
}
KINDS = sorted(SERVED)
LONGEST = 32768


@functools.cache
def served(kind: str) -> Service:
    model, chip, layout, precision, engine = SERVED[kind]
    return service(model, chip, layout, precision, engine, limits=Limits(max_seqs=256))


@functools.cache
def table_of(kind: str) -> StepTable:
    return step_table(served(kind), LONGEST)


# The table against the functions it tabulates


def one(value: float) -> np.ndarray:
    return np.array([float(value)])


def exact_seconds(
    times: StepTimes, table: StepTable, contexts: Sequence[int], chunks: Sequence[tuple[int, int]], rows: int
) -> float:
    """A step by the formula of `StepTable`, every term evaluated where it is and not between knots."""
    engine, d = times.service.engine, len(contexts)
    tokens = float(d + sum(q for q, _ in chunks))
    attention = times.kernels(prefill=bool(chunks), attention=True)
    kernels = attention + times.kernels(prefill=bool(chunks), attention=False)
    captured = tokens <= engine.graph_batch
    launches = 4 * attention if engine.mixed_graph and captured else kernels
    if not chunks:
        launches = 0.0 if captured else kernels
        if captured and tokens > 2:  # padded to a graph
            step = engine.graph_step
            tokens = min(4.0 if tokens <= 4 else math.ceil(tokens / step) * step, float(table.max_tokens))
    device = float(times.rows_seconds(one(tokens), "token", prefill=bool(chunks))[0]) + kernels * engine.gap
    device = max(device, launches * engine.host_launch)
    device += float(times.rows_seconds(one(rows), "request", prefill=False)[0]) if rows else 0.0
    for reach in times.windows:
        if d:
            seen = np.minimum(contexts, reach)
            mean, longest = float(seen.mean()), float(seen.max())
            together = bool(chunks) and times.unpacked  # one kernel does decodes and prefills
            seconds = times.mixed_seconds if together else times.decode_seconds
            all_alike = float(seconds(one(d), one(mean), reach)[0])
            alone = float(seconds(one(1), one(longest), reach)[0])
            each, items = times.core_share(reach)
            split = together or d * items < times.unsplit
            busiest = 0.0 if split else each * (longest + (math.ceil(d * items) - 1) * mean)
            device += max(all_alike, alone, busiest)
    for q, kv in chunks:
        device += float(times.prefill_seconds(one(q), one(kv))[0])
    device += times.prefill_fixed_seconds() if chunks else 0.0
    hidden = table.host_hidden_s[0] + table.host_hidden_s[1] * d
    return max(device, hidden) + table.host_s[0] + table.host_s[1] * rows


def batches(seed: int, count: int, most: int) -> list[list[int]]:
    """Decode batches of all sizes with uneven contexts."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        d = int(np.exp(rng.uniform(0, math.log(most))))
        contexts = np.exp(rng.normal(rng.uniform(3, 9), rng.uniform(0.1, 1.3), d)).astype(int)
        found.append(np.clip(contexts, 1, 30_000).tolist())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_keeps_decode_steps_within_one_percent(kind: str) -> None:
    times, table = StepTimes(served(kind)), table_of(kind)
    for contexts in batches(1, 50, table.max_seqs):
        exact = exact_seconds(times, table, contexts, [], len(contexts))
        assert step_seconds(table, contexts, [], len(contexts), 0) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_keeps_mixed_steps_within_one_percent(kind: str) -> None:
    times, table, rng = StepTimes(served(kind)), table_of(kind), np.random.default_rng(2)
    for contexts in batches(3, 50, table.max_seqs):
        q = int(np.exp(rng.uniform(0, math.log(table.max_tokens - len(contexts)))))
        chunk = (q, q + int(rng.integers(0, 2) * rng.integers(0, 16_000)))
        exact = exact_seconds(times, table, contexts, [chunk], len(contexts) + 1)
        found = step_seconds(table, contexts, [chunk], len(contexts) + 1, 0)
        assert found == pytest.approx(exact, rel=0.01), (len(contexts), chunk)


@pytest.mark.parametrize("kind", ["dense", "windows, experts", "latent, attention ranks"])
def test_both_sides_of_a_tile_are_kept(kind: str) -> None:
    """Where a product gets one more row of tiles, or an expert, its time jumps by up to a fifth."""
    times, table = StepTimes(served(kind)), table_of(kind)
    for edge in (64, 128, 192, 256, 512, 1024, 2048, *times.expert_edges(4096)[:20].astype(int)):
        for tokens in (edge, edge + 1):
            chunk = (int(tokens), int(tokens))
            assert step_seconds(table, [], [chunk], 1, 0) == pytest.approx(
                exact_seconds(times, table, [], [chunk], 1), rel=0.01
            )


@pytest.mark.parametrize("kind", KINDS)
def test_the_closed_form_reads_the_same_table(kind: str) -> None:
    table = table_of(kind)
    for d, context, q, kv in (
        (1, 100, 64, 64),
        (7, 1000, 777, 777),
        (64, 3000, 2000, 9000),
        (200, 50, 17, 4000),
    ):
        assert decode_step_s(table, d, context) == pytest.approx(
            step_seconds(table, [context] * d, [], d, 0), rel=1e-6
        )
        assert mixed_step_s(table, d, context, [(q, kv)]) == pytest.approx(
            step_seconds(table, [context] * d, [(q, kv)], d + 1, 1), rel=1e-6
        )


# More never costs less


STEPS = [
    ([1000], []), ([300] * 32, []), ([20, 4000, 900] * 60, []), ([], [(2048, 2048)]),
    ([800] * 16, [(500, 500), (64, 8000)]),
]  # fmt: skip


def seconds_of(served_by: Service) -> list[float]:
    table = step_table(served_by, LONGEST)
    return [
        step_seconds(table, contexts, chunks, len(contexts) + len(chunks), len(chunks))
        for contexts, chunks in STEPS
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_more_bandwidth_never_slows_a_step(kind: str) -> None:
    before = served(kind)
    memory = before.chip.memory.model_copy(update={"bandwidth": 1.5 * before.chip.memory.bandwidth})
    slow = seconds_of(before)
    fast = seconds_of(before.replace(chip=before.chip.model_copy(update={"memory": memory})))
    assert all(f <= s * (1 + 1e-9) for f, s in zip(fast, slow, strict=True)), (slow, fast)
    assert sum(fast) < sum(slow)


@pytest.mark.parametrize("kind", KINDS)
def test_more_requests_and_longer_ones_never_take_less(kind: str) -> None:
    """Up to what a fitted correction or a better tile gives back."""
    table = table_of(kind)
    for step in (0, 1):
        held = np.maximum.accumulate(table.tokens_s[step, 1:])
        assert (table.tokens_s[step, 1:] >= 0.93 * held).all()
        assert table.tokens_s[step, -1] == pytest.approx(held[-1], rel=0.02)
    by_requests = [decode_step_s(table, d, 1000) for d in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    assert all(b >= 0.97 * a for a, b in itertools.pairwise(by_requests))
    by_context = [decode_step_s(table, 32, c) for c in (16, 64, 256, 1024, 4096, 16384)]
    assert all(b >= 0.99 * a for a, b in itertools.pairwise(by_context))
    by_prompt = [mixed_step_s(table, 0, 0, [(q, q)]) for q in (16, 64, 256, 1024, 4096)]
    assert all(b >= 0.97 * a for a, b in itertools.pairwise(by_prompt))


def test_uneven_batches_take_longer_than_even_ones() -> None:
    table = table_of("dense")
    assert step_seconds(table, [200] * 63 + [19_000], [], 64, 0) > step_seconds(table, [494] * 64, [], 64, 0)


@pytest.mark.parametrize("which", ["latent", "linear", "chunks"])
def test_shared_experts_run_beside_the_routed_ones_in_graphs_of_few_tokens(which: str) -> None:
    """They save at most what they take themselves, nothing beyond the engine's limit, and none without graphs."""
    plain = served(which)
    apart = StepTimes(plain.replace(engine=plain.engine.model_copy(update={"beside_tokens": 0})))
    beside = StepTimes(plain.replace(engine=plain.engine.model_copy(update={"beside_tokens": 64})))
    eager = plain.engine.model_copy(update={"beside_tokens": 64, "graph_batch": 0, "graph_batches": ()})
    rows = np.array([1.0, 8.0, 64.0, 65.0, 512.0])
    parts = [
        (block, tuple(part for part in block.parts if getattr(part, "beside", False)))
        for block in apart.blocks
    ]
    alone = sum(
        block.count
        * StepTimes(plain, (Block(block.name, 1.0, some),)).rows_seconds(rows, "token", prefill=False)
        for block, some in parts
        if some
    )
    slow, fast = (each.rows_seconds(rows, "token", prefill=False) for each in (apart, beside))
    saved = slow - fast
    assert (saved[:3] > 0.2 * alone[:3]).all()
    assert (saved[:3] <= alone[:3] * (1 + 1e-9)).all()
    assert saved[3:] == pytest.approx(0.0, abs=1e-12)
    assert StepTimes(plain.replace(engine=eager)).rows_seconds(rows, "token", prefill=False) == pytest.approx(
        slow
    )


def test_what_is_remembered_of_a_chip_is_not_told_of_another() -> None:
    plain, rows = served("experts"), np.array([1.0, 64.0, 4096.0])
    memory = plain.chip.memory.model_copy(update={"bandwidth": 2.0 * plain.chip.memory.bandwidth})
    wide = plain.replace(chip=plain.chip.model_copy(update={"memory": memory}))
    before = StepTimes(plain).rows_seconds(rows, "token", prefill=False)
    assert (StepTimes(wide).rows_seconds(rows, "token", prefill=False) < 0.99 * before).all()
    assert (StepTimes(plain).rows_seconds(rows, "token", prefill=False) == before).all()
    contexts = np.array([128.0, 8192.0])
    seen = [
        StepTimes(each).decode_seconds(np.full(2, 32.0), contexts, np.inf) for each in (plain, wide, plain)
    ]
    assert (seen[1] < seen[0]).all()
    assert (seen[2] == seen[0]).all()


def test_a_rank_uses_low_latency_kernels_by_its_own_tokens() -> None:
    """Whether 64 tokens are sent by the kernels of decode does not depend on what else is tabulated."""
    plain = served("latent, attention ranks")
    times = StepTimes(plain.replace(engine=plain.engine.model_copy(update={"dispatcher": "deepep"})))
    alone = float(times.message_seconds(one(64), "token")[0])
    assert times.message_seconds(np.array([64.0, 8192.0]), "token")[0] == pytest.approx(alone)


# No load, and a steady one


@pytest.mark.parametrize(
    ("engine", "isl"), [("vllm-2026", 1000), ("vllm-2026", 9000), ("sglang-2026", 700), ("trtllm-2026", 700)]
)
def test_a_lone_request_takes_its_steps(engine: str, isl: int) -> None:
    """Nothing waits at an idle engine, whatever it plans ahead; the front end adds its latency once."""
    table = step_table(service("llama-3.1-8b", "h100-sxm", Layout(), Precision(), engine), LONGEST)
    osl = 40
    outcome = simulate(Requests(np.array([3.0]), np.array([isl]), np.array([osl])), table)
    first, done = 0.0, 0
    while done < isl:
        q = min(table.max_tokens, isl - done)
        done += q
        ends = done == isl
        first += step_seconds(table, [], [(q, done)], int(ends), int(done == q))
    steps = sum(step_seconds(table, [isl + made], [], 1, 0) for made in range(1, osl))
    assert outcome.first_token_s[0] - 3.0 == pytest.approx(first + table.frontend_s, rel=1e-6)
    assert outcome.finish_s[0] - outcome.first_token_s[0] == pytest.approx(steps, rel=1e-6)
    found = closed_loop(table, isl, osl, 1)
    assert found.ttft_s == pytest.approx(outcome.first_token_s[0] - 3.0, rel=0.02)
    assert found.tpot_s == pytest.approx(steps / (osl - 1), rel=0.01)


@pytest.mark.parametrize("engine", ["vllm-2026", "sglang-2026", "trtllm-2026"])
@pytest.mark.parametrize(("model", "layout"), [("llama-3.1-8b", Layout()), ("qwen3-30b-a3b", Layout(tp=2))])
@pytest.mark.parametrize("users", [4, 32])
def test_the_closed_form_is_the_mean_of_the_simulation(
    engine: str, model: str, layout: Layout, users: int
) -> None:
    """Users out of step with each other: the time between tokens within 10 %, the rate within 10 %."""
    table = step_table(service(model, "h100-sxm", layout, Precision(), engine), LONGEST)
    rng, count = np.random.default_rng(4), 12 * users
    requests = Requests(
        np.zeros(count), rng.integers(600, 1400, count), rng.integers(100, 300, count), users=users
    )
    outcome = simulate(requests, table)
    assert (outcome.status == DONE).all()
    middle = slice(3 * users, -2 * users)  # without the start of all at once and the tail
    gaps = (outcome.finish_s - outcome.first_token_s)[middle] / (requests.output_tokens[middle] - 1)
    found = closed_loop(table, 1000, 200, users)
    assert found.tpot_s == pytest.approx(float(gaps.mean()), rel=0.1)
    life = (outcome.finish_s - outcome.sent_s)[middle]
    rate = users * requests.output_tokens[middle].mean() / life.mean()
    assert found.output_tokens_per_s == pytest.approx(rate, rel=0.1)
