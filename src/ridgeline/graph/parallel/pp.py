"""Pipeline axis: which layers each stage holds.

Stages come in four classes: first, second, middle, last (axis 0). Layers are cut into ``pp x vpp`` chunks
of equal size, chunk ``c`` of stage ``s`` at place ``c pp + s``; where they do not divide, the first and the
last stage hold fewer (they also hold embedding and head), as Megatron does when it counts both ends as
layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.plan import IntArray, Plan, PlanGrid
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
    """How many of ``pp`` stages are of each class ``[4, plans]``; a single stage counts as first."""
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
    one = p == 1
    counts = np.array([layer.count for layer in arch.layers], dtype=np.float64)
    if len(counts) > 1 and arch.order == "listed":
        layers = _in_order(counts, number, per_chunk, short_first, short_last, v)
    else:
        # what the ends cannot give up, the stages between them do
        rest = missing - short_last - short_first
        full = room - rest / np.maximum(p - 2.0, 1.0)
        ends = room - short_first, np.where(one, 0.0, room - short_last)
        stage = np.stack([np.where(one, total, ends[0]), full, full, ends[1]])
        layers = counts[:, None, None] / total * stage[None]
    embedding = np.zeros_like(number)
    embedding[FIRST] = 1.0
    head = np.zeros_like(number)
    head[FIRST] = one
    head[LAST] = ~one
    return Stages(layers, embedding, head, number)


def recomputed_share(plan: Plan | PlanGrid, layers: FloatArray) -> FloatArray | float:
    """Share of the ``layers`` ``[4, plans]`` of a stage that full recompute repeats; 1 unless a number is given."""
    chosen = np.asarray(plan.recompute_layers, dtype=np.float64)
    if plan.recompute != "full" or (chosen < 0).all():
        return 1.0
    return np.where(chosen < 0, 1.0, np.minimum(chosen / np.maximum(layers, 1e-9), 1.0))


def _in_order(
    counts: FloatArray,
    number: FloatArray,
    per_chunk: FloatArray,
    short_first: FloatArray,
    short_last: FloatArray,
    vpp: FloatArray,
) -> FloatArray:
    """Layers ``[kind, class, plan]`` where kinds follow one another from input to output.

    Walks the rounds of chunks: in each, the first, the second and the last stage hold an interval of the
    depth, and what of a kind lies in it is theirs; the middle stages hold the rest.
    """
    total = counts.sum()
    p = number.sum(axis=0)
    one = p == 1
    stop = np.cumsum(counts)[:, None]
    start = stop - counts[:, None]
    rest = p * vpp * per_chunk - total - short_first - short_last
    layers = np.zeros((counts.size, *number.shape))
    done = np.zeros_like(per_chunk)
    rounds = int(vpp.max())
    for chunk in range(rounds):
        there = chunk < vpp
        # the first stage gives up layers from its first chunk on, the last stage from its last one back
        first = per_chunk - np.clip(short_first - chunk * per_chunk, 0.0, per_chunk)
        last = per_chunk - np.clip(short_last - (vpp - 1.0 - chunk) * per_chunk, 0.0, per_chunk)
        between = np.maximum(p - 2.0, 0.0)
        second = per_chunk - rest / vpp / np.maximum(between, 1.0)
        width = first + between * second + last * (p >= 2)
        edges = (
            (FIRST, done, done + first),
            (SECOND, done + first, done + first + second),
            (LAST, done + width - last, done + width),
        )
        for kind, low, high in edges:
            inside = np.minimum(high, stop) - np.maximum(low, start)
            layers[:, kind] += np.maximum(inside, 0.0) * (there & (number[kind] > 0))
        done = done + width * there
    layers[:, FIRST] = np.where(one, counts[:, None], layers[:, FIRST])
    held = layers[:, FIRST] + layers[:, SECOND] + layers[:, LAST]
    middle = np.maximum(counts[:, None] - held, 0.0) / np.maximum(number[MIDDLE], 1.0)
    # a class that a short pipeline lacks repeats its neighbour
    layers[:, MIDDLE] = np.where(number[MIDDLE] > 0, middle, layers[:, SECOND])
    return layers
