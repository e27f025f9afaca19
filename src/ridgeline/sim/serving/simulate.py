"""`simulate`: requests through one engine, every iteration of it, as a value.

    requests = Requests(arrival_s=..., input_tokens=..., output_tokens=...)
    outcome = simulate(requests, table)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.outcome import ITL_EDGES_S, REFUSED, Outcome
from ridgeline.sim.serving.state import (
    RECOMPUTE,
    SCHEDULES,
    SWAP,
    Records,
    State,
    Table,
    hash_space,
    lanes_of,
    levels_of,
    new_requests,
    new_state,
)
from ridgeline.sim.serving.table import StepTable

SAMPLES = 2048
FIRST_SAMPLE_S = 1e-3
ANY_SPAN = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """A memory below HBM that keeps dropped prefixes, or swapped requests: host, CXL, SSD."""

    name: str
    bytes: float  # of one attention rank
    bytes_per_s: float
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator sets on the scheduler of an engine beside the limits in its table."""

    prefix_cache: bool = True  # without hashes in the requests nothing is found
    preemption: Literal["recompute", "swap"] = "recompute"  # swap goes to the first tier
    tiers: tuple[Tier, ...] = ()  # nearest first
    balance: Literal["least", "round_robin"] = "least"  # between attention ranks; least = 4 waiting + running (vLLM)
    max_span: int = ANY_SPAN  # decode steps taken at once; 1 = one by one, for tests


def simulate(
    requests: Requests,
    table: StepTable,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    sample_s: float | None = None,
    chunk_s: float = math.inf,
) -> Outcome:
    """Run ``requests`` through one engine until the last one is over.

    Latency is counted from `Requests.arrival_s`; a request that arrives within a step is seen at its end. The same
    arguments give the same outcome to the last bit; ``seed`` decides which draft tokens hold. ``sample_s`` is the
    interval of the time series, by default such that there are between 1,024 and 2,048; ``chunk_s`` returns to
    Python that often (so that a user can interrupt), without effect on the outcome.

    Raises ValueError for requests or settings that make no sense.
    """
    from ridgeline.sim.serving import loop

    settings = settings or Settings()
    check_requests(requests)
    records = new_requests(requests)
    cache = settings.prefix_cache
    capacity, first_s = (SAMPLES, FIRST_SAMPLE_S) if sample_s is None else (1 << 20, sample_s)
    compiled = compile_table(requests, table, settings, seed=seed)
    state = new_state(
        table, records, requests, tier_blocks(requests, table, settings), 0, cache, capacity, first_s
    )
    until = chunk_s
    while True:
        loop.run(state, compiled, until)
        if until == math.inf or not np.isfinite(next_event_s(state)):
            break
        until += chunk_s
    return outcome_of(requests, records, [(state, table)])


def next_event_s(state: State) -> float:
    """When something happens next on an engine that `loop.run` drives."""
    following = int(state.engine["next"][0])
    arrival = state.requests["sent_s"][following] if following < state.requests.size else math.inf
    return float(min(arrival, state.units["end_s"].min()))


def check_requests(requests: Requests) -> None:
    """Raises ValueError naming the field."""
    n = len(requests)
    for name in ("input_tokens", "output_tokens"):
        values = getattr(requests, name)
        if values.shape != (n,):
            raise ValueError(f"requests.{name}: has shape {values.shape}, expected ({n},) as arrival_s")
        if n and int(values.min()) < 1:
            raise ValueError(f"requests.{name}: {int(values.min())} is below 1")
        if n and int(values.max()) > 1 << 30:
            raise ValueError(f"requests.{name}: {int(values.max())} is above {1 << 30}")
    if n and (not np.isfinite(requests.arrival_s).all() or requests.arrival_s[0] < 0.0):
        raise ValueError("requests.arrival_s: expected finite seconds, at least 0")
    if (np.diff(requests.arrival_s) < 0.0).any():
        raise ValueError("requests.arrival_s: is not ascending")
    if requests.users and requests.arrival_s.any():
        raise ValueError("requests.arrival_s: is not all zero, but users sends requests in a closed loop")
    starts = requests.block_starts
    if requests.block_hashes is not None and (starts is None or starts.shape != (n + 1,)):
        raise ValueError(f"requests.block_starts: expected {n + 1} entries beside block_hashes")


