"""Targets of serving: what was set out for, and whether measured points and replays keep it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.calibrate.markdown import SHARES, TESTS
from ridgeline.calibrate.serving.replay import Compared, Replay
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow

#: Metric, kind of model, largest median and largest P90 of the absolute error on the test shares.
ERRORS = (
    ("tpot", "dense", 0.08, 0.22),
    ("tpot", "moe", 0.12, 0.30),
    ("output_tokens_per_s", "dense", 0.08, 0.22),
    ("output_tokens_per_s", "moe", 0.12, 0.30),
    ("ttft", "", 0.20, None),
)
COVERAGE, OFFLINE = 0.85, 0.15
#: Of a replay: largest errors of means, of the P99 of gaps between tokens and of counts; least rank correlation.
REPLAYED = (("end to end", 0.06), ("TTFT", 0.12), ("scheduled to first token", 0.10))
ITL_P99, COUNTS, SPEARMAN = 0.20, 0.10, 0.95
NAMES = {"tpot": "TPOT", "ttft": "TTFT", "output_tokens_per_s": "output tokens/s"}
KINDS = {
    "dense": "dense",
    "moe": "experts, no speculation",
    "moe-mtp": "experts, drafts",
    "moe-unknown": "experts, speculation unknown",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target beside what was reached; ``met`` is ``None`` where nothing could be judged."""

    what: str
    where: str
    rows: str
    reached: float | None
    target: float
    at_least: bool = False
    signed: bool = False

    @property
    def met(self) -> bool | None:
        if self.reached is None:
            return None
        return self.reached >= self.target if self.at_least else abs(self.reached) <= self.target


def verdicts(board: ServingBoard) -> Iterator[Verdict]:
    """The targets of measured points, each on both test shares."""
    tests = [row for row in board.headline if row.case.split in TESTS]
    for share in TESTS:
        of_share = [row for row in tests if row.case.split == share]
        points = {row.case.id: row.ok for row in of_share}
        if points:
            done = sum(points.values())
            where = SHARES[share]
            yield Verdict("coverage", where, str(len(points)), done / len(points), COVERAGE, at_least=True)
    for metric, kind, median, p90 in ERRORS:
        for share in TESTS:
            rows = [
                row
                for row in tests
                if row.metric == metric and row.case.split == share and kind in ("", row.kind)
            ]
            yield from _errors(board, rows, metric, kind, SHARES[share], median, p90)
    for share in TESTS:
        rows = [row for row in offline(board) if row.case.split == share]
        if rows:
            found = board.part(rows)
            yield Verdict(
                "offline tokens/s, median", SHARES[share], str(found.n), found.median_abs_err, OFFLINE
            )


def _errors(
    board: ServingBoard,
    rows: Sequence[ServingRow],
    metric: str,
    kind: str,
    where: str,
    median: float,
    p90: float | None,
) -> Iterator[Verdict]:
    if not rows:
        return
    found = board.part(rows)
    count = str(found.n) if found.covered == found.n else f"{found.covered} of {found.n}"
    name = f"{NAMES[metric]}{', ' + KINDS[kind] if kind else ''}"
    yield Verdict(f"{name}: median", where, count, found.median_abs_err, median)
    if p90 is not None:
        yield Verdict(f"{name}: P90", where, count, found.p90_abs_err, p90)


def offline(board: ServingBoard) -> list[ServingRow]:
    """Rows of quality A and B whose requests all come at once."""
    return [row for row in board.rows if row.case.mode == "offline" and row.case.quality in "AB"]


def replayed(run: Replay) -> Iterator[Verdict]:
    """The targets of one replay."""
    where, by_name = run.name, {one.name: one for one in run.latencies}
    requests = str(run.latencies[0].measured_s.size)
    for name, most in REPLAYED:
        yield Verdict(f"mean {name}", where, requests, by_name[name].rel_err, most, signed=True)
    # single gaps are not in a run: means of requests, and the steps with prefills that make the longest gaps, are
    yield Verdict("P99 of a request's mean gap", where, requests, p99(by_name["TPOT"]), ITL_P99, signed=True)
    first = p99(by_name["scheduled to first token"])
    yield Verdict("P99 of scheduled to first token", where, requests, first, ITL_P99, signed=True)
    for one in run.counts:
        yield Verdict(f"{one.name}, RMS of the peak", where, f"{one.times_s.size} s", one.rms, COUNTS)
    rank = by_name["end to end"].spearman
    yield Verdict("Spearman of end to end", where, requests, rank, SPEARMAN, at_least=True)


def p99(one: Compared) -> float:
    """Error of the 99th percentile over requests."""
    return float(np.quantile(one.predicted_s, 0.99) / np.quantile(one.measured_s, 0.99) - 1.0)
