"""Families with names of their own: GPT-2, GPT-J, OPT, BLOOM, MPT and Falcon."""

from __future__ import annotations

from ridgeline.facts.architecture import Attention, Dense, Layer
from ridgeline.facts.huggingface.decoder import Arguments
from ridgeline.facts.huggingface.fields import Fields, HuggingFaceError


def gpt(fields: Fields, *, gptj: bool = False) -> Arguments:
    """GPT-2 and GPT-J: biases everywhere but GPT-J's attention, whose attention and MLP run in parallel."""
    hidden, heads = fields.count("n_embd"), fields.count("n_head")
    mixer = Attention(
        heads=heads, kv_heads=heads, head_dim=fields.divide("n_embd", hidden, heads, "n_head"),
        qkv_bias=not gptj, out_bias=not gptj,
    )  # fmt: skip
    mlp = Dense(ffn=fields.count("n_inner", default=4 * hidden), gated=False, bias=True)
    positions = fields.count("n_positions", "n_ctx")
    return {
        "hidden": hidden,
        "vocab": fields.count("vocab_size"),
        "layers": (Layer(count=fields.num_layers("n_layer"), mixer=mixer, mlp=mlp, parallel=gptj),),
        "tied": fields.flag("tie_word_embeddings", not gptj),
        "norm": "layer",
        "norms_per_layer": 1 if gptj else 2,
        "positions": 0 if gptj else positions,
        "head_bias": gptj,
        "context": positions,
    }


def opt(fields: Fields) -> Arguments:
    """OPT: two extra rows of positions. The 350M model (post-norm, projected embedding) is refused."""
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    projected = fields.count("word_embed_proj_dim", default=hidden)
    if projected != hidden:
        raise HuggingFaceError(
            f"{fields.where}: word_embed_proj_dim = {projected} differs from hidden_size = {hidden}; "
            "projected embeddings (OPT 350M) are not supported"
        )
    bias = fields.flag("enable_bias", True)
    context = fields.count("max_position_embeddings")
    mixer = Attention(
        heads=heads, kv_heads=heads, qkv_bias=bias, out_bias=bias,
        head_dim=fields.divide("hidden_size", hidden, heads, "num_attention_heads"),
    )  # fmt: skip
    mlp = Dense(ffn=fields.count("ffn_dim"), gated=False, bias=bias)
    return {
        "hidden": hidden,
        "vocab": fields.count("vocab_size"),
        "layers": (Layer(count=fields.num_layers("num_hidden_layers"), mixer=mixer, mlp=mlp),),
        "tied": fields.flag("tie_word_embeddings", True),
        "norm": "layer",
        "positions": context + 2,
        "context": context,
    }


def bloom(fields: Fields) -> Arguments:
    """BLOOM: ALiBi, a norm after the embedding, tied output."""
    hidden = fields.count("hidden_size", "n_embed")
    heads = fields.count("n_head", "num_attention_heads")
    mixer = Attention(
        heads=heads, kv_heads=heads, head_dim=fields.divide("hidden_size", hidden, heads, "n_head"),
        qkv_bias=True, out_bias=True,
    )  # fmt: skip
    mlp = Dense(ffn=4 * hidden, gated=False, bias=True)
    return {
        "hidden": hidden,
        "vocab": fields.count("vocab_size"),
        "layers": (Layer(count=fields.num_layers("n_layer", "num_hidden_layers"), mixer=mixer, mlp=mlp),),
        "tied": fields.flag("tie_word_embeddings", True),
        "norm": "layer",
        "embedding_norm": True,
        "context": fields.optional("seq_length"),
    }


def mpt(fields: Fields) -> Arguments:
    """MPT: no biases; learned positions unless ALiBi is on; the output layer is always tied."""
    hidden, heads = fields.count("d_model"), fields.count("n_heads")
    inner = fields.section("attn_config")
    kv_heads = inner.count("kv_n_heads", default=heads)
    bias = not fields.flag("no_bias", True)
    mixer = Attention(
        heads=heads, kv_heads=kv_heads, head_dim=fields.divide("d_model", hidden, heads, "n_heads"),
        qkv_bias=bias, out_bias=bias,
    )  # fmt: skip
    mlp = Dense(ffn=hidden * fields.count("expansion_ratio", default=4), gated=False, bias=bias)
    context = fields.count("max_seq_len")
    learned = fields.flag("learned_pos_emb", True) and not inner.flag("alibi", False)
    return {
        "hidden": hidden,
        "vocab": fields.count("vocab_size"),
        "layers": (Layer(count=fields.num_layers("n_layers"), mixer=mixer, mlp=mlp),),
        "tied": True,
        "norm": "layer",
        "positions": context if learned else 0,
        "context": context,
    }


def falcon(fields: Fields) -> Arguments:
    """Falcon: attention and MLP in parallel; the 40B and 180B (new decoder) have a norm for each."""
    hidden = fields.count("hidden_size")
    heads = fields.count("num_attention_heads", "n_head")
    new = fields.flag("new_decoder_architecture", False)
    parallel = new or fields.flag("parallel_attn", True)
    if new:
        kv_heads = fields.count("num_kv_heads", "n_head_kv", default=heads)
    else:
        kv_heads = 1 if fields.flag("multi_query", True) else heads
    fields.divide("num_attention_heads", heads, kv_heads, "num_kv_heads")
    bias = fields.flag("bias", False)
    mixer = Attention(
        heads=heads, kv_heads=kv_heads, qkv_bias=bias, out_bias=bias,
        head_dim=fields.divide("hidden_size", hidden, heads, "num_attention_heads"),
    )  # fmt: skip
    mlp = Dense(ffn=fields.count("ffn_hidden_size", default=4 * hidden), gated=False, bias=bias)
    num = fields.num_layers("num_hidden_layers", "n_layer")
    norms = fields.count("num_ln_in_parallel_attn", default=2 if new or not parallel else 1)
    return {
        "hidden": hidden,
        "vocab": fields.count("vocab_size"),
        "layers": (Layer(count=num, mixer=mixer, mlp=mlp, parallel=parallel),),
        "tied": fields.flag("tie_word_embeddings", True),
        "norm": "layer",
        "norms_per_layer": norms,
        "context": fields.optional("max_position_embeddings") or 2048,
    }
