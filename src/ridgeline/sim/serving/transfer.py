"""Sending a KV cache from prefill to decode engines: the time on the links between them."""

from __future__ import annotations

import numpy as np

from ridgeline.facts.serving import Service
from ridgeline.sim.serving.table import StepTable
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.topology import place


def transfer_s(prefill: Service, table: StepTable, isl: float, chips: int | None = None) -> float:
    """Sending the cache of one prompt to a decode engine [s]: every chip of its rank sends what it holds.

    The parts go side by side. ``chips`` of both pools that stand together and fit into one scale-up domain send over
    its links; otherwise (and where None) over the chips' own NICs, the tier outside the domain.
    """
    cluster, layout = prefill.cluster, prefill.layout
    size = isl * table.kv_bytes_per_token / (layout.tp * layout.pp)
    domain = cluster.tiers[0].size or 1
    apart = place(2, 1 if chips is not None and chips <= domain else domain, cluster)
    return float(np.ravel(collective_seconds("send", size, apart, cluster, prefill.calibration.links))[0])
