"""Memory: the published closed forms exactly, the measured peaks within a tolerance, and grids against
plans.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.calibrate.cases import Case, read_cases
from ridgeline.calibrate.scenarios import NotPredictable, scenarios_of
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Attention, Dense, Layer
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.activations import activation_bytes
from ridgeline.graph.build import build, shard
from ridgeline.graph.memory import KINDS, memory_by_kind, parameters
from ridgeline.graph.parallel.pp import assign
from ridgeline.graph.shape import shapes_of
from ridgeline.sim.schedule import in_flight, parameter_copies

RUNS = Path(__file__).parents[2] / "shared/data/truth/training_runs.csv"
GIB = 2.0**30


def gpt(heads: int, hidden: int) -> Architecture:
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=hidden // heads)
    layer = Layer(count=4, mixer=mixer, mlp=Dense(ffn=4 * hidden, gated=False))
    return Architecture(
        name="gpt",
        hidden=hidden,
        vocab=51200,
        layers=(layer,),
        norm="layer",
        positions=2048,
        norms_per_layer=2,
    )


@pytest.mark.parametrize(
    ("s", "b", "h", "a"), [(2048, 1, 12288, 96), (2048, 4, 6144, 64), (1024, 2, 20480, 128)]
)
@pytest.mark.parametrize("t", [1, 2, 8])
def test_activations_are_those_of_korthikanti(s: int, b: int, h: int, a: int, t: int) -> None:
    """arXiv:2205.05198, eq. 1, 2, 4, 6 and section 5: bytes of one layer in an unfused stack with dropout."""
    stack, recipe = catalog.stack("megatron-lm-2021"), catalog.recipe("fp16")
    assert stack.attention == "unfused"
    assert stack.dropout
    model = build(gpt(a, h), TrainingJob(batch=b, seq=s), stack, recipe)
    sbh = s * b * h

    def kept(recompute: str, sequence_parallel: bool) -> float:
        shape, _ = shapes_of(Plan(tp=t, micro_batch=b, sequence_parallel=sequence_parallel))
        return float(activation_bytes(shard(model, shape).layers[0], recompute))

    assert kept("none", False) == pytest.approx(sbh * (10 + 24 / t + 5 * a * s / (h * t)))
    assert kept("none", True) == pytest.approx(sbh / t * (34 + 5 * a * s / h))
    assert kept("selective", True) == pytest.approx(34 * sbh / t)
    assert kept("selective", False) == pytest.approx(sbh * (10 + 24 / t))
    assert kept("full", True) == pytest.approx(2 * sbh / t)


def test_ends_are_those_of_korthikanti() -> None:
    """Section 4.3: embedding dropout s b h, final norm and output input 2 s b h each, fp32 logits 4 s b v."""
    s, h, v = 2048, 12288, 51200
    model = build(
        gpt(96, h), TrainingJob(batch=1, seq=s), catalog.stack("megatron-lm-2021"), catalog.recipe("fp16")
    )
    assert activation_bytes(model.embedding, "none") == s * h
    assert activation_bytes(model.head, "none") == 4 * s * h * (1 + v / h)


def memory(
    arch: Architecture, job: TrainingJob, stack: Stack, recipe: Recipe, grid: PlanGrid
) -> dict[str, np.ndarray]:
    shape, codes = shapes_of(grid)
    if codes.size != len(grid):
        codes = np.broadcast_to(codes, (len(grid),))
    model = shard(build(arch, job, stack, recipe), shape)
    stages = assign(arch, grid.pp, grid.vpp)
    params = parameters(model, shape, codes, stages, grid, arch.tied)
    m = np.maximum(np.round(job.batch / (grid.dp * grid.micro_batch)), 1.0).astype(np.int64)
    held = in_flight(grid.schedule, m, grid.pp, grid.vpp)
    copies = parameter_copies(grid.schedule)
    return memory_by_kind(model, shape, codes, stages, grid, params, stack, recipe, held, copies)


def total(
    plan: Plan, name: str = "llama-3.1-70b", stack: str = "megatron-core-plain", **job: object
) -> float:
    facts = TrainingJob.model_validate({"batch": 64, "seq": 8192, **job})
    kinds = memory(
        catalog.architecture(name), facts, catalog.stack(stack), catalog.recipe("bf16"), PlanGrid.of([plan])
    )
    return float(sum(kinds[kind] for kind in KINDS)[:, 0].max())  # type: ignore[call-overload]


def test_more_recompute_and_more_sharding_need_less() -> None:
    base = {"tp": 4, "pp": 2, "dp": 8}
    none, selective, some, full = (
        total(Plan(**base, recompute=kind, recompute_layers=layers))
        for kind, layers in (("none", -1), ("selective", -1), ("full", 20), ("full", -1))
    )
    assert none > selective > some > full  # norms and activations are made again
    assert total(Plan(**base), stack="megatron-lm-2022") > total(
        Plan(**base, recompute="selective"), stack="megatron-lm-2022"
    )
    stages = [total(Plan(tp=4, dp=16, zero=zero)) for zero in (0, 1, 2, 3)]
    assert stages == sorted(stages, reverse=True)
    assert total(Plan(tp=4, dp=16, zero=3, fsdp_reshard=False)) > stages[3]
    assert total(Plan(**base, offload_optimizer=True)) < none
    assert total(Plan(**base, offload_activations=True)) < none


def test_selective_recompute_drops_expanded_heads_of_latent_attention() -> None:
    plan = {"tp": 1, "pp": 16, "ep": 32, "dp": 64}
    kept = total(Plan(**plan), "deepseek-v3", batch=1024)
    less = total(Plan(**plan, recompute="selective"), "deepseek-v3", batch=1024)
    assert less < 0.8 * kept


def test_router_weights_before_the_second_matmul_keep_less() -> None:
    """DeepSeek-V3 saves about 26 GB of 199.5 GB per chip (arXiv:2603.07685, section 4)."""
    arch, job = catalog.architecture("deepseek-v3"), TrainingJob(batch=4096, seq=4096)
    grid = PlanGrid.of([Plan(pp=4, vpp=4, ep=64, dp=64, schedule="interleaved")])
    late, early = (
        memory(
            arch,
            job,
            catalog.stack("nemo-2025").model_copy(update={"weighted_activation": on}),
            catalog.recipe("bf16"),
            grid,
        )["activations"].max()
        for on in (False, True)
    )
    assert 20e9 < late - early < 40e9


def test_frozen_weights_are_stored_once() -> None:
    """Low-rank training on 8 GB200: a little more than one byte per parameter in fp8, two in bf16."""
    arch, job = catalog.architecture("llama-2-70b"), TrainingJob(batch=8, seq=8192, kind="lora")
    grid, stack = PlanGrid.of([Plan(dp=8)]), catalog.stack("nemo-2025")
    for recipe, width in (("fp8-delayed", 1.0), ("bf16", 2.0)):
        kinds = memory(arch, job, stack, catalog.recipe(recipe), grid)
        assert kinds["weights"][0, 0] == pytest.approx(width * 68_976_648_192, rel=0.001)
        assert kinds["optimizer"][0, 0] < GIB


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 8]),
            st.sampled_from([1, 2]),
            st.sampled_from([1, 2, 4, 8]),
            st.sampled_from([1, 4]),
            st.sampled_from([1, 2]),
            st.integers(1, 3),
            st.sampled_from([-1, 1, 5]),
        ),
        min_size=2,
        max_size=8,
    ),
    recompute=st.sampled_from(["none", "selective", "full"]),
    zero=st.sampled_from([0, 1, 2, 3]),
    offload=st.booleans(),
    name=st.sampled_from(["llama-3.1-8b", "deepseek-v3", "gemma-3-27b"]),
    stack=st.sampled_from(["megatron-core-plain", "torchtitan-2025", "deepspeed-zero3-2021"]),
    mtp=st.integers(0, 1),
)
def test_memory_of_a_grid_is_that_of_each_plan(
    rows: list[tuple[int, ...]], recompute: str, zero: int, offload: bool, name: str, stack: str, mtp: int
) -> None:
    plans = [
        Plan(tp=tp, cp=cp, pp=pp, vpp=vpp, schedule="1f1b", ep=ep, dp=8, micro_batch=b,
        recompute_layers=layers,
             zero=zero, recompute=recompute, offload_activations=offload)
        for tp, cp, pp, ep, vpp, b, layers in rows
    ]  # fmt: skip
    grid = PlanGrid.of(plans)
    arch = catalog.architecture(name)
    job = TrainingJob(batch=96, seq=4096, mtp=mtp if arch.mtp else 0)
    facts = (arch, job, catalog.stack(stack), catalog.recipe("bf16"))
    many = memory(*facts, grid)
    for i, plan in enumerate(plans):
        one = memory(*facts, PlanGrid.of([plan]))
        for kind in KINDS:
            np.testing.assert_allclose(many[kind][:, i], one[kind][:, 0], rtol=1e-9, err_msg=kind)
            assert (many[kind] >= 0.0).all()


def measured() -> list[Case]:
    if not RUNS.exists():
        pytest.skip("the measured runs are not in this checkout")
    return [case for case in read_cases(RUNS) if case.peak_memory_bytes and case.quality in "AB"]


def allocated(case: Case) -> float:
    """Predicted peak of allocated bytes; MLPerf logs report rank 0, which is on the first stage."""
    scenario = scenarios_of(case)[0]
    assert isinstance(scenario.plan, Plan)
    kinds = memory(
        scenario.architecture, scenario.job, scenario.stack, scenario.recipe, PlanGrid.of([scenario.plan])
    )
    stages = np.asarray(sum(kinds[kind] for kind in KINDS if kind != "reserve"))[:, 0]
    return float(stages[0] if "mlcommons" in case.source else stages.max())


def test_allocated_peaks_of_one_node() -> None:
    """SimuMax reports allocated bytes of a plain stack, the cleanest peaks there are: 3 % for every row."""
    errors = defaultdict(list)
    for case in measured():
        if "SimuMax" in case.source:
            assert case.peak_memory_bytes
            errors[case.split].append(allocated(case) / case.peak_memory_bytes - 1.0)
    assert len(errors["fit"]) >= 20
    assert len(errors["test-config"]) >= 10
    for found in errors.values():
        assert np.median(np.abs(found)) < 0.015
        assert np.max(np.abs(found)) < 0.03


def test_allocated_peaks_of_all_sources() -> None:
    errors = []
    for case in measured():
        assert case.peak_memory_bytes
        errors.append(abs(allocated(case) / case.peak_memory_bytes - 1.0))
    assert len(errors) > 60
    assert np.median(errors) < 0.06


def test_runs_that_ran_are_judged_to_fit() -> None:
    if not RUNS.exists():
        pytest.skip("the measured runs are not in this checkout")
    fits = []
    for case in read_cases(RUNS):
        try:
            scenarios = scenarios_of(case)
        except NotPredictable:
            continue
        least = np.inf
        for scenario in scenarios:
            assert isinstance(scenario.plan, Plan)
            grid = PlanGrid.of([scenario.plan])
            kinds = memory(scenario.architecture, scenario.job, scenario.stack, scenario.recipe, grid)
            least = min(least, float(np.asarray(sum(kinds[kind] for kind in KINDS)).max()))
        fits.append(least <= scenarios[0].chip.memory.capacity)
    assert len(fits) > 700
    assert np.mean(fits) > 0.90
