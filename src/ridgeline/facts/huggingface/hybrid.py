"""Hybrids and state-space models: Qwen3-Next, MiniMax-01, Nemotron-H, Jamba and Mamba-2."""

from __future__ import annotations

from collections.abc import Callable

from ridgeline.facts.architecture import Dense, Layer, LinearAttention, Mixer, StateSpace
from ridgeline.facts.huggingface.decoder import (
    Arguments,
    Traits,
    assemble,
    attention,
    experts,
    group,
    mlps,
)
from ridgeline.facts.huggingface.fields import Fields, HuggingFaceError


def delta_hybrid(fields: Fields, traits: Traits) -> Arguments:
    """Qwen3-Next: gated DeltaNet layers, every fourth one gated full attention."""
    num = fields.num_layers("num_hidden_layers")
    linear = LinearAttention(
        k_heads=fields.count("linear_num_key_heads"), v_heads=fields.count("linear_num_value_heads"),
        k_dim=fields.count("linear_key_head_dim"), v_dim=fields.count("linear_value_head_dim"),
        conv=fields.count("linear_conv_kernel_dim"),
    )  # fmt: skip
    kinds = fields.choices("layer_types", num, ("linear_attention", "full_attention"))
    if not kinds:
        every = fields.count("full_attention_interval", default=4)
        kinds = ["linear_attention" if (index + 1) % every else "full_attention" for index in range(num)]
    full = attention(fields, traits)
    mixers: list[Mixer] = [linear if kind == "linear_attention" else full for kind in kinds]
    return assemble(fields, traits, mixers, mlps(fields, num, traits))


def lightning_hybrid(fields: Fields, traits: Traits) -> Arguments:
    """MiniMax-Text-01 and M1: Lightning attention, every eighth layer softmax attention."""
    num = fields.num_layers("num_hidden_layers")
    full = attention(fields, traits)
    linear = LinearAttention(
        k_heads=full.heads,
        v_heads=full.heads,
        k_dim=full.head_dim,
        v_dim=full.head_dim,
        conv=0,
        decay_gates=False,
    )
    codes = fields.choices("attn_type_list", num, (0, 1))
    kinds = fields.choices("layer_types", num, ("linear_attention", "full_attention"))
    if not codes and not kinds:
        raise HuggingFaceError(f"{fields.where}: field 'attn_type_list' (or 'layer_types') is missing")
    softmax = [code == 1 for code in codes] or [kind == "full_attention" for kind in kinds]
    return assemble(
        fields, traits, [full if is_full else linear for is_full in softmax], mlps(fields, num, traits)
    )


def nemotron_h(fields: Fields) -> Arguments:
    """Nemotron-H: one part a layer, from a pattern of M (Mamba-2), * (attention), - (MLP) and E (experts)."""
    num = fields.num_layers("num_hidden_layers")
    pattern = fields.text("hybrid_override_pattern")
    if len(pattern) != num or set(pattern) - set("M*-E"):
        raise HuggingFaceError(
            f"{fields.where}: hybrid_override_pattern = {pattern!r} must have one of M, *, -, E "
            f"for each of {num} layers"
        )
    traits = Traits(gated=False)
    parts: dict[str, Callable[[], Layer]] = {
        "M": lambda: Layer(count=1, mixer=_nemotron_ssm(fields)),
        "*": lambda: Layer(count=1, mixer=attention(fields, traits)),
        "-": lambda: Layer(
            count=1,
            mlp=Dense(
                ffn=fields.count("intermediate_size"), gated=False, bias=fields.flag("mlp_bias", False)
            ),
        ),
        "E": lambda: Layer(count=1, mlp=experts(fields, Traits(gated=False, router_bias=True))),
    }
    made = {letter: parts[letter]() for letter in set(pattern)}
    return {
        "hidden": fields.count("hidden_size"),
        "vocab": fields.count("vocab_size"),
        **group([made[letter] for letter in pattern]),
        "tied": fields.flag("tie_word_embeddings", False),
        "context": fields.optional("max_position_embeddings"),
    }


def _nemotron_ssm(fields: Fields) -> StateSpace:
    return StateSpace(
        heads=fields.count("mamba_num_heads"), head_dim=fields.count("mamba_head_dim"),
        state=fields.count("ssm_state_size"), groups=fields.count("n_groups"),
        conv=fields.count("conv_kernel", default=4),
    )  # fmt: skip


def jamba(fields: Fields) -> Arguments:
    """Jamba: Mamba-1 layers, one attention layer a period, experts in every second layer."""
    hidden, num = fields.count("hidden_size"), fields.num_layers("num_hidden_layers")
    automatic = fields.values.get("mamba_dt_rank") in (None, "auto")
    ssm = StateSpace(
        heads=hidden * fields.count("mamba_expand", default=2), head_dim=1,
        state=fields.count("mamba_d_state", default=16), conv=fields.count("mamba_d_conv", default=4),
        dt_rank=-(-hidden // 16) if automatic else fields.count("mamba_dt_rank"),
    )  # fmt: skip
    period = fields.count("attn_layer_period")
    offset = fields.count("attn_layer_offset", least=0)
    full = attention(fields, Traits())
    mixers: list[Mixer] = [full if index % period == offset else ssm for index in range(num)]
    return assemble(fields, Traits(), mixers, mlps(fields, num, Traits()))


def mamba2(fields: Fields) -> Arguments:
    """Mamba-2, in the names of transformers or of the authors' own files (d_model, ssm_cfg)."""
    hidden = fields.count("hidden_size", "d_model")
    own = fields.section("ssm_cfg")
    inner = hidden * (fields.optional("expand") or own.count("expand", default=2))
    head_dim = fields.optional("head_dim") or own.count("headdim", default=64)
    ssm = StateSpace(
        heads=fields.optional("num_heads") or fields.divide("inner width", inner, head_dim, "head_dim"),
        head_dim=head_dim, state=fields.optional("state_size") or own.count("d_state", default=128),
        groups=fields.optional("n_groups") or own.count("ngroups", default=1),
        conv=fields.optional("conv_kernel") or own.count("d_conv", default=4),
    )  # fmt: skip
    multiple = fields.count("pad_vocab_size_multiple", default=1)
    tied = fields.flag("tie_embeddings", False) or fields.flag("tie_word_embeddings", False)
    return {
        "hidden": hidden,
        "vocab": -(-fields.count("vocab_size") // multiple) * multiple,
        "layers": (Layer(count=fields.num_layers("num_hidden_layers", "n_layer"), mixer=ssm),),
        "tied": tied,
        "norms_per_layer": 1,
    }
