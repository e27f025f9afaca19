# Fields of records have no type that a checker sees.
# mypy: disable-error-code="no-any-return"
"""Time of a step, and of a span of decode steps between events, in closed form.

While the same requests decode, every context grows by one per step, so the sums of contexts grow linearly and the
time of a step is piecewise linear in the number of steps done: linear between two knots of the table and between
two changes of what is longest (lanes in lockstep, the host, the longest context alone). `walk` adds arithmetic
series piece by piece and inverts the last one to find the first boundary after a time.
"""

from __future__ import annotations

import math

from ridgeline.sim.serving.jit import engines, floats, ints, jit, lanes, requests, units
from ridgeline.sim.serving.state import ITL_EDGES, FloatArray, State, Table

FAR = 1 << 60


@jit
def knot(numbers: FloatArray, first: int, size: int, at: float) -> int:
    """Index i of the piece [knots[i], knots[i + 1]) that holds ``at``; the outer pieces go on beyond their ends."""
    low, high = 0, size - 1
    while high - low > 1:
        middle = (low + high) >> 1
        if numbers[first + middle] <= at:
            low = middle
        else:
            high = middle
    return low


@jit
def steps_within(distance: float, speed: float) -> int:
    """Steps from 0 on whose position ``speed * step`` does not exceed ``distance``; at least one."""
    if speed <= 0.0 or distance >= 1e15 * speed:
        return FAR
    return int(max(distance, 0.0) / speed) + 1


@jit
def piece(
    numbers: FloatArray, table: Table, values: int, at: float, speed: float
) -> tuple[float, float, int]:
    """Interpolated value at context ``at``; growth per step when that grows by ``speed``; steps to the next knot."""
    if table.num_contexts == 1:
        return numbers[values], 0.0, FAR
    i = knot(numbers, table.contexts, table.num_contexts, at)
    low, high = numbers[table.contexts + i], numbers[table.contexts + i + 1]
    slope = (numbers[values + i + 1] - numbers[values + i]) / (high - low)
    room = FAR if i >= table.num_contexts - 2 else steps_within(high - at, speed)
    return numbers[values + i] + (at - low) * slope, slope * speed, room


@jit
def upper(v: float, s: float, room: int, v2: float, s2: float, room2: int) -> tuple[float, float, int]:
    """The larger of two lines ``v + s k``, and for how many steps it stays that."""
    room = min(room, room2)
    if v2 > v or (v2 == v and s2 > s):
        v, s, v2, s2 = v2, s2, v, s
    if s2 > s:
        room = min(room, steps_within(v - v2, s2 - s))
    return v, s, room


@jit
def decode_line(state: State, table: Table, which: int, k: int) -> tuple[float, float, int]:
    """Attention of the decodes of lane ``which``, ``k`` steps on: seconds, growth per step, steps it stays linear."""
    lane = lanes(state)[which]
    d = lane.decoding
    beside = table.has_mixed != 0 and lane.chunks > 0
    tables = table.mixed_s if beside else table.decode_s
    value, slope, room = 0.0, 0.0, FAR
    for w in range(table.num_windows):
        window = floats(state)[table.windows + w]
        if math.isinf(window):
            total, grows = lane.contexts + d * k, 1.0
        else:
            total, grows = (
                ints(state)[lane.sums_at + w] + ints(state)[lane.below_at + w] * k,
                ints(state)[lane.below_at + w] / d,
            )
        v, s, r = piece(
            floats(state),
            table,
            tables + (w * table.decode_rows + d) * table.num_contexts,
            total / d,
            grows,
        )
        if table.has_longest or beside:
            longest = float(lane.longest + lane.counter + k)
            alone = min(longest, window)
            speed = 1.0 if longest < window else 0.0
            one = table.longest_s + w * table.num_contexts
            if beside:
                one = tables + (w * table.decode_rows + 1) * table.num_contexts
            v2, s2, r2 = piece(floats(state), table, one, alone, speed)
            v, s, r = upper(v, s, r, v2, s2, min(r2, steps_within(window - longest, speed)))
            items = floats(state)[table.core_items + w] * d
            if items >= table.unsplit and not beside:
                each, others = floats(state)[table.core_s + w], math.ceil(items) - 1
                v2, s2 = each * (alone + others * (total / d)), each * (speed + others * grows)
                v, s, r = upper(v, s, r, v2, s2, steps_within(window - longest, speed))
        value += v
        slope += s
        room = min(room, r)
    return value, slope, room


