"""Widths of the 80 % ranges of serving from errors of the fit share; `ridgeline calibrate ranges` runs it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ridgeline import files
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow
from ridgeline.facts import serving_ranges as ranges

HELD = 0.8
#: Kinds with fewer fit points than this take the width of the whole metric.
LEAST = 20
QUEUED = "near saturation"
Widths = dict[str, dict[str, float]]


def fit_ranges(board: ServingBoard) -> Widths:
    """Half widths in logarithms by metric and kind.

    Points near saturation, and those of separate pools, need more than their kind: the table holds how much.
    """
    rows = [row for row in scored(board) if row.case.split == "fit"]
    found: Widths = {}
    for metric in ranges.METRICS:
        chosen = [row for row in rows if metric_of(row) == metric]
        if not chosen:
            continue
        calm = [row for row in chosen if row.regime != QUEUED] or chosen
        kinds = {kind: [row for row in calm if kind_of(row) == kind] for kind in ranges.KINDS}
        found[metric] = {
            kind: _held(part if len(part) >= LEAST else calm, None) for kind, part in kinds.items()
        }
        if queued := [row for row in chosen if row.regime == QUEUED]:
            found[metric][ranges.QUEUED] = _beyond(queued, [found[metric][kind_of(row)] for row in queued])
    for metric, widths in found.items():
        pooled = [row for row in board.pools if row.ok and row.case.split == "fit" and row.metric == metric]
        if len(pooled) >= LEAST:
            extra = [widths.get(ranges.QUEUED, 0.0) if row.regime == QUEUED else 0.0 for row in pooled]
            base = [math.hypot(widths[kind_of(row)], more) for row, more in zip(pooled, extra, strict=True)]
            widths[ranges.POOLS] = _beyond(pooled, base)
    return found


def scored(board: ServingBoard) -> list[ServingRow]:
    """Predicted points that ranges are judged on: the headline, and offline tables of quality A and B."""
    offline = [r for r in board.rows if r.case.mode == "offline" and r.case.quality in "AB"]
    headline = [row for row in board.headline if row.case.mode != "offline"]
    return [row for row in (*headline, *offline) if row.ok]


def metric_of(row: ServingRow) -> str:
    """The metric that a width is listed by: offline throughput is one of its own."""
    return "offline" if row.case.mode == "offline" else row.metric


def kind_of(row: ServingRow) -> str:
    """The kind that a width is listed by."""
    return ranges.kind_of(experts=bool(row.case.experts), drafts=row.case.speculative != "none")


def _held(rows: Sequence[ServingRow], of: Sequence[float] | None) -> float:
    """The size of error that holds 80 % of the points, over ``of`` where given."""
    sizes = np.abs(np.log([row.predicted / row.measured for row in rows]))
    return float(np.quantile(sizes if of is None else sizes / np.asarray(of), HELD))


def _beyond(rows: Sequence[ServingRow], base: Sequence[float]) -> float:
    """What holds 80 % of the points when it is added to half widths of ``base`` in quadrature: to their median."""
    scale = _held(rows, base)
    return float(np.median(base)) * math.sqrt(max(scale**2 - 1.0, 0.0))


def winkler(rows: Sequence[ServingRow]) -> float:
    """Mean Winkler score of the ranges, in logarithms: width, and ten times by how much a measurement lies outside.

    ``(h - l) + 2 / 0.2 (max(l - x, 0) + max(x - h, 0))`` (Winkler, JASA 67, 1972); lower is better.
    """
    low, high, seen = (np.log([getattr(row, name) for row in rows]) for name in ("low", "high", "measured"))
    outside = np.maximum(low - seen, 0.0) + np.maximum(seen - high, 0.0)
    return float(np.mean(high - low + 2.0 / (1.0 - HELD) * outside))


def write(widths: Widths, directory: Path) -> Path:
    """Rewrite the table in ``directory`` under its leading comment -> the file.

    Raises:
        OSError: the file cannot be read or written.
    """
    path = directory / ranges.FILE
    head = [line for line in files.read_text(path).splitlines() if line.startswith("#")]
    lines = [*head, "half_widths:"]
    for metric, kinds in widths.items():
        listed = ", ".join(f"{kind}: {width:.3f}" for kind, width in kinds.items())
        lines.append(f"  {metric}: {{{listed}}}")
    return files.write(path, "\n".join(lines) + "\n")
