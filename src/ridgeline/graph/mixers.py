"""Mixer operators (attention, latent attention, state space, linear attention) of one sequence."""

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
    rotary: bool = True  # False: positions are added to the embedding
    trained: bool = True  # False: base weights are frozen (LoRA)
    lora_rank: int = 0

    @property
    def attention_bytes(self) -> float:
        """Bytes per value of queries, keys and values kept for the backward pass of attention."""
        return 1.0 if self.recipe.attention.startswith("fp8") else 2.0

    @property
    def narrow_linear(self) -> bool:
        """Linear layers keep a low-precision copy of their input, besides what its producer keeps in bf16."""
        return self.recipe.saved_linear_bytes < 2.0

    @property
    def modules(self) -> bool:
        """Selective recompute repeats norms and activations, as frameworks do once attention is fused.

        Before that it repeated the scores of attention (arXiv:2205.05198, section 5); Megatron-Core lists the
        modules as ``recompute_modules`` (layernorm, moe_act, mlp, mla_up_proj).
        """
        return self.stack.attention != "unfused"


def linear(
    style: Style,
    name: str,
    n: float,
    k: float,
    split: str,
    *,
    saved: bool = True,
    saved_out: float = 0.0,
    adapted: bool = False,
    kv_columns: float = 0.0,
    kv_heads: float = 1.0,
    talks: bool = True,
    selective: bool = False,
    remade: bool = False,
) -> list[Op]:
    """A linear layer with weights ``[n, k]``: matmul, the casts of its recipe and its low-rank adapter.

    ``saved``: the input is kept for the weight gradient (or for the adapter, where the weights are frozen)
    and no other operator keeps it. ``saved_out``: bytes of the output that the next operator needs for its
    backward. ``adapted``: low-rank training adapts this layer. ``remade``: the input comes from a norm or an
    activation that selective recompute repeats.
    """
    t, recipe = style.seq, style.recipe
    region = SEQUENCE if split in (COLUMN, SEQUENCE) else SHARD
    kept = recipe.saved_linear_bytes * t * k if saved and style.trained else 0.0
    ops: list[Op] = [
        Gemm(
            name,
            t,
            n,
            k,
            split=split,
            trained=style.trained,
            saved=kept,
            saved_split=region,
            saved_out=saved_out,
            remade=remade and style.modules,
            kv_columns=kv_columns,
            kv_heads=kv_heads,
            talks=talks,
            selective=selective,
        )
    ]
    if recipe.cast_passes:
        out = SHARD if split == COLUMN else SEQUENCE
        passes = 2.0 * recipe.cast_passes
        ops += [
            Stream(f"{name} cast", passes * t * k, 0.0, split=_gathered(region), fusible=False),
            Stream(f"{name} gradient cast", 0.0, passes * t * n, split=_gathered(out), fusible=False),
        ]
    if style.lora_rank and adapted:
        # two thin matmuls are memory bound: read x, write x A, read it back, add to y; backward does it twice
        moved = 2.0 * t * (k + 2.0 * n + 2.0 * style.lora_rank)
        input_kept = 2.0 * t * k if saved else 0.0
        ops.append(
            Stream(
                f"{name} adapter",
                moved,
                2.0 * moved,
                split=region,
                saved=input_kept,
                saved_split=region,
                launches=3.0,
                fusible=False,
            )
        )
    return ops


def _gathered(region: str) -> str:
    """Casts run on what the matmul reads: the gathered sequence (every rank does all of it) or the shard."""
    return "whole" if region == SEQUENCE else region


def norm(style: Style, name: str, width: float, split: str = SEQUENCE, *, again: bool = True) -> Stream:
    """RMS or layer norm over ``width`` features: bf16 read and write; backward reads twice, writes once.

    ``again``: selective recompute may repeat it, so that its output need not be kept.
    """
    t = style.seq
    return Stream(
        name,
        4.0 * t * width,
        6.0 * t * width,
        split=split,
        saved=2.0 * t * width,
        saved_split=split,
        selective=style.modules and again,
        keeps=True,
    )


