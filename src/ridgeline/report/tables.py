"""Tables and one-liners of predictions, for a terminal and for a page: words and numbers only, no colour."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ridgeline import files, units
from ridgeline.facts.plan import Plan
from ridgeline.metrics import Prediction
from ridgeline.report.effects import HasEffect
from ridgeline.report.numerals import MINUS, count, gigabytes, percent, seconds, signed_percent, significant
from ridgeline.report.points import PlanPoint, plan_label
from ridgeline.report.sheet import Sheet

BAR_WIDTH = 24  # characters of the longest bar


def headline(prediction: Prediction) -> str:
    """Who runs where: model, chips, network, stack and recipe in one line."""
    scenario = prediction.scenario
    cluster, chip = scenario.cluster, scenario.chip
    link = chip.scale_up
    parts = []
    if link.domain > 1:
        parts.append(f"{link.link} {units.show(link.bandwidth, 'B/s')} in domains of {link.domain}")
    if scenario.num_chips > link.domain:
        outer = cluster.tiers[-1]
        rail = "rail-optimised " if outer.rail_optimised else ""
        parts.append(f"{outer.name} {units.show(outer.bandwidth, 'B/s')} per chip, {rail}{outer.topology}")
    if scenario.num_chips > cluster.chips_per_node:
        nodes = math.ceil(scenario.num_chips / cluster.chips_per_node)
        parts.insert(0, f"{nodes:,} nodes of {cluster.chips_per_node}")
    inside = f" ({', '.join(parts)})" if parts else ""
    return files.one_line(
        f"{model_title(prediction)} on {scenario.num_chips:,} x {chip.title or chip.name}{inside}, "
        f"stack {scenario.stack.name}, {scenario.recipe.name}"
    )


def answer(prediction: Prediction) -> str:
    """What the plan does, in one sentence, with the range."""
    p = prediction
    parts = [
        f"{significant(p.step_time_s)} s a step ({step_range(p)})",
        f"{percent(p.mfu)} MFU",
        f"{gigabytes(p.peak_memory_bytes)} of {gigabytes(p.memory_capacity_bytes)} GB"
        + ("" if p.fits else ": does not fit"),
    ]
    if p.days is not None:
        tokens = p.scenario.job.tokens
        parts.append(f"{significant(p.days)} days" + (f" for {count(tokens)} tokens" if tokens else ""))
    return ", ".join(parts)


def model_title(prediction: Prediction) -> str:
    """The model's title, or its name where it has none."""
    return prediction.scenario.architecture.title or prediction.scenario.architecture.name


def step_range(prediction: Prediction) -> str:
    """The 80 % range of the step time, without its unit."""
    return f"{significant(prediction.step_time_low_s)} to {significant(prediction.step_time_high_s)}"


def run_energy_mwh(prediction: Prediction) -> float | None:
    """Energy of all chips over the whole run [MWh]; None without a token budget."""
    if prediction.days is None:
        return None
    return prediction.average_power_w * prediction.scenario.num_chips * prediction.days * 24.0 / 1e6


def plan_of(prediction: Prediction) -> Plan:
    """The one plan of a prediction. Raises ValueError for a grid."""
    plan = prediction.scenario.plan
    if not isinstance(plan, Plan):
        raise ValueError(f"a report shows one plan, got a grid of {len(plan)}; take one with grid[i]")
    return plan


