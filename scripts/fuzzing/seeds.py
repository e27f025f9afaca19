"""Seeds: right inputs of readers of facts, made here or taken from the shipped catalog; mutants begin at them."""

from __future__ import annotations

import json
from typing import Any

import yaml

from fuzzing.case import Case, one
from ridgeline.facts import catalog


def _llama(
    hidden: int, layers: int, heads: int, kv: int, ffn: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": "llama", "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab, "tie_word_embeddings": False, **more,
    }  # fmt: skip


_LATENT = {
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "moe_layer_freq": 1, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2,
    "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1,
}  # fmt: skip
#: Fields of `config.json` by family, as the published files name them.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _llama(4096, 32, 32, 8, 14336, 128256, max_position_embeddings=131072, torch_dtype="bfloat16"),
    "mistral": _llama(4096, 32, 32, 8, 14336, 32000, model_type="mistral", head_dim=128, sliding_window=4096),
    "mixtral": _llama(4096, 32, 32, 8, 14336, 32000, model_type="mixtral", num_local_experts=8, num_experts_per_tok=2),
    "qwen2": _llama(3584, 28, 28, 4, 18944, 152064, model_type="qwen2", use_sliding_window=False),
    "qwen3_moe": _llama(
        2048, 48, 32, 4, 6144, 151936, model_type="qwen3_moe", head_dim=128, num_experts=128, num_experts_per_tok=8,
        moe_intermediate_size=768, decoder_sparse_step=1, mlp_only_layers=[], norm_topk_prob=True,
    ),
    "deepseek_v3": _llama(2048, 27, 16, 16, 10944, 102400, model_type="deepseek_v3", **_LATENT),
    "gemma2": _llama(2304, 26, 8, 4, 9216, 256000, model_type="gemma2", head_dim=256, sliding_window=4096),
    "gpt_oss": _llama(
        2880, 24, 64, 8, 2880, 201088, model_type="gpt_oss", head_dim=64, num_local_experts=32, num_experts_per_tok=4,
        sliding_window=128, layer_types=["sliding_attention", "full_attention"] * 12,
    ),
    "gpt2": {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 1600, "n_layer": 48, "n_head": 25,
        "n_positions": 1024, "n_ctx": 1024, "vocab_size": 50257,
    },
    "opt": {
        "model_type": "opt", "hidden_size": 2560, "ffn_dim": 10240, "num_hidden_layers": 32, "num_attention_heads": 32,
        "max_position_embeddings": 2048, "vocab_size": 50272, "word_embed_proj_dim": 2560, "do_layer_norm_before": True,
    },
    "bloom": {
        "model_type": "bloom", "n_embed": 4096, "n_layer": 30, "num_attention_heads": 32, "vocab_size": 250880,
        "seq_length": 2048,
    },
    "mpt": {
        "model_type": "mpt", "architectures": ["MPTForCausalLM"], "d_model": 4096, "n_heads": 32, "n_layers": 32,
        "expansion_ratio": 4, "max_seq_len": 8192, "vocab_size": 50432, "no_bias": True, "learned_pos_emb": True,
        "attn_config": {"alibi": True, "attn_type": "multihead_attention"},
    },
    "falcon": {
        "model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
        "num_kv_heads": 71, "multi_query": True, "new_decoder_architecture": False, "parallel_attn": True,
        "bias": False, "alibi": False, "vocab_size": 65024,
    },
    "text_config": {
        "model_type": "mistral3", "text_config": _llama(5120, 40, 32, 8, 32768, 131072, model_type="mistral"),
    },
}  # fmt: skip


def configs() -> list[Case]:
    """One `config.json` of each family."""
    return [one("config.json", json.dumps(fields, indent=2)) for fields in CONFIGS.values()]


#: Entries of the catalog that mutants of each kind begin at: small files that differ in their fields.
_ENTRIES: dict[str, tuple[str, ...]] = {
    "chips": ("h100-sxm", "mi300x", "tpu-v7", "gb200"),
    "clusters": ("dgx-h100", "hgx-b300-roce"),
    "formats": ("fp16", "fp8-block", "nvfp4"),
    "recipes": ("bf16-fsdp", "fp8-current", "nvfp4"),
    "models": ("llama-3.1-8b", "deepseek-v3", "gemma-2-9b", "nemotron-h-8b"),
    "stacks": ("megatron-lm-2024", "nemo-2025", "maxtext-2024"),
    "engines": ("vllm-2026", "sglang-rocm-2026", "trtllm-2026"),
    "kernels": ("tpu-v7",),
    "libraries": ("rtx-4090",),
    "links": ("tpu-v4", "h100-sxm"),
    "steps": ("gb200", "h100-sxm"),
}


def entries(kind: str) -> list[Case]:
    """Files of one kind of the catalog, in the folder of their kind; large ones with a fit or two of each part."""
    found = []
    for name in _ENTRIES[kind]:
        path = catalog.entry_path(kind, name)
        assert path is not None, name
        text = path.read_text(encoding="utf-8")
        if len(text) > 4000:
            text = yaml.safe_dump(_trimmed(yaml.safe_load(text)), sort_keys=False)
        found.append(one(f"{catalog.KINDS[kind].folder}/{path.name}", text))
    return found


def _trimmed(tree: Any) -> Any:
    """Mappings of fits with their first two only, so that a mutant costs a millisecond."""
    return {
        key: dict(list(part.items())[:2])
        if isinstance(part, dict) and len(part) > 2 and _fits(part)
        else part
        for key, part in tree.items()
    }


def _fits(part: dict[str, Any]) -> bool:
    return all(isinstance(one, dict) and "provenance" in one for one in part.values())


#: A user's own folder: every kind of fact under one name.
_OWN = {
    "chips": ("h100-sxm", "own-chip"), "clusters": ("dgx-h100", "own-cluster"), "models": ("llama-3.2-1b", "own-model"),
    "stacks": ("megatron-lm-2024", "own-stack"), "recipes": ("bf16", "own-recipe"),
    "engines": ("vllm-2026", "own-engine"),
    "steps": ("h100-sxm", "own-chip"), "links": ("h100-sxm", "own-chip"),
}  # fmt: skip


def own_catalog() -> list[Case]:
    """One folder of a user's own chip, cluster, model, stack, recipe, engine and calibrations."""
    files = {}
    for kind, (source, name) in _OWN.items():
        entry, path = catalog.KINDS[kind], catalog.entry_path(kind, source)
        assert path is not None, source
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) | {entry.key: name}
        tree |= {
            "chips": {"cluster": "own-cluster", "relative": "h100-sxm"},
            "clusters": {"chip": "own-chip"},
        }.get(kind, {})
        files[f"{entry.folder}/{name}.yaml"] = yaml.safe_dump(tree, sort_keys=False).encode()
    return [Case(files, ".")]


def settings(roots: dict[str, Any]) -> list[Case]:
    """One ``path=value`` for every field below the roots that is a number, a text or a switch."""
    found = []
    for root, tree in roots.items():
        for path, leaf in _paths(tree, root):
            text = str(leaf).lower() if isinstance(leaf, bool) else str(leaf)
            found.append(one("a.setting", f"{path}={text}"))
    return found


def _paths(tree: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(tree, dict):
        return [pair for key, part in list(tree.items())[:40] for pair in _paths(part, f"{path}.{key}")]
    if isinstance(tree, list):
        return [pair for i, part in enumerate(tree[:2]) for pair in _paths(part, f"{path}.{i}")]
    words = ".source" in path or tree in (None, "") or len(str(tree)) > 100
    return [] if words else [(path, tree)]