@jit
def position(numbers: FloatArray, first: int, size: int, at: float) -> tuple[int, float]:
    """Index of the knot below ``at`` and the share of the way to the next one, inside the table."""
    if size == 1:
        return 0, 0.0
    i = knot(numbers, first, size, at)
    low, high = numbers[first + i], numbers[first + i + 1]
    return i, min(max((at - low) / (high - low), 0.0), 1.0)


@jit
def prefill_seconds(numbers: FloatArray, table: Table, q: int, kv: int) -> tuple[float, float]:
    """Attention of a chunk of ``q`` new tokens that see ``kv`` keys: seconds, computed pairs."""
    pairs = q * (kv - 0.5 * (q - 1))
    i, x = position(numbers, table.prefill_q, table.num_q, math.log2(q))
    j, y = position(numbers, table.prefill_kv, table.num_kv, math.log2(kv))
    right = 1 if table.num_kv > 1 else 0
    low = table.prefill_s + i * table.num_kv + j
    high = low + table.num_kv if table.num_q > 1 else low
    near = numbers[low] * (1.0 - y) + numbers[low + right] * y
    far = numbers[high] * (1.0 - y) + numbers[high + right] * y
    return pairs * (near * (1.0 - x) + far * x), pairs


@jit
def lane_line(state: State, table: Table, which: int, k: int, together_s: float) -> tuple[float, float, int]:
    """The planned step of lane ``which``, ``k`` steps on, host, transfers and what all lanes do together included."""
    lane = lanes(state)[which]
    value, slope, room = 0.0, 0.0, FAR
    d = 0
    if lane.decodes > 0:
        d = lane.decoding
        value, slope, room = decode_line(state, table, which, k)
    rows = d + lane.rows
    mixed = 1 if lane.chunks > 0 else 0
    value += floats(state)[table.tokens_s + mixed * table.tokens + min(lane.tokens, table.tokens - 1)]
    value += floats(state)[table.rows_s + min(rows, table.rows - 1)] + lane.prefill_s + mixed * table.fixed_s
    hidden = table.hidden_s + table.hidden_seq_s * d + mixed * table.launch_s
    value, slope, room = upper(value + together_s, slope, room, hidden, 0.0, FAR)
    host = table.host_s + table.host_row_s * rows + (table.host_new_s if lane.entering > 0 else 0.0)
    return value + host + lane.extra_s, slope, room


@jit
def unit_line(state: State, table: Table, u: int, k: int) -> tuple[float, float, int]:
    """The same of a unit: its slowest lane, and what all do together; idle ones run along."""
    first = u * table.lanes_per_unit
    value, slope, room = 0.0, 0.0, FAR
    together_s = _together(state, table, first) if table.group > 0 else 0.0
    for which in range(first, first + table.lanes_per_unit):
        if lanes(state)[which].tokens > 0:
            v, s, r = lane_line(state, table, which, k, together_s)
            value, slope, room = upper(value, slope, room, v, s, r)
    return value, slope, room