def plan_sheet(predictions: Sequence[Prediction]) -> Sheet:
    """Plans side by side, in the order given; expert columns appear only where a plan uses them."""
    plans = [plan_of(p) for p in predictions]
    degrees = ["tp", "cp", "pp", "vpp", "dp"]
    degrees[4:4] = [name for name in ("ep", "etp") if any(getattr(plan, name) > 1 for plan in plans)]
    columns = (
        "#",
        *degrees,
        "mbs",
        "ZeRO",
        "recompute",
        "schedule",
        "step s",
        "80 %",
        "MFU",
        "mem GB",
        "days",
        "MWh",
    )
    rows = []
    for number, (p, plan) in enumerate(zip(predictions, plans, strict=True), start=1):
        energy = run_energy_mwh(p)
        rows.append(
            (
                str(number),
                *(str(getattr(plan, name)) for name in degrees),
                str(plan.micro_batch),
                str(plan.zero),
                _recompute(plan),
                plan.schedule,
                significant(p.step_time_s),
                f"{significant(p.step_time_low_s)}–{significant(p.step_time_high_s)}",
                percent(p.mfu),
                gigabytes(p.peak_memory_bytes) + ("" if p.fits else "!"),
                "" if p.days is None else significant(p.days),
                "" if energy is None else f"{energy:,.0f}",
            )
        )
    if not any(p.days is not None for p in predictions):
        columns, rows = columns[:-2], [row[:-2] for row in rows]
    align = "r" * (len(degrees) + 3) + "ll" + "r" * (len(columns) - len(degrees) - 5)
    return Sheet(columns, tuple(rows), align, caption="; ".join(_lacks(predictions)))


def plan_table(predictions: Sequence[Prediction]) -> str:
    """The plans as text, best first as given, and what the plans that do not fit lack."""
    sheet = plan_sheet(predictions)
    return "\n".join([sheet.text(), *(f"  {line}" for line in _lacks(predictions))])


def ladder_sheet(prediction: Prediction) -> Sheet:
    """The ladder with each rung's seconds, its share and the time up to it; the last row is the step."""
    total = prediction.step_time_s
    rows, reached = [], 0.0
    for rung in [rung for rung in prediction.ladder if rung.seconds]:
        reached += rung.seconds
        rows.append(
            (rung.cause, seconds(rung.seconds, total), percent(rung.seconds / total), seconds(reached, total))
        )
    rows.append(("predicted step", seconds(total, total), percent(1.0), seconds(total, total)))
    return Sheet(
        ("cause", "s", "of the step", "up to here s"), tuple(rows), "lrrr", strong=frozenset({len(rows) - 1})
    )


def ladder_text(prediction: Prediction) -> str:
    """The ladder as text with bars: where the step goes, from the ideal time to the predicted one."""
    total = prediction.step_time_s
    rungs = [rung for rung in prediction.ladder if rung.seconds]
    names = [rung.cause if i == 0 else f"+ {rung.cause}" for i, rung in enumerate(rungs)]
    values = [seconds(rung.seconds, total) for rung in rungs]
    result = seconds(total, total)
    width = max(len(name) for name in [*names, "= predicted step"])
    column = max(len(value) for value in [*values, result])
    longest = max((abs(rung.seconds) for rung in rungs), default=1.0) or 1.0
    lines = ["Where the step goes"]
    for name, value, rung in zip(names, values, rungs, strict=True):
        bar = ("#" if rung.seconds >= 0 else "-") * round(BAR_WIDTH * abs(rung.seconds) / longest)
        lines.append(f"  {name:<{width}}  {value:>{column}} s  {bar}".rstrip())
    lines.append(f"  {'= predicted step':<{width}}  {result:>{column}} s  80 %: {step_range(prediction)} s")
    labels = label_words(prediction)
    return "\n".join([*lines, f"  {labels}"] if labels else lines)


def memory_sheet(prediction: Prediction) -> Sheet:
    """Gigabytes by pipeline stage and kind, on the worst chip of each stage; equal neighbours share a row."""
    kinds = {kind: values for kind, values in prediction.memory.items() if any(values)}
    stages = max((len(values) for values in kinds.values()), default=0)
    capacity = prediction.memory_capacity_bytes
    rows: list[tuple[str, ...]] = []
    spans: list[list[int]] = []
    totals = []
    for stage in range(stages):
        parts = [values[stage] for values in kinds.values()]
        total = math.fsum(parts)
        cells = (*map(gigabytes, parts), gigabytes(total), gigabytes(capacity - total).replace("-", MINUS))
        if rows and rows[-1] == cells:
            spans[-1][1] = stage
            continue
        rows.append(cells)
        spans.append([stage, stage])
        totals.append(total)
    names = [f"{first}" if first == last else f"{first}–{last}" for first, last in spans]
    columns = ("stage", *kinds, "sum", "free")
    fullest = frozenset({totals.index(max(totals))}) if totals else frozenset()
    return Sheet(
        columns,
        tuple((name, *cells) for name, cells in zip(names, rows, strict=True)),
        "r" * len(columns),
        caption=f"GB of {gigabytes(capacity)} GB",
        strong=fullest,
    )


