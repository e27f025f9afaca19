"""Reality: which effects count. All of them in a prediction; switched on one by one they make the ladder."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from ridgeline.graph.ops import FloatArray


@dataclass(frozen=True, slots=True)
class Reality:
    """1 = the effect counts, 0 = it is free. Floats for every plan, or arrays ``[plans]``: one variant per entry."""

    recompute: FloatArray | float = 1.0
    kernels: FloatArray | float = 1.0  # matrix kernels below their peak, in-situ clock included
    streams: FloatArray | float = 1.0  # memory-bound operators
    tp: FloatArray | float = 1.0
    cp: FloatArray | float = 1.0
    ep: FloatArray | float = 1.0
    host: FloatArray | float = 1.0
    offload: FloatArray | float = 1.0  # activations parked in host memory
    pipeline: FloatArray | float = 1.0  # bubble, uneven stages, exposed sends
    dp: FloatArray | float = 1.0
    optimizer: FloatArray | float = 1.0
    fixed: FloatArray | float = 1.0
    jitter: FloatArray | float = 1.0


#: The documented order of the ladder, from the ideal upwards.
ORDER = tuple(field.name for field in fields(Reality))
REAL = Reality()


def staircase() -> Reality:
    """``len(ORDER) + 1`` variants: entry ``i`` has the first ``i`` effects of `ORDER` switched on."""
    steps = np.tri(len(ORDER) + 1, len(ORDER), -1)
    return Reality(*steps.T)
