# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""The end of a request: what it held is given back, and in a closed loop the next one is sent."""

from __future__ import annotations

from ridgeline.sim.serving.jit import engines, ints, jit, lanes, requests
from ridgeline.sim.serving.kv import release
from ridgeline.sim.serving.outcome import DONE
from ridgeline.sim.serving.queues import unlink
from ridgeline.sim.serving.state import ENDED, HANDED, NEW, NONE, PREFILL, State, Table, sent_after

_sent_after = jit(sent_after)


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
        log(state, table, i)
    else:
        close(state, table, i, status, now)


@jit
def close(state: State, table: Table, i: int, status: int, now: float) -> None:
    """The request is over; in a closed loop its user sends the next one after thinking."""
    request, engine = requests(state)[i], engines(state)[0]
    request.state, request.status, request.replica = ENDED, status, table.replica
    if status == DONE:
        request.finish_s = now
    log(state, table, i)
    if table.users > 0:
        first, last = _sent_after(engine.closed, table.users, table.warmup, state.num_requests)
        engine.closed += 1
        pause = 0.0 if engine.closed == table.warmup else table.think_s
        for following in range(first, last):
            requests(state)[following].sent_s = now + pause


@jit
def log(state: State, table: Table, i: int) -> None:
    """Note that request ``i`` has ended, where such a list is kept."""
    engine = engines(state)[0]
    if engine.ended < table.num_log:
        ints(state)[table.log + engine.ended] = i
        engine.ended += 1
