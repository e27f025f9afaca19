"""The schedulers in plain Python, one iteration at a time: the page to read, and what the fast loop is held to.

The tests run both over the same requests and expect the same times. Beside nano-vllm's `scheduler.py` it adds chunks,
prefixes that are dropped least recently used first, planning one step ahead, and the step time of a `StepTable`. One
lane, no speculation, no tiers; preemption recomputes.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.table import StepTable

NEW_TOKEN_RATIO = 0.098


@dataclass(slots=True, eq=False)
class Sequence:
    """One request inside the engine."""

    index: int
    input: int
    output: int
    hashes: list[int] = field(default_factory=list)  # of full blocks of the prompt
    level: int = 0
    made: int = 0
    computed: int = 0  # tokens in KV
    target: int = 0  # tokens to prefill
    blocks: int = 0  # of its own
    shares: bool = False  # holds its hashed blocks
    last_s: float = math.nan
    preemptions: int = 0
    came_s: float = -math.inf  # while the engine was busy

    @property
    def prefilling(self) -> bool:
        return self.computed < self.target


@dataclass(slots=True, eq=False)
class Blocks:
    """KV blocks and the prefix cache: hash -> users; unused ones in order of their last use."""

    free: int
    block_size: int
    block_tokens: int
    users: dict[int, int] = field(default_factory=dict)
    unused: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def each(self) -> int:
        return -(-self.block_tokens // self.block_size)

    @property
    def available(self) -> int:
        return self.free + len(self.unused) * self.each

    def take(self, blocks: int) -> None:
        while self.free < blocks:
            oldest, _ = self.unused.popitem(last=False)
            del self.users[oldest]
            self.free += self.each
        self.free -= blocks

    def of(self, seq: Sequence, tokens: int) -> int:
        """Blocks of its own that ``tokens`` tokens of a sequence take."""
        return -(-max(tokens - len(seq.hashes) * self.block_tokens, 0) // self.block_size)

    def hits(self, seq: Sequence) -> int:
        """Leading blocks that are there; the last token is always computed."""
        most = len(seq.hashes) - (len(seq.hashes) * self.block_tokens >= seq.target)
        count = 0
        while count < most and seq.hashes[count] in self.users:
            count += 1
        return count

    def admit(self, seq: Sequence, tokens: int, spare: int) -> bool:
        new = [h for h in seq.hashes if h not in self.users]
        unused = sum(h in self.unused for h in seq.hashes)
        own = self.of(seq, tokens)
        if own + len(new) * self.each + spare > self.available - unused * self.each:
            return False
        seq.computed = self.hits(seq) * self.block_tokens
        for h in seq.hashes:
            if h in self.users:
                self.users[h] += 1
                self.unused.pop(h, None)
        self.take(own + len(new) * self.each)
        self.users.update(dict.fromkeys(new, 1))
        seq.blocks, seq.shares = own, True
        return True

    def release(self, seq: Sequence) -> None:
        self.free += seq.blocks
        seq.blocks = 0
        for j in range(len(seq.hashes) - 1, -1, -1):
            h = seq.hashes[j]
            self.users[h] -= 1
            if self.users[h] == 0:
                if (j + 1) * self.block_tokens <= seq.computed:
                    self.unused[h] = None
                else:
                    del self.users[h]
                    self.free += self.each
        seq.shares = False


class Scheduler:
    """Chooses each step; ``chunks`` and ``decodes`` are its last choice."""

    def __init__(self, table: StepTable, block_tokens: int = 0) -> None:
        self.table = table
        self.blocks = Blocks(table.num_blocks, table.block_size, block_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of admission
        self.ghosts: list[Sequence] = []  # over, but known to be so only by the plan after the next
        self.sees_s = math.inf

    def schedule(self, sees_s: float) -> tuple[list[tuple[Sequence, int]], list[Sequence], int]:
        """Plan with what came before ``sees_s``, or, where that is nothing to do, with all that is there.

        -> prefill chunks, requests that decode, how many requests are new.
        """
        self.sees_s = sees_s
        chunks, decodes, new = self.choose()
        self.end_ghosts()
        return (chunks, decodes, new) if chunks or decodes or sees_s == math.inf else self.schedule(math.inf)

    def end(self, seq: Sequence) -> None:
        self.running.remove(seq)
        self.ghosts.append(seq)
        if self.table.lag == 0:
            self.end_ghosts()

    def end_ghosts(self) -> None:
        for seq in self.ghosts:
            self.blocks.release(seq)
        self.ghosts = []

    def choose(self) -> tuple[list[tuple[Sequence, int]], list[Sequence], int]:
        if self.table.schedule == "prefill_first":
            chunks, new = self.enter(self.table.max_tokens, 0)
            if chunks:
                return chunks, [], new
            self.make_room()
        else:
            before = len(self.running)
            need = self.make_room()
            budget = self.table.max_tokens - len(self.decoding)
            chunks, new = self.enter(budget, need, len(self.running) == before)
        decodes = self.decoding
        for seq in decodes:
            missing = self.missing(seq)
            self.blocks.take(missing)
            seq.blocks += missing
        return chunks, decodes, new

    @property
    def decoding(self) -> list[Sequence]:
        return [seq for seq in self.running if not seq.prefilling]

    def missing(self, seq: Sequence) -> int:
        if self.table.schedule == "whole":
            return 0  # all of them were taken when it entered
        return self.blocks.of(seq, seq.input + seq.made) - seq.blocks

    def make_room(self) -> int:
        while (need := sum(map(self.missing, self.decoding))) > self.blocks.available:
            level = max(seq.level for seq in self.running)
            last = [seq for seq in self.running if seq.level == level][-1]
            self.running.remove(last)
            self.blocks.release(last)
            last.computed, last.target = 0, last.input + last.made
            last.preemptions += 1
            self.push(last, front=True)
        return need

    def push(self, seq: Sequence, front: bool = False) -> None:
        """Into the queue, which is in order of levels."""
        ahead = [
            other.level < seq.level or (other.level == seq.level and not front) for other in self.waiting
        ]
        self.waiting.insert(sum(ahead), seq)

    def enter(self, budget: int, need: int, newcomers: bool = True) -> tuple[list[tuple[Sequence, int]], int]:
        chunks: list[tuple[Sequence, int]] = []
        for seq in self.running:
            if seq.prefilling and budget > 0:
                chunks.append((seq, min(seq.target - seq.computed, budget)))
                budget -= chunks[-1][1]
        new = 0
        while newcomers and budget > 0 and len(self.running) + len(self.ghosts) < self.table.max_seqs:
            seen = [seq for seq in self.waiting if seq.came_s < self.sees_s]
            if not seen:
                break
            seq = seen[0]
            tokens = seq.target
            if self.table.schedule == "whole":
                if tokens - self.blocks.hits(seq) * self.blocks.block_tokens > budget:
                    break
                tokens = seq.input + seq.output - 1
            if not self.blocks.admit(seq, tokens, self.reserve(seq, need)):
                break
            self.waiting.remove(seq)
            self.running.append(seq)
            chunks.append((seq, min(seq.target - seq.computed, budget)))
            budget -= chunks[-1][1]
            new += 1
        return chunks, new

    def reserve(self, newcomer: Sequence, need: int) -> int:
        if self.table.schedule != "prefill_first" or not self.running:
            return need
        left = sum(seq.output - seq.made for seq in self.running)
        tokens = newcomer.output - newcomer.made + int(NEW_TOKEN_RATIO * left)
        return -(-tokens // self.table.block_size)


def step_seconds(
    table: StepTable, contexts: list[int], chunks: list[tuple[int, int]], rows: int, new: int
) -> float:
    """One step: ``contexts`` of its decodes, ``chunks`` of new tokens and keys they see, as `StepTable` says.

    Ranks in lockstep are taken to do alike.
    """
    d, n = len(contexts), len(contexts) * (1 + len(table.acceptance)) + sum(q for q, _ in chunks)
    device = float(table.tokens_s[1 if chunks else 0, n] + table.rows_s[rows])
    if table.group_s.shape[1]:
        device += float(table.group_s[1 if chunks else 0, n])
    beside = table.mixed_s.size > 0 and bool(chunks)
    tables = table.mixed_s if beside else table.decode_s
    for w, window in enumerate(table.windows):
        if d:
            mean = float(np.mean(np.minimum(contexts, window)))
            longest = min(max(contexts), window)
            slowest = float(
                np.interp(longest, table.contexts, tables[w, 1] if beside else table.longest_s[w])
            )
            if not beside and table.core_s.size and d * table.core_items[w] >= table.unsplit:
                others = math.ceil(d * table.core_items[w]) - 1
                slowest = max(slowest, float(table.core_s[w]) * (longest + others * mean))
            device += max(float(np.interp(mean, table.contexts, tables[w, d])), slowest)
    for q, kv in chunks:
        device += q * (kv - (q - 1) / 2) * _per_pair(table, math.log2(q), math.log2(kv))
    device += table.prefill_fixed_s if chunks else 0.0
    hidden = table.host_hidden_s[0] + table.host_hidden_s[1] * d + (table.host_launch_s if chunks else 0.0)
    return max(device, hidden) + table.host_s[0] + table.host_s[1] * rows + (table.host_s[2] if new else 0.0)


def _per_pair(table: StepTable, q: float, kv: float) -> float:
    by_q = [float(np.interp(kv, np.log2(table.prefill_kv), row)) for row in table.prefill_s]
    return float(np.interp(q, np.log2(table.prefill_q), by_q))


def simulate_plainly(
    requests: Requests, table: StepTable
) -> tuple[list[float], list[float], list[int], list[float]]:
    """Open loop, step by step -> first tokens, last tokens, preemptions, and all gaps between tokens."""
    n = len(requests)
    first, last, preemptions, gaps = [math.nan] * n, [math.nan] * n, [0] * n, [0.0] * 0
    scheduler, following, now = Scheduler(table, requests.block_tokens), 0, 0.0
    sees_s = math.inf
    while following < n or scheduler.waiting or scheduler.running:
        idle = not scheduler.waiting and not scheduler.running
        if idle:
            scheduler.end_ghosts()
            now = max(now, float(requests.arrival_s[following]))
        while following < n and requests.arrival_s[following] <= now:
            came_s = -math.inf if idle else float(requests.arrival_s[following])
            scheduler.push(_sequence(requests, following, came_s))
            following += 1
        chunks, decodes, new = scheduler.schedule(sees_s)
        sees_s = now if table.lag else math.inf
        contexts = [seq.input + seq.made for seq in decodes]
        rows = len(decodes) + sum(seq.computed + q == seq.target for seq, q in chunks)
        now += step_seconds(table, contexts, [(q, seq.computed + q) for seq, q in chunks], rows, new)
        for seq, q in chunks:
            seq.computed += q
        for seq in decodes:  # the token it was given is in KV now
            seq.computed = seq.target = seq.input + seq.made
        for seq in decodes + [seq for seq, _ in chunks if not seq.prefilling]:
            seq.made += 1
            if seq.made == 1:
                first[seq.index] = now
            else:
                gaps.append(now - seq.last_s)
            seq.last_s = now
            if seq.made == seq.output:
                last[seq.index], preemptions[seq.index] = now, seq.preemptions
                scheduler.end(seq)
    return first, last, preemptions, gaps


def _sequence(requests: Requests, i: int, came_s: float) -> Sequence:
    seq = Sequence(i, int(requests.input_tokens[i]), int(requests.output_tokens[i]), came_s=came_s)
    seq.target = seq.input
    if requests.priority is not None:
        seq.level = int(requests.priority[i])
    if requests.block_hashes is not None and requests.block_starts is not None:
        hashes = requests.block_hashes[requests.block_starts[i] : requests.block_starts[i + 1]]
        seq.hashes = [int(h) for h in hashes[: seq.input // requests.block_tokens]]
    return seq