def compile_table(
    requests: Requests,
    table: StepTable,
    settings: Settings,
    *,
    seed: int,
    handoff: bool = False,
    replica: int = 0,
    driven: bool = False,
) -> Table:
    """A table and settings as compiled code takes them; ``driven`` engines are told of each arrival.

    Raises ValueError for an unknown schedule, and where swapping or tiers lack what they need.
    """
    if table.schedule not in SCHEDULES:
        raise ValueError(f"schedule: {table.schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    swap = settings.preemption == "swap"
    if swap and not settings.tiers:
        raise ValueError("preemption: swap needs a tier to swap to, give tiers=(Tier(name='host', ...),)")
    if settings.tiers and table.kv_bytes_per_token <= 0.0:
        raise ValueError("kv_bytes_per_token: is 0, but tiers move KV cache")
    _, per_unit, seqs, blocks = lanes_of(table)
    tokens, per_hash = hash_space(requests, table.block_size)
    hashed = settings.prefix_cache and tokens > 0
    arrays = {
        name: np.ascontiguousarray(getattr(table, name), np.float64)
        for name in ("tokens_s", "rows_s", "windows", "contexts", "decode_s", "longest_s", "prefill_s", "tokens_j")
    }
    host = [*table.host_hidden_s, *table.host_s, table.prefill_fixed_s, table.pair_j, table.context_j]
    return Table(
        **arrays,
        prefill_q=np.log2(table.prefill_q),
        prefill_kv=np.log2(table.prefill_kv),
        host=np.array(host, np.float64),
        chances=np.cumprod(np.array(table.acceptance, np.float64)),
        itl_edges=ITL_EDGES_S,
        tier_bytes_per_s=np.array([tier.bytes_per_s for tier in settings.tiers], np.float64),
        tier_latency_s=np.array([tier.latency_s for tier in settings.tiers], np.float64),
        schedule=SCHEDULES.index(table.schedule),
        lanes_per_unit=per_unit,
        max_seqs=seqs,
        max_tokens=table.max_tokens,
        num_blocks=blocks,
        block_size=table.block_size,
        block_tokens=tokens if hashed else 0,
        hash_blocks=per_hash,
        kv_bytes=table.kv_bytes_per_token,
        preemption=SWAP if swap else RECOMPUTE,
        handoff=handoff,
        has_longest=bool(np.any(table.longest_s)),
        max_span=settings.max_span,
        users=0 if driven else requests.users,
        think_s=requests.think_s,
        levels=levels_of(requests),
        balance=0 if settings.balance == "least" else 1,
        replica=replica,
        seed=seed,
        timeout_s=math.inf if requests.timeout_s is None else requests.timeout_s,
    )


def tier_blocks(requests: Requests, table: StepTable, settings: Settings) -> tuple[int, ...]:
    """Hashed blocks that each tier holds for one lane."""
    tokens, _ = hash_space(requests, table.block_size)
    size = tokens * table.kv_bytes_per_token
    return tuple(int(min(tier.bytes / size, 1e15)) if size > 0.0 else 0 for tier in settings.tiers)


def outcome_of(requests: Requests, records: Records, engines: list[tuple[State, StepTable]]) -> Outcome:
    """What became of all requests, and the engines' states over time added up."""
    status = records["status"].astype(np.int64)
    times, series = merged_samples([state for state, _ in engines])
    states = [state for state, _ in engines]
    end_s = max(float(state.engine["end_s"][0]) for state in states)
    largest = max(state.batch_steps.size for state in states)
    batch = sum(np.pad(state.batch_steps, (0, largest - state.batch_steps.size)) for state in states)
    energy = sum(float(state.engine["energy_j"][0]) + table.static_w * end_s for state, table in engines)
    made = records["made"].astype(np.int64)
    made[status == REFUSED] = 0
    everyone = np.ones(len(requests), dtype=np.bool_)
    return Outcome(
        sent_s=records["sent_s"],
        scheduled_s=records["scheduled_s"],
        first_token_s=records["first_s"],
        finish_s=records["finish_s"],
        made_tokens=made,
        cached_tokens=records["cached"].astype(np.int64),
        preemptions=records["preemptions"].astype(np.int64),
        replica=records["replica"].astype(np.int64),
        status=status,
        measured=everyone if requests.measured is None else requests.measured,
        itl_counts=np.sum([state.itl_counts for state in states], axis=0),
        times_s=times,
        running=series[:, 0],
        waiting=series[:, 1],
        kv_blocks=series[:, 2],
        batch_steps=np.asarray(batch),
        steps=int(sum(int(state.units["made_steps"].sum()) for state in states)),
        busy_s=sum(float(state.units["busy_s"].mean()) for state in states),
        blocks=sum(lanes_of(table)[3] * state.lanes.size for state, table in engines),
        end_s=end_s,
        energy_j=float(energy),
        chips=sum(table.chips for _, table in engines),
    )


def merged_samples(states: list[State]) -> tuple[np.ndarray, np.ndarray]:
    """Times [t] and the sums of running, waiting and blocks [t, 3]; intervals differ by powers of two."""
    interval = max(float(state.engine["sample_s"][0]) for state in states)
    kept = []
    for state in states:
        stride = round(interval / float(state.engine["sample_s"][0]))
        kept.append(state.samples[: int(state.engine["samples"][0])][::stride])
    series = np.zeros((max(map(len, kept)), 3), np.int64)
    for samples in kept:
        series[: len(samples)] += samples
    return interval * np.arange(len(series)), series
