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
Degree = int | IntArray

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


def _rows(values: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Stage values [4] or [4, plans] as [4, *shape]."""
    lead = (1,) * (len(shape) - values.ndim + 1)
    return np.broadcast_to(values.reshape(4, *lead, *values.shape[1:]), (4, *shape))


def at_stage(values: FloatArray, stage: Degree, pp: Degree) -> FloatArray:
    """The row of ``values`` [4, plans] that stage ``stage`` belongs to -> [plans]."""
    kind = stage_class(stage, pp)
    shape = np.broadcast_shapes(values.shape[1:], kind.shape)
    picked: FloatArray = np.take_along_axis(_rows(values, shape), np.broadcast_to(kind, shape)[None], axis=0)[
        0
    ]
    return picked


def before_stage(values: FloatArray, stage: Degree, pp: Degree) -> FloatArray:
    """``sum of values over stages 0 .. stage - 1`` -> [plans], for ``0 <= stage <= pp``."""
    index = np.asarray(stage, dtype=np.int64)
    degree = np.asarray(pp, dtype=np.int64)
    inner = np.minimum(index, np.maximum(degree - 1, 1))  # stages that are not the last of several
    total: FloatArray = (
        values[FIRST] * (inner >= 1)
        + values[SECOND] * (inner >= 2)
        + values[MIDDLE] * np.maximum(inner - 2, 0)
        + values[LAST] * ((index == degree) & (degree >= 2))
    )
    return total


def busiest(values: FloatArray, pp: Degree) -> FloatArray:
    """Largest of ``values`` [4, plans] over the stages that exist -> [plans]."""
    present = stage_counts(pp) > 0
    shape = np.broadcast_shapes(values.shape[1:], present.shape[1:])
    rows = _rows(values, shape)
    top: FloatArray = np.where(np.broadcast_to(present, rows.shape), rows, -np.inf).max(axis=0)
    return top


def expand(values: FloatArray, pp: int) -> FloatArray:
    """One plan's stage values [4] -> [pp], stage by stage."""
    spread: FloatArray = np.asarray(values, dtype=np.float64)[stage_class(np.arange(pp), pp)]
    return spread
