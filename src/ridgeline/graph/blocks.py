"""Blocks: the operators, messages and weights of one layer, the embedding and the head, on one device.

Everything is for one sequence; `ridgeline.graph.parallel` then scales by the micro-batch and divides by each axis.
Activation bytes follow Korthikanti et al. (arXiv:2205.05198, eq. 1-2): their 34 s b h per layer is reproduced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ridgeline.facts.architecture import Architecture, Dense, Layer, Moe
from ridgeline.facts.parameters import (
    embedding_parameters,
    head_parameters,
    mixer_parameters,
    mlp_parameters,
)
from ridgeline.graph.mixers import (
    Style,
    attention,
    latent_attention,
    linear,
    linear_attention,
    norm,
    residual,
    state_space,
)
from ridgeline.graph.ops import COLUMN, EXPERT, ROW, SEQUENCE, SHARD, Block, Gemm, Op, Stream, Weights

_MIXERS: dict[str, Callable[[Any, float, Style], list[Op]]] = {
    "attention": attention,
    "mla": latent_attention,
    "ssm": state_space,
    "linear": linear_attention,
}


def layer_block(arch: Architecture, layer: Layer, style: Style) -> Block:
    """One layer of ``arch``: norm, mixer, residual, norm, mlp, residual."""
    h = float(arch.hidden)
    ops: list[Op] = []
    if layer.mixer is not None:
        ops.append(norm(style, "mixer norm", h))
        ops += _MIXERS[layer.mixer.kind](layer.mixer, h, style)
        ops.append(residual(style, "mixer residual", h))
    if layer.mlp is not None:
        if not (layer.parallel and layer.mixer is not None):
            ops.append(norm(style, "mlp norm", h))
        ops += _moe(layer.mlp, h, style) if isinstance(layer.mlp, Moe) else _dense(layer.mlp, h, style)
        ops.append(residual(style, "mlp residual", h))
    extra_norms = arch.norms_per_layer - 2
    ops += [norm(style, f"post norm {i + 1}", h) for i in range(max(extra_norms, 0))]
    return Block(
        name=_kind(layer),
        ops=tuple(ops),
        weights=_weights(layer, arch, style),
        input_bytes=2.0 * style.seq * h,
    )


def _kind(layer: Layer) -> str:
    mixer = layer.mixer.kind if layer.mixer else "none"
    window = getattr(layer.mixer, "window", None)
    return f"{mixer}{f'-w{window}' if window else ''}+{layer.mlp.kind if layer.mlp else 'none'}"


def _dense(mlp: Dense, h: float, style: Style) -> list[Op]:
    return _feed_forward(style, "fc1", "activation", "fc2", float(mlp.ffn), h, mlp.gated)


def _feed_forward(style: Style, up: str, act: str, down: str, f: float, h: float, gated: bool) -> list[Op]:
    t, arms = style.seq, 2.0 if gated else 1.0
    return [
        *linear(style, up, arms * f, h, COLUMN),
        Stream(act, 2.0 * (arms + 1.0) * t * f, 2.0 * (2.0 * arms + 1.0) * t * f, split=SHARD,
               saved=2.0 * arms * t * f, saved_split=SHARD),
        *linear(style, down, h, f, ROW),
    ]  # fmt: skip


def _moe(mlp: Moe, h: float, style: Style) -> list[Op]:
    """Router, permutation, routed experts as grouped matmuls, un-permutation, shared experts."""
    t, f, arms, recipe = style.seq, float(mlp.ffn), 2.0 if mlp.gated else 1.0, style.recipe
    rows = t * mlp.topk
    kept = recipe.saved_linear_bytes if style.trained else 0.0
    ops: list[Op] = [
        Gemm("router", t, mlp.experts, h, split=SEQUENCE, role="router", trained=style.trained),
        Stream("top-k", 4.0 * 6.0 * t * mlp.experts, 4.0 * 4.0 * t * mlp.experts, launches=8.0, fusible=False,
               saved=4.0 * t * mlp.experts),
        Stream("permute", 4.0 * rows * h, 4.0 * rows * h, launches=2.0, fusible=False),
        Stream("sort by expert", 4.0 * rows * h, 4.0 * rows * h, split=EXPERT, launches=2.0, fusible=False),
        Gemm("expert fc1", rows, arms * f, h, split=EXPERT, groups=float(mlp.experts), trained=style.trained,
             copies=float(mlp.topk), node_limit=mlp.node_limit, saved=kept * rows * h, saved_split=EXPERT),
        Stream("expert activation", 2.0 * (arms + 1.0) * rows * f, 2.0 * (2.0 * arms + 1.0) * rows * f, split=EXPERT,
               saved=2.0 * arms * rows * f, saved_split=EXPERT),
        Gemm("expert fc2", rows, h, f, split=EXPERT, groups=float(mlp.experts), trained=style.trained,
             saved=kept * rows * f, saved_split=EXPERT),
        Stream("unsort", 4.0 * rows * h, 4.0 * rows * h, split=EXPERT, launches=2.0, fusible=False),
        Stream("un-permute", 2.0 * (rows + t) * h, 4.0 * (rows + t) * h, saved=2.0 * rows * h, launches=2.0,
               fusible=False),
    ]  # fmt: skip
    if recipe.cast_passes:
        ops += [
            Stream("expert fc1 cast", 2.0 * recipe.cast_passes * rows * h, 2.0 * recipe.cast_passes * rows * arms * f,
                   split=EXPERT, fusible=False),
            Stream("expert fc2 cast", 2.0 * recipe.cast_passes * rows * f, 2.0 * recipe.cast_passes * rows * h,
                   split=EXPERT, fusible=False),
        ]  # fmt: skip
    if mlp.shared_ffn:
        ops += _feed_forward(
            style, "shared fc1", "shared activation", "shared fc2", float(mlp.shared_ffn), h, mlp.gated
        )
        ops.append(Stream("shared add", 6.0 * t * h, 4.0 * t * h))
    return ops


def _weights(layer: Layer, arch: Architecture, style: Style) -> Weights:
    h = arch.hidden
    norm_width = h if arch.norm == "rms" else 2 * h
    replicated = float(norm_width * arch.norms_per_layer)
    sharded = float(mixer_parameters(layer.mixer, h)) if layer.mixer else 0.0
    expert = 0.0
    if isinstance(layer.mlp, Moe):
        one = (3 if layer.mlp.gated else 2) * h * layer.mlp.ffn
        expert = float(one * layer.mlp.experts)
        replicated += h * layer.mlp.experts
        sharded += (3 if layer.mlp.gated else 2) * h * layer.mlp.shared_ffn
    elif layer.mlp is not None:
        sharded += float(mlp_parameters(layer.mlp, h))
    return Weights(sharded, replicated, expert, trained=_trained_share(sharded + expert, h, style))


def _trained_share(parameters: float, hidden: float, style: Style) -> float:
    """LoRA trains about ``2 rank / hidden`` of the weights it adapts."""
    if style.trained or not parameters:
        return 1.0
    return min(1.0, 2.0 * style.lora_rank / hidden)


def embedding_block(arch: Architecture, style: Style) -> Block:
    """Token (and learned position) lookup; backward adds rows into the fp32 gradient of the table."""
    t, h = style.seq, float(arch.hidden)
    ops: list[Op] = [
        Stream("embedding", 4.0 * t * h, 10.0 * t * h if style.trained else 0.0, fusible=False, launches=2.0)
    ]
    if arch.embedding_norm:
        ops.append(norm(style, "embedding norm", h))
    return Block("embedding", tuple(ops), Weights(sharded=float(embedding_parameters(arch))))


def head_block(arch: Architecture, style: Style) -> Block:
    """Final norm, output layer and cross-entropy. Logits are the largest single tensor of a step.

    A fused loss keeps the logits once in bf16 and writes their gradient in place; otherwise an fp32 copy is kept too.
    """
    t, h, v = style.seq, float(arch.hidden), float(arch.vocab)
    kept, passes = (2.0, 8.0) if style.stack.fused_loss else (6.0, 14.0)
    ops: tuple[Op, ...] = (
        norm(style, "final norm", h),
        Gemm("head", t, v, h, role="head", trained=style.trained, saved=2.0 * t * h),
        Stream("loss", passes * t * v, 6.0 * t * v, split=SHARD, saved=kept * t * v, saved_split=SHARD, launches=3.0,
               fusible=False),
    )  # fmt: skip
    return Block("head", ops, Weights(sharded=float(head_parameters(arch)), replicated=h))


def mtp_block(arch: Architecture, style: Style) -> Block:
    """What one multi-token-prediction depth adds besides its layer and head: two norms and a 2h -> h projection."""
    h = float(arch.hidden)
    ops = (norm(style, "mtp norm", 2 * h), *linear(style, "mtp proj", h, 2 * h, COLUMN))
    return Block("mtp", tuple(ops), Weights(sharded=2 * h * h, replicated=2 * h))
