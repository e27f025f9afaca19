"""Memory of one chip of a serving engine: weights, the cache that is left, and what else there is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from ridgeline.facts import catalog
from ridgeline.facts.architecture import (
    Architecture,
    Attention,
    Dense,
    LatentAttention,
    Layer,
    LinearAttention,
    Moe,
    StateSpace,
)
from ridgeline.facts.parameters import (
    embedding_parameters,
    expert_parameters,
    head_parameters,
    layer_norm_parameters,
    mixer_parameters,
    mtp_parameters,
)
from ridgeline.facts.serving import Layout, Precision, Service
from ridgeline.graph.serving.blocks import STATE_BYTES, adapter_parameters

#: Bytes of what checkpoints keep wide: embeddings, norms, routers.
WIDE_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one chip; ``kv`` is what is left for the cache (negative: the model does not fit).

    ``token_bytes`` and ``request_bytes``: cache of one token of context, and of a request whatever its context
    (recurrent states), on this chip. ``windowed``: of ``token_bytes``, by window, what stops growing there.
    """

    weights: float
    activations: float
    graphs: float
    reserve: float
    kv: float
    capacity: float
    token_bytes: float
    request_bytes: float
    windowed: tuple[tuple[float, float], ...] = ()

    def request_kv(self, tokens: float) -> float:
        """Cache of one request of ``tokens`` tokens on this chip [B]."""
        short = sum(each * max(tokens - window, 0.0) for window, each in self.windowed)
        return self.token_bytes * tokens - short + self.request_bytes

    def tokens(self, request_tokens: float) -> float:
        """Tokens of all requests of this length that the cache holds [1]; 0 where nothing is left."""
        if self.kv <= 0.0:
            return 0.0
        return self.kv / self.request_kv(request_tokens) * request_tokens


@lru_cache(maxsize=64)
def format_bytes(name: str) -> float:
    """Stored bytes of a weight, scales included; a search asks for it tens of thousands of times."""
    return catalog.number_format(name).weight_bytes


def memory(service: Service) -> Memory:
    """Memory of the fullest chip of one engine.

    As engines count: ``fraction x capacity - weights - activation peak - graphs - reserve`` is cache, or that fraction
    of what is free once the weights are there (TensorRT-LLM).
    """
    engine, capacity = service.engine, service.chip.memory.capacity
    fraction = service.limits.memory_fraction or engine.memory_fraction
    weights = weight_bytes(
        service.architecture, service.layout, service.precision, service.speculation.method
    ) + adapter_bytes(service)
    token, request, windowed = cache_bytes(service.architecture, service.layout, service.precision)
    speculation = service.speculation
    if speculation.method == "draft" and speculation.draft is not None:  # a model with a cache of its own
        weights += weight_bytes(speculation.draft, service.layout, service.precision)
        own = cache_bytes(speculation.draft, service.layout, service.precision)
        token, request, windowed = token + own[0], request + own[1], (*windowed, *own[2])
    activations = activation_bytes(service)
    reserve = reserve_bytes(service)
    used = weights + activations + engine.graph_bytes + reserve
    kv = fraction * capacity - used if engine.memory_of == "total" else fraction * (capacity - used)
    return Memory(weights, activations, engine.graph_bytes, reserve, kv, capacity, token, request, windowed)


def reserve_bytes(service: Service) -> float:
    """Driver, libraries and buffers of one chip [B], those between ranks included."""
    layout, peers = service.layout, service.cluster.tiers[0].peer_access
    grouped = peers and layout.tp * layout.dp > 1
    return service.engine.reserve + (service.engine.group_reserve if grouped else 0.0)


def weight_bytes(
    arch: Architecture, layout: Layout, precision: Precision, speculation: str = "none"
) -> float:
    """Weights of the fullest chip [B]: embedding and head stand on the first and last stage."""
    layers = sum(layer.count * _layer_bytes(layer, arch, layout, precision) for layer in arch.layers)
    head = head_parameters(arch) * format_bytes(precision.head)
    ends = (embedding_parameters(arch) * WIDE_BYTES + head) / layout.tp
    drafts = 0.0
    if speculation == "mtp" and arch.mtp:
        last = _layer_bytes(arch.layers[-1], arch, layout, precision)
        own = mtp_parameters(arch) - arch.mtp * _layer_total(arch.layers[-1], arch)
        drafts = arch.mtp * last + own * WIDE_BYTES
    if layout.pp == 1:
        return layers + ends + drafts
    return layers / layout.pp + ends / 2.0 + drafts


def adapter_bytes(service: Service) -> float:
    """Adapters that stay on one chip [B]."""
    adapters, layout = service.adapters, service.layout
    if not adapters.count:
        return 0.0
    each = adapter_parameters(service.architecture, layout, adapters.rank)
    return WIDE_BYTES * adapters.count * each / layout.pp


