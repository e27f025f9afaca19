"""An architecture in Megatron-Core's field names: GPT-shaped models with one kind of attention."""

from __future__ import annotations

from typing import Any

from ridgeline.emit import layers
from ridgeline.emit.errors import EmitError
from ridgeline.facts.architecture import Architecture, Attention, Dense, LatentAttention, Layer, Moe
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario

Fields = dict[str, Any]


def fields(framework: str, scenario: Scenario, plan: Plan) -> Fields:
    """Model fields of TransformerConfig and GPTModelProvider."""
    arch = scenario.architecture
    _check(framework, arch)
    if arch.positions and scenario.job.seq > arch.positions:
        why = "the model has one learned embedding per position"
        raise EmitError(framework, "seq", scenario.job.seq, [f"at most {arch.positions}"], why)
    order = layers.in_order(arch)
    attention, dense, moe = _parts(framework, order)
    out: Fields = {
        "num_layers": arch.num_layers,
        "hidden_size": arch.hidden,
        **_attention(framework, attention, order),
        **_mlp(framework, attention, dense, moe),
        "normalization": "RMSNorm" if arch.norm == "rms" else "LayerNorm",
        "position_embedding_type": "learned_absolute" if arch.positions else "rope",
        "share_embeddings_and_output_weights": arch.tied,
        "vocab_size": arch.vocab,
        "seq_length": scenario.job.seq,
    }
    if moe is not None:
        out |= _moe(scenario, plan, moe, order)
    if scenario.job.mtp:
        out["mtp_num_layers"] = scenario.job.mtp
    dropout = 0.1 if scenario.stack.dropout else 0.0
    out |= {"attention_dropout": dropout, "hidden_dropout": dropout}
    out["cross_entropy_loss_fusion"] = scenario.stack.fused_loss
    return out


def _check(framework: str, arch: Architecture) -> None:
    """Shapes that Megatron-Core's GPT model does not have."""
    refused: list[tuple[str, object, list[object]]] = [
        ("norms_per_layer", arch.norms_per_layer, [2]),
        ("embedding_norm", arch.embedding_norm, [False]),
        ("head_bias", arch.head_bias, [False]),
        ("layers.parallel", any(layer.parallel for layer in arch.layers), [False]),
    ]
    for field, value, choices in refused:
        if value not in choices:
            raise EmitError(framework, f"model.{field}", value, choices)
    for layer in arch.layers:
        if layer.mixer is None or layer.mlp is None:
            raise EmitError(framework, "model.layers", "a layer without mixer or mlp", ["both"])
        if layer.mixer.kind not in ("attention", "mla"):
            raise EmitError(framework, "model.layers.mixer", layer.mixer.kind, ["attention", "mla"])


def _parts(
    framework: str, order: list[Layer]
) -> tuple[Attention | LatentAttention, Dense | None, Moe | None]:
    """The one attention, dense and expert block of the model; only the window may differ between layers."""
    mixers: set[Attention | LatentAttention] = set()
    dense: set[Dense] = set()
    moe: set[Moe] = set()
    for layer in order:
        if isinstance(layer.mixer, Attention):
            mixers.add(layer.mixer.model_copy(update={"window": None}))
        elif isinstance(layer.mixer, LatentAttention):
            mixers.add(layer.mixer)
        if isinstance(layer.mlp, Dense):
            dense.add(layer.mlp)
        elif isinstance(layer.mlp, Moe):
            moe.add(layer.mlp)
    for noun, found in (("mixer", len(mixers)), ("dense mlp", len(dense)), ("moe mlp", len(moe))):
        if found > 1:
            raise EmitError(framework, f"model.layers.{noun}", f"{found} different ones", ["one"])
    return mixers.pop(), dense.pop() if dense else None, moe.pop() if moe else None


