"""The search is the ordinary step model over a grid: its optimum is the exhaustive optimum of single predictions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ridgeline.explore.search import evaluate, legal_plans, search
from ridgeline.explore.space import CHOICES, Space
from ridgeline.facts import catalog
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.laws import PlanError
from ridgeline.predict import train


def scenario(model: str, chips: int, batch: int, chip: str = "h100-sxm", **job: int) -> Scenario:
    return Scenario(
        architecture=catalog.architecture(model),
        chip=catalog.chip(chip),
        cluster=catalog.cluster_for(chip),
        num_chips=chips,
        job=TrainingJob(batch=batch, seq=job.get("seq", 4096)),
        plan=Plan(),
        stack=catalog.stack("nemo-2024"),
        recipe=catalog.recipe("bf16"),
        calibration=catalog.calibration(chip),
    )


SMALL = [
    pytest.param(scenario("llama-3.1-8b", 16, 32), Space(), id="dense"),
    pytest.param(scenario("mixtral-8x7b", 16, 16), Space(fixed={"cp": 1, "recompute": "full"}), id="experts"),
    pytest.param(
        scenario("llama-3.1-70b", 32, 64),
        Space(fixed={"tp": 8, "micro_batch": 1}, searched={"schedule": CHOICES["schedule"], "zero": (1,)}),
        id="schedules",
    ),
]


def _all_plans(case: Scenario, space: Space) -> list[Plan]:
    plans = []
    for grid in space.grids(case):
        legal, _ = legal_plans(case, grid)
        plans += [legal[i] for i in range(len(legal))]
    return plans


@pytest.mark.parametrize(("case", "space"), SMALL)
def test_optimum_is_the_exhaustive_one(case: Scenario, space: Space) -> None:
    found = search(case, train, space)
    every = [train(case.replace(plan=plan)) for plan in _all_plans(case, space)]
    fitting = [prediction for prediction in every if prediction.fits]
    best = min(fitting, key=lambda prediction: prediction.step_time_s)
    assert found.legal == len(every)
    assert found.fit == len(fitting)
    assert found.best[0].step_time_s == pytest.approx(best.step_time_s, rel=1e-9)
    times = [prediction.step_time_s for prediction in found.best]
    assert times == sorted(times)


@pytest.mark.parametrize(("case", "space"), SMALL)
def test_grid_equals_single_plans(case: Scenario, space: Space) -> None:
    for grid in space.grids(case):
        legal, _ = legal_plans(case, grid)
        if not len(legal):
            continue
        together = evaluate(case, legal)
        for i in range(0, len(legal), max(len(legal) // 5, 1)):
            alone = train(case.replace(plan=legal[i]))
            assert alone.step_time_s == pytest.approx(float(together.step_s[i]), rel=1e-9)
            assert alone.peak_memory_bytes == pytest.approx(float(together.peak_bytes[i]), rel=1e-9)


def test_front_falls_in_memory_as_time_grows() -> None:
    found = search(scenario("llama-3.1-8b", 16, 32), train)
    times = np.array([seconds for _, seconds, _ in found.pareto])
    peaks = np.array([peak for _, _, peak in found.pareto])
    assert len(times) >= 2
    assert (np.diff(times) >= 0).all()
    assert (np.diff(peaks) < 0).all()


def test_given_degrees_are_constraints() -> None:
    found = search(
        scenario("llama-3.1-8b", 16, 32), train, Space(fixed={"tp": 2, "dp": 8, "recompute": "full"})
    )
    for prediction in found.best:
        plan = prediction.scenario.plan
        assert (plan.tp, plan.dp, plan.recompute) == (2, 8, "full")


def test_nothing_legal_says_which_rule() -> None:
    with pytest.raises(PlanError, match="ruled out by"):
        search(scenario("llama-3.1-8b", 16, 31), train, Space(fixed={"dp": 16}))


def test_nothing_fits_says_what_it_lacks() -> None:
    with pytest.raises(PlanError, match="fits in"):
        search(scenario("llama-3.1-405b", 8, 8), train, Space(fixed={"micro_batch": 8}))


def test_near_miss_names_a_remedy_that_works() -> None:
    case = scenario("llama-3.1-405b", 1024, 256, seq=8192)
    found = search(case, train, Space(fixed={"tp": 8}))
    assert found.near_misses
    for miss in found.near_misses:
        assert miss.needed_bytes > case.chip.memory.capacity
        assert miss.step_time_s <= found.best[-1].step_time_s * 1.5
        assert miss.remedy
        if miss.remedy == "full recompute":
            cured = dataclasses.replace(miss.plan, recompute="full")
            assert train(case.replace(plan=cured)).fits
