"""Parameter counts of an Architecture, part by part. Pure functions; every result is an exact integer.

A part's count is the sum of its matrices, biases, norms and small vectors, as they stand in a published
checkpoint of that family. Totals leave multi-token-prediction layers out (`mtp_parameters` has them), because
publishers quote the main model.
"""

from __future__ import annotations

from typing import Literal

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
    StateSpace,
)


def mixer_matmul_parameters(mixer: Mixer | None, hidden: int) -> int:
    """Weights of the mixer that every token is multiplied with [parameters].

    Depthwise convolutions are left out: they are bandwidth, not matrix work. ``hidden`` is the model width.
    """
    match mixer:
        case None:
            return 0
        case Attention():
            query = mixer.heads * mixer.head_dim
            key_value = 2 * mixer.kv_heads * mixer.head_dim
            return hidden * (query * (3 if mixer.output_gate else 2) + key_value)
        case LatentAttention():
            query_out = mixer.heads * (mixer.nope_dim + mixer.rope_dim)
            query = mixer.q_lora * (hidden + query_out) if mixer.q_lora else hidden * query_out
            down = hidden * (mixer.kv_lora + mixer.rope_dim)
            up = mixer.kv_lora * mixer.heads * (mixer.nope_dim + mixer.v_dim)
            index_query = (mixer.q_lora or hidden) * mixer.index_heads * mixer.index_dim
            index_key = hidden * (mixer.index_dim + mixer.index_heads)
            return query + down + up + mixer.heads * mixer.v_dim * hidden + index_query + index_key
        case StateSpace():
            inner = mixer.heads * mixer.head_dim
            if mixer.dt_rank is not None:
                return 3 * hidden * inner + inner * (2 * mixer.dt_rank + 2 * mixer.state)
            return hidden * (3 * inner + 2 * mixer.groups * mixer.state + mixer.heads)
        case LinearAttention():
            keys, values = mixer.k_heads * mixer.k_dim, mixer.v_heads * mixer.v_dim
            gates = (values if mixer.output_gate else 0) + (2 * mixer.v_heads if mixer.decay_gates else 0)
            return hidden * (2 * keys + 2 * values + gates)


