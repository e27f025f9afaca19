"""Sensitivity: every what-if is one change, predicted in full, and has the sign that physics gives it."""

from __future__ import annotations

import dataclasses

import pytest

import ridgeline as rl
from ridgeline.facts.scenario import Scenario
from ridgeline.insight.sensitivity import sensitivities, what_ifs
from ridgeline.predict import train


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    result = rl.train(
        "llama-3.1-8b", on="h100-sxm", chips=64, batch=256, seq=4096,
        tp=4, pp=2, cp=1, vpp=1, micro_batch=1, zero=1, stack="nemo-2024",
    )  # fmt: skip
    return result.scenario


def test_each_what_if_changes_one_thing(scenario: Scenario) -> None:
    for name, other in what_ifs(scenario):
        changed = {
            field.name
            for field in dataclasses.fields(Scenario)
            if getattr(other, field.name) != getattr(scenario, field.name)
        }
        # A scale-up link stands in the chip's file and in the cluster's.
        assert len(changed) == 1 or changed == {"chip", "cluster"}, name


def test_better_hardware_never_slows_a_step(scenario: Scenario) -> None:
    changes = {item.name: item.change for item in sensitivities(scenario, train)}
    for name in (
        "memory bandwidth +10 %",
        "matrix peak +10 %",
        "scale-up bandwidth x 2",
        "scale-out bandwidth x 2",
        "network latency / 2",
        "host launch / 2",
    ):
        assert changes[name] <= 1e-12, name
    assert -0.1 < changes["matrix peak +10 %"] < -0.02
    assert changes["fp8 recipe on linear layers"] < -0.1


def test_sorted_by_gain_and_per_token(scenario: Scenario) -> None:
    found = sensitivities(scenario, train)
    assert [item.change for item in found] == sorted(item.change for item in found)
    (batch,) = (item for item in found if item.name.startswith("batch x 2"))
    assert 1.0 + batch.step_change == pytest.approx(2.0 * (1.0 + batch.change))


def test_illegal_changes_are_left_out(scenario: Scenario) -> None:
    def refuses_fp8(other: Scenario) -> rl.TrainingResult:
        if other.recipe != scenario.recipe:
            raise ValueError("no")
        return train(other)  # type: ignore[return-value]

    names = {item.name for item in sensitivities(scenario, refuses_fp8)}  # type: ignore[arg-type]
    assert "fp8 recipe on linear layers" not in names
    assert "matrix peak +10 %" in names
