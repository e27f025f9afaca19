"""Sensitivity: what one change of the hardware, the software or the job does to the step.

Each what-if is a copy of the scenario with one change, predicted in full: no derivative, no rule of thumb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ridgeline.facts import catalog
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.metrics import Prediction

#: Recipe tried on a chip that multiplies faster in fp8, and the formats it is tried against.
FP8_RECIPE = "fp8-param-gather"
_WIDE = ("bf16", "fp16", "tf32", "fp32")


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """One what-if. Changes are relative: -0.27 means 27 % less time."""

    name: str
    change: float  # of the time per token
    step_change: float  # of the step; differs from `change` where the what-if changes the batch
    note: str = ""


def sensitivities(
    scenario: Scenario, train: Callable[[Scenario], Prediction], base: Prediction | None = None
) -> list[Sensitivity]:
    """Every what-if that applies to a scenario with one plan, the largest gain first.

    Args:
        scenario: the scenario, whose plan must be one `Plan`.
        train: the predictor.
        base: the prediction of ``scenario``, where it is already known.
    """
    found = []
    base = base or train(scenario)
    for name, other in what_ifs(scenario):
        try:
            tried = train(other)
        except ValueError:  # the change makes the plan illegal, so it is no advice
            continue
        ratio = tried.step_time_s / base.step_time_s
        tokens = _tokens(other) / _tokens(scenario)
        note = "" if tried.fits else f"needs {tried.peak_memory_bytes / 1e9:.1f} GB, does not fit"
        found.append(Sensitivity(name, ratio / tokens - 1.0, ratio - 1.0, note))
    return sorted(found, key=lambda item: item.change)


def what_ifs(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """The scenarios with one change each, by what is changed."""
    yield from _chip(scenario)
    yield from _network(scenario)
    yield from _software(scenario)
    yield from _batches(scenario)


def _chip(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    chip = scenario.chip
    memory = chip.memory.model_copy(update={"bandwidth": 1.1 * chip.memory.bandwidth})
    yield "memory bandwidth +10 %", scenario.replace(chip=chip.model_copy(update={"memory": memory}))
    matrix = {name: 1.1 * rate for name, rate in chip.matrix.items()}
    yield "matrix peak +10 %", scenario.replace(chip=chip.model_copy(update={"matrix": matrix}))


def _network(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    cluster, chip = scenario.cluster, scenario.chip
    if scenario.num_chips == 1:
        return
    inside, *outside = cluster.tiers
    faster = inside.model_copy(update={"bandwidth": 2.0 * inside.bandwidth})
    link = chip.scale_up.model_copy(update={"bandwidth": 2.0 * chip.scale_up.bandwidth})
    yield (
        "scale-up bandwidth x 2",
        scenario.replace(
            chip=chip.model_copy(update={"scale_up": link}),
            cluster=cluster.model_copy(update={"tiers": (faster, *outside)}),
        ),
    )
    if outside and scenario.num_chips > (inside.size or scenario.num_chips):
        wide = [tier.model_copy(update={"bandwidth": 2.0 * tier.bandwidth}) for tier in outside]
        yield (
            "scale-out bandwidth x 2",
            scenario.replace(cluster=cluster.model_copy(update={"tiers": (inside, *wide)})),
        )
    quick = tuple(tier.model_copy(update={"latency": 0.5 * tier.latency}) for tier in cluster.tiers)
    yield "network latency / 2", scenario.replace(cluster=cluster.model_copy(update={"tiers": quick}))


def _software(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    stack, plan = scenario.stack, _plan(scenario)
    half = stack.model_copy(update={"host": 0.5 * stack.host})
    yield "host launch / 2", scenario.replace(stack=half)
    matrix, recipe = scenario.chip.matrix, scenario.recipe
    if recipe.linear in _WIDE and matrix.get("fp8", 0.0) > matrix.get(recipe.linear, float("inf")):
        # Gradients stay as they are: the what-if is about the linear layers alone.
        kept = {name: getattr(recipe, name) for name in ("grad_bytes", "grad_reduce_bytes")}
        fp8 = catalog.recipe(FP8_RECIPE).model_copy(update=kept)
        yield "fp8 recipe on linear layers", scenario.replace(recipe=fp8)
    overlapped = stack.overlap_tp if plan.overlap_tp is None else plan.overlap_tp
    if plan.tp > 1 and not overlapped:
        yield (
            "tensor parallel overlapped",
            scenario.replace(plan=dataclasses.replace(plan, overlap_tp=True)),
        )


def _batches(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    job, plan = scenario.job, _plan(scenario)
    num = job.batch // (plan.dp * plan.micro_batch)
    name = f"batch x 2 ({2 * num:,} micro-batches)"
    yield name, scenario.replace(job=job.model_copy(update={"batch": 2 * job.batch}))
    # Half as many micro-batches must still be whole, and fill the rounds of an interleaved schedule.
    if num % 2 == 0 and (plan.vpp == 1 or (num // 2) % plan.pp == 0):
        doubled = dataclasses.replace(plan, micro_batch=2 * plan.micro_batch)
        yield f"micro-batch {plan.micro_batch} -> {doubled.micro_batch}", scenario.replace(plan=doubled)


def _plan(scenario: Scenario) -> Plan:
    assert isinstance(scenario.plan, Plan)
    return scenario.plan


def _tokens(scenario: Scenario) -> float:
    return float(scenario.job.batch) * scenario.job.seq
