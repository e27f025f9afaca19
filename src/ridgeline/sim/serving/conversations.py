"""Conversations: which request is which turn of which session, and the blocks of text that prompts share.

The text of a session only grows: ``system prompt, input 1, answer 1, input 2, ...``. The prompt of a turn is a
beginning of it, so block ``j`` of all its turns is the same block; within the system prompt it is the same for all
sessions that have this prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.traffic import Sessions

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Number = TypeVar("Number", np.int64, np.float64)

#: 0.4 GB of hashes, and about five times that while they are made.
MOST_HASHES = 50_000_000


@dataclass(frozen=True, slots=True)
class Turns:
    """Arrays ``[n]`` by request, session after session."""

    session: IntArray
    turn: IntArray  # from 0
    wait_s: FloatArray  # from the session's arrival to the send of this turn


def turns_of(sessions: Sessions | None, count: int, rng: np.random.Generator) -> Turns:
    """At least ``count`` turns in whole sessions; None = sessions of one turn."""
    if sessions is None:
        return Turns(np.arange(count), np.zeros(count, dtype=np.int64), np.zeros(count))
    most = count if sessions.varied else -(-count // sessions.turns)
    sizes = rng.geometric(1.0 / sessions.turns, most) if sessions.varied else np.full(most, sessions.turns)
    sizes = sizes[: int(np.searchsorted(np.cumsum(sizes), count)) + 1].astype(np.int64)
    session = np.repeat(np.arange(sizes.size), sizes)
    starts = np.cumsum(sizes) - sizes
    turn = np.arange(session.size) - starts[session]
    gaps = sessions.gap_s * rng.standard_exponential(session.size)
    gaps[starts] = 0.0
    return Turns(session, turn, _running(gaps, starts, session))


def prompts_of(turns: Turns, system_tokens: int, new: IntArray, output: IntArray) -> IntArray:
    """Prompt tokens ``[n]``: system prompt, earlier inputs and answers, and the new input."""
    starts = np.flatnonzero(turns.turn == 0)
    return system_tokens + _running(new + output, starts, turns.session) - output


def _running(values: NDArray[Number], starts: IntArray, session: IntArray) -> NDArray[Number]:
    """Sums of each session's values up to and with each turn."""
    sums = np.cumsum(values)
    return np.asarray(sums - (sums - values)[starts][session], dtype=values.dtype)


def blocks_of(
    turns: Turns, prompts: IntArray, system: IntArray, system_tokens: int, block_tokens: int
) -> tuple[IntArray, IntArray]:
    """Hashes of all full blocks, and ``[n + 1]`` where each request's begin; ``system`` ``[n]`` names its prompt.

    Raises:
        ValueError: more than `MOST_HASHES`.
    """
    counts = prompts // block_tokens
    total = int(counts.sum())
    if total > MOST_HASHES:
        raise ValueError(
            f"block_tokens {block_tokens}: {total:,} hashed blocks; expected {MOST_HASHES:,} at most, "
            "choose larger blocks or fewer requests"
        )
    starts = np.concatenate(([0], np.cumsum(counts)))
    place = np.arange(total) - np.repeat(starts[:-1], counts)
    shared = system_tokens // block_tokens
    # numbers below ``first`` are of system prompts; each session has a range as long as its longest prompt
    longest = np.zeros(int(turns.session.max()) + 1, dtype=np.int64)
    np.maximum.at(longest, turns.session, counts)
    first = (int(system.max()) + 1) * shared
    base = first + np.cumsum(longest) - longest
    common = np.repeat(system * shared, counts) + place
    own = np.repeat(base[turns.session], counts) + place
    return np.where(place < shared, common, own), starts
