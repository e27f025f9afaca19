"""Planning of serving: search, targets, pools, the ladder, the Python surface and the command line."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.cli.main import main
from ridgeline.explore import serving_check, serving_effects, serving_pools
from ridgeline.explore.serving_check import Pool
from ridgeline.explore.serving_loads import table_of
from ridgeline.explore.serving_plan import Load, ServingPlan, Target, front, fronts
from ridgeline.explore.serving_search import NothingFits, ServingSearch, search
from ridgeline.explore.serving_space import ServingSpace, engines_of, formats, layouts, wrong
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.requests import Requests
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Precision, Speculation
from ridgeline.insight import serving_ladder
from ridgeline.insight.serving_sensitivity import Served, what_ifs
from ridgeline.sim.serving.build import drafts_fit, step_table, with_drafts
from ridgeline.sim.serving.outcome import ITL_EDGES_S, Outcome
from ridgeline.sim.serving.steady import closed_loop, decode_step_s, prefill_s
from ridgeline.sim.serving.table import StepTable

Run = Callable[..., tuple[int, str, str]]
LOAD = Load(isl=1024, osl=256)
ONE = ServingSpace(engines=("vllm-2026",))
FP8 = ServingSpace(engines=("vllm-2026",), fixed={"precision": "fp8"})
JOB = ["llama-3.1-8b", "--on", "h100-sxm", "--chips", "2", "--isl", "1024", "--osl", "256"]
FAST = [*JOB, "--engine", "vllm", "--precision", "fp8", "--no-simulate"]


def found(
    model: str = "llama-3.1-8b", on: str = "h100-sxm", chips: int | None = 4, *, chip: Chip | None = None,
    load: Load = LOAD, target: Target | None = None, space: ServingSpace = ONE,
) -> ServingSearch:  # fmt: skip
    cluster = catalog.cluster_for(on)
    part = chip or catalog.chip(cluster.chip)
    return search(catalog.architecture(model), part, cluster, chips, load, target, space)


@pytest.fixture(scope="module")
def dense() -> ServingSearch:
    return found()


@pytest.fixture(scope="module")
def moe() -> ServingSearch:
    space = ServingSpace(
        engines=("sglang-2026",), fixed={"precision": "fp8-block", "kv": "bf16", "chunk": 8192}
    )
    return found("qwen3-30b-a3b", chips=4, space=space)


# Search


@pytest.mark.parametrize("which", ["dense", "moe"])
def test_front_is_what_no_plan_beats(which: str, request: pytest.FixtureRequest) -> None:
    result: ServingSearch = request.getfixturevalue(which)
    front_points = np.array([(plan.tokens_per_s_user, plan.tokens_per_s_chip) for plan in result.front])
    for plan in result.plans:  # each is on the front or some plan of the front is at least as good in both
        user, chip = plan.tokens_per_s_user, plan.tokens_per_s_chip * (1.0 - 1e-9)
        assert np.any((front_points[:, 0] >= user) & (front_points[:, 1] >= chip))
    every = np.array([(plan.tokens_per_s_user, plan.tokens_per_s_chip) for plan in result.plans])
    for user, chip in front_points:
        assert not np.any((every[:, 0] > user) & (every[:, 1] > chip * (1.0 + 1e-9)))


def test_each_kind_of_pools_has_a_front_of_its_own(moe: ServingSearch) -> None:
    """A pair of pools that beats all single pools does not hide which of those are best."""
    assert {plan.disaggregated for plan in moe.plans} == {False, True}
    kept = fronts(moe.plans)
    assert {id(plan) for plan in moe.front} <= {id(plan) for plan in kept}
    for plan in moe.plans:
        alike = [other for other in kept if other.disaggregated == plan.disaggregated]
        assert any(
            other.tokens_per_s_user >= plan.tokens_per_s_user
            and other.tokens_per_s_chip >= plan.tokens_per_s_chip * (1.0 - 1e-9)
            for other in alike
        )


def test_front_does_not_depend_on_the_order(dense: ServingSearch) -> None:
    assert front(dense.plans[::-1]) == list(dense.front)


def test_a_search_repeats_itself(dense: ServingSearch) -> None:
    again = found()
    assert [plan.to_dict() for plan in again.plans] == [plan.to_dict() for plan in dense.plans]


def test_more_chips_never_lower_the_best_throughput() -> None:
    best = [
        max(plan.output_tokens_per_s for plan in found("llama-3.1-70b", chips=n, space=FP8).plans)
        for n in (4, 5, 8, 12, 16)
    ]
    assert best == sorted(best)


def test_slower_memory_never_raises_throughput() -> None:
    chip = catalog.chip("h100-sxm")
    best = []
    for share in (0.5, 0.8, 1.0):
        memory = chip.memory.model_copy(update={"bandwidth": share * chip.memory.bandwidth})
        result = found(chip=chip.model_copy(update={"memory": memory}), space=FP8)
        best.append(max(plan.tokens_per_s_chip for plan in result.plans))
    assert best == sorted(best)


def test_ranked_plans_keep_the_target() -> None:
    target = Target(ttft_s=0.5, tpot_s=0.012)
    result = found(target=target)
    assert result.ranked
    assert all(plan.ttft_s <= 0.5 and plan.tpot_s <= 0.012 for plan in result.ranked)
    within = [plan for plan in result.plans if target.met(plan.ttft_s, plan.tpot_s)]
    assert result.best is not None
    assert result.best.tokens_per_s_chip == max(plan.tokens_per_s_chip for plan in within)
    assert found(target=Target(tpot_s=1e-6)).best is None


def test_a_rate_is_served_by_few_chips_where_a_target_is_given() -> None:
    load = Load(isl=1024, osl=256, rate=10.0)
    result = found(chips=None, load=load, target=Target(tpot_s=0.02), space=FP8)
    assert result.best is not None
    assert result.best.requests_per_s == 10.0
    assert result.best.chips == min(plan.chips for plan in result.ranked)
    more = found(chips=None, load=Load(isl=1024, osl=256, rate=200.0), target=Target(tpot_s=0.02), space=FP8)
    assert more.best is not None
    assert more.best.chips > result.best.chips


def test_what_does_not_fit_says_what_lacks() -> None:
    with pytest.raises(NothingFits, match=r"lacks [\d.]+ GB on each chip") as caught:
        found(
            "llama-3.1-405b", chips=4, space=ServingSpace(engines=("vllm-2026",), fixed={"precision": "bf16"})
        )
    assert caught.value.lack is not None
    assert caught.value.lack.lacking_bytes > 0


def test_estimates_agree_with_the_closed_form(dense: ServingSearch) -> None:
    plan = next(plan for plan in dense.plans if not plan.disaggregated and plan.users == 16 * plan.replicas)
    steady = closed_loop(table_of(plan.service, LOAD), LOAD.isl, LOAD.osl, 16.0)
    assert (plan.tpot_s, plan.ttft_s) == (steady.tpot_s, steady.ttft_s)
    assert plan.output_tokens_per_s == pytest.approx(steady.output_tokens_per_s * plan.replicas)


# Space


def test_layouts_are_legal_and_ascend() -> None:
    architecture, cluster = catalog.architecture("qwen3-235b-a22b"), catalog.cluster("dgx-h200")
    precision = Precision(linear="fp8-block")
    found = layouts(architecture, precision, cluster, 16, {})
    assert found == sorted(found, key=lambda one: (one.tp, one.pp, one.dp, one.ep))
    assert all(not wrong(architecture, precision, one) and one.chips <= 16 for one in found)
    # 1,536 columns of an expert over 8 ranks leave blocks of 128 in pieces
    assert Layout(tp=8) not in found
    assert Layout(tp=8, ep=8) in found


def test_formats_follow_chip_and_checkpoint() -> None:
    def names(model: str, chip: str) -> list[str]:
        return [one.linear for one in formats(catalog.architecture(model), catalog.chip(chip))]

    assert names("deepseek-v3", "h200-sxm") == ["fp8-block"]
    assert names("llama-3.1-70b", "a100-80gb-sxm") == ["bf16", "int4-wo"]
    assert "nvfp4" in names("llama-3.1-70b", "b200-sxm")
    assert formats(catalog.architecture("gpt-oss-120b"), catalog.chip("h100-sxm"))[0].experts == "mxfp4-wo"


def test_engines_follow_the_vendor() -> None:
    assert {one.framework for one in engines_of(catalog.chip("h100-sxm"))} == {"vllm", "sglang", "trtllm"}
    assert {one.framework for one in engines_of(catalog.chip("mi300x"))} == {"vllm", "sglang"}


def test_engines_that_prefill_whole_prompts_hold_the_longest() -> None:
    space = ServingSpace(engines=("trtllm-2026",))
    result = found(load=Load(isl=12_000, osl=64), chips=1, space=space)
    assert all(plan.service.max_batched_tokens >= 14_400 for plan in result.plans)


# Pools


def test_pools_are_balanced_and_fit_the_chips(dense: ServingSearch) -> None:
    apart = [plan for plan in dense.plans if plan.disaggregated]
    assert apart
    assert all(plan.chips_used <= plan.chips for plan in apart)
    prefill, decode, rate = serving_pools.divide(16, 2, 4, 10.0, 8.5)
    assert (prefill, decode) == (2, 2)
    assert rate == pytest.approx(2 * 8.5)
    assert serving_pools.divide(4, 4, 4, 1.0, 1.0) == (0, 0, 0.0)


def test_a_queue_of_prefills_grows_with_its_load() -> None:
    rate = serving_pools.PrefillRate(took_s=0.2, requests_per_s=5.0, lanes=1)
    waits = [rate.ttft_s(busy, 1) for busy in (0.0, 0.5, 0.8)]
    assert waits[0] == 0.2
    assert waits == sorted(waits)
    # M/D/1: half the wait of M/M/1
    assert rate.ttft_s(0.5, 1) == pytest.approx(0.2 + 0.1)


def test_pools_are_asked_for_or_left_out() -> None:
    question = {"on": "h100-sxm", "chips": 4, "isl": 1024, "osl": 256, "engine": "vllm", "precision": "fp8"}
    divided = rl.serve("llama-3.1-8b", **question, disaggregated=True)
    assert all(plan.disaggregated for plan in divided.search.plans)
    assert divided.to_dict()["plan"]["prefill"]["replicas"] >= 1
    given = rl.serve("llama-3.1-8b", **question, tp=1)
    assert not any(plan.disaggregated for plan in given.search.plans)


# Ladder


@pytest.mark.parametrize("which", ["dense", "moe"])
def test_ladder_sums_to_the_time_between_tokens(which: str, request: pytest.FixtureRequest) -> None:
    result: ServingSearch = request.getfixturevalue(which)
    for plan in result.plans[:: max(1, len(result.plans) // 25)]:
        rungs = serving_ladder.ladder(
            plan.service, table_of(plan.service, LOAD), plan.steady, LOAD.isl, LOAD.osl
        )
        assert math.fsum(rung.seconds for rung in rungs) == pytest.approx(plan.tpot_s, rel=1e-12)
        assert all(rung.seconds > 0.0 for rung in rungs)


def fields_of(table: StepTable) -> dict[str, object]:
    return {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}


def test_drafts_of_every_depth_are_searched_where_a_model_has_prediction_layers() -> None:
    fixed = {"tp": 8, "pp": 1, "dp": 1, "ep": 8, "kv": "bf16", "chunk": 8192}
    plain = found("deepseek-v3", "h200-sxm", 8, space=ServingSpace(engines=("sglang-2026",), fixed=fixed))
    assert {plan.service.speculation.method for plan in plain.plans} == {"none"}
    space = ServingSpace(engines=("sglang-2026",), fixed=fixed, acceptance=(0.8, 0.6))
    drafted = found("deepseek-v3", "h200-sxm", 8, space=space)
    assert {plan.service.speculation.drafts for plan in drafted.plans} == {0, 1, 2}
    plain_table = step_table(plain.plans[0].service, 2048)
    two = plain.plans[0].service.replace(speculation=Speculation(method="mtp", acceptance=(0.8, 0.6)))
    assert drafts_fit(plain_table, two)
    for name, value in fields_of(step_table(two, 2048)).items():
        np.testing.assert_array_equal(value, getattr(with_drafts(plain_table, two), name), err_msg=name)
    assert min(p.tpot_s for p in drafted.plans) < min(p.tpot_s for p in plain.plans)


# Engines and chips, prompts over ranks


@pytest.mark.parametrize(
    ("chip", "engines"),
    [
        ("h100-sxm", ["vllm-2026", "sglang-2026", "trtllm-2026"]),
        ("a10", ["vllm-2026", "sglang-2026", "trtllm-2026"]),
        ("v100-32gb-sxm", ["vllm-2026"]),
        ("mi300x", ["vllm-2026", "sglang-rocm-2026"]),
        ("mi250x", ["vllm-2026"]),
        ("tpu-v5e", ["vllm-2026"]),
        ("gaudi3", ["vllm-2026"]),
    ],
)
def test_engines_are_offered_on_chips_they_support(chip: str, engines: list[str]) -> None:
    assert [engine.name for engine in engines_of(catalog.chip(chip))] == engines


def test_ranks_that_share_a_prompt_make_it_faster_and_its_decodes_not() -> None:
    one = service("llama-3.1-70b", "h100-sxm", Layout(tp=2), Precision(linear="fp8", kv="fp8"), "vllm-2026")
    alone = step_table(one, 65536)
    took, _ = prefill_s(alone, 32768, 0.0, 32768, 1.0)
    for cp in (2, 4):
        shared = step_table(one.replace(layout=Layout(tp=2, cp=cp)), 65536)
        with_cp, _ = prefill_s(shared, 32768, 0.0, 32768, 1.0)
        assert took / cp < with_cp < 1.4 * took / cp  # keys and values are gathered, kernels are smaller
        assert decode_step_s(shared, 8.0, 32768) == decode_step_s(alone, 8.0, 32768)


def test_prefill_engines_of_long_prompts_may_share_them() -> None:
    load = Load(isl=32768, osl=64)
    fixed = {"precision": "fp8", "kv": "fp8", "chunk": 16384, "tp": 2}
    space = ServingSpace(engines=("vllm-2026",), fixed=fixed)
    long = found("llama-3.1-70b", chips=16, load=load, target=Target(ttft_s=3.0), space=space)
    ways = {plan.prefill.layout.cp for plan in long.plans if plan.prefill}
    assert ways & {2, 4, 8}
    assert all(plan.service.layout.cp == 1 for plan in long.plans)
    quick = min((plan for plan in long.plans if plan.prefill), key=lambda plan: plan.ttft_s)
    assert quick.prefill is not None
    assert quick.prefill.layout.cp > 1
    short = found("llama-3.1-70b", chips=8, target=Target(ttft_s=3.0), space=space)
    assert all(plan.prefill is None or plan.prefill.layout.cp == 1 for plan in short.plans)
    assert wrong(catalog.architecture("llama-3.1-70b"), Precision(), Layout(cp=2, pp=2)).startswith("cp = 2")


# What would help


def test_what_would_help_is_a_full_evaluation_of_each_change(dense: ServingSearch) -> None:
    plan = next(plan for plan in dense.plans if not plan.disaggregated and plan.users == 16 * plan.replicas)
    effects = {item.name: item for item in serving_effects.effects(plan, LOAD, Target())}
    chip = plan.service.chip
    memory = chip.memory.model_copy(update={"bandwidth": 1.1 * chip.memory.bandwidth})
    faster = plan.service.replace(chip=chip.model_copy(update={"memory": memory}))
    steady = closed_loop(table_of(faster, LOAD), LOAD.isl, LOAD.osl, 16.0)
    found = effects["memory bandwidth +10 %"]
    assert found.tpot == pytest.approx(steady.tpot_s / plan.tpot_s - 1.0, abs=1e-12)
    assert found.chip == pytest.approx(plan.steady.output_tokens_per_s / steady.output_tokens_per_s - 1.0)
    assert found.chip < 0.0
    more = effects["users x 2"]
    assert more.chip < 0.0 < more.tpot
    assert list(effects) == sorted(effects, key=lambda name: (effects[name].chip, effects[name].tpot))
    assert ("scale-up bandwidth x 2" in effects) == (plan.service.layout.chips > 1)


def test_what_would_help_pools_and_models_with_prediction_layers(dense: ServingSearch) -> None:
    pools = next(plan for plan in dense.plans if plan.disaggregated)
    effects = {item.name: item for item in serving_effects.effects(pools, LOAD, Target(tpot_s=pools.tpot_s))}
    assert effects["matrix peak +10 %"].chip < 0.0
    assert effects["matrix peak +10 %"].ttft < 0.0
    if "users x 2" in effects and effects["users x 2"].tpot > 0.0:
        assert "misses the target of TPOT" in effects["users x 2"].note
    one = service("deepseek-v3", "h200-sxm", Layout(tp=8, ep=8), Precision(linear="fp8-block"), "sglang-2026")
    names = {name: note for name, _, note in what_ifs(Served(one, 16.0))}
    assert names["1 draft by prediction layers"] == "accepted with chance 0.85 (assumption)"
    assert "KV cache in fp8" in names


# Check by simulation: a stand-in with a known answer, so that nothing is compiled here


def stand_in(requests: Requests, pool: Pool) -> Outcome:
    """TTFT of 1 / (50 - rate) seconds and 10 ms between tokens, per engine."""
    n = len(requests)
    span = float(requests.arrival_s[-1])
    rate = (n - 1) / span / len(pool.replicas) if span else 10.0
    first = requests.arrival_s + (1.0 / (50.0 - rate) if rate < 50.0 else 1e3)
    zero = np.zeros(n, np.int64)
    measured = np.ones(n, np.bool_) if requests.measured is None else requests.measured
    return Outcome(
        sent_s=requests.arrival_s, scheduled_s=requests.arrival_s, first_token_s=first,
        finish_s=first + 0.01 * (requests.output_tokens - 1), made_tokens=requests.output_tokens,
        cached_tokens=zero, preemptions=zero, replica=zero, status=zero, measured=measured,
        itl_counts=np.zeros(len(ITL_EDGES_S) + 1, np.int64), times_s=np.zeros(1), running=zero[:1], waiting=zero[:1],
        kv_blocks=zero[:1], batch_steps=np.zeros(2, np.int64), steps=1, busy_s=1.0, blocks=1,
        end_s=float(first[-1]) + 1.0, energy_j=1.0, chips=1,
    )  # fmt: skip


def aggregated(result: ServingSearch) -> ServingPlan:
    return next(plan for plan in result.ranked if not plan.disaggregated and plan.replicas == 4)


def test_largest_rate_is_found_by_bisection(dense: ServingSearch) -> None:
    plan = aggregated(dense)
    target = Target(ttft_s=0.05, tpot_s=0.02)
    rate = serving_check.largest_rate(plan, LOAD, target, stand_in)
    # 1 / (50 - rate) = 0.05 at 30 a second and engine, unless the closed form ends before
    most = serving_check._capacity_rate(plan, LOAD) * 1.05
    assert rate == pytest.approx(min(30.0 * plan.replicas, most), rel=0.06)
    assert serving_check.largest_rate(plan, LOAD, Target(tpot_s=0.005), stand_in) == 0.0


def test_a_batch_is_refined_between_powers_of_two(dense: ServingSearch) -> None:
    target = Target(tpot_s=0.02)
    plan = aggregated(dense)
    kept = serving_check.check(plan, LOAD, target, stand_in)
    more = serving_check.refined(kept, LOAD, target, stand_in)
    assert plan.users <= more.plan.users <= 2.0 * plan.users
    assert more.met
    assert serving_check.refined(kept, Load(isl=1, osl=1, users=3.0), target, stand_in) is kept


def test_plans_that_miss_are_passed_over(dense: ServingSearch) -> None:
    target = Target(ttft_s=1.0, tpot_s=0.02)
    plans = serving_check.candidates(dense, LOAD, target)
    kept, tried = serving_check.first_that_keeps(plans, LOAD, target, stand_in)
    assert kept.met
    assert (tried, kept.plan) == (1, plans[0])
    missed, tried = serving_check.first_that_keeps(plans, LOAD, Target(tpot_s=0.001), stand_in)
    assert not missed.met
    assert tried == len(plans)


def test_replicas_are_added_until_a_rate_is_held() -> None:
    load, target = Load(isl=512, osl=32, rate=100.0), Target(ttft_s=0.1, tpot_s=0.02)
    plans = [p for p in found(chips=8, load=load, target=target, space=FP8).ranked if not p.disaggregated]
    kept, _ = serving_check.first_that_keeps(plans[:1], load, target, stand_in, chips=8)
    assert kept.met
    assert kept.plan.replicas > 100.0 / 41.0  # 1 / (50 - 40) = 0.1


def test_pools_are_simulated_as_a_fleet(dense: ServingSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    from ridgeline.api.serving import simulated
    from ridgeline.sim.serving import drive
    from ridgeline.sim.serving.fleet import Fleet

    seen: list[Fleet] = []

    def fleet_stand_in(requests: Requests, fleet: Fleet) -> Outcome:
        fleet.check()
        seen.append(fleet)
        return stand_in(requests, Pool(fleet.replicas))

    monkeypatch.setattr(drive, "simulate_fleet", fleet_stand_in)
    plan = next(plan for plan in dense.ranked if plan.disaggregated)
    checked = serving_check.check(plan, LOAD, Target(), simulated)
    assert checked.replicas == plan.replicas
    assert (len(seen[0].replicas), len(seen[0].prefill)) == (plan.replicas, plan.prefill_replicas)
    sent = LOAD.isl * seen[0].prefill[0].kv_bytes_per_token / seen[0].transfer.bytes_per_s
    assert sent == pytest.approx(plan.transfer_s)


def test_a_cache_is_narrow_only_where_the_chip_knows_the_format() -> None:
    space = ServingSpace(engines=("trtllm-2026",))
    assert {plan.service.precision.kv for plan in found(on="a100-80gb-sxm", chips=1, space=space).plans} == {
        "bf16"
    }


# Python


def test_serve_answers_and_saves(tmp_path: Path) -> None:
    result = rl.serve(
        "llama-3.1-8b", on="h100-sxm", chips=2, isl="1k", osl=256, concurrency=32, tp=2, precision="fp8",
        engine="vllm", kv="bf16",
    )  # fmt: skip
    assert isinstance(result, rl.ServingResult)
    assert result.plan.service.layout == Layout(tp=2)
    assert result.plan.service.precision.kv == "bf16"
    assert result.tpot_range_s[0] < result.tpot_s < result.tpot_range_s[1]
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for name in ("plan", "front", "ladder", "labels", "notes", "search", "target", "load", "memory", "check"):
        assert name in values
    assert sum(rung["seconds"] for rung in values["ladder"]) == pytest.approx(result.tpot_s)
    assert values["plan"]["concurrency"] == pytest.approx(32)
    page = result.write_report(tmp_path / "deep" / "r.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "vllm serve" in result.emit("vllm")
    assert "<pre>" in result._repr_html_()
    path = tmp_path / "r.json"
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="result of `ridgeline serve`"):
        rl.explain(path)


def test_settings_change_the_machine() -> None:
    question = {
        "on": "h100-sxm", "chips": 1, "isl": 1024, "osl": 256, "concurrency": 1, "engine": "vllm", "tp": 1,
        "precision": "bf16", "kv": "bf16", "chunk": 8192,
    }  # fmt: skip
    plain = rl.serve("llama-3.1-8b", **question)
    faster = rl.serve(
        "llama-3.1-8b", **question, settings=["chip.memory.bandwidth=5 TB/s", "engine.host_step=0.1 ms"]
    )
    assert faster.tpot_s < plain.tpot_s


# Command line


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        code = main(["serve", *words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_command_prints_plans_ladder_and_labels(run: Run) -> None:
    code, out, err = run(*FAST)
    assert (code, err) == (0, "")
    for part in (
        "Llama 3.1 8B on 2 x H100",
        "tok/s/chip",
        "= time between tokens",
        "What would help most",
        "labels",
        "note:",
        "80 %:",
    ):
        assert part in out


def test_json_is_all_of_stdout(run: Run) -> None:
    code, out, err = run(*FAST, "--json")
    values = json.loads(out)
    assert (code, err) == (0, "")
    assert values["kind"] == "serving"
    assert values["command"].startswith("ridgeline serve llama-3.1-8b")
    assert values["front"][0]["tokens_per_s_user"] >= values["front"][-1]["tokens_per_s_user"]


@pytest.mark.parametrize("framework", ["vllm", "sglang"])
def test_emit_leaves_the_launch_file_alone_on_stdout(run: Run, tmp_path: Path, framework: str) -> None:
    words = [*JOB, "--no-simulate", "--tp", "2", "--precision", "bf16", "--emit", framework]
    code, out, err = run(*words)
    assert code == 0
    assert out.startswith("#!")
    assert "= time between tokens" in err
    path = tmp_path / "serve.sh"
    code, out, err = run(*words, "--out", str(path))
    assert (code, out) == (0, "")
    assert path.read_text().startswith("#!")
    assert str(path) in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rate", "2", "--concurrency", "4"], "rate = 2 and concurrency = 4: give one"),
        (["--tp", "3"], "tp = 3 does not divide"),
        (["--tp", "16"], "tp = 16 spans scale-up domains of 8 chips; choose 1, 2, 4 or 8"),
        (["--tp", "8"], "tp 8 = 8 chips for one replica, but chips = 2"),
        (["--engine", "sglang-rocm-2026"], "sglang-rocm-2026: runs on AMD chips launched since 2023-12, not on h100"),
        (["--no-speculate", "--acceptance", "0.8"], "--acceptance 0.8 and --no-speculate: give one"),
        (["--engine", "vlm"], "unknown serving engine 'vlm'"),
        (["--precision", "nvfp4"], "does not multiply nvfp4; choose"),
        (["--kv", "fp7"], "kv = fp7 is unknown; choose"),
        (["--tpot", "1 us"], "no plan keeps TPOT .* at best"),
        (["--tpot", "5 GB"], "tpot: "),
        (["--percentile", "101"], "percentile = 101"),
        (["--rate", "-1"], "rate = -1"),
        (["--rate", "1e6"], "keeps up with a load of 1e\\+06 requests/s.* the most is about"),
        (["--trace", "nowhere.csv"], "isl = 1024: a trace has its own lengths"),
        (["--ep", "2"], "has no experts"),
        (["--speculate"], "ships no prediction layers"),
        (["--emit", "tgi"], "--emit tgi: unknown framework; choose"),
        (["--set", "chip.wheels=4"], "chip has no field 'wheels'"),
        (["--set", "stack.host=1 us"], "unknown field 'stack'"),
        (["--out", "plan.pdf"], "the ending says what to write"),
        (["--top", "0"], "--top 0"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message(run: Run, words: list[str], message: str) -> None:
    code, out, err = run(*JOB, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert re.search(message, err), err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["llama-9b", "--on", "h100-sxm", "--chips", "1", "--isl", "9", "--osl", "9"], "unknown model 'llama-9b'"),
        (["llama-3.1-8b", "--on", "h999", "--chips", "1", "--isl", "9", "--osl", "9"], "unknown cluster or chip"),
        (["llama-3.1-8b", "--on", "h100-sxm", "--chips", "1", "--isl", "0", "--osl", "9"], "isl = 0"),
        (["llama-3.1-8b", "--on", "h100-sxm", "--chips", "1", "--isl", "9"], "osl: missing"),
        (["llama-3.1-8b", "--on", "h100-sxm", "--isl", "9", "--osl", "9"], "chips: missing"),
        (["llama-3.1-8b", "--on", "h100-sxm", "--chips", "1", "--trace", "nowhere.csv"], "nowhere.csv"),
        (
            ["llama-3.1-405b", "--on", "h100-sxm", "--chips", "8", "--isl", "9", "--osl", "9", "--precision", "bf16"],
            "lacks .* GB .* would fit",
        ),
    ],
)  # fmt: skip
def test_wrong_questions_are_answered(run: Run, words: list[str], message: str) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert re.search(message, err), err


def test_interruption_says_what_was_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ridgeline.api.serving.search", stopped)
    code, _, err = run(*FAST)
    assert code == 130
    assert "interrupted: 0 plans and simulations" in err


def test_a_search_loads_no_compiler() -> None:
    code = (
        "import sys; from ridgeline.cli.main import main; "
        f"code = main(['serve', *{FAST!r}]); print('numba' in sys.modules, code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "False 0"
