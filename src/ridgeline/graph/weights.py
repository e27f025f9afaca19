"""Weights of each block: how many parameters, and how tensor and expert parallelism divide them.

Counts are those of `ridgeline.facts.parameters`, so that the sum over all blocks is the model's published
size.
"""

from __future__ import annotations

from ridgeline.facts.architecture import (
    Architecture,
    Attention,
    Dense,
    LatentAttention,
    Layer,
    LinearAttention,
    Mixer,
    Mlp,
    Moe,
)
from ridgeline.facts.parameters import (
    embedding_parameters,
    expert_parameters,
    head_parameters,
    layer_norm_parameters,
    layer_parameters,
)
from ridgeline.graph.ops import Weights


def layer_weights(arch: Architecture, layer: Layer, adapters: float | None) -> Weights:
    """Weights of one layer of a kind; ``adapters``: parameters that low-rank training adds, else None."""
    h = arch.hidden
    expert = layer.mlp.experts * expert_parameters(layer.mlp, h) if isinstance(layer.mlp, Moe) else 0
    replicated = layer_norm_parameters(layer, arch) + _mixer_replicated(layer.mixer, h)
    replicated += _mlp_replicated(layer.mlp, h)
    kv, kv_heads = 0, 1
    if isinstance(layer.mixer, Attention):
        kv_heads = layer.mixer.kv_heads
        kv = 2 * kv_heads * layer.mixer.head_dim * (h + (1 if layer.mixer.qkv_bias else 0))
    sharded = layer_parameters(layer, arch) - replicated - expert - kv
    trained = 1.0 if adapters is None else adapters / (sharded + replicated + kv)
    return Weights(float(sharded), float(replicated), float(kv), float(kv_heads), float(expert), trained)


def _mixer_replicated(mixer: Mixer | None, hidden: int) -> int:
    """Parameters of a mixer on every tensor rank: norms, biases after a reduction, compressions."""
    match mixer:
        case Attention():
            return (hidden if mixer.out_bias else 0) + (2 * mixer.head_dim if mixer.qk_norm else 0)
        case LatentAttention():
            q_lora = mixer.q_lora or 0
            down = hidden * (q_lora + mixer.kv_lora + mixer.rope_dim) + q_lora + mixer.kv_lora
            index = (q_lora or hidden) * mixer.index_heads * mixer.index_dim
            return down + index + hidden * (mixer.index_dim + mixer.index_heads) + 2 * mixer.index_dim
        case LinearAttention():
            return mixer.v_dim if mixer.decay_gates else 0
        case _:
            return 0


def _mlp_replicated(mlp: Mlp | None, hidden: int) -> int:
    match mlp:
        case Dense():
            return hidden if mlp.bias else 0
        case Moe():
            gate = hidden if mlp.shared_gate else 0
            return hidden * mlp.experts + (mlp.experts if mlp.router_bias else 0) + gate
        case None:
            return 0


def _share(trained: bool) -> float:
    return 1.0 if trained else 0.0


def embedding_weights(arch: Architecture, trained: bool) -> Weights:
    """The token table is divided by vocabulary; learned positions and a norm are on every rank."""
    table = arch.vocab * arch.hidden
    rest = embedding_parameters(arch) - table
    return Weights(float(table), float(rest), trained=_share(trained))


def head_weights(arch: Architecture, trained: bool) -> Weights:
    """The output matrix (none where tied) is divided by vocabulary; the final norm is on every rank."""
    final = arch.hidden if arch.norm == "rms" else 2 * arch.hidden
    return Weights(float(head_parameters(arch) - final), float(final), trained=_share(trained))


def mtp_weights(arch: Architecture, trained: bool) -> Weights:
    """Projection of two hidden vectors to one and three norms, as `facts.parameters.mtp_parameters`."""
    norms = 3 * arch.hidden if arch.norm == "rms" else 6 * arch.hidden
    return Weights(2.0 * arch.hidden * arch.hidden, float(norms), trained=_share(trained))
