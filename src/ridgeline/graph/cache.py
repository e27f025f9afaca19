"""A small cache for functions of frozen facts, recognised by identity, which costs nothing to hash."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

SIZE = 128


def by_identity(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Remember results by the identity of positional arguments; for pure functions of frozen values."""
    made: dict[tuple[int, ...], tuple[tuple[object, ...], _R]] = {}

    @wraps(function)
    def cached(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        key = tuple(map(id, args))
        found = made.get(key)
        if found is None:
            if len(made) >= SIZE:
                made.clear()
            # the arguments are kept beside the result: while they live, their ids cannot be given to others
            found = made[key] = (args, function(*args, **kwargs))
        return found[1]

    return cached
