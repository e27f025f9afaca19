"""A fitted correction on a coarse grid, written compactly: one character per node."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from ridgeline.facts.spec import Positive, Spec

#: Levels -42 to 42, lowest first: the printable characters of ZeroMQ's Z85, which need no escapes in a string.
LEVELS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
MOST = len(LEVELS) // 2


class Surface(Spec):
    """ln(measured / formula) at the nodes of a grid: ``step`` times the level of each character.

    The axes and knots belong to the formula that the surface corrects. The first axis runs over ``rows``, the
    last one fastest within a row.
    """

    step: Positive = Field(description="natural logarithm of one level")
    rows: tuple[str, ...] = Field(description="levels of the nodes, '0' lowest, 'G' none, '#' highest")

    @field_validator("rows")
    @classmethod
    def _known(cls, rows: tuple[str, ...]) -> tuple[str, ...]:
        strange = sorted({character for row in rows for character in row} - set(LEVELS))
        if strange:
            raise ValueError(f"characters {' '.join(strange)} are no levels; choices: {LEVELS}")
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"rows of lengths {', '.join(str(len(row)) for row in rows)}; all must be alike")
        return rows

    @property
    def nodes(self) -> NDArray[np.float64]:
        """Values at all nodes, flat ``[nodes]``."""
        return _nodes(self.step, self.rows)


@lru_cache(maxsize=256)
def _nodes(step: float, rows: tuple[str, ...]) -> NDArray[np.float64]:
    level = {character: number - MOST for number, character in enumerate(LEVELS)}
    values = step * np.array([level[character] for row in rows for character in row], dtype=np.float64)
    values.flags.writeable = False
    return values


def surface(nodes: NDArray[np.float64]) -> Surface:
    """The `Surface` nearest to ``nodes`` ``[first axis, ...]``; exact to half a step, a 42nd of the largest value."""
    largest = float(np.max(np.abs(nodes), initial=0.0))
    step = float(f"{max(largest / MOST, 1e-6):.3g}") * 1.001
    step = float(f"{step:.4g}")
    levels = np.clip(np.rint(nodes / step), -MOST, MOST).astype(int) + MOST
    rows = levels.reshape(levels.shape[0], -1)
    return Surface(step=step, rows=tuple("".join(LEVELS[level] for level in row) for row in rows))
