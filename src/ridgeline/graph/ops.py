"""Operators and messages: what one micro-batch asks for in one layer. One row each; no machine, no time.

Sizes are floats for a single device and become arrays ``[shapes]`` once a parallel axis has divided them.
FLOPs count a multiply-add as two. Bytes are of device memory unless a name says otherwise.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float64]
Size: TypeAlias = float | FloatArray

#: How tensor parallelism divides an operator or a saved tensor.
COLUMN = "column"  # output features are split: n / tp
ROW = "row"  # input features are split: k / tp, outputs are partial sums
HEADS = "heads"  # attention heads are split
SHARD = "shard"  # elementwise inside a tensor-parallel region: features / tp
SEQUENCE = "sequence"  # outside the regions: tokens / tp with sequence parallelism, else replicated
WHOLE = "whole"  # always replicated
EXPERT = "expert"  # routed experts: split by ep and etp, never by tp


@dataclass(frozen=True, slots=True)
class Gemm:
    """``C[m, n] = A[m, k] B[k, n]``, ``batch`` times; A are activations, B weights unless ``weight`` is False.

    With a weight, backward runs an input gradient ``[m, k, n]`` and a weight gradient ``[n, k, m]``.
    Without (scores of unfused attention), backward runs two products of the same size.
    """

    name: str
    m: Size
    n: Size
    k: Size
    batch: Size = 1.0
    split: str = COLUMN
    role: str = "linear"  # linear, head, router, attention: which format of the recipe it runs in
    weight: bool = True
    trained: bool = True  # frozen weights (LoRA) have no weight gradient
    groups: Size = 0.0  # > 0: grouped GEMM over so many experts, m rows in all
    copies: float = 1.0  # grouped: rows of one token (top-k of the router)
    node_limit: int | None = None  # grouped: most nodes a token may go to
    saved: Size = 0.0  # bytes kept for backward besides what other operators keep
    saved_split: str = SEQUENCE
    selective: bool = False  # dropped and computed again under selective recompute
    launches: float = 1.0

    @property
    def flops(self) -> Size:
        return 2.0 * self.m * self.n * self.k * self.batch


@dataclass(frozen=True, slots=True)
class FusedAttention:
    """Softmax attention in one kernel. ``share`` of all query-key pairs is computed (causal, window, packing)."""

    name: str
    batch: Size
    heads: Size
    kv_heads: Size
    q_len: Size
    kv_len: Size
    qk_dim: float
    v_dim: float
    share: Size
    saved: Size = 0.0
    saved_split: str = HEADS
    launches: float = 1.0
    split: str = HEADS
    selective: bool = True

    @property
    def flops(self) -> Size:
        """Forward: two products over the computed pairs."""
        pairs = self.batch * self.heads * self.q_len * self.kv_len * self.share
        return 2.0 * pairs * (self.qk_dim + self.v_dim)


@dataclass(frozen=True, slots=True)
class Stream:
    """A memory-bound operator: bytes moved forward and backward, and the few FLOPs it does."""

    name: str
    forward_bytes: Size
    backward_bytes: Size
    split: str = SEQUENCE
    flops: Size = 0.0
    saved: Size = 0.0
    saved_split: str = SEQUENCE
    selective: bool = False
    launches: float = 1.0
    fusible: bool = True  # scales with the stack's elementwise_passes


Op: TypeAlias = Gemm | FusedAttention | Stream


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes that one micro-batch sends in a layer. ``near`` names the operator that may hide it.

    ``native``: hidden under the weight or input gradient by plain asynchronous calls, without a fused
    communication kernel (Megatron does so for the input of column-parallel layers).
    """

    name: str
    axis: str  # tp, cp, ep
    kind: str  # all_reduce, all_gather, reduce_scatter, all_to_all, ring
    size: Size  # byte convention of ridgeline.timing.collectives
    phase: str  # forward, backward
    near: str
    native: bool = False
    copies: float = 1.0  # all_to_all of experts: copies of a token among the bytes
    node_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters of one layer (or of the ends of the model) by how they are divided, in parameters."""

    sharded: Size = 0.0  # divided by tp
    replicated: Size = 0.0  # on every tp rank
    expert: Size = 0.0  # divided by ep x etp
    trained: float = 1.0  # share that has gradients (LoRA: adapters only)

    @property
    def total(self) -> Size:
        return self.sharded + self.replicated + self.expert


@dataclass(frozen=True, slots=True)
class Block:
    """Operators, messages and weights of one layer kind, of the embedding or of the head."""

    name: str
    ops: tuple[Op, ...]
    weights: Weights
    messages: tuple[Message, ...] = ()
    input_bytes: Size = 0.0  # the block's input, the only tensor kept under full recompute
    input_split: str = SEQUENCE


def change(value: Any, **fields: Any) -> Any:
    """A copy of a slotted frozen row with ``fields`` replaced."""
    return dataclasses.replace(value, **fields)
