"""Operators and messages: what one micro-batch asks for in one layer. One row each; no machine, no time.

Sizes are floats for a single device and become arrays ``[shapes]`` once a parallel axis has divided them.
FLOPs count a multiply-add as two. Bytes are of device memory unless a name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

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


@dataclass(frozen=True)
class Gemm:
    """``C[m, n] = A[m, k] B[k, n]``, ``batch`` times; A are activations, B weights if ``weight``.

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
    saved: Size = 0.0  # bytes of its input kept for backward besides what other operators keep
    saved_split: str = SEQUENCE
    saved_out: Size = 0.0  # bytes of its output kept for backward, split like the output
    remade: bool = False  # selective recompute makes its input again: ``saved`` is not kept
    selective: bool = False  # dropped and computed again under selective recompute
    launches: float = 1.0
    kv_columns: float = 0.0  # of n: key and value columns, of which a rank holds at least one head
    kv_heads: float = 1.0
    chunked: bool = False  # without weight: tokens are in ``batch`` (chunks of a scan), not in ``m``
    divides: str = ""  # expert tensor parallelism divides n or k
    talks: bool = True  # False: shares the messages of another layer with the same input or output

    @property
    def flops(self) -> Size:
        return 2.0 * self.m * self.n * self.k * self.batch


@dataclass(frozen=True)
class FusedAttention:
    """Softmax attention in one kernel; ``share`` of all pairs is computed (causal, window, packing)."""

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
    selective: bool = False

    @property
    def flops(self) -> Size:
        """Forward: two products over the computed pairs."""
        pairs = self.batch * self.heads * self.q_len * self.kv_len * self.share
        return 2.0 * pairs * (self.qk_dim + self.v_dim)


@dataclass(frozen=True)
class Stream:
    """A memory-bound operator: bytes moved forward and backward."""

    name: str
    forward_bytes: Size
    backward_bytes: Size
    split: str = SEQUENCE
    saved: Size = 0.0
    saved_split: str = SEQUENCE
    transient: Size = 0.0  # bytes that live only while it runs, split like the operator
    selective: bool = False
    keeps: bool = False  # repeated under selective recompute from ``saved``, which stays
    launches: float = 1.0
    fusible: bool = True  # scales with the stack's elementwise_passes
    divides: str = ""  # expert tensor parallelism divides its features; otherwise every rank does all of it
    exchange: Size = 0.0  # bytes that context parallelism swaps between tokens and heads, forward
    partial: Size = 0.0  # bytes of an output that is a partial sum over tp (vocabulary-parallel lookup)


Op: TypeAlias = Gemm | FusedAttention | Stream


@dataclass(frozen=True)
class Message:
    """Bytes that one micro-batch sends in a layer. ``near`` names the operator that may hide it.

    ``native``: hidden under the weight or input gradient by plain asynchronous calls, without a fused
    communication kernel (Megatron does so for the input of column-parallel layers).
    """

    name: str
    axis: str  # tp, cp, ep
    kind: str  # all_reduce, all_gather, reduce_scatter, all_to_all
    size: Size  # byte convention of ridgeline.timing.collectives
    phase: str  # forward, backward
    near: str
    native: bool = False
    copies: float = 1.0  # all_to_all of experts: copies of a token among the bytes
    node_limit: int | None = None
    row_bytes: Size = 1.0  # all_to_all of experts: bytes of one token


@dataclass(frozen=True)
class Weights:
    """Parameters of one layer (or of the ends of the model) by how they are divided, in parameters.

    Of the whole model before `ridgeline.graph.parallel`, of one rank after it.
    """

    sharded: Size = 0.0  # divided by tp
    replicated: Size = 0.0  # on every tp rank
    kv: Size = 0.0  # key and value projections: divided by tp, but never below one head
    kv_heads: float = 1.0
    expert: Size = 0.0  # divided by ep x etp
    trained: float = 1.0  # share that has gradients (LoRA: adapters only)

    @property
    def dense(self) -> Size:
        """All but the routed experts."""
        return self.sharded + self.replicated + self.kv

    @property
    def total(self) -> Size:
        return self.dense + self.expert


@dataclass(frozen=True)
class Block:
    """Operators, messages and weights of one layer kind, of the embedding or of the head."""

    name: str
    ops: tuple[Op, ...]
    weights: Weights
    messages: tuple[Message, ...] = ()
    input_bytes: Size = 0.0  # the block's input, the only tensor kept under full recompute
    input_split: str = SEQUENCE


_Row = TypeVar("_Row", Gemm, FusedAttention, Stream, Message, Weights, Block)


def change(value: _Row, **changes: Size | tuple[Any, ...] | Weights) -> _Row:
    """A copy of a row with fields replaced, in a fifth of the time of `dataclasses.replace`.

    The passes make tens of copies for every shape; rows have no slots so that a copy is one update of a
    dictionary.
    """
    copy = object.__new__(type(value))
    copy.__dict__.update(value.__dict__, **changes)
    return copy
