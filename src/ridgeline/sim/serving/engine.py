"""An engine in arrays: settings, and an empty state over the records of requests."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.outcome import ITL_EDGES_S
from ridgeline.sim.serving.state import (
    ENGINE,
    ENTRY,
    LANE,
    NONE,
    RECOMPUTE,
    SCHEDULES,
    STATE,
    SWAP,
    TABLE,
    UNIT,
    Records,
    State,
    Table,
    hash_space,
    lanes_of,
    levels_of,
)
from ridgeline.sim.serving.table import StepTable

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
    balance: Literal["least", "round_robin"] = (
        "least"  # between attention ranks; least = 4 waiting + running (vLLM)
    )
    max_span: int = ANY_SPAN  # decode steps taken at once; 1 = one by one, for tests


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A running engine: what compiled code takes, and the table it came from."""

    state: State
    table: Table
    source: StepTable
    arrays: dict[str, Any]  # of the state, by name


class _Arena:
    """Arrays one after the other in one."""

    def __init__(self) -> None:
        self.parts: list[NDArray[Any]] = []
        self.size = 0

    def add(self, values: NDArray[Any]) -> int:
        """Where ``values`` begin."""
        first = self.size
        self.parts.append(np.ascontiguousarray(values).ravel())
        self.size += values.size
        return first

    def array(self, dtype: type) -> NDArray[Any]:
        return np.concatenate([*self.parts, np.zeros(1)]).astype(dtype)


def new_engine(
    requests: Requests,
    records: Records,
    source: StepTable,
    settings: Settings,
    *,
    seed: int = 0,
    samples: int,
    sample_s: float,
    replica: int = 0,
    driven: bool = False,
    handoff: bool = False,
) -> Engine:
    """An empty engine over shared ``records``; a ``driven`` one is told of each arrival, deadline and its end.

    Raises ValueError for an unknown schedule, and where swapping or tiers lack what they need.
    """
    _check(source, settings)
    units, per_unit, seqs, blocks = lanes_of(source)
    tokens, per_hash = hash_space(requests, source.block_size)
    hashed = settings.prefix_cache and tokens > 0
    table = np.zeros(1, TABLE)
    floats, ints = _Arena(), _Arena()
    _add_times(table, floats, source, settings)
    values: dict[str, Any] = {
        "schedule": SCHEDULES.index(source.schedule),
        "lanes_per_unit": per_unit,
        "max_seqs": seqs,
        "max_tokens": source.max_tokens,
        "num_blocks": blocks,
        "block_size": source.block_size,
        "lag": source.lag,
        "block_tokens": tokens if hashed else 0,
        "hash_blocks": per_hash,
        "kv_bytes": source.kv_bytes_per_token,
        "preemption": SWAP if settings.preemption == "swap" else RECOMPUTE,
        "handoff": handoff,
        "max_span": settings.max_span,
        "users": 0 if driven else requests.users,
        "warmup": requests.warmup,
        "think_s": requests.think_s,
        "levels": levels_of(requests),
        "balance": 0 if settings.balance == "least" else 1,
        "replica": replica,
        "seed": seed,
        "timeout_s": math.inf if requests.timeout_s is None else requests.timeout_s,
        "num_samples": samples,
        "num_log": len(requests) if driven else 0,
    }
    kinds = 0 if driven else (requests.timeout_s is not None) + (requests.cancel_s is not None)
    values["num_deadlines"] = kinds * len(requests)
    values["deadlines"] = floats.add(np.zeros(2 * kinds * len(requests)))
    if requests.cancel_s is not None and not driven:
        values["has_cancel"], values["cancel_s"] = 1, floats.add(requests.cancel_s)
    values["gaps"] = ints.add(np.zeros(ITL_EDGES_S.size + 1))
    values["batches"] = ints.add(np.zeros(per_unit * seqs + 1))
    values["samples"] = ints.add(np.zeros(3 * samples))
    values["log"] = ints.add(np.zeros(values["num_log"]))
    sizes = _tier_blocks(requests, source, settings, hashed)
    num_entries = sum(sizes) + 1 if hashed else 0
    values["buckets"] = 1 << int(2 * num_entries + 1).bit_length()
    for name, value in values.items():
        table[name] = value
    lanes = _lanes(ints, units * per_unit, table[0], source, sizes, num_entries)
    entries = np.zeros((units * per_unit, num_entries), ENTRY)
    if num_entries:
        entries["chain"] = np.arange(1, num_entries + 1)  # the chain of unused ones
        entries["chain"][:, -1] = NONE
    unit = np.zeros(units, UNIT)
    unit["end_s"] = np.inf
    engine = np.zeros(1, ENGINE)
    engine["sample_s"] = sample_s
    no_hashes = requests.block_hashes is None or requests.block_starts is None or not hashed
    arrays = {
        "requests": records,
        "lanes": lanes,
        "units": unit,
        "engine": engine,
        "entries": entries.ravel(),
        "ints": ints.array(np.int64),
        "floats": floats.array(np.float64),
        "hashes": np.zeros(1, np.int64)
        if no_hashes
        else np.ascontiguousarray(requests.block_hashes, np.int64),
        "hash_starts": np.zeros(1, np.int64)
        if no_hashes
        else np.ascontiguousarray(requests.block_starts, np.int64),
    }
    state = np.zeros(1, STATE)
    for name, array in arrays.items():
        state[name] = array.ctypes.data
    state["num_requests"], state["num_lanes"], state["num_units"] = len(records), len(lanes), len(unit)
    return Engine(state[0], table[0], source, arrays)


