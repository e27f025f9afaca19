"""Program: which kernels a model launches, in which phase, in which format. Sizes come later, per shape.

The list depends on model, stack and recipe alone, so it is made once and every shape and plan is timed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.ops import FloatArray, FusedAttention, Gemm, Stream

FORWARD, INPUT_GRAD, WEIGHT_GRAD = range(3)
PHASES = ("forward", "input_grad", "weight_grad")
KINDS = ("gemm", "grouped", "attention", "stream")
GEMM, GROUPED, ATTENTION, STREAM = range(4)

#: Sizes that each kernel class reads off its operator, per phase: C[m, n] = A[m, k] B[k, n].
_GEMM_SIZES = {FORWARD: ("m", "n", "k"), INPUT_GRAD: ("m", "k", "n"), WEIGHT_GRAD: ("n", "k", "m")}
_ATTENTION_SIZES = ("batch", "heads", "kv_heads", "q_len", "kv_len", "qk_dim", "v_dim", "share")


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel: operator ``op`` of block ``block`` in ``phase``."""

    kind: int
    block: int
    op: int
    phase: int
    name: str
    format: str
    selective: bool  # computed again under selective recompute
    launches: float
    sizes: tuple[str, ...]  # fields of the operator
    passes: float = 1.0  # memory passes of the stack over a stream


@dataclass(frozen=True, slots=True)
class Program:
    """Rows ordered by kind, and the constant matrices that sum them."""

    rows: tuple[Row, ...]
    span: tuple[slice, ...]  # rows of each kind
    incidence: FloatArray  # [3 phases x blocks, rows]
    again: FloatArray  # [blocks, rows]: forward rows that selective recompute repeats
    spared: FloatArray  # [blocks, rows]: forward rows that full recompute leaves out
    launches: FloatArray  # [3 phases x blocks]
    near: dict[tuple[int, int, str], int]  # (block, phase, operator) -> row
    num_blocks: int
    grad_bytes: float  # of one value of the buffer that weight gradients are added to; 0 where none is

    def of(self, kind: int) -> Sequence[Row]:
        """Rows of one kind."""
        return self.rows[self.span[kind]]

    def formats(self, kind: int) -> tuple[str, ...]:
        """Formats of the rows of one kind."""
        return tuple(row.format for row in self.of(kind))

    def phase(self, kind: int, phase: int) -> NDArray[np.bool_]:
        """Which rows of one kind belong to ``phase`` ``[rows, 1]``."""
        return np.array([[row.phase == phase] for row in self.of(kind)], dtype=bool).reshape(-1, 1)


_MADE: dict[tuple[int, ...], tuple[tuple[object, ...], Program]] = {}


def program_of(model: Model, stack: Stack, recipe: Recipe) -> Program:
    """The program of a single-device ``model``; cached by identity of its frozen facts."""
    facts = (model, stack, recipe)
    key = tuple(id(fact) for fact in facts)
    made = _MADE.get(key)
    if made is None:
        if len(_MADE) > 64:
            _MADE.clear()
        # the facts are kept beside the program: while they live, their ids cannot be given to others
        made = _MADE[key] = (facts, _make(model, stack, recipe))
    return made[1]


