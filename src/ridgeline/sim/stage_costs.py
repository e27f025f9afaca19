"""StageCosts: what one micro-batch costs on each class of pipeline stage.

A pipeline of ``pp`` stages has at most four different kinds of stage: *first* (embedding), *second*, *middle*
and *last* (head and loss). Costs carry one row per class on axis 0 and are expanded to single stages only for
a plan that is drawn:

    pp = 1    first
    pp = 2    first, last
    pp = 3    first, second, last
    pp >= 4   first, second, middle x (pp - 3), last

A pipeline of one stage puts everything, head and loss included, in class *first*.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Degree = int | IntArray | FloatArray  # an array of whole numbers

FIRST, SECOND, MIDDLE, LAST = range(4)
STAGE_CLASSES = ("first", "second", "middle", "last")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Seconds of one micro-batch on one stage, all its model chunks together (a chunk costs ``1 / vpp`` of
    it).

    Stage arrays are ``[4]`` for one plan or ``[4, plans]`` for a grid, axis 0 the stage class. Recomputation
    is part of ``input_grad_s``.
    """

    forward_s: FloatArray
    input_grad_s: FloatArray
    weight_grad_s: FloatArray
    send_s: FloatArray | float = 0.0  # [plans]: one hand-over across one chunk boundary, one direction
    send_overlapped: bool = True  # False: the sender's compute waits until its send is done

    @property
    def stage_s(self) -> FloatArray:
        """Forward and backward of one micro-batch [4, plans]."""
        return self.forward_s + self.input_grad_s + self.weight_grad_s

    def at(self, index: int) -> StageCosts:
        """The costs of one plan of a grid: its scalar twin."""
        return dataclasses.replace(
            self,
            forward_s=self.forward_s[:, index],
            input_grad_s=self.input_grad_s[:, index],
            weight_grad_s=self.weight_grad_s[:, index],
            send_s=float(np.broadcast_to(self.send_s, self.forward_s.shape[1:])[index]),
        )


def stage_class(stage: Degree, pp: Degree) -> IntArray:
    """Class of a stage index, ``0 <= stage < pp``; broadcasts."""
    index = np.asarray(stage, dtype=np.int64)
    return np.where(
        index == 0, FIRST, np.where(index == np.asarray(pp) - 1, LAST, np.where(index == 1, SECOND, MIDDLE))
    ).astype(np.int64)


def stage_counts(pp: Degree) -> IntArray:
    """Number of stages of each class ``[4, plans]``; columns sum to ``pp``."""
    degree = np.asarray(pp, dtype=np.int64)
    return np.stack(
        [
            np.ones_like(degree),
            (degree >= 3).astype(np.int64),
            np.maximum(degree - 3, 0),
            (degree >= 2).astype(np.int64),
        ]
    )


def class_stages(pp: Degree) -> FloatArray:
    """Index of the first stage of each class [4, plans]; a class a short pipeline lacks: the nearest."""
    degree = np.asarray(pp, dtype=np.float64)
    stages = np.zeros((4, *degree.shape))
    stages[LAST] = degree - 1.0
    stages[SECOND] = np.minimum(stages[LAST], 1.0)
    stages[MIDDLE] = np.minimum(stages[LAST], 2.0)
    return stages


def class_rows(values: FloatArray, pp: Degree) -> FloatArray:
    """Stage values [4, ..., plans], the classes a short pipeline lacks filled in from the nearest stage.

    Row ``i`` then holds for stage ``class_stages(pp)[i]`` of every plan, and the largest row is that of the
    busiest stage.
    """
    degree = np.asarray(pp)
    rows = np.empty((4, *np.broadcast_shapes(values.shape[1:], degree.shape)))
    rows[FIRST] = values[FIRST]
    rows[LAST] = np.where(degree > 1, values[LAST], values[FIRST])
    rows[SECOND] = np.where(degree > 2, values[SECOND], rows[LAST])
    rows[MIDDLE] = np.where(degree > 3, values[MIDDLE], rows[LAST])
    return rows


def above(rows: FloatArray, stages: FloatArray) -> FloatArray:
    """Sums over the stages above each of ``stages`` [n, plans], in order, the first one stage 0.

    ``rows`` [n, ..., plans]: row i holds for stages ``stages[i] .. stages[i + 1] - 1``.
    """
    sums = np.zeros(rows.shape)
    np.multiply(rows[:-1], stages[1:] - stages[:-1], out=sums[1:])
    for i in range(2, len(rows)):
        sums[i] += sums[i - 1]
    return sums


def expand(values: FloatArray, pp: int) -> FloatArray:
    """One plan's stage values [4] -> [pp], stage by stage."""
    spread: FloatArray = np.asarray(values, dtype=np.float64)[stage_class(np.arange(pp), pp)]
    return spread
