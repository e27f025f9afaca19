"""Columns of a JSON lines request file: one object per line, whose fields decide the kind."""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline import files
from ridgeline.facts.request_csv import Columns
from ridgeline.facts.request_kinds import FURTHEST, MOST_NUMBER, Column, Kind, kind_of
from ridgeline.facts.request_lines import RequestFileError, decoded
from ridgeline.facts.requests import MOST_TOKENS

_WHOLE: set[type] = {int}
_ANY: set[type] = {int, float}
#: What a column at once may hold: types, least and most value.
_ALLOWED: dict[str, tuple[set[type], float, float]] = {
    "tokens": (_WHOLE, 1, MOST_TOKENS),
    "priority": (_WHOLE, -MOST_TOKENS, MOST_TOKENS),
    "session": (_WHOLE, 0, MOST_NUMBER - 1),
    "number": (_ANY, -FURTHEST, FURTHEST),
    "delay": (_ANY, 0, FURTHEST),
}


class JsonReader:
    """Reads blocks of one JSON lines file; its first object decides the kind and whether it has arrivals."""

    def __init__(self, path: Path, line: int, first: bytes) -> None:
        self.path = path
        record = self._record(line, first)
        try:
            self.kind: Kind = kind_of(record, "jsonl", f"{path}, line {line}")
        except ValueError as error:
            raise RequestFileError(str(error)) from None
        names = {column.name for column in self.kind.columns}
        self.unread = [name for name in record if name not in names]
        self.first = line
        arrivals = [column.name for column in self.kind.columns if column.target == "arrival"]
        self.timed = any(record.get(name) is not None for name in arrivals)
        self.columns = [c for c in self.kind.columns if self.timed or c.target != "arrival" or not c.optional]
        self.fields = record.keys()

    def read(self, line: int, block: bytes) -> Columns:
        """Values of a block of whole lines that begins at ``line``."""
        fast = self._all_at_once(block)
        return fast if fast is not None else self._row_by_row(line, block)

    def _record(self, line: int, text: bytes) -> dict[str, Any]:
        where = f"{self.path}, line {line}"
        try:
            record = json.loads(decoded(self.path, line, text))
        except RequestFileError:
            raise
        except (ValueError, RecursionError) as error:
            raise RequestFileError(f"{where}: not JSON: {error}") from None
        if not isinstance(record, dict):
            raise RequestFileError(f"{where}: expected one JSON object per line, as {{...}}")
        return record

    def _row_by_row(self, line: int, block: bytes) -> Columns:
        values: dict[str, list[Any]] = {column.target: [] for column in self.columns}
        for number, text in enumerate(block.split(b"\n")[:-1], line):
            if not text.strip():
                continue
            record = self._record(number, text)
            if not self.timed and record.get("arrival_s") is not None:
                where = f"{self.path}, line {number}, field arrival_s"
                raise RequestFileError(f"{where}: line {self.first} has none; give it in all lines or none")
            for column in self.columns:
                values[column.target].append(self._value(column, record, number))
        return dict(values)

    def _value(self, column: Column, record: dict[str, Any], line: int) -> Any:
        value = record.get(column.name)
        where = f"{self.path}, line {line}, field {column.name}"
        if value is None:
            if column.empty is not None:
                return column.empty
            raise RequestFileError(f"{where}: missing; this value is needed")
        try:
            return column.read(value)
        except (ValueError, RecursionError) as error:
            raise RequestFileError(f"{where}: {files.shown(value)}: {error}") from None

    def _all_at_once(self, block: bytes) -> Columns | None:
        """The same as row by row, where every line has the fields of the first and right values; else None."""
        lines = block.split(b"\n")[:-1]
        try:
            records = json.loads(b"[" + b",".join(lines) + b"]")
            if len(records) != len(lines) or any(record.keys() != self.fields for record in records):
                return None
            values: Columns = {}
            for column in self.columns:
                if column.optional and column.name not in self.fields:
                    values[column.target] = np.full(len(records), column.empty)
                    continue
                values[column.target] = read = [record[column.name] for record in records]
                if not _right(column, read):
                    return None
        except (ValueError, RecursionError, KeyError, AttributeError):
            return None
        return values


def _right(column: Column, values: list[Any]) -> bool:
    """All values have the types and the range that the column's reader allows; NaN is in no range."""
    if column.target == "hashes":
        if set(map(type, values)) != {list}:
            return False
        flat = list(chain.from_iterable(values))
        return set(map(type, flat)) <= _WHOLE and (not flat or max(map(abs, flat)) <= MOST_NUMBER)
    types, least, most = _ALLOWED[column.read.__name__]
    if not set(map(type, values)) <= types:
        return False
    # NaN compares false both ways, so that min and max may pass it over: the sum does not
    return least <= min(values) and max(values) <= most and (types is _WHOLE or not math.isnan(sum(values)))
