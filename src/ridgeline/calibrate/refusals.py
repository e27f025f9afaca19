"""Refusals: a row that raised, in one line; the rows after it are predicted all the same."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")


def refusal(error: Exception) -> str:
    """Why a row was not predicted.

    A ValueError says so in words meant for the user, of which the first line is taken. Anything else is our own
    mistake and says what and where; ``RIDGELINE_DEBUG=1`` raises it instead.
    """
    words = " ".join(str(error).split("\n", 1)[0].split())
    if isinstance(error, ValueError | OSError):
        return words or type(error).__name__
    if os.environ.get("RIDGELINE_DEBUG"):
        raise error
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"internal error{place}: {type(error).__name__} {words}".rstrip()


def unread_words(unread: Sequence[str], shown: int = 3) -> str:
    """How many lines of a file could not be read, and why the first ones; empty where all could."""
    if not unread:
        return ""
    lines = f"{len(unread)} line{'s' if len(unread) > 1 else ''}"
    return f"{lines} not read: {first_words(unread, shown)}"


def first_words(reasons: Sequence[str], shown: int = 3) -> str:
    """The first of several reasons, and how many more there are."""
    more = f"; and {len(reasons) - shown} more" if len(reasons) > shown else ""
    return f"{'; '.join(reasons[:shown])}{more}"


def or_none(make: Callable[[], Value]) -> Value | None:
    """What ``make`` returns; None where it raises, whatever it raised."""
    try:
        return make()
    except Exception as error:
        refusal(error)  # raises where mistakes are looked for
        return None
