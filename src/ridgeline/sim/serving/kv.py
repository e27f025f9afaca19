# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""KV cache of a lane: blocks, and the prefix cache: hashed blocks with references, least recently used go first.

Blocks of the prefix cache are units of ``block_tokens`` (each ``hash_blocks`` KV blocks). A hash chain covers all
tokens before it, so equal hashes are equal prefixes. One that nobody uses stays until its blocks are needed; then it
moves to the next lower tier, or is forgotten.
"""

from __future__ import annotations

from ridgeline.sim.serving.jit import entries, floats, hash_starts, hashes, ints, jit, lanes, requests
from ridgeline.sim.serving.state import NONE, State, Table

OLDEST, NEWEST, COUNT, CAPACITY = range(4)


@jit
def blocks_of(tokens: int, block_size: int) -> int:
    """KV blocks that hold so many tokens."""
    return (max(tokens, 0) + block_size - 1) // block_size


@jit
def available(state: State, table: Table, which: int) -> int:
    """Blocks that are free or would be if unused prefixes were dropped."""
    return lanes(state)[which].free + ints(state)[lanes(state)[which].lru_at + COUNT] * table.hash_blocks


@jit
def take(state: State, table: Table, which: int, blocks: int) -> None:
    """Take ``blocks`` that are `available`, dropping the oldest unused prefixes."""
    lane = lanes(state)[which]
    while lane.free < blocks:
        _demote(state, table, which, ints(state)[lane.lru_at + OLDEST], 0)
        lane.free += table.hash_blocks
    lane.free -= blocks


@jit
def find(state: State, table: Table, which: int, hash: int) -> int:
    """Entry of a hash, or NONE."""
    first = lanes(state)[which].entries_at
    e = ints(state)[lanes(state)[which].buckets_at + _bucket(table, hash)]
    while e != NONE and entries(state)[first + e].hash != hash:
        e = entries(state)[first + e].chain
    return e


@jit
def _bucket(table: Table, hash: int) -> int:
    mixed = hash * 0x1E3779B97F4A7C15
    return (mixed ^ (mixed >> 29)) & (table.buckets - 1)


@jit
def _push(state: State, which: int, e: int, tier: int) -> None:
    """Entry ``e`` becomes the most recently used of a tier."""
    first, lru = lanes(state)[which].entries_at, lanes(state)[which].lru_at + 4 * tier
    entry, newest = entries(state)[first + e], ints(state)[lru + NEWEST]
    entry.tier, entry.older, entry.newer = tier, newest, NONE
    if newest != NONE:
        entries(state)[first + newest].newer = e
    else:
        ints(state)[lru + OLDEST] = e
    ints(state)[lru + NEWEST] = e
    ints(state)[lru + COUNT] += 1


@jit
def _unlink(state: State, which: int, e: int) -> None:
    first = lanes(state)[which].entries_at
    entry = entries(state)[first + e]
    lru = lanes(state)[which].lru_at + 4 * entry.tier
    if entry.older != NONE:
        entries(state)[first + entry.older].newer = entry.newer
    else:
        ints(state)[lru + OLDEST] = entry.newer
    if entry.newer != NONE:
        entries(state)[first + entry.newer].older = entry.older
    else:
        ints(state)[lru + NEWEST] = entry.older
    ints(state)[lru + COUNT] -= 1


@jit
def _demote(state: State, table: Table, which: int, e: int, tier: int) -> None:
    """Move an unused entry one tier down; full tiers pass their oldest on, the last forgets it."""
    lru = lanes(state)[which].lru_at
    while True:
        _unlink(state, which, e)
        tier += 1
        while tier < table.tiers + 1 and ints(state)[lru + 4 * tier + CAPACITY] <= 0:
            tier += 1
        if tier >= table.tiers + 1:
            _forget(state, table, which, e)
            return
        _push(state, which, e, tier)
        if ints(state)[lru + 4 * tier + COUNT] <= ints(state)[lru + 4 * tier + CAPACITY]:
            return
        e = ints(state)[lru + 4 * tier + OLDEST]


@jit
def _forget(state: State, table: Table, which: int, e: int) -> None:
    lane = lanes(state)[which]
    first = lane.entries_at
    entry = entries(state)[first + e]
    at = lane.buckets_at + _bucket(table, entry.hash)
    if ints(state)[at] == e:
        ints(state)[at] = entry.chain
    else:
        before = ints(state)[at]
        while entries(state)[first + before].chain != e:
            before = entries(state)[first + before].chain
        entries(state)[first + before].chain = entry.chain
    entry.chain = lane.unused
    lane.unused = e


@jit
def clear(state: State, table: Table, which: int) -> None:
    """Forget all unused prefixes of all tiers."""
    for tier in range(table.tiers + 1):
        oldest = lanes(state)[which].lru_at + 4 * tier + OLDEST
        while ints(state)[oldest] != NONE:
            e = ints(state)[oldest]
            _unlink(state, which, e)
            _forget(state, table, which, e)


@jit
def hashed_blocks(state: State, table: Table, i: int) -> int:
    """Full blocks of the prompt that have a hash."""
    if table.block_tokens == 0:
        return 0
    return min(
        hash_starts(state)[i + 1] - hash_starts(state)[i], requests(state)[i].input // table.block_tokens
    )


@jit
def match(state: State, table: Table, which: int, i: int) -> int:
    """Leading blocks of request ``i`` in any tier; never all of its tokens, since the last must be computed."""
    start, hits = hash_starts(state)[i] if table.block_tokens else 0, 0
    most = hashed_blocks(state, table, i)
    if most * table.block_tokens >= requests(state)[i].target:
        most -= 1
    while hits < most and find(state, table, which, hashes(state)[start + hits]) != NONE:
        hits += 1
    return hits


@jit
def admit(state: State, table: Table, which: int, i: int, tokens: int, spare: int) -> int:
    """Give request ``i`` blocks for ``tokens`` tokens, leaving at least ``spare`` -> leading cached blocks, or NONE.

    Blocks that lower tiers hold are brought up; the time is added to the planned step.
    """
    request = requests(state)[i]
    count = hashed_blocks(state, table, i)
    own = blocks_of(tokens - count * table.block_tokens, table.block_size)
    lane = lanes(state)[which]
    if count == 0:
        if own + spare > available(state, table, which):
            return NONE
        take(state, table, which, own)
        request.blocks, request.hashed = own, 0
        return 0
    start, first = hash_starts(state)[i], lane.entries_at
    new, unused, tier_blocks = 0, 0, 0
    for j in range(count):
        e = find(state, table, which, hashes(state)[start + j])
        if e == NONE or entries(state)[first + e].tier > 0:
            new += 1
        elif entries(state)[first + e].ref == 0:
            unused += 1
    if own + new * table.hash_blocks + spare > available(state, table, which) - unused * table.hash_blocks:
        return NONE
    hits = match(state, table, which, i)
    for j in range(count):  # hold what is there first, so that making room does not drop it
        e = find(state, table, which, hashes(state)[start + j])
        if e != NONE:
            entry = entries(state)[first + e]
            if entry.tier > 0:
                if j < hits:
                    lane.extra_s += (
                        table.block_tokens
                        * table.kv_bytes
                        / floats(state)[table.tier_bytes_per_s + entry.tier - 1]
                    )
                    if tier_blocks & (1 << entry.tier) == 0:
                        lane.extra_s += floats(state)[table.tier_latency_s + entry.tier - 1]
                        tier_blocks |= 1 << entry.tier
                _unlink(state, which, e)
                entry.tier = 0
                entry.ref = 1
            else:
                if entry.ref == 0:
                    _unlink(state, which, e)
                entry.ref += 1
    take(state, table, which, own + new * table.hash_blocks)
    for j in range(count):
        hash = hashes(state)[start + j]
        if find(state, table, which, hash) == NONE:
            e = lane.unused
            entry = entries(state)[first + e]
            lane.unused = entry.chain
            at = lane.buckets_at + _bucket(table, hash)
            entry.hash, entry.chain, entry.ref, entry.tier = hash, ints(state)[at], 1, 0
            ints(state)[at] = e
    request.blocks, request.hashed = own, count
    return hits


@jit
def release(state: State, table: Table, which: int, i: int, computed: int) -> None:
    """Give back the blocks of request ``i``; shared ones stay findable where their tokens were computed."""
    request = requests(state)[i]
    lane = lanes(state)[which]
    first = lane.entries_at
    lane.free += request.blocks
    for j in range(request.hashed - 1, -1, -1):  # the end of a prompt is older than its beginning
        e = find(state, table, which, hashes(state)[hash_starts(state)[i] + j])
        entry = entries(state)[first + e]
        entry.ref -= 1
        if entry.ref == 0:
            if (j + 1) * table.block_tokens <= computed:
                _push(state, which, e, 0)
            else:
                _forget(state, table, which, e)
                lane.free += table.hash_blocks
    request.blocks, request.hashed = 0, 0
