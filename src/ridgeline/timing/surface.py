"""What a formula misses, as a factor that varies slowly with the sizes of an operator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.surface import Surface
from ridgeline.timing.rates import Array, Numeric

Knots = tuple[Array, ...]
"""Base-2 logarithms of the sizes at which a surface has nodes, one increasing array per axis."""


def knots(*axes: Sequence[float]) -> Knots:
    """Knots from plain numbers."""
    return tuple(np.array(axis, dtype=np.float64) for axis in axes)


def factor(grid: Knots, values: Array, sizes: Sequence[Numeric]) -> Array:
    """``exp`` of the multilinear interpolation of ``values`` at the logarithms of ``sizes``.

    Outside the knots the nearest edge holds, so there is no jump where the measurements end.

    Args:
        grid: knots of each axis.
        values: of the nodes, the last axis of the array holds all nodes ``[..., nodes]``; leading axes broadcast
            against the sizes, as one surface per operator.
        sizes: one positive array per axis.
    """
    total = values.shape[-1]
    flat = values.reshape(-1)
    index: Array = (np.arange(flat.size // total) * total).reshape(values.shape[:-1]).astype(np.int64)
    fractions: list[Array] = []
    corners = np.zeros((1,), dtype=np.int64)  # offsets of the corners of a cell, the first axis slowest
    stride = total
    for axis, size in zip(grid, sizes, strict=True):
        if axis.size == 1:
            continue
        stride //= axis.size
        position = np.interp(np.log2(np.asarray(size, dtype=np.float64)), axis, np.arange(axis.size))
        low = np.minimum(position.astype(np.int64), axis.size - 2)
        index = index + low * stride
        fractions.append(position - low)
        corners = np.add.outer(corners, np.array([0, stride])).reshape(-1)
    found = flat[index + corners.reshape((2,) * len(fractions) + (1,) * np.ndim(index))]
    for fraction in fractions:
        found = found[0] + fraction * (found[1] - found[0])
    return np.asarray(np.exp(found))


def outside(grid: Knots, sizes: Sequence[Numeric]) -> NDArray[np.bool_]:
    """Where any size lies beyond the outer knots: the correction is then carried on, not measured."""
    beyond: NDArray[np.bool_] = np.zeros((), dtype=bool)
    for axis, size in zip(grid, sizes, strict=True):
        if axis.size == 1:
            continue
        logarithm = np.log2(np.asarray(size, dtype=np.float64))
        beyond = beyond | (logarithm < axis[0] - 1e-9) | (logarithm > axis[-1] + 1e-9)
    return np.asarray(beyond)


def nodes(surface: Surface | None) -> Array | None:
    """Node values of a fit's surface, where it has one."""
    return None if surface is None else surface.nodes


def stacked(surfaces: Sequence[Array | None], count: int) -> Array | None:
    """Surfaces of some operators as ``[operators, 1, nodes]``; None where none has one."""
    if all(one is None for one in surfaces):
        return None
    return np.array([np.zeros(count) if one is None else one for one in surfaces])[:, None, :]


def count(grid: Knots) -> int:
    """Nodes of a grid."""
    return int(np.prod([axis.size for axis in grid]))
