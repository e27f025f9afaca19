"""Queues of requests as linked lists, the heap of ends, and the running sums over the decoding requests of a lane."""

from __future__ import annotations

import math

import numpy as np

from ridgeline.sim.serving.jit import jit
from ridgeline.sim.serving.kv import blocks_of
from ridgeline.sim.serving.state import DECODE, NONE, WHOLE, FloatArray, IntArray, State, Table

MASK = (1 << 32) - 1


@jit
def append(state: State, l: int, queue: int, i: int) -> None:
    request, ends = state.requests[i], state.queues[l, queue]
    request.previous, request.next = ends[1], NONE
    if ends[1] != NONE:
        state.requests[ends[1]].next = i
    else:
        ends[0] = i
    ends[1] = i


@jit
def prepend(state: State, l: int, queue: int, i: int) -> None:
    request, ends = state.requests[i], state.queues[l, queue]
    request.previous, request.next = NONE, ends[0]
    if ends[0] != NONE:
        state.requests[ends[0]].previous = i
    else:
        ends[1] = i
    ends[0] = i


@jit
def unlink(state: State, l: int, queue: int, i: int) -> None:
    request, ends = state.requests[i], state.queues[l, queue]
    if request.previous != NONE:
        state.requests[request.previous].next = request.next
    else:
        ends[0] = request.next
    if request.next != NONE:
        state.requests[request.next].previous = request.previous
    else:
        ends[1] = request.previous


@jit
def head(state: State, table: Table, l: int) -> int:
    """The first waiting request of the first level that has one, or NONE."""
    if state.lanes[l].waiting == 0:
        return NONE
    for level in range(table.levels):
        if state.queues[l, level, 0] != NONE:
            return state.queues[l, level, 0]
    return NONE


@jit
def push_end(heap: IntArray, size: int, item: int) -> None:
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[above] <= item:
            break
        heap[at] = heap[above]
        at = above
    heap[at] = item


@jit
def remove_end(heap: IntArray, size: int, at: int) -> None:
    """Remove the item at position ``at`` of a heap of ``size`` items."""
    item = heap[size - 1]
    if at == size - 1:
        return
    while at > 0 and heap[(at - 1) >> 1] > item:
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    while True:
        below = 2 * at + 1
        if below >= size - 1:
            break
        if below + 1 < size - 1 and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= item:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = item


@jit
def push_deadline(heap: FloatArray, size: int, time: float, what: float) -> None:
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[above, 0] < time or (heap[above, 0] == time and heap[above, 1] <= what):
            break
        heap[at, 0], heap[at, 1] = heap[above, 0], heap[above, 1]
        at = above
    heap[at, 0], heap[at, 1] = time, what


