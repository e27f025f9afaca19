"""Ladder: from the ideal step, rung by rung, to the predicted one. Rungs sum exactly.

Each rung is the difference of two full evaluations of the step, with the effects of `ridgeline.sim.reality.ORDER`
switched on in that order: a rung says what an effect costs once those above it are paid.
"""

from __future__ import annotations

from ridgeline.graph.ops import FloatArray
from ridgeline.metrics import Rung
from ridgeline.sim.reality import ORDER

CAUSES = {
    "recompute": "recomputed FLOPs",
    "kernels": "matrix kernels below peak",
    "streams": "memory-bound operators",
    "tp": "tensor parallel, exposed",
    "cp": "context parallel, exposed",
    "ep": "expert parallel, exposed",
    "host": "host launch",
    "offload": "activation offload, exposed",
    "pipeline": "pipeline bubble and sends",
    "dp": "data parallel, exposed",
    "optimizer": "optimizer",
    "fixed": "fixed per step",
    "jitter": "jitter across chips",
}


def ladder(model_s: float, totals: FloatArray) -> tuple[Rung, ...]:
    """Rungs from ``totals`` ``[len(ORDER) + 1]``, the step with ever more effects on [s].

    ``model_s`` is the model's own FLOPs at peak; what the first evaluation has beyond it are FLOPs that the kernels do
    without need (unmasked attention scores).
    """
    rungs = [Rung("model FLOPs at peak", model_s), Rung("FLOPs beyond the model", float(totals[0]) - model_s)]
    rungs += [Rung(CAUSES[name], float(totals[i + 1] - totals[i])) for i, name in enumerate(ORDER)]
    return tuple(rung for rung in rungs if rung.seconds != 0.0)
