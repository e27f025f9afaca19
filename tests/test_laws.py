"""Conservation laws of the parallel passes, over every catalog model and many shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Attention
from ridgeline.facts.parameters import head_parameters, total_parameters
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.build import Model, build, shard
from ridgeline.graph.laws import LawError, PlanError, check_plan, verify
from ridgeline.graph.memory import parameters
from ridgeline.graph.ops import Gemm, change
from ridgeline.graph.parallel.pp import assign
from ridgeline.graph.shape import Shape, shapes_of

MODELS = sorted(catalog.names("models"))
STACKS = ("megatron-core-plain", "megatron-lm-2021", "torchtitan-2025")
RECIPES = ("bf16", "fp8-current")


def model_of(name: str, stack: str = STACKS[0], recipe: str = "bf16", **job: object) -> Model:
    facts = {"batch": 8, "seq": 4096, **job}
    return build(
        catalog.architecture(name),
        TrainingJob.model_validate(facts),
        catalog.stack(stack),
        catalog.recipe(recipe),
    )


def assert_laws_hold(model: Model, plan: Plan) -> None:
    """`verify` raises LawError where FLOPs, bytes or parameters are lost or made; that it does is tested below."""
    shape, _ = shapes_of(plan)
    verify(model, shard(model, shape), shape.at(0))


@pytest.mark.parametrize("name", MODELS)
def test_laws_hold_for_every_model(name: str) -> None:
    mtp = min(1, catalog.architecture(name).mtp)
    for plan in (
        Plan(),
        Plan(tp=8, cp=2, micro_batch=3),
        Plan(tp=4, sequence_parallel=False),
        Plan(tp=2, cp=2, ep=4, etp=2, dp=8),
    ):
        assert_laws_hold(model_of(name, mtp=mtp), plan)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(MODELS),
    stack=st.sampled_from(STACKS),
    recipe=st.sampled_from(RECIPES),
    kind=st.sampled_from(["pretrain", "lora"]),
    tp=st.sampled_from([1, 2, 4, 8, 16, 64]),
    cp=st.sampled_from([1, 2, 3, 16]),
    ep=st.sampled_from([1, 2, 8, 64]),
    etp=st.sampled_from([1, 2, 4]),
    micro_batch=st.integers(1, 7),
    sp=st.booleans(),
)
def test_laws_hold_for_every_shape(
    name: str,
    stack: str,
    recipe: str,
    kind: str,
    tp: int,
    cp: int,
    ep: int,
    etp: int,
    micro_batch: int,
    sp: bool,
) -> None:
    plan = Plan(tp=tp, cp=cp, ep=ep, etp=etp, micro_batch=micro_batch, sequence_parallel=sp)
    assert_laws_hold(model_of(name, stack, recipe, kind=kind), plan)


def tampered(model: Model, **changes: float) -> Model:
    block = model.layers[0]
    ops = [
        change(op, **{k: v * getattr(op, k) for k, v in changes.items()})
        if isinstance(op, Gemm) and op.name == "fc1"
        else op
        for op in block.ops
    ]
    return dataclasses.replace(model, layers=(change(block, ops=tuple(ops)), *model.layers[1:]))


def test_a_lost_flop_a_lost_byte_and_a_lost_parameter_are_found() -> None:
    model = model_of("llama-3.1-8b")
    shape, _ = shapes_of(Plan(tp=4, cp=2))
    sharded, one = shard(model, shape), shape.at(0)
    with pytest.raises(LawError, match=r"FLOPs of .* fc1"):
        verify(model, tampered(sharded, n=0.5), one)
    with pytest.raises(LawError, match=r"bytes of .* fc1 input"):
        verify(model, tampered(sharded, n=0.5, k=2.0), one)
    block = sharded.layers[0]
    held = change(block.weights, sharded=block.weights.sharded * 0.5)
    with pytest.raises(LawError, match="sharded parameters"):
        verify(model, dataclasses.replace(sharded, layers=(change(block, weights=held),)), one)


def test_sharding_checks_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first shape of a structure is verified inside `shard`."""
    from ridgeline.graph.parallel import tp

    def forgetful(block: object, shape: Shape) -> object:
        return block

    monkeypatch.setattr(tp, "apply", forgetful)
    with pytest.raises(LawError):
        shard(model_of("llama-3.1-8b", seq=1024), shapes_of(Plan(tp=2))[0])


