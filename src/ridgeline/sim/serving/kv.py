"""KV cache of a lane: blocks, and the prefix cache: hashed blocks with references, least recently used go first.

Blocks of the prefix cache are units of ``block_tokens`` (each ``hash_blocks`` KV blocks). A hash chain covers all
tokens before it, so equal hashes are equal prefixes. One that nobody uses stays until its blocks are needed; then it
moves to the next lower tier, or is forgotten.
"""

from __future__ import annotations

from ridgeline.sim.serving.jit import jit
from ridgeline.sim.serving.state import NONE, State, Table

OLDEST, NEWEST, COUNT, CAPACITY = range(4)


@jit
def blocks_of(tokens: int, block_size: int) -> int:
    return (max(tokens, 0) + block_size - 1) // block_size


@jit
def available(state: State, table: Table, l: int) -> int:
    """Blocks that are free or would be if unused prefixes were dropped."""
    return state.lanes[l].free + state.lru[l, 0, COUNT] * table.hash_blocks


@jit
def take(state: State, table: Table, l: int, blocks: int) -> None:
    """Take ``blocks`` that are `available`, dropping the oldest unused prefixes."""
    lane = state.lanes[l]
    while lane.free < blocks:
        _demote(state, l, state.lru[l, 0, OLDEST], 0)
        lane.free += table.hash_blocks
    lane.free -= blocks


@jit
def find(state: State, l: int, hash: int) -> int:
    """Entry of a hash, or NONE."""
    e = state.buckets[l, _bucket(state, hash)]
    while e != NONE and state.entries[l, e].hash != hash:
        e = state.entries[l, e].chain
    return e


@jit
def _bucket(state: State, hash: int) -> int:
    mixed = hash * 0x1E3779B97F4A7C15
    return (mixed ^ (mixed >> 29)) & (state.buckets.shape[1] - 1)


@jit
def _push(state: State, l: int, e: int, tier: int) -> None:
    """Entry ``e`` becomes the most recently used of a tier."""
    entry, lru = state.entries[l, e], state.lru[l, tier]
    entry.tier = tier
    entry.older, entry.newer = lru[NEWEST], NONE
    if lru[NEWEST] != NONE:
        state.entries[l, lru[NEWEST]].newer = e
    else:
        lru[OLDEST] = e
    lru[NEWEST] = e
    lru[COUNT] += 1


@jit
def _unlink(state: State, l: int, e: int) -> None:
    entry = state.entries[l, e]
    lru = state.lru[l, entry.tier]
    if entry.older != NONE:
        state.entries[l, entry.older].newer = entry.newer
    else:
        lru[OLDEST] = entry.newer
    if entry.newer != NONE:
        state.entries[l, entry.newer].older = entry.older
    else:
        lru[NEWEST] = entry.older
    lru[COUNT] -= 1


@jit
def _demote(state: State, l: int, e: int, tier: int) -> None:
    """Move an unused entry one tier down; full tiers pass their oldest on, the last forgets it."""
    while True:
        _unlink(state, l, e)
        tier += 1
        while tier < state.lru.shape[1] and state.lru[l, tier, CAPACITY] <= 0:
            tier += 1
        if tier >= state.lru.shape[1]:
            _forget(state, l, e)
            return
        _push(state, l, e, tier)
        if state.lru[l, tier, COUNT] <= state.lru[l, tier, CAPACITY]:
            return
        e = state.lru[l, tier, OLDEST]


@jit
def _forget(state: State, l: int, e: int) -> None:
    entry = state.entries[l, e]
    b = _bucket(state, entry.hash)
    if state.buckets[l, b] == e:
        state.buckets[l, b] = entry.chain
    else:
        before = state.buckets[l, b]
        while state.entries[l, before].chain != e:
            before = state.entries[l, before].chain
        state.entries[l, before].chain = entry.chain
    entry.chain = state.lanes[l].unused
    state.lanes[l].unused = e


