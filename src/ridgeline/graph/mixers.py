"""Mixer operators (attention, latent attention, state space, linear attention) of one sequence on one device."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.facts.architecture import Attention, LatentAttention, LinearAttention, StateSpace
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.graph.ops import COLUMN, HEADS, ROW, SEQUENCE, SHARD, FusedAttention, Gemm, Op, Stream

#: Chunk lengths of the chunked scans: Mamba-2 (arXiv:2405.21060, sec. 6) and gated DeltaNet kernels.
SSM_CHUNK = 256.0
LINEAR_CHUNK = 64.0


@dataclass(frozen=True, slots=True)
class Style:
    """How a stack writes its operators: everything a block needs besides the architecture."""

    seq: float  # tokens of one sequence
    document: float  # mean packed document length in tokens, seq when not packed
    stack: Stack
    recipe: Recipe
    trained: bool = True  # False: base weights are frozen (LoRA)
    lora_rank: int = 0


def linear(style: Style, name: str, n: float, k: float, split: str, *, saved: bool = True) -> list[Op]:
    """A linear layer with weights ``[n, k]``: matmul, the casts of its recipe and its low-rank adapter."""
    t, recipe = style.seq, style.recipe
    region = SEQUENCE if split in (COLUMN, SEQUENCE) else SHARD
    kept = recipe.saved_linear_bytes * t * k if saved and style.trained else 0.0
    ops: list[Op] = [Gemm(name, t, n, k, split=split, trained=style.trained, saved=kept, saved_split=region)]
    if recipe.cast_passes:
        out = SHARD if split == COLUMN else SEQUENCE
        ops.append(
            Stream(
                f"{name} cast", 2.0 * recipe.cast_passes * t * k, 0.0, split=_gathered(region), fusible=False
            )
        )
        ops.append(
            Stream(
                f"{name} gradient cast",
                0.0,
                2.0 * recipe.cast_passes * t * n,
                split=_gathered(out),
                fusible=False,
            )
        )
    if style.lora_rank:
        # two thin matmuls are memory bound: read x, write x A, read it back, add to y; backward does it twice
        moved = 2.0 * t * (k + 2.0 * n + 2.0 * style.lora_rank)
        ops.append(
            Stream(f"{name} adapter", moved, 2.0 * moved, split=region, saved=2.0 * t * k, saved_split=region,
                   launches=3.0, fusible=False)
        )  # fmt: skip
    return ops


def _gathered(region: str) -> str:
    """Casts run on what the matmul reads: the gathered sequence (every rank does all of it) or the shard."""
    return "whole" if region == SEQUENCE else region


def norm(style: Style, name: str, width: float, split: str = SEQUENCE) -> Stream:
    """RMS or layer norm over ``width`` features: read and write in bf16; backward reads twice and writes once."""
    t = style.seq
    return Stream(
        name, 4.0 * t * width, 6.0 * t * width, split=split, saved=2.0 * t * width, saved_split=split
    )


def residual(style: Style, name: str, width: float) -> Stream:
    """Residual add (with dropout where the stack has it): read two, write one."""
    t, mask = style.seq, 1.0 if style.stack.dropout else 0.0
    return Stream(name, (6.0 + mask) * t * width, (4.0 + mask) * t * width, saved=mask * t * width)


def core_attention(
    style: Style, *, heads: float, kv_heads: float, qk_dim: float, v_dim: float, window: float | None
) -> list[Op]:
    """Scores, softmax and values: one fused kernel, or separate matmuls as before FlashAttention.

    Pairs: a causal sequence of documents of ``d`` tokens computes ``d / 2`` keys per query; a window ``w`` limits
    them to ``w - w^2 / 2d``. Unfused kernels compute all ``seq`` keys.
    """
    s, d = style.seq, min(style.document, style.seq)
    if style.stack.attention == "unfused":
        mask = 1.0 if style.stack.dropout else 0.0
        scores = heads * s * s
        return [
            Gemm("scores", s, s, qk_dim, batch=heads, split=HEADS, role="attention", weight=False, selective=True),
            Stream(
                "softmax", 2.0 * style.stack.softmax_passes * scores, 2.0 * style.stack.softmax_passes * scores,
                split=HEADS, saved=(2.0 + 3.0 * mask) * scores, saved_split=HEADS, selective=True,
                launches=2.0 + mask, fusible=False,
            ),
            Gemm("values", s, v_dim, s, batch=heads, split=HEADS, role="attention", weight=False, selective=True),
        ]  # fmt: skip
    keys = d / 2.0
    if window is not None and window < d:
        keys = window - window * window / (2.0 * d)
    kept = 2.0 * s * heads * v_dim + 4.0 * s * heads
    return [FusedAttention("attention", 1.0, heads, kv_heads, s, s, qk_dim, v_dim, keys / s, saved=kept)]


def attention(mixer: Attention, hidden: float, style: Style) -> list[Op]:
    """Multi-head or grouped-query attention with its projections."""
    t, d = style.seq, float(mixer.head_dim)
    q, kv = mixer.heads * d, mixer.kv_heads * d
    gate = q if mixer.output_gate else 0.0
    rope = Stream("rotary", 4.0 * t * (q + kv), 4.0 * t * (q + kv), split=HEADS, saved=2.0 * t * (q + 2 * kv),
                  saved_split=HEADS)  # fmt: skip
    return [
        *linear(style, "qkv", q + 2 * kv + gate, hidden, COLUMN),
        rope,
        *core_attention(
            style, heads=mixer.heads, kv_heads=mixer.kv_heads, qk_dim=d, v_dim=d, window=mixer.window
        ),
        *linear(style, "proj", hidden, q, ROW, saved=style.recipe.saved_linear_bytes < 2.0),
    ]


def latent_attention(mixer: LatentAttention, hidden: float, style: Style) -> list[Op]:
    """Multi-head latent attention in its training form: keys and values are expanded (DeepSeek-V2, eq. 37-47)."""
    t, h = style.seq, float(mixer.heads)
    qk, v = float(mixer.nope_dim + mixer.rope_dim), float(mixer.v_dim)
    ops: list[Op] = []
    if mixer.q_lora:
        ops += linear(style, "q down", mixer.q_lora, hidden, SEQUENCE)
        ops.append(norm(style, "q norm", mixer.q_lora))
        ops += linear(style, "q up", h * qk, mixer.q_lora, COLUMN)
    else:
        ops += linear(style, "q", h * qk, hidden, COLUMN)
    ops += linear(style, "kv down", mixer.kv_lora + mixer.rope_dim, hidden, SEQUENCE)
    ops.append(norm(style, "kv norm", mixer.kv_lora))
    ops += linear(style, "kv up", h * (mixer.nope_dim + v), mixer.kv_lora, COLUMN)
    ops.append(
        Stream("rotary", 4.0 * t * h * (2 * qk), 4.0 * t * h * (2 * qk), split=HEADS,
               saved=2.0 * t * h * (2 * qk + v), saved_split=HEADS, launches=2.0)
    )  # fmt: skip
    ops += core_attention(style, heads=h, kv_heads=h, qk_dim=qk, v_dim=v, window=None)
    ops += linear(style, "proj", hidden, h * v, ROW, saved=style.recipe.saved_linear_bytes < 2.0)
    return ops


def state_space(mixer: StateSpace, hidden: float, style: Style) -> list[Op]:
    """Mamba-2 block in chunked (state-space duality) form: four small matmuls per head and chunk."""
    t, heads, p, n = style.seq, float(mixer.heads), float(mixer.head_dim), float(mixer.state)
    inner = heads * p
    c = min(SSM_CHUNK, t)
    chunks = heads * t / c
    wide = 2 * inner + 2 * mixer.groups * n + heads
    return [
        *linear(style, "in proj", wide, hidden, COLUMN),
        Stream("short convolution", 4.0 * t * (inner + 2 * mixer.groups * n), 6.0 * t * (inner + 2 * mixer.groups * n),
               split=SHARD, saved=2.0 * t * wide, saved_split=SHARD),
        Gemm("chunk scores", c, c, n, batch=chunks, split=HEADS, role="attention", weight=False, selective=True),
        Gemm("chunk values", c, p, c, batch=chunks, split=HEADS, role="attention", weight=False, selective=True),
        Gemm("chunk states", n, p, c, batch=2 * chunks, split=HEADS, role="attention", weight=False, selective=True),
        Stream("scan", 2.0 * t * inner * 4, 2.0 * t * inner * 6, split=SHARD, saved=2.0 * t * inner, saved_split=SHARD,
               launches=4.0),
        *linear(style, "out proj", hidden, inner, ROW),
    ]  # fmt: skip


def linear_attention(mixer: LinearAttention, hidden: float, style: Style) -> list[Op]:
    """Gated linear attention in chunked form (gated DeltaNet, arXiv:2412.06464)."""
    t = style.seq
    k, v = float(mixer.k_heads * mixer.k_dim), float(mixer.v_heads * mixer.v_dim)
    gates = (v if mixer.output_gate else 0.0) + (2.0 * mixer.v_heads if mixer.decay_gates else 0.0)
    c = min(LINEAR_CHUNK, t)
    chunks = mixer.v_heads * t / c
    ops = linear(style, "in proj", 2 * k + v + gates, hidden, COLUMN)
    if mixer.conv:
        ops.append(
            Stream("short convolution", 4.0 * t * (2 * k + v), 6.0 * t * (2 * k + v), split=SHARD,
                   saved=2.0 * t * (2 * k + v), saved_split=SHARD)
        )  # fmt: skip
    ops += [
        Gemm("chunk scores", c, c, mixer.k_dim, batch=2 * chunks, split=HEADS, role="attention", weight=False,
             selective=True),
        Gemm("chunk values", c, mixer.v_dim, c, batch=2 * chunks, split=HEADS, role="attention", weight=False,
             selective=True),
        Gemm("chunk states", mixer.k_dim, mixer.v_dim, c, batch=2 * chunks, split=HEADS, role="attention", weight=False,
             selective=True),
        Stream("recurrence", 2.0 * t * (2 * k + 3 * v), 4.0 * t * (2 * k + 3 * v), split=SHARD,
               saved=2.0 * t * (2 * k + 2 * v), saved_split=SHARD, launches=5.0),
        *linear(style, "out proj", hidden, v, ROW),
    ]  # fmt: skip
    return ops