def memory_table(prediction: Prediction) -> str:
    """Memory by stage as text, and the peak against the capacity."""
    p = prediction
    verdict = "fits" if p.fits else f"{gigabytes(p.peak_memory_bytes - p.memory_capacity_bytes)} GB too much"
    peak, capacity = gigabytes(p.peak_memory_bytes), gigabytes(p.memory_capacity_bytes)
    title = "Memory by stage, GB on the worst chip"
    return f"{title}\n{memory_sheet(p).text()}\n  peak {peak} of {capacity} GB: {verdict}"


def operator_sheet(prediction: Prediction) -> Sheet:
    """Operators of one micro-batch on the busiest stage, longest first."""
    total = math.fsum(op.seconds for op in prediction.operators) or 1.0
    rows = tuple(
        (
            op.name,
            op.phase.replace("_", " "),
            op.kind,
            op.format,
            f"{op.count:g}",
            significant(1e3 * op.seconds),
            percent(op.seconds / total),
            significant(op.flops / 1e12),
            significant(op.bytes / 1e9),
            significant(op.flops / op.bytes) if op.bytes else "",
            significant(op.flops / op.seconds / 1e12) if op.seconds else "",
            op.binds,
        )
        for op in sorted(prediction.operators, key=lambda op: -op.seconds)
    )
    columns = (
        "operator", "phase", "kind", "format", "launches", "ms", "share",
        "TFLOP", "GB", "FLOP/B", "TFLOP/s", "binds",
    )  # fmt: skip
    return Sheet(columns, rows, "llllrrrrrrrl")


def effect_sheet(items: Sequence[HasEffect]) -> Sheet:
    """What each change does to the step time, largest gain first."""
    ordered = sorted(items, key=lambda item: item.change)
    rows = tuple((item.name, signed_percent(item.change), item.note) for item in ordered)
    return Sheet(("change", "step time", "remark"), rows, "lrl")


def point_sheet(points: Sequence[PlanPoint]) -> Sheet:
    """Candidate plans with their step time and peak memory."""
    rows = tuple(
        (point.label, significant(point.step_time_s, 4), gigabytes(point.peak_memory_bytes))
        for point in points
    )
    return Sheet(("plan", "step s", "peak GB"), rows, "lrr")


def table(prediction: Prediction) -> str:
    """One prediction as text: headline, plan, ladder and notes."""
    parts = [headline(prediction), plan_table([prediction]), ladder_text(prediction)]
    if prediction.notes:
        parts.append("\n".join(f"  note: {note}" for note in prediction.notes))
    return "\n\n".join(parts)


def label_words(prediction: Prediction) -> str:
    """How far the parts can be trusted: ``labels: kernels fitted, collectives transferred``."""
    words = ", ".join(f"{part} {label}" for part, label in prediction.labels.items())
    return f"labels: {words}" if words else ""


def plan_words(prediction: Prediction) -> str:
    """The plan in one line."""
    return plan_label(prediction.scenario.plan)


def _recompute(plan: Plan) -> str:
    if plan.recompute == "full" and plan.recompute_layers >= 0:
        return f"full x{plan.recompute_layers}"
    return plan.recompute


def _lacks(predictions: Sequence[Prediction]) -> list[str]:
    return [
        f"#{number} needs {gigabytes(p.peak_memory_bytes)} GB of {gigabytes(p.memory_capacity_bytes)}"
        for number, p in enumerate(predictions, start=1)
        if not p.fits
    ]