def _mixer_vectors(mixer: Mixer | None, hidden: int) -> int:
    """Biases, inner norms, convolutions and per-head vectors of the mixer [parameters]."""
    match mixer:
        case None:
            return 0
        case Attention():
            bias = (mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim if mixer.qkv_bias else 0
            bias += hidden if mixer.out_bias else 0
            return bias + (2 * mixer.head_dim if mixer.qk_norm else 0) + (mixer.heads if mixer.sinks else 0)
        case LatentAttention():
            return (mixer.q_lora or 0) + mixer.kv_lora + 2 * mixer.index_dim
        case StateSpace():
            inner = mixer.heads * mixer.head_dim
            if mixer.dt_rank is not None:
                # convolution with bias, step bias, A per channel and state, D, and norms of step, B and C
                return inner * (mixer.conv + 1 + 1 + mixer.state + 1) + mixer.dt_rank + 2 * mixer.state
            convolved = inner + 2 * mixer.groups * mixer.state
            return convolved * (mixer.conv + 1) + 3 * mixer.heads + inner
        case LinearAttention():
            keys, values = mixer.k_heads * mixer.k_dim, mixer.v_heads * mixer.v_dim
            norm = mixer.v_dim if mixer.decay_gates else values
            return (2 * keys + values) * mixer.conv + (2 * mixer.v_heads if mixer.decay_gates else 0) + norm


def mixer_parameters(mixer: Mixer | None, hidden: int) -> int:
    """All parameters of a mixer [parameters]: projections, biases, inner norms; not the norm before it."""
    return mixer_matmul_parameters(mixer, hidden) + _mixer_vectors(mixer, hidden)


def _ffn_matrices(ffn: int, gated: bool, hidden: int) -> int:
    return (3 if gated else 2) * hidden * ffn


def _ffn_bias(ffn: int, gated: bool, hidden: int) -> int:
    return (2 if gated else 1) * ffn + hidden


def expert_parameters(mlp: Moe, hidden: int) -> int:
    """Parameters of one routed expert [parameters]."""
    bias = _ffn_bias(mlp.ffn, mlp.gated, hidden) if mlp.bias else 0
    return _ffn_matrices(mlp.ffn, mlp.gated, hidden) + bias


def shared_parameters(mlp: Mlp | None, hidden: int) -> int:
    """Parameters of an MLP that every token uses: a dense one, or router, gates and shared experts."""
    match mlp:
        case None:
            return 0
        case Dense():
            bias = _ffn_bias(mlp.ffn, mlp.gated, hidden) if mlp.bias else 0
            return _ffn_matrices(mlp.ffn, mlp.gated, hidden) + bias
        case Moe():
            shared = _ffn_matrices(mlp.shared_ffn, mlp.gated, hidden) + (hidden if mlp.shared_gate else 0)
            return shared + hidden * mlp.experts + (mlp.experts if mlp.router_bias else 0)


def mlp_parameters(mlp: Mlp | None, hidden: int) -> int:
    """All parameters of an MLP, every expert counted [parameters]."""
    routed = mlp.experts * expert_parameters(mlp, hidden) if isinstance(mlp, Moe) else 0
    return shared_parameters(mlp, hidden) + routed


def mlp_active_parameters(mlp: Mlp | None, hidden: int) -> int:
    """Parameters of an MLP that one token uses: ``topk`` of the routed experts [parameters]."""
    routed = mlp.topk * expert_parameters(mlp, hidden) if isinstance(mlp, Moe) else 0
    return shared_parameters(mlp, hidden) + routed


def mlp_matmul_parameters(mlp: Mlp | None, hidden: int) -> int:
    """Weights of an MLP that one token is multiplied with, router included [parameters]."""
    match mlp:
        case None:
            return 0
        case Dense():
            return _ffn_matrices(mlp.ffn, mlp.gated, hidden)
        case Moe():
            experts = _ffn_matrices(mlp.topk * mlp.ffn + mlp.shared_ffn, mlp.gated, hidden)
            return experts + hidden * mlp.experts + (hidden if mlp.shared_gate else 0)


def _norm(arch: Architecture, width: int) -> int:
    return width if arch.norm == "rms" else 2 * width


def layer_norm_parameters(layer: Layer, arch: Architecture) -> int:
    """Norms around mixer and mlp of one layer [parameters]; a layer with one part has half of the norms."""
    parts = (layer.mixer is not None) + (layer.mlp is not None)
    norms = arch.norms_per_layer if parts == 2 else max(1, arch.norms_per_layer // 2)
    return _norm(arch, norms * arch.hidden)


def layer_parameters(layer: Layer, arch: Architecture) -> int:
    """Parameters of ONE of the ``layer.count`` equal layers, norms and all experts included [parameters]."""
    parts = mixer_parameters(layer.mixer, arch.hidden) + mlp_parameters(layer.mlp, arch.hidden)
    return parts + layer_norm_parameters(layer, arch)


def layer_active_parameters(layer: Layer, arch: Architecture) -> int:
    """As `layer_parameters`, with ``topk`` routed experts only [parameters]."""
    parts = mixer_parameters(layer.mixer, arch.hidden) + mlp_active_parameters(layer.mlp, arch.hidden)
    return parts + layer_norm_parameters(layer, arch)


def embedding_parameters(arch: Architecture) -> int:
    """Token and learned position embeddings and the norm after them [parameters]."""
    norm = _norm(arch, arch.hidden) if arch.embedding_norm else 0
    return (arch.vocab + arch.positions) * arch.hidden + norm


def head_parameters(arch: Architecture) -> int:
    """Final norm, output matrix (0 when tied to the embedding) and its bias [parameters]."""
    matrix = 0 if arch.tied else arch.vocab * arch.hidden
    return _norm(arch, arch.hidden) + matrix + (arch.vocab if arch.head_bias else 0)


def mtp_parameters(arch: Architecture) -> int:
    """Parameters of the multi-token-prediction layers beyond the main model [parameters].

    One such layer is a copy of the last layer, a projection of two hidden vectors to one and three norms; it
    shares embedding and output matrix with the main model (DeepSeek-V3, arXiv:2412.19437, section 2.2).
    """
    own = 2 * arch.hidden * arch.hidden + _norm(arch, 3 * arch.hidden)
    return arch.mtp * (layer_parameters(arch.layers[-1], arch) + own)


def total_parameters(arch: Architecture) -> int:
    """All parameters of the main model [parameters]; multi-token-prediction layers are not included."""
    layers = sum(layer.count * layer_parameters(layer, arch) for layer in arch.layers)
    return embedding_parameters(arch) + layers + head_parameters(arch)


def active_parameters(arch: Architecture, counts: Literal["all", "head", "layers"] = "all") -> int:
    """Parameters that touch one token [parameters].

    Publishers differ, so ``counts`` says what is included: ``all``; ``head``: without the input embedding (a
    tied matrix still counts, the output layer uses it); ``layers``: without embedding and output matrix.
    """
    layers = sum(layer.count * layer_active_parameters(layer, arch) for layer in arch.layers)
    if counts == "layers":
        return layers
    lookup = embedding_parameters(arch) if counts == "all" or arch.tied else 0
    return lookup + layers + head_parameters(arch)


def matmul_parameters_per_token(arch: Architecture) -> int:
    """Weights that one token is multiplied with [parameters]: a forward pass costs 2 FLOPs for each of them.

    Active projections, experts, router and the output matrix (tied or not); embedding lookup, norms, biases,
    convolutions and the multi-token-prediction layers are left out. Training costs 6 FLOPs for each,
    attention scores and state updates come on top (Narayanan et al. 2021, arXiv:2104.04473, appendix).
    """
    layers = sum(
        layer.count
        * (mixer_matmul_parameters(layer.mixer, arch.hidden) + mlp_matmul_parameters(layer.mlp, arch.hidden))
        for layer in arch.layers
    )
    return layers + arch.vocab * arch.hidden
