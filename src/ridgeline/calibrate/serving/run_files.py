"""Files of a measured run of a server, checked value by value: a wrong one names its file, line and field."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.columns import CaseError
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


def requests(folder: Path) -> tuple[dict[str, FloatArray], int]:
    """Columns of ``requests.jsonl`` ``[n]``, and how many blank lines were skipped."""
    path = folder / "requests.jsonl"
    where, skipped = files.shown_path(path), 0
    rows: list[list[float]] = []
    for number, line in enumerate(_text(path).removesuffix("\n").split("\n"), 1):
        if not line.strip():
            skipped += 1
            continue
        rows.append(_request(f"{where}, line {number}", line))
    if not rows:
        raise CaseError(f"{where}: holds no request")
    table = np.array(rows)
    return {name: table[:, i] for i, name in enumerate((*TIMES, *COUNTS))}, skipped


def _request(where: str, line: str) -> list[float]:
    try:
        row = files.parse_json(line)
    except ValueError as error:
        reason = str(error).partition(": ")[2] if str(error).startswith("line ") else str(error)
        raise CaseError(f"{where}: {reason}") from None
    if not isinstance(row, dict):
        raise CaseError(f"{where}: expected one JSON object per line, as {{...}}")
    values = {name: _number(f"{where}, field {name}", row.get(name)) for name in (*TIMES, *COUNTS)}
    for name in COUNTS:
        if not 1 <= values[name] <= MOST_TOKENS or values[name] != int(values[name]):
            raise CaseError(
                f"{where}, field {name}: {values[name]:g}: expected a whole number from 1 to {MOST_TOKENS:,}"
            )
    for before, after in pairwise(ORDER):
        if values[after] < values[before]:
            raise CaseError(
                f"{where}, field {after}: {values[after]:.15g}: expected {before} = {values[before]:.15g} or later"
            )
    return list(values.values())


def series(folder: Path) -> dict[str, FloatArray] | None:
    """Columns ``t, running, waiting`` of ``timeseries.csv`` ``[t]``; None where the run has none."""
    path, names = folder / "timeseries.csv", ("t", "running", "waiting")
    if not path.is_file():
        return None
    where = files.shown_path(path)
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    rows: list[list[float]] = []
    try:
        missing = [name for name in names if name not in (reader.fieldnames or ())]
        if missing:
            raise CaseError(f"{where}, line 1: missing column {missing[0]}; expected {', '.join(names)}")
        for row in reader:
            at = f"{where}, line {reader.line_num}"
            rows.append([_number(f"{at}, column {name}", row[name], text=True) for name in names])
            if min(rows[-1][1:]) < 0.0 or (len(rows) > 1 and rows[-1][0] < rows[-2][0]):
                raise CaseError(
                    f"{at}: t {rows[-1][0]:g}, running {rows[-1][1]:g}, waiting {rows[-1][2]:g}: expected times "
                    "that do not fall and counts of at least 0"
                )
    except csv.Error as error:
        raise CaseError(f"{where}, line {reader.reader.line_num}: not CSV: {error}") from None
    if not rows:
        raise CaseError(f"{where}: holds no row; expected {', '.join(names)}")
    return dict(zip(names, np.array(rows).T, strict=True))


def link_bytes_per_s(folder: Path) -> float | None:
    """``link_bw`` of ``simulator_cluster_config.json`` [B/s]; None where the run has none."""
    path = folder / "simulator_cluster_config.json"
    if not path.is_file():
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


def _text(path: Path) -> str:
    try:
        return files.read_text(path, MOST_BYTES)
    except files.FileError as error:
        raise CaseError(str(error)) from None


def _json(path: Path) -> Any:
    try:
        return files.read_json(path, MOST_META_BYTES)
    except files.FileError as error:
        raise CaseError(str(error)) from None
