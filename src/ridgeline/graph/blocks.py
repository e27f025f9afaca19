"""Blocks: the operators, messages and weights of one layer, the embedding and the head, on one device.

Everything is for one sequence; `ridgeline.graph.parallel` then scales by the micro-batch and divides by
each axis. Activation bytes follow Korthikanti et al. (arXiv:2205.05198, eq. 1-2): their 34 s b h per layer
is reproduced.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from ridgeline.facts.architecture import Architecture, Dense, Layer, Moe
from ridgeline.facts.parameters import layer_norm_parameters
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
from ridgeline.graph.ops import COLUMN, EXPERT, ROW, SEQUENCE, SHARD, Block, Gemm, Op, Stream
from ridgeline.graph.weights import embedding_weights, head_weights, layer_weights, mtp_weights

_MIXERS: dict[str, Callable[..., list[Op]]] = {
    "attention": attention,
    "mla": latent_attention,
    "ssm": state_space,
    "linear": linear_attention,
}


def layer_block(arch: Architecture, layer: Layer, style: Style) -> Block:
    """One layer of ``arch``: norm, mixer, residual, norm, mlp, residual.

    A parallel layer adds mixer and mlp in one residual and reduces them in one message; where both read one
    norm, they share its gathered output too (Falcon-7B, GPT-J).
    """
    h = float(arch.hidden)
    parallel = layer.parallel and layer.mixer is not None and layer.mlp is not None
    norms = layer_norm_parameters(layer, arch) // (arch.hidden if arch.norm == "rms" else 2 * arch.hidden)
    one_norm = parallel and norms == 1
    ops: list[Op] = []
    emitted = 0
    if layer.mixer is not None:
        ops.append(norm(style, "mixer norm", h))
        ops += _MIXERS[layer.mixer.kind](layer.mixer, h, style, talks=not parallel)
        emitted += 1
        if not parallel:
            ops.append(residual(style, "mixer residual", h))
    if layer.mlp is not None:
        if not one_norm:
            ops.append(norm(style, "mlp norm", h))
            emitted += 1
        if isinstance(layer.mlp, Moe):
            ops += _moe(layer.mlp, h, style)
        else:
            ops += _dense(layer.mlp, h, style, shares_input=one_norm)
        ops.append(
            residual(style, "residual" if parallel else "mlp residual", h, branches=2.0 if parallel else 1.0)
        )
    ops += [norm(style, f"post norm {i + 1}", h) for i in range(norms - emitted)]
    adapters = sum(
        style.lora_rank * (float(op.n) + float(op.k))
        for op, following in itertools.pairwise(ops)
        if isinstance(op, Gemm) and following.name == f"{op.name} adapter"
    )
    return Block(
        name=_kind(layer),
        ops=tuple(ops),
        weights=layer_weights(arch, layer, None if style.trained else adapters),
        input_bytes=2.0 * style.seq * h,
    )


def _kind(layer: Layer) -> str:
    mixer = layer.mixer.kind if layer.mixer else "none"
    window = getattr(layer.mixer, "window", None)
    return f"{mixer}{f'-w{window}' if window else ''}+{layer.mlp.kind if layer.mlp else 'none'}"


def _dense(mlp: Dense, h: float, style: Style, *, shares_input: bool = False) -> list[Op]:
    return _feed_forward(
        style, "fc1", "activation", "fc2", float(mlp.ffn), h, mlp.gated, shares_input=shares_input
    )


def _feed_forward(
    style: Style, up: str, act: str, down: str, f: float, h: float, gated: bool, *, shares_input: bool = False
) -> list[Op]:
    t, arms = style.seq, 2.0 if gated else 1.0
    return [
        *linear(style, up, arms * f, h, COLUMN, saved=not shares_input, talks=not shares_input, remade=True),
        Stream(
            act,
            2.0 * (arms + 1.0) * t * f,
            2.0 * (2.0 * arms + 1.0) * t * f,
            split=SHARD,
            saved=2.0 * arms * t * f,
            saved_split=SHARD,
            selective=style.modules,
            keeps=True,
        ),
        *linear(style, down, h, f, ROW, remade=True),
    ]


def _moe(mlp: Moe, h: float, style: Style) -> list[Op]:
    """Router, permutation, routed experts as grouped matmuls, un-permutation, casts, shared experts."""
    t, rows = style.seq, style.seq * mlp.topk
    # the output of the experts is kept for the gradient of the router's weights, unless these come before it
    kept = 0.0 if style.stack.weighted_activation and not mlp.bias else 2.0 * rows * h
    return [
        Gemm("router", t, mlp.experts, h, split=SEQUENCE, role="router", trained=style.trained),
        Stream(
            "top-k",
            4.0 * 6.0 * t * mlp.experts,
            4.0 * 4.0 * t * mlp.experts,
            launches=8.0,
            fusible=False,
            saved=4.0 * t * mlp.experts,
        ),
        Stream("permute", 4.0 * rows * h, 4.0 * rows * h, launches=2.0, fusible=False),
        Stream("sort by expert", 4.0 * rows * h, 4.0 * rows * h, split=EXPERT, launches=2.0, fusible=False),
        *_routed_experts(mlp, h, style),
        *_expert_bias(mlp, h, style),
        Stream("unsort", 4.0 * rows * h, 4.0 * rows * h, split=EXPERT, launches=2.0, fusible=False),
        Stream(
            "un-permute",
            2.0 * (rows + t) * h,
            4.0 * (rows + t) * h,
            saved=kept,
            launches=2.0,
            fusible=False,
        ),
        *_expert_casts(mlp, h, style),
        *_shared_experts(mlp, h, style),
    ]


def _routed_experts(mlp: Moe, h: float, style: Style) -> list[Op]:
    """Both matmuls of all routed experts, grouped by expert, and the activation between them."""
    f, arms, rows = float(mlp.ffn), 2.0 if mlp.gated else 1.0, style.seq * mlp.topk
    kept = style.recipe.saved_linear_bytes if style.trained else 0.0
    return [
        Gemm(
            "expert fc1",
            rows,
            arms * f,
            h,
            split=EXPERT,
            groups=float(mlp.experts),
            trained=style.trained,
            copies=float(mlp.topk),
            node_limit=mlp.node_limit,
            saved=kept * rows * h,
            saved_split=EXPERT,
            divides="n",
        ),
        Stream(
            "expert activation",
            2.0 * (arms + 1.0) * rows * f,
            2.0 * (2.0 * arms + 1.0) * rows * f,
            split=EXPERT,
            saved=2.0 * arms * rows * f,
            saved_split=EXPERT,
            divides="features",
            selective=style.modules,
            keeps=True,
        ),
        Gemm(
            "expert fc2",
            rows,
            h,
            f,
            split=EXPERT,
            groups=float(mlp.experts),
            trained=style.trained,
            saved=kept * rows * f,
            saved_split=EXPERT,
            divides="k",
            remade=style.modules,
        ),
    ]


def _expert_bias(mlp: Moe, h: float, style: Style) -> list[Op]:
    """The biases of the second matmuls where they are added one operator and one expert at a time.

    ``output + bias x router weight`` in fp32, concatenated and cast (Megatron-Core, ``TEGroupedMLP._apply_bias``).
    Bytes per value forward: product 4, sum 2 + 4 + 4, concatenation 4 + 4, cast 4 + 2; backward: cast 2 + 4, to
    bf16 4 + 2, join 2 + 2, gradients of the router weight and of the bias 4 + 4 + 4 each.
    """
    if not mlp.bias or style.stack.fused_expert_bias:
        return []
    rows, back = style.seq * mlp.topk, 40.0 if style.trained else 28.0
    size = rows * h
    return [Stream("expert bias", 28.0 * size, back * size, split=EXPERT, launches=8.0, fusible=False)]


def _expert_casts(mlp: Moe, h: float, style: Style) -> list[Op]:
    """What a low-precision recipe converts for the routed experts: inputs forward, output gradients backward."""
    if not style.recipe.cast_passes:
        return []
    passes = 2.0 * style.recipe.cast_passes
    f, arms, rows = float(mlp.ffn), 2.0 if mlp.gated else 1.0, style.seq * mlp.topk
    return [
        Stream("expert fc1 cast", passes * rows * h, 0.0, split=EXPERT, fusible=False),
        Stream(
            "expert fc1 gradient cast",
            0.0,
            passes * rows * arms * f,
            split=EXPERT,
            fusible=False,
            divides="features",
        ),
        Stream("expert fc2 cast", passes * rows * f, 0.0, split=EXPERT, fusible=False, divides="features"),
        Stream("expert fc2 gradient cast", 0.0, passes * rows * h, split=EXPERT, fusible=False),
    ]


def _shared_experts(mlp: Moe, h: float, style: Style) -> list[Op]:
    """The experts that every token visits, with the gate on their output where there is one."""
    if not mlp.shared_ffn:
        return []
    t = style.seq
    ops = _feed_forward(
        style, "shared fc1", "shared activation", "shared fc2", float(mlp.shared_ffn), h, mlp.gated
    )
    if mlp.shared_gate:
        ops.append(Gemm("shared gate", t, 1.0, h, split=SEQUENCE, role="router", trained=style.trained))
    return [*ops, Stream("shared add", 6.0 * t * h, 4.0 * t * h)]


def embedding_block(arch: Architecture, style: Style) -> Block:
    """Token (and learned position) lookup; backward adds rows into the fp32 gradient of the table."""
    t, h = style.seq, float(arch.hidden)
    mask = t * h if style.stack.dropout else 0.0
    ops: list[Op] = [
        Stream(
            "embedding",
            4.0 * t * h,
            10.0 * t * h if style.trained else 0.0,
            fusible=False,
            launches=2.0,
            saved=mask,
            partial=2.0 * t * h,
        )
    ]
    if arch.embedding_norm:
        ops.append(norm(style, "embedding norm", h, again=False))
    return Block("embedding", tuple(ops), embedding_weights(arch, style.trained))


def head_block(arch: Architecture, style: Style) -> Block:
    """Final norm, output layer and cross-entropy. Logits are the largest single tensor of a step.

    Bytes per logit, kept until backward and then alive beside them: a fused vocabulary-parallel loss keeps
    the softmax in fp32 and writes its gradient in bf16 (4 + 2); a compiled one keeps the bf16 logits and
    makes their gradient (2 + 2); an eager one keeps the fp32 log-softmax and makes two fp32
    gradients (4 + 8).
    """
    t, h, v, stack = style.seq, float(arch.hidden), float(arch.vocab), style.stack
    passes = 8.0 if stack.fused_loss else 14.0
    if not stack.fused_loss:
        kept, made = 4.0, 8.0
    elif stack.framework == "megatron":
        kept, made = 4.0, 2.0
    else:
        kept, made = 2.0, 2.0
    ops: tuple[Op, ...] = (
        norm(style, "final norm", h, again=False),
        Gemm("head", t, v, h, role="head", trained=style.trained, saved=2.0 * t * h),
        Stream(
            "loss",
            passes * t * v,
            6.0 * t * v,
            split=SHARD,
            saved=kept * t * v,
            saved_split=SHARD,
            transient=made * t * v,
            launches=3.0,
            fusible=False,
        ),
    )
    return Block("head", ops, head_weights(arch, style.trained))


def mtp_block(arch: Architecture, style: Style) -> Block:
    """What one multi-token-prediction depth adds to its layer and head: norms, a 2h -> h projection."""
    h = float(arch.hidden)
    ops = (norm(style, "mtp norm", 2 * h), *linear(style, "mtp proj", h, 2 * h, COLUMN))
    return Block("mtp", tuple(ops), mtp_weights(arch, style.trained))
