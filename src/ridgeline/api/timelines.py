"""Timelines: the exact course of one step of one plan, as blocks to draw and as a trace for Perfetto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.metrics import Prediction
from ridgeline.report.blocks import Block, blocks_of
from ridgeline.sim.chrome import ExtraRow, write_chrome
from ridgeline.sim.step import step
from ridgeline.sim.timeline import Timeline, simulate

#: More operations than this are neither drawn nor looked at one by one.
MAX_OPERATIONS = 200_000

_AFTER = ("data parallel, exposed", "optimizer", "fixed per step", "jitter across chips")


def timeline(prediction: Prediction) -> Timeline:
    """The exact timeline of the predicted plan.

    Raises:
        ValueError: the schedule has no order for these numbers of micro-batches and stages.
    """
    plan = prediction.scenario.plan
    assert isinstance(plan, Plan)
    result = step(prediction.scenario, PlanGrid.of([plan]))
    return simulate(plan.schedule, result.costs.at(0), int(result.num_micro_batches[0]), plan.pp, plan.vpp)


def blocks(prediction: Prediction) -> list[Block] | None:
    """The blocks of the pipeline figure; None where no exact order exists or there are too many."""
    plan, job = prediction.scenario.plan, prediction.scenario.job
    assert isinstance(plan, Plan)
    passes = job.batch // (plan.dp * plan.micro_batch)
    if 2 * passes * plan.pp * plan.vpp > MAX_OPERATIONS:
        return None
    try:
        found = timeline(prediction)
    except ValueError:  # the closed form goes on where no exact order exists
        return None
    return blocks_of(found)


def write_trace(path: str | Path, prediction: Prediction) -> Path:
    """Write the step as a Chrome trace (chrome://tracing, Perfetto), with what follows the pipeline."""
    found = timeline(prediction)
    return write_chrome(path, found, _after(prediction, found))


def _after(prediction: Prediction, found: Timeline) -> Iterator[ExtraRow]:
    """What the step spends besides the pipeline, in the order of a step, on every stage."""
    rungs = {rung.cause: rung.seconds for rung in prediction.ladder}
    start = found.total_s
    for cause in _AFTER:
        seconds = max(rungs.get(cause, 0.0), 0.0)
        if seconds:
            for stage in range(found.pp):
                yield ExtraRow(stage, "step", cause, start, start + seconds)
            start += seconds
