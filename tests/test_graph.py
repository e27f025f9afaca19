"""Demand: weights and FLOPs of every catalog model against closed forms, mixers, and grids against single
plans.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.architecture import (
    Architecture,
    Attention,
    Dense,
    LatentAttention,
    Layer,
    LinearAttention,
    StateSpace,
)
from ridgeline.facts.parameters import (
    matmul_parameters_per_token,
    mtp_parameters,
    total_parameters,
)
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.build import Model, build, model_flops, shard
from ridgeline.graph.laws import rules
from ridgeline.graph.mixers import LINEAR_CHUNK, SSM_CHUNK, Style, keys_per_query
from ridgeline.graph.ops import FusedAttention, Gemm, Message, Stream
from ridgeline.graph.parallel.pp import assign
from ridgeline.graph.shape import AXES, shapes_of

MODELS = sorted(catalog.names("models"))
STACK = catalog.stack("megatron-core-plain")
BF16 = catalog.recipe("bf16")
SEQ = 4096


def model_of(name: str, **job: object) -> Model:
    facts = {"batch": 8, "seq": SEQ, **job}
    return build(catalog.architecture(name), TrainingJob.model_validate(facts), STACK, BF16)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_of_the_model(name: str) -> None:
    arch = catalog.architecture(name)
    model = model_of(name, mtp=arch.mtp)
    layers = sum(
        layer.count * block.weights.total for layer, block in zip(arch.layers, model.layers, strict=True)
    )
    assert layers + model.embedding.weights.total + model.head.weights.total == total_parameters(arch)
    if model.mtp:
        extra = model.mtp.weights.total + model.layers[-1].weights.total
        assert arch.mtp * extra == mtp_parameters(arch)


def attention_flops(arch: Architecture, seq: float) -> float:
    """Forward FLOPs of what is not a weight matrix, one sequence: pairs seen times two products, scans by
    chunks.
    """
    total = 0.0
    for layer in arch.layers:
        match layer.mixer:
            case Attention(window=window, chunked=chunked):
                keys = _keys(seq, window, chunked)
                one = 4.0 * layer.mixer.heads * layer.mixer.head_dim * seq * keys
            case LatentAttention(index_topk=selected):
                keys = _keys(seq, selected or None, False)
                dims = layer.mixer.nope_dim + layer.mixer.rope_dim + layer.mixer.v_dim
                one = 2.0 * layer.mixer.heads * dims * seq * keys
                one += 2.0 * layer.mixer.index_heads * layer.mixer.index_dim * seq * seq / 2
            case StateSpace(dt_rank=None):
                heads, p, n, c = layer.mixer.heads, layer.mixer.head_dim, layer.mixer.state, SSM_CHUNK
                one = 2.0 * heads * seq * (c * n + c * p + 2 * n * p)
            case LinearAttention():
                heads, k, v, c = layer.mixer.v_heads, layer.mixer.k_dim, layer.mixer.v_dim, LINEAR_CHUNK
                one = 4.0 * heads * seq * (c * k + c * v + k * v)
            case _:
                one = 0.0
        total += layer.count * one
    return total


def _keys(seq: float, window: int | None, chunked: bool) -> float:
    """Mean keys per query, counted one by one."""
    if window is None:
        return seq / 2
    query = np.arange(seq) + 0.5  # the middle of a token, so that a full triangle is seq / 2
    return float(np.mean(query % window if chunked else np.minimum(query, window)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seq", [2048, 16384])
def test_flops_are_six_per_weight_and_attention(name: str, seq: int) -> None:
    arch = catalog.architecture(name)
    job = TrainingJob(batch=3, seq=seq)
    expected = 6.0 * matmul_parameters_per_token(arch) * seq + 3.0 * attention_flops(arch, seq)
    assert model_flops(arch, job, STACK, BF16) == pytest.approx(3 * expected, rel=0.005)


def test_flops_do_not_depend_on_the_stack() -> None:
    arch, job = catalog.architecture("gpt3-175b"), TrainingJob(batch=2, seq=2048)
    old = catalog.stack("megatron-lm-2021")
    assert old.attention == "unfused"
    assert model_flops(arch, job, old, BF16) == model_flops(arch, job, STACK, BF16)


def test_low_rank_training_has_no_weight_gradient() -> None:
    arch = catalog.architecture("llama-2-70b")
    full = model_flops(arch, TrainingJob(batch=1, seq=SEQ), STACK, BF16)
    lora = model_flops(arch, TrainingJob(batch=1, seq=SEQ, kind="lora"), STACK, BF16)
    assert full - lora == pytest.approx(2.0 * matmul_parameters_per_token(arch) * SEQ)
    weights = model_of("llama-2-70b", kind="lora", lora_rank=16).layers[0].weights
    adapters = 16 * ((8192 + 8192 + 2 * 1024) + 2 * 8192)  # qkv and output projection
    assert weights.trained * weights.dense == pytest.approx(adapters)


def test_keys_of_windows_chunks_and_documents() -> None:
    style = Style(seq=8192.0, document=8192.0, stack=STACK, recipe=BF16)
    assert keys_per_query(style) == 4096.0
    assert keys_per_query(style, 1024.0) == 1024.0 - 1024.0**2 / 16384.0
    assert keys_per_query(style, 1024.0, chunked=True) == 512.0
    assert keys_per_query(style, 9000.0) == 4096.0
    packed = dataclasses.replace(style, document=512.0)
    assert keys_per_query(packed, 1024.0) == 256.0


def test_indexer_limits_attention_and_costs_its_own_products() -> None:
    model = model_of("glm-5", seq=65536)
    ops = {op.name: op for op in model.layers[0].ops}
    core, scores = ops["attention"], ops["index scores"]
    assert isinstance(core, FusedAttention)
    assert isinstance(scores, Gemm)
    assert float(core.share) == pytest.approx((2048 - 2048**2 / (2 * 65536)) / 65536)
    assert float(scores.flops) == 2.0 * 65536 * 32768 * 32 * 128


@pytest.mark.parametrize(("name", "gathers"), [("falcon-7b", 1), ("falcon-40b", 2)])
def test_parallel_layers_share_messages(name: str, gathers: int) -> None:
    """One reduction of both outputs; one gather where mixer and mlp read the same norm."""
    shape, _ = shapes_of(Plan(tp=4))
    messages = shard(model_of(name), shape).layers[0].messages
    forward = [m for m in messages if m.phase == "forward"]
    assert sum(m.kind == "reduce_scatter" for m in forward) == 1
    assert sum(m.kind == "all_gather" for m in forward) == gathers


def test_key_value_heads_are_copied_beyond_their_number() -> None:
    shape, _ = shapes_of(Plan(tp=8))
    block = shard(model_of("qwen3-next-80b-a3b"), shape).layers[1]  # two key-value heads
    qkv = next(op for op in block.ops if isinstance(op, Gemm) and op.name == "qkv")
    core = next(op for op in block.ops if isinstance(op, FusedAttention))
    assert core.kv_heads == 1.0
    assert qkv.n == 2 * 16 * 256 / 8 + 2 * 256  # queries and gate are divided, one key-value head stays


def test_mamba_blocks_swap_tokens_for_heads() -> None:
    shape, _ = shapes_of(Plan(cp=4))
    block = shard(model_of("mamba2-2.7b"), shape).layers[0]
    assert {(m.kind, m.axis) for m in block.messages} == {("all_to_all", "cp")}
    scores = next(op for op in block.ops if op.name == "chunk scores")
    assert isinstance(scores, Gemm)
    assert scores.m == SSM_CHUNK  # fewer chunks, not shorter ones


GRID = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 2, 4]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 2]),
        st.integers(1, 6),
        st.sampled_from([1, 2, 3, 8]),
        st.sampled_from([1, 2, 3]),
    ),
    min_size=1,
    max_size=12,
)


def grid_of(rows: list[tuple[int, ...]], **structure: object) -> PlanGrid:
    plans = [
        Plan(tp=tp, cp=cp, ep=ep, etp=etp, micro_batch=b, pp=pp, vpp=vpp if pp > 1 else 1, dp=8, **structure)  # type: ignore[arg-type]
        for tp, cp, ep, etp, b, pp, vpp in rows
    ]
    return PlanGrid.of(plans)


def same_block(many: object, one: object, code: int, names: tuple[str, ...]) -> None:
    for name in names:
        value = np.asarray(getattr(many, name), dtype=np.float64)
        picked = value[code] if value.ndim else value
        assert float(picked) == pytest.approx(float(np.asarray(getattr(one, name)).ravel()[0]), rel=1e-12), (
            name
        )


_SIZES = {
    Gemm: ("m", "n", "k", "batch", "groups", "saved", "saved_out"),
    FusedAttention: ("batch", "heads", "kv_heads", "q_len", "kv_len", "share", "saved"),
    Stream: ("forward_bytes", "backward_bytes", "saved", "transient", "exchange", "partial"),
    Message: ("size",),
}


@settings(max_examples=25, deadline=None)
@given(
    rows=GRID,
    sp=st.booleans(),
    name=st.sampled_from(["llama-3.1-8b", "deepseek-v3", "nemotron-h-8b", "qwen3-next-80b-a3b"]),
)
def test_sharding_a_grid_is_sharding_each_plan(rows: list[tuple[int, ...]], sp: bool, name: str) -> None:
    grid = grid_of(rows, sequence_parallel=sp)
    shape, codes = shapes_of(grid)
    for i in range(len(grid)):
        for axis in AXES:
            assert getattr(shape, axis)[codes[i]] == getattr(grid, axis)[i]
    assert (
        len({tuple(getattr(shape, axis)[j] for axis in AXES) for j in range(shape.tp.size)}) == shape.tp.size
    )
    model = model_of(name)
    many = shard(model, shape)
    index = len(grid) // 2
    alone = shard(model, shapes_of(grid[index])[0])
    for block, one in zip(many.blocks, alone.blocks, strict=True):
        for op, twin in zip(block.ops, one.ops, strict=True):
            same_block(op, twin, int(codes[index]), _SIZES[type(op)])
        same_block(block.weights, one.weights, int(codes[index]), ("sharded", "replicated", "kv", "expert"))
        twins = {(m.name, m.phase): m for m in one.messages}
        for message in block.messages:
            if (message.name, message.phase) in twins:  # a single plan leaves out axes of degree 1
                same_block(message, twins[message.name, message.phase], int(codes[index]), _SIZES[Message])


@settings(max_examples=25, deadline=None)
@given(rows=GRID, name=st.sampled_from(["llama-3.1-405b", "deepseek-v3", "gemma-3-27b", "minimax-m2"]))
def test_assigning_a_grid_is_assigning_each_plan(rows: list[tuple[int, ...]], name: str) -> None:
    grid = grid_of(rows)
    arch = catalog.architecture(name)
    many = assign(arch, grid.pp, grid.vpp)
    for i in range(len(grid)):
        one = assign(arch, grid.pp[i : i + 1], grid.vpp[i : i + 1])
        np.testing.assert_allclose(many.layers[..., i], one.layers[..., 0], rtol=1e-12)
        for field in ("embedding", "head", "number"):
            np.testing.assert_array_equal(getattr(many, field)[:, i], getattr(one, field)[:, 0])


@settings(max_examples=25, deadline=None)
@given(rows=GRID, chips=st.sampled_from([8, 64, 512]))
def test_rules_of_a_grid_are_those_of_each_plan(rows: list[tuple[int, ...]], chips: int) -> None:
    grid = grid_of(rows)
    arch, job = catalog.architecture("deepseek-v3"), TrainingJob(batch=512, seq=SEQ)
    cluster = catalog.cluster_for("h100-sxm")
    many = rules(arch, job, cluster, chips, grid)
    for i in range(len(grid)):
        for rule, one in zip(many, rules(arch, job, cluster, chips, grid[i]), strict=True):
            assert rule.name == one.name
            assert bool(np.broadcast_to(rule.broken, (len(grid),))[i]) == bool(one.broken), rule.name


def test_norms_of_parallel_layers() -> None:
    """Falcon-40B has two norms before its parallel parts, Falcon-7B one; both are emitted once."""
    for name, expected in (("falcon-7b", 1), ("falcon-40b", 2), ("gemma-3-27b", 4), ("llama-3.1-8b", 2)):
        norms = [
            op for op in model_of(name).layers[0].ops if op.name.endswith("norm") or "post norm" in op.name
        ]
        assert len([op for op in norms if op.name != "qk norm"]) == expected, name


def test_a_layer_of_one_part_has_one_norm() -> None:
    arch = Architecture(name="one", hidden=64, vocab=128, layers=(Layer(count=2, mlp=Dense(ffn=128)),))
    block = build(arch, TrainingJob(batch=1, seq=128), STACK, BF16).layers[0]
    assert [op.name for op in block.ops] == ["mlp norm", "fc1", "activation", "fc2", "mlp residual"]
