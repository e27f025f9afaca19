"""Kinds of request files: which columns tell them, and how each value is read.

A value comes as text (CSV) or as JSON has it; every reader raises ValueError that says what was expected.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from ridgeline.facts.requests import MOST_TOKENS

MOST_NUMBER = 2**62
#: Times beyond this lose their seconds.
FURTHEST = 1e18
#: Years whose times fit ns since 1970.
FIRST_YEAR, LAST_YEAR = 1700, 2250
#: Tokens of one hashed block of Mooncake traces.
MOONCAKE_BLOCK = 512

_DATE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])(\d\d):(\d\d))?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1)


def number(value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("expected a number")
    try:
        read = float(value)
    except (ValueError, OverflowError):
        raise ValueError("expected a number") from None
    if not math.isfinite(read):
        raise ValueError("expected a finite number")
    if abs(read) > FURTHEST:
        raise ValueError(f"expected a number from {-FURTHEST:g} to {FURTHEST:g}")
    return read


def _whole(value: Any, least: int, most: int) -> int:
    read = value if isinstance(value, int) and not isinstance(value, bool) else number(value)
    if read != int(read):
        raise ValueError("expected a whole number")
    if not least <= read <= most:
        raise ValueError(f"expected a whole number from {least:,} to {most:,}")
    return int(read)


def tokens(value: Any) -> int:
    """Tokens of a request: at least 1."""
    return _whole(value, 1, MOST_TOKENS)


def natural(value: Any) -> int:
    """Tokens of a request that may have failed: at least 0."""
    return _whole(value, 0, MOST_TOKENS)


def priority(value: Any) -> int:
    """Any whole number; smaller goes first."""
    return _whole(value, -MOST_TOKENS, MOST_TOKENS)


def delay(value: Any) -> float:
    """Seconds, at least 0."""
    read = number(value)
    if read < 0:
        raise ValueError("expected 0 or more")
    return read


def date_ns(value: Any) -> int:
    """``2023-11-16 18:17:03.9799600``, with or without a zone (without: UTC), in ns since 1970."""
    match = _DATE.fullmatch(str(value).strip())
    expected = "expected a time such as 2023-11-16 18:17:03.9799600"
    if match is None:
        raise ValueError(expected)
    *parts, fraction, sign, hours, minutes = match.groups()
    try:
        when = datetime(*(int(part) for part in parts))  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from None
    if not FIRST_YEAR <= when.year <= LAST_YEAR:
        raise ValueError(f"expected a year from {FIRST_YEAR} to {LAST_YEAR}")
    seconds = (when - _EPOCH) // timedelta(seconds=1)
    if sign:
        seconds -= (int(hours) * 3600 + int(minutes) * 60) * (1 if sign == "+" else -1)
    return seconds * 10**9 + int((fraction or "0").ljust(9, "0"))


def session(value: Any) -> int | str:
    """A session's number or name."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("expected a number or a name")
    text = str(value).strip()
    if text.isascii() and text.isdigit() and int(text[:20]) < MOST_NUMBER:
        return int(text)
    return text


def hashes(value: Any) -> list[int]:
    """Whole numbers that name the blocks of a prompt."""
    if not isinstance(value, list):
        raise ValueError("expected a list of whole numbers")
    for one in value:
        if isinstance(one, bool) or not isinstance(one, int) or abs(one) > MOST_NUMBER:
            raise ValueError("expected a list of whole numbers")
    return value


@dataclass(frozen=True, slots=True)
class Column:
    """One column: the name in the file, what it becomes, how it is read, and what stands for an empty one."""

    name: str
    target: Literal["arrival", "input", "output", "session", "priority", "cancel", "hashes"]
    read: Callable[[Any], Any]
    empty: int | float | None = None  # None = a value is needed
    optional: bool = False  # the file may lack the column


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file; ``second`` is the unit of its arrivals in parts of a second."""

    name: str
    title: str
    form: Literal["csv", "jsonl"]
    columns: tuple[Column, ...]
    second: float = 1.0
    failures: bool = False  # no output tokens: the request failed and is left out
    block_tokens: int = 0

    @property
    def needed(self) -> list[str]:
        return [column.name for column in self.columns if not column.optional]


#: Stands for a session that a row does not name.
NO_SESSION = -1

_OWN = (
    Column("arrival_s", "arrival", number, optional=True),
    Column("input_tokens", "input", tokens),
    Column("output_tokens", "output", tokens),
    Column("session", "session", session, empty=NO_SESSION, optional=True),
    Column("priority", "priority", priority, empty=0, optional=True),
    Column("cancel_s", "cancel", delay, empty=math.inf, optional=True),
)
KINDS = (
    Kind(
        "azure",
        "Azure LLM inference trace",
        "csv",
        (
            Column("TIMESTAMP", "arrival", date_ns),
            Column("ContextTokens", "input", tokens),
            Column("GeneratedTokens", "output", tokens),
        ),
        second=1e9,
    ),
    Kind(
        "burstgpt",
        "BurstGPT trace",
        "csv",
        (
            Column("Timestamp", "arrival", number),
            Column("Request tokens", "input", natural),
            Column("Response tokens", "output", natural),
        ),
        failures=True,
    ),
    Kind(
        "mooncake",
        "Mooncake trace",
        "jsonl",
        (
            Column("timestamp", "arrival", number),
            Column("input_length", "input", tokens),
            Column("output_length", "output", tokens),
            Column("hash_ids", "hashes", hashes),
        ),
        second=1e3,
        block_tokens=MOONCAKE_BLOCK,
    ),
    Kind(
        "run",
        "requests of a measured run",
        "jsonl",
        (
            Column("arrival_time", "arrival", number),
            Column("input_toks", "input", tokens),
            Column("output_toks", "output", tokens),
        ),
    ),
    Kind("own-csv", "own CSV", "csv", _OWN),
    Kind("own-jsonl", "own JSON lines", "jsonl", _OWN),
)


def kind_of(names: Iterable[str], form: str, where: str) -> Kind:
    """The kind whose needed columns are all there; names differ by capitals at most.

    Raises:
        ValueError: no kind fits; the message names what is missing from the nearest, or lists all.
    """
    found = {name.strip().casefold() for name in names}
    kinds = [kind for kind in KINDS if kind.form == form]
    missing = {kind: [n for n in kind.needed if n.casefold() not in found] for kind in kinds}
    noun = "column" if form == "csv" else "field"
    nearest = min(kinds, key=lambda kind: (len(missing[kind]), kinds.index(kind)))
    if not missing[nearest]:
        return nearest
    if len(missing[nearest]) < len(nearest.needed):
        lacks = ", ".join(missing[nearest])
        has = ", ".join(nearest.needed)
        plural = "s" if len(missing[nearest]) > 1 else ""
        raise ValueError(f"{where}: missing {noun}{plural} {lacks} ({nearest.title}: {has})")
    choices = "; ".join(f"{', '.join(kind.needed)} ({kind.title})" for kind in kinds)
    raise ValueError(f"{where}: no known {noun}s; expected one of: {choices}")
