"""Columns of case files: how a text becomes a value, and how a dataclass says which column feeds a field."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from ridgeline import files
from ridgeline.calibrate.csv_lines import csv_lines, too_damaged
from ridgeline.facts.spec import MOST_COUNT

GIB = 2.0**30
#: A row has some hundred bytes: half a million runs, which would take hours to predict.
MOST_BYTES = 64 * 2**20
#: Sizes of a measured number: beyond these its products leave the range of a float.
LEAST, MOST = 1e-24, 1e27
RowT = TypeVar("RowT")


class CaseError(ValueError):
    """A row of a case file cannot be read; the message names file, line, column and value."""


def text(value: str) -> str:
    """The value itself."""
    return value


def flag(value: str) -> bool:
    """True or false, also as 1, 0, yes and no. Raises ValueError for anything else."""
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if value.lower() not in known:
        raise ValueError("expected true or false")
    return known[value.lower()]


def number(value: str) -> float:
    """A finite number. Raises ValueError for anything else."""
    try:
        found = float(value)
    except ValueError:
        raise ValueError("expected a number") from None
    if not math.isfinite(found):
        raise ValueError("expected a finite number")
    if found and not LEAST <= abs(found) <= MOST:
        raise ValueError(f"expected a number from {LEAST:g} to {MOST:g}")
    return found


def _whole(value: str, least: int) -> int:
    found = number(value)
    if found != int(found):
        raise ValueError("expected a whole number")
    if found < least:
        raise ValueError(f"expected {least} or more")
    if found > MOST_COUNT:
        raise ValueError(f"expected at most {MOST_COUNT:,}")
    return int(found)


def positive_count(value: str) -> int:
    """A whole number from 1 on. Raises ValueError for anything else."""
    return _whole(value, 1)


def natural(value: str) -> int:
    """A whole number from 0 on. Raises ValueError for anything else."""
    return _whole(value, 0)


def stage(value: str) -> int:
    """A stage of ZeRO, 0 to 3. Raises ValueError for anything else."""
    found = natural(value)
    if found > 3:
        raise ValueError("expected 0, 1, 2 or 3")
    return found


def positive(value: str) -> float:
    """A finite number above zero. Raises ValueError for anything else."""
    found = number(value)
    if found <= 0:
        raise ValueError("expected a number above zero")
    return found


def within(least: float, most: float) -> Callable[[str], float]:
    """A reader of numbers from ``least`` to ``most``. It raises ValueError for anything else."""

    def read(value: str) -> float:
        found = number(value)
        if not least <= found <= most:
            raise ValueError(
                f"expected {'a number above zero' if found <= 0 else f'{least:,.9g} to {most:,.9g}'}"
            )
        return found

    return read


def up_to(most: int, least: int = 1) -> Callable[[str], int]:
    """A reader of whole numbers from ``least`` to ``most``. It raises ValueError for anything else."""

    def read(value: str) -> int:
        found = _whole(value, least)
        if found > most:
            raise ValueError(f"expected at most {most:,}")
        return found

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A reader of some words. It raises ValueError for anything else."""

    def read(value: str) -> str:
        if value not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return value

    return read


def gib(value: str) -> float:
    """Bytes, of a number of GiB above zero. Raises ValueError for anything else."""
    return positive(value) * GIB


def milliseconds(value: str) -> float:
    """Seconds of a number of milliseconds, at most a century. Raises ValueError for anything else."""
    return within(1e-9, 3.2e12)(value) * 1e-3


def seconds(value: str) -> float:
    """A time above zero, at most a century. Raises ValueError for anything else."""
    return within(1e-12, 3.2e9)(value)


def rate(value: str) -> float:
    """What a chip does a second, above zero. Raises ValueError for anything else."""
    return within(1e-6, 1e15)(value)


def column(read: Callable[[str], Any], default: Any = None, name: str = "", *, required: bool = False) -> Any:
    """A dataclass field that knows its CSV column, its reader and whether a row may leave it empty."""
    return field(default=default, metadata={"read": read, "column": name, "required": required})


def columns_of(kind: type[Any]) -> dict[str, str]:
    """Field -> CSV column of a dataclass made with `column`."""
    return {f.name: str(f.metadata["column"] or f.name) for f in dataclasses.fields(kind)}


def required_columns(kind: type[Any]) -> list[str]:
    """CSV columns that a file must have."""
    names = columns_of(kind)
    return [names[f.name] for f in dataclasses.fields(kind) if f.metadata["required"]]


def values_of(kind: type[Any], row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of ``kind`` that a row fills, from a mapping of CSV column to text or number.

    Raises:
        CaseError: a value is not what its column holds, or a needed one is missing; ``where`` opens the message.
    """
    names, values = columns_of(kind), {}
    for f in dataclasses.fields(kind):
        name = names[f.name]
        said = str(row.get(name, "")).strip()
        if said:
            try:
                values[f.name] = f.metadata["read"](said)
            except ValueError as error:
                raise CaseError(f"{where}, column {name}: {files.shown(said)}: {error}") from None
        elif f.metadata["required"]:
            raise CaseError(f"{where}, column {name}: empty; this value is needed")
    return values


def read_rows(
    path: str | Path,
    missing: Callable[[set[str]], list[str]],
    row: Callable[[Mapping[str, Any], str], RowT],
    unread: list[str] | None = None,
) -> list[RowT]:
    """Rows of a CSV file with a header line; ``missing`` lists needed columns that a header lacks.

    Args:
        unread: takes the reason of each line that ``row`` refuses, and the lines after it are read all the same;
            without it the first such line is an error.

    Raises:
        CaseError: no such file, a needed column is missing, or ``row`` refuses a line (with ``unread``: most lines).
    """
    path = Path(path)
    where = files.shown_path(path)
    try:
        header, *lines = csv_lines(path, MOST_BYTES)
    except ValueError as error:
        raise CaseError(str(error)) from None
    _check_header(where, set(header.cells), missing)
    rows: list[RowT] = []
    bad: list[str] = []
    for line in lines:
        at = f"{where}, line {line.number}"
        try:
            if line.error:
                raise CaseError(f"{at}: {line.error}")
            named = dict(zip(header.cells, line.cells, strict=False))
            rows.append(row(_named(line.number, named), at))
        except CaseError as error:
            if unread is None:
                raise
            bad.append(str(error).removeprefix(f"{where}, "))
    reason = too_damaged(bad, len(lines))
    if reason:
        raise CaseError(f"{where}{reason}")
    if unread is not None:
        unread += bad
    return rows


def _check_header(path: str, names: set[str], missing: Callable[[set[str]], list[str]]) -> None:
    if not names:
        raise CaseError(f"{path}: empty file; expected a header line with column names")
    lacking = missing(names)
    if lacking:
        raise CaseError(f"{path}, line 1: missing column{'s'[: len(lacking) > 1]} {', '.join(lacking)}")


def _named(line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": f"line-{line}", **{name: said for name, said in row.items() if name and said}}