@jit
def hashed_blocks(state: State, table: Table, i: int) -> int:
    """Full blocks of the prompt that have a hash."""
    if table.block_tokens == 0:
        return 0
    return min(
        state.hash_starts[i + 1] - state.hash_starts[i], state.requests[i].input // table.block_tokens
    )


@jit
def match(state: State, table: Table, l: int, i: int) -> int:
    """Leading blocks of request ``i`` in any tier; never all of its tokens, since the last must be computed."""
    start, hits = state.hash_starts[i] if table.block_tokens else 0, 0
    most = hashed_blocks(state, table, i)
    if most * table.block_tokens >= state.requests[i].target:
        most -= 1
    while hits < most and find(state, l, state.hashes[start + hits]) != NONE:
        hits += 1
    return hits


@jit
def admit(state: State, table: Table, l: int, i: int, tokens: int, spare: int) -> int:
    """Give request ``i`` blocks for ``tokens`` tokens, leaving at least ``spare`` -> leading cached blocks, or NONE.

    Blocks that lower tiers hold are brought up; the time is added to the planned step.
    """
    request = state.requests[i]
    count = hashed_blocks(state, table, i)
    own = blocks_of(tokens - count * table.block_tokens, table.block_size)
    lane = state.lanes[l]
    if count == 0:
        if own + spare > available(state, table, l):
            return NONE
        take(state, table, l, own)
        request.blocks, request.hashed = own, 0
        return 0
    start = state.hash_starts[i]
    new, unused, tier_blocks = 0, 0, 0
    for j in range(count):
        e = find(state, l, state.hashes[start + j])
        if e == NONE or state.entries[l, e].tier > 0:
            new += 1
        elif state.entries[l, e].ref == 0:
            unused += 1
    if own + new * table.hash_blocks + spare > available(state, table, l) - unused * table.hash_blocks:
        return NONE
    hits = match(state, table, l, i)
    for j in range(count):  # hold what is there first, so that making room does not drop it
        e = find(state, l, state.hashes[start + j])
        if e != NONE:
            entry = state.entries[l, e]
            if entry.tier > 0:
                if j < hits:
                    lane.extra_s += table.block_tokens * table.kv_bytes / table.tier_bytes_per_s[entry.tier - 1]
                    if tier_blocks & (1 << entry.tier) == 0:
                        lane.extra_s += table.tier_latency_s[entry.tier - 1]
                        tier_blocks |= 1 << entry.tier
                _unlink(state, l, e)
                entry.tier = 0
                entry.ref = 1
            else:
                if entry.ref == 0:
                    _unlink(state, l, e)
                entry.ref += 1
    take(state, table, l, own + new * table.hash_blocks)
    for j in range(count):
        hash = state.hashes[start + j]
        if find(state, l, hash) == NONE:
            e = lane.unused
            entry = state.entries[l, e]
            lane.unused = entry.chain
            b = _bucket(state, hash)
            entry.hash, entry.chain, entry.ref, entry.tier = hash, state.buckets[l, b], 1, 0
            state.buckets[l, b] = e
    request.blocks, request.hashed = own, count
    return hits


@jit
def release(state: State, table: Table, l: int, i: int, computed: int) -> None:
    """Give back the blocks of request ``i``; shared ones stay findable where their tokens were computed."""
    request = state.requests[i]
    lane = state.lanes[l]
    lane.free += request.blocks
    for j in range(request.hashed - 1, -1, -1):  # the end of a prompt is older than its beginning
        e = find(state, l, state.hashes[state.hash_starts[i] + j])
        entry = state.entries[l, e]
        entry.ref -= 1
        if entry.ref == 0:
            if (j + 1) * table.block_tokens <= computed:
                _push(state, l, e, 0)
            else:
                _forget(state, l, e)
                lane.free += table.hash_blocks
    request.blocks, request.hashed = 0, 0