def _attention(framework: str, mixer: Attention | LatentAttention, order: list[Layer]) -> Fields:
    if isinstance(mixer, LatentAttention):
        out: Fields = {"num_attention_heads": mixer.heads, "multi_latent_attention": True}
        if mixer.q_lora is not None:
            out["q_lora_rank"] = mixer.q_lora
        return out | {
            "kv_lora_rank": mixer.kv_lora,
            "qk_head_dim": mixer.nope_dim,
            "qk_pos_emb_head_dim": mixer.rope_dim,
            "v_head_dim": mixer.v_dim,
        }
    if mixer.output_gate:
        raise EmitError(framework, "model.layers.mixer.output_gate", True, [False])
    out = {
        "num_attention_heads": mixer.heads,
        "num_query_groups": mixer.kv_heads,
        "kv_channels": mixer.head_dim,
    }
    if mixer.qkv_bias:
        out["add_qkv_bias"] = True
    if mixer.qk_norm:
        out["qk_layernorm"] = True
    if mixer.sinks:
        out["softmax_type"] = "learnable"
    return out | _window(framework, order)


def _window(framework: str, order: list[Layer]) -> Fields:
    windows = [layer.mixer.window for layer in order if isinstance(layer.mixer, Attention)]
    sizes = {size for size in windows if size is not None}
    if not sizes:
        return {}
    if any(isinstance(layer.mixer, Attention) and layer.mixer.chunked for layer in order):
        raise EmitError(framework, "model.layers.mixer.chunked", True, [False])
    if len(sizes) > 1:
        raise EmitError(framework, "model.layers.mixer.window", sorted(sizes), ["one size"])
    out: Fields = {"window_size": (sizes.pop(), 0)}
    if None in windows:
        out["window_attn_skip_freq"] = [0 if size is None else 1 for size in windows]
    return out


def _mlp(framework: str, mixer: Attention | LatentAttention, dense: Dense | None, moe: Moe | None) -> Fields:
    block = dense if dense is not None else moe
    assert block is not None, "every layer has an mlp"
    if isinstance(mixer, Attention) and mixer.out_bias != block.bias:
        # One switch covers the output projection and the mlp.
        raise EmitError(
            framework, "model.layers.mixer.out_bias", mixer.out_bias, [block.bias], "as in the mlp"
        )
    return {"ffn_hidden_size": block.ffn, "gated_linear_unit": block.gated, "add_bias_linear": block.bias}


def _moe(scenario: Scenario, plan: Plan, moe: Moe, order: list[Layer]) -> Fields:
    pattern = [1 if isinstance(layer.mlp, Moe) else 0 for layer in order]
    out: Fields = {
        "num_moe_experts": moe.experts,
        "moe_ffn_hidden_size": moe.ffn,
        "moe_router_topk": moe.topk,
    }
    if 0 in pattern:
        out["moe_layer_freq"] = pattern
    if moe.shared_ffn:
        out["moe_shared_expert_intermediate_size"] = moe.shared_ffn
    if moe.shared_gate:
        out["moe_shared_expert_gate"] = True
    if moe.router_bias and not moe.bias:
        # A bias on the router alone is the load-balancing one (DeepSeek-V3); it comes with sigmoid scores.
        out |= {"moe_router_enable_expert_bias": True, "moe_router_score_function": "sigmoid"}
    nodes = plan.ep * plan.etp // scenario.cluster.chips_per_node
    if moe.node_limit is not None and nodes > moe.node_limit and moe.experts % nodes == 0:
        out |= {"moe_router_num_groups": nodes, "moe_router_group_topk": moe.node_limit}
    out |= {"moe_grouped_gemm": True, "moe_permute_fusion": True, "moe_token_dispatcher_type": "alltoall"}
    narrow = (scenario.cluster.tiers[0].size or 0) <= scenario.cluster.chips_per_node
    # inside a wide domain plain exchange is the faster one
    once = scenario.stack.dispatcher == "flex" and (moe.node_limit is not None or nodes <= 1)
    if (scenario.stack.dispatcher == "deepep" or once) and narrow:
        out |= {"moe_token_dispatcher_type": "flex", "moe_enable_deepep": True}
    return out
