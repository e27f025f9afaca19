"""Expert axis: routed experts are spread over ``ep`` ranks (and each is divided by ``etp``).

Tokens travel to their experts and back: dispatch and combine, forward and backward. Routing is taken as balanced:
a rank receives as many rows as it sends. Imbalance enters as a factor on time, labelled bound.
"""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import EXPERT, Block, Gemm, Message, Op, Size, Stream, change
from ridgeline.graph.shape import Shape


def apply(block: Block, shape: Shape) -> Block:
    """Divide experts by ``ep`` and their features by ``etp``; add dispatch and combine."""
    experts = [op for op in block.ops if isinstance(op, Gemm) and op.split == EXPERT]
    if not experts:
        return block
    fc1 = experts[0]
    sent = 2.0 * fc1.m * fc1.k  # rows of this rank, every choice of the router counted [byte]
    messages = list(block.messages)
    if np.any(shape.ep * shape.etp > 1.0):
        for phase in ("forward", "backward"):
            for name, near in (("dispatch", fc1.name), ("combine", experts[-1].name)):
                messages.append(
                    Message(
                        name, "ep", "all_to_all", sent, phase, near, copies=fc1.copies, node_limit=fc1.node_limit
                    )
                )
    return change(block, ops=tuple(_divide(op, shape) for op in block.ops), messages=tuple(messages))  # type: ignore[no-any-return]


def _divide(op: Op, shape: Shape) -> Op:
    if isinstance(op, Gemm) and op.split == EXPERT:
        n: Size = op.n
        k: Size = op.k
        if op.name.endswith("fc1"):
            n = op.n / shape.etp
        else:
            k = op.k / shape.etp
        return change(op, m=op.m * shape.etp, n=n, k=k, groups=op.groups / shape.ep)  # type: ignore[no-any-return]
    if isinstance(op, Stream) and op.split == EXPERT:
        # etp ranks work on the same rows: hidden-wide streams repeat, feature-wide ones are divided
        by = 1.0 if "activation" in op.name else 1.0 / shape.etp
        return change(op, forward_bytes=op.forward_bytes / by, backward_bytes=op.backward_bytes / by)  # type: ignore[no-any-return]
    return op
