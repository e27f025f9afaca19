"""The page on the accuracy of serving, as Markdown. `docs/gen_serving_accuracy.py` writes it.

Every number comes from the scoreboard, the replays, the catalog, or the reviewed tables of remedies and other tools.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

from ridgeline.calibrate.markdown import SHARES, TESTS, percent, table
from ridgeline.calibrate.scores import by
from ridgeline.calibrate.serving import ranges
from ridgeline.calibrate.serving.beside import engine_numbers, other_tools, tried
from ridgeline.calibrate.serving.cells import LONG, SHORT, long, short, tpots
from ridgeline.calibrate.serving.pool_page import pool_section
from ridgeline.calibrate.serving.replay import Replay
from ridgeline.calibrate.serving.score import ServingBoard
from ridgeline.calibrate.serving.targets import (
    KINDS,
    NAMES,
    Verdict,
    offline,
    p99,
    replayed,
    verdicts,
)
from ridgeline.calibrate.serving.timings_page import timings_section
from ridgeline.calibrate.serving.worst import contradicting, worst
from ridgeline.facts import catalog

#: How far the share of measurements inside their ranges may be from that set out for.
OFF = 0.07
#: Engine versions with fewer test points share one line.
FEW = 5
_FIELDS = (
    ("regime", "load"),
    ("chip", "chip"),
    ("model", "model"),
    ("engine", "engine"),
    ("engine_version", "engine version"),
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """When and from what the page was made."""

    date: str
    command: str
    scatter: str  # paths of pictures, relative to the page
    replays: tuple[str, ...] = ()


def page(board: ServingBoard, runs: Sequence[Replay], stamp: Stamp) -> str:
    """The page as Markdown: measured points, then replays of whole runs."""
    parts = [
        _opening(board, runs, stamp),
        _how(board),
        _targets(board, runs),
        _shares(board),
        _slices(board),
        _offline(board),
        _ranges(board),
        pool_section(board),
        _replays(runs, stamp),
        timings_section(),
        worst(board),
        contradicting(board),
        tried(),
        engine_numbers(),
        other_tools(board),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(board: ServingBoard, runs: Sequence[Replay], stamp: Stamp) -> str:
    said = []
    for share in TESTS:
        rows = [r for r in board.headline if r.metric == "tpot" and r.case.split == share]
        kinds = by(rows, [row.kind for row in rows])
        each = [
            f"{KINDS[kind]} **{percent(found.median_abs_err)}** ({percent(found.p90_abs_err)})"
            for kind in ("dense", "moe")
            if (found := board.part(kinds.get(kind, []))).covered
        ]
        if each:
            said.append(f"on {SHARES[share]} {'; '.join(each)}")
    points = {row.case.id: row.ok for row in board.headline}
    failures = board.failures()
    why = "; ".join(f"{reason} ({count})" for reason, count in failures.most_common())
    left = f"{len(points) - sum(points.values())} not: {why}" if failures else "all of them"
    judged = [
        one
        for one in (*verdicts(board), *(one for run in runs for one in replayed(run)))
        if one.met is not None
    ]
    met = sum(bool(one.met) for one in judged)
    sources = len({row.case.source for row in board.rows})
    pools = {row.case.id: row.ok for row in board.pools}
    apart = (
        f"\n{len(pools)} points of [separate prefill and decode pools](#separate-pools-of-prefill-and-decode), "
        f"{sum(pools.values())} of them\npredicted, are scored apart: the targets do not speak of them."
        if pools
        else ""
    )
    return f"""# Accuracy of serving

