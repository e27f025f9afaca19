"""What `trtllm-bench throughput` sets where its caller states no limits, as its tuning heuristic chooses it.

Source: NVIDIA/TensorRT-LLM, tensorrt_llm/bench/build/tuning.py (`calc_engine_setting`, `finetune_setting`) and
tensorrt_llm/bench/benchmark/utils/general.py (`get_settings`) of releases 1.0 and later.
"""

from __future__ import annotations

import math

from ridgeline.facts.architecture import Attention, LatentAttention
from ridgeline.facts.parameters import total_parameters
from ridgeline.facts.serving import Service

#: Most requests of all pipeline stages, and most tokens of a step before prompts are taken into account.
MOST_REQUESTS, MOST_TOKENS = 4096, 32768
#: Four-bit checkpoints pack two weights into an element, and hold an fp8 scale for each 16 weights.
PACKED = 0.5 + 1.0 / 16.0


def tuned_limits(service: Service, isl: float, osl: float, fraction: float) -> tuple[int, int]:
    """Requests that decode at a time and tokens of a step, of one attention rank and pipeline stage.

    The heuristic counts what the cache could hold by the dimensions of `config.json`: latent attention is taken for
    that many full heads, and packed weights for half their number. Chunked prefill is off unless asked for, so a step
    takes a whole prompt beside a token of every request.
    """
    layout, arch = service.layout, service.architecture
    chips = layout.tp * layout.dp * layout.pp  # attention data parallelism runs on ranks of --tp
    narrow = {"nvfp4": 0.5, "fp8": 1.0, "fp8-block": 1.0}.get(service.precision.linear, 2.0)
    elements = total_parameters(arch) * (PACKED if narrow < 1.0 else 1.0)
    free = service.chip.memory.capacity * chips - elements * narrow
    token = sum(
        layer.count * _elements(layer.mixer, arch.hidden, layout.tp * layout.dp) for layer in arch.layers
    )
    token *= 1.0 if service.precision.kv == "fp8" else 2.0
    held = free * fraction / (token * (isl + osl))
    requests = min(held, MOST_REQUESTS) / layout.pp
    tokens = min(requests * (1.0 + isl / osl), MOST_TOKENS)
    if requests < 256:
        limit = max(64, 32 * math.ceil(requests / 32))
    else:
        step = 128 if requests < 1024 else 256
        limit = step * math.ceil(requests / step)
    step = 256 if tokens < 4096 else 512 if tokens < 8192 else 1024
    return limit, max(2048, step * math.ceil(tokens / step), round(isl) + limit)


def _elements(mixer: object, hidden: int, ranks: int) -> float:
    """Keys and values of a token in one layer [1]."""
    if isinstance(mixer, Attention):
        return 2.0 * max(ranks, mixer.kv_heads) * mixer.head_dim
    if isinstance(mixer, LatentAttention):
        return 2.0 * mixer.heads * (hidden // mixer.heads)
    return 0.0
