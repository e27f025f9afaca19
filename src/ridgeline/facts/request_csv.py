"""Columns of a CSV request file.

Blocks of plain digits are read for all rows at once; a block with anything else (quotes, signs, exponents, blank or
wrong lines) is read row by row, which gives the same numbers and names the line of an error.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.facts.request_kinds import FIRST_YEAR, LAST_YEAR, Column, Kind, kind_of
from ridgeline.facts.request_lines import RequestFileError, decoded
from ridgeline.facts.requests import MOST_TOKENS

Bytes = NDArray[np.uint8]
IntArray = NDArray[np.int64]
Columns = dict[str, Any]  # target -> array or list, one value per row
_WIDEST = 18  # digits of an int64
_MARKS = [4, 7, 10, 13, 16]  # places in ``2023-11-16 18:17:03``
_DIGITS = [place for place in range(19) if place not in _MARKS]


class CsvReader:
    """Reads blocks of one CSV file, whose header decides the kind."""

    def __init__(self, path: Path, header: bytes) -> None:
        self.path = path
        names = self._fields(decoded(path, 1, header), 1)
        try:
            self.kind: Kind = kind_of(names, "csv", f"{path}, line 1")
        except ValueError as error:
            raise RequestFileError(str(error)) from None
        folded = [name.strip().casefold() for name in names]
        self.width = len(names)
        self.columns: list[tuple[int, Column]] = []
        for column in self.kind.columns:
            places = [i for i, name in enumerate(folded) if name == column.name.casefold()]
            if len(places) > 1:
                raise RequestFileError(f"{path}, line 1: column {column.name} is there {len(places)} times")
            self.columns += [(place, column) for place in places]
        read = {place for place, _ in self.columns}
        self.unread = [name.strip() for i, name in enumerate(names) if i not in read]

    def read(self, line: int, block: bytes) -> Columns:
        """Values of a block of whole lines that begins at ``line``."""
        fast = self._all_at_once(block)
        return fast if fast is not None else self._row_by_row(line, block)

    def _fields(self, text: str, line: int) -> list[str]:
        try:
            return next(csv.reader([text], strict=True), [])
        except csv.Error as error:
            raise RequestFileError(f"{self.path}, line {line}: not CSV: {error}") from error

    def _rows(self, line: int, block: bytes) -> Iterator[tuple[int, list[str]]]:
        for number, text in enumerate(block.split(b"\n")[:-1], line):
            if text.strip():
                fields = self._fields(decoded(self.path, number, text), number)
                if len(fields) != self.width:
                    where = f"{self.path}, line {number}"
                    raise RequestFileError(
                        f"{where}: {len(fields)} fields; expected {self.width} as in the header"
                    )
                yield number, fields

    def _row_by_row(self, line: int, block: bytes) -> Columns:
        values: dict[str, list[Any]] = {column.target: [] for _, column in self.columns}
        for number, fields in self._rows(line, block):
            for place, column in self.columns:
                values[column.target].append(self._value(column, fields[place].strip(), number))
        return dict(values)

    def _value(self, column: Column, text: str, line: int) -> Any:
        if not text and column.empty is not None:
            return column.empty
        where = f"{self.path}, line {line}, column {column.name}"
        if not text:
            raise RequestFileError(f"{where}: empty; this value is needed")
        try:
            return column.read(text)
        except ValueError as error:
            raise RequestFileError(f"{where}: {files.shown(text)}: {error}") from None

    def _all_at_once(self, block: bytes) -> Columns | None:
        """The same as row by row, for blocks that hold nothing but plain values; else None."""
        if b'"' in block or not _utf8(block):
            return None
        buffer = np.frombuffer(block, dtype=np.uint8)
        if np.any(buffer[np.flatnonzero(buffer[:-1] == 13) + 1] != 10):
            return None  # a carriage return inside a line
        cells = _cells(buffer, self.width)
        if cells is None:
            return None
        values: Columns = {}
        for place, column in self.columns:
            starts, ends = cells[0][:, place], cells[1][:, place]
            read = _plain(buffer, starts, ends, column)
            if read is None:
                return None
            values[column.target] = read
        return values


def _utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _cells(buffer: Bytes, width: int) -> tuple[IntArray, IntArray] | None:
    """Starts and ends ``[rows, width]`` of all cells; None where a line has another number of commas."""
    ends = np.flatnonzero(buffer == 10)
    commas: NDArray[np.int64] = np.flatnonzero(buffer == 44)
    if commas.size != ends.size * (width - 1):
        return None
    commas = commas.reshape(ends.size, width - 1)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if width > 1 and not (np.all(starts <= commas[:, 0]) and np.all(commas[:, -1] < ends)):
        return None
    stops = ends - (buffer[np.maximum(ends - 1, 0)] == 13)
    first = np.concatenate((starts[:, None], commas + 1), axis=1)
    last = np.concatenate((commas, stops[:, None]), axis=1)
    return first, last


def _plain(buffer: Bytes, starts: IntArray, ends: IntArray, column: Column) -> NDArray[Any] | None:
    """One column of plain values; None where a value is anything else or not allowed."""
    reader = column.read.__name__
    if reader == "date_ns":
        return _dates(buffer, starts, ends)
    read = _decimals(buffer, starts, ends)
    if read is None:
        return None
    digits, places = read
    if reader in ("number", "delay"):
        return np.asarray(digits / 10.0**places)
    if places.any():
        return None
    if reader == "tokens" and digits.min() < 1:
        return None
    return None if reader != "session" and digits.max() > MOST_TOKENS else digits


def _decimals(buffer: Bytes, starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray] | None:
    """Digits as one whole number, and how many of them come after the point."""
    widths = ends - starts
    if widths.min() < 1 or widths.max() > _WIDEST:
        return None
    value = np.zeros(starts.size, dtype=np.int64)
    places = np.zeros(starts.size, dtype=np.int64)
    points = np.zeros(starts.size, dtype=np.int64)
    for k in range(int(widths.max())):
        live = k < widths
        character = buffer[np.where(live, starts + k, starts)]
        point = live & (character == 46)
        digit = character - np.uint8(48)  # wraps: anything below '0' becomes large
        live &= ~point
        if np.any(live & (digit > 9)):
            return None
        value = np.where(live, value * 10 + digit, value)
        if point.any():
            points += point
            places[point] = widths[point] - k - 1
    if points.max() > 1 or np.any(points >= widths) or np.any((points > 0) & (places == 0)):
        return None
    return value, places


def _dates(buffer: Bytes, starts: IntArray, ends: IntArray) -> IntArray | None:
    """``2023-11-16 18:17:03.9799600``, plain, in UTC or with ``+00:00``, in ns since 1970."""
    width = 19
    if np.min(ends - starts) < width:
        return None
    zone = np.frombuffer(b"+00:00", dtype=np.uint8)
    if buffer[ends[0] - 6] == 43:
        if not np.all(buffer[ends[:, None] - 6 + np.arange(6)] == zone):
            return None
        ends = ends - 6
    text = buffer[starts[:, None] + np.arange(width)]
    marks = text[:, _MARKS]
    if not np.all(marks == np.frombuffer(b"-- ::", dtype=np.uint8)):
        return None
    digits = (text - np.uint8(48)).astype(np.int64)
    if np.any(digits[:, _DIGITS] > 9):
        return None
    hour, minute, second = (digits[:, i] * 10 + digits[:, i + 1] for i in (11, 14, 17))
    if hour.max() > 23 or minute.max() > 59 or second.max() > 59:
        return None
    days = _days(digits[:, [0, 1, 2, 3, 5, 6, 8, 9]] @ 10 ** np.arange(7, -1, -1))
    fraction = _fraction_ns(buffer, starts + width, ends)
    if days is None or fraction is None:
        return None
    seconds: IntArray = days * 86400 + hour * 3600 + minute * 60 + second
    return seconds * 10**9 + fraction


def _days(dates: IntArray) -> IntArray | None:
    """Days since 1970 of dates written as the number yyyymmdd; None where one is not of the calendar."""
    unique, inverse = np.unique(dates, return_inverse=True)
    try:
        days = [date(d // 10000, d // 100 % 100, d % 100).toordinal() for d in unique.tolist()]
    except ValueError:
        return None
    if not FIRST_YEAR * 10000 <= unique[0] <= unique[-1] < (LAST_YEAR + 1) * 10000:
        return None
    since: IntArray = np.asarray(days, dtype=np.int64) - date(1970, 1, 1).toordinal()
    return since[inverse.reshape(-1)]


def _fraction_ns(buffer: Bytes, starts: IntArray, ends: IntArray) -> IntArray | None:
    """``.9799600`` or nothing, in ns."""
    if np.all(starts == ends):
        return np.zeros(starts.size, dtype=np.int64)
    if np.any(starts >= ends) or np.any(ends - starts > 10) or np.any(buffer[starts] != 46):
        return None
    read = _decimals(buffer, starts, ends)
    if read is None or np.any(read[1] < 1):
        return None
    return np.asarray(read[0] * 10 ** (9 - read[1]))


def header_of(block: bytes) -> tuple[bytes, bytes]:
    """The first line of a block, and the rest."""
    line, _, rest = block.partition(b"\n")
    return line, rest


def joined(parts: Sequence[Any]) -> NDArray[Any]:
    """Blocks of one column as one array."""
    return np.concatenate([np.asarray(part) for part in parts]) if parts else np.zeros(0)
