"""Exposed communication: hidden time exists only while both resources are busy, and hiding takes cores."""

from __future__ import annotations

import numpy as np

from ridgeline.graph.ops import FloatArray


def exposed_under(seconds: FloatArray, window_s: FloatArray | float, share: float) -> FloatArray:
    """What ``seconds`` of communication add to a ``window_s`` of compute they may run under [s].

    ``hidden = min(seconds, window)``; while they run together the collective takes ``share`` of the cores, so
    compute loses ``share * hidden``. Result: ``seconds - hidden + share * hidden``, never more than ``seconds``.
    """
    hidden = np.minimum(seconds, window_s)
    return seconds - hidden * (1.0 - share)
