"""Sums over the blocks of a model, always in the order of the blocks."""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import FloatArray


def over_blocks(held: FloatArray, values: FloatArray) -> FloatArray:
    """``held`` of each block ``[blocks, ..., plans]`` times ``values`` ``[n, blocks, plans]`` -> ``[n, ..., plans]``.

    Added block by block: a sum that a library may reorder (`numpy.einsum` does, for one plan) gives a plan of a grid
    another last digit than the plan alone.
    """
    spread = values.reshape(*values.shape[:2], *(1,) * (held.ndim - 2), values.shape[-1])
    total = held[0] * spread[:, 0]
    for i in range(1, len(held)):
        total += held[i] * spread[:, i]
    return np.asarray(total)