def residual(style: Style, name: str, width: float, branches: float = 1.0) -> Stream:
    """Residual add (with dropout where the stack has it): read the stream and ``branches``, write one."""
    t, mask = style.seq, 1.0 if style.stack.dropout else 0.0
    return Stream(
        name,
        (4.0 + 2.0 * branches + mask) * t * width,
        (4.0 + mask) * t * width,
        saved=mask * t * width,
    )


def keys_per_query(style: Style, window: float | None = None, chunked: bool = False) -> float:
    """Mean number of keys that a query of a causal sequence sees.

    A document of ``d`` tokens gives ``d / 2``; a sliding window ``w < d`` (or the ``w`` keys that an
    indexer selects) gives ``w - w^2 / 2d``; fixed chunks of ``w`` are documents of their own, ``w / 2``.
    """
    d = min(style.document, style.seq)
    if window is None or window >= d:
        return d / 2.0
    return window / 2.0 if chunked else window - window * window / (2.0 * d)


def core_attention(
    style: Style,
    *,
    heads: float,
    kv_heads: float,
    qk_dim: float,
    v_dim: float,
    keys: float,
) -> list[Op]:
    """Scores, softmax and values: one fused kernel, or separate matmuls as before FlashAttention.

    ``keys`` per query are computed by the fused kernel; unfused kernels compute all of the sequence.
    Selective recompute repeats the unfused form; a fused kernel keeps so little that it is never repeated.
    """
    s = style.seq
    if style.stack.attention == "unfused":
        mask = 1.0 if style.stack.dropout else 0.0
        scores = heads * s * s
        return [
            Gemm(
                "scores",
                s,
                s,
                qk_dim,
                batch=heads,
                split=HEADS,
                role="attention",
                weight=False,
                selective=True,
            ),
            Stream(
                "softmax",
                2.0 * style.stack.softmax_passes * scores,
                2.0 * style.stack.softmax_passes * scores,
                split=HEADS,
                saved=(2.0 + 3.0 * mask) * scores,
                saved_split=HEADS,
                selective=True,
                launches=2.0 + mask,
                fusible=False,
            ),
            Gemm(
                "values",
                s,
                v_dim,
                s,
                batch=heads,
                split=HEADS,
                role="attention",
                weight=False,
                selective=True,
            ),
        ]
    # the output in the format of attention, and the fp32 logarithm of each row's sum
    kept = style.attention_bytes * s * heads * v_dim + 4.0 * s * heads
    return [FusedAttention("attention", 1.0, heads, kv_heads, s, s, qk_dim, v_dim, keys / s, saved=kept)]


def _projection(style: Style, hidden: float, width: float, *, gated: bool, talks: bool = True) -> list[Op]:
    """Output projection; fused attention keeps its input, unless another format or a gate is between."""
    own = gated or style.stack.attention == "unfused" or style.narrow_linear or style.attention_bytes < 2.0
    return linear(style, "proj", hidden, width, ROW, saved=own, adapted=True, talks=talks)


def attention(mixer: Attention, hidden: float, style: Style, *, talks: bool = True) -> list[Op]:
    """Multi-head or grouped-query attention with its projections.

    ``talks`` is False where the mlp runs beside attention and both outputs are added before they are reduced.
    """
    t, d = style.seq, float(mixer.head_dim)
    q, kv = mixer.heads * d, mixer.kv_heads * d
    gate = q if mixer.output_gate else 0.0
    kept = style.attention_bytes * t * (q + 2 * kv) + 2.0 * t * gate
    ops = linear(
        style,
        "qkv",
        q + 2 * kv + gate,
        hidden,
        COLUMN,
        saved_out=kept,
        adapted=True,
        kv_columns=2 * kv,
        kv_heads=float(mixer.kv_heads),
        remade=True,
    )
    if mixer.qk_norm:
        ops.append(norm(style, "qk norm", q + kv, HEADS))
    if style.rotary:
        ops.append(Stream("rotary", 4.0 * t * (q + kv), 4.0 * t * (q + kv), split=HEADS))
    window = None if mixer.window is None else float(mixer.window)
    keys = keys_per_query(style, window, mixer.chunked)
    ops += core_attention(style, heads=mixer.heads, kv_heads=mixer.kv_heads, qk_dim=d, v_dim=d, keys=keys)
    if gate:
        ops.append(Stream("output gate", 6.0 * t * q, 10.0 * t * q, split=HEADS))
    return ops + _projection(style, hidden, q, gated=bool(gate), talks=talks)


