"""The report of a serving result: one HTML file that needs no network, in the look of the training report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ridgeline import files
from ridgeline.report import serving_figures as figures
from ridgeline.report.frame import Panel, render
from ridgeline.report.numerals import MINUS, gigabytes, percent, signed_percent, significant
from ridgeline.report.serving_parts import (
    ChipMemory,
    Latency,
    Metric,
    ServingEffect,
    ServingPoint,
    State,
    StepBlock,
    engines_of,
)
from ridgeline.report.sheet import Sheet

TABLE_BINS = 24  # rows of the table behind the time series


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingReport:
    """What the page shows; each part may be left empty, and then its place on the page is left out.

    ``headline`` says who serves what where, ``answer`` the result in one sentence, ``plan`` the deployment in words.
    ``facts`` are the numbers on top (what, value, remark); ``labels`` name the evidence of each part: measured,
    fitted, transferred or bound. ``inputs`` are sheets by title, their last column the source.
    """

    title: str
    headline: str
    answer: str
    plan: str = ""
    fits: bool = True
    facts: Sequence[tuple[str, str, str]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Sequence[Metric] = ()
    metrics_note: str = ""
    plans: Sheet | None = None
    plans_note: str = ""
    points: Sequence[ServingPoint] = ()
    latencies: Sequence[Latency] = ()
    state: State | None = None
    ladder: Sequence[tuple[str, float]] = ()
    ladder_note: str = ""
    effects: Sequence[ServingEffect] = ()
    steps: Sequence[StepBlock] = ()
    memory: Sequence[ChipMemory] = ()
    inputs: Mapping[str, Sheet] = field(default_factory=dict)
    notes: Sequence[str] = ()
    command: str = ""
    version: str = ""
    catalog_hash: str = ""


def write_serving_report(path: str | Path, report: ServingReport) -> Path:
    """Write the page to ``path``, making its folder."""
    return files.write(path, serving_page(report))


def serving_page(report: ServingReport) -> str:
    """The report as a self-contained HTML page."""
    shown = [latency for latency in report.latencies if latency.finite.size]
    panels = [*(_latency(latency) for latency in shown), *_others(report)]
    return render(
        "serving.html.j2",
        title=report.title,
        headline=report.headline,
        answer=report.answer,
        plan=report.plan,
        fits=report.fits,
        facts=report.facts,
        labels=report.labels,
        panels={panel.key: panel for panel in panels},
        latencies=[_key(latency) for latency in shown],
        metrics=metric_sheet(report.metrics) if report.metrics else None,
        metrics_note=report.metrics_note,
        plans=report.plans,
        plans_note=report.plans_note,
        inputs=report.inputs,
        notes=report.notes,
        command=report.command,
        version=report.version,
        catalog_hash=report.catalog_hash,
    )


def _others(report: ServingReport) -> list[Panel]:
    panels = []
    if report.points:
        panels.append(_points(report.points))
    if report.state is not None and np.size(np.asarray(report.state.times_s)):
        panels.append(_state(report.state))
    if any(value for _, value in report.ladder):
        lead = report.ladder_note or "One decode step, one bar per cause."
        drawn = figures.step_ladder(report.ladder)
        panels.append(Panel("step", "Where a decode step goes", lead, drawn, ladder_sheet(report.ladder)))
    if report.effects:
        panels.append(_effects(report.effects))
    if steps := [step for step in report.steps if step.end_s > step.start_s]:
        panels.append(_steps(steps))
    if report.memory:
        panels.append(_memory(report.memory))
    return panels


def metric_sheet(metrics: Sequence[Metric]) -> Sheet:
    """Mean and percentiles, a row for each metric; the column of targets only where one is set."""
    targets = any(metric.slo for metric in metrics)
    rows = []
    for metric in metrics:
        numbers = (metric.mean, metric.p50, metric.p90, metric.p95, metric.p99)
        row = (metric.name, metric.unit, *(significant(number) for number in numbers))
        rows.append((*row, metric.slo) if targets else row)
    columns = ("metric", "unit", "mean", "P50", "P90", "P95", "P99", *(("target",) if targets else ()))
    return Sheet(columns, tuple(rows), "llrrrrr" + ("l" if targets else ""))


def ladder_sheet(ladder: Sequence[tuple[str, float]]) -> Sheet:
    """Causes of a step with their share and the time up to them."""
    total = math.fsum(value for _, value in ladder)
    rows, reached = [], 0.0
    for cause, value in ladder:
        reached += value
        cells = (f"{value * 1e3:.3f}", percent(value / total), f"{reached * 1e3:.3f}")
        rows.append((cause, *(cell.replace("-", MINUS) for cell in cells)))
    rows.append(("step", f"{total * 1e3:.3f}", percent(1.0), f"{total * 1e3:.3f}"))
    columns = ("cause", "ms", "share", "up to here ms")
    return Sheet(columns, tuple(rows), "lrrr", strong=frozenset([len(rows) - 1]))


def _key(latency: Latency) -> str:
    return "latency-" + "".join(letter if letter.isalnum() else "-" for letter in latency.name.lower())


def _latency(latency: Latency) -> Panel:
    values = latency.finite
    lead = f"{latency.title}. " if latency.title else ""
    if latency.within is not None:
        lead += f"{percent(latency.within)} of requests meet the SLO. "
    if missing := latency.requests - values.size:
        lead += f"{missing:,} of {latency.requests:,} requests have none. "
    ranks = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
    found = np.percentile(values, ranks)
    rows = [(f"P{rank:g}", significant(float(value) * 1e3)) for rank, value in zip(ranks, found, strict=True)]
    rows += [
        ("mean", significant(float(values.mean()) * 1e3)),
        ("slowest", significant(float(values[-1]) * 1e3)),
    ]
    sheet = Sheet((latency.name, "ms"), tuple(rows), "lr", caption=f"{values.size:,} requests")
    return Panel(_key(latency), latency.name, lead.strip(), figures.latency_cdf(latency), sheet)


def _points(points: Sequence[ServingPoint]) -> Panel:
    front = sorted((p for p in points if p.on_front or p.chosen), key=lambda p: -p.tokens_per_s_chip)
    rows = [
        (
            point.label,
            "disaggregated" if point.disaggregated else "aggregated",
            significant(point.tokens_per_s_user),
            significant(point.tokens_per_s_chip),
            point.remark,
        )
        for point in front
    ]
    strong = frozenset(i for i, point in enumerate(front) if point.chosen)
    columns = ("deployment", "kind", "tokens/s of a user", "tokens/s of a chip", "remark")
    lead = (
        f"{len(points):,} deployments and loads. Up is cheaper, right is faster; "
        "the table lists those that no other of their kind beats."
    )
    sheet = Sheet(columns, tuple(rows), "llrrl", strong=strong)
    return Panel(
        "front", "Speed of a user against yield of a chip", lead, figures.points_front(points), sheet
    )


def _state(state: State) -> Panel:
    times, running, waiting, kv = figures.binned(state, TABLE_BINS)
    rows = tuple(
        (significant(float(time)), f"{run:,.0f}", f"{wait:,.0f}", percent(float(share)))
        for time, run, wait, share in zip(times, running, waiting, kv, strict=True)
    )
    instants = int(np.size(np.asarray(state.times_s)))
    lead = "Requests of all engines, and how much of their KV cache they hold."
    if instants > figures.TIME_BINS:
        lead += f" {instants:,} instants; each of {figures.TIME_BINS} spans shows its highest value."
    sheet = Sheet(("from s", "running", "waiting", "KV cache"), rows, "rrrr")
    return Panel("state", "Load over time", lead, figures.state_over_time(state), sheet)


def _effects(effects: Sequence[ServingEffect]) -> Panel:
    rows = tuple(
        (
            effect.name,
            signed_percent(effect.chip),
            signed_percent(effect.tpot),
            signed_percent(effect.ttft),
            effect.note,
        )
        for effect in effects
    )
    sheet = Sheet(("change", "chip time of a token", "TPOT", "TTFT", "remark"), rows, "lrrrl")
    lead = "Change of the means when one input changes and all else stays, the number of users too."
    return Panel("sensitivity", "What would help", lead, figures.effect_bars(effects), sheet)


def _steps(steps: Sequence[StepBlock]) -> Panel:
    engines, drawn = engines_of(steps), figures.drawn_engines(steps)
    begin, end = min(step.start_s for step in steps), max(step.end_s for step in steps)
    several = "s" if len(engines) > 1 else ""
    lead = (
        f"{len(steps):,} steps of {len(engines):,} engine{several} in {significant(end - begin)} s, cut at its edges. "
        "Blank is idle."
    )
    if len(drawn) < len(engines):
        lead += f" The first {len(drawn)} engines are drawn; the table has all."
    sheet = steps_sheet(steps)
    return Panel("timeline", "A busy moment", lead, figures.step_gantt(steps), sheet)


def steps_sheet(steps: Sequence[StepBlock]) -> Sheet:
    """Seconds by kind, busy share, steps and tokens of each engine."""
    kinds = [kind for kind in figures.KIND_COLOURS if any(step.kind == kind for step in steps)]
    kinds += [kind for kind in dict.fromkeys(step.kind for step in steps) if kind not in kinds]
    span = max(step.end_s for step in steps) - min(step.start_s for step in steps)
    rows = []
    for engine in engines_of(steps):
        mine = [step for step in steps if step.engine == engine]
        spent = [math.fsum(s.end_s - s.start_s for s in mine if s.kind == kind) for kind in kinds]
        cells = (engine, *(f"{value:.3f}" if value else "" for value in spent))
        tokens = sum(step.tokens for step in mine)
        rows.append((*cells, percent(math.fsum(spent) / span), f"{len(mine):,}", f"{tokens:,}"))
    columns = ("engine", *(f"{kind} s" for kind in kinds), "busy", "steps", "tokens")
    return Sheet(columns, tuple(rows), "l" + "r" * (len(kinds) + 3))


def _memory(chips: Sequence[ChipMemory]) -> Panel:
    parts = list(dict.fromkeys(part for chip in chips for part in chip.parts))
    rows = tuple(
        (
            chip.name,
            *(gigabytes(chip.parts.get(part, 0.0)) for part in parts),
            gigabytes(chip.total_bytes),
            gigabytes(chip.capacity_bytes),
            percent(chip.total_bytes / chip.capacity_bytes),
        )
        for chip in chips
    )
    over = [chip.name for chip in chips if chip.total_bytes > chip.capacity_bytes]
    lead = "What fills one chip; the dashed line is its capacity."
    if over:
        lead += f" Does not fit: {', '.join(over)}."
    columns = ("chip", *(f"{part} GB" for part in parts), "all GB", "capacity GB", "filled")
    sheet = Sheet(columns, rows, "l" + "r" * (len(parts) + 3))
    return Panel("memory", "Memory of a chip", lead, figures.chip_memory(chips), sheet)