@jit
def pop_deadline(heap: FloatArray, size: int) -> None:
    """Remove the first of ``size`` deadlines."""
    time, what = heap[size - 1, 0], heap[size - 1, 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= size - 1:
            break
        other = below + 1
        if other < size - 1 and (
            heap[other, 0] < heap[below, 0]
            or (heap[other, 0] == heap[below, 0] and heap[other, 1] < heap[below, 1])
        ):
            below = other
        if heap[below, 0] > time or (heap[below, 0] == time and heap[below, 1] >= what):
            break
        heap[at, 0], heap[at, 1] = heap[below, 0], heap[below, 1]
        at = below
    heap[at, 0], heap[at, 1] = time, what


@jit
def phase_of(table: Table, key: int, hashed: int) -> int:
    """Counter modulo the block size at which a decoding request enters a new block."""
    return (hashed * table.block_tokens + 1 - key) % table.block_size


@jit
def join_decodes(state: State, table: Table, l: int, i: int, now: float) -> None:
    """Request ``i`` decodes from the next step on; its context then is all its tokens so far."""
    lane, request = state.lanes[l], state.requests[i]
    context = request.input + request.made
    request.state = DECODE
    request.key = context - lane.counter
    request.last_s = now
    state.fresh[l, lane.fresh] = i
    lane.fresh += 1
    lane.decoding += 1
    if table.chances.size:
        return  # `recount` adds everything up
    request.end = lane.counter + request.output - request.made
    push_end(state.ends[l], lane.heap, (request.end << 32) | i)
    lane.heap += 1
    lane.ends += request.end
    lane.contexts += context
    lane.longest = max(lane.longest, request.key)
    if table.schedule != WHOLE:
        state.phases[l, phase_of(table, request.key, request.hashed)] += 1
    _add_windows(state, table, l, context, 1)


@jit
def _add_windows(state: State, table: Table, l: int, context: int, sign: int) -> None:
    lane = state.lanes[l]
    for w in range(table.windows.size):
        if math.isinf(table.windows[w]):
            continue
        window = int(table.windows[w])
        state.window_sums[l, w] += sign * min(context, window)
        if context < window:
            state.below[l, w] += sign
            at = (lane.counter + window - context) % (window + 1)
            state.crossings[l, state.crossing_starts[w] + at] += sign


@jit
def leave_decodes(state: State, table: Table, l: int, i: int) -> None:
    """Request ``i`` decodes no more; its tokens and blocks are written to its record, its end taken off the heap."""
    lane, request = state.lanes[l], state.requests[i]
    lane.decoding -= 1
    for k in range(lane.fresh):
        if state.fresh[l, k] == i:
            lane.fresh -= 1
            state.fresh[l, k] = state.fresh[l, lane.fresh]
            break
    else:
        request.last_s = lane.last_s
    if table.chances.size:
        return
    request.made = request.output - (request.end - lane.counter)
    item, heap = (request.end << 32) | i, state.ends[l]
    at = 0
    while heap[at] != item:
        at += 1
    remove_end(heap, lane.heap, at)
    lane.heap -= 1
    lane.ends -= request.end
    context = request.key + lane.counter
    lane.contexts -= context
    if table.schedule != WHOLE:
        state.phases[l, phase_of(table, request.key, request.hashed)] -= 1
        request.blocks = blocks_of(context - 1 - request.hashed * table.block_tokens, table.block_size)
    _add_windows(state, table, l, context, -1)
    if lane.decoding == 0:
        lane.longest = np.iinfo(np.int64).min >> 1
    elif request.key == lane.longest and table.has_longest:
        request.state = NONE
        lane.longest = _longest(state, table, l)


@jit
def _longest(state: State, table: Table, l: int) -> int:
    longest = np.iinfo(np.int64).min >> 1
    i = state.queues[l, table.levels, 0]
    while i != NONE:
        if state.requests[i].state == DECODE:
            longest = max(longest, state.requests[i].key)
        i = state.requests[i].next
    return longest


@jit
def recount(state: State, table: Table, l: int) -> None:
    """With speculation contexts grow unevenly: add up all sums over the decoding requests again."""
    lane = state.lanes[l]
    lane.contexts, lane.need = 0, 0
    state.window_sums[l, :] = 0
    lane.longest = np.iinfo(np.int64).min >> 1
    i = state.queues[l, table.levels, 0]
    while i != NONE:
        request = state.requests[i]
        if request.state == DECODE:
            context = request.input + request.made
            lane.contexts += context
            lane.longest = max(lane.longest, context - lane.counter)
            if table.schedule != WHOLE:
                lane.need += missing_blocks(state, table, i)
            for w in range(table.windows.size):
                if not math.isinf(table.windows[w]):
                    state.window_sums[l, w] += min(context, int(table.windows[w]))
        i = request.next


@jit
def missing_blocks(state: State, table: Table, i: int) -> int:
    """Blocks a decoding request lacks for its next step, where its tokens are counted one by one."""
    request = state.requests[i]
    tokens = request.input + request.made - request.hashed * table.block_tokens
    return blocks_of(tokens, table.block_size) - request.blocks
