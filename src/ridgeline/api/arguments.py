"""Arguments: values that programs hand over, as plain Python ones, or refused by name before anything is made of them.

NumPy scalars are numbers. Switches are no numbers and bytes are no text, whatever Python would make of them.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from ridgeline import files
from ridgeline.api.errors import InputError

_Value = TypeVar("_Value")


def plain(value: Any) -> Any:
    """An integer or a real number of any library as one of Python; everything else as it is."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    try:
        return operator.index(value)
    except TypeError:
        pass
    if isinstance(value, Real):
        try:
            return float(value)
        except OverflowError:  # a fraction of very long integers
            return float("inf")
    return value


def number(value: Any) -> float:
    """A number, or text that spells one, as a float; NaN where it is neither, infinite beyond a float's range."""
    found = plain(value)
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        return float("nan")
    try:
        return float(found)
    except OverflowError:
        return float("inf")
    except ValueError:
        return float("nan")


def said(value: Any) -> str:
    """A wrong value as a message repeats it: text without quotes, as on a command line."""
    return files.one_line(value, files.SHOWN) if isinstance(value, str) else files.shown(value)


def named(name: str, value: Any, kinds: type[_Value] | tuple[type[_Value], ...], expected: str) -> Any:
    """``value``, which is text or one of ``kinds``.

    Raises:
        InputError: it is neither; ``expected`` says what the argument takes.
    """
    if not isinstance(value, str) and not isinstance(value, kinds):
        raise InputError(f"{name} = {files.shown(value)}: expected {expected}")
    return value


def path(name: str, value: Any, expected: str = "the path of a file") -> Any:
    """Text or a path. Raises InputError for anything else."""
    return named(name, value, (os.PathLike,), expected)


def text(name: str, value: Any, expected: str) -> str | None:
    """Text, or None where nothing is given. Raises InputError for anything else."""
    return None if value is None else str(named(name, value, (), expected))


def switch(name: str, value: Any) -> bool:
    """True or False. Raises InputError for anything else, 1 and 'yes' among it."""
    found = plain(value)
    if not isinstance(found, bool):
        raise InputError(f"{name} = {files.shown(value)}: expected True or False")
    return found


def texts(name: str, value: Any, expected: str) -> tuple[str, ...]:
    """Several texts, or one alone. Raises InputError for anything else."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise InputError(f"{name} = {files.shown(value)}: expected {expected}")
    return tuple(str(named(name, one, (), expected)) for one in value)


def called(name: str, value: Any) -> Any:
    """A function, or None where nothing is given. Raises InputError for anything else."""
    if value is not None and not callable(value):
        raise InputError(f"{name} = {files.shown(value)}: expected a function")
    return value
