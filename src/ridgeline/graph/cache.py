"""A small cache for functions of frozen facts, recognised by identity, which costs nothing to hash."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial, wraps
from typing import ParamSpec, TypeVar, overload

_P = ParamSpec("_P")
_R = TypeVar("_R")

SIZE = 256
_VALUES = (str, bytes, int, float, tuple)


@overload
def by_identity(function: Callable[_P, _R], *, size: int = SIZE) -> Callable[_P, _R]: ...


@overload
def by_identity(*, size: int) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]: ...


def by_identity(
    function: Callable[_P, _R] | None = None, *, size: int = SIZE
) -> Callable[_P, _R] | Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Remember ``size`` results by positional arguments: facts by identity, numbers, text, bytes and tuples by value.

    For pure functions of frozen values; what is given by keyword must follow from the rest.
    """
    if function is None:
        return partial(by_identity, size=size)
    made: dict[tuple[Hashable, ...], tuple[tuple[object, ...], _R]] = {}

    @wraps(function)
    def cached(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The result for these very objects, made at most once while it is kept."""
        key = tuple([arg if isinstance(arg, _VALUES) else id(arg) for arg in args])
        found = made.get(key)
        if found is None:
            if len(made) >= size:
                made.clear()
            # the arguments are kept beside the result: while they live, their ids cannot be given to others
            found = made[key] = (args, function(*args, **kwargs))
        return found[1]

    return cached
