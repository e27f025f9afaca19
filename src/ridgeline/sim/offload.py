"""Activations parked in host memory: written under the forward pass, read back under the backward pass."""

from __future__ import annotations

import numpy as np

from ridgeline.facts.plan import IntArray, PlanGrid
from ridgeline.graph.activations import activation_bytes
from ridgeline.graph.build import Model
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages, recomputed_share


def offload_exposed_s(
    model: Model,
    grid: PlanGrid,
    stages: Stages,
    codes: IntArray,
    host_bandwidth_bytes_per_s: float,
    forward_s: FloatArray,
    backward_s: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """What the host link adds to forward and backward of one micro-batch [s], each ``[4, plans]``.

    ``max(kept activations / host bandwidth - compute, 0)``: copies run beside the kernels on their own engines.
    ``forward_s`` and ``backward_s`` ``[4, plans]`` are the compute of one micro-batch that they run under.
    """
    shapes = int(codes.max()) + 1

    def kept(recompute: str) -> FloatArray:
        """Bytes that one layer of each kind keeps of a micro-batch ``[layers, 1, plans]``."""
        rows = [np.broadcast_to(activation_bytes(block, recompute), (shapes,)) for block in model.layers]
        return np.stack(rows)[:, None, codes]

    parked = (stages.layers * kept("none" if grid.recompute == "full" else grid.recompute)).sum(axis=0)
    if grid.recompute == "full":
        share = recomputed_share(grid, stages.layers.sum(axis=0))
        parked = (1.0 - share) * parked + share * (stages.layers * kept("full")).sum(axis=0)
    moved_s = parked / host_bandwidth_bytes_per_s
    return np.maximum(moved_s - forward_s, 0.0), np.maximum(moved_s - backward_s, 0.0)
