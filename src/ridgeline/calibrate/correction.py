"""Fit a correction surface to what a formula misses.

Least squares on the nodes of a grid with robust weights, few steps where rows are few, and the law that
more work never takes less time: formula and surface together do not fall between one node and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sparse
from scipy.sparse.linalg import cg

from ridgeline.timing.rates import Array
from ridgeline.timing.surface import Knots

#: Weight of the difference of neighbouring nodes, at first and at most, and of a node itself over the first, in rows.
SMOOTH, FIRM, RIDGE = 0.03, 30.0, 0.2
#: After the first sweep a difference costs its size times this, not its square: nodes that no row tells apart become
#: equal, which packs well, and steps that rows show stay sharp. Below the second number a difference is none.
EDGE, EVEN = 0.006, 0.002
#: Errors above this are outliers.
SOFT_ERROR = 0.08
SWEEPS = 10
#: Weight of a broken law over that of the node with most rows.
LAW = 10.0
#: Nothing is corrected by more than e^2.5.
LARGEST = 2.5
#: Of the solution of a sweep, over its right-hand side; and steps towards it at most.
TOLERANCE, PATIENCE = 1e-5, 400


def weights(grid: Knots, logarithms: Sequence[Array]) -> Any:
    """Sparse matrix ``[rows, nodes]`` of interpolation weights at base-2 logarithms of the sizes."""
    count = len(logarithms[0])
    columns, values = np.zeros((count, 1), dtype=np.int64), np.ones((count, 1))
    for axis, logarithm in zip(grid, logarithms, strict=True):
        if axis.size == 1:
            continue
        position = np.interp(logarithm, axis, np.arange(axis.size))
        low = np.minimum(position.astype(np.int64), axis.size - 2)
        share = (position - low)[:, None]
        columns = columns * axis.size + low[:, None]
        columns = np.concatenate([columns, columns + 1], axis=1)
        values = np.concatenate([values * (1.0 - share), values * share], axis=1)
    rows = np.repeat(np.arange(count), values.shape[1])
    nodes = int(np.prod([axis.size for axis in grid]))
    return sparse.csr_matrix((values.ravel(), (rows, columns.ravel())), shape=(count, nodes))


def fit_surface(
    grid: Knots,
    design: Any,
    missed: Array,
    formula: Callable[[tuple[Array, ...]], Array],
    rising: Sequence[int] | None = None,
    weight: Array | None = None,
    soft: float | None = None,
) -> Array:
    """Node values ``[axes]`` that explain ``missed`` = ln(measured / formula) of the rows.

    Args:
        grid: knots.
        design: ``[rows, nodes]``, how much of each node a row sees (`weights`, or a mean of several).
        missed: ``[rows]``.
        formula: seconds at some points, given as one array of *sizes* per axis.
        weight: of the errors of the rows; 1 without it.
        rising: axes along which more is never faster; all without it.
        soft: weight of the difference of neighbouring nodes, in rows, where every one costs its square to the end.
    """
    smooth = _differences(grid)
    steps, least = _laws(grid, formula, range(len(grid)) if rising is None else rising)
    first = SMOOTH if soft is None else soft
    ridge, even = RIDGE * first * sparse.eye(design.shape[1]), np.full(smooth.shape[0], first)
    firm = LAW * max(1.0, float(np.max(design.power(2).sum(axis=0))))
    counts = np.ones(len(missed)) if weight is None else np.square(weight)
    robust, broken = counts, np.zeros(len(least))
    nodes = np.zeros(design.shape[1])
    for _ in range(SWEEPS):
        matrix = smooth.T @ sparse.diags(even) @ smooth + ridge
        matrix = matrix + design.T @ sparse.diags(robust) @ design + steps.T @ sparse.diags(broken) @ steps
        wanted = design.T @ (robust * missed) + steps.T @ (broken * least)
        scale = sparse.diags(1.0 / matrix.diagonal())
        nodes, _ = cg(matrix, wanted, x0=nodes, rtol=TOLERANCE, maxiter=PATIENCE, M=scale)
        robust = counts / np.sqrt(1.0 + np.square((missed - design @ nodes) / SOFT_ERROR))
        if soft is None:
            even = np.minimum(EDGE / np.maximum(np.abs(smooth @ nodes), EVEN), FIRM)
        broken = np.where(steps @ nodes < least - 1e-6, firm, broken)
    return np.clip(nodes, -LARGEST, LARGEST).reshape([axis.size for axis in grid])


def _differences(grid: Knots) -> Any:
    """Differences of neighbouring nodes along each axis ``[pairs, nodes]``."""
    parts = []
    for along in range(len(grid)):
        matrix: Any = sparse.identity(1)
        for number, axis in enumerate(grid):
            one = np.diff(np.eye(axis.size), axis=0) if number == along else np.eye(axis.size)
            matrix = sparse.kron(matrix, sparse.csr_matrix(one))
        parts.append(matrix)
    return sparse.csr_matrix(sparse.vstack(parts))


def _laws(
    grid: Knots, formula: Callable[[tuple[Array, ...]], Array], rising: Sequence[int]
) -> tuple[Any, Array]:
    """Steps from node to midpoint to node: ``steps @ nodes >= least`` where time does not fall."""
    matrices, least = [], []
    for along in rising:
        axis = grid[along]
        fine = np.sort(np.concatenate([axis, (axis[1:] + axis[:-1]) / 2.0]))
        points = np.array(list(product(*(fine if i == along else a for i, a in enumerate(grid))))).T
        logarithm = np.log(formula(tuple(2.0**one for one in points)))
        shape = [fine.size if i == along else a.size for i, a in enumerate(grid)]
        number = np.moveaxis(np.arange(len(logarithm)).reshape(shape), along, 0)
        before, after = number[:-1].ravel(), number[1:].ravel()
        seen = weights(grid, list(points))
        matrices.append(seen[after] - seen[before])
        least.append(logarithm[before] - logarithm[after])
    return sparse.csr_matrix(sparse.vstack(matrices)), np.concatenate(least)
