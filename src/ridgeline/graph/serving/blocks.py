"""The operators of one serving step: a model divided by a layout, in the formats of a precision.

Engines fuse what training keeps apart: the residual add with the norm after it, rotary with the write of the cache,
the activation with its product's quantisation; what is left are the passes below.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

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
from ridgeline.facts.serving import Adapters, Layout, Precision
from ridgeline.graph.serving.ops import Adapted, Block, Core, Experts, Message, Part, Pass, Product

#: Format of what no recipe narrows: routers, absorbed projections, scans.
WIDE = "bf16"

#: Recurrent states are kept in fp32.
STATE_BYTES = 4.0


def step_blocks(
    arch: Architecture,
    layout: Layout,
    precision: Precision,
    *,
    dispatcher: str = "all_reduce",
    fused_sum: bool = False,
    adapters: Adapters | None = None,
) -> tuple[Block, ...]:
    """Layers by kind, then embedding and head, on one rank of a model without pipeline (all layers)."""
    division = _Division(arch, layout, precision, dispatcher, fused_sum)
    layers = [division.layer(layer) for layer in arch.layers]
    if adapters is not None and adapters.count:
        layers = [_with_adapters(layer, adapters) for layer in layers]
    return (*layers, division.ends())


def mtp_blocks(
    arch: Architecture,
    layout: Layout,
    precision: Precision,
    *,
    dispatcher: str = "all_reduce",
    fused_sum: bool = False,
) -> tuple[Block, ...]:
    """One multi-token-prediction layer with its projection and the head it shares, which drafts one token."""
    division = _Division(arch, layout, precision, dispatcher, fused_sum)
    last = division.layer(arch.layers[-1].model_copy(update={"count": 1}))
    h = float(arch.hidden)
    join = Block("mtp", 1.0, (Pass("mtp norms", 12.0 * h), Product("mtp proj", h, 2.0 * h, WIDE)))
    return (join, last, division.ends())


def adapter_parameters(arch: Architecture, layout: Layout, rank: int) -> float:
    """Parameters of one adapter on one rank of a model without pipeline.

    First factors of products that are cut by columns, and second factors of those cut by rows, are whole on each rank.
    """
    blocks = step_blocks(arch, layout, Precision(), adapters=Adapters(count=1, rank=rank))
    return sum(
        block.count * part.parameters for block in blocks for part in block.parts if isinstance(part, Adapted)
    )


def _with_adapters(block: Block, adapters: Adapters) -> Block:
    """Each changed product followed by what adapters add to it."""
    parts: list[Part] = []
    for part in block.parts:
        parts.append(part)
        if isinstance(part, Product) and part.adapted:
            name, rank = f"{part.name} adapters", float(adapters.rank)
            parts.append(Adapted(name, part.n, part.k, rank, float(part.adapted), where=part.where))
    return replace(block, parts=tuple(parts))


class _Division:
    """A model under one layout: what each rank does for one of its tokens."""

    def __init__(
        self, arch: Architecture, layout: Layout, precision: Precision, dispatcher: str, fused_sum: bool
    ) -> None:
        self.arch, self.layout, self.precision, self.dispatcher = arch, layout, precision, dispatcher
        self.h, self.tp = float(arch.hidden), float(layout.tp)
        self.norm_kernels = 0.0 if fused_sum and layout.tp > 1 else 1.0

    def layer(self, layer: Layer) -> Block:
        """One layer kind."""
        parts: list[Part] = []
        if layer.mixer is not None:
            parts += [self._norm("mixer norm"), *self._mixer(layer)]
        if layer.mlp is not None:
            parts += [self._norm("mlp norm"), *self._mlp(layer)]
        kind = f"{layer.mixer.kind if layer.mixer else 'none'}+{layer.mlp.kind if layer.mlp else 'none'}"
        return Block(kind, float(layer.count), tuple(parts))

    def ends(self) -> Block:
        """Embedding, and for the rows that get a token: final norm, output layer, its gathering and sampling."""
        vocab = self.arch.vocab / self.tp
        parts: list[Part] = [Pass("embedding", 4.0 * self.h)]
        if self.tp > 1:
            parts.append(Message("embedding sum", "all_reduce", 2.0 * self.h, "tp"))
        parts += [
            Pass("final norm", 4.0 * self.h, per="request"),
            Product("head", vocab, self.h, self.precision.head, per="request"),
        ]
        if self.tp > 1:
            parts.append(Message("logits", "all_gather", 2.0 * self.arch.vocab, "tp", per="request"))
        # fp32 logits: cast, penalty or temperature, softmax or argmax
        parts.append(Pass("sampling", 14.0 * self.arch.vocab, per="request", kernels=4.0))
        return Block("ends", 1.0, tuple(parts))

    def _norm(self, name: str) -> Pass:
        """Residual add and norm in one kernel, or inside the all-reduce before it: both read, both written."""
        return Pass(name, 8.0 * self.h, kernels=self.norm_kernels)

    def _sum(self, name: str) -> list[Part]:
        return [Message(name, "all_reduce", 2.0 * self.h, "tp")] if self.tp > 1 else []

    def _gather(self, size: float) -> list[Part]:
        """Context parallelism: a rank's tokens see the keys and values of all, gathered layer by layer.

        ``size``: keys and values of a token [B]; the buffer holds those of all ranks.
        """
        cp = float(self.layout.cp)
        return [Message("keys of all ranks", "all_gather", size * cp, "cp")] if cp > 1 else []

    # Mixers

    def _mixer(self, layer: Layer) -> list[Part]:
        parallel = layer.parallel and layer.mlp is not None  # one sum for both branches, counted with the mlp
        match layer.mixer:
            case Attention():
                parts = self._attention(layer.mixer)
            case LatentAttention():
                parts = self._latent(layer.mixer)
            case LinearAttention():
                parts = self._linear(layer.mixer)
            case StateSpace():
                parts = self._state_space(layer.mixer)
            case None:
                return []
        return parts if parallel else parts + self._sum("mixer sum")

    def _attention(self, mixer: Attention) -> list[Part]:
        form, d = self.precision.of_attention, float(mixer.head_dim)
        heads, kv = mixer.heads / self.tp, max(1.0, mixer.kv_heads / self.tp)
        q, k = heads * d, kv * d
        gate = q if mixer.output_gate else 0.0
        reach = float(mixer.window or "inf")
        parts: list[Part] = [Product("qkv", q + 2 * k + gate, self.h, form, adapted=3)]
        if mixer.qk_norm:
            parts.append(Pass("qk norm", 4.0 * (q + k)))
        parts += [
            Pass("rotary and cache", 4.0 * (q + k) + 4.0 * k),
            *self._gather(4.0 * k),
            Core("attention", "attention", heads, kv, d, d, reach, mixer.chunked),
        ]
        if gate:
            parts.append(Pass("output gate", 6.0 * q))
        return [*parts, Product("proj", self.h, q, form, adapted=1)]

    def _latent(self, mixer: LatentAttention) -> list[Part]:
        """Prefill expands the cache into heads; decode absorbs the projections into latents (arXiv:2405.04434)."""
        form, heads = self.precision.of_attention, mixer.heads / self.tp
        nope, rope, v = float(mixer.nope_dim), float(mixer.rope_dim), float(mixer.v_dim)
        lora, qk = float(mixer.kv_lora), float(mixer.nope_dim + mixer.rope_dim)
        down = lora + rope + (mixer.q_lora or 0)
        parts: list[Part] = [Product("down", down, self.h, form, adapted=2), Pass("latent norms", 4.0 * down)]
        parts.append(Product("q up", heads * qk, float(mixer.q_lora or self.h), form, adapted=1))
        parts += [
            Product("kv up", heads * (nope + v), lora, form, where="prefill", adapted=1),
            Product("absorbed k", lora, nope, WIDE, copies=heads, where="decode"),
            Pass("rotary and cache", 4.0 * heads * rope + 4.0 * (lora + rope)),
        ]
        parts += self._gather(2.0 * (lora + rope))
        reach = float(mixer.index_topk or "inf")
        if mixer.index_heads:
            wide = float(mixer.index_heads * mixer.index_dim)
            parts += [
                Product("index q", wide, float(mixer.q_lora or self.h), form),
                Product("index k", mixer.index_dim + mixer.index_heads, self.h, WIDE),
                Core("index", "index", float(mixer.index_heads), 1.0, float(mixer.index_dim), 0.0),
            ]
        parts += [
            Core(
                "attention", "latent", heads, heads, qk, v, reach,
                latent_dim=lora + rope, latent_v=lora, expand_n=heads * (nope + v),
            ),
            Product("absorbed v", v, lora, WIDE, copies=heads, where="decode"),
            Product("proj", self.h, heads * v, form, adapted=1),
        ]  # fmt: skip
        return parts

    def _linear(self, mixer: LinearAttention) -> list[Part]:
        """Gated linear attention: decode reads and writes the state of each head, prefill scans chunks of 64 tokens."""
        form = self.precision.of_attention
        keys, values = mixer.k_heads * mixer.k_dim / self.tp, mixer.v_heads * mixer.v_dim / self.tp
        gates = (values if mixer.output_gate else 0.0) + (
            2 * mixer.v_heads / self.tp if mixer.decay_gates else 0.0
        )
        state = mixer.v_heads / self.tp * mixer.k_dim * mixer.v_dim * STATE_BYTES
        heads = mixer.v_heads / self.tp
        return [
            Product("in proj", 2 * keys + values + gates, self.h, form, adapted=1),
            Pass("short convolution", 4.0 * (2 * keys + values)),
            Pass("state update", 2.0 * state + 4.0 * (2 * keys + 2 * values), where="decode"),
            # scores and values within a chunk, and the state's part: about four products of a token with 64 columns
            Product("chunk", 64.0 * 4.0, (mixer.k_dim + mixer.v_dim) / 2.0, WIDE, copies=heads, where="prefill"),
            Pass("chunk states", 2.0 * state / 64.0 + 8.0 * (2 * keys + 2 * values), where="prefill", kernels=6.0),
            Pass("output norm and gate", 6.0 * values),
            Product("out proj", self.h, values, form, adapted=1),
        ]  # fmt: skip

    def _state_space(self, mixer: StateSpace) -> list[Part]:
        """Mamba: decode updates one state a head, prefill scans."""
        form, inner = self.precision.of_attention, mixer.heads * mixer.head_dim / self.tp
        groups = max(1.0, mixer.groups / self.tp)
        state = inner * mixer.state * STATE_BYTES
        convolved = inner + 2 * groups * mixer.state
        wide = 2.0 * inner if mixer.dt_rank is not None else inner + convolved + mixer.heads / self.tp
        parts: list[Part] = [
            Product("in proj", wide, self.h, form, adapted=1),
            Pass("short convolution", 4.0 * convolved),
            Pass("state update", 2.0 * state + 4.0 * convolved, where="decode"),
            Pass("scan", 2.0 * state / 256.0 + 16.0 * convolved, where="prefill", kernels=5.0),
        ]
        if mixer.dt_rank is not None:
            # Step size, B and C come from all channels, which the ranks share: one more sum, of these few columns
            # (vllm/model_executor/layers/mamba/mamba_mixer.py: x_proj is row parallel).
            few = float(mixer.dt_rank) + 2 * mixer.state
            parts.append(Product("x proj", few, inner, WIDE))
            if self.tp > 1:
                parts.append(Message("x proj sum", "all_reduce", 2.0 * few, "tp"))
            parts.append(Product("dt proj", inner, float(mixer.dt_rank), WIDE))
        return [*parts, Product("out proj", self.h, inner, form, adapted=1)]

    # Feed-forward

    def _mlp(self, layer: Layer) -> list[Part]:
        match layer.mlp:
            case Dense():
                dense = self._dense("fc", layer.mlp.ffn / self.tp, layer.mlp.gated)
                return dense + self._sum("mlp sum")
            case Moe():
                return self._moe(layer.mlp)
            case None:
                return []

    def _dense(self, name: str, inner: float, gated: bool, beside: bool = False) -> list[Part]:
        arms, form = 2.0 if gated else 1.0, self.precision.linear
        return [
            Product(f"{name}1", arms * inner, self.h, form, adapted=int(arms), beside=beside),
            Pass(f"{name} activation", 2.0 * (arms + 1.0) * inner, beside=beside),
            Product(f"{name}2", self.h, inner, form, adapted=1, beside=beside),
        ]

    def _moe(self, mlp: Moe) -> list[Part]:
        """Router, exchange of tokens where attention is data parallel, experts, shared experts, sum."""
        layout, h = self.layout, self.h
        parts: list[Part] = [Product("router", float(mlp.experts), h, WIDE)]
        spread = layout.dp > 1
        if spread:
            parts += self._exchange(mlp, out=True)
        parts.append(
            Experts(
                "experts", h, mlp.ffn / layout.moe_tp, float(mlp.experts), float(mlp.topk), float(layout.ep),
                2.0 if mlp.gated else 1.0, self.precision.of_experts, float(layout.dp),
            )
        )  # fmt: skip
        if spread:
            parts += self._exchange(mlp, out=False)
        if mlp.shared_ffn:
            parts += self._dense("shared", mlp.shared_ffn / self.tp, mlp.gated, beside=True)
            parts.append(Pass("shared add", 6.0 * h))
        # without attention data parallelism one sum joins experts and shared experts
        return parts if spread and self.tp == 1 else parts + self._sum("mlp sum")

    def _exchange(self, mlp: Moe, *, out: bool) -> list[Part]:
        """Tokens to their experts and back: gathered whole, or sent where they are needed (DeepEP and its kin)."""
        narrow = 1.0 if self.precision.of_experts.startswith(("fp8", "nvfp4", "mxfp")) else 2.0
        if self.dispatcher == "deepep" and self.layout.ep > 1:
            size = (narrow if out else 2.0) * self.h
            kind: Literal["dispatch", "combine"] = "dispatch" if out else "combine"
            return [
                Message(
                    f"expert {kind}", kind, size, "experts", topk=float(mlp.topk), experts=float(mlp.experts)
                )
            ]
        size = (narrow if out else 2.0) * self.h * self.layout.dp
        if out:
            return [Message("expert gather", "all_gather", size, "experts")]
        return [Message("expert scatter", "reduce_scatter", size, "experts")]
