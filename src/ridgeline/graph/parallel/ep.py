"""Expert axis: routed experts are spread over ``ep`` ranks (and each is divided by ``etp``).

Tokens travel to their experts and back: dispatch and combine, forward and backward. Routing is taken as
balanced: a rank receives as many rows as it sends. With ``etp`` every row goes to all ranks of its expert.
Imbalance enters as a factor on time, labelled bound.
"""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import EXPERT, Block, Gemm, Message, Op, Stream, change
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Divide experts by ``ep`` and their features by ``etp``; add dispatch and combine."""
    if not np.any(block.weights.expert):
        return block
    ops = tuple(_divide(op, shape) for op in block.ops)
    experts = [op for op in ops if isinstance(op, Gemm) and op.split == EXPERT]
    first, last = experts[0], experts[-1]
    messages = list(block.messages)
    for phase in ("forward", "backward"):
        for name, rows, width, near in (
            ("dispatch", first.m, first.k, first.name),
            ("combine", last.m, last.n, last.name),
        ):
            messages.append(
                Message(
                    name,
                    "ep",
                    "all_to_all",
                    2.0 * rows * width,
                    phase,
                    near,
                    copies=first.copies,
                    node_limit=first.node_limit,
                    row_bytes=2.0 * width,
                )
            )
    held = block.weights
    return change(
        block,
        ops=ops,
        messages=tuple(messages),
        weights=change(held, expert=held.expert / (shape.ep * shape.etp)),
    )


def _divide(op: Op, shape: Shape) -> Op:
    """Rows of all ``etp`` ranks meet on each: hidden-wide work repeats, feature-wide work is divided."""
    if isinstance(op, Gemm) and op.split == EXPERT:
        rows, groups, etp = op.m * shape.etp, op.groups / shape.ep, shape.etp
        if op.divides == "n":
            return change(op, m=rows, n=op.n / etp, groups=groups, saved=op.saved * etp)
        return change(op, m=rows, k=op.k / etp, groups=groups)
    if isinstance(op, Stream) and op.split == EXPERT and not op.divides:
        return change(
            op,
            forward_bytes=op.forward_bytes * shape.etp,
            backward_bytes=op.backward_bytes * shape.etp,
        )
    return op
