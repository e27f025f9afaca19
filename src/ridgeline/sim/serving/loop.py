# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""The event loop of one engine: arrivals, deadlines and the ends of steps, in order of time.

What happens depends on these events alone, never on how far the caller asks the loop to go.
"""

from __future__ import annotations

import math

from ridgeline.sim.serving.end import close, log
from ridgeline.sim.serving.jit import (
    engines,
    floats,
    hash_starts,
    ints,
    jit,
    keep,
    lanes,
    requests,
    units,
)
from ridgeline.sim.serving.kv import COUNT, blocks_of, clear, match, release
from ridgeline.sim.serving.outcome import CANCELLED, REFUSED, TIMED_OUT
from ridgeline.sim.serving.queues import append, leave_decodes, pop_deadline, push_deadline, unlink
from ridgeline.sim.serving.state import (
    DECODE,
    ENDED,
    IDLE,
    NEW,
    NONE,
    PREFILL,
    SPAN,
    STEP,
    WAITING,
    WHOLE,
    State,
    Table,
)
from ridgeline.sim.serving.unit import cut, end_ghosts, finish_unit, plan_unit, takes_newcomers

INFINITY = math.inf


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
        end_ghosts(state, table, u)
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
                log(state, table, i)
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


@keep
def run(state: State, table: Table, until: float) -> None:
    """Send all requests from their arrivals on, up to ``until``."""
    _run(state, table, until)


@keep
def advance(state: State, table: Table, until: float) -> float:
    """End all steps up to ``until`` -> the next end of a step."""
    while True:
        u = soonest(state)
        now = units(state)[u].end_s
        if now > until or now == INFINITY:
            return now
        sample(state, table, now)
        finish_unit(state, table, u)
        plan_unit(state, table, u, now, INFINITY)


@keep
def send(state: State, table: Table, i: int, now: float) -> float:
    """Request ``i`` reaches the engine -> the next end of a step."""
    sample(state, table, now)
    deliver(state, table, i, now)
    return units(state)[soonest(state)].end_s


@keep
def give_up(state: State, table: Table, i: int, status: int, now: float) -> float:
    """The user of request ``i`` leaves -> the next end of a step."""
    sample(state, table, now)
    drop(state, table, i, status, now)
    return units(state)[soonest(state)].end_s


@keep
def fail(state: State, table: Table, now: float) -> None:
    """The engine stops; its requests are in the log."""
    sample(state, table, now)
    _evict(state, table, now)


@keep
def found(state: State, table: Table, i: int) -> int:
    """Most leading blocks of request ``i`` that a lane has."""
    most = 0
    for which in range(state.num_lanes):
        most = max(most, match(state, table, which, i))
    return most