@pytest.mark.parametrize("name", MODELS)
def test_layers_over_all_stages_are_the_layers_of_the_model(name: str) -> None:
    arch = catalog.architecture(name)
    pp, vpp = (axis.ravel() for axis in np.meshgrid([1, 2, 3, 4, 5, 8, 12, 16], [1, 2, 3, 5]))
    vpp = np.where(pp == 1, 1, vpp)
    stages = assign(arch, pp, vpp)
    counts = np.array([layer.count for layer in arch.layers], dtype=np.float64)
    held = (stages.layers * stages.number).sum(axis=1)
    np.testing.assert_allclose(held, np.broadcast_to(counts[:, None], held.shape), rtol=1e-12, atol=1e-9)
    np.testing.assert_array_equal(stages.number.sum(axis=0), pp)
    np.testing.assert_array_equal((stages.embedding * stages.number).sum(axis=0), 1.0)
    np.testing.assert_array_equal((stages.head * stages.number).sum(axis=0), 1.0)
    assert (stages.layers >= 0.0).all()


def test_leading_dense_layers_lie_on_the_first_stages() -> None:
    arch = catalog.architecture("deepseek-v3")  # 3 dense layers, then 58 with experts
    plain = assign(arch, np.array([16]), np.array([1])).layers[:, :, 0]
    assert plain[0].tolist() == [3.0, 0.0, 0.0, 0.0]  # 3 + 14 x 4 + 2
    assert plain[1].tolist() == [0.0, 4.0, 4.0, 2.0]
    fine = assign(arch, np.array([16]), np.array([2])).layers[:, :, 0]
    assert fine[0].tolist()[:2] == [1.0, 2.0]  # chunks of two, the first of them short
    assert fine.sum(axis=0).tolist() == [3.0, 4.0, 4.0, 2.0]


@pytest.mark.parametrize("name", ["llama-3.1-8b", "deepseek-v3", "gemma-3-27b", "falcon-7b", "jamba-mini"])
@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 4), (8, 2), (4, 8)])
def test_parameters_over_all_ranks(name: str, tp: int, pp: int) -> None:
    arch = catalog.architecture(name)
    plan = PlanGrid.of([Plan(tp=tp, pp=pp, ep=8, dp=8)])
    shape, codes = shapes_of(plan)
    model = model_of(name)
    stages = assign(arch, plan.pp, plan.vpp)
    held = parameters(shard(model, shape), shape, codes, stages, plan, arch.tied)
    dense = float((held.dense * stages.number).sum()) * tp
    experts = float((held.expert * stages.number).sum()) * 8
    copied = (tp - 1) * copied_parameters(arch, model)
    copied += extra_heads(arch, model, tp)
    if arch.tied and pp > 1:  # the last stage has a table of its own
        table = model.embedding.weights
        copied += float(table.sharded + table.replicated * tp)
    assert dense + experts == pytest.approx(total_parameters(arch) + copied, rel=1e-12)


def copied_parameters(arch: Architecture, model: Model) -> float:
    layers = sum(
        layer.count * float(block.weights.replicated)
        for layer, block in zip(arch.layers, model.layers, strict=True)
    )
    return layers + float(model.embedding.weights.replicated + model.head.weights.replicated)


def extra_heads(arch: Architecture, model: Model, tp: int) -> float:
    """Key and value projections that ranks hold beyond one copy."""
    return sum(
        layer.count * float(block.weights.kv) * (tp / min(tp, layer.mixer.kv_heads) - 1.0)
        for layer, block in zip(arch.layers, model.layers, strict=True)
        if isinstance(layer.mixer, Attention)
    )


def test_tied_head_has_no_matrix_of_its_own() -> None:
    arch = catalog.architecture("gemma-3-27b")
    assert arch.tied
    assert model_of("gemma-3-27b").head.weights.total == head_parameters(arch) == arch.hidden


def test_names_of_legality_are_importable_from_laws() -> None:
    from ridgeline.graph import legality

    assert PlanError is legality.PlanError
    assert check_plan is legality.check_plan
    assert issubclass(PlanError, ValueError)
    assert issubclass(LawError, AssertionError)
