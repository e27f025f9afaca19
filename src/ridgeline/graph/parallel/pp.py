"""Pipeline axis: which layers each stage holds.

Stages come in four classes: first, second, middle, last (axis 0). Layers are cut into ``pp x vpp`` chunks of equal
size; where they do not divide, the first and the last chunk are short (they also hold embedding and head), as
Megatron does when it counts both ends as layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.plan import IntArray
from ridgeline.graph.ops import FloatArray

FIRST, SECOND, MIDDLE, LAST = range(4)


@dataclass(frozen=True, slots=True)
class Stages:
    """``layers[kind, class, plan]``: layers of each kind on one stage of each class (middle: their mean)."""

    layers: FloatArray
    embedding: FloatArray  # [4, plans]: 1 where the stage holds the embedding
    head: FloatArray  # [4, plans]
    number: FloatArray  # [4, plans]: how many stages are of this class


def stage_number(pp: FloatArray) -> FloatArray:
    """How many of ``pp`` stages are first, second, middle and last, ``[4, plans]``; one stage counts as first."""
    return np.stack([np.ones_like(pp), (pp >= 3) * 1.0, np.maximum(pp - 3.0, 0.0), (pp >= 2) * 1.0])


def assign(arch: Architecture, pp: IntArray, vpp: IntArray) -> Stages:
    """Layers of every kind per stage class for arrays of ``pp`` and ``vpp``."""
    p, v = pp.astype(np.float64), vpp.astype(np.float64)
    number = stage_number(p)
    total = float(arch.num_layers)
    per_chunk = np.ceil(total / (p * v))
    missing = p * v * per_chunk - total
    room = v * per_chunk
    short_last = np.minimum(np.ceil(missing / 2.0), room)
    short_first = np.minimum(missing - short_last, room)
    rest = missing - short_last - short_first
    full = room - rest / np.maximum(p - 2.0, 1.0)
    one = p == 1
    stage = np.stack(
        [np.where(one, total, room - short_first), full, full, np.where(one, 0.0, room - short_last)]
    )
    counts = np.array([layer.count for layer in arch.layers], dtype=np.float64)
    if len(counts) == 2 and arch.order == "listed":
        leading = _leading(counts[0], per_chunk, stage, number)
        layers = np.stack([leading, stage - leading])
    else:
        layers = counts[:, None, None] / total * stage[None]
    ends = np.zeros_like(number)
    ends[FIRST] = 1.0
    head = np.zeros_like(number)
    head[FIRST] = one
    head[LAST] = ~one
    return Stages(layers, ends, head, number)


def _leading(count: float, per_chunk: FloatArray, stage: FloatArray, number: FloatArray) -> FloatArray:
    """A leading group of ``count`` layers fills the first chunk of each stage in order; the rest spreads evenly."""
    one = (number[LAST] == 0) * 1.0
    first = np.minimum(count, one * count + (1.0 - one) * np.minimum(per_chunk, stage[FIRST]))
    second = np.clip(count - first, 0.0, per_chunk) * number[SECOND]
    left = count - first - second
    has_middle = (number[MIDDLE] > 0) * 1.0
    middle = has_middle * left / np.maximum(number[MIDDLE], 1.0)
    last = (1.0 - has_middle) * left
    return np.stack([first, second, middle, last])
