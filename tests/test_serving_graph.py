"""Operators and memory of a serving step: nothing is lost or counted twice when a model is divided."""

from __future__ import annotations

import dataclasses

import pytest

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Attention, Dense, LatentAttention, Moe, StateSpace
from ridgeline.facts.parameters import (
    embedding_parameters,
    expert_parameters,
    head_parameters,
    layer_norm_parameters,
    matmul_parameters_per_token,
    mixer_parameters,
    total_parameters,
)
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.graph.serving.blocks import step_blocks
from ridgeline.graph.serving.memory import Memory, activation_bytes, cache_bytes, memory, weight_bytes
from ridgeline.graph.serving.ops import Block, Experts, Message, Product

BF16 = Precision(kv="bf16")
MODELS = catalog.names("models")
LAYOUTS = (
    Layout(tp=2),
    Layout(tp=8),
    Layout(tp=8, ep=8),
    Layout(dp=4, ep=4),
    Layout(tp=2, dp=4, ep=8),
    Layout(tp=2, dp=4, ep=2),
)
#: Products that every tensor rank runs whole: latents and their index, router.
REPEATED = {"down", "index q", "index k", "router"}


def arch(name: str) -> Architecture:
    return catalog.architecture(name)


def repeated_parameters(one: Architecture, tp: int) -> float:
    """Parameters that each tensor rank of an attention group holds beyond its share of one copy, over all ranks."""
    h, total = one.hidden, 0.0
    for layer in one.layers:
        whole = float(layer_norm_parameters(layer, one))
        mixer = layer.mixer
        if isinstance(mixer, Attention):
            heads = 2 * mixer.kv_heads * mixer.head_dim * h
            total += layer.count * heads * (tp / min(tp, mixer.kv_heads) - 1.0)
        elif isinstance(mixer, LatentAttention):
            whole += h * ((mixer.q_lora or 0) + mixer.kv_lora + mixer.rope_dim)
            whole += (mixer.q_lora or h) * mixer.index_heads * mixer.index_dim
            whole += h * (mixer.index_dim + mixer.index_heads)
        if isinstance(layer.mlp, Moe):
            whole += h * layer.mlp.experts
        total += layer.count * whole * (tp - 1)
    return total


def routed_parameters(one: Architecture) -> float:
    return sum(
        layer.count * layer.mlp.experts * expert_parameters(layer.mlp, one.hidden)
        for layer in one.layers
        if isinstance(layer.mlp, Moe)
    )


# Weights


@pytest.mark.parametrize("name", MODELS)
def test_one_chip_holds_the_whole_model(name: str) -> None:
    """Biases of dense layers are left out of memory: at most 0.05 % of the smallest GPT."""
    assert weight_bytes(arch(name), Layout(), BF16) == pytest.approx(
        2 * total_parameters(arch(name)), rel=5e-4
    )


@pytest.mark.parametrize("name", MODELS)
def test_weights_of_all_chips_are_the_model_and_what_is_documented_as_repeated(name: str) -> None:
    one = arch(name)
    alone, routed = weight_bytes(one, Layout(), BF16), 2.0 * routed_parameters(one)
    for layout in LAYOUTS:
        held = layout.chips * weight_bytes(one, layout, BF16)
        attention = alone - routed + 2.0 * repeated_parameters(one, layout.tp)
        assert held == pytest.approx(layout.dp * attention + routed, rel=1e-9), layout


@pytest.mark.parametrize("name", MODELS)
def test_two_stages_hold_the_model_once(name: str) -> None:
    one = arch(name)
    assert 2 * weight_bytes(one, Layout(pp=2), BF16) == pytest.approx(weight_bytes(one, Layout(), BF16))


@pytest.mark.parametrize("name", ["llama-3.1-70b", "deepseek-v3", "qwen3-next-80b-a3b", "nemotron-h-8b"])
def test_narrow_formats_leave_embedding_norms_router_and_head_wide(name: str) -> None:
    one, fp8 = arch(name), catalog.number_format("fp8").bytes
    wide = embedding_parameters(one) + head_parameters(one)
    for layer in one.layers:
        router = one.hidden * layer.mlp.experts if isinstance(layer.mlp, Moe) else 0
        wide += layer.count * (layer_norm_parameters(layer, one) + router)
    narrow = weight_bytes(one, Layout(), BF16) / 2 - wide
    found = weight_bytes(one, Layout(), Precision(linear="fp8", kv="bf16"))
    assert found == pytest.approx(2 * wide + fp8 * narrow, rel=1e-6)