def _layer_total(layer: Layer, arch: Architecture) -> float:
    routed = (
        layer.mlp.experts * expert_parameters(layer.mlp, arch.hidden) if isinstance(layer.mlp, Moe) else 0
    )
    return mixer_parameters(layer.mixer, arch.hidden) + routed + layer_norm_parameters(layer, arch)


def _layer_bytes(layer: Layer, arch: Architecture, layout: Layout, precision: Precision) -> float:
    h, tp = arch.hidden, layout.tp
    narrow, attention = format_bytes(precision.linear), format_bytes(precision.of_attention)
    held = layer_norm_parameters(layer, arch) * WIDE_BYTES
    mixer = layer.mixer
    if isinstance(mixer, Attention):
        kv = 2 * mixer.kv_heads * mixer.head_dim * h
        rest = mixer_parameters(mixer, h) - kv
        held += attention * (rest / tp + kv / min(tp, mixer.kv_heads))
    elif isinstance(mixer, LatentAttention):
        down = h * ((mixer.q_lora or 0) + mixer.kv_lora + mixer.rope_dim)
        index = (mixer.q_lora or h) * mixer.index_heads * mixer.index_dim + h * (
            mixer.index_dim + mixer.index_heads
        )
        held += attention * (down + index + (mixer_parameters(mixer, h) - down - index) / tp)
    elif mixer is not None:
        held += attention * mixer_parameters(mixer, h) / tp
    mlp = layer.mlp
    if isinstance(mlp, Dense):
        held += narrow * (3 if mlp.gated else 2) * h * mlp.ffn / tp
    elif isinstance(mlp, Moe):
        routed = mlp.experts * expert_parameters(mlp, h) / (layout.ep * layout.moe_tp)
        held += format_bytes(precision.of_experts) * routed + WIDE_BYTES * h * mlp.experts
        held += narrow * (3 if mlp.gated else 2) * h * mlp.shared_ffn / tp
    return held


def cache_bytes(
    arch: Architecture, layout: Layout, precision: Precision
) -> tuple[float, float, tuple[tuple[float, float], ...]]:
    """Cache of one chip: bytes of a token of context, of a request, and by window what stops growing there."""
    stored = format_bytes(precision.kv)
    token = request = 0.0
    windowed: dict[float, float] = {}
    for layer in arch.layers:
        mixer, count = layer.mixer, layer.count / layout.pp
        if isinstance(mixer, Attention):
            each = count * 2 * max(1.0, mixer.kv_heads / layout.tp) * mixer.head_dim * stored
            token += each
            if mixer.window:
                windowed[float(mixer.window)] = windowed.get(float(mixer.window), 0.0) + each
        elif isinstance(mixer, LatentAttention):
            token += (
                count * (mixer.kv_lora + mixer.rope_dim) * stored
            )  # the same latents on every tensor rank
            token += count * (mixer.index_dim + 4.0 if mixer.index_heads else 0.0)
        elif isinstance(mixer, LinearAttention):
            state = mixer.v_heads * mixer.k_dim * mixer.v_dim * STATE_BYTES
            request += count * state / layout.tp
        elif isinstance(mixer, StateSpace):
            request += count * mixer.heads * mixer.head_dim * mixer.state * STATE_BYTES / layout.tp
    return token, request, tuple(sorted(windowed.items()))


def activation_bytes(service: Service) -> float:
    """Peak of a step with the most tokens, as engines measure it before they size the cache [B].

    The widest layer's input, residual and inner tensors in two bytes, or sampling for as many requests as may run,
    which every rank does for the whole vocabulary, whichever is more.
    """
    arch, layout = service.architecture, service.layout
    tokens, h = float(service.max_batched_tokens), float(arch.hidden)
    widest = 0.0
    for layer in arch.layers:
        mlp = layer.mlp
        if isinstance(mlp, Dense):
            widest = max(widest, 2.0 * (3 if mlp.gated else 2) * mlp.ffn / layout.tp)
        elif isinstance(mlp, Moe):
            slots = mlp.topk * layout.dp / layout.ep
            widest = max(widest, 2.0 * slots * (3 * mlp.ffn / layout.moe_tp + 2 * h))
        if isinstance(layer.mixer, Attention):
            widest = max(
                widest,
                2.0 * (2 * layer.mixer.heads + 2 * layer.mixer.kv_heads) * layer.mixer.head_dim / layout.tp,
            )
    logits = min(service.max_seqs, tokens) * arch.vocab * service.engine.logit_bytes
    return max(tokens * (6.0 * h + widest), logits)