def _check(source: StepTable, settings: Settings) -> None:
    if source.schedule not in SCHEDULES:
        raise ValueError(f"schedule: {source.schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    if source.lag not in (0, 1):
        raise ValueError(f"lag: {source.lag} steps planned ahead, expected 0 or 1")
    if settings.preemption not in ("recompute", "swap"):
        raise ValueError(f"preemption: {settings.preemption!r} is unknown, choose one of recompute, swap")
    if settings.preemption == "swap" and not settings.tiers:
        raise ValueError("preemption: swap needs a tier to swap to, give tiers=(Tier(name='host', ...),)")
    if settings.tiers and source.kv_bytes_per_token <= 0.0:
        raise ValueError("kv_bytes_per_token: is 0, but tiers move KV cache")


def _by_window(source: StepTable, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """``values`` of each window; none are zeros."""
    return values if values.size else np.zeros(source.windows.size)


def _add_times(table: Records, floats: _Arena, source: StepTable, settings: Settings) -> None:
    """Step times, and where they begin."""
    arrays = {
        "tokens_s": source.tokens_s,
        "group_s": source.group_s,
        "rows_s": source.rows_s,
        "windows": source.windows,
        "contexts": source.contexts,
        "decode_s": source.decode_s,
        "longest_s": source.longest_s,
        "mixed_s": source.mixed_s,
        "core_s": _by_window(source, source.core_s),
        "core_items": _by_window(source, source.core_items),
        "prefill_q": np.log2(source.prefill_q),
        "prefill_kv": np.log2(source.prefill_kv),
        "prefill_s": source.prefill_s,
        "tokens_j": source.tokens_j,
        "chances": np.cumprod(np.array(source.acceptance, np.float64)),
        "edges": ITL_EDGES_S,
        "tier_bytes_per_s": np.array([tier.bytes_per_s for tier in settings.tiers], np.float64),
        "tier_latency_s": np.array([tier.latency_s for tier in settings.tiers], np.float64),
    }
    for name, values in arrays.items():
        table[name] = floats.add(values)
    table["group"], table["pad_tokens"] = source.group_s.shape[1], source.pad_tokens
    table["tokens"], table["rows"] = source.tokens_s.shape[1], source.rows_s.size
    table["decode_rows"] = source.decode_s.shape[1]
    table["num_windows"], table["num_contexts"] = source.windows.size, source.contexts.size
    table["num_q"], table["num_kv"] = source.prefill_s.shape
    table["drafts"], table["tiers"] = len(source.acceptance), len(settings.tiers)
    table["has_mixed"], table["unsplit"] = source.mixed_s.size > 0, source.unsplit
    table["has_longest"] = np.any(source.longest_s) or np.any(source.core_s)
    table["hidden_s"], table["hidden_seq_s"] = source.host_hidden_s
    table["host_s"], table["host_row_s"], table["host_new_s"] = source.host_s
    table["fixed_s"], table["launch_s"] = source.prefill_fixed_s, source.host_launch_s
    table["pair_j"], table["context_j"] = source.pair_j, source.context_j


def _tier_blocks(requests: Requests, source: StepTable, settings: Settings, hashed: bool) -> list[int]:
    """Hashed blocks that a lane's HBM and each tier hold, as far as there are so many."""
    if not hashed or requests.block_hashes is None:
        return [0] * (1 + len(settings.tiers))
    tokens, per_hash = hash_space(requests, source.block_size)
    most = requests.block_hashes.size
    size = tokens * source.kv_bytes_per_token
    return [
        min(lanes_of(source)[3] // per_hash, most),
        *(int(min(tier.bytes / size, most)) for tier in settings.tiers),
    ]


def _lanes(
    ints: _Arena, count: int, table: Table, source: StepTable, sizes: list[int], num_entries: int
) -> Records:
    lanes = np.zeros(count, LANE)
    lanes["free"], lanes["partial"] = table["num_blocks"], NONE
    lanes["longest"] = np.iinfo(np.int64).min // 2
    lanes["unused"] = 0 if num_entries else NONE
    rings = int(sum(window + 1 for window in source.windows if np.isfinite(window)))
    for which, lane in enumerate(lanes):
        lane["queues_at"] = ints.add(np.full(2 * (int(table["levels"]) + 1), NONE))
        lane["ends_at"] = ints.add(np.zeros(table["max_seqs"]))
        lane["phases_at"] = ints.add(np.zeros(table["block_size"]))
        lane["sums_at"] = ints.add(np.zeros(table["num_windows"]))
        lane["below_at"] = ints.add(np.zeros(table["num_windows"]))
        lane["crossings_at"] = ints.add(np.zeros(rings))
        lane["chunks_at"] = ints.add(np.zeros(2 * int(table["max_seqs"])))
        lane["fresh_at"] = ints.add(np.zeros(table["max_seqs"]))
        lane["ghosts_at"] = ints.add(np.zeros(table["max_seqs"]))
        lane["buckets_at"] = ints.add(np.full(table["buckets"], NONE))
        lane["lru_at"] = ints.add(np.array([[NONE, NONE, 0, size] for size in sizes]))
        lane["entries_at"] = which * num_entries
    return lanes
