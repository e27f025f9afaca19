"""Cells of the page's tables: the scores of some rows, long for one metric or short for all."""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.calibrate.markdown import percent
from ridgeline.calibrate.scores import by
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow

LONG = (
    "rows", "median", "macro", "P90", "bias", "Spearman", "in 80 % range", "nearest points: median", "P90",
)  # fmt: skip
SHORT = (
    "rows",
    "TPOT: median",
    "P90",
    "bias",
    "in 80 % range",
    "nearest points",
    "TTFT: median",
    "tokens/s: median",
)


def long(board: ServingBoard, rows: Sequence[ServingRow]) -> list[str]:
    """Cells of `LONG` for ``rows``, as text."""
    found, null = board.part(rows), board.neighbours(rows)
    return [
        count(found.n, found.covered),
        percent(found.median_abs_err),
        percent(found.macro_abs_err),
        percent(found.p90_abs_err),
        percent(found.bias, signed=True),
        "" if found.spearman is None else f"{found.spearman:.2f}",
        percent(found.interval_coverage),
        percent(null.median_abs_err),
        percent(null.p90_abs_err),
    ]


def short(board: ServingBoard, rows: Sequence[ServingRow]) -> list[str]:
    """Cells of `SHORT` for ``rows``, as text."""
    metrics = by(rows, [row.metric for row in rows])
    tpot = metrics.get("tpot", [])
    found = board.part(tpot)
    return [
        count(found.n, found.covered),
        percent(found.median_abs_err),
        percent(found.p90_abs_err),
        percent(found.bias, signed=True),
        percent(found.interval_coverage),
        percent(board.neighbours(tpot).median_abs_err),
        *(
            percent(board.part(metrics.get(name, [])).median_abs_err)
            for name in ("ttft", "output_tokens_per_s")
        ),
    ]


def tpots(rows: Sequence[ServingRow]) -> int:
    """How many of ``rows`` are times between tokens."""
    return sum(row.metric == "tpot" for row in rows)


def count(n: int, covered: int) -> str:
    """``n``, or how many of them were covered."""
    return str(n) if n == covered else f"{covered} of {n}"
