# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""The three schedulers over arrays: what a lane runs in its next step. `policy` says the same in plain Python.

chunked (vLLM V1): every decode takes its token of the budget, a prefill under way continues, and waiting requests
enter in order while tokens, requests and blocks allow. Blocks of a whole prompt are taken when it enters. Where a
decode lacks a block the request admitted last goes back to the front of the queue.

prefill_first (SGLang): waiting requests that fit make a step of prefills alone; otherwise a step of decodes. A request
fits where its prompt, all its output and `NEW_TOKEN_RATIO` of what the running ones may still make have room.

whole (TensorRT-LLM, guaranteed no evict): as chunked, but prompts are never cut, and a request enters only where its
prompt and its output have room, so that none is ever preempted.
"""

from __future__ import annotations

import math

from ridgeline.sim.serving.jit import floats, hash_starts, ints, jit, lanes, requests
from ridgeline.sim.serving.kv import admit, available, blocks_of, match, release, take
from ridgeline.sim.serving.queues import (
    append,
    first_running,
    head,
    join_decodes,
    leave_decodes,
    prepend,
    recount,
    unlink,
)
from ridgeline.sim.serving.span import prefill_seconds
from ridgeline.sim.serving.state import (
    DECODE,
    NONE,
    PREFILL,
    PREFILL_FIRST,
    SWAP,
    WAITING,
    WHOLE,
    State,
    Table,
)

#: Share of the tokens that running requests may still make for which SGLang keeps room: its ``new_token_ratio`` starts
#: at 0.7 and decays to 0.14 of that, where it is after 600 decode steps without a retraction.
NEW_TOKEN_RATIO = 0.098


@jit
def plan_lane(state: State, table: Table, which: int, now: float) -> None:
    """Choose what lane ``which`` runs next: chunks of prefills, and whether its decodes run; planned at ``now``."""
    lane = lanes(state)[which]
    lane.chunks = lane.entering = lane.rows = lane.tokens = lane.decodes = lane.taken = lane.closed = 0
    lane.pairs = lane.prefill_s = lane.extra_s = 0.0
    if table.schedule == PREFILL_FIRST:
        _enter(state, table, which, now, table.max_tokens, 0)
        if lane.chunks > 0:
            return
        before = lane.running
        _make_room(state, table, which)
        lane.closed = 1 if lane.running < before else 0  # what that freed is seen at the next boundary
    else:
        before = lane.running
        need = _make_room(state, table, which)
        budget = table.max_tokens - lane.decoding * (1 + table.drafts)
        if lane.running == before:  # as vLLM: none enters in a step that preempted
            _enter(state, table, which, now, budget, need)
        else:
            lane.closed = 1
            if lane.partial != NONE:
                _add_chunk(state, table, which, lane.partial, budget)
    if lane.decoding > 0:
        lane.decodes = 1
        lane.tokens += lane.decoding * (1 + table.drafts)
        lane.taken = decode_need(state, table, which)
        take(state, table, which, lane.taken)


@jit
def decode_need(state: State, table: Table, which: int) -> int:
    """Blocks that the decodes of lane ``which`` take for their next step."""
    if table.drafts:
        recount(state, table, which)
        return lanes(state)[which].need
    return ints(state)[lanes(state)[which].phases_at + lanes(state)[which].counter % table.block_size]


@jit
def _make_room(state: State, table: Table, which: int) -> int:
    """Preempt until the blocks that decodes need are there -> those blocks."""
    need = decode_need(state, table, which)
    while need > available(state, table, which):
        _preempt(state, table, which, _victim(state, table, which))
        need = decode_need(state, table, which)
    return need


@jit
def _victim(state: State, table: Table, which: int) -> int:
    """The running request admitted last of those that matter least."""
    last = ints(state)[lanes(state)[which].queues_at + 2 * table.levels + 1]
    if table.levels > 1:
        i = last
        while i != NONE:
            if requests(state)[i].level > requests(state)[last].level:
                last = i
            i = requests(state)[i].previous
    return last


@jit
def _preempt(state: State, table: Table, which: int, i: int) -> None:
    lane, request = lanes(state)[which], requests(state)[i]
    swap = False
    if request.state == DECODE:
        leave_decodes(state, table, which, i)
        tokens = request.input + request.made - 1
        swap = table.preemption == SWAP
        if swap:
            lane.extra_s += _swap_seconds(state, table, tokens)
    else:
        tokens = request.computed
        lane.partial = NONE
    release(state, table, which, i, tokens)
    request.resumes = 1 if swap else 0
    request.computed, request.target = 0, request.input + request.made
    unlink(state, which, table.levels, i)
    lane.running -= 1
    prepend(state, which, request.level, i)
    lane.waiting += 1
    request.state = WAITING
    request.preemptions += 1


@jit
def _swap_seconds(state: State, table: Table, tokens: int) -> float:
    return (
        tokens * table.kv_bytes / floats(state)[table.tier_bytes_per_s] + floats(state)[table.tier_latency_s]
    )


@jit
def _enter(state: State, table: Table, which: int, now: float, budget: int, need: int) -> None:
    """Continue the prefill under way, then admit waiting requests; ``need`` blocks stay for the decodes."""
    lane = lanes(state)[which]
    if lane.partial != NONE:
        budget = _add_chunk(state, table, which, lane.partial, budget)
    while budget > 0 and lane.running + lane.ghosts < table.max_seqs:
        i = head(state, table, which)
        if i == NONE:
            return
        request = requests(state)[i]
        if request.resumes:
            if budget < 1 + table.drafts:
                return
            tokens = request.input + request.made - 1
            whole = tokens + 1 if table.schedule != WHOLE else request.input + request.output - 1
            next_block = 0
            if table.schedule != WHOLE and table.drafts == 0:
                next_block = 1 if (tokens - _hashed_tokens(state, table, i)) % table.block_size == 0 else 0
                whole = tokens
            if (
                admit(state, table, which, i, whole, _reserve(state, table, which, i, need + next_block))
                == NONE
            ):
                return
            need += next_block
            lane.extra_s += 0.0 if request.preemptions == 0 else _swap_seconds(state, table, tokens)
            request.resumes = 0
            _start(state, table, which, i, now)
            if (
                request.preemptions == 0
            ):  # handed over: the engine that decodes sends the first token as it admits it
                request.first_s = request.last_s = now
            join_decodes(state, table, which, i, request.last_s)
            budget -= 1 + table.drafts
            continue
        tokens = request.target
        if table.schedule == WHOLE:
            if tokens - match(state, table, which, i) * table.block_tokens > budget:
                return
            tokens = request.input + request.output - 1
        hits = admit(state, table, which, i, tokens, _reserve(state, table, which, i, need))
        if hits == NONE:
            return
        request.computed = hits * table.block_tokens
        if request.preemptions == 0:
            request.cached = request.computed
        _start(state, table, which, i, now)
        lane.entering += 1
        request.state = PREFILL
        budget = _add_chunk(state, table, which, i, budget)


@jit
def _hashed_tokens(state: State, table: Table, i: int) -> int:
    if table.block_tokens == 0:
        return 0
    count = hash_starts(state)[i + 1] - hash_starts(state)[i]
    return min(count, requests(state)[i].input // table.block_tokens) * table.block_tokens


@jit
def _start(state: State, table: Table, which: int, i: int, now: float) -> None:
    lane, request = lanes(state)[which], requests(state)[i]
    unlink(state, which, request.level, i)
    append(state, which, table.levels, i)
    lane.waiting -= 1
    lane.running += 1
    if math.isnan(request.scheduled_s):
        request.scheduled_s = now


@jit
def _reserve(state: State, table: Table, which: int, i: int, need: int) -> int:
    """Blocks that must stay free beside those of the newcomer ``i``."""
    lane = lanes(state)[which]
    if table.schedule != PREFILL_FIRST or lane.running == 0:
        return need
    left = 0
    if table.drafts == 0:
        left = lane.ends - lane.decoding * lane.counter
        for c in range(lane.chunks):
            j = ints(state)[lane.chunks_at + 2 * c]
            left += requests(state)[j].output - requests(state)[j].made
    else:
        j = first_running(state, table, which)
        while j != NONE:
            left += requests(state)[j].output - requests(state)[j].made
            j = requests(state)[j].next
    return _room_for(state, table, i, left)


@jit
def _room_for(state: State, table: Table, i: int, left: int) -> int:
    own = requests(state)[i].output - requests(state)[i].made
    return blocks_of(own + int(NEW_TOKEN_RATIO * left), table.block_size)


@jit
def steps_until_room(state: State, table: Table, which: int, most: int) -> int:
    """Decode steps until what is kept for running requests shrinks by a block, so that a waiting one may fit."""
    lane = lanes(state)[which]
    i = head(state, table, which)
    if table.schedule != PREFILL_FIRST or i == NONE or lane.running >= table.max_seqs:
        return most
    left = lane.ends - lane.decoding * lane.counter
    now = _room_for(state, table, i, left)
    for k in range(1, most):
        if _room_for(state, table, i, left - k * lane.decoding) < now:
            return k
    return most


@jit
def _add_chunk(state: State, table: Table, which: int, i: int, budget: int) -> int:
    """Prefill as much of request ``i`` as the budget allows -> what is left of it."""
    lane, request = lanes(state)[which], requests(state)[i]
    left = request.target - request.computed
    q = min(left, budget)
    if q <= 0:
        return budget
    at = lane.chunks_at + 2 * lane.chunks
    ints(state)[at], ints(state)[at + 1] = i, q
    lane.chunks += 1
    lane.tokens += q
    if q == left:
        lane.rows += 1
        lane.partial = NONE
    else:
        lane.partial = i
    seconds, pairs = prefill_seconds(floats(state), table, q, request.computed + q)
    lane.prefill_s += seconds
    lane.pairs += pairs
    return budget - q
