# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""Queues of requests as linked lists, the heap of ends, and the running sums over the decoding requests of a lane."""

from __future__ import annotations

import math

import numpy as np

from ridgeline.sim.serving.jit import floats, ints, jit, lanes, requests
from ridgeline.sim.serving.kv import blocks_of
from ridgeline.sim.serving.state import DECODE, NONE, WHOLE, FloatArray, IntArray, State, Table

MASK = (1 << 32) - 1


@jit
def append(state: State, which: int, queue: int, i: int) -> None:
    """Put request ``i`` at the end of a queue of a lane."""
    at = lanes(state)[which].queues_at + 2 * queue
    request, tail = requests(state)[i], ints(state)[at + 1]
    request.previous, request.next = tail, NONE
    if tail != NONE:
        requests(state)[tail].next = i
    else:
        ints(state)[at] = i
    ints(state)[at + 1] = i


@jit
def prepend(state: State, which: int, queue: int, i: int) -> None:
    """Put request ``i`` at the head of a queue of a lane."""
    at = lanes(state)[which].queues_at + 2 * queue
    request, first = requests(state)[i], ints(state)[at]
    request.previous, request.next = NONE, first
    if first != NONE:
        requests(state)[first].previous = i
    else:
        ints(state)[at + 1] = i
    ints(state)[at] = i


@jit
def unlink(state: State, which: int, queue: int, i: int) -> None:
    """Take request ``i`` out of a queue of a lane."""
    request, at = requests(state)[i], lanes(state)[which].queues_at + 2 * queue
    if request.previous != NONE:
        requests(state)[request.previous].next = request.next
    else:
        ints(state)[at] = request.next
    if request.next != NONE:
        requests(state)[request.next].previous = request.previous
    else:
        ints(state)[at + 1] = request.previous


@jit
def head(state: State, table: Table, which: int) -> int:
    """The first waiting request of the first level that has one which the plan knows, or NONE."""
    if lanes(state)[which].waiting > 0:
        for level in range(table.levels):
            i = ints(state)[lanes(state)[which].queues_at + 2 * level]
            if i != NONE and requests(state)[i].came_s < lanes(state)[which].sees_s:
                return i
    return NONE


@jit
def unseen(state: State, table: Table, which: int) -> bool:
    """Whether the first waiting request of a level came too late for the plan."""
    if lanes(state)[which].waiting > 0:
        for level in range(table.levels):
            i = ints(state)[lanes(state)[which].queues_at + 2 * level]
            if i != NONE and requests(state)[i].came_s >= lanes(state)[which].sees_s:
                return True
    return False


@jit
def first_running(state: State, table: Table, which: int) -> int:
    """The request of a lane that has run longest; `NONE` if none runs."""
    return ints(state)[lanes(state)[which].queues_at + 2 * table.levels]


@jit
def push_end(heap: IntArray, first: int, size: int, item: int) -> None:
    """Add to the heap of ``size`` items that begins at ``first``."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[first + above] <= item:
            break
        heap[first + at] = heap[first + above]
        at = above
    heap[first + at] = item


@jit
def remove_end(heap: IntArray, first: int, size: int, at: int) -> None:
    """Remove the item at position ``at`` of a heap of ``size`` items."""
    item = heap[first + size - 1]
    if at == size - 1:
        return
    while at > 0 and heap[first + ((at - 1) >> 1)] > item:
        heap[first + at] = heap[first + ((at - 1) >> 1)]
        at = (at - 1) >> 1
    while True:
        below = 2 * at + 1
        if below >= size - 1:
            break
        if below + 1 < size - 1 and heap[first + below + 1] < heap[first + below]:
            below += 1
        if heap[first + below] >= item:
            break
        heap[first + at] = heap[first + below]
        at = below
    heap[first + at] = item


@jit
def push_deadline(heap: FloatArray, first: int, size: int, time: float, what: float) -> None:
    """As `push_end`, items being two numbers: a time, and what happens then, which decides between equal times."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        a = first + 2 * above
        if heap[a] < time or (heap[a] == time and heap[a + 1] <= what):
            break
        heap[first + 2 * at], heap[first + 2 * at + 1] = heap[a], heap[a + 1]
        at = above
    heap[first + 2 * at], heap[first + 2 * at + 1] = time, what