def latent_attention(mixer: LatentAttention, hidden: float, style: Style, *, talks: bool = True) -> list[Op]:
    """Multi-head latent attention in its training form: keys and values are expanded (DeepSeek-V2, eq.
    37-47).

    Selective recompute repeats the up-projections instead of the core: what they make is most of what is
    kept, and it comes from small inputs (DeepSeek-V3, arXiv:2412.19437, sec. 3.2.3).

    With an indexer (DeepSeek-V3.2, arXiv:2512.02556) each query attends to the ``index_topk`` keys of
    highest score.
    """
    t, h = style.seq, float(mixer.heads)
    qk, v = float(mixer.nope_dim + mixer.rope_dim), float(mixer.v_dim)
    ops: list[Op] = []
    if mixer.q_lora:
        ops += linear(style, "q down", mixer.q_lora, hidden, SEQUENCE, remade=True)
        ops.append(norm(style, "q norm", mixer.q_lora))
        ops += linear(style, "q up", h * qk, mixer.q_lora, COLUMN, adapted=True, selective=True)
    else:
        ops += linear(style, "q", h * qk, hidden, COLUMN, adapted=True, remade=True)
    ops += linear(style, "kv down", mixer.kv_lora + mixer.rope_dim, hidden, SEQUENCE, remade=True)
    ops.append(norm(style, "kv norm", mixer.kv_lora))
    ops += linear(
        style, "kv up", h * (mixer.nope_dim + v), mixer.kv_lora, COLUMN, adapted=True, selective=True
    )
    # rotary also joins the parts with and without position: it makes the queries and keys that attention
    # keeps
    kept = style.attention_bytes * t * h * (2 * qk + v)
    ops.append(
        Stream(
            "rotary",
            4.0 * t * h * (2 * qk),
            4.0 * t * h * (2 * qk),
            split=HEADS,
            saved=kept,
            saved_split=HEADS,
            launches=2.0,
            selective=True,
        )
    )
    if mixer.index_heads:
        ops += _indexer(mixer, hidden, style)
    selected = float(mixer.index_topk) if mixer.index_topk else None
    keys = keys_per_query(style, selected)
    ops += core_attention(style, heads=h, kv_heads=h, qk_dim=qk, v_dim=v, keys=keys)
    return ops + _projection(style, hidden, h * v, gated=False, talks=talks)


def _indexer(mixer: LatentAttention, hidden: float, style: Style) -> list[Op]:
    """Lightning indexer: a score of every earlier key, summed over a few small heads, then the top k.

    One kernel multiplies all heads and sums them, so its output is one fp32 score for each pair.
    """
    t, heads, dim = style.seq, float(mixer.index_heads), float(mixer.index_dim)
    pairs = keys_per_query(style)
    return [
        *linear(style, "index q", heads * dim, float(mixer.q_lora or hidden), SEQUENCE, saved=False),
        *linear(style, "index k", dim + heads, hidden, SEQUENCE, saved=False),
        Gemm(
            "index scores",
            t,
            pairs,
            heads * dim,
            split=SEQUENCE,
            role="attention",
            weight=False,
            selective=True,
        ),
        Stream("index top-k", 8.0 * t * pairs, 4.0 * t * pairs, launches=2.0, fusible=False),
    ]