@jit
def _together(state: State, table: Table, first: int) -> float:
    """What all lanes of a unit do together in the planned step [s]: by their mean tokens, or those of the fullest."""
    tokens, most, mixed = 0, 0, 0
    for which in range(first, first + table.lanes_per_unit):
        lane = lanes(state)[which]
        if lane.tokens > 0:
            tokens += lane.tokens
            most = max(most, lane.tokens)
            mixed = 1 if lane.chunks > 0 else mixed
    each = most if most <= table.pad_tokens else -(-tokens // table.lanes_per_unit)
    return floats(state)[table.group_s + mixed * table.group + min(each, table.group - 1)]


@jit
def walk(state: State, table: Table, u: int, steps: int, limit: float, record: bool) -> tuple[int, float]:
    """Run ``steps`` planned steps of unit ``u``, or up to the first boundary at or after ``limit``.

    -> steps, time of that boundary. With ``record``, gaps between tokens enter the histogram.
    """
    done, now = 0, units(state)[u].start_s
    while done < steps:
        value, slope, room = unit_line(state, table, u, done)
        n = min(room, steps - done)
        end = now + n * value + slope * (0.5 * n * (n - 1))
        stop = end >= limit
        if stop:
            n = _first_after(limit - now, value, slope, n)
            end = now + n * value + slope * (0.5 * n * (n - 1))
        if record:
            _record(state, table, u, done, now, value, slope, n)
        done += n
        now = end
        if stop:
            break
    return done, now


@jit
def _first_after(target: float, value: float, slope: float, most: int) -> int:
    """Smallest n in [1, most] with ``n value + slope n (n - 1) / 2 >= target``."""
    if slope == 0.0:
        guess = target / value
    else:
        b = value - 0.5 * slope
        guess = 2.0 * target / (b + math.sqrt(max(b * b + 2.0 * slope * target, 0.0)))
    n = min(max(int(guess) + 1, 1), most)
    while n > 1 and (n - 1) * value + slope * (0.5 * (n - 1) * (n - 2)) >= target:
        n -= 1
    while n < most and n * value + slope * (0.5 * n * (n - 1)) < target:
        n += 1
    return n


@jit
def _record(
    state: State, table: Table, u: int, done: int, now: float, value: float, slope: float, n: int
) -> None:
    """Gaps of ``n`` steps; in the first step of a span requests may have waited since different times."""
    first = u * table.lanes_per_unit
    count, since = 0, 0
    for which in range(first, first + table.lanes_per_unit):
        lane = lanes(state)[which]
        if lane.decodes == 0:
            continue
        count += lane.decoding
        if done == 0:
            since = 1
            if lane.decoding > lane.fresh:
                add_gaps(state, table, now + value - lane.last_s, lane.decoding - lane.fresh)
            for i in range(lane.fresh):
                add_gaps(
                    state, table, now + value - requests(state)[ints(state)[lane.fresh_at + i]].last_s, 1
                )
    if count == 0:
        return
    k = since
    while k < n:
        gap = value + slope * k
        bin = gap_bin(state, table, gap)
        same = n - k
        if slope > 0.0 and bin < ITL_EDGES:
            same = min(same, max(1, math.ceil((floats(state)[table.edges + bin] - gap) / slope)))
        elif slope < 0.0:
            same = 1
        ints(state)[table.gaps + bin] += same * count
        k += same


@jit
def gap_bin(state: State, table: Table, gap: float) -> int:
    """Number of edges at or below ``gap``; most gaps are in the bin of the one before."""
    edges = floats(state)[table.edges : table.edges + ITL_EDGES]
    bin = engines(state)[0].bin
    if (bin == 0 or edges[bin - 1] <= gap) and (bin == ITL_EDGES or gap < edges[bin]):
        return bin
    low, high = 0, ITL_EDGES
    while low < high:
        middle = (low + high) >> 1
        if edges[middle] <= gap:
            low = middle + 1
        else:
            high = middle
    engines(state)[0].bin = low
    return low


@jit
def add_gaps(state: State, table: Table, gap: float, count: int) -> None:
    """``count`` gaps between tokens of ``gap`` seconds."""
    ints(state)[table.gaps + gap_bin(state, table, gap)] += count
