"""Files of a measured run of a server, checked value by value: a wrong one names its file, line and field."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.csv_lines import csv_lines, too_damaged
from ridgeline.facts.requests import FURTHEST_S, MOST_TOKENS
from ridgeline.facts.spec import MOST_COUNT

FloatArray = NDArray[np.float64]
TIMES = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
COUNTS = ("input_toks", "output_toks")
#: The engine's clock, in the order of what happens to a request; ``arrival_time`` is the client's own.
ORDER = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
#: A run of an hour has some ten thousand requests of half a kB, and a line of the time series a second.
MOST_BYTES = 256 * 2**20
#: Settings are short texts.
MOST_META_BYTES = 4 * 2**20
#: Bandwidth between two chips [GB/s] that no machine reaches.
MOST_GB_PER_S = 1e6
#: Share of the requests that may be damaged: leaving them out changes the load of the others.
MOST_LEFT_OUT = 0.05
#: Arrivals of one run lie within three years, and its two clocks differ by the same in all lines, within a day [s].
MOST_SPAN_S, MOST_APART_S = 1e8, 86400.0


@dataclass(frozen=True, slots=True)
class RunRequests:
    """Columns of ``requests.jsonl`` ``[n]``, how many blank lines were skipped, and why others were left out."""

    columns: dict[str, FloatArray]
    blank: int = 0
    left_out: tuple[str, ...] = ()


def meta(folder: Path) -> dict[str, Any]:
    """``meta.json``: an object with ``model`` and ``engine_kwargs``."""
    path = folder / "meta.json"
    found = _json(path)
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("engine_kwargs"), dict)
        or not isinstance(found.get("model"), str)
    ):
        raise CaseError(f"{files.shown_path(path)}: expected an object with model (a name) and engine_kwargs")
    return found


def setting(folder: Path, arguments: Mapping[str, Any], name: str, most: int = MOST_COUNT) -> int | None:
    """A count in ``engine_kwargs`` of ``meta.json``; None where it is absent or null."""
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise CaseError(
            f"{files.shown_path(folder / 'meta.json')}, field engine_kwargs.{name}: {files.shown(value)}: "
            f"expected a whole number from 1 to {most:,}"
        )
    return value


def requests(folder: Path) -> RunRequests:
    """The requests of a run; a few damaged lines are left out.

    Raises:
        CaseError: the file cannot be read, holds no request, or more than `MOST_LEFT_OUT` of its requests are damaged.
    """
    path = folder / "requests.jsonl"
    where, blank = files.shown_path(path), 0
    rows: dict[int, list[float]] = {}
    bad: dict[int, str] = {}
    content = _bytes(path).removeprefix(codecs.BOM_UTF8).removesuffix(b"\n")
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            blank += 1
            continue
        try:
            rows[number] = _request(line)
        except CaseError as error:
            bad[number] = str(error)
    if not rows and not bad:
        raise CaseError(f"{where}: holds no request")
    bad |= _of_another_clock(rows)
    reasons = [f"line {number}{bad[number]}" for number in sorted(bad)]
    good = [row for number, row in rows.items() if number not in bad]
    total = len(good) + len(bad)
    if not good or len(bad) > MOST_LEFT_OUT * total:
        more = f" ({len(bad):,} of {total:,} requests cannot be read)" if len(bad) > 1 else ""
        raise CaseError(f"{where}, {reasons[0]}{more}")
    table = np.array(good)
    columns = {name: table[:, i] for i, name in enumerate((*TIMES, *COUNTS))}
    return RunRequests(columns, blank, tuple(reasons))


def _of_another_clock(rows: Mapping[int, list[float]]) -> dict[int, str]:
    """Requests that cannot be of the same run as the others, by line: far from the middle of their times.

    Clients and engines have clocks of their own, whose difference is the same in every line.
    """
    if not rows:
        return {}
    times = np.array([row[:2] for row in rows.values()])
    sent, apart = times[:, 0], times[:, 0] - times[:, 1]
    far = np.abs(sent - np.median(sent)) > MOST_SPAN_S
    odd = far | (np.abs(apart - np.median(apart)) > MOST_APART_S)
    return {
        number: f", field arrival_time: {sent[i]:.15g}: too far from the other requests' to be of the same run"
        for i, number in enumerate(rows)
        if odd[i]
    }


def _request(line: bytes) -> list[float]:
    """Values of one line. Raises CaseError: the reason, as it follows the line's number."""
    try:
        row = files.parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CaseError(f": byte 0x{line[error.start]:02x} is not UTF-8 text") from None
    except ValueError as error:
        reason = str(error).partition(": ")[2] if str(error).startswith("line ") else str(error)
        raise CaseError(f": {reason}") from None
    if not isinstance(row, dict):
        raise CaseError(": expected one JSON object per line, as {...}")
    values = {name: _number(f", field {name}", row.get(name)) for name in (*TIMES, *COUNTS)}
    for name in COUNTS:
        if not 1 <= values[name] <= MOST_TOKENS or values[name] != int(values[name]):
            raise CaseError(
                f", field {name}: {values[name]:g}: expected a whole number from 1 to {MOST_TOKENS:,}"
            )
    for before, after in pairwise(ORDER):
        if values[after] < values[before]:
            raise CaseError(
                f", field {after}: {values[after]:.15g}: expected {before} = {values[before]:.15g} or later"
            )
    return list(values.values())


