"""Request files: traces and lists of requests on disk, read as `Requests`. The kind is told by its columns.

Sources of the kinds: Azure LLM inference (github.com/Azure/AzurePublicDataset), Mooncake (github.com/kvcache-ai/
Mooncake), BurstGPT (github.com/HPMLL/BurstGPT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.facts import request_edits as edits
from ridgeline.facts.request_csv import Columns, CsvReader, header_of, joined
from ridgeline.facts.request_json import JsonReader
from ridgeline.facts.request_kinds import NO_SESSION, Kind
from ridgeline.facts.request_lines import RequestFileError, blocks
from ridgeline.facts.requests import MOST_REQUESTS, Requests, room

__all__ = ["RequestFile", "RequestFileError", "read_requests"]


@dataclass(frozen=True, slots=True)
class RequestFile:
    """Requests of a file; ``notes`` say what was left out, moved or not read."""

    path: str
    kind: str  # azure, burstgpt, mooncake, run, own-csv, own-jsonl
    requests: Requests
    notes: tuple[str, ...] = ()


def read_requests(
    path: str | Path,
    *,
    limit: int | None = None,
    window_s: tuple[float, float] | None = None,
    rate_scale: float = 1.0,
    repeat_to: int | None = None,
) -> RequestFile:
    """Read a request trace: CSV or JSON lines in UTF-8, plain or gzip.

    Time 0 is the first arrival of the file. The changes apply in this order.

    Args:
        limit: at most so many rows, from the top of the file; the rest is not looked at.
        window_s: only arrivals from the first to before the second number of seconds; the first becomes time 0.
        rate_scale: arrivals come so many times as fast.
        repeat_to: repeat (or cut) the requests to this number; repeats share no prefixes and sessions.

    Raises:
        RequestFileError: the file cannot be read; names file, line, field and value.
        ValueError: a change that cannot be made.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit}: expected 1 or more")
    if repeat_to is not None and repeat_to > MOST_REQUESTS:
        raise ValueError(f"repeat_to {repeat_to:,}: {room(repeat_to)}")
    table = _read(path, limit)
    requests, notes = _requests(table, path)
    try:
        if limit is not None:
            requests = edits.first(requests, limit)
        if window_s is not None:
            requests = edits.window(requests, *window_s)
        if rate_scale != 1.0:
            requests = edits.rate_scaled(requests, rate_scale)
        if repeat_to is not None:
            if repeat_to > len(requests):
                notes.append(
                    f"{len(requests):,} requests repeated to {repeat_to:,}; repeats share no prefixes"
                )
            requests = edits.repeated(requests, repeat_to)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return RequestFile(str(path), table.kind.name, requests, tuple(notes))


@dataclass(slots=True)
class _Table:
    """What a file holds: blocks of each target's values in the order of its lines."""

    kind: Kind
    unread: list[str]
    parts: dict[str, list[Any]] = field(default_factory=dict)
    counts: list[NDArray[np.int64]] = field(default_factory=list)  # hashes per row
    names: dict[str, int] = field(default_factory=dict)  # sessions that have names
    rows: int = 0
    failures: int = 0

    def add(self, values: Columns) -> None:
        """Take one block, without the requests that failed."""
        if self.kind.failures:
            made = np.asarray(values["output"], dtype=np.int64) > 0
            self.failures += int(np.count_nonzero(~made))
            values = {target: np.asarray(column)[made] for target, column in values.items()}
        self.rows += len(values["output"])
        for target, column in values.items():
            self.parts.setdefault(target, []).append(self._array(target, column))

    def _array(self, target: str, column: Any) -> NDArray[Any]:
        if isinstance(column, np.ndarray):
            return column
        if target == "hashes":
            self.counts.append(np.fromiter(map(len, column), dtype=np.int64, count=len(column)))
            size = int(self.counts[-1].sum())
            return np.fromiter((one for hashes in column for one in hashes), dtype=np.int64, count=size)
        if target == "session":  # names count down, so that they meet no number
            column = [
                s if isinstance(s, int) else self.names.setdefault(s, -2 - len(self.names)) for s in column
            ]
        whole = target in ("input", "output", "session", "priority")
        dated = target == "arrival" and self.kind.second == 1e9
        return np.asarray(column, dtype=np.int64 if whole or dated else np.float64)