def _make(model: Model, stack: Stack, recipe: Recipe) -> Program:
    rows: list[Row] = []
    for block, content in enumerate(model.blocks):
        for index, op in enumerate(content.ops):
            if isinstance(op, Gemm):
                rows += _gemm(block, index, op, recipe)
            elif isinstance(op, FusedAttention):
                rows += _attention(block, index, op, recipe)
            else:
                rows += _stream(block, index, op, stack)
    rows.sort(key=lambda row: row.kind)
    kinds = np.array([row.kind for row in rows])
    edges = np.searchsorted(kinds, np.arange(len(KINDS) + 1))
    blocks = len(model.blocks)
    flat = np.array([row.phase * blocks + row.block for row in rows])
    incidence = np.zeros((3 * blocks, len(rows)))
    incidence[flat, np.arange(len(rows))] = 1.0
    repeated = np.array([row.selective and row.phase == FORWARD for row in rows])
    return Program(
        rows=tuple(rows),
        span=tuple(slice(int(a), int(b)) for a, b in pairwise(edges)),
        incidence=incidence,
        again=incidence[:blocks] * repeated,
        spared=incidence[:blocks] * _spared(rows, model, stack),
        launches=incidence @ np.array([row.launches for row in rows]),
        near={(row.block, row.phase, row.name): i for i, row in enumerate(rows) if row.kind != STREAM},
        num_blocks=blocks,
        grad_bytes=gradient_bytes(stack, recipe) if stack.fused_accumulation else 0.0,
    )


def gradient_bytes(stack: Stack, recipe: Recipe) -> float:
    """Bytes of one value of the gradient buffer."""
    return recipe.grad_bytes if stack.grad_fp32 else min(recipe.grad_bytes, 2.0)


def _spared(rows: list[Row], model: Model, stack: Stack) -> NDArray[np.bool_]:
    """Whether a row is the last matmul of a dense layer, and the stack does not repeat it ``[rows]``."""
    last = set()
    if stack.recompute_trimmed:
        for index, block in enumerate(model.layers):
            ops = [i for i, op in enumerate(block.ops) if isinstance(op, Gemm)]
            if ops and not np.any(block.weights.expert):
                last.add((index, ops[-1]))
    return np.array([row.phase == FORWARD and (row.block, row.op) in last for row in rows], dtype=bool)


def _format(op: Gemm, recipe: Recipe, phase: int) -> str:
    if op.role == "linear":
        return recipe.linear if phase == FORWARD else recipe.linear_backward
    return {"attention": recipe.attention, "head": recipe.head}.get(op.role, "bf16")


def _gemm(block: int, index: int, op: Gemm, recipe: Recipe) -> list[Row]:
    grouped = op.split == "expert"
    kind, copies = (GROUPED, "groups") if grouped else (GEMM, "batch")

    def row(phase: int, sizes: tuple[str, ...]) -> Row:
        form = _format(op, recipe, phase)
        return Row(kind, block, index, phase, op.name, form, op.selective, op.launches, (*sizes, copies))

    rows = [row(FORWARD, _GEMM_SIZES[FORWARD]), row(INPUT_GRAD, _GEMM_SIZES[INPUT_GRAD])]
    if not op.weight:
        rows.append(row(INPUT_GRAD, _GEMM_SIZES[WEIGHT_GRAD]))  # both factors are activations
    elif op.trained:
        rows.append(row(WEIGHT_GRAD, _GEMM_SIZES[WEIGHT_GRAD]))
    return rows


def _attention(block: int, index: int, op: FusedAttention, recipe: Recipe) -> list[Row]:
    def row(phase: int, launches: float) -> Row:
        """One kernel of a phase."""
        return Row(
            ATTENTION,
            block,
            index,
            phase,
            op.name,
            recipe.attention,
            op.selective,
            launches,
            _ATTENTION_SIZES,
        )

    return [row(FORWARD, op.launches), row(INPUT_GRAD, 2.0 * op.launches)]


def _stream(block: int, index: int, op: Stream, stack: Stack) -> list[Row]:
    passes = stack.elementwise_passes if op.fusible else 1.0

    def row(phase: int, size: str) -> Row:
        launches = op.launches * passes
        return Row(STREAM, block, index, phase, op.name, "bf16", op.selective, launches, (size,), passes)

    rows = []
    if np.any(np.asarray(op.forward_bytes) > 0.0):
        rows.append(row(FORWARD, "forward_bytes"))
    if np.any(np.asarray(op.backward_bytes) > 0.0):
        rows.append(row(INPUT_GRAD, "backward_bytes"))
    return rows
