"""What a sane value is: finite numbers, none below zero where the type forbids, text that can be shown."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from fuzzing.verdict import controls

#: Fields that may be endless or unknown: a request that is never cancelled, a limit that is not set.
_OPEN = frozenset({"cancel_s", "timeout_s", "step_time_s", "tokens_per_s_per_chip"})
#: Most leaves of a value that are looked at.
_MOST = 200_000


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every plain value inside, with the path to it."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from leaves(getattr(value, name), f"{path}.{name}")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{path}.key", key
            yield from leaves(part, f"{path}.{key}")
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


def facts(value: Any, *, text: bool = True) -> str | None:
    """What is wrong with a value read from a file: not finite, or ``text`` that cannot be shown; None if nothing."""
    for count, (path, leaf) in enumerate(leaves(value)):
        if count > _MOST:
            return None
        name = path.rpartition(".")[2]
        if isinstance(leaf, float) and not math.isfinite(leaf) and name not in _OPEN:
            return f"not finite{path}: {leaf}"
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind == "f" and name not in _OPEN:
            if not np.isfinite(leaf).all():
                return f"not finite{path}: an array"
        elif text and isinstance(leaf, str) and controls(leaf.replace("\n", " ").replace("\t", " ")):
            return f"control character{path}: {leaf[:60]!r}"
    return None


def amounts(value: Any, *, text: bool = True) -> str | None:
    """As `facts`, and no number is below zero."""
    for path, leaf in leaves(value):
        if isinstance(leaf, int | float) and leaf < 0:
            return f"below zero{path}: {leaf}"
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "if" and leaf.size and leaf.min() < 0:
            return f"below zero{path}: an array"
    return facts(value, text=text)


def printable(value: Any) -> str | None:
    """Whether a result that has ``to_dict`` can be written as JSON without NaN."""
    try:
        json.dumps(value.to_dict(), allow_nan=False)
    except ValueError:
        return "not finite in the JSON of a result"
    return None


def prediction(value: Any) -> str | None:
    """A training step: at or above its bound, within the chip's peaks, finite throughout."""
    if not math.isfinite(value.step_time_s) or value.step_time_s <= 0.0:
        return f"step time: {value.step_time_s}"
    if value.step_time_s < value.bound_s * (1.0 - 1e-9):
        return f"step below its bound: {value.step_time_s} of {value.bound_s}"
    if not 0.0 < value.mfu <= 1.0 + 1e-9:
        return f"MFU: {value.mfu}"
    if min(min(stages) for stages in value.memory.values()) < 0.0:
        return "memory below zero"
    return printable(value)


def requests(value: Any) -> str | None:
    """A trace: arrivals that go forward, lengths from 0 on, a finite load."""
    found = value.trace.requests
    if not (np.isfinite(found.arrival_s).all() and (np.diff(found.arrival_s) >= 0.0).all()):
        return "arrivals: not finite or not in order"
    if found.input_tokens.min() < 0 or found.output_tokens.min() < 0:
        return "tokens: below zero"
    load = (value.load.isl, value.load.osl, value.load.rate or 0.0)
    return None if all(math.isfinite(one) and one >= 0.0 for one in load) else f"load: {load}"


def replayed(value: Any) -> str | None:
    """A replay: latencies that a clock can show."""
    for one in value.latencies:
        for times in (one.measured_s, one.predicted_s):
            if not np.isfinite(times).all() or times.min() < 0.0:
                return f"latency of {one.name}: not finite or below zero"
    return printable(value)
