"""The report: one HTML file that needs no network. Everything on it comes from the values it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from ridgeline import files
from ridgeline.facts.observation import Observation
from ridgeline.facts.plan import Plan
from ridgeline.metrics import Prediction
from ridgeline.report import figures, gantt, tables
from ridgeline.report.blocks import Block, blocks_of
from ridgeline.report.effects import HasEffect
from ridgeline.report.frame import Panel, render
from ridgeline.report.inputs import input_sheets, published_sheet
from ridgeline.report.numerals import count, gigabytes, percent, seconds, significant
from ridgeline.report.points import PlanPoint, as_point, frontier


def write_report(path: str | Path, prediction: Prediction, **parts: Any) -> Path:
    """Write the report to ``path``, making its folder; ``parts`` are the keyword arguments of `page`."""
    return files.write(path, page(prediction, **parts))


def page(
    prediction: Prediction,
    *,
    plans: Sequence[Prediction] = (),
    plans_note: str = "",
    pareto: Sequence[PlanPoint | Prediction | tuple[Plan, float, float]] = (),
    timeline: Any = None,
    sensitivities: Sequence[HasEffect] = (),
    published: Sequence[Observation] = (),
    command: str = "",
    version: str = "",
    catalog_hash: str = "",
) -> str:
    """The report of one prediction as a self-contained HTML page.

    Args:
        prediction: what the page is about.
        plans: the best plans found, best first, for the table; the prediction alone when empty.
        plans_note: how the plans were found, such as how many were considered.
        pareto: candidate plans for the plot of step time against memory.
        timeline: blocks of one step (anything `blocks_of` takes), or none.
        sensitivities: what changes of the inputs do to the step time.
        published: published results to stand beside the prediction.
        command, version, catalog_hash: how to get this page again.
    """
    points = [as_point(item) for item in pareto]
    panels = _panels(prediction, points, timeline, sensitivities)
    return render(
        "template.html.j2",
        title=f"{tables.model_title(prediction)} on {prediction.scenario.num_chips:,} x "
        f"{prediction.scenario.chip.title or prediction.scenario.chip.name}",
        headline=tables.headline(prediction),
        answer=tables.answer(prediction),
        facts=_facts(prediction),
        plan=tables.plan_words(prediction),
        fits=prediction.fits,
        labels=prediction.labels,
        panels=panels,
        plans=tables.plan_sheet(plans or [prediction]),
        plans_note=plans_note,
        published=published_sheet(prediction, list(published)) if published else None,
        inputs=input_sheets(prediction),
        notes=prediction.notes,
        command=command,
        version=version,
        catalog_hash=catalog_hash,
    )


def html(prediction: Prediction) -> str:
    """A prediction as an HTML fragment for a notebook: answer, plan and ladder; no script, no figure."""
    style = "font-variant-numeric: tabular-nums; line-height: 1.4"
    return (
        f'<div class="ridgeline" style="{style}"><p>{escape(tables.headline(prediction))}<br>'
        f"<strong>{escape(tables.answer(prediction))}</strong></p>"
        f"{tables.plan_sheet([prediction]).html()}{tables.ladder_sheet(prediction).html()}</div>"
    )


def _panels(
    prediction: Prediction, points: Sequence[PlanPoint], timeline: Any, sensitivities: Sequence[HasEffect]
) -> dict[str, Panel]:
    panels = [
        Panel(
            "ladder",
            "Where the step goes",
            "From the model's FLOPs at the chip's peak down to the predicted step, one bar per cause.",
            figures.ladder_waterfall(prediction),
            tables.ladder_sheet(prediction),
        ),
        Panel(
            "memory",
            "Memory by pipeline stage",
            f"Peak {gigabytes(prediction.peak_memory_bytes)} GB "
            f"of {gigabytes(prediction.memory_capacity_bytes)} GB, "
            "on the worst chip of each stage.",
            figures.memory_by_stage(prediction),
            tables.memory_sheet(prediction),
        ),
    ]
    if prediction.operators:
        lead = (
            "Operators of one micro-batch on the busiest stage; area is time. "
            "Circle forward, diamond input gradient, square weight gradient."
        )
        bare = [op.seconds for op in prediction.operators if not op.flops]
        if bare:
            share = math.fsum(bare) / math.fsum(op.seconds for op in prediction.operators)
            lead += f" Those without FLOPs ({len(bare)}, {percent(share)} of the time) are in the table only."
        panels.append(
            Panel(
                "roofline",
                "Roofline",
                lead,
                figures.roofline(prediction),
                tables.operator_sheet(prediction),
            )
        )
    if timeline is not None and (blocks := blocks_of(timeline)):
        panels.append(_pipeline(prediction, blocks))
    if points:
        panels.append(_candidates(prediction, points))
    if sensitivities:
        panels.append(
            Panel(
                "sensitivity",
                "What would help",
                "Change of the step time when one input changes and all else stays.",
                figures.sensitivity_bars(sensitivities),
                tables.effect_sheet(sensitivities),
            )
        )
    return {panel.key: panel for panel in panels}


def _pipeline(prediction: Prediction, blocks: Sequence[Block]) -> Panel:
    span, step = max(block.end_s for block in blocks), prediction.step_time_s
    lead = f"{len(blocks):,} blocks in {seconds(span, step)} s of the {seconds(step, step)} s step. "
    if len(blocks) > gantt.MAX_BLOCKS:
        lead += "Too many to draw: each moment is given to one kind, in the proportion in which they ran. "
    elif any(block.chunk > 0 for block in blocks):
        lead += "Later model chunks are paler. "
    return Panel(
        "pipeline",
        "One step of the pipeline",
        lead + "Blank is idle.",
        gantt.pipeline_gantt(blocks),
        gantt.gantt_sheet(blocks),
    )


def _candidates(prediction: Prediction, points: Sequence[PlanPoint]) -> Panel:
    edge = frontier(points)
    lead = f"{len(points):,} candidate plans; the table lists those that no other beats."
    if len(edge) == len(points):
        lead = "Plans that no other beats in both step time and memory."
    elif len(points) > figures.MAX_POINTS:
        lead += " The plot shows an even sample and the whole frontier."
    drawn = figures.pareto(points, PlanPoint.of(prediction), prediction.memory_capacity_bytes)
    return Panel("pareto", "Step time against memory", lead, drawn, tables.point_sheet(edge))


def _facts(prediction: Prediction) -> list[tuple[str, str, str]]:
    """The headline numbers: what, value, remark."""
    p = prediction
    facts = [
        ("step", f"{significant(p.step_time_s)} s", f"80 %: {tables.step_range(p)} s"),
        (
            "MFU",
            percent(p.mfu),
            f"HFU {percent(p.hfu)}; full attention counted {percent(p.mfu_full_attention)}",
        ),
        (
            "throughput",
            f"{p.tokens_per_s_per_chip:,.0f} tokens/s",
            f"per chip; {significant(p.model_tflops_per_chip)} model TFLOP/s",
        ),
        (
            "peak memory",
            f"{gigabytes(p.peak_memory_bytes)} GB",
            f"of {gigabytes(p.memory_capacity_bytes)} GB" + ("" if p.fits else ": does not fit"),
        ),
        ("bubble", percent(p.bubble_share), "of the step"),
    ]
    energy = tables.run_energy_mwh(p)
    if p.days is not None:
        tokens = p.scenario.job.tokens
        facts.append(("run", f"{significant(p.days)} days", f"{count(tokens)} tokens" if tokens else ""))
    facts.append(
        (
            "power",
            f"{p.average_power_w:,.0f} W",
            "per chip" + (f"; {energy:,.0f} MWh all chips" if energy else ""),
        )
    )
    return facts
