"""Kept: values that follow from frozen facts alone, made once for each combination of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

#: Combinations kept per function; beyond it, it starts afresh.
MOST = 256


def kept(make: Callable[P, T]) -> Callable[P, T]:
    """Remember what ``make`` returns for the same arguments, all positional.

    Numbers, text and tuples of them are compared by value; facts (frozen, but holding dictionaries) by identity.
    """
    made: dict[tuple[Hashable, ...], tuple[tuple[object, ...], T]] = {}

    @wraps(make)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> T:
        key = tuple([arg if isinstance(arg, str | int | float | tuple) else id(arg) for arg in args])
        found = made.get(key)
        if found is None:
            if len(made) >= MOST:
                made.clear()
            # the facts are kept beside the value: while they live, their ids cannot be given to others
            found = made[key] = (args, make(*args, **kwargs))
        return found[1]

    return remembered
