"""Reading config.json: published files give the catalog's shapes, bad files give errors that teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.huggingface import HuggingFaceError, read_config, supported
from ridgeline.facts.parameters import total_parameters


def llama(
    hidden: int, num: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """The field names that most families share."""
    return {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": num, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab,
        "tie_word_embeddings": False, **more,
    }  # fmt: skip


DEEPSEEK = {
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "moe_layer_freq": 1,
}  # fmt: skip
SLIDE_4 = ["linear_attention", "linear_attention", "linear_attention", "full_attention"]

# catalog name -> fields of the published config.json that describe its shape
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2-xl": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 1600, "n_layer": 48,
        "n_head": 25,
        "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257,
    },
    "gptj-6b": {
        "model_type": "gptj", "n_embd": 4096, "n_layer": 28, "n_head": 16, "n_inner": None,
        "n_positions": 2048,
        "vocab_size": 50400, "rotary_dim": 64, "tie_word_embeddings": False,
    },
    "opt-13b": {
        "model_type": "opt", "hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40,
        "num_attention_heads": 40, "max_position_embeddings": 2048, "vocab_size": 50272,
        "word_embed_proj_dim": 5120, "do_layer_norm_before": True,
    },
    "bloom-176b": {
        "model_type": "bloom", "n_embed": 14336, "n_layer": 70, "num_attention_heads": 112,
        "vocab_size": 250880,
        "seq_length": 2048,
    },
    "mpt-30b": {
        "model_type": "mpt", "architectures": ["MPTForCausalLM"], "d_model": 7168, "n_heads": 56,
        "n_layers": 48,
        "expansion_ratio": 4, "max_seq_len": 8192, "vocab_size": 50432, "no_bias": True,
        "learned_pos_emb": True,
        "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
    },
    "falcon-7b": {
        "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
        "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "parallel_attn": True,
        "bias": False, "alibi": False, "vocab_size": 65024,
    },
    "falcon-40b": {
        "model_type": "RefinedWeb", "architectures": ["RWForCausalLM"], "hidden_size": 8192, "n_head": 128,
        "n_head_kv": 8, "n_layer": 60, "new_decoder_architecture": True, "bias": False, "vocab_size": 65024,
    },
    "llama-2-70b": llama(8192, 80, 64, 8, 28672, 32000),
    "llama-3.1-405b": llama(16384, 126, 128, 8, 53248, 128256, attention_bias=False, mlp_bias=False),
    "llama-3.2-3b": llama(3072, 28, 24, 8, 8192, 128256, head_dim=128, tie_word_embeddings=True),
    "mistral-nemo-12b": llama(
        5120, 40, 32, 8, 14336, 131072, model_type="mistral", head_dim=128, sliding_window=None
    ),
    "mixtral-8x7b": llama(
        4096, 32, 32, 8, 14336, 32000, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2,
        sliding_window=None, max_position_embeddings=32768,
    ),
    "phi-3-mini": llama(
        3072, 32, 32, 32, 8192, 32064, model_type="phi3", max_position_embeddings=131072,
        sliding_window=262144,
        attention_bias=False,
    ),
    "phi-4": llama(5120, 40, 40, 10, 17920, 100352, model_type="phi3", sliding_window=None,
    attention_bias=False),
    "qwen2.5-72b": llama(
        8192, 80, 64, 8, 29568, 152064, model_type="qwen2", sliding_window=131072, use_sliding_window=False,
        max_window_layers=80,
    ),
    "qwen2-57b-a14b": llama(
        3584, 28, 28, 4, 18944, 151936, model_type="qwen2_moe", num_experts=64, num_experts_per_tok=8,
        moe_intermediate_size=2560, shared_expert_intermediate_size=20480, decoder_sparse_step=1,
        mlp_only_layers=[], use_sliding_window=False, sliding_window=65536,
    ),
    "qwen3-0.6b": llama(
        1024, 28, 16, 8, 3072, 151936, model_type="qwen3", head_dim=128, tie_word_embeddings=True,
        attention_bias=False, sliding_window=None,
    ),
    "qwen3-235b-a22b": llama(
        4096, 94, 64, 4, 12288, 151936, model_type="qwen3_moe", head_dim=128, num_experts=128,
        num_experts_per_tok=8, moe_intermediate_size=1536, decoder_sparse_step=1, mlp_only_layers=[],
        norm_topk_prob=True,
    ),
    "qwen3-next-80b-a3b": llama(
        2048, 48, 16, 2, 5120, 151936, model_type="qwen3_next", head_dim=256, full_attention_interval=4,
        linear_conv_kernel_dim=4, linear_key_head_dim=128, linear_num_key_heads=16, linear_num_value_heads=32,
        linear_value_head_dim=128, moe_intermediate_size=512, num_experts=512, num_experts_per_tok=10,
        shared_expert_intermediate_size=512, decoder_sparse_step=1, mlp_only_layers=[],
    ),
    "qwen3.5-397b-a17b": {
        "model_type": "qwen3_5_moe", "tie_word_embeddings": False, "vision_config": {"depth": 27},
        "text_config": {
            "model_type": "qwen3_5_moe_text", "hidden_size": 4096, "num_hidden_layers": 60,
            "num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 248320,
            "layer_types": SLIDE_4 * 15, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128,
            "linear_num_key_heads": 16, "linear_num_value_heads": 64, "linear_value_head_dim": 128,
            "moe_intermediate_size": 1024, "shared_expert_intermediate_size": 1024, "num_experts": 512,
            "num_experts_per_tok": 10, "mtp_num_hidden_layers": 1,
        },
    },
    "deepseek-v2": llama(
        5120, 60, 128, 128, 12288, 102400, model_type="deepseek_v2", q_lora_rank=1536, **DEEPSEEK,
        first_k_dense_replace=1, n_routed_experts=160, n_shared_experts=2, num_experts_per_tok=6,
        moe_intermediate_size=1536, n_group=8, topk_group=3, topk_method="group_limited_greedy",
    ),
    "deepseek-v2-lite": llama(
        2048, 27, 16, 16, 10944, 102400, model_type="deepseek_v2", q_lora_rank=None, **DEEPSEEK,
        first_k_dense_replace=1, n_routed_experts=64, n_shared_experts=2, num_experts_per_tok=6,
        moe_intermediate_size=1408, n_group=1, topk_group=1, topk_method="greedy",
    ),
    "deepseek-v3": llama(
        7168, 61, 128, 128, 18432, 129280, model_type="deepseek_v3", q_lora_rank=1536, **DEEPSEEK,
        first_k_dense_replace=3, n_routed_experts=256, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=2048, n_group=8, topk_group=4, topk_method="noaux_tc",
        num_nextn_predict_layers=1,
    ),
    "kimi-k2": llama(
        7168, 61, 64, 64, 18432, 163840, model_type="kimi_k2", q_lora_rank=1536, **DEEPSEEK,
        first_k_dense_replace=1, n_routed_experts=384, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=2048, n_group=1, topk_group=1, topk_method="noaux_tc",
        num_nextn_predict_layers=0,
    ),
    "glm-4.5": llama(
        5120, 92, 96, 8, 12288, 151552, model_type="glm4_moe", head_dim=128, attention_bias=True,
        use_qk_norm=True,
        first_k_dense_replace=3, n_routed_experts=160, n_shared_experts=1, num_experts_per_tok=8,
        moe_intermediate_size=1536, n_group=1, topk_group=1, num_nextn_predict_layers=1,
    ),
    "glm-5": llama(
        6144, 78, 64, 64, 12288, 154880, model_type="glm_moe_dsa", q_lora_rank=2048, kv_lora_rank=512,
        qk_nope_head_dim=192, qk_rope_head_dim=64, v_head_dim=256, index_n_heads=32, index_head_dim=128,
        index_topk=2048, first_k_dense_replace=3, n_routed_experts=256, n_shared_experts=1,
        num_experts_per_tok=8,
        moe_intermediate_size=2048, n_group=1, topk_group=1, num_nextn_predict_layers=1,
    ),
    "gpt-oss-120b": llama(
        2880, 36, 64, 8, 2880, 201088, model_type="gpt_oss", head_dim=64, attention_bias=True,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention"] * 18, num_local_experts=128,
        num_experts_per_tok=4,
        experts_per_token=4,
    ),
    "minimax-text-01": llama(
        6144, 80, 64, 8, 9216, 200064, model_type="minimax_text_01",
        architectures=["MiniMaxText01ForCausalLM"],
        head_dim=128, attn_type_list=[0, 0, 0, 0, 0, 0, 0, 1] * 10, num_local_experts=32,
        num_experts_per_tok=2,
    ),
    "minimax-m2": llama(
        3072, 62, 48, 8, 1536, 200064, model_type="minimax", architectures=["MiniMaxM2ForCausalLM"],
        head_dim=128,
        use_qk_norm=True, num_local_experts=256, num_experts_per_tok=8, use_routing_bias=True,
    ),
    "gemma-2-27b": {
        "model_type": "gemma2", "hidden_size": 4608, "num_hidden_layers": 46, "num_attention_heads": 32,
        "num_key_value_heads": 16, "head_dim": 128, "intermediate_size": 36864, "vocab_size": 256000,
        "sliding_window": 4096, "max_position_embeddings": 8192, "query_pre_attn_scalar": 144,
    },
    "gemma-3-27b": {
        "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": {
            "model_type": "gemma3_text", "hidden_size": 5376, "intermediate_size": 21504,
            "num_hidden_layers": 62,
            "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
        },
    },
    "nemotron-4-340b": {
        "model_type": "nemotron", "hidden_size": 18432, "num_hidden_layers": 96, "num_attention_heads": 96,
        "num_key_value_heads": 8, "intermediate_size": 73728, "vocab_size": 256000, "hidden_act": "relu2",
    },
    "nemotron-h-8b": {
        "model_type": "nemotron_h", "hidden_size": 4096, "num_hidden_layers": 52, "intermediate_size": 21504,
        "hybrid_override_pattern": "M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M*-M-M-M-M-M-",
        "num_attention_heads": 32, "num_key_value_heads": 8, "attention_head_dim": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8, "conv_kernel": 4, "vocab_size": 131072,
    },
    "jamba-mini": llama(
        4096, 32, 32, 8, 14336, 65536, model_type="jamba", attn_layer_period=8, attn_layer_offset=4,
        expert_layer_period=2, expert_layer_offset=1, num_experts=16, num_experts_per_tok=2, mamba_d_state=16,
        mamba_d_conv=4, mamba_expand=2, mamba_dt_rank=256, sliding_window=None,
    ),
    "mamba2-2.7b": {
        "d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [], "rms_norm": True, "pad_vocab_size_multiple": 16, "tie_embeddings": True,
    },
    "llama-4-maverick": {
        "model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": {
            "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48,
            "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_local_experts": 128, "num_experts_per_tok": 1, "interleave_moe_layer_step": 2,
            "attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 12, "use_qk_norm": False,
            "vocab_size": 202048,
        },
    },
    "llama-4-scout": {
        "model_type": "llama4",
        "text_config": {
            "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
            "head_dim": 128, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
            "num_local_experts": 16,
            "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 8192,
            "no_rope_layers": [], "use_qk_norm": True, "vocab_size": 202048,
        },
    },
}  # fmt: skip

#: The catalog has another vocabulary (Gemma 3, MPT), learned positions (MPT) or the multi-token layer that
#: this file does not mention (Qwen3-Next): parameters agree within 0.2 %, layers agree exactly.
NOT_IDENTICAL = {"gemma-3-27b", "mpt-30b", "qwen3-next-80b-a3b"}
WORDS = {"name", "title", "family", "source", "published", "context"}


@pytest.mark.parametrize("name", CONFIGS)
def test_published_config_gives_the_catalog_shape(name: str) -> None:
    read, known = read_config(CONFIGS[name], name), catalog.architecture(name)
    assert read.layers == known.layers
    assert read.order == known.order
    assert total_parameters(read) == pytest.approx(total_parameters(known), rel=0.002)
    if name not in NOT_IDENTICAL:
        assert read.model_dump(exclude=WORDS) == known.model_dump(exclude=WORDS)


def test_most_families_are_tried() -> None:
    assert len({read_config(config).family for config in CONFIGS.values()}) >= 25


def test_names_come_from_argument_file_or_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My-Llama"
    folder.mkdir()
    text = json.dumps(CONFIGS["llama-2-70b"] | {"_name_or_path": "meta/other"})
    (folder / "config.json").write_text(text)
    (tmp_path / "tuned.json").write_text(text)
    assert read_config(folder).name == "my-llama"
    assert read_config(folder / "config.json", "mine").name == "mine"
    assert read_config(str(tmp_path / "tuned.json")).name == "tuned"
    assert read_config(CONFIGS["llama-2-70b"] | {"_name_or_path": "meta/Llama-X"}).name == "llama-x"
    assert read_config(CONFIGS["llama-2-70b"]).name == "llama"


def test_a_window_that_covers_the_context_is_no_window() -> None:
    config = llama(4096, 32, 32, 8, 14336, 32000, model_type="mistral", sliding_window=4096)
    windowed = read_config(config | {"max_position_embeddings": 32768}).layers[0].mixer
    full = read_config(config | {"max_position_embeddings": 4096}).layers[0].mixer
    assert windowed is not None
    assert full is not None
    assert windowed.model_dump()["window"] == 4096
    assert full.model_dump()["window"] is None


def test_an_uneven_sequence_keeps_its_order() -> None:
    kinds = ["full_attention"] * 4 + ["linear_attention"] * 3 + ["full_attention"] + ["linear_attention"] * 4
    config = CONFIGS["qwen3-next-80b-a3b"] | {"num_hidden_layers": 12, "layer_types": kinds}
    read = read_config(config)
    assert read.order == "listed"
    assert [layer.count for layer in read.layers] == [4, 3, 1, 4]


GOOD = llama(4096, 32, 32, 8, 14336, 32000)
MOE = CONFIGS["mixtral-8x7b"]

# what is wrong, config, words the message must have
BAD = [
    ("missing field", {k: v for k, v in GOOD.items() if k != "num_hidden_layers"},
     ["config.json", "num_hidden_layers", "missing"]),
    ("missing ffn", {k: v for k, v in GOOD.items() if k != "intermediate_size"},
     ["intermediate_size", "missing"]),
    ("null field", GOOD | {"vocab_size": None}, ["vocab_size", "missing"]),
    ("unknown type", GOOD | {"model_type": "rwkv"},
     ["model_type", "'rwkv'", "llama", "deepseek_v3", "more"]),
    ("no type", {k: v for k, v in GOOD.items() if k != "model_type"}, ["model_type", "missing", "llama"]),
    ("type of another kind", GOOD | {"model_type": 7}, ["model_type", "7", "text"]),
    ("negative", GOOD | {"hidden_size": -4096}, ["hidden_size", "-4096", "whole number"]),
    ("zero", GOOD | {"num_attention_heads": 0}, ["num_attention_heads", "0", "whole number"]),
    ("fraction", GOOD | {"hidden_size": 4096.5}, ["hidden_size", "4096.5", "whole number"]),
    ("not a number", GOOD | {"hidden_size": float("nan")}, ["hidden_size", "nan"]),
    ("infinite", GOOD | {"vocab_size": float("inf")}, ["vocab_size", "inf"]),
    ("text for a number", GOOD | {"hidden_size": "4096"}, ["hidden_size", "'4096'"]),
    ("truth for a number", GOOD | {"num_hidden_layers": True}, ["num_hidden_layers", "True"]),
    ("absurd depth", GOOD | {"num_hidden_layers": 10**8}, ["num_hidden_layers", "100000000"]),
    ("heads do not divide", GOOD | {"num_attention_heads": 33, "num_key_value_heads": 33},
     ["hidden_size", "4096", "num_attention_heads", "33"]),
    ("groups do not divide", GOOD | {"num_key_value_heads": 5}, ["num_key_value_heads", "5", "32"]),
    ("tie is no flag", GOOD | {"tie_word_embeddings": "no"},
     ["tie_word_embeddings", "'no'", "true or false"]),
    ("more experts chosen than there are", MOE | {"num_experts_per_tok": 9},
     ["num_experts_per_tok", "9", "8"]),
    ("short layer list", CONFIGS["gpt-oss-120b"] | {"layer_types": ["full_attention"]},
     ["layer_types", "1", "36"]),
    ("unknown layer type", CONFIGS["gpt-oss-120b"] | {"layer_types": ["odd"] * 36},
     ["layer_types[0]", "'odd'", "sliding_attention"]),
    ("layer list is no list", CONFIGS["gpt-oss-120b"] | {"layer_types": "full"},
     ["layer_types", "'full'", "list"]),
    ("text_config is no object", {"model_type": "gemma3", "text_config": 3}, ["text_config", "3", "object"]),
    ("missing field inside text_config", {"model_type": "llama4", "text_config": {"hidden_size": 8}},
     ["text_config", "num_hidden_layers"]),
    ("pattern too short", CONFIGS["nemotron-h-8b"] | {"hybrid_override_pattern": "M-*"}, ["M-*", "52"]),
    ("pattern of other letters", CONFIGS["nemotron-h-8b"] | {"hybrid_override_pattern": "X" * 52},
     ["X", "M, *, -"]),
    ("projected embedding", CONFIGS["opt-13b"] | {"word_embed_proj_dim": 512},
     ["word_embed_proj_dim", "512"]),
    ("no lightning pattern", {k: v for k, v in CONFIGS["minimax-text-01"].items() if k != "attn_type_list"},
     ["attn_type_list", "missing"]),
    ("empty", {}, ["model_type", "missing"]),
]  # fmt: skip


@pytest.mark.parametrize(("config", "words"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_fields_teach(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(HuggingFaceError) as caught:
        read_config(config)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"model_type": "llama",\n "hidden_size": 40', ["line 2", "column", "cut off"]),
        ("", ["line 1", "cut off"]),
        ('{"model_type": llama}', ["line 1 column 16", "not valid JSON"]),
        ("[1, 2]", ["must be a JSON object", "list"]),
        ("[" * 100_000, ["nested too deeply"]),
        (json.dumps(GOOD).replace("4096", "NaN"), ["hidden_size", "nan"]),
    ],
)
def test_bad_files_teach(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(HuggingFaceError) as caught:
        read_config(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HuggingFaceError, match=r"nowhere\.json: no such file"):
        read_config(tmp_path / "nowhere.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HuggingFaceError, match="not UTF-8"):
        read_config(tmp_path)


_NOISE = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 300), st.floats(), st.text(max_size=3),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_wrong_value_is_read_or_refused_with_our_error(data: st.DataObject) -> None:
    config = dict(CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))])
    field = data.draw(st.sampled_from(sorted(config)))
    config[field] = data.draw(_NOISE)
    try:
        assert isinstance(read_config(config), Architecture)
    except HuggingFaceError:
        return


def test_supported_lists_every_family() -> None:
    assert supported() == sorted(supported())
    assert {"llama", "qwen3_next", "deepseek_v3", "nemotron_h"} <= set(supported())