def test_drafting_layers_are_held_only_where_they_draft() -> None:
    one = arch("deepseek-v3")
    more = weight_bytes(one, Layout(), BF16, "mtp") - weight_bytes(one, Layout(), BF16)
    assert more == pytest.approx(2 * 11.5e9, rel=0.02)  # the technical report: 671 B and 11.5 B of its own
    assert weight_bytes(arch("llama-3.1-8b"), Layout(), BF16, "mtp") == weight_bytes(
        arch("llama-3.1-8b"), Layout(), BF16
    )


# Products


def blocks_of(one: Architecture, layout: Layout) -> tuple[Block, ...]:
    return step_blocks(one, layout, BF16)


def multiplied(blocks: tuple[Block, ...], where: str, names: set[str] | None = None) -> float:
    """Weights that a token is multiplied with on a rank; only products of these names where given."""
    return sum(
        block.count * part.n * part.k * part.copies
        for block in blocks
        for part in block.parts
        if isinstance(part, Product)
        and part.where in ("both", where)
        and part.name != "chunk"  # scores within a chunk, no weights
        and (names is None or part.name in names)
    )


def expert_weights(blocks: tuple[Block, ...]) -> float:
    """The same of routed experts, all on one rank."""
    return sum(
        block.count * part.topk * part.hidden * part.inner * (part.arms + 1.0)
        for block in blocks
        for part in block.parts
        if isinstance(part, Experts)
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("where", ["prefill", "decode"])
def test_one_rank_multiplies_with_every_active_weight_once(name: str, where: str) -> None:
    one = arch(name)
    blocks = blocks_of(one, Layout())
    gates = sum(
        layer.count * one.hidden
        for layer in one.layers
        if isinstance(layer.mlp, Moe) and layer.mlp.shared_gate
    )
    found = multiplied(blocks, where) + expert_weights(blocks)
    assert found + gates == pytest.approx(matmul_parameters_per_token(one), rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_ranks_share_the_products(name: str, tp: int) -> None:
    """All but latents and routers, which are repeated, and KV heads and groups of states fewer than ranks."""
    one = arch(name)
    alone, ranked = blocks_of(one, Layout()), blocks_of(one, Layout(tp=tp))
    more = 0.0
    for layer in one.layers:
        if isinstance(layer.mixer, Attention):
            each = 2.0 * layer.mixer.head_dim * one.hidden
            more += layer.count * each * max(tp - layer.mixer.kv_heads, 0)
        if isinstance(layer.mixer, StateSpace) and layer.mixer.dt_rank is None:
            each = 2.0 * layer.mixer.state * one.hidden
            more += layer.count * each * max(tp - layer.mixer.groups, 0)
    for where in ("prefill", "decode"):
        same = multiplied(alone, where, REPEATED)
        assert multiplied(ranked, where, REPEATED) == pytest.approx(same)
        rest = multiplied(alone, where) - same
        found = tp * (multiplied(ranked, where) - multiplied(ranked, where, REPEATED))
        assert found == pytest.approx(rest + more, rel=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_experts_are_divided_over_all_ranks(layout: Layout) -> None:
    one = arch("qwen3-235b-a22b")
    (experts,) = [
        part for block in blocks_of(one, layout) for part in block.parts if isinstance(part, Experts)
    ]
    mlp = one.layers[-1].mlp
    assert isinstance(mlp, Moe)
    assert experts.inner * experts.ranks == pytest.approx(mlp.ffn * layout.ep / layout.moe_tp)
    # experts on a rank times width on a rank times ranks is the layer
    assert experts.experts / experts.ranks * experts.inner * layout.chips == pytest.approx(
        mlp.experts * mlp.ffn
    )
    assert experts.group_tokens == layout.dp


# Messages


def messages_of(one: Architecture, layout: Layout) -> list[tuple[str, Message]]:
    return [
        (block.name, part)
        for block in blocks_of(one, layout)
        for part in block.parts
        if isinstance(part, Message)
    ]


@pytest.mark.parametrize("name", MODELS)
def test_messages_appear_exactly_where_ranks_share_work(name: str) -> None:
    one = arch(name)
    assert messages_of(one, Layout()) == []
    moe = any(isinstance(layer.mlp, Moe) for layer in one.layers)
    spread = messages_of(one, Layout(dp=4, ep=4))
    assert {message.group for _, message in spread} == ({"experts"} if moe else set())
    assert len(spread) == 2 * sum(isinstance(layer.mlp, Moe) for layer in one.layers)
    shared = [each for each in messages_of(one, Layout(tp=4)) if each[1].name != "x proj sum"]
    assert {message.group for _, message in shared} == {"tp"}
    sums = 0
    for layer in one.layers:
        both = layer.mixer is not None and layer.mlp is not None
        sums += 1 if layer.parallel or not both else 2
    names = [message.name for _, message in shared]
    assert sum(name.endswith("sum") and name != "embedding sum" for name in names) == sums
    assert names.count("embedding sum") == names.count("logits") == 1
    for _, message in shared:
        width = arch(name).vocab if message.name == "logits" else arch(name).hidden
        assert message.row_bytes == 2.0 * width


def test_sent_tokens_are_narrow_where_experts_are_and_return_wide() -> None:
    one, layout = arch("deepseek-v3"), Layout(dp=8, ep=8)
    for dispatcher, kinds, copies in (
        ("deepep", ("dispatch", "combine"), 1.0),
        ("all_gather", ("all_gather", "reduce_scatter"), 8.0),
    ):
        blocks = step_blocks(one, layout, Precision(linear="fp8-block"), dispatcher=dispatcher)
        found = [part for block in blocks for part in block.parts if isinstance(part, Message)]
        assert tuple(message.kind for message in found) == kinds
        assert [message.row_bytes for message in found] == [copies * one.hidden, copies * 2 * one.hidden]


# The cache


@pytest.mark.parametrize(
    ("name", "tp", "token"),
    [
        ("llama-3.1-70b", 1, 327_680),
        ("llama-3.1-70b", 8, 40_960),
        ("llama-3.1-70b", 16, 40_960),  # a KV head is never divided
        ("llama-3.1-8b", 1, 131_072),
        ("deepseek-v3", 1, 61 * 576 * 2),
        ("deepseek-v3", 8, 61 * 576 * 2),  # the same latents on every tensor rank
        ("gpt-oss-120b", 1, 36 * 2 * 8 * 64 * 2),
        ("qwen3-next-80b-a3b", 1, 12 * 2 * 2 * 256 * 2),
        ("mamba2-2.7b", 1, 0),
    ],
)
def test_cache_of_a_token(name: str, tp: int, token: int) -> None:
    assert cache_bytes(arch(name), Layout(tp=tp), BF16)[0] == token


@pytest.mark.parametrize("name", [name for name in MODELS if name != "glm-5"])
def test_fp8_halves_the_cache_and_leaves_states(name: str) -> None:
    token, request, windowed = cache_bytes(arch(name), Layout(tp=2), BF16)
    half, same, short = cache_bytes(arch(name), Layout(tp=2), Precision(kv="fp8"))
    assert half == pytest.approx(token / 2)
    assert same == request
    assert short == tuple((window, each / 2) for window, each in windowed)


def test_fp8_leaves_keys_of_an_index_as_they_are() -> None:
    one = arch("glm-5")
    mixer = one.layers[-1].mixer
    assert isinstance(mixer, LatentAttention)
    saved = cache_bytes(one, Layout(), BF16)[0] - cache_bytes(one, Layout(), Precision(kv="fp8"))[0]
    assert saved == one.num_layers * (mixer.kv_lora + mixer.rope_dim)


def test_recurrent_states_belong_to_a_request() -> None:
    """Qwen3-Next: 36 layers of 32 heads with states of 128 x 128 in fp32."""
    token, request, _ = cache_bytes(arch("qwen3-next-80b-a3b"), Layout(), BF16)
    assert request == 36 * 32 * 128 * 128 * 4
    assert cache_bytes(arch("qwen3-next-80b-a3b"), Layout(tp=2), BF16)[:2] == (token / 2, request / 2)


def test_windows_stop_growing() -> None:
    """gpt-oss: half of the layers see 128 keys."""
    token, _, windowed = cache_bytes(arch("gpt-oss-120b"), Layout(), BF16)
    assert windowed == ((128.0, token / 2),)
    found = Memory(0, 0, 0, 0, 1e9, 1e10, token, 0.0, windowed)
    assert found.request_kv(1000) == token / 2 * 1000 + token / 2 * 128


def served(name: str, chip: str = "h200-sxm", layout: Layout | None = None, **limits: float) -> Service:
    return service(name, chip, layout or Layout(tp=8), BF16, "vllm-2026", limits=Limits(**limits))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MODELS)
def test_a_request_never_needs_more_than_full_attention(name: str) -> None:
    token, request, windowed = cache_bytes(arch(name), Layout(), BF16)
    found = Memory(0, 0, 0, 0, 1e9, 1e10, token, request, windowed)
    before = 0.0
    for tokens in (1, 64, 128, 1000, 4096, 30_000, 131_072):
        held = found.request_kv(tokens)
        assert before <= held <= token * tokens + request
        before = held


# What is left for the cache


@pytest.mark.parametrize(
    "name", ["llama-3.1-70b", "deepseek-v3", "gpt-oss-120b", "jamba-mini", "gemma-3-27b"]
)
def test_activation_peak_grows_with_the_tokens_of_a_step(name: str) -> None:
    layout = Layout(tp=8, ep=8 if isinstance(arch(name).layers[-1].mlp, Moe) else 1)
    peaks = [
        activation_bytes(served(name, layout=layout, max_batched_tokens=tokens, max_seqs=64))
        for tokens in (512, 2048, 8192, 32768)
    ]
    assert peaks == sorted(peaks)
    assert peaks[3] > 2 * peaks[2]
    kept = memory(served(name, layout=layout, max_batched_tokens=32768, max_seqs=64))
    assert kept.kv < memory(served(name, layout=layout, max_batched_tokens=2048, max_seqs=64)).kv


@pytest.mark.parametrize("engine", catalog.names("engines"))
@pytest.mark.parametrize("name", ["llama-3.1-70b", "gpt-oss-120b", "qwen3-next-80b-a3b"])
def test_more_memory_never_holds_fewer_tokens(engine: str, name: str) -> None:
    one = service(name, "h200-sxm", Layout(tp=4), BF16, engine)
    before = -1.0
    for size in (24e9, 48e9, 80e9, 141e9, 288e9):
        chip = one.chip.model_copy(update={"memory": one.chip.memory.model_copy(update={"capacity": size})})
        found = memory(one.replace(chip=chip)).tokens(4096)
        assert found >= before
        before = found
    assert before > 0
    fuller = [
        memory(one.replace(limits=Limits(memory_fraction=share))).tokens(4096) for share in (0.5, 0.7, 0.95)
    ]
    assert fuller == sorted(fuller)


def test_what_a_chip_holds_adds_up() -> None:
    one = served("llama-3.1-70b")
    found = memory(one)
    parts = found.weights + found.activations + found.graphs + found.reserve + found.kv
    assert parts == pytest.approx(one.engine.memory_fraction * found.capacity)
    assert found.tokens(2000) == pytest.approx(found.kv / found.token_bytes)
    assert dataclasses.replace(found, kv=-1.0).tokens(2000) == 0.0


def test_mixers_know_their_parameters() -> None:
    """The count above leans on these two: a check by hand."""
    one = arch("llama-3.1-8b")
    assert mixer_parameters(one.layers[0].mixer, one.hidden) == 4096 * 4096 * 2 + 2 * 4096 * 1024
    assert isinstance(one.layers[0].mlp, Dense)
    assert routed_parameters(one) == 0


def test_mamba_1_sums_its_step_sizes_over_tensor_ranks() -> None:
    jamba = arch("jamba-mini")
    mixers = [layer.mixer for layer in jamba.layers if isinstance(layer.mixer, StateSpace)]
    rank = mixers[0].dt_rank
    assert rank is not None
    for tp in (1, 4):
        blocks = step_blocks(jamba, Layout(tp=tp), BF16)
        sums = [part for block in blocks for part in block.parts if part.name == "x proj sum"]
        assert len(sums) == (len(mixers) if tp > 1 else 0)
        assert all(isinstance(s, Message) and s.row_bytes == 2 * (rank + 2 * mixers[0].state) for s in sums)
