"""Changes to requests that give new requests: fewer of them, a window of time, another rate, repeats."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.requests import Requests


def chosen(requests: Requests, index: NDArray[np.int64]) -> Requests:
    """The requests at ``index`` ``[k]``, in that order; their arrivals must ascend in it."""
    changes = {
        name: values[index]
        for name in ("session", "priority", "cancel_s", "measured", "pause_s")
        if (values := getattr(requests, name)) is not None
    }
    if requests.after is not None:
        changes["after"] = _following(requests.after, index)
    if requests.block_hashes is not None and requests.block_starts is not None:
        counts = np.diff(requests.block_starts)[index]
        starts = np.concatenate(([0], np.cumsum(counts)))
        offset = np.repeat(requests.block_starts[:-1][index] - starts[:-1], counts)
        changes["block_hashes"] = requests.block_hashes[offset + np.arange(starts[-1])]
        changes["block_starts"] = starts
    return dataclasses.replace(
        requests,
        arrival_s=requests.arrival_s[index],
        input_tokens=requests.input_tokens[index],
        output_tokens=requests.output_tokens[index],
        **changes,
    )


def _following(after: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
    """``after`` of the chosen ones: a request whose predecessor is left out, or chosen later, follows none."""
    place = np.full(after.size + 1, -1)  # the last entry: of those that follow none
    place[index] = np.arange(index.size)
    found = place[after[index]]
    return np.where(found < np.arange(index.size), found, -1)


def first(requests: Requests, count: int) -> Requests:
    """The first ``count`` requests, or all where there are fewer."""
    _positive(count, "limit")
    return requests if count >= len(requests) else chosen(requests, np.arange(count))


def window(requests: Requests, start_s: float, end_s: float) -> Requests:
    """Requests that arrive from ``start_s`` to before ``end_s``; the window's start becomes time 0.

    Raises:
        ValueError: the window is empty or no request arrives in it.
    """
    if not 0 <= start_s < end_s:
        raise ValueError(
            f"window {start_s:g}-{end_s:g} s: expected a start of 0 or more and an end after the start"
        )
    low, high = np.searchsorted(requests.arrival_s, [start_s, end_s])
    if low == high:
        last = requests.arrival_s[-1]
        raise ValueError(
            f"window {start_s:g}-{end_s:g} s: no request arrives; the last one comes at {last:g} s"
        )
    inside = chosen(requests, np.arange(low, high))
    return dataclasses.replace(inside, arrival_s=inside.arrival_s - start_s)


def rate_scaled(requests: Requests, factor: float) -> Requests:
    """The same requests at ``factor`` times the rate: arrivals are divided by it, all else stays."""
    _positive(factor, "rate scale")
    return dataclasses.replace(requests, arrival_s=requests.arrival_s / factor)


def repeated(requests: Requests, count: int) -> Requests:
    """``count`` requests: all of them again and again, each time one mean gap after the last arrival.

    Sessions and prompts of each repeat are new ones: a prefix cache finds nothing of an earlier repeat.
    """
    _positive(count, "repeat")
    n = len(requests)
    if count <= n:
        return first(requests, count)
    times = -(-count // n)
    copy = np.repeat(np.arange(times), n)[:count]
    index = np.tile(np.arange(n), times)[:count]
    span = float(requests.arrival_s[-1] - requests.arrival_s[0])
    period = span + (span / (n - 1) if n > 1 else 0.0)
    many = chosen(requests, index)
    changes: dict[str, Any] = {}
    if many.session is not None:
        changes["session"] = many.session + copy * _stride(many.session)
    if many.block_hashes is not None and many.block_starts is not None:
        counts = np.diff(many.block_starts)
        changes["block_hashes"] = many.block_hashes + np.repeat(copy, counts) * _stride(many.block_hashes)
    return dataclasses.replace(many, arrival_s=many.arrival_s + copy * period, **changes)


def _stride(values: NDArray[np.int64]) -> int:
    """A distance that keeps the values of different repeats apart."""
    return int(values.max() - values.min()) + 1 if values.size else 1


def _positive(value: float, what: str) -> None:
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{what} {value:g}: expected a number above zero")
