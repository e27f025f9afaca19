"""Requests of a synthetic workload: `ridgeline.facts.traffic.Traffic` -> `ridgeline.facts.requests.Requests`.

Arrivals, lengths, conversations and system prompts draw from streams of their own, so a change of one leaves the
others as they were: two rates meet the same requests.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.request_edits import chosen
from ridgeline.facts.request_files import read_requests
from ridgeline.facts.requests import Requests
from ridgeline.facts.traffic import Closed, Drawn, Traffic
from ridgeline.sim.serving.arrivals import arrival_times
from ridgeline.sim.serving.conversations import Turns, blocks_of, prompts_of, turns_of
from ridgeline.sim.serving.lengths import pairs

IntArray = NDArray[np.int64]


def requests_of(traffic: Traffic, file: Requests | None = None) -> Requests:
    """The requests of ``traffic`` in the order of their arrival; the same seed gives the same ones.

    Args:
        file: requests that lengths are drawn from; None = read the file that ``traffic.lengths`` names.

    Raises:
        ValueError: that file cannot be read, shared text has too many blocks, a time or length is beyond any, or there
            is not enough memory.
    """
    try:
        return _made(traffic, file)
    except MemoryError:
        raise ValueError(
            f"num_requests {traffic.num_requests:,}: so many requests need more memory than there is"
        ) from None


def _made(traffic: Traffic, file: Requests | None) -> Requests:
    if isinstance(traffic.lengths, Drawn) and file is None:
        file = read_requests(traffic.lengths.path).requests
    of_arrivals, of_lengths, of_turns, of_system = np.random.default_rng(traffic.seed).spawn(4)
    turns = turns_of(traffic.sessions, traffic.num_requests, of_turns)
    num_sessions = int(turns.session[-1]) + 1
    new, output = pairs(traffic.lengths, turns.session.size, of_lengths, file)
    system = of_system.integers(0, traffic.system_prompts, num_sessions)[turns.session]
    prompts = prompts_of(turns, traffic.system_tokens, new, output)
    starts_s = arrival_times(traffic.arrivals, num_sessions, of_arrivals)
    requests = Requests(
        arrival_s=starts_s[turns.session] + turns.wait_s,
        input_tokens=prompts,
        output_tokens=output,
        session=turns.session if traffic.sessions else None,
        timeout_s=traffic.timeout_s,
    )
    if traffic.sessions and traffic.sessions.waits and not isinstance(traffic.arrivals, Closed):
        follows = turns.turn > 0  # turns of a session stand one after the other
        pause_s = np.where(follows, np.diff(turns.wait_s, prepend=0.0), 0.0)
        after = np.where(follows, np.arange(follows.size) - 1, -1)
        requests = dataclasses.replace(requests, after=after, pause_s=pause_s)
    order = _order(traffic, turns, requests)[: traffic.num_requests]
    if traffic.shares_text:
        kept = Turns(turns.session[order], turns.turn[order], turns.wait_s[order])
        hashes, starts = blocks_of(
            kept, prompts[order], system[order], traffic.system_tokens, traffic.block_tokens
        )
        requests = dataclasses.replace(
            chosen(requests, order),
            block_tokens=traffic.block_tokens,
            block_hashes=hashes,
            block_starts=starts,
        )
    else:
        requests = chosen(requests, order)
    requests.check()
    return _of_client(traffic, requests)


def _order(traffic: Traffic, turns: Turns, requests: Requests) -> IntArray:
    """By arrival; in a closed loop groups of ``users`` sessions take their turns together."""
    if isinstance(traffic.arrivals, Closed):
        return np.lexsort((turns.session, turns.turn, turns.session // traffic.arrivals.users))
    return np.argsort(requests.arrival_s, kind="stable")


def _of_client(traffic: Traffic, requests: Requests) -> Requests:
    """With the users and the warm-up of a closed loop."""
    if not isinstance(traffic.arrivals, Closed):
        return requests
    index = np.concatenate((np.zeros(traffic.warmup, dtype=np.int64), np.arange(len(requests))))
    return dataclasses.replace(
        chosen(requests, index),
        arrival_s=np.zeros(index.size),
        users=traffic.arrivals.users,
        think_s=traffic.arrivals.think_s,
        warmup=traffic.warmup,
        measured=np.arange(index.size) >= traffic.warmup if traffic.warmup else None,
    )
