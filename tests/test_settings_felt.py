"""Settings: each changes the answer, is refused, or is said to change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ridgeline as rl
from ridgeline.api.errors import InputError

TRAIN: dict[str, Any] = {
    "on": "h100-sxm",
    "chips": 8,
    "batch": 64,
    "seq": 2048,
    "tp": 2,
    "dp": 4,
    "micro_batch": 1,
}
SERVE: dict[str, Any] = {
    "on": "h100-sxm",
    "chips": 1,
    "isl": 1000,
    "osl": 100,
    "engine": "vllm",
    "precision": "fp8",
}
NOTHING = "changes nothing of this prediction"


def train(*settings: str) -> rl.PlanResult:
    return rl.plan("llama-3.1-8b", **TRAIN, top=1, settings=settings)


def serve(*settings: str, **changes: Any) -> rl.ServingResult:
    return rl.serve("llama-3.1-8b", **{**SERVE, **changes}, settings=settings)


def said(notes: tuple[str, ...]) -> list[str]:
    """Paths that notes call without effect."""
    return [note.split()[1].rstrip(":") for note in notes if NOTHING in note]


@pytest.mark.parametrize(
    "setting",
    ["chip.scale_up.bandwidth=1 GB/s", "chip.vector=1 TFLOP/s", "chip.clock=1 GHz", "chip.host_bandwidth=1 GB/s",
     "chip.idle_power=5000 W", "cluster.chips_per_node=1", "chip.title=Other"],
)  # fmt: skip
def test_a_setting_without_effect_on_training_is_said(setting: str) -> None:
    path = setting.partition("=")[0]
    found = train(setting)
    assert found.best[0].prediction.to_dict() == train().best[0].prediction.to_dict()
    assert said(found.notes) == [path]
    note = next(note for note in found.best[0].to_dict()["notes"] if NOTHING in note)
    assert ("cluster.tiers" in note) == ("scale_up" in path or "per_node" in path)


@pytest.mark.parametrize(
    "setting",
    ["cluster.tiers.0.bandwidth=1 GB/s", "chip.tdp=500 W", "chip.memory.capacity=60 GB", "job.tokens=1T",
     "model.hidden=8192", "model.context=1024", "stack.zero=3", "plan.zero=1"],
)  # fmt: skip
def test_a_setting_with_effect_is_not_said(setting: str) -> None:
    assert said(train(setting).notes) == []


def test_each_of_several_settings_is_looked_at_for_itself() -> None:
    found = train("chip.vector=1 TFLOP/s", "chip.tdp=500 W", "chip.clock=1 GHz", "chip.tdp=600 W")
    assert said(found.notes) == [
        "chip.vector",
        "chip.tdp",
        "chip.clock",
    ]  # the second of one path is what counts


def test_a_saved_result_explained_again_says_the_same(tmp_path: Path) -> None:
    path = train().best[0].write_report(tmp_path / "report.html")
    assert said(rl.explain(path, ["chip.vector=1 TFLOP/s", "chip.tdp=500 W"]).notes) == ["chip.vector"]


@pytest.mark.parametrize(
    ("setting", "unfelt"),
    [("chip.scale_up.bandwidth=1 GB/s", True), ("engine.max_batched_tokens=1", True), ("chip.vector=1 TFLOP/s", True),
     ("engine.frontend=1 s", False), ("chip.memory.bandwidth=1 TB/s", False)],
)  # fmt: skip
def test_a_setting_without_effect_on_serving_is_said(setting: str, unfelt: bool) -> None:
    path = setting.partition("=")[0]
    found, plain = serve(setting), serve()
    same = found.plan.to_dict() == plain.plan.to_dict()
    assert same is unfelt
    assert said(found.notes) == ([path] if unfelt else [])


def test_a_simulation_feels_what_the_closed_form_does_not() -> None:
    assert said(serve("chip.tdp=400 W").notes) == ["chip.tdp"]
    assert said(serve("chip.tdp=400 W", rate=1).notes) == []  # the energy of what is simulated


def test_rules_of_the_machine_hold_after_the_settings(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chips = 8: cluster 'dgx-h100' has at most 1"):
        train("cluster.max_chips=1")
    with pytest.raises(InputError, match="has at most 1"):
        serve("cluster.max_chips=1", chips=2)
    path = train().best[0].write_report(tmp_path / "report.html")
    with pytest.raises(InputError, match="has at most 1"):
        rl.explain(path, ["cluster.max_chips=1"])


@pytest.mark.parametrize("place", ["²", "9" * 5000, "-1", "x"])
def test_a_place_in_a_list_is_a_number(place: str) -> None:
    with pytest.raises(InputError, match="entries; choose") as caught:
        train(f"cluster.tiers.{place}.bandwidth=1 GB/s")
    assert len(str(caught.value)) <= 400
