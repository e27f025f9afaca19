"""The usual decoder, dense or with experts, from the field names most families share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ridgeline.facts.architecture import Attention, Dense, LatentAttention, Layer, Mixer, Mlp, Moe
from ridgeline.facts.huggingface.fields import Fields, HuggingFaceError

Arguments = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Traits:
    """What a family's class fixes and its config.json does not say."""

    qkv_bias: bool | None = None  # None: the file's attention_bias decides
    out_bias: bool | None = None
    qk_norm: bool = False
    sinks: bool = False
    output_gate: bool = False
    gated: bool = True
    expert_bias: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    one_shared: bool = False  # one shared expert that the file does not name (Llama 4)
    tied: bool = False
    norm: Literal["rms", "layer"] = "rms"
    norms_per_layer: int = 2
    head_dim: int | None = None
    vocab: int | None = None
    windowed_of: int = 1  # every this-many-th layer is full attention, 1 = the window holds for all layers


def decoder(fields: Fields, traits: Traits = Traits()) -> Arguments:
    """The usual decoder: grouped-query attention, gated MLP or mixture of experts."""
    num = fields.num_layers("num_hidden_layers")
    windows = _windows(fields, num, traits)
    return assemble(
        fields, traits, [attention(fields, traits, window) for window in windows], mlps(fields, num, traits)
    )


