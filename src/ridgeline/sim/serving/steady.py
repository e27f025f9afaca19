"""Steady state in closed form: what a closed loop of users or a rate of requests makes of an engine.

Prefills interleave with decodes, so the time between tokens is the decode step plus what the prefills of the other
users add to it. Queues of random arrivals are the simulation's business; here everything is at its mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ridgeline.sim.serving.table import FloatArray, StepTable

_ROUNDS = 40
_CLOSE = 1e-4
_NARROW = 1e-9


@dataclass(frozen=True, slots=True)
class Steady:
    """Means of one engine in steady state.

    Attributes:
        ttft_s, tpot_s: from arrival to the first token; between tokens.
        decode_s: a step of decodes alone; prefill_s: what a request's prefill takes in all.
        running, waiting: requests that decode or prefill, and that wait, over all ranks; decoding: that decode.
        output_tokens_per_s: of the engine.
        prefill_share: share of the time between tokens that prefills of others take.
        limit: what holds the number of running requests: users, max_seqs or kv.
    """

    ttft_s: float
    tpot_s: float
    decode_s: float
    prefill_s: float
    running: float
    decoding: float
    waiting: float
    output_tokens_per_s: float
    prefill_share: float
    limit: str


def attention_s(
    table: StepTable, decodes: float, context: float, longest: float = 0.0, *, beside: bool = False
) -> float:
    """Attention of ``decodes`` requests of ``context`` tokens in the mean, ``longest`` at most [s].

    ``beside``: in a step with prefills.
    """
    own_kernel = not (beside and table.mixed_s.size)
    tables = table.decode_s if own_kernel else table.mixed_s
    low = min(int(decodes), table.max_seqs)
    high, part = min(low + 1, table.max_seqs), decodes - int(decodes)
    total = 0.0
    for w, reach in enumerate(table.windows):
        seen = min(context, float(reach))
        rows = tables[w, low], tables[w, high]
        below, above = (float(np.interp(seen, table.contexts, row)) for row in rows)
        even = below + part * (above - below)
        most = min(max(longest, context), float(reach))
        total += max(even, uneven_s(table, w, decodes, seen, most) if own_kernel else 0.0)
    return total


def uneven_s(table: StepTable, window: int, decodes: float, mean: float, longest: float) -> float:
    """Attention of the busiest core where requests are not split over cores [s]: the longest and others."""
    if not table.core_s.size or decodes * table.core_items[window] < table.unsplit:
        return 0.0
    others = math.ceil(decodes * float(table.core_items[window])) - 1
    return float(table.core_s[window]) * (longest + others * mean)


def decode_step_s(table: StepTable, decodes: float, context: float, longest: float = 0.0) -> float:
    """One step of decodes alone, on every rank alike [s]."""
    tokens = decodes * (1 + len(table.acceptance))
    device = _at(table.tokens_s[0], tokens) + _at(table.rows_s, decodes)
    device += attention_s(table, decodes, context, longest) + group_s(table, 0, tokens, tokens)
    hidden = table.host_hidden_s[0] + table.host_hidden_s[1] * decodes
    return max(device, hidden) + table.host_s[0] + table.host_s[1] * decodes


def group_s(table: StepTable, mixed: int, mean_tokens: float, most_tokens: float) -> float:
    """What ranks in lockstep do together [s], by their mean tokens or those of the fullest; 0 for one rank."""
    if not table.group_s.shape[1]:
        return 0.0
    return _at(table.group_s[mixed], most_tokens if most_tokens <= table.pad_tokens else mean_tokens)


def chunk_s(table: StepTable, q: float, kv: float) -> float:
    """Attention of one chunk of a prefill [s]: seconds per pair, bilinear in the logarithms, times the pairs."""
    knots = table.prefill_kv
    step = math.log2(knots[1] / knots[0]) if len(knots) > 1 else 1.0
    x, y = math.log2(max(q, 1.0)) / step, math.log2(max(kv, q, 1.0)) / step
    i = min(int(x), len(table.prefill_q) - 2) if len(table.prefill_q) > 1 else 0
    j = min(int(y), len(table.prefill_kv) - 2)
    u, v = min(x - i, 1.0), min(y - j, 1.0)
    s = table.prefill_s
    per_pair = (1 - u) * ((1 - v) * s[i, j] + v * s[i, j + 1]) + u * (
        (1 - v) * s[i + 1, j] + v * s[i + 1, j + 1]
    )
    return float(per_pair) * q * (kv - (q - 1.0) / 2.0)


def mixed_step_s(
    table: StepTable,
    decodes: float,
    context: float,
    chunks: list[tuple[float, float]],
    prefilling: float | None = None,
) -> float:
    """One step with chunks of prefills ``(q, kv)`` beside decodes [s]; ``prefilling`` ranks have such, or all."""
    own, drafted = sum(q for q, _ in chunks), decodes * (1 + len(table.acceptance))
    device = (
        _at(table.tokens_s[1], drafted + own)
        + _at(table.rows_s, decodes + len(chunks))
        + table.prefill_fixed_s
    )
    device += sum(chunk_s(table, q, kv) for q, kv in chunks)
    if decodes > 0:
        device += attention_s(table, decodes, context, beside=True)
    part = 1.0 if prefilling is None else min(prefilling / table.ranks, 1.0)
    device += group_s(table, 1, drafted + own * part, drafted + own)
    hidden = table.host_hidden_s[0] + table.host_hidden_s[1] * decodes + table.host_launch_s
    return max(device, hidden) + table.host_s[0] + table.host_s[1] * decodes + table.host_s[2]


def _at(values: FloatArray, index: float) -> float:
    """A table by whole numbers, read between them and carried on beyond its end."""
    last = len(values) - 1
    if index >= last:
        return float(values[last] * index / max(last, 1))
    low = int(index)
    return float(values[low] + (index - low) * (values[low + 1] - values[low]))


def prefill_s(
    table: StepTable,
    isl: float,
    decodes: float,
    context: float,
    together: float,
    prefilling: float | None = None,
) -> tuple[float, float]:
    """What one prefill takes from first to last chunk, and what it adds to the steps of decodes beside it [s].

    ``together``: prefills that share a step where the budget allows. ``prefilling``: ranks that prefill in such a step.
    """
    if table.schedule == "prefill_first":
        count = max(1.0, min(together, table.max_tokens / isl))
        chunks = _chunks(isl, float(table.max_tokens), count)
        took = sum(mixed_step_s(table, 0.0, context, step, prefilling) for step in chunks)
        return took, took / count
    budget = _budget(table, decodes)
    count = max(1.0, min(together, budget / isl))
    chunks = _chunks(isl, budget if table.schedule == "chunked" else max(isl, budget), count)
    base = decode_step_s(table, decodes, context) if decodes >= 1 else 0.0
    took = sum(mixed_step_s(table, decodes, context, step, prefilling) for step in chunks)
    return took, max(took - len(chunks) * base, 0.0) / count


def _budget(table: StepTable, decodes: float) -> float:
    """Tokens that ``decodes`` decodes leave to prefills in a step."""
    drafts = 1 + len(table.acceptance)
    return max(table.max_tokens - decodes * drafts, table.max_tokens * 0.05)


def _chunks(isl: float, budget: float, count: float) -> list[list[tuple[float, float]]]:
    """Steps of ``count`` equal prompts prefilled together, or of one in chunks of the budget."""
    if isl <= budget:
        whole = int(count)
        part = [(isl * (count - whole), isl * (count - whole))] if count - whole > 0.05 else []
        return [[(isl, isl)] * max(whole, 1) + part]
    steps, done = [], 0.0
    while done < isl - 0.5:
        q = min(budget, isl - done)
        done += q
        steps.append([(q, done)])
    return steps


@dataclass(frozen=True, slots=True)
class _Loop:
    """A closed loop on one rank: ``users`` of it, ``running`` of them at a time."""

    table: StepTable
    isl: float
    osl: float
    users: float
    running: float

    def at(self, decodes: float) -> _Round:
        """What ``decodes`` decoding requests make of a step, and how many would decode at that pace."""
        table, isl, osl, running = self.table, self.isl, self.osl, self.running
        made, context = 1.0 + _extra(table), isl + osl / 2.0
        step = decode_step_s(table, max(decodes, 1.0), context, isl + osl)
        steps = max(osl - 1.0, 1.0) / made  # of one request
        begun = decodes / steps if self.users > 1.0 else 0.0  # prefills that begin in a step
        # ranks in lockstep wait for each other's prefills, those of one step at a time
        busy = min(begun * max(isl / table.max_tokens, 1.0), 1.0)
        some = 1.0 - (1.0 - busy) ** table.ranks if busy < 1.0 else 1.0
        prefilling = table.ranks * busy / some if some > 0.0 else 1.0
        beside = decodes - 1.0 if decodes > 1 else 0.0
        took, added = prefill_s(table, isl, beside, context, max(begun, 1.0), prefilling)
        alone = (running * table.ranks - 1.0) / max(running * table.ranks, 1.0)
        others = begun * (some / busy if busy > 0.0 else 1.0) * alone
        wait = others * added
        if table.schedule == "chunked":
            # a step takes no more of prompts than its budget leaves; the others queue
            wait = min(wait, added * _budget(table, beside) / isl)
        between = step + wait
        tpot = between / made
        first = (
            took + (between * (0.5 + table.lag) if running > 1 else 0.0) + max(begun - 1.0, 0.0) * 0.5 * added
        )
        share = tpot * (osl - 1.0) / (tpot * (osl - 1.0) + first) if osl > 1 else 0.0
        # one thing at a time: while all come by once, a rank does each one's prefill and the steps of a decode
        turn = running * added + (steps * step if osl > 1 else 0.0)
        target = max(running * share, min(running, 1e-3))
        return _Round(decodes, target, step, took, between, tpot, first, turn - tpot * (osl - 1.0))


class _Round(NamedTuple):
    """One try of `_Loop`: requests that decode, how many that leads to, and seconds."""

    decodes: float
    target: float
    step_s: float
    prefill_s: float
    between_s: float
    tpot_s: float
    first_s: float
    turn_s: float  # least time to the first token of requests that take turns at one engine


def closed_loop(table: StepTable, isl: float, osl: float, users: float) -> Steady:
    """Means with ``users`` requests under way at all times, spread evenly over ranks and pipeline stages.

    Fixed point of the running batch: with ``d`` decodes a rank, ``d / osl`` prefills begin in every step, so::

        tpot = decode_step(d) + d / osl x added(prefill)          d = running x share of life spent decoding
    """
    lanes = table.ranks * table.stages
    each = users / lanes
    stay = isl + osl / 2.0
    most_kv = table.num_blocks * table.block_size / max(stay, 1.0) / table.stages
    running = min(each, float(table.max_seqs), most_kv)
    limit = "users" if running == each else "kv" if running == most_kv else "max_seqs"
    if most_kv < 1.0 and table.num_blocks * table.block_size < isl + osl:
        raise ValueError(f"a request of {isl + osl:.0f} tokens does not fit in the cache of one rank")
    running = max(running, min(each, 1.0))
    found = _settled(_Loop(table, isl, osl, each, running))
    # own prefills are left out of the time between tokens; that they take the engine's time shows before the first
    first = max(found.first_s, found.turn_s)
    life = found.tpot_s * (osl - 1.0) + first + table.frontend_s
    rate = running / life * lanes
    waiting = max(each - running, 0.0) * lanes
    wait = waiting / rate if waiting else 0.0
    return Steady(
        ttft_s=first + wait + table.frontend_s,
        tpot_s=found.tpot_s,
        decode_s=found.step_s,
        prefill_s=found.prefill_s,
        running=running * lanes,
        decoding=max(found.decodes, 1.0) * lanes,
        waiting=waiting,
        output_tokens_per_s=rate * osl,
        prefill_share=1.0 - found.step_s / found.between_s if found.between_s > 0 else 0.0,
        limit=limit,
    )


def _settled(loop: _Loop) -> _Round:
    """The round whose decodes are those it leads to: by secants, which settle in a few rounds, or by halves."""
    decodes = loop.running
    before: tuple[float, float] | None = None  # decodes of the round before, and how far they were off
    for _ in range(_ROUNDS):
        found = loop.at(decodes)
        off = found.target - decodes
        if abs(off) < _CLOSE * max(found.target, 1e-3):
            return found
        at, decodes = decodes, _nearer(decodes, off, before, loop.running)
        before = at, off
    return _bisected(loop)


def _bisected(loop: _Loop) -> _Round:
    """The fixed point between no decodes, which lead to some, and all that run, which lead to fewer.

    Whole chunks and whole prompts of a step make jumps, and the fixed point may lie on one: more decodes than there
    are on one side of it, fewer on the other. The engine then goes back and forth between both, and is on each side for
    the time that makes the mean its own.
    """
    low, high = 0.0, loop.running
    below, above = loop.at(low), loop.at(high)
    while high - low > _NARROW * high:
        middle = 0.5 * (low + high)
        found = loop.at(middle)
        if found.target > middle:
            low, below = middle, found
        else:
            high, above = middle, found
    over, under = below.target - low, high - above.target
    part = over / (over + under) if over + under > 0.0 else 1.0
    return _Round(*(x + part * (y - x) for x, y in zip(below, above, strict=True)))


def _nearer(decodes: float, off: float, before: tuple[float, float] | None, most: float) -> float:
    """The next guess of a fixed point: the secant's, or half-way where that leads away or out of bounds."""
    if before is not None and off != before[1]:
        step = -off * (decodes - before[0]) / (off - before[1])
        if step * off > 0.0 and 0.0 < decodes + step <= most:
            return decodes + step
    return decodes + 0.5 * off


def _extra(table: StepTable) -> float:
    """Accepted drafts of a step, mean."""
    total, alive = 0.0, 1.0
    for chance in table.acceptance:
        alive *= chance
        total += alive
    return total