def _read(path: Path, limit: int | None) -> _Table:
    """The table of a file, up to ``limit`` rows and the end of their block."""
    reader: CsvReader | JsonReader | None = None
    table: _Table | None = None
    for line, block in _from_first_text(path):
        if reader is None or table is None:
            if block.lstrip()[:1] == b"[":
                raise RequestFileError(
                    f"{path}, line {line}: a JSON array; expected one object per line (jq -c '.[]')"
                )
            if block.lstrip()[:1] == b"{":
                reader = JsonReader(path, line, header_of(block)[0])
            else:
                header, block = header_of(block)
                reader, line = CsvReader(path, header), line + 1
            table = _Table(reader.kind, reader.unread)
        while block.strip() and (limit is None or table.rows < limit):
            head, block = _head(block, None if limit is None else limit - table.rows)
            table.add(reader.read(line, head))
            if table.rows > MOST_REQUESTS:
                raise RequestFileError(
                    f"{files.shown_path(path)}: more than {MOST_REQUESTS:,} requests; expected a smaller file"
                )
            line += head.count(b"\n") if block else 0
        if limit is not None and table.rows >= limit:
            break
    if table is None:
        raise RequestFileError(f"{path}: empty file; expected CSV with a header line, or JSON lines")
    if not table.rows:
        failed = f" ({table.failures} rows without output tokens)" if table.failures else ""
        raise RequestFileError(f"{path}: no requests after the header{failed}")
    return table


def _from_first_text(path: Path) -> Iterator[tuple[int, bytes]]:
    """Blocks of the file, without blank lines before the first text."""
    begun = False
    for line, block in blocks(path):
        text = block
        while not begun and text:
            head, rest = header_of(text)
            begun = bool(head.strip())
            if not begun:
                text, line = rest, line + 1
        if begun:
            yield line, text


def _head(block: bytes, count: int | None) -> tuple[bytes, bytes]:
    """The first ``count`` lines of a block, and the rest; None = all lines."""
    if count is None or block.count(b"\n") <= count:
        return block, b""
    *lines, rest = block.split(b"\n", count)
    return b"\n".join(lines) + b"\n", rest


def _requests(table: _Table, path: Path) -> tuple[Requests, list[str]]:
    """The table as requests in order of arrival, from time 0; and what was done to get there."""
    kind, notes = table.kind, []
    hashes = _hashes(table, path)
    # taken out one by one, so that the blocks of a column go when it is whole
    columns = {target: joined(table.parts.pop(target)) for target in list(table.parts)}
    if table.failures:
        notes.append(f"{table.failures:,} rows without output tokens (failed requests) left out")
    if "arrival" in columns:
        # the earliest first, then the unit: dates in ns since 1970 do not fit a float
        ticks = columns["arrival"]
        start = ticks.min()
        arrival = (ticks - start) / kind.second
        if kind.name.startswith("own") and start != 0:
            notes.append(f"the first request comes at {start:g} s; arrivals are counted from there")
    else:
        arrival = np.zeros(table.rows)
        notes.append("no arrival_s: all requests at time 0")
    requests = Requests(
        arrival_s=np.asarray(arrival, dtype=np.float64),
        input_tokens=columns["input"],
        output_tokens=columns["output"],
        session=_sessions(columns.get("session")),
        priority=_unless(columns.get("priority"), 0),
        cancel_s=_unless(columns.get("cancel"), np.inf),
        **hashes,
    )
    if table.unread:
        notes.append(f"columns not read: {files.one_line(', '.join(table.unread), 200)}")
    return _sorted(requests, notes), notes


def _sorted(requests: Requests, notes: list[str]) -> Requests:
    """In order of arrival, stable, so that nothing is lost; a note counts the rows that were late."""
    latest = np.maximum.accumulate(requests.arrival_s)
    late = int(np.count_nonzero(requests.arrival_s < latest))
    if not late:
        return requests
    notes.append(f"{late:,} of {len(requests):,} rows came after a later arrival; sorted by arrival")
    return edits.chosen(requests, np.argsort(requests.arrival_s, kind="stable"))


def _sessions(named: NDArray[Any] | None) -> NDArray[np.int64] | None:
    """Sessions numbered from 0; a row without one is a session of its own."""
    if named is None or np.all(named == NO_SESSION):
        return None
    sessions = named.astype(np.int64)
    alone = np.flatnonzero(sessions == NO_SESSION)
    numbers = np.unique(sessions, return_inverse=True)[1].reshape(-1).astype(np.int64)
    numbers[alone] = numbers.max() + 1 + np.arange(alone.size)
    return np.unique(numbers, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _unless(values: NDArray[Any] | None, plain: float) -> NDArray[Any] | None:
    """None where every value is the plain one: the column says nothing."""
    return None if values is None or np.all(values == plain) else values


def _hashes(table: _Table, path: Path) -> dict[str, Any]:
    """Block hashes of traces that have them, in the order of the file."""
    if not table.kind.block_tokens:
        return {}
    counts = joined(table.counts).astype(np.int64)
    most = -(-joined(table.parts["input"]).astype(np.int64) // table.kind.block_tokens)
    if np.any(counts > most):
        row = int(np.argmax(counts > most))
        raise RequestFileError(
            f"{path}, request {row + 1}, field hash_ids: {counts[row]} blocks; its prompt has {most[row]} "
            f"of {table.kind.block_tokens} tokens"
        )
    return {
        "block_tokens": table.kind.block_tokens,
        "block_hashes": joined(table.parts.pop("hashes")).astype(np.int64),
        "block_starts": np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
    }