def series(folder: Path) -> tuple[dict[str, FloatArray], tuple[str, ...]] | None:
    """Columns ``t, running, waiting`` of ``timeseries.csv`` ``[t]``, and why lines were left out; None without one.

    Raises:
        CaseError: the file cannot be read, lacks a column, or most of it is damaged.
    """
    path, names = folder / "timeseries.csv", ("t", "running", "waiting")
    if not os.path.lexists(path):
        return None
    where = files.shown_path(path)
    try:
        header, *lines = csv_lines(path, MOST_BYTES)
    except ValueError as error:
        raise CaseError(str(error)) from None
    missing = [name for name in names if name not in header.cells]
    if missing:
        raise CaseError(f"{where}, line 1: missing column {missing[0]}; expected {', '.join(names)}")
    if not lines:
        raise CaseError(f"{where}: holds no row; expected {', '.join(names)}")
    rows: list[list[float]] = []
    bad: list[str] = []
    for line in lines:
        try:
            rows.append(
                _counts(dict(zip(header.cells, line.cells, strict=False)), names, line.error, rows[-1:])
            )
        except CaseError as error:
            bad.append(f"line {line.number}{error}")
    reason = too_damaged(bad, len(lines))
    if reason:
        raise CaseError(f"{where}{reason}")
    return dict(zip(names, np.array(rows).T, strict=True)), tuple(bad)


def _counts(
    cells: Mapping[str, str], names: tuple[str, ...], error: str, before: list[list[float]]
) -> list[float]:
    """Time and counts of one line. Raises CaseError: the reason, as it follows the line's number."""
    if error:
        raise CaseError(f": {error}")
    row = [_number(f", column {name}", cells.get(name), text=True) for name in names]
    if min(row[1:]) < 0.0 or (before and row[0] < before[0][0]):
        raise CaseError(
            f": t {row[0]:g}, running {row[1]:g}, waiting {row[2]:g}: expected times that do not fall and counts of "
            "at least 0"
        )
    return row


def link_bytes_per_s(folder: Path) -> float | None:
    """``link_bw`` of ``simulator_cluster_config.json`` [B/s]; None where the run has none."""
    path = folder / "simulator_cluster_config.json"
    if not os.path.lexists(path):
        return None
    found, where = _json(path), files.shown_path(path)
    if not isinstance(found, dict) or "link_bw" not in found:
        raise CaseError(f"{where}: expected an object with link_bw [GB/s]")
    stated = _number(f"{where}, field link_bw", found["link_bw"])
    if not 0.0 < stated <= MOST_GB_PER_S:
        raise CaseError(
            f"{where}: link_bw = {stated:g}: must be above 0 GB/s, and at most {MOST_GB_PER_S:,.0f}"
        )
    return stated * 1e9


def _number(where: str, value: Any, *, text: bool = False) -> float:
    """A finite number that a time or a count may be; ``text``: as a cell of a CSV file holds it."""
    if value is None:
        raise CaseError(f"{where}: missing; this value is needed")
    right = isinstance(value, str) if text else isinstance(value, int | float) and not isinstance(value, bool)
    try:
        found = float(value) if right else math.nan
    except (ValueError, OverflowError):
        found = math.nan
    if not abs(found) <= FURTHEST_S:
        raise CaseError(
            f"{where}: {files.shown(value)}: expected a finite number, at most {FURTHEST_S:g} either way"
        )
    return found


def _bytes(path: Path) -> bytes:
    try:
        return files.read_bytes(path, MOST_BYTES)
    except files.FileError as error:
        raise CaseError(str(error)) from None


def _json(path: Path) -> Any:
    try:
        return files.read_json(path, MOST_META_BYTES)
    except files.FileError as error:
        raise CaseError(str(error)) from None
