"""State of one engine in arrays: records of requests, lanes (queues with KV of their own) and units (lanes in step).

An engine of one rank and one stage has one lane in one unit. Attention ranks in lockstep are lanes of one unit;
ranks that step on their own, and pipeline stages (each with a micro-batch under way), are units.
"""

from __future__ import annotations

from typing import Any

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
ITL_EDGES = 1852

REQUEST = np.dtype(
    [
        ("sent_s", "f8"),
        ("scheduled_s", "f8"),
        ("first_s", "f8"),
        ("finish_s", "f8"),
        ("came_s", "f8"),  # when it reached a busy engine that plans ahead; -inf where any plan sees it
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
        ("ghosts", "i8"),  # requests that are over, but hold slot and blocks in the next plan
        ("sees_s", "f8"),  # the plan knows requests that came before
        ("entering", "i8"),  # of them, requests that were not there before
        ("fresh", "i8"),  # requests that joined the decoding since the last decode step
        ("decodes", "i8"),  # 1 where the planned step runs the decoding
        ("closed", "i8"),  # 1 where none may enter the planned step because it preempted
        ("rows", "i8"),  # prefills that end in the planned step
        ("tokens", "i8"),  # tokens of the planned step
        ("pairs", "f8"),
        ("prefill_s", "f8"),
        ("extra_s", "f8"),  # transfers from and to other memories
        ("last_s", "f8"),  # end of the last decode step
        ("unused", "i8"),  # head of the chain of unused entries of the prefix cache
        # where its arrays begin in `State.ints`, and its entries in `State.entries`:
        (
            "queues_at",
            "i8",
        ),  # [levels + 1, 2] head and tail; the last queue: those that run, in order of admission
        ("ends_at", "i8"),  # [max_seqs] heap of (end << 32 | request)
        (
            "phases_at",
            "i8",
        ),  # [block_size] decoding requests by the counter (mod block_size) that needs a block
        ("sums_at", "i8"),  # [W] sum of min(context, window)
        ("below_at", "i8"),  # [W] decoding requests whose context is below the window
        ("crossings_at", "i8"),  # [W][window + 1] how many reach it, by counter
        ("chunks_at", "i8"),  # [max_seqs, 2] request and new tokens of the planned step
        ("fresh_at", "i8"),  # [max_seqs]
        ("ghosts_at", "i8"),  # [max_seqs]
        ("buckets_at", "i8"),  # [buckets] prefix cache: first entry of each chain
        ("lru_at", "i8"),  # [tiers + 1, 4] oldest, newest, count, capacity
        ("entries_at", "i8"),
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
        ("planned_s", "f8"),  # when its next step is planned: with `lag`, as the one before begins
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


#: Settings of an engine and where its arrays begin in `State.floats` and `State.ints`; a record, since compiled code
#: passes one pointer for it.
TABLE = np.dtype(
    [
        *(
            (name, "f8")
            for name in (
                "hidden_s",
                "hidden_seq_s",
                "launch_s",
                "host_s",
                "host_row_s",
                "host_new_s",
                "fixed_s",
            )
        ),
        ("unsplit", "f8"),
        *((name, "f8") for name in ("pair_j", "context_j", "kv_bytes", "think_s", "timeout_s")),
        # floats
        ("tokens_s", "i8"),  # [2, tokens]
        ("group_s", "i8"),  # [2, group]
        ("group", "i8"),  # tokens that the table of a group knows, 0 for one rank
        ("rows_s", "i8"),  # [rows]
        ("windows", "i8"),  # [num_windows]
        ("contexts", "i8"),  # [num_contexts]
        ("decode_s", "i8"),  # [num_windows, max_seqs + 1, num_contexts]
        ("longest_s", "i8"),  # [num_windows, num_contexts]
        ("mixed_s", "i8"),  # as decode_s, beside prefills; [0] where it is the same
        ("core_s", "i8"),  # [num_windows]
        ("core_items", "i8"),  # [num_windows]
        ("prefill_q", "i8"),  # [num_q] log2
        ("prefill_kv", "i8"),  # [num_kv] log2
        ("prefill_s", "i8"),  # [num_q, num_kv]
        ("tokens_j", "i8"),  # [tokens]
        ("chances", "i8"),  # [drafts] of at least so many accepted drafts
        ("edges", "i8"),  # [ITL_EDGES] of inter-token latencies
        ("tier_bytes_per_s", "i8"),  # [tiers]
        ("tier_latency_s", "i8"),  # [tiers]
        ("cancel_s", "i8"),  # [n]
        ("deadlines", "i8"),  # [num_deadlines, 2] heap of time and (request * 2 + kind)
        # ints
        ("gaps", "i8"),  # [ITL_EDGES + 1] inter-token latencies
        ("batches", "i8"),  # [lanes_per_unit * max_seqs + 1] steps by decoding requests
        ("samples", "i8"),  # [num_samples, 3]
        ("log", "i8"),  # [num_log] requests that ended, of driven engines
        # sizes
        *(
            (name, "i8")
            for name in ("tokens", "rows", "decode_rows", "num_windows", "num_contexts", "num_q", "num_kv")
        ),
        *(
            (name, "i8")
            for name in ("drafts", "tiers", "has_cancel", "num_deadlines", "num_samples", "num_log")
        ),
        ("buckets", "i8"),
        # settings
        *((name, "i8") for name in ("schedule", "lanes_per_unit", "max_seqs", "max_tokens", "num_blocks")),
        ("block_size", "i8"),
        ("lag", "i8"),  # steps planned ahead
        ("pad_tokens", "i8"),  # steps with no more tokens on any rank are padded to the fullest
        ("block_tokens", "i8"),  # of the prefix cache; 0 = off
        ("hash_blocks", "i8"),  # KV blocks of one of its blocks
        *(
            (name, "i8")
            for name in ("preemption", "handoff", "has_longest", "has_mixed", "max_span", "users", "warmup")
        ),
        *((name, "i8") for name in ("levels", "balance", "replica", "seed")),
    ]
)
Table = Any  # a record of TABLE


#: What changes: addresses of arrays, which `Engine` keeps.
STATE = np.dtype(
    [
        ("requests", "i8"),  # [n]
        ("lanes", "i8"),  # [L]
        ("units", "i8"),  # [U]
        ("engine", "i8"),  # [1]
        ("entries", "i8"),  # [L, entries of the prefix cache]
        ("ints", "i8"),
        ("floats", "i8"),
        ("hashes", "i8"),
        ("hash_starts", "i8"),
        ("num_requests", "i8"),
        ("num_lanes", "i8"),
        ("num_units", "i8"),
    ]
)
State = Any  # a record of STATE


def new_requests(requests: Requests) -> Records:
    """Records [n] of requests nobody has seen yet."""
    n = len(requests)
    made = np.zeros(n, REQUEST)
    made["sent_s"] = requests.arrival_s
    if requests.users:
        first = min(requests.users, requests.warmup or requests.users)
        made["sent_s"][first:] = np.inf  # sent when a user has an answer, or when the warm-up is over
    made["input"], made["output"] = requests.input_tokens, requests.output_tokens
    made["target"] = requests.input_tokens
    for name in ("scheduled_s", "first_s", "finish_s"):
        made[name] = np.nan
    for name in ("next", "previous", "lane", "replica", "leaving", "status"):
        made[name] = NONE
    if requests.priority is not None:
        made["level"] = np.unique(requests.priority, return_inverse=True)[1]
    return made


def sent_after(closed: int, users: int, warmup: int, n: int) -> tuple[int, int]:
    """Closed loop: the requests [first, last) that are sent when one more than ``closed`` are over.

    Each end sends the next; the first ``warmup`` are a run of their own, whose last end sends one for each user.
    """
    if closed + 1 == warmup:
        return warmup, min(warmup + users, n)
    following = users + closed
    return following, min(following + 1, warmup if closed < warmup else n)


def levels_of(requests: Requests) -> int:
    """Levels of priority among the requests; 1 without any."""
    return 1 if requests.priority is None else int(np.unique(requests.priority).size)


def hash_space(requests: Requests, block_size: int) -> tuple[int, int]:
    """Tokens of one hashed block, and the KV blocks it takes; (0, 1) without hashes."""
    if requests.block_hashes is None or requests.block_tokens <= 0:
        return 0, 1
    return requests.block_tokens, -(-requests.block_tokens // block_size)


def lanes_of(table: StepTable) -> tuple[int, int, int, int]:
    """Units, lanes of each, and of each lane the requests that run at a time and its KV blocks.

    A pipeline keeps one micro-batch in each stage; each is a unit with its limit of requests and its share of blocks
    that steps on its own (a long prefill of one micro-batch delaying the others is not modelled).
    """
    lockstep = table.lockstep and table.ranks > 1
    per_unit = table.ranks if lockstep else 1
    units = table.stages * (1 if lockstep else table.ranks)
    drafts = 1 + len(table.acceptance)
    max_seqs = min(table.max_seqs, max(1, table.max_tokens // drafts))
    return units, per_unit, max_seqs, table.num_blocks // table.stages
