"""Fit collectives between nodes to achieved shares of NIC bandwidth, and add what only publications tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ridgeline.calibrate.link_tables import Shares
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import LinkFit, Regime
from ridgeline.facts.observation import Label
from ridgeline.timing.topology import FloatArray

#: NIC of one chip in the nodes behind the shares: 8 chips with 400 Gbit/s each [B/s].
NIC_BYTES_PER_S = 50e9
HELD_OUT = 0.3

_NCCL = "hop latencies as in NCCL src/graph/tuning.cc (tree, network); launch and shares are estimates"
_DEEPEP = "DeepEP README, H800 with 50 GB/s NICs"
#: Not in any measured table here: base [us], hop [us], share; and the source.
_TRANSFERRED: dict[str, tuple[tuple[tuple[float, float, float], ...], str]] = {
    "all_reduce_tree": (((6.8, 5.0, 0.25), (14.0, 8.5, 0.85), (8.4, 14.0, 0.93)), _NCCL),
    "all_reduce_in_network": (((15.0, 8.0, 0.8),), "estimate: SHARP all-reduce near line rate; " + _NCCL),
    "send": (((10.0, 6.0, 0.92),), "estimate: one NCCL message on an idle NIC; " + _NCCL),
    "dispatch": (((30.0, 0.0, 0.87),), _DEEPEP + ": EP32 58 GB/s, EP64 51 GB/s with the own node counted"),
    "combine": (((30.0, 0.0, 0.87),), _DEEPEP + ": EP32 57 GB/s, EP64 50 GB/s with the own node counted"),
    "dispatch_low_latency": (((37.0, 0.0, 0.93),), _DEEPEP + ": 118 us at EP16 to 194 us at EP256"),
    "combine_low_latency": (((19.0, 0.0, 0.83),), _DEEPEP + ": 195 us at EP16 to 360 us at EP256"),
}
#: Shares start at 16 MB; a small exchange between nodes does not set up the pipeline that a large one does.
_SMALL_EXCHANGE = (20.0, 0.5, 0.35)


def scale_out_fits(tables: Sequence[Shares]) -> dict[str, LinkFit]:
    """Fits by collective: those of ``tables`` measured, the rest transferred from publications."""
    found = {table.key: fit_shares(table) for table in tables}
    for key, (regimes, source) in _TRANSFERRED.items():
        found[key] = LinkFit(
            regimes=tuple(_regime(base, hop, share) for base, hop, share in regimes),
            provenance=Provenance(label=Label.TRANSFERRED, source=source),
        )
    return found


def fit_shares(table: Shares, *, seed: int = 0) -> LinkFit:
    """One regime from achieved shares; errors on three of ten rows held out.

    Rings over N nodes of m ranks have N - 1 steps on the network and N (m - 1) inside nodes:
    ``t = base + (N - 1) hop + N (m - 1) relay + size (1 - 1/n) / (m share bandwidth)``, and a table's share
    is ``size (1 - 1/n) / (t m bandwidth)``. All-to-all posts n - m messages, ``size (1 - 1/N)`` bytes leave.

    Raises:
        ValueError: a table of links inside nodes, or of one node only.
    """
    table = table.take(table.nodes > 1)
    if table.inside or not table.nodes.size:
        raise ValueError(
            f"{table.source}: shares of links inside a node; links between nodes are fitted to NIC shares"
        )
    n, m, nodes = table.nodes * table.ranks_per_node, table.ranks_per_node, table.nodes
    exchange = table.key == "all_to_all"
    steps = n - m if exchange else nodes - 1.0
    relays = np.zeros_like(n) if exchange else n - nodes
    moved = table.size_bytes * ((1.0 - 1.0 / nodes) if exchange else (1.0 - 1.0 / n) / m) / NIC_BYTES_PER_S
    held = np.random.default_rng(seed).random(n.size) < HELD_OUT

    def time(parameters: FloatArray) -> FloatArray:
        base, hop, relay, share = np.exp(parameters)
        return np.asarray(base + steps * hop + relays * relay + moved / share)

    def residual(parameters: FloatArray) -> FloatArray:
        return np.asarray(np.log(time(parameters) * table.share / moved))[~held]

    low, high = np.log([1e-6, 1e-8, 1e-8, 0.05]), np.log([1e-3, 1e-4, 1e-4, 1.0])
    start = np.log([2e-5, 2e-6, 3e-6, 0.9])
    result: Any = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.08)
    base, hop, relay, share = np.exp(result.x)
    error = np.abs(moved / time(result.x) / table.share - 1.0)[held]
    regime = _regime(base * 1e6, hop * 1e6, share, 0.0 if exchange else relay * 1e6)
    return LinkFit(
        regimes=(_regime(*_SMALL_EXCHANGE), regime) if exchange else (regime,),
        provenance=Provenance(
            label=Label.TRANSFERRED,  # the tables name no chip
            source=f"{table.source}, taking 50 GB/s NICs, one for each of 8 chips",
            rows=int((~held).sum()),
            median_abs_err=round(float(np.median(error)), 4),
            p90_abs_err=round(float(np.quantile(error, 0.9)), 4),
        ),
    )


def _regime(base_us: float, hop_us: float, share: float, relay_us: float = 0.0) -> Regime:
    return Regime.model_validate(
        {
            "base": f"{base_us:.4g} us",
            "hop": f"{hop_us:.4g} us",
            "relay": f"{relay_us:.4g} us",
            "share": float(f"{share:.4g}"),
        }
    )