def assemble(fields: Fields, traits: Traits, mixers: list[Mixer], blocks: list[Mlp]) -> Arguments:
    """The arguments of `Architecture` for one mixer and one MLP a layer."""
    layers = [Layer(count=1, mixer=mixer, mlp=mlp) for mixer, mlp in zip(mixers, blocks, strict=True)]
    return {
        "hidden": fields.count("hidden_size"),
        "vocab": fields.count("vocab_size", default=traits.vocab),
        **group(layers),
        "tied": fields.flag("tie_word_embeddings", traits.tied),
        "norm": traits.norm,
        "norms_per_layer": traits.norms_per_layer,
        "mtp": fields.count("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0, least=0),
        "context": fields.optional("max_position_embeddings"),
    }


def group(layers: list[Layer]) -> Arguments:
    """Join single layers into counted groups: ``layers`` and ``order``.

    Kinds that lie evenly over the depth become one group each (``interleaved``); otherwise runs are kept.
    """
    runs: list[tuple[Layer, int]] = []
    for layer in layers:
        if runs and runs[-1][0] == layer:
            runs[-1] = (layer, runs[-1][1] + 1)
        else:
            runs.append((layer, 1))
    kinds = list(dict.fromkeys(layers))
    if len(runs) > len(kinds) and all(_even(layers, kind) for kind in kinds):
        counted = [kind.model_copy(update={"count": layers.count(kind)}) for kind in kinds]
        return {"layers": tuple(counted), "order": "interleaved"}
    return {"layers": tuple(layer.model_copy(update={"count": count}) for layer, count in runs)}


def _even(layers: list[Layer], kind: Layer) -> bool:
    places = [index for index, layer in enumerate(layers) if layer == kind]
    gap = len(layers) / len(places)
    return all(abs(place + 0.5 - (i + 0.5) * gap) <= gap + 1.0 for i, place in enumerate(places))


def attention(
    fields: Fields, traits: Traits, window: int | None = None, *, chunked: bool = False
) -> Attention:
    """Attention from the usual field names; a missing head_dim is hidden_size / num_attention_heads."""
    heads = fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", default=heads)
    fields.divide("num_attention_heads", heads, kv_heads, "num_key_value_heads")
    head_dim = fields.optional("head_dim", "attention_head_dim") or traits.head_dim
    if head_dim is None:
        hidden = fields.count("hidden_size")
        head_dim = fields.divide("hidden_size", hidden, heads, "num_attention_heads")
    bias = fields.flag("attention_bias", False)
    return Attention(
        heads=heads, kv_heads=kv_heads, head_dim=head_dim, window=window, chunked=chunked,
        qkv_bias=bias if traits.qkv_bias is None else traits.qkv_bias,
        out_bias=bias if traits.out_bias is None else traits.out_bias,
        qk_norm=fields.flag("use_qk_norm", traits.qk_norm),
        sinks=traits.sinks, output_gate=traits.output_gate,
    )  # fmt: skip


def _windows(fields: Fields, num: int, traits: Traits) -> list[int | None]:
    """The attention window of each layer [tokens], None = full."""
    window = fields.optional("sliding_window")
    context = fields.count("max_position_embeddings", default=0)
    # a window as long as the context (Phi-3 128k) cuts nothing off
    if window is None or not fields.flag("use_sliding_window", True) or 0 < context <= window:
        return [None] * num
    kinds = fields.choices("layer_types", num, ("full_attention", "sliding_attention"))
    if kinds:
        return [window if kind == "sliding_attention" else None for kind in kinds]
    period = fields.count("sliding_window_pattern", default=traits.windowed_of)
    return [None if period > 1 and (index + 1) % period == 0 else window for index in range(num)]


def mlps(fields: Fields, num: int, traits: Traits) -> list[Mlp]:
    """The MLP of each layer: dense, or experts where the family's layout fields say so."""
    bias = fields.flag("mlp_bias", False)
    if not fields.has("num_experts", "num_local_experts", "n_routed_experts"):
        return [Dense(ffn=fields.count("intermediate_size"), gated=traits.gated, bias=bias)] * num
    moe = experts(fields, traits)
    sparse = _sparse_layers(fields, num)
    if all(sparse):
        return [moe] * num
    dense = Dense(
        ffn=fields.count("intermediate_size_mlp", "intermediate_size"), gated=traits.gated, bias=bias
    )
    return [moe if is_moe else dense for is_moe in sparse]


def experts(fields: Fields, traits: Traits) -> Moe:
    """Routed and shared experts, from the names in use (num_experts, num_local_experts, ...)."""
    num = fields.count("num_experts", "num_local_experts", "n_routed_experts")
    topk = fields.count("num_experts_per_tok", "experts_per_token")
    if topk > num:
        raise HuggingFaceError(f"{fields.where}: num_experts_per_tok = {topk} is more than the {num} experts")
    ffn = fields.count("moe_intermediate_size", "intermediate_size")
    shared = fields.optional(
        "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", least=0
    )
    if shared is None:
        shared = fields.count("n_shared_experts", default=int(traits.one_shared), least=0) * ffn
    groups, chosen = fields.count("n_group", default=1), fields.count("topk_group", default=1)
    return Moe(
        experts=num, topk=topk, ffn=ffn, gated=traits.gated, bias=traits.expert_bias, shared_ffn=shared,
        shared_gate=traits.shared_gate and shared > 0,
        router_bias=traits.router_bias or fields.text("topk_method") == "noaux_tc",
        node_limit=chosen if 1 <= chosen < groups else None,
    )  # fmt: skip


def _sparse_layers(fields: Fields, num: int) -> list[bool]:
    """Which layers have experts, from every family's way to say it."""
    if fields.has("expert_layer_period"):  # Jamba
        period = fields.count("expert_layer_period")
        offset = fields.count("expert_layer_offset", default=0, least=0)
        return [index % period == offset for index in range(num)]
    dense = fields.items("mlp_only_layers")  # Qwen
    first = fields.count("first_k_dense_replace", default=0, least=0)  # DeepSeek, GLM
    every = fields.count("moe_layer_freq", default=1)
    step = fields.count("decoder_sparse_step", "interleave_moe_layer_step", default=1)  # Qwen, Llama 4
    return [
        index not in dense and index >= first and index % every == 0 and (index + 1) % step == 0
        for index in range(num)
    ]


def latent(fields: Fields, traits: Traits) -> Arguments:
    """DeepSeek-V2/V3 and relatives: latent attention, leading dense layers, shared experts."""
    num = fields.num_layers("num_hidden_layers")
    mixer = LatentAttention(
        heads=fields.count("num_attention_heads"), q_lora=fields.optional("q_lora_rank"),
        kv_lora=fields.count("kv_lora_rank"), nope_dim=fields.count("qk_nope_head_dim"),
        rope_dim=fields.count("qk_rope_head_dim"), v_dim=fields.count("v_head_dim"),
        index_heads=fields.count("index_n_heads", default=0, least=0),
        index_dim=fields.count("index_head_dim", default=0, least=0),
        index_topk=fields.count("index_topk", default=0, least=0),
    )  # fmt: skip
    return assemble(fields, traits, [mixer] * num, mlps(fields, num, traits))


def llama4(fields: Fields, traits: Traits) -> Arguments:
    """Llama 4: chunked attention but for every fourth layer, experts in every layer or every second."""
    num = fields.num_layers("num_hidden_layers")
    chunk = fields.count("attention_chunk_size", default=8192)
    rotary = fields.choices("no_rope_layers", num, (0, 1))
    every = fields.count("no_rope_layer_interval", default=4)
    chunked = [flag == 1 for flag in rotary] or [(index + 1) % every != 0 for index in range(num)]
    plain = {"use_qk_norm": None}  # its query-key norm has no weights
    bare = Fields({**fields.values, **plain}, fields.where)
    mixers: list[Mixer] = [
        attention(bare, traits, chunk if is_chunked else None, chunked=is_chunked) for is_chunked in chunked
    ]
    return assemble(fields, traits, mixers, mlps(fields, num, traits))
