# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""A unit: one or more lanes that step together. What it runs next, for how many steps, and what those steps made.

A unit that decodes with nothing waiting that could enter runs a span of steps up to the next event inside it; an
arrival cuts the span at the boundary after it. Where a span ends depends on the events alone.
"""

from __future__ import annotations

import math

from ridgeline.sim.serving.admission import plan_lane, steps_until_room
from ridgeline.sim.serving.end import end_running
from ridgeline.sim.serving.jit import engines, floats, ints, jit, lanes, requests, units
from ridgeline.sim.serving.kv import available, release, take
from ridgeline.sim.serving.outcome import DONE
from ridgeline.sim.serving.queues import first_running, join_decodes, leave_decodes, missing_blocks, unseen
from ridgeline.sim.serving.span import add_gaps, walk
from ridgeline.sim.serving.state import DECODE, HANDED, IDLE, NONE, SPAN, STEP, WAKE, WHOLE, State, Table

INFINITY = math.inf


@jit
def plan_unit(state: State, table: Table, u: int, now: float, limit: float) -> None:
    """Choose what unit ``u`` does from ``now`` on.

    ``limit`` is when the next request arrives, where there is one lane to take it: a span need not go further.
    """
    unit = units(state)[u]
    first = u * table.lanes_per_unit
    if unit.leaving > 0:
        _let_go(state, table, u, now)
    unit.start_s = now
    if table.lag and unit.kind != WAKE:
        kind = _plan_lanes(state, table, u, unit.planned_s, unit.planned_s)
        end_ghosts(state, table, u)
        if kind == IDLE:  # nothing was planned ahead: what has come since is planned now
            kind = _plan_lanes(state, table, u, now, INFINITY)
    else:
        kind = _plan_lanes(state, table, u, now, INFINITY)
    unit.kind = kind
    if kind == IDLE:
        unit.steps, unit.end_s, unit.cut_s = 0, INFINITY, INFINITY
        return
    if kind == STEP:
        unit.steps, unit.cut_s = 1, INFINITY
    else:
        if not takes_newcomers(state, table, first):
            limit = INFINITY
        unit.steps, unit.cut_s = _span_steps(state, table, u), limit
    unit.steps, unit.end_s = walk(state, table, u, unit.steps, unit.cut_s, False)


@jit
def _plan_lanes(state: State, table: Table, u: int, now: float, sees_s: float) -> int:
    """Plan all lanes of unit ``u`` at ``now`` with the requests that came before ``sees_s`` -> what the unit does."""
    work, single = False, table.drafts > 0
    for which in range(u * table.lanes_per_unit, (u + 1) * table.lanes_per_unit):
        lane = lanes(state)[which]
        lane.sees_s = sees_s
        plan_lane(state, table, which, now)
        work = work or lane.tokens > 0
        single = single or lane.chunks > 0 or lane.extra_s > 0.0
    if not work:
        return IDLE
    return STEP if single else SPAN


@jit
def end_ghosts(state: State, table: Table, u: int) -> None:
    """Free what ended requests held in the plan just made; where the next plan may differ, one step runs until it."""
    for which in range(u * table.lanes_per_unit, (u + 1) * table.lanes_per_unit):
        lane = lanes(state)[which]
        if lane.waiting > 0 and (lane.ghosts > 0 or unseen(state, table, which)):
            lane.closed = 1
        for k in range(lane.ghosts):
            i = ints(state)[lane.ghosts_at + k]
            release(state, table, which, i, requests(state)[i].computed)
        lane.ghosts = 0


@jit
def _span_steps(state: State, table: Table, u: int) -> int:
    """Decode steps until a request ends, a waiting one may fit, a context reaches a window, or a block is missing."""
    first = u * table.lanes_per_unit
    steps = table.max_span
    for which in range(first, first + table.lanes_per_unit):
        lane = lanes(state)[which]
        if lane.closed:
            return 1
        if lane.decoding == 0:
            continue
        steps = min(steps, (ints(state)[lane.ends_at] >> 32) - lane.counter)
        steps = steps_until_room(state, table, which, steps)
        start = lane.crossings_at
        for w in range(table.num_windows):
            size = _ring(state, table, w)
            if ints(state)[lane.below_at + w] > 0:
                for k in range(1, min(steps, size)):
                    if ints(state)[start + (lane.counter + k) % size] > 0:
                        steps = k
                        break
            start += size
        left = available(state, table, which)
        if table.schedule != WHOLE and left < (steps // table.block_size + 1) * lane.decoding:
            for k in range(1, steps):
                left -= ints(state)[lane.phases_at + (lane.counter + k) % table.block_size]
                if left < 0:
                    steps = k
                    break
    return steps


@jit
def _ring(state: State, table: Table, w: int) -> int:
    """Size of the ring of crossings of a window; none where a layer sees all."""
    window = floats(state)[table.windows + w]
    return 0 if math.isinf(window) else int(window) + 1


@jit
def _let_go(state: State, table: Table, u: int, now: float) -> None:
    """Running requests whose users have gone leave at a boundary."""
    units(state)[u].leaving = 0
    first = u * table.lanes_per_unit
    for which in range(first, first + table.lanes_per_unit):
        i = first_running(state, table, which)
        while i != NONE:
            request = requests(state)[i]
            after = request.next
            if request.leaving != NONE:
                if request.state == DECODE:
                    leave_decodes(state, table, which, i)
                end_running(state, table, which, i, request.leaving, now)
            i = after


@jit
def finish_unit(state: State, table: Table, u: int) -> None:
    """The planned steps of unit ``u`` are over: hand out tokens, end requests, move prefills on."""
    unit = units(state)[u]
    if unit.kind == WAKE:
        return
    now, steps = unit.end_s, unit.steps
    if table.lag:
        unit.planned_s = unit.start_s
        if steps > 1 and _waiting(state, table, u) > 0:  # as its last step begins
            unit.planned_s = walk(state, table, u, steps - 1, INFINITY, False)[1]
    walk(state, table, u, steps, INFINITY, True)
    unit.busy_s += now - unit.start_s
    unit.made_steps += steps
    engine = engines(state)[0]
    engine.end_s = max(engine.end_s, now)
    first = u * table.lanes_per_unit
    decoding = 0
    for which in range(first, first + table.lanes_per_unit):
        lane = lanes(state)[which]
        if lane.tokens == 0:
            continue
        d = lane.decoding if lane.decodes else 0
        decoding += d
        joules = floats(state)[table.tokens_j + min(lane.tokens, table.tokens - 1)]
        engine.energy_j += steps * joules + table.pair_j * lane.pairs
        engine.energy_j += (
            table.context_j * (steps * lane.contexts + 0.5 * d * steps * (steps - 1)) if d else 0.0
        )
        if lane.decodes:
            lane.last_s, lane.fresh = now, 0
            if table.drafts:
                _speculate(state, table, which, now)
            else:
                _advance(state, table, which, steps, now)
        for c in range(lane.chunks):
            at = lane.chunks_at + 2 * c
            _finish_chunk(state, table, which, ints(state)[at], ints(state)[at + 1], now)
    ints(state)[table.batches + decoding] += steps


@jit
def _waiting(state: State, table: Table, u: int) -> int:
    waiting = 0
    for which in range(u * table.lanes_per_unit, (u + 1) * table.lanes_per_unit):
        waiting += lanes(state)[which].waiting
    return waiting


@jit
def _advance(state: State, table: Table, which: int, steps: int, now: float) -> None:
    """``steps`` decode steps of lane ``which`` are over."""
    lane = lanes(state)[which]
    if table.schedule != WHOLE:
        need = (steps // table.block_size) * lane.decoding - lane.taken
        for k in range(steps % table.block_size):
            need += ints(state)[lane.phases_at + (lane.counter + k) % table.block_size]
        take(state, table, which, need)
    lane.contexts += lane.decoding * steps
    lane.counter += steps
    start = lane.crossings_at
    for w in range(table.num_windows):
        size = _ring(state, table, w)
        if size > 0:
            ints(state)[lane.sums_at + w] += ints(state)[lane.below_at + w] * steps
            at = start + lane.counter % size
            ints(state)[lane.below_at + w] -= ints(state)[at]
            ints(state)[at] = 0
        start += size
    while lane.heap > 0 and (ints(state)[lane.ends_at] >> 32) == lane.counter:
        i = ints(state)[lane.ends_at] & ((1 << 32) - 1)
        leave_decodes(state, table, which, i)
        end_running(state, table, which, i, DONE, now)


@jit
def _speculate(state: State, table: Table, which: int, now: float) -> None:
    """One decode step with drafts: each request gets one token and as many drafts as hold."""
    lane = lanes(state)[which]
    lane.counter += 1
    i = first_running(state, table, which)
    while i != NONE:
        request = requests(state)[i]
        after = request.next
        if request.state == DECODE:
            if table.schedule != WHOLE:
                request.blocks += missing_blocks(state, table, i)
            made = min(1 + accepted(state, table, i, request.made), request.output - request.made)
            request.made += made
            ints(state)[table.gaps] += made - 1  # they come out together
            if request.made == request.output:
                leave_decodes(state, table, which, i)
                end_running(state, table, which, i, DONE, now)
        i = after


@jit
def accepted(state: State, table: Table, i: int, made: int) -> int:
    """Drafts that hold in the step of request ``i`` after ``made`` tokens: a hash, whatever the batch does."""
    bits = (table.seed * 0x632BE59BD9B4E019) ^ (i * 0x1E3779B97F4A7C15) ^ (made * 0x3F58476D1CE4E5B9)
    for _ in range(2):
        bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * 0x3F58476D1CE4E5B9
        bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * 0x14D049BB133111EB
    chance = ((bits >> 11) & 0x1FFFFFFFFFFFFF) / 9007199254740992.0
    count = 0
    while count < table.drafts and chance < floats(state)[table.chances + count]:
        count += 1
    return count


@jit
def _finish_chunk(state: State, table: Table, which: int, i: int, q: int, now: float) -> None:
    request = requests(state)[i]
    request.computed += q
    if request.computed < request.target:
        return
    request.made += 1
    if request.made == 1:
        request.first_s = now
    else:
        add_gaps(state, table, now - request.last_s, 1)
    request.last_s = now
    if request.made == request.output:
        end_running(state, table, which, i, DONE, now)
    elif table.handoff:
        end_running(state, table, which, i, HANDED, now)
    else:
        join_decodes(state, table, which, i, now)


@jit
def cut(state: State, table: Table, u: int, now: float) -> None:
    """Wake an idle unit; end a span at the first boundary at or after ``now``."""
    unit = units(state)[u]
    if unit.kind == IDLE:
        unit.kind, unit.steps, unit.end_s = WAKE, 0, now
    elif unit.kind == SPAN and now < unit.cut_s:
        unit.steps, unit.end_s = walk(state, table, u, unit.steps, now, False)
        unit.cut_s = now


@jit
def takes_newcomers(state: State, table: Table, which: int) -> bool:
    """Whether a request that arrives now could enter at the next boundary."""
    lane = lanes(state)[which]
    return lane.running < table.max_seqs and (lane.waiting == 0 or table.levels > 1)
