"""Requests: what users ask of a serving system, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Tokens of one prompt or answer.
MOST_TOKENS = 2**31 - 1
#: Tokens of a request, prompt and answer, that a service is planned for: beyond any model.
LONGEST_REQUEST = 16_777_216
#: Requests of one workload. Each takes some 250 bytes of arrays, so these take 12 GB.
MOST_REQUESTS = 50_000_000
REQUEST_BYTES = 250
#: Times beyond this lose their seconds [s].
FURTHEST_S = 1e15

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def room(count: int) -> str:
    """What so many requests take, and how many may be, in words."""
    return f"needs {count * REQUEST_BYTES / 1e9:,.0f} GB of memory; at most {MOST_REQUESTS:,} are taken"


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """Requests in the order of their arrival; arrays ``[n]``.

    Attributes:
        arrival_s: scheduled arrivals, ascending; latency is counted from here. All zero for a closed loop, where the
            client sends the next request when one of its users has an answer (``users``).
        input_tokens, output_tokens: at least 1.
        users: closed loop: requests under way at a time; 0 = open loop, ``arrival_s`` holds.
        think_s: closed loop: pause of a user between an answer and the next request.
        after: conversations: which request each one follows, -1 = none. It is sent ``pause_s`` after that one is over,
            however it ended; its own arrival says when that would be if answers took no time.
        pause_s: conversations: pause between an answer and the next request.
        block_tokens: tokens of one hashed block of prompts; 0 = no hashes.
        block_hashes: hashes of all prompts' blocks one after the other; equal hashes are equal prefixes. The prompt
            of a trace may have one of its last, partly filled block.
        block_starts: ``[n + 1]`` where each request's hashes begin.
        session: users or conversations for sticky routing; None = each request its own.
        priority: smaller goes first; None = all alike.
        timeout_s: a request that has no first token by then is dropped; None = never.
        cancel_s: a request whose user leaves this long after arrival (inf = stays); None = never.
        measured: requests that count in statistics (warm-up ones do not); None = all.
        warmup: closed loop: the first so many requests run and all end, ``users`` at a time, before the others start
            together.
    """

    arrival_s: FloatArray
    input_tokens: IntArray
    output_tokens: IntArray
    users: int = 0
    think_s: float = 0.0
    after: IntArray | None = None
    pause_s: FloatArray | None = None
    block_tokens: int = 0
    block_hashes: IntArray | None = None
    block_starts: IntArray | None = None
    session: IntArray | None = None
    priority: IntArray | None = None
    timeout_s: float | None = None
    cancel_s: FloatArray | None = None
    measured: NDArray[np.bool_] | None = None
    warmup: int = 0

    def check(self) -> None:
        """Raise ValueError where an arrival is no time or a length no count: sums of wild numbers of a workload."""
        latest = float(self.arrival_s.max()) if len(self) else 0.0
        if not 0.0 <= latest <= FURTHEST_S:
            raise ValueError(f"requests arrive until {latest:g} s; expected at most {FURTHEST_S:g} s")
        for name in ("input_tokens", "output_tokens"):
            values = getattr(self, name)
            if len(self) and not 1 <= int(values.min()) <= int(values.max()) <= MOST_TOKENS:
                raise ValueError(
                    f"{name} of {int(values.max()):,}; expected 1 to {MOST_TOKENS:,} of each request"
                )

    def __len__(self) -> int:
        return int(self.arrival_s.size)
