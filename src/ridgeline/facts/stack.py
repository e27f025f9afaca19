"""Stack: the software that runs a training step. Each number has a physical meaning and a range."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ridgeline.facts.spec import Bytes, Fraction, Prose, Seconds, Spec


class Stack(Spec):
    """One generation of a training framework; a user's own stack inherits by naming a ``parent``."""

    name: str
    title: str
    framework: str = Field(description="framework family: megatron, fsdp, deepspeed, maxtext, torchtitan")
    since: str = Field(description="first month it describes", pattern=r"^\d{4}-\d{2}$")
    parent: str | None = None
    attention: Literal["flash", "unfused"] = Field(
        "flash", description="fused attention kernel or separate matmuls"
    )
    attention_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="fused attention: share of the chip's best kernel that this stack's kernel reaches",
    )
    attention_share_newer: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the same on chips launched after `attention_for`, whose matrix instructions it does not use",
    )
    attention_for: str = Field(
        "2100-01",
        description="launch month of the newest chips the attention kernel was written for",
        pattern=r"^\d{4}-\d{2}$",
    )
    softmax_passes: float = Field(
        6.0,
        gt=0,
        le=16,
        description="unfused attention: passes over the scores besides the matmuls (scale, mask, softmax, dropout)",
    )
    elementwise_passes: float = Field(
        1.0,
        ge=0.5,
        le=4.0,
        description="memory passes of norms, activations and residuals relative to perfectly fused kernels",
    )
    host: Seconds = Field(
        description="host time to dispatch one operator: 0.5 us in graphs, 5-15 us in eager code, up to 80 us "
        "where one operator is several kernels with bookkeeping between them"
    )
    host_expert: Seconds = Field(
        0.0,
        description="host time of one expert's product where each is launched alone: the product, the cast of its "
        "input, bookkeeping of its weight; 0 where all experts are one kernel or one graph",
    )
    hand_over: Seconds = Field(
        0.0,
        description="host time of one pipeline hand-over: early frameworks synchronise the device around each send",
    )
    step_fixed: Seconds = Field(
        description="per-step cost that grows with nothing: gradient norm, logging, data, optimizer launch"
    )
    comm_sms: Fraction = Field(0.1, description="share of the cores lent to an overlapped collective")
    contention: Fraction = Field(
        0.19,
        description="share of its speed that compute loses while a data-parallel collective runs beside it: cores, "
        "cache, memory and power shared; 0.189 in the mean of A100, H100, MI210 and MI250, 0.40 at most "
        "(arXiv:2507.03114)",
    )
    grad_passes: float = Field(
        0.0,
        ge=0,
        le=8,
        description="memory passes over a chip's whole gradient buffer, once per step: Megatron clears it (1) and "
        "scales it before the reduction (2)",
    )
    overlap_tp: bool = False
    overlap_grad: bool = True
    overlap_param: bool = False
    overlap_p2p: bool = True
    overlap_ep: bool = Field(
        False, description="expert messages run under the compute of another micro-batch or half of one"
    )
    overlap_ep_beyond: bool = Field(
        False,
        description="the same, only under interleaved pipelines and where a layer's experts leave the scale-up domain",
    )
    dispatcher: Literal["alltoall", "deepep", "flex"] = Field(
        "alltoall",
        description="experts: one copy of a token per expert; one per node and rank (DeepEP and its kin); or the "
        "second inside one scale-up domain and where the router limits the nodes of a token, else the first",
    )
    weighted_activation: bool = Field(
        False,
        description="router weights are applied before the second matmul of an expert, so that its output need not "
        "be kept for their gradient; not where experts have biases, as the two differ there",
    )
    fused_expert_bias: bool = Field(
        True, description="the bias of an expert's output, times its router weight, is added inside a kernel"
    )
    prefetch: bool = Field(True, description="FSDP: the next gather starts before the current layer ends")
    layer_messages: int = Field(
        1,
        ge=1,
        le=64,
        description="ZeRO-3: collectives per layer and direction: 1 where a layer's parameters are one flat buffer, "
        "one per tensor where each is gathered alone",
    )
    gather_piece: Seconds = Field(
        0.0,
        description="ZeRO-3: host time per rank of each gather into a list of one tensor per rank, which is sliced "
        "before and copied out after; 0 where it goes into one tensor",
    )
    fused_loss: bool = Field(True, description="cross-entropy does not keep a second fp32 copy of the logits")
    dropout: bool = Field(False, description="dropout masks are made and kept (models before 2022)")
    grad_fp32: bool = Field(True, description="gradients accumulate in fp32")
    grouped_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="experts: rate of this stack's grouped products over those that kernel tables time; below 1 where "
        "each expert is a product of its own",
    )
    fused_accumulation: bool = Field(
        False, description="weight gradients are added to the gradient buffer inside their product"
    )
    zero: int = Field(1, ge=0, le=3, description="default ZeRO stage")
    recompute: Literal["none", "selective", "full"] = "none"
    recompute_trimmed: bool = Field(
        False,
        description="full recompute stops at what backward needs: a compiler drops the last matmul of a dense layer, "
        "whose output only the next layer reads; eager code repeats the whole layer",
    )
    reserve: Bytes = Field(description="context, library workspaces and communication buffers per chip")
    fragmentation: float = Field(
        0.03, ge=0, le=0.3, description="share of live tensors lost to the allocator"
    )
    jitter: float = Field(
        0.02,
        ge=0,
        le=0.3,
        description="a step is the expected maximum over ranks: relative excess at 1,000 ranks, growing with the "
        "logarithm of their number",
    )
    rows: int = Field(
        0, ge=0, description="fit rows that inform the numbers; below 8 the parent's numbers stand"
    )
    source: Prose
