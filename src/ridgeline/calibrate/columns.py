"""Columns of case files: how a text becomes a value, and how a dataclass says which column feeds a field."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

GIB = 2.0**30
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
    return found


def _whole(value: str, least: int) -> int:
    found = number(value)
    if found != int(found):
        raise ValueError("expected a whole number")
    if found < least:
        raise ValueError(f"expected {least} or more")
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


def gib(value: str) -> float:
    """Bytes, of a number of GiB above zero. Raises ValueError for anything else."""
    return positive(value) * GIB


def milliseconds(value: str) -> float:
    """Seconds."""
    return positive(value) * 1e-3


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
                raise CaseError(f"{where}, column {name}: '{said}': {error}") from None
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
        CaseError: no such file, a needed column is missing, or ``row`` refuses a line (with ``unread``: every line).
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_header(path, set(reader.fieldnames or ()), missing)
            rows: list[RowT] = []
            for line in reader:
                try:
                    rows.append(row(_named(reader.line_num, line), f"{path}, line {reader.line_num}"))
                except CaseError as error:
                    if unread is None:
                        raise
                    unread.append(str(error).removeprefix(f"{path}, "))
            if unread and not rows:
                raise CaseError(f"{path}: no line can be read; {unread[0]}")
            return rows
    except OSError as error:
        raise CaseError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path}: not a CSV text file in UTF-8: {error}") from error


def _check_header(path: Path, names: set[str], missing: Callable[[set[str]], list[str]]) -> None:
    if not names:
        raise CaseError(f"{path}: empty file; expected a header line with column names")
    lacking = missing(names)
    if lacking:
        raise CaseError(f"{path}, line 1: missing column{'s'[: len(lacking) > 1]} {', '.join(lacking)}")


def _named(line: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": f"line-{line}", **{name: said for name, said in row.items() if name and said}}
