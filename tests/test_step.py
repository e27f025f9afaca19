"""One training step: the parts add up, effects have the sign that physics gives them, grids equal single plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.workload import TrainingJob
from ridgeline.metrics import Prediction
from ridgeline.predict import train
from ridgeline.sim.step import overlaps, step


def scenario(model: str = "llama-3.1-70b", chip: str = "h100-sxm", **plan: Any) -> Scenario:
    chosen = Plan(**({"tp": 8, "pp": 4, "dp": 2} | plan))
    return Scenario(
        architecture=catalog.architecture(model),
        chip=catalog.chip(chip),
        cluster=catalog.cluster_for(chip),
        num_chips=chosen.chips,
        job=TrainingJob(batch=64, seq=8192, tokens=1e12),
        plan=chosen,
        stack=catalog.stack("nemo-2024"),
        recipe=catalog.recipe("bf16"),
        calibration=catalog.calibration(chip),
    )


def changed(base: Scenario, part: str, **fields: Any) -> Scenario:
    return base.replace(**{part: getattr(base, part).model_copy(update=fields)})


CASES = [
    scenario(),
    scenario(tp=4, cp=2, pp=4, vpp=5, dp=2, schedule="interleaved"),
    scenario(tp=1, pp=1, dp=64, zero=3, recompute="full"),
    scenario("mixtral-8x7b", tp=2, pp=2, dp=16, ep=8),
    scenario("deepseek-v3", "gb200", tp=1, pp=8, dp=32, ep=32, recompute="full"),
    scenario("nemotron-h-8b", tp=2, pp=1, dp=32, recompute="selective"),
]


@pytest.mark.parametrize("case", CASES)
def test_ladder_sums_exactly(case: Scenario) -> None:
    prediction = train(case)
    assert sum(rung.seconds for rung in prediction.ladder) == pytest.approx(prediction.step_time_s, rel=1e-12)
    assert prediction.ladder[0].seconds == prediction.bound_s
    assert prediction.bound_s <= prediction.step_time_low_s <= prediction.step_time_s
    assert prediction.step_time_s <= prediction.step_time_high_s


@pytest.mark.parametrize("case", CASES)
def test_rates_agree_with_each_other(case: Scenario) -> None:
    p = train(case)
    tokens = case.job.batch * case.job.seq
    assert p.tokens_per_s_per_chip == pytest.approx(tokens / p.step_time_s / case.num_chips)
    assert 0.0 < p.mfu <= p.mfu_full_attention <= 1.0
    assert p.mfu <= p.hfu * (1 + 1e-9)
    assert p.average_power_w <= case.chip.tdp * 1.001
    assert p.days == pytest.approx(1e12 / tokens * p.step_time_s / 86400)


FASTER: list[tuple[str, dict[str, float]]] = [
    ("chip", {"matrix": {"bf16": 2e15}}),
    ("stack", {"host": 0.0}),
    ("stack", {"step_fixed": 0.0}),
    ("stack", {"jitter": 0.0}),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("part", "fields"), FASTER)
def test_better_hardware_and_software_is_never_slower(
    case: Scenario, part: str, fields: dict[str, Any]
) -> None:
    if part == "chip":
        fields = {"matrix": {name: 2 * rate for name, rate in case.chip.matrix.items()}}
    assert train(changed(case, part, **fields)).step_time_s <= train(case).step_time_s * (1 + 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_more_bandwidth_is_never_slower(case: Scenario) -> None:
    tiers = tuple(tier.model_copy(update={"bandwidth": 2 * tier.bandwidth}) for tier in case.cluster.tiers)
    faster = changed(case, "cluster", tiers=tiers)
    assert train(faster).step_time_s <= train(case).step_time_s * (1 + 1e-9)


def test_a_lower_power_cap_slows_matrix_kernels_and_draws_less() -> None:
    free, capped = train(scenario()), train(changed(scenario(), "chip", tdp=400.0))
    assert capped.step_time_s > 1.1 * free.step_time_s
    assert capped.average_power_w <= 400.0
    assert capped.mfu < free.mfu


def test_overlap_switches_hide_communication() -> None:
    base = scenario()
    plain = {"overlap_tp": False, "overlap_grad": False, "overlap_param": False}
    shown = train(base.replace(plan=dataclasses.replace(base.plan, **plain)))
    hidden = train(base.replace(plan=dataclasses.replace(base.plan, **dict.fromkeys(plain, True))))
    assert hidden.step_time_s < shown.step_time_s
    assert hidden.exposed_s["tp"] < shown.exposed_s["tp"]


@pytest.mark.parametrize(
    ("plan", "hides"),
    [
        ({"pp": 8, "vpp": 2, "schedule": "interleaved"}, True),
        ({"pp": 8}, False),  # no second micro-batch at hand
        ({"pp": 1, "zero": 3}, True),
        ({"pp": 8, "vpp": 2, "schedule": "interleaved", "recompute": "full"}, False),
    ],
)
def test_another_micro_batch_hides_expert_messages(plan: dict[str, Any], hides: bool) -> None:
    base = {"tp": 1, "ep": 8, "dp": 64 // plan["pp"]}
    job = TrainingJob(batch=2048, seq=8192)
    shown = train(scenario("qwen3-235b-a22b", **base, **plan, overlap_ep=False).replace(job=job))
    hidden = train(scenario("qwen3-235b-a22b", **base, **plan, overlap_ep=True).replace(job=job))
    assert (hidden.exposed_s["ep"] < 0.5 * shown.exposed_s["ep"]) == hides
    assert (hidden.step_time_s < shown.step_time_s) == hides


@pytest.mark.parametrize(("ep", "hides"), [(8, False), (32, True)])
def test_stacks_may_hide_expert_messages_beyond_a_domain_only(ep: int, hides: bool) -> None:
    base = scenario("qwen3-235b-a22b", tp=1, pp=2, vpp=2, dp=32, ep=ep, schedule="interleaved")
    base = base.replace(job=TrainingJob(batch=1024, seq=8192))
    stack = base.stack.model_copy(update={"overlap_ep_beyond": True})
    shown, hidden = train(base).exposed_s["ep"], train(base.replace(stack=stack)).exposed_s["ep"]
    assert (hidden < shown) == hides


def test_the_first_forward_and_the_last_backward_show_their_expert_messages() -> None:
    shares = []
    for micro_batches in (1, 2, 8):
        base = scenario("qwen3-235b-a22b", tp=1, pp=1, dp=64, zero=3, ep=8)
        base = base.replace(job=TrainingJob(batch=64 * micro_batches, seq=8192))
        shown, hidden = (
            train(base.replace(plan=dataclasses.replace(base.plan, overlap_ep=overlap)))
            for overlap in (False, True)
        )
        shares.append(1.0 - hidden.exposed_s["ep"] / shown.exposed_s["ep"])
    assert shares[0] == pytest.approx(0.0, abs=1e-9)
    assert shares[1] < shares[2]
    assert shares[2] / shares[1] == pytest.approx((7 / 8) / (1 / 2), rel=1e-6)


def test_adding_weight_gradients_to_their_buffer_costs_time() -> None:
    def apart(model: str, **fields: float) -> float:
        base = scenario(model, tp=1, pp=1, dp=64, ep=8 if "qwen" in model else 1)
        kernels = base.calibration.kernels
        none = kernels.accumulation.model_copy(update={"exposed": 0.0})
        free = dataclasses.replace(
            base.calibration, kernels=kernels.model_copy(update={"accumulation": none})
        )
        base = changed(base, "recipe", **fields) if fields else base
        return train(base).step_time_s / train(base.replace(calibration=free)).step_time_s

    assert 1.0 < apart("llama-3.1-70b") < 1.1
    assert apart("llama-3.1-70b", grad_bytes=2.0) < apart("llama-3.1-70b")
    assert apart("qwen3-235b-a22b") > apart("llama-3.1-70b")  # few rows an expert


def test_experts_that_are_launched_one_by_one_race_the_device() -> None:
    times = []
    for ep in (8, 64):
        base = scenario("qwen3-235b-a22b", tp=1, pp=1, dp=64, ep=ep)
        base = changed(base, "stack", host_expert=0.0)
        slow = changed(base, "stack", host_expert=1e-3)
        times.append(train(slow).step_time_s / train(base).step_time_s)
    assert times[0] > 1.5  # 16 experts a rank
    assert 1.0 <= times[1] < times[0]


def test_products_of_single_experts_are_slower_than_grouped_ones() -> None:
    base = scenario("qwen3-235b-a22b", tp=1, pp=1, dp=64, ep=8)
    assert train(changed(base, "stack", grouped_share=0.85)).step_time_s > train(base).step_time_s


def test_kernels_beyond_their_tables_are_labelled_transferred() -> None:
    assert train(scenario()).labels["linear layers"] == "fitted"
    long = scenario(tp=1, pp=1, dp=64, zero=3, micro_batch=16)
    long = long.replace(job=TrainingJob(batch=1024, seq=8192))  # 131,072 rows
    assert train(long).labels["linear layers"] == "transferred"


def test_compilers_repeat_a_dense_layer_without_its_last_matmul() -> None:
    base = scenario(tp=1, pp=1, dp=64, zero=3, recompute="full")
    whole, trimmed = train(base), train(changed(base, "stack", recompute_trimmed=True))
    plain = train(scenario(tp=1, pp=1, dp=64, zero=3))
    layer, last = 855_638_016, 8192 * 28672  # matrix parameters of a layer and of its down projection
    assert trimmed.step_time_s < whole.step_time_s
    again = (trimmed.hfu * trimmed.step_time_s - plain.hfu * plain.step_time_s) / (
        whole.hfu * whole.step_time_s - plain.hfu * plain.step_time_s
    )
    assert 1 - last / layer - 0.01 < again < 1 - 0.8 * last / layer  # attention is repeated too


def test_unfused_expert_biases_cost_time_where_experts_have_them() -> None:
    for model, slower in (("gpt-oss-120b", True), ("qwen3-30b-a3b", False)):
        base = scenario(model, tp=1, pp=1, dp=64, ep=8)
        apart = changed(base, "stack", fused_expert_bias=False)
        assert (train(apart).step_time_s > train(base).step_time_s) == slower


def test_gathers_into_lists_cost_the_host_a_piece_per_rank() -> None:
    extra = {}
    for ranks in (64, 128):
        base = scenario(tp=1, pp=1, dp=ranks, zero=3)
        base = base.replace(job=TrainingJob(batch=ranks, seq=8192))
        listed = changed(base, "stack", gather_piece=1e-5, prefetch=False)
        whole = changed(base, "stack", prefetch=False)
        extra[ranks] = train(listed).step_time_s - train(whole).step_time_s
    # two gathers of 80 layers at each micro-batch
    assert extra[64] == pytest.approx(2 * 80 * 64 * 1e-5, rel=0.1)
    assert extra[128] == pytest.approx(2 * extra[64], rel=0.1)


def test_recompute_trades_time_for_memory() -> None:
    none, full = train(scenario()), train(scenario(recompute="full"))
    assert full.step_time_s > none.step_time_s
    assert full.peak_memory_bytes < none.peak_memory_bytes
    assert full.mfu < none.mfu
    assert full.hfu > full.mfu
    assert none.hfu == pytest.approx(none.mfu)


def test_offload_frees_memory_and_pays_on_a_slow_link() -> None:
    base = scenario(recompute="full")
    offloaded = scenario(recompute="full", offload_activations=True)
    slow = changed(offloaded, "chip", host_bandwidth=1e9)
    assert train(offloaded).peak_memory_bytes < train(base).peak_memory_bytes
    assert train(slow).step_time_s > train(offloaded).step_time_s
    assert "activation offload, exposed" in {rung.cause for rung in train(slow).ladder}
    optimizer = scenario(offload_optimizer=True)
    assert train(optimizer).peak_memory_bytes < train(scenario()).peak_memory_bytes
    assert train(optimizer).step_time_s > train(scenario()).step_time_s


def test_zero_3_is_no_free_lunch() -> None:
    sharded, whole = (
        # clearing and scaling a whole gradient buffer is what sharded gradients do save
        train(changed(scenario(tp=1, pp=1, dp=64, zero=zero, recompute="full"), "stack", grad_passes=0.0))
        for zero in (3, 1)
    )
    assert sharded.peak_memory_bytes < whole.peak_memory_bytes
    assert sharded.step_time_s > whole.step_time_s  # gathers are paid


def test_the_slowest_of_more_chips_is_slower_by_the_logarithm() -> None:
    quiet, noisy = (
        [
            train(
                changed(
                    scenario(dp=dp).replace(job=TrainingJob(batch=32 * dp, seq=8192)), "stack", jitter=share
                )
            )
            for dp in (2, 4, 8)
        ]
        for share in (0.0, 0.066)
    )
    excess = [b.step_time_s / a.step_time_s - 1.0 for a, b in zip(quiet, noisy, strict=True)]
    assert np.diff(excess) == pytest.approx(2 * [0.066 * np.log(2.0) / np.log(1000.0)], rel=1e-9)


def test_an_interleaved_pipeline_shows_one_chunk_of_its_reduction() -> None:
    """A chunk of the reduction and of the gathering is exposed; what hides slows the compute by the contention."""
    base = scenario(tp=4, cp=2, pp=4, vpp=5, dp=2, schedule="interleaved")
    for contention in (0.0, 0.25):
        case = changed(base, "stack", contention=contention, overlap_grad=True, overlap_param=True)
        grid = PlanGrid.of([case.plan])
        result = step(case, grid)
        traffic, switch = result.data_parallel, overlaps(grid, case.stack)
        no_sends = dataclasses.replace(result.costs, send_s=0.0)
        found = traffic.exposed("interleaved", no_sends, grid, switch, case.stack)
        share = 1.0 / 5.0 + 4.0 / 5.0 * contention
        assert found[0] == pytest.approx(share * (traffic.reduce_s + traffic.gather_s).max(), rel=1e-9)


@pytest.mark.parametrize(("dp", "shared"), [(1, False), (4, True)])
def test_sends_are_later_where_collectives_use_the_same_nics(dp: int, shared: bool) -> None:
    """Inside one node of eight chips data-parallel traffic leaves the NICs to the pipeline."""
    case = scenario(tp=4, cp=2, pp=4, vpp=5, dp=dp, schedule="interleaved")
    grid = PlanGrid.of([case.plan])
    result = step(case, grid)
    traffic, switch = result.data_parallel, overlaps(grid, case.stack)
    with_sends, without = (
        traffic.exposed(
            "interleaved", dataclasses.replace(result.costs, send_s=send_s), grid, switch, case.stack
        )
        for send_s in (1e-3, 0.0)
    )
    hidden = (traffic.reduce_s + traffic.gather_s).max()
    assert bool(with_sends[0] > without[0]) is shared
    assert with_sends[0] - without[0] < hidden / 2.0


def test_every_chip_clears_and_scales_the_gradients_of_its_whole_stage() -> None:
    base = scenario()
    none, three = (
        step(changed(base, "stack", grad_passes=passes), PlanGrid.of([base.plan])) for passes in (0.0, 3.0)
    )
    moved = 3.0 * 4.0 * three.parameters.dense.max()  # fp32 gradients
    assert three.optimizer_s[0] - none.optimizer_s[0] == pytest.approx(
        moved / base.chip.memory.bandwidth, rel=0.2
    )


def test_sharded_gradients_are_reduced_at_every_micro_batch() -> None:
    once, each = train(scenario(zero=1)), train(scenario(zero=2))
    assert each.peak_memory_bytes < once.peak_memory_bytes
    assert each.step_time_s > once.step_time_s


def test_an_interleaved_pipeline_reduces_sharded_gradients_once_per_row_of_micro_batches() -> None:
    def exposed(zero: int, vpp: int) -> float:
        case = scenario(zero=zero, vpp=vpp, schedule="interleaved" if vpp > 1 else "1f1b")
        return next(rung.seconds for rung in train(case).ladder if rung.cause == "data parallel, exposed")

    each, rows = exposed(2, 1), exposed(2, 5)  # 32 micro-batches; rows of 4
    assert rows < 0.5 * each
    assert rows > exposed(1, 5)
    held = {
        zero: train(scenario(zero=zero, vpp=5, schedule="interleaved")).peak_memory_bytes for zero in (1, 2)
    }
    assert held[2] < held[1]


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "zb-h2", "zb-v", "dualpipe"])
def test_every_schedule_predicts(schedule: str) -> None:
    prediction = train(scenario(schedule=schedule))
    assert isinstance(prediction, Prediction)
    assert 0.0 <= prediction.bubble_share < 0.6


def test_names_do_not_matter() -> None:
    case = scenario()
    renamed = case.replace(
        architecture=case.architecture.model_copy(update={"name": "x", "title": "x", "family": "x"}),
        chip=case.chip.model_copy(update={"name": "y", "title": "y"}),
        cluster=case.cluster.model_copy(update={"name": "z", "title": "z"}),
        stack=case.stack.model_copy(update={"name": "s", "title": "s"}),
        recipe=case.recipe.model_copy(update={"name": "r", "title": "r"}),
    )
    assert train(renamed).step_time_s == train(case).step_time_s
    assert train(renamed).peak_memory_bytes == train(case).peak_memory_bytes


@settings(max_examples=30, deadline=None)
@given(
    tp=st.sampled_from([1, 2, 4, 8]),
    cp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2, 4, 8]),
    micro_batch=st.sampled_from([1, 2]),
    recompute=st.sampled_from(["none", "selective", "full"]),
    zero=st.sampled_from([0, 1, 2, 3]),
)
def test_a_row_of_a_grid_is_the_single_plan(
    tp: int, cp: int, pp: int, micro_batch: int, recompute: str, zero: int
) -> None:
    base = scenario()
    common = {"recompute": recompute, "zero": zero}
    plans = [
        Plan(tp=tp, cp=cp, pp=pp, dp=4, micro_batch=micro_batch, **common),
        Plan(tp=8, cp=1, pp=2, dp=4, **common),
        Plan(tp=1, cp=1, pp=1, dp=8, micro_batch=2, **common),
    ]
    grid = step(base, PlanGrid.of(plans))
    for i, plan in enumerate(plans):
        one = step(base, PlanGrid.of([plan]))
        assert one.total_s[0] == pytest.approx(grid.total_s[i], rel=1e-12)
        for kind, size in one.memory.items():
            assert np.allclose(size[:, 0], grid.memory[kind][:, i], rtol=1e-12)


def test_recomputed_flops_follow_the_layers_that_are_computed_again() -> None:
    none, half, full = (
        train(scenario(recompute=kind, recompute_layers=layers))
        for kind, layers in (("none", -1), ("full", 10), ("full", -1))
    )
    per_token = [p.hfu * p.step_time_s for p in (none, half, full)]
    assert per_token[0] < per_token[1] < per_token[2]
    assert per_token[1] - per_token[0] == pytest.approx((per_token[2] - per_token[0]) / 2, rel=1e-6)
    assert per_token[2] < per_token[0] * 4 / 3  # embedding and head are never computed again
    assert full.energy_j_per_step > half.energy_j_per_step > none.energy_j_per_step
