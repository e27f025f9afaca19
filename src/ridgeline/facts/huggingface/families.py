"""Which function reads which model type."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ridgeline.facts.huggingface.classic import bloom, falcon, gpt, mpt, opt
from ridgeline.facts.huggingface.decoder import Arguments, Traits, decoder, latent, llama4
from ridgeline.facts.huggingface.fields import Fields
from ridgeline.facts.huggingface.hybrid import delta_hybrid, jamba, lightning_hybrid, mamba2, nemotron_h

_LLAMA = partial(decoder, traits=Traits())
_QWEN2 = Traits(qkv_bias=True, out_bias=False, shared_gate=True)
_QWEN3 = Traits(qk_norm=True)
_DELTA = Traits(qk_norm=True, output_gate=True, shared_gate=True)
_GEMMA2 = Traits(tied=True, norms_per_layer=4, windowed_of=2)
_GEMMA3 = Traits(qk_norm=True, tied=True, norms_per_layer=4, windowed_of=6, head_dim=256, vocab=262208)
_GPT_OSS = Traits(qkv_bias=True, out_bias=True, sinks=True, expert_bias=True, router_bias=True, windowed_of=2)
_LATENT = partial(latent, traits=Traits())
_GLM = Traits(out_bias=False, router_bias=True)
_LIGHTNING = partial(lightning_hybrid, traits=Traits())

#: model_type of config.json -> function that reads it
FAMILIES: dict[str, Callable[[Fields], Arguments]] = {
    "bloom": bloom,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "deepseek_v32": _LATENT,
    "falcon": falcon,
    "gemma2": partial(decoder, traits=_GEMMA2),
    "gemma3": partial(decoder, traits=_GEMMA3),
    "gemma3_text": partial(decoder, traits=_GEMMA3),
    "glm4_moe": partial(decoder, traits=_GLM),
    "glm_moe_dsa": partial(latent, traits=Traits(router_bias=True)),
    "gpt2": gpt,
    "gpt_oss": partial(decoder, traits=_GPT_OSS),
    "gptj": partial(gpt, gptj=True),
    "jamba": jamba,
    "kimi_k2": _LATENT,
    "llama": _LLAMA,
    "llama4": partial(llama4, traits=Traits(one_shared=True)),
    "llama4_text": partial(llama4, traits=Traits(one_shared=True)),
    "mamba2": mamba2,
    "minimax": _LIGHTNING,
    "minimax_m1": _LIGHTNING,
    "minimax_m2": partial(decoder, traits=Traits(qk_norm=True, router_bias=True)),
    "minimax_text_01": _LIGHTNING,
    "mistral": _LLAMA,
    "mixtral": _LLAMA,
    "mpt": mpt,
    "nemotron": partial(decoder, traits=Traits(gated=False, norm="layer")),
    "nemotron_h": nemotron_h,
    "opt": opt,
    "phi3": _LLAMA,
    "qwen2": partial(decoder, traits=_QWEN2),
    "qwen2_moe": partial(decoder, traits=_QWEN2),
    "qwen3": partial(decoder, traits=_QWEN3),
    "qwen3_5_moe": partial(delta_hybrid, traits=_DELTA),
    "qwen3_5_moe_text": partial(delta_hybrid, traits=_DELTA),
    "qwen3_moe": partial(decoder, traits=_QWEN3),
    "qwen3_next": partial(delta_hybrid, traits=_DELTA),
}

#: class named in "architectures" -> family, for files whose model_type is absent, private or ambiguous
CLASSES: dict[str, str] = {
    "BloomForCausalLM": "bloom",
    "DeepseekV2ForCausalLM": "deepseek_v2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "DeepseekV32ForCausalLM": "deepseek_v32",
    "FalconForCausalLM": "falcon",
    "GPT2LMHeadModel": "gpt2",
    "GPTJForCausalLM": "gptj",
    "Glm4MoeForCausalLM": "glm4_moe",
    "GptOssForCausalLM": "gpt_oss",
    "JambaForCausalLM": "jamba",
    "LlamaForCausalLM": "llama",
    "MPTForCausalLM": "mpt",
    "Mamba2ForCausalLM": "mamba2",
    "MiniMaxM1ForCausalLM": "minimax_m1",
    "MiniMaxM2ForCausalLM": "minimax_m2",
    "MiniMaxText01ForCausalLM": "minimax_text_01",
    "MistralForCausalLM": "mistral",
    "MixtralForCausalLM": "mixtral",
    "NemotronForCausalLM": "nemotron",
    "NemotronHForCausalLM": "nemotron_h",
    "OPTForCausalLM": "opt",
    "Phi3ForCausalLM": "phi3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Qwen3NextForCausalLM": "qwen3_next",
    "RWForCausalLM": "falcon",
}