def state_space(mixer: StateSpace, hidden: float, style: Style, *, talks: bool = True) -> list[Op]:
    """Mamba-2 block in chunked (state-space duality) form: four small matmuls per head and chunk."""
    if mixer.dt_rank is not None:
        return _selective_scan(mixer, hidden, style, talks=talks)
    t, heads, p, n = style.seq, float(mixer.heads), float(mixer.head_dim), float(mixer.state)
    inner = heads * p
    c = min(SSM_CHUNK, t)
    chunks = heads * t / c
    convolved = inner + 2 * mixer.groups * n
    wide = inner + convolved + heads
    return [
        *linear(style, "in proj", wide, hidden, COLUMN, saved_out=2.0 * t * wide, remade=True),
        Stream("short convolution", 4.0 * t * convolved, 6.0 * t * convolved, split=SHARD),
        _chunk("chunk scores", c, c, n, chunks),
        _chunk("chunk values", c, p, c, chunks),
        _chunk("chunk states", n, p, c, 2 * chunks),
        Stream(
            "scan",
            2.0 * t * inner * 4,
            2.0 * t * inner * 6,
            split=SHARD,
            saved=2.0 * t * inner,
            saved_split=SHARD,
            launches=4.0,
            exchange=2.0 * t * (wide + inner),
        ),
        *linear(style, "out proj", hidden, inner, ROW, talks=talks),
    ]


def _selective_scan(mixer: StateSpace, hidden: float, style: Style, *, talks: bool) -> list[Op]:
    """Mamba-1 (arXiv:2312.00752): one fused scan that keeps its states in the cores' memory."""
    t, inner = style.seq, float(mixer.heads * mixer.head_dim)
    rank, n = float(mixer.dt_rank or 0), float(mixer.state)
    moved = 2.0 * t * (4.0 * inner + 2.0 * n)
    return [
        *linear(style, "in proj", 2 * inner, hidden, COLUMN, saved_out=4.0 * t * inner, remade=True),
        Stream("short convolution", 4.0 * t * inner, 6.0 * t * inner, split=SHARD),
        *linear(style, "x proj", rank + 2 * n, inner, ROW),
        *linear(style, "dt proj", inner, rank, COLUMN, saved_out=2.0 * t * inner, talks=False),
        Stream(
            "scan",
            moved,
            2.0 * moved,
            split=SHARD,
            saved=2.0 * t * inner,
            saved_split=SHARD,
            exchange=2.0 * t * (3.0 * inner + 2.0 * n),
        ),
        *linear(style, "out proj", hidden, inner, ROW, talks=talks),
    ]


def _chunk(name: str, m: float, n: float, k: float, batch: float) -> Gemm:
    """One of the small products of a chunked scan: ``batch`` chunks over all heads, no weights."""
    return Gemm(
        name, m, n, k, batch=batch, split=HEADS, role="attention", weight=False, selective=True, chunked=True
    )


def linear_attention(mixer: LinearAttention, hidden: float, style: Style, *, talks: bool = True) -> list[Op]:
    """Gated linear attention in chunked form (gated DeltaNet, arXiv:2412.06464)."""
    t = style.seq
    k, v = float(mixer.k_heads * mixer.k_dim), float(mixer.v_heads * mixer.v_dim)
    gates = (v if mixer.output_gate else 0.0) + (2.0 * mixer.v_heads if mixer.decay_gates else 0.0)
    c = min(LINEAR_CHUNK, t)
    chunks = mixer.v_heads * t / c
    wide = 2 * k + v + gates
    kept = 2.0 * t * (wide if mixer.conv else gates)
    ops = linear(style, "in proj", wide, hidden, COLUMN, saved_out=kept, remade=True)
    if mixer.conv:
        ops.append(Stream("short convolution", 4.0 * t * (2 * k + v), 6.0 * t * (2 * k + v), split=SHARD))
    ops += [
        _chunk("chunk scores", c, c, mixer.k_dim, 2 * chunks),
        _chunk("chunk values", c, mixer.v_dim, c, 2 * chunks),
        _chunk("chunk states", mixer.k_dim, mixer.v_dim, c, 2 * chunks),
        Stream(
            "recurrence",
            2.0 * t * (2 * k + 3 * v),
            4.0 * t * (2 * k + 3 * v),
            split=SHARD,
            saved=2.0 * t * (2 * k + 2 * v),
            saved_split=SHARD,
            launches=5.0,
            exchange=2.0 * t * (wide + v),
        ),
    ]
    return ops + linear(style, "out proj", hidden, v, ROW, talks=talks)
