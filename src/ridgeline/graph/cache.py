"""A small cache for functions of frozen facts, recognised by identity, which costs nothing to hash."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

SIZE = 256
_VALUES = (str, int, float, tuple)


def by_identity(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Remember results by positional arguments: facts by identity, numbers, text and tuples of them by value.

    For pure functions of frozen values; what is given by keyword must follow from the rest.
    """
    made: dict[tuple[Hashable, ...], tuple[tuple[object, ...], _R]] = {}

    @wraps(function)
    def cached(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        key = tuple([arg if isinstance(arg, _VALUES) else id(arg) for arg in args])
        found = made.get(key)
        if found is None:
            if len(made) >= SIZE:
                made.clear()
            # the arguments are kept beside the result: while they live, their ids cannot be given to others
            found = made[key] = (args, function(*args, **kwargs))
        return found[1]

    return cached
