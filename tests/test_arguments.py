"""Arguments of the Python surface: numbers of any library are taken, wrong types are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.facts.plan import PlanFieldError

PLAN: dict[str, Any] = {"tp": 2, "pp": 1, "dp": 4, "micro_batch": 1, "zero": 1, "recompute": "none"}
TRAIN: dict[str, Any] = {"on": "h100-sxm", "chips": 8, "batch": 64, "seq": 2048, **PLAN}
SERVE: dict[str, Any] = {
    "on": "h100-sxm", "chips": 1, "isl": 1000, "osl": 100, "engine": "vllm", "precision": "fp8", "kv": "fp8", "tp": 1,
}  # fmt: skip
#: What no number, text or switch is, and what Python would take for one all the same.
WRONG: tuple[Any, ...] = (
    b"8",
    object(),
    [],
    {},
    float("nan"),
    10**400,
    10**5000,
    1j,
    np.array([1, 2]),
    -3,
    2.5,
)


def train(**changes: Any) -> rl.TrainingResult:
    model = changes.pop("model", "llama-3.1-8b")
    return rl.train(model, **{**TRAIN, **changes})


def serve(**changes: Any) -> rl.ServingResult:
    model = changes.pop("model", "llama-3.1-8b")
    return rl.serve(model, **{**SERVE, **changes})


def refused(ask: Callable[[], object], name: str) -> str:
    """The message of a refusal, which names the argument in at most 400 characters."""
    with pytest.raises(ValueError, match=name) as caught:
        ask()
    message = str(caught.value)
    assert len(message) <= 400
    assert "Exceeds the limit" not in message
    return message


def test_numbers_of_numpy_and_whole_floats_are_numbers() -> None:
    plain = train().step_time_s
    wide = {
        name: np.int64(TRAIN[name]) for name in ("chips", "batch", "seq", "tp", "dp", "micro_batch", "zero")
    }
    assert train(**wide).step_time_s == plain
    whole = {name: np.float32(TRAIN[name]) for name in wide}
    assert train(**whole).step_time_s == plain
    assert train(chips=Fraction(8), tp=2.0, sequence_parallel=np.True_).step_time_s == plain
    plan = rl.Plan(tp=np.int64(2), dp=4.0, sequence_parallel=np.True_)  # type: ignore[arg-type]
    assert [type(value) for value in (plan.tp, plan.dp, plan.sequence_parallel)] == [int, int, bool]
    served = serve(isl=np.int32(1000), osl=np.int64(100), chips=np.int8(1), tp=np.uint8(1))
    assert served.tpot_s == serve().tpot_s


@pytest.mark.parametrize("name", ["chips", "batch", "seq", "tp", "zero", "micro_batch", "recompute_layers"])
def test_counts_of_training_refuse_what_is_none(name: str) -> None:
    for value in (*WRONG, True, np.True_):
        refused(lambda value=value: train(**{name: value}), name)  # type: ignore[misc]


def test_a_budget_of_tokens_is_a_number() -> None:
    for value in (b"8", object(), [], float("nan"), 10**400, 10**5000, -3, True):
        refused(lambda value=value: train(tokens=value), "tokens")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("on", (5, [], b"h100-sxm", True)),
        ("model", (None, 5, b"llama-3.1-8b", [])),
        ("stack", (5, [], b"", object())),
        ("recipe", (5, [], object())),
        ("kind", (5, None)),
        ("plan", (5, {}, "tp2")),
        ("settings", (5, [5], b"chip.tdp=1 W", None)),
        ("every", (float("nan"), 1, "yes")),
        ("cross_domain_tp", (1, "no")),
        ("sequence_parallel", ("maybe", 3, b"1")),
        ("recompute", (5, [], True)),
        ("schedule", (5, [])),
        ("progress", (5, "abc")),
        ("top", (5, True)),
    ],
)
def test_words_and_switches_of_training_refuse_what_is_none(name: str, values: tuple[Any, ...]) -> None:
    for value in values:
        refused(lambda value=value: train(**{name: value}), name)  # type: ignore[misc]


@pytest.mark.parametrize(
    "name",
    ["isl", "osl", "rate", "concurrency", "ttft", "tpot", "timeout", "urgent", "percentile", "tp", "max_seqs", "chunk",
     "replicas", "adapters", "engine", "draft", "fail", "router", "simulate", "disaggregated", "prefix_cache", "kv",
     "precision", "preemption"],
)  # fmt: skip
def test_arguments_of_serving_refuse_what_is_none(name: str) -> None:
    numbers = {"rate": (2.5,), "ttft": (2.5,), "tpot": (2.5,), "timeout": (2.5,), "percentile": (2.5,)}
    switches = ("simulate", "disaggregated", "prefix_cache")
    for value in (*WRONG, *(() if name in switches else (True,))):
        if any(value is one or (type(value) is float and value == one) for one in numbers.get(name, ())):
            continue
        if name == "fail" and isinstance(value, list | dict):
            continue  # no failures
        refused(lambda value=value: serve(**{name: value}), name)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("ask", "name"),
    [
        (lambda: rl.cluster(5), "on"),  # type: ignore[arg-type]
        (lambda: rl.cluster("h100-sxm", chips=True), "chips"),
        (lambda: rl.model(None), "model"),  # type: ignore[arg-type]
        (lambda: rl.explain(5), "result"),  # type: ignore[arg-type]
        (lambda: rl.validate([]), "path"),  # type: ignore[arg-type]
        (lambda: rl.validate("runs.csv", limit=True), "limit"),
        (lambda: rl.plan("llama-3.1-8b", **{**TRAIN, "top": 10**400}), "top"),
        (lambda: serve(trace=5, isl=None, osl=None), "trace"),
        (lambda: serve(model="deepseek-v3", speculate=5), "speculate"),
        (lambda: serve(kv_tier=[5], preemption="swap"), "kv_tier"),
    ],
)
def test_other_entries_refuse_by_name(ask: Callable[[], object], name: str) -> None:
    refused(ask, name)


def test_one_plan_says_where_several_are() -> None:
    assert "rl.plan" in refused(lambda: train(top=5), "top")


@pytest.mark.parametrize(
    "name", ["tp", "cp", "pp", "vpp", "ep", "etp", "dp", "micro_batch", "zero", "replicas"]
)
def test_a_plan_holds_whole_degrees_only(name: str) -> None:
    for value in (*WRONG, True, "2", None, float("inf")):
        with pytest.raises(PlanFieldError, match=f"^{name} = "):
            rl.Plan(**{name: value})


def test_a_plan_holds_known_words_and_switches_only() -> None:
    for field, value in (("schedule", 5), ("recompute", "abc"), ("fsdp_reshard", 1), ("overlap_tp", "no")):
        with pytest.raises(PlanFieldError, match=f"^{field} = "):
            rl.Plan(**{field: value})  # type: ignore[arg-type]


def test_one_setting_alone_is_one_setting(tmp_path: Path) -> None:
    assert train(settings="chip.tdp=600 W").step_time_s == train(settings=["chip.tdp=600 W"]).step_time_s
