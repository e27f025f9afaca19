"""F8: the whole system on one page: a Scenario becomes a Prediction.

facts -> demand (graph) -> time (timing) -> schedule (sim) -> metrics -> ladder (insight).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.build import model_flops
from ridgeline.graph.laws import check_plan
from ridgeline.graph.memory import KINDS
from ridgeline.insight.labels import labels_of
from ridgeline.insight.ladder import ladder
from ridgeline.insight.operators import operator_times
from ridgeline.insight.uncertainty import relative_interval
from ridgeline.metrics import Prediction
from ridgeline.metrics.endless import LONG_RUN_S, check_time, endless
from ridgeline.sim.reality import staircase
from ridgeline.sim.stage_costs import stage_class
from ridgeline.sim.step import Step, step
from ridgeline.timing.rates import peak_flops_per_s

REALITY = staircase()
_AT_LIMIT = (
    "the chip is at its power limit of {:,.0f} W all the time: power and energy stop there, and the step may be "
    "slower than predicted"
)


def train(scenario: Scenario) -> Prediction:
    """Predict one training step of one plan.

    Raises:
        PlanError: the degrees do not fit the model, the job or the machine.
        ValueError: the step takes longer than `metrics.endless.MOST_S`.
    """
    plan = scenario.plan
    assert isinstance(plan, Plan)
    check_plan(scenario)
    return prediction(scenario, step(scenario, PlanGrid.of([plan]), REALITY))


def prediction(scenario: Scenario, result: Step) -> Prediction:
    """Read the numbers of one plan off a staircase evaluation of its step (last entry: everything counts)."""
    plan, job, chip = scenario.plan, scenario.job, scenario.chip
    assert isinstance(plan, Plan)
    total = float(result.total_s[-1])
    check_time("one step", total)
    needed = model_flops(scenario.architecture, job, scenario.stack, scenario.recipe)
    full = model_flops(scenario.architecture, job, scenario.stack, scenario.recipe, full_attention=True)
    peak = peak_flops_per_s(chip, scenario.recipe.linear)
    supply = total * plan.chips * peak
    done = float(result.executed_flops[-1])
    model_s = float(result.total_s[0]) * min(needed / done, 1.0)
    stages = stage_class(np.arange(plan.pp), plan.pp)
    memory = {kind: result.memory[kind][stages, -1].tolist() for kind in KINDS}
    peak_memory = max(sum(stage) for stage in zip(*memory.values(), strict=True))
    labels = labels_of(scenario, result)
    low, high = relative_interval(labels, result)
    tokens = float(job.batch) * job.seq
    run_s = None if job.tokens is None else job.tokens / tokens * total
    joules = float(result.joules[-1])
    power, pipeline = min(joules / total / plan.chips, chip.tdp), result.pipeline
    return Prediction(
        scenario=scenario,
        step_time_s=total,
        step_time_low_s=max(total * low, model_s),
        step_time_high_s=total * high,
        bound_s=model_s,
        mfu=needed / supply,
        mfu_full_attention=full / supply,
        hfu=float(result.hardware_flops[-1]) / supply,
        tokens_per_s_per_chip=tokens / total / plan.chips,
        model_tflops_per_chip=needed / total / plan.chips / 1e12,
        peak_memory_bytes=peak_memory,
        memory_capacity_bytes=chip.memory.capacity,
        memory=memory,
        ladder=ladder(model_s, result.total_s),
        exposed_s={axis: float(seconds[-1]) for axis, seconds in result.exposed_s.items()},
        bubble_share=float(pipeline.bubble_s[-1] / total),
        energy_j_per_step=joules,
        average_power_w=power,
        days=None if run_s is None else run_s / 86400.0,
        labels=labels,
        operators=operator_times(result),
        notes=(
            *endless("one step", total),
            *endless("the run", run_s, LONG_RUN_S),
            *((_AT_LIMIT.format(chip.tdp),) if power > chip.tdp * (1.0 - 1e-9) else ()),
        ),
    )


def with_plan(scenario: Scenario, plan: Plan) -> Scenario:
    """The scenario under another plan."""
    return replace(scenario, plan=plan)
