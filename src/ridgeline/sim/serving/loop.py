# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""The event loop of one engine: arrivals, deadlines and the ends of steps, in order of time.

A unit that decodes with nothing waiting that could enter runs a span of steps up to the next event inside it; an
arrival cuts the span at the boundary after it. Where a span ends depends on the events alone, never on how far the
caller asks the loop to go.
"""

from __future__ import annotations

import math
from typing import Any

from ridgeline.sim.serving.admission import plan_lane, steps_until_room
from ridgeline.sim.serving.jit import (
    engines,
    floats,
    hash_starts,
    ints,
    jit,
    keep,
    lanes,
    requests,
    source_stamp,
    units,
)
from ridgeline.sim.serving.kv import COUNT, available, blocks_of, clear, match, release, take
from ridgeline.sim.serving.queues import (
    append,
    first_running,
    join_decodes,
    leave_decodes,
    missing_blocks,
    pop_deadline,
    push_deadline,
    unlink,
    unseen,
)
from ridgeline.sim.serving.span import add_gaps, walk
from ridgeline.sim.serving.state import (
    DECODE,
    ENDED,
    HANDED,
    IDLE,
    NEW,
    NONE,
    PREFILL,
    SPAN,
    STEP,
    WAITING,
    WAKE,
    WHOLE,
    State,
    Table,
    sent_after,
)

DONE, CANCELLED, TIMED_OUT, LOST, REFUSED = range(5)
INFINITY = math.inf

_sent_after = jit(sent_after)


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
        _end_ghosts(state, table, u)
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
def _end_ghosts(state: State, table: Table, u: int) -> None:
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
def end_running(state: State, table: Table, which: int, i: int, status: int, now: float) -> None:
    """A running request that is not among the decoding any more leaves the lane."""
    request, lane = requests(state)[i], lanes(state)[which]
    unlink(state, which, table.levels, i)
    lane.running -= 1
    if lane.partial == i:
        lane.partial = NONE
    computed = request.computed if request.state == PREFILL else request.input
    if table.lag and status != HANDED:
        request.computed = computed
        ints(state)[lane.ghosts_at + lane.ghosts] = i
        lane.ghosts += 1
    else:
        release(state, table, which, i, computed)
    if status == HANDED:
        request.state, request.resumes = NEW, 1
        _log(state, table, i)
    else:
        close(state, table, i, status, now)


@jit
def close(state: State, table: Table, i: int, status: int, now: float) -> None:
    """The request is over; in a closed loop its user sends the next one after thinking."""
    request, engine = requests(state)[i], engines(state)[0]
    request.state, request.status, request.replica = ENDED, status, table.replica
    if status == DONE:
        request.finish_s = now
    _log(state, table, i)
    if table.users > 0:
        first, last = _sent_after(engine.closed, table.users, table.warmup, state.num_requests)
        engine.closed += 1
        pause = 0.0 if engine.closed == table.warmup else table.think_s
        for following in range(first, last):
            requests(state)[following].sent_s = now + pause


@jit
def _log(state: State, table: Table, i: int) -> None:
    engine = engines(state)[0]
    if engine.ended < table.num_log:
        ints(state)[table.log + engine.ended] = i
        engine.ended += 1


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
def drop(state: State, table: Table, i: int, status: int, now: float) -> None:
    """The user of request ``i`` gives up: out of the queue now, out of a running step at its end."""
    request = requests(state)[i]
    if request.state == WAITING:
        which = request.lane
        unlink(state, which, request.level, i)
        lanes(state)[which].waiting -= 1
        close(state, table, i, status, now)
        cut(state, table, which // table.lanes_per_unit, now)
    elif request.state in (PREFILL, DECODE):
        request.leaving = status
        u = request.lane // table.lanes_per_unit
        units(state)[u].leaving += 1
        cut(state, table, u, now)


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


@jit
def fits(state: State, table: Table, i: int) -> bool:
    """Whether an empty lane can serve the request from its prompt to its last token."""
    request = requests(state)[i]
    hashed = 0
    if table.block_tokens > 0:
        count = hash_starts(state)[i + 1] - hash_starts(state)[i]
        hashed = min(count, request.input // table.block_tokens)
    tokens = request.input - hashed * table.block_tokens
    if not table.handoff:
        tokens += request.output - 1
    if hashed * table.hash_blocks + blocks_of(tokens, table.block_size) > table.num_blocks:
        return False
    return table.schedule != WHOLE or request.input <= table.max_tokens


@jit
def deliver(state: State, table: Table, i: int, now: float) -> None:
    """Request ``i`` reaches the engine: it joins the queue of a lane."""
    request, engine = requests(state)[i], engines(state)[0]
    which = 0
    if state.num_lanes > 1:
        if table.balance == 0:
            for other in range(1, state.num_lanes):
                if _load(state, other) < _load(state, which):
                    which = other
        else:
            which = engine.turn
            engine.turn = (engine.turn + 1) % state.num_lanes
    if takes_newcomers(state, table, which):
        cut(state, table, which // table.lanes_per_unit, now)
    if not fits(state, table, i):
        close(state, table, i, REFUSED, now)
        return
    append(state, which, request.level, i)
    lanes(state)[which].waiting += 1
    busy = units(state)[which // table.lanes_per_unit].kind in (SPAN, STEP)
    request.came_s = now if table.lag and busy else -INFINITY
    request.lane, request.state, request.replica = which, WAITING, table.replica


@jit
def _load(state: State, which: int) -> int:
    return 4 * lanes(state)[which].waiting + lanes(state)[which].running


@jit
def sample(state: State, table: Table, now: float) -> None:
    """Note the state at all sample times before ``now``; when full, keep every second and double the interval."""
    engine = engines(state)[0]
    if engine.samples * engine.sample_s >= now:
        return
    running, waiting, blocks = 0, 0, 0
    for which in range(state.num_lanes):
        lane = lanes(state)[which]
        running += lane.running
        waiting += lane.waiting
        blocks += table.num_blocks - lane.free - ints(state)[lane.lru_at + COUNT] * table.hash_blocks
    while engine.samples * engine.sample_s < now:
        if engine.samples == table.num_samples:
            for k in range(engine.samples // 2):
                for j in range(3):
                    ints(state)[table.samples + 3 * k + j] = ints(state)[table.samples + 6 * k + j]
            engine.samples //= 2
            engine.sample_s *= 2.0
            continue
        at = table.samples + 3 * engine.samples
        ints(state)[at], ints(state)[at + 1], ints(state)[at + 2] = running, waiting, blocks
        engine.samples += 1


@jit
def soonest(state: State) -> int:
    """The unit whose steps end first."""
    u = 0
    for other in range(1, state.num_units):
        if units(state)[other].end_s < units(state)[u].end_s:
            u = other
    return u


@jit
def _deadlines(state: State, table: Table, i: int, timeout_s: float, cancel_s: float) -> None:
    engine, sent = engines(state)[0], requests(state)[i].sent_s
    if timeout_s < INFINITY:
        push_deadline(floats(state), table.deadlines, engine.deadlines, sent + timeout_s, 2.0 * i)
        engine.deadlines += 1
    if cancel_s < INFINITY:
        push_deadline(floats(state), table.deadlines, engine.deadlines, sent + cancel_s, 2.0 * i + 1.0)
        engine.deadlines += 1


@jit
def _next_deadline(state: State, table: Table) -> float:
    """Time of the next deadline of a request that is still there."""
    engine = engines(state)[0]
    while engine.deadlines > 0:
        what = int(floats(state)[table.deadlines + 1])
        request = requests(state)[what >> 1]
        if request.state != ENDED and (what & 1 or math.isnan(request.first_s)):
            return floats(state)[table.deadlines]
        pop_deadline(floats(state), table.deadlines, engine.deadlines)
        engine.deadlines -= 1
    return INFINITY


@jit
def _run(state: State, table: Table, until: float) -> None:
    engine = engines(state)[0]
    n = state.num_requests
    single = state.num_lanes == 1
    while True:
        u = soonest(state)
        end = units(state)[u].end_s
        arrival = requests(state)[engine.next].sent_s if engine.next < n else INFINITY
        deadline = _next_deadline(state, table) if engine.deadlines > 0 else INFINITY
        now = min(end, arrival, deadline)
        if now == INFINITY or now > until:
            return
        sample(state, table, now)
        if arrival <= now:
            i = engine.next
            engine.next += 1
            if table.num_deadlines > 0:
                cancel = floats(state)[table.cancel_s + i] if table.has_cancel else INFINITY
                _deadlines(state, table, i, table.timeout_s, cancel)
            deliver(state, table, i, now)
        elif deadline <= now:
            what = int(floats(state)[table.deadlines + 1])
            pop_deadline(floats(state), table.deadlines, engine.deadlines)
            engine.deadlines -= 1
            drop(state, table, what >> 1, CANCELLED if what & 1 else TIMED_OUT, now)
        else:
            finish_unit(state, table, u)
            limit = INFINITY
            if single and engine.next < n:  # a boundary after the next arrival is all that is needed
                limit = requests(state)[engine.next].sent_s
            plan_unit(state, table, u, now, limit)


@jit
def _evict(state: State, table: Table, now: float) -> None:
    """The engine stops at once: all its requests are new again, its cache is empty."""
    for u in range(state.num_units):
        _end_ghosts(state, table, u)
    for which in range(state.num_lanes):
        lane = lanes(state)[which]
        for queue in range(table.levels + 1):
            at = lane.queues_at + 2 * queue
            i = ints(state)[at]
            while i != NONE:
                request = requests(state)[i]
                after = request.next
                if request.state == DECODE:
                    leave_decodes(state, table, which, i)
                unlink(state, which, queue, i)
                release(state, table, which, i, 0)
                request.state, request.resumes = NEW, 0
                request.made, request.computed, request.target = 0, 0, request.input
                request.scheduled_s, request.first_s, request.leaving = math.nan, math.nan, NONE
                _log(state, table, i)
                i = after
        lane.running = lane.waiting = 0
        lane.partial = NONE
        lane.taken = lane.tokens = lane.chunks = 0
        clear(state, table, which)
        lane.free = table.num_blocks
    for u in range(state.num_units):
        unit = units(state)[u]
        if unit.kind != IDLE:
            unit.busy_s += max(now - unit.start_s, 0.0)
        unit.kind, unit.steps, unit.end_s, unit.leaving = IDLE, 0, INFINITY, 0


def _entry_points(stamp: int) -> tuple[Any, ...]:
    @keep
    def run(state: State, table: Table, until: float) -> int:
        """Send all requests from their arrivals on, up to ``until``."""
        _run(state, table, until)
        return stamp

    @keep
    def advance(state: State, table: Table, until: float) -> float:
        """End all steps up to ``until`` -> the next end of a step."""
        while True:
            u = soonest(state)
            now = units(state)[u].end_s
            if now > until or now == INFINITY:
                return now if stamp else INFINITY
            sample(state, table, now)
            finish_unit(state, table, u)
            plan_unit(state, table, u, now, INFINITY)

    @keep
    def send(state: State, table: Table, i: int, now: float) -> float:
        """Request ``i`` reaches the engine -> the next end of a step."""
        sample(state, table, now)
        deliver(state, table, i, now)
        return units(state)[soonest(state)].end_s if stamp else INFINITY

    @keep
    def give_up(state: State, table: Table, i: int, status: int, now: float) -> float:
        """The user of request ``i`` leaves -> the next end of a step."""
        sample(state, table, now)
        drop(state, table, i, status, now)
        return units(state)[soonest(state)].end_s if stamp else INFINITY

    @keep
    def fail(state: State, table: Table, now: float) -> int:
        """The engine stops; its requests are in the log."""
        sample(state, table, now)
        _evict(state, table, now)
        return stamp

    @keep
    def found(state: State, table: Table, i: int) -> int:
        """Most leading blocks of request ``i`` that a lane has."""
        most = 0
        for which in range(state.num_lanes):
            most = max(most, match(state, table, which, i))
        return most if stamp else 0

    return run, advance, send, give_up, fail, found


run, advance, send, give_up, fail, found = _entry_points(source_stamp() | 1)