Median error (P90) of the time between tokens, TPOT, of measured servers that no number was fitted to:
{", ".join(said)}.
{met} of {len(judged)} [targets](#targets) are met{"; the others are marked" if met < len(judged) else ""}.

![Time between tokens predicted against measured, and the share of points within an error]({stamp.scatter})

This page is written by `{stamp.command}`, not by hand: {stamp.date}, catalog `{catalog.digest()}`, Ridgeline
{importlib.metadata.version("ridgeline")}. The file joins published points of {sources} sources and is not
part of the repository; the [guide](guides/validate.md) says how to score your own. An error is predicted over measured,
less 1: positive TPOT means predicted too slow.

{len(points):,} aggregated points of quality A and B: {sum(points.values()):,} predicted, {left}.{apart}"""


def _how(board: ServingBoard) -> str:
    counts = {
        share: len({row.case.id for row in board.headline if row.case.split == share}) for share in SHARES
    }
    rows = [[SHARES[share], f"{count:,}"] for share, count in counts.items() if count]
    return f"""## How the score is made

{table(["share", "points"], rows)}

- **Shares.** The file was divided once, before any fit. *Unseen configurations* are other configurations of families (a
  model on a chip) in the fit share; *unseen families* are whole families without a row in it. Numbers of engines are
  fitted on the closed loops of the fit share alone, those of kernels and links on timed kernels. The scores of the test
  shares and the replays were looked at while the physics was written, so they test the numbers, not a blind model.
- **Quality.** A: all is stated, B: one field is open. C (a hidden variable, such as speculation that is not recorded,
  or a row known to be wrong) is left out of every figure here.
- **Headline.** Aggregated points: one engine does prefill and decode. TTFT counts only where the client is known
  (`inferencex`: all users start at once, and that client is simulated), as a queue is the client's doing; other clients
  are taken in steady state. Requests that come at a rate of their own are simulated as Poisson arrivals, five
  times, with lengths drawn evenly within 20 % of the stated means, or as wide as the publisher's own requests. A point
  that cannot be predicted stays in the count and lowers coverage.
- **Kinds.** Targets speak of dense models and of experts without speculation. Points with drafts are listed apart: how
  many drafts were accepted is not stated, and means of the fit share stand in.
- **Nearest points** are a predictor without physics: the geometric mean of the three nearest points of the fit share,
  of other configurations, by model, chip and engine, then by the logarithms of chips, users, lengths and tp."""


def _targets(board: ServingBoard, runs: Sequence[Replay]) -> str:
    sections = ["## Targets", _verdicts(list(verdicts(board)))]
    if runs:
        sections += [
            "Of the [replays](#replays-of-whole-runs):",
            _verdicts([one for run in runs for one in replayed(run)]),
        ]
    return "\n\n".join(sections)


def _verdicts(found: Sequence[Verdict]) -> str:
    rows = []
    for one in found:
        sign = "at least" if one.at_least else "at most"
        rank = one.what.startswith("Spearman")
        reached = f"{one.reached:.3f}" if rank and one.reached is not None else _tenths(one)
        wanted = f"{one.target:.2f}" if rank else f"{100 * one.target:.0f} %"
        verdict = {True: "met", False: "**missed**", None: "not judged: no point predicted"}[one.met]
        rows.append([one.what, one.where, one.rows, reached, f"{sign} {wanted}", verdict])
    return table(["figure", "on", "rows", "reached", "target", ""], rows)


def _tenths(one: Verdict) -> str:
    """A share with one digit, so that one beside its target can be told from it."""
    return "" if one.reached is None else f"{100 * one.reached:{'+' if one.signed else ''}.1f} %"


def _shares(board: ServingBoard) -> str:
    headers = ["share", "kind", *LONG]
    sections = []
    for metric, name in NAMES.items():
        rows = []
        for share in (*TESTS, "fit"):
            chosen = [r for r in board.headline if r.metric == metric and r.case.split == share]
            kinds = by(chosen, [row.kind for row in chosen])
            rows += [[SHARES[share], "all", *long(board, chosen)]] if chosen else []
            rows += [["", KINDS[kind], *long(board, kinds[kind])] for kind in KINDS if kind in kinds]
        if rows:
            sections.append(f"## {name[0].upper()}{name[1:]} by share\n\n{table(headers, rows)}")
    sections.append(
        "*Macro* is the median over families of each family's median. Empty cells: no point was predicted there."
    )
    return "\n\n".join(sections)


def _slices(board: ServingBoard) -> str:
    tests = [row for row in board.headline if row.case.split in TESTS]
    if not tests:
        return "## Test points\n\nThe file has no test share."
    sections: list[str] = []
    for field, title in _FIELDS:
        parts = by(tests, [row.key(field) or "not stated" for row in tests])
        if field == "regime":
            parts = {(key if key != "not stated" else "not predicted"): part for key, part in parts.items()}
        small = [key for key, part in parts.items() if tpots(part) < FEW] if field == "engine_version" else []
        body = [[key, *short(board, part)] for key, part in parts.items() if key not in small]
        if small:
            rest = [row for key in small for row in parts[key]]
            body.append([f"{len(small)} others, under {FEW} points each", *short(board, rest)])
        note = "Points of both test shares together; so in the tables below.\n\n" if not sections else ""
        sections.append(f"## Test points by {title}\n\n{note}{table([title, *SHORT], body)}")
    return "\n\n".join(sections)


def _offline(board: ServingBoard) -> str:
    rows = offline(board)
    if not rows:
        return ""
    body = [["all of quality A and B", *long(board, rows)]]
    for title, key in (("", attrgetter("case.split")), ("", attrgetter("case.source"))):
        parts = by(rows, [key(row) for row in rows])
        body += [[f"{title}{SHARES.get(name, name)}", *long(board, part)] for name, part in parts.items()]
    without = [r for r in board.rows if r.case.mode == "offline" and r.case.quality not in "AB"]
    note = (
        f" {len(without)} rows of quality C, most of which state neither lengths nor tp, are not predicted."
        if without
        else ""
    )
    headers = ["rows of", *LONG]
    return f"""## Offline throughput

All requests at once, output tokens/s, simulated from the first request to the last. Limits of requests and tokens are
those that `trtllm-bench` chooses by itself; the number of requests and the options are those of the tables'
documentation, attention data parallelism of models with experts among them.{note}

{table(headers, body)}"""


def _ranges(board: ServingBoard) -> str:
    rows = ranges.scored(board)
    body = []
    for metric, name in (*NAMES.items(), ("offline", "offline tokens/s")):
        parts = by(
            [row for row in rows if ranges.metric_of(row) == metric],
            [row.case.split for row in rows if ranges.metric_of(row) == metric],
        )
        for share in (*TESTS, "fit"):
            part = parts.get(share, [])
            if not part:
                continue
            found = board.part(part)
            held = found.interval_coverage or 0.0
            verdict = "" if share == "fit" else "met" if abs(held - ranges.HELD) <= OFF else "**missed**"
            body.append(
                [
                    name if share == TESTS[0] or TESTS[0] not in parts else "",
                    SHARES[share],
                    str(len(part)),
                    percent(held),
                    percent(found.interval_width),
                    f"{ranges.winkler(part):.2f}",
                    verdict,
                ]
            )
    if not body:
        return ""
    headers = [
        "metric",
        "share",
        "rows",
        "inside",
        "median width",
        "Winkler score",
        f"80 +- {100 * OFF:.0f} %",
    ]
    return f"""## Ranges

Every prediction has a range that should hold 80 % of measurements. Its width goes by the metric and the kind of model
and grows near saturation; the widths were fitted on the fit share alone. Width: high less low, over the prediction. The
Winkler score is a mean in logarithms: the width, and ten times by how much a measurement lies outside; lower is better.

{table(headers, body)}"""


def _replays(runs: Sequence[Replay], stamp: Stamp) -> str:
    if not runs:
        return ""
    parts = [
        "## Replays of whole runs",
        "Measured runs of a server, simulated request by request from their arrivals and lengths with the default\n"
        "settings of the engine; no number was fitted to them. A run has no times of single tokens: the P99 of its\n"
        "gaps cannot be read off it. Compared instead, on both sides: the P99 of each request's mean gap, and that of\n"
        "the time from scheduled to first token: steps with prefills make the longest gaps.",
    ]
    for number, run in enumerate(runs):
        rows = []
        for one in run.latencies:
            rank = one.spearman
            rows.append(
                [
                    one.name,
                    f"{one.measured_s.mean():.3f} s",
                    f"{one.predicted_s.mean():.3f} s",
                    percent(one.rel_err, signed=True),
                    percent(p99(one), signed=True),
                    "" if rank is None else f"{rank:.3f}",
                ]
            )
        headers = ["latency", "measured mean", "predicted mean", "error", "error of P99", "Spearman"]
        parts.append(f"### {run.name}\n\n{run.engine}, {run.latencies[0].measured_s.size} requests.")
        parts.append(table(headers, rows))
        if number < len(stamp.replays):
            parts.append(
                f"![Running and waiting requests over time, distributions of end-to-end latency and TTFT: {run.name}]"
                f"({stamp.replays[number]})"
            )
    return "\n\n".join(parts)
