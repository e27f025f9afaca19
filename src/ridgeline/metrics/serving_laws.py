"""Laws of a served load: tokens, blocks and users add up, and nothing happens before its cause.

tokens     a request that is done got all it asked for; each token after the first is one gap
blocks     no more are held than there are
users      of a closed loop no more requests are under way than it has users
time       arrival = send (open loop) <= first step <= first token <= last token <= end
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests
from ridgeline.graph.laws import LawError
from ridgeline.metrics.serving import STATUS
from ridgeline.sim.serving.outcome import DONE, LOST, REFUSED, Outcome

__all__ = ["LawError", "check"]

_TOLERANCE = 1e-9


def check(outcome: Outcome, requests: Requests) -> None:
    """Hold what happened to the laws.

    Raises:
        LawError: naming the request, or the sum, and both sides. A mistake in our own code, never in a trace.
    """
    _sizes(outcome, len(requests))
    _tokens(outcome, requests)
    _times(outcome, requests)
    _steps(outcome)
    _blocks(outcome)
    if requests.users:
        _users(outcome, requests)


def _hold(right: NDArray[np.bool_], what: str, left: NDArray[np.generic], other: NDArray[np.generic]) -> None:
    """All of ``right`` ``[n]``; the error shows the first request where it is not."""
    if not np.all(right):
        i = int(np.argmin(right))
        raise LawError(f"request {i}: {what}: {left[i]} against {other[i]}")


def _sizes(outcome: Outcome, count: int) -> None:
    for name in (
        "sent_s", "scheduled_s", "first_token_s", "finish_s", "made_tokens", "cached_tokens", "preemptions",
        "replica", "status", "measured",
    ):  # fmt: skip
        size = getattr(outcome, name).size
        if size != count:
            raise LawError(f"{name} has {size} entries for {count} requests")
    known = np.isin(outcome.status, list(STATUS))
    _hold(known, "unknown status", outcome.status, outcome.status)


def _tokens(outcome: Outcome, requests: Requests) -> None:
    made, asked, status = outcome.made_tokens, requests.output_tokens, outcome.status
    done = status == DONE
    _hold(~done | (made == asked), "done, but tokens made differ from tokens asked for", made, asked)
    _hold((made >= 0) & (made <= asked), "more tokens made than asked for", made, asked)
    _hold((status != REFUSED) | (made == 0), "refused, but tokens made", made, np.zeros_like(made))
    cached = outcome.cached_tokens
    fits = (cached >= 0) & (cached <= requests.input_tokens)
    _hold(fits, "more tokens cached than the prompt has", cached, requests.input_tokens)
    if np.any(status == LOST):
        return  # tokens of a lost replica may have come out before nobody took over
    gaps = np.maximum(made - 1, 0)
    counted, all_gaps, measured = (int(x.sum()) for x in (outcome.itl_counts, gaps, gaps[outcome.measured]))
    if counted not in (all_gaps, measured):
        raise LawError(f"gaps between tokens: {counted} counted, {all_gaps} made ({measured} measured)")


def _times(outcome: Outcome, requests: Requests) -> None:
    done = outcome.status == DONE
    sent = outcome.sent_s
    if not requests.users:
        _hold(
            _close(sent, requests.arrival_s), "sent at another time than it arrives", sent, requests.arrival_s
        )
    order = {
        "sent": sent,
        "first step": outcome.scheduled_s,
        "first token": outcome.first_token_s,
        "last token": outcome.finish_s,
        "end": np.full(len(requests), outcome.end_s),
    }
    for before, after in pairwise(order):
        right = order[before] <= order[after] + _slack(order[after])
        _hold(~done | right, f"{before} after {after}, or missing", order[before], order[after])


def _steps(outcome: Outcome) -> None:
    counted = int(outcome.batch_steps.sum())
    if counted > outcome.steps:
        raise LawError(f"steps: {counted} by batch size, {outcome.steps} in all")
    if np.all(outcome.status == DONE):
        # every decode of a step gives its request a token or more; first tokens come of prefills
        decodes = int(np.sum(outcome.batch_steps * np.arange(outcome.batch_steps.size)))
        tokens = int(np.maximum(outcome.made_tokens - 1, 0).sum())
        if decodes > tokens:
            raise LawError(f"decodes: {decodes} in all steps for {tokens} tokens after the first")


def _blocks(outcome: Outcome) -> None:
    if np.any(np.diff(outcome.times_s) < 0):
        raise LawError("samples of the state: times do not ascend")
    for name in ("running", "waiting", "kv_blocks"):
        if np.any(getattr(outcome, name) < 0):
            raise LawError(f"{name}: {int(getattr(outcome, name).min())} is below zero")
    if outcome.kv_blocks.size and outcome.kv_blocks.max() > outcome.blocks:
        raise LawError(f"KV blocks: {int(outcome.kv_blocks.max())} held of {outcome.blocks}")
    for name in ("energy_j", "busy_s", "end_s"):
        if not getattr(outcome, name) >= 0:
            raise LawError(f"{name}: {getattr(outcome, name)} is below zero")


def _users(outcome: Outcome, requests: Requests) -> None:
    """Sends and answers in the order of time; at one time answers go first, a user sends on an answer."""
    if not np.all(outcome.status == DONE):
        return  # when the others left is not recorded
    count = len(requests)
    times = np.concatenate((outcome.finish_s, outcome.sent_s))
    change = np.concatenate((np.full(count, -1), np.full(count, 1)))
    under_way = np.cumsum(change[np.lexsort((change, times))])
    if under_way.max(initial=0) > requests.users:
        raise LawError(f"users: {int(under_way.max())} requests under way of {requests.users} users")
    warm = requests.warmup
    if 0 < warm < count:
        last, first = outcome.finish_s[:warm].max(), outcome.sent_s[warm:].min()
        if first < last - _slack(last):
            raise LawError(
                f"warm-up: a request is sent at {first} before the last warm-up one ends at {last}"
            )


def _slack(values: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.asarray(_TOLERANCE * (1.0 + np.abs(values)))


def _close(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(left - right) <= _slack(right))