@jit
def pop_deadline(heap: FloatArray, first: int, size: int) -> None:
    """Remove the first of ``size`` deadlines."""
    time, what = heap[first + 2 * size - 2], heap[first + 2 * size - 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size - 1:
            break
        b = first + 2 * below
        if below + 1 < size - 1 and (
            heap[b + 2] < heap[b] or (heap[b + 2] == heap[b] and heap[b + 3] < heap[b + 1])
        ):
            below += 1
            b += 2
        if heap[b] > time or (heap[b] == time and heap[b + 1] >= what):
            break
        heap[first + 2 * at], heap[first + 2 * at + 1] = heap[b], heap[b + 1]
        at = below
    heap[first + 2 * at], heap[first + 2 * at + 1] = time, what


@jit
def phase_of(table: Table, key: int, hashed: int) -> int:
    """Counter modulo the block size at which a decoding request enters a new block."""
    return (hashed * table.block_tokens + 1 - key) % table.block_size


@jit
def join_decodes(state: State, table: Table, which: int, i: int, now: float) -> None:
    """Request ``i`` decodes from the next step on; its context then is all its tokens so far."""
    lane, request = lanes(state)[which], requests(state)[i]
    context = request.input + request.made
    request.state = DECODE
    request.key = context - lane.counter
    request.last_s = now
    ints(state)[lane.fresh_at + lane.fresh] = i
    lane.fresh += 1
    lane.decoding += 1
    if table.drafts:
        return  # `recount` adds everything up
    request.end = lane.counter + request.output - request.made
    push_end(ints(state), lane.ends_at, lane.heap, (request.end << 32) | i)
    lane.heap += 1
    lane.ends += request.end
    lane.contexts += context
    lane.longest = max(lane.longest, request.key)
    if table.schedule != WHOLE:
        ints(state)[lane.phases_at + phase_of(table, request.key, request.hashed)] += 1
    _add_windows(state, table, which, context, 1)


@jit
def _add_windows(state: State, table: Table, which: int, context: int, sign: int) -> None:
    lane = lanes(state)[which]
    start = lane.crossings_at
    for w in range(table.num_windows):
        if math.isinf(floats(state)[table.windows + w]):
            continue
        window = int(floats(state)[table.windows + w])
        ints(state)[lane.sums_at + w] += sign * min(context, window)
        if context < window:
            ints(state)[lane.below_at + w] += sign
            ints(state)[start + (lane.counter + window - context) % (window + 1)] += sign
        start += window + 1


@jit
def leave_decodes(state: State, table: Table, which: int, i: int) -> None:
    """Request ``i`` decodes no more; its tokens and blocks are written to its record, its end taken off the heap."""
    lane, request = lanes(state)[which], requests(state)[i]
    lane.decoding -= 1
    for k in range(lane.fresh):
        if ints(state)[lane.fresh_at + k] == i:
            lane.fresh -= 1
            ints(state)[lane.fresh_at + k] = ints(state)[lane.fresh_at + lane.fresh]
            break
    else:
        request.last_s = lane.last_s
    if table.drafts:
        return
    request.made = request.output - (request.end - lane.counter)
    item, at = (request.end << 32) | i, 0
    while ints(state)[lane.ends_at + at] != item:
        at += 1
    remove_end(ints(state), lane.ends_at, lane.heap, at)
    lane.heap -= 1
    lane.ends -= request.end
    context = request.key + lane.counter
    lane.contexts -= context
    if table.schedule != WHOLE:
        ints(state)[lane.phases_at + phase_of(table, request.key, request.hashed)] -= 1
        request.blocks = blocks_of(context - 1 - request.hashed * table.block_tokens, table.block_size)
    _add_windows(state, table, which, context, -1)
    if lane.decoding == 0:
        lane.longest = np.iinfo(np.int64).min >> 1
    elif request.key == lane.longest and table.has_longest:
        request.state = NONE
        lane.longest = _longest(state, table, which)


@jit
def _longest(state: State, table: Table, which: int) -> int:
    longest = np.iinfo(np.int64).min >> 1
    i = first_running(state, table, which)
    while i != NONE:
        if requests(state)[i].state == DECODE:
            longest = max(longest, requests(state)[i].key)
        i = requests(state)[i].next
    return longest


@jit
def recount(state: State, table: Table, which: int) -> None:
    """With speculation contexts grow unevenly: add up all sums over the decoding requests again."""
    lane = lanes(state)[which]
    lane.contexts, lane.need = 0, 0
    for w in range(table.num_windows):
        ints(state)[lane.sums_at + w] = 0
    lane.longest = np.iinfo(np.int64).min >> 1
    i = first_running(state, table, which)
    while i != NONE:
        request = requests(state)[i]
        if request.state == DECODE:
            context = request.input + request.made
            lane.contexts += context
            lane.longest = max(lane.longest, context - lane.counter)
            if table.schedule != WHOLE:
                lane.need += missing_blocks(state, table, i)
            for w in range(table.num_windows):
                if not math.isinf(floats(state)[table.windows + w]):
                    ints(state)[lane.sums_at + w] += min(context, int(floats(state)[table.windows + w]))
        i = request.next


@jit
def missing_blocks(state: State, table: Table, i: int) -> int:
    """Blocks a decoding request lacks for its next step, where its tokens are counted one by one."""
    request = requests(state)[i]
    tokens = request.input + request.made - request.hashed * table.block_tokens
    return blocks_of(tokens, table.block_size) - request.blocks
