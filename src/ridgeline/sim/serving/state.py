"""State of one engine in arrays: records of requests, lanes (queues with KV of their own) and units (lanes in step).

An engine of one rank and one stage has one lane in one unit. Attention ranks in lockstep are lanes of one unit;
ranks that step on their own, and pipeline stages (each with a micro-batch under way), are units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.table import StepTable

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Records = Any  # NDArray of records: fields by name, `lanes[l].running`

NONE = -1
NEW, WAITING, PREFILL, DECODE, ENDED = range(5)  # state of a request
IDLE, WAKE, SPAN, STEP = range(4)  # what a unit does until its `end_s`
CHUNKED, PREFILL_FIRST, WHOLE = range(3)
SCHEDULES = ("chunked", "prefill_first", "whole")
RECOMPUTE, SWAP = range(2)
HANDED = 5  # outcome of a request whose prefill ended on an engine that only prefills

REQUEST = np.dtype(
    [
        ("sent_s", "f8"),
        ("scheduled_s", "f8"),
        ("first_s", "f8"),
        ("finish_s", "f8"),
        ("last_s", "f8"),  # its latest token, kept exact while it is not among the decoding
        ("key", "i8"),  # context of the next decode step less the lane's counter of decode steps
        ("end", "i8"),  # value of that counter after its last token
        ("input", "i4"),
        ("output", "i4"),
        ("made", "i4"),  # tokens it got; while it decodes without speculation, see `end`
        ("computed", "i4"),  # tokens in KV while it is prefilled
        ("target", "i4"),  # tokens to prefill: the prompt, and what was made before a preemption
        ("next", "i4"),
        ("previous", "i4"),  # neighbours in the queue or among the running
        ("blocks", "i4"),  # KV blocks of its own
        ("hashed", "i4"),  # leading blocks of its prompt that it shares through the prefix cache
        ("cached", "i4"),
        ("preemptions", "i4"),
        ("level", "i4"),  # priority, 0 first
        ("lane", "i4"),
        ("replica", "i4"),
        ("state", "i1"),
        ("resumes", "i1"),  # its KV exists elsewhere and is brought, not computed
        ("leaving", "i1"),  # status it ends with at the next boundary, NONE where it stays
        ("status", "i1"),
    ]
)
LANE = np.dtype(
    [
        ("waiting", "i8"),
        ("running", "i8"),
        ("decoding", "i8"),
        ("counter", "i8"),  # decode steps so far
        ("contexts", "i8"),  # sum over decoding requests, at the next decode step
        ("longest", "i8"),  # largest key among them
        ("ends", "i8"),  # sum of `end` among them
        ("need", "i8"),  # with speculation: blocks that the next decode step takes
        ("free", "i8"),
        ("taken", "i8"),  # blocks already taken for the decodes of the planned step
        ("partial", "i8"),  # the request whose prefill goes on
        ("heap", "i8"),  # size of the heap of ends
        ("chunks", "i8"),  # prefill chunks of the planned step
        ("entering", "i8"),  # of them, requests that were not there before
        ("fresh", "i8"),  # requests that joined the decoding since the last decode step
        ("decodes", "i8"),  # 1 where the planned step runs the decoding
        ("rows", "i8"),  # prefills that end in the planned step
        ("tokens", "i8"),  # tokens of the planned step
        ("pairs", "f8"),
        ("prefill_s", "f8"),
        ("extra_s", "f8"),  # transfers from and to other memories
        ("last_s", "f8"),  # end of the last decode step
        ("unused", "i8"),  # head of the chain of unused entries of the prefix cache
    ]
)
UNIT = np.dtype(
    [
        ("start_s", "f8"),
        ("end_s", "f8"),
        ("steps", "i8"),
        ("kind", "i8"),
        ("leaving", "i8"),
        ("busy_s", "f8"),
        ("made_steps", "i8"),
        ("cut_s", "f8"),  # the arrival that its span was cut for
    ]
)
ENTRY = np.dtype(
    [("hash", "i8"), ("chain", "i4"), ("older", "i4"), ("newer", "i4"), ("ref", "i4"), ("tier", "i4")]
)
ENGINE = np.dtype(
    [
        ("next", "i8"),  # next request to send
        ("turn", "i8"),
        ("ended", "i8"),  # entries of `log`
        ("closed", "i8"),  # requests that are over, in a closed loop
        ("samples", "i8"),
        ("sample_s", "f8"),
        ("energy_j", "f8"),
        ("end_s", "f8"),
        ("bin", "i8"),  # of the latest inter-token latency
        ("deadlines", "i8"),
    ]
)


class Table(NamedTuple):
    """A `StepTable` and the settings of an engine, as compiled code takes them."""

    tokens_s: FloatArray
    rows_s: FloatArray
    windows: FloatArray
    contexts: FloatArray
    decode_s: FloatArray
    longest_s: FloatArray
    prefill_q: FloatArray  # log2
    prefill_kv: FloatArray  # log2
    prefill_s: FloatArray
    tokens_j: FloatArray
    host: FloatArray  # hidden[0], hidden[1], host_s[0..2], prefill_fixed_s, pair_j, context_j
    chances: FloatArray  # of at least so many accepted drafts
    itl_edges: FloatArray
    tier_bytes_per_s: FloatArray  # by tier below HBM
    tier_latency_s: FloatArray
    schedule: int
    lanes_per_unit: int
    max_seqs: int
    max_tokens: int
    num_blocks: int
    block_size: int
    block_tokens: int  # of the prefix cache; 0 = off
    hash_blocks: int  # KV blocks of one of its blocks
    kv_bytes: float  # per token
    preemption: int
    handoff: bool  # prefills only, hands requests over
    has_longest: bool
    max_span: int
    users: int
    think_s: float
    levels: int
    balance: int
    replica: int
    seed: int
    timeout_s: float


class State(NamedTuple):
    """What changes. ``requests`` [n], ``lanes`` [L], ``units`` [U], ``engine`` [1] are records."""

    requests: Records
    lanes: Records
    units: Records
    engine: Records
    queues: IntArray  # [L, levels + 1, 2] head and tail; the last queue is the running ones in order of admission
    ends: IntArray  # [L, max_seqs] heap of (end << 32 | request)
    phases: IntArray  # [L, block_size] decoding requests by the counter (mod block_size) that needs a block
    window_sums: IntArray  # [L, W] sum of min(context, window); finite windows only
    below: IntArray  # [L, W] decoding requests whose context is below the window
    crossings: IntArray  # [L, sum of (window + 1)] how many reach it by counter
    crossing_starts: IntArray  # [W + 1]
    chunks: IntArray  # [L, max_seqs, 2] request and new tokens of the planned step
    fresh: IntArray  # [L, max_seqs]
    buckets: IntArray  # [L, B] prefix cache: first entry of each chain
    entries: Records  # [L, E]
    lru: IntArray  # [L, tiers + 1, 4] oldest, newest, count, capacity
    hashes: IntArray
    hash_starts: IntArray
    itl_counts: IntArray
    batch_steps: IntArray
    samples: IntArray  # [capacity, 3]
    log: IntArray  # requests that ended, newest last (driven engines), or nothing
    deadlines: FloatArray  # [m, 2] heap of time and (request * 2 + kind)
    cancel_s: FloatArray  # [n] or nothing


def new_requests(requests: Requests) -> Records:
    """Records [n] of requests nobody has seen yet."""
    n = len(requests)
    made = np.zeros(n, REQUEST)
    made["sent_s"] = requests.arrival_s
    if requests.users:
        made["sent_s"][requests.users :] = np.inf  # sent when a user has an answer
    made["input"], made["output"] = requests.input_tokens, requests.output_tokens
    made["target"] = requests.input_tokens
    for name in ("scheduled_s", "first_s", "finish_s"):
        made[name] = np.nan
    for name in ("next", "previous", "lane", "replica", "leaving", "status"):
        made[name] = NONE
    if requests.priority is not None:
        made["level"] = np.unique(requests.priority, return_inverse=True)[1]
    return made


def levels_of(requests: Requests) -> int:
    return 1 if requests.priority is None else int(np.unique(requests.priority).size)


def hash_space(requests: Requests, block_size: int) -> tuple[int, int]:
    """Tokens of one hashed block, and the KV blocks it takes; (0, 1) without hashes."""
    if requests.block_hashes is None or requests.block_tokens <= 0:
        return 0, 1
    return requests.block_tokens, -(-requests.block_tokens // block_size)


def lanes_of(table: StepTable) -> tuple[int, int, int, int]:
    """Units, lanes of each, and of each lane the requests that run at a time and its KV blocks.

    A pipeline keeps one micro-batch in each stage; each is a unit with its share of requests and blocks that
    steps on its own (a long prefill of one micro-batch delaying the others is not modelled).
    """
    lockstep = table.lockstep and table.ranks > 1
    per_unit = table.ranks if lockstep else 1
    units = table.stages * (1 if lockstep else table.ranks)
    drafts = 1 + len(table.acceptance)
    max_seqs = min(-(-table.max_seqs // table.stages), max(1, table.max_tokens // drafts))
    return units, per_unit, max_seqs, table.num_blocks // table.stages


def new_state(
    table: StepTable,
    records: Records,
    requests: Requests,
    tiers: tuple[int, ...],
    logs: int,
    cache: bool,
    samples: int,
    sample_s: float,
) -> State:
    """An empty engine over shared ``records``; ``tiers`` are blocks of hashes that lower tiers hold."""
    units, per_unit, seqs, blocks = lanes_of(table)
    count = units * per_unit
    levels = levels_of(requests)
    lanes = np.zeros(count, LANE)
    lanes["free"], lanes["partial"], lanes["longest"] = blocks, NONE, np.iinfo(np.int64).min // 2
    unit = np.zeros(units, UNIT)
    unit["end_s"] = np.inf
    engine = np.zeros(1, ENGINE)
    engine["sample_s"] = sample_s
    finite = np.isfinite(table.windows)
    sizes = np.where(finite, np.where(finite, table.windows, 0) + 1, 1).astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    hashes, hash_starts = np.zeros(0, np.int64), np.zeros(1, np.int64)
    num_entries, buckets = 0, 1
    tokens, per_hash = hash_space(requests, table.block_size)
    lru = np.full((count, len(tiers) + 1, 4), NONE, np.int64)
    lru[:, :, 2] = 0
    if cache and tokens and requests.block_hashes is not None and requests.block_starts is not None:
        hashes = np.ascontiguousarray(requests.block_hashes, np.int64)
        hash_starts = np.ascontiguousarray(requests.block_starts, np.int64)
        sizes_of = [min(blocks // per_hash, hashes.size), *(min(size, hashes.size) for size in tiers)]
        lru[:, :, 3] = sizes_of
        num_entries = sum(sizes_of) + 1
        buckets = 1 << int(2 * num_entries - 1).bit_length()
    entries = np.zeros((count, num_entries), ENTRY)
    entries["chain"] = np.arange(1, num_entries + 1)  # the chain of unused ones
    if num_entries:
        entries["chain"][:, -1] = NONE
    else:
        lanes["unused"] = NONE
    deadlines = (requests.timeout_s is not None) + (requests.cancel_s is not None)
    return State(
        requests=records,
        lanes=lanes,
        units=unit,
        engine=engine,
        queues=np.full((count, levels + 1, 2), NONE, np.int64),
        ends=np.zeros((count, seqs), np.int64),
        phases=np.zeros((count, table.block_size), np.int64),
        window_sums=np.zeros((count, table.windows.size), np.int64),
        below=np.zeros((count, table.windows.size), np.int64),
        crossings=np.zeros((count, int(starts[-1])), np.int64),
        crossing_starts=starts,
        chunks=np.zeros((count, seqs, 2), np.int64),
        fresh=np.zeros((count, seqs), np.int64),
        buckets=np.full((count, buckets), NONE, np.int64),
        entries=entries,
        lru=lru,
        hashes=hashes,
        hash_starts=hash_starts,
        itl_counts=np.zeros(1853, np.int64),
        batch_steps=np.zeros(per_unit * seqs + 1, np.int64),
        samples=np.zeros((samples, 3), np.int64),
        log=np.zeros(logs, np.int64),
        deadlines=np.zeros((deadlines * len(requests), 2)),
        cancel_s=np.zeros(0) if requests.cancel_s is None else np.asarray(requests.cancel_s, np.float64),
    )
