"""A fitted correction on a grid, packed as text: the one place that writes and reads node values.

Nodes are rounded to levels of ``step``, each level is replaced by its difference from the node before it along the
two longest axes (neighbours are alike, so most differences are none), and the bytes are deflated (RFC 1951) and
spelled in base 85 (RFC 1924's characters, which need no escapes in YAML). Read only when a prediction asks for it.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ridgeline.facts.spec import Positive, Spec

#: Natural logarithm of one level: half of it is the error of a node. Larger where the largest node needs it.
STEP = 0.03
#: Levels reach from -MOST to MOST; they and their differences are bytes, modulo 256.
MOST = 127


class Surface(Spec):
    """ln(measured / formula) at the nodes of a grid: ``step`` times a level.

    The axes and knots belong to the formula that the surface corrects; the last axis runs fastest.
    """

    step: Positive = Field(description="natural logarithm of one level")
    shape: tuple[int, ...] = Field(description="nodes along each axis")
    packed: str = Field(description="levels of the nodes: differences, deflated, in base 85")

    @model_validator(mode="after")
    def _readable(self) -> Surface:
        """Only the spelling is checked: reading every surface of a catalog would slow every start."""
        if not self.packed or min(self.shape, default=0) < 1:
            raise ValueError("a surface needs a shape and packed levels")
        return self

    @property
    def nodes(self) -> NDArray[np.float64]:
        """Values at all nodes, flat ``[nodes]``.

        Raises:
            ValueError: ``packed`` does not hold ``shape`` levels.
        """
        return _nodes(self.step, self.shape, self.packed)


def surface(nodes: NDArray[np.float64], step: float = STEP) -> Surface:
    """The `Surface` nearest to ``nodes`` ``[axes]``; exact to half a step, which the largest node may make larger."""
    largest = float(np.max(np.abs(nodes), initial=0.0))
    step = float(f"{max(step, 1.001 * largest / MOST):.3g}")
    levels = np.clip(np.rint(nodes / step), -MOST, MOST).astype(np.int8).view(np.uint8)
    for axis in _along(nodes.shape):
        levels = np.diff(levels, axis=axis, prepend=np.zeros_like(levels.take([0], axis)))
    packed = min((_deflated(levels.tobytes(), how) for how in _STRATEGIES), key=len)
    return Surface(step=step, shape=nodes.shape, packed=base64.b85encode(packed).decode())


_STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE)


def _deflated(raw: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9, strategy)
    return packer.compress(raw) + packer.flush()


def _along(shape: tuple[int, ...]) -> list[int]:
    """The two longest axes."""
    return sorted(range(len(shape)), key=lambda axis: (-shape[axis], axis))[:2]


@lru_cache(maxsize=256)
def _nodes(step: float, shape: tuple[int, ...], packed: str) -> NDArray[np.float64]:
    try:
        raw = zlib.decompress(base64.b85decode(packed), -15)
    except (ValueError, zlib.error, binascii.Error) as error:
        raise ValueError(f"packed levels cannot be read: {error}") from None
    if len(raw) != math.prod(shape):
        raise ValueError(f"{len(raw)} packed levels; shape {shape} has {math.prod(shape)} nodes")
    levels = np.frombuffer(raw, dtype=np.uint8).reshape(shape)
    for axis in _along(shape):
        levels = np.cumsum(levels, axis=axis, dtype=np.uint8)
    values = step * levels.view(np.int8).astype(np.float64).ravel()
    values.flags.writeable = False
    return values
