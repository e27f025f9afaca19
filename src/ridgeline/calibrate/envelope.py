"""The lower envelope of a library's regimes over its algorithms, and its fit to measured times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ridgeline.facts.chip import Cluster, Tier
from ridgeline.facts.link_calibration import Regime
from ridgeline.timing.tariff import Traffic, beyond_neighbour
from ridgeline.timing.topology import FloatArray

REGIMES = 4


@dataclass(frozen=True, slots=True)
class Moved:
    """What a fit sees of each row under one algorithm, arrays [rows]: steps, bytes sent, bytes copied."""

    steps: FloatArray
    sent: FloatArray
    kept: FloatArray
    beyond: FloatArray  # share of the peers behind a host bridge


def moved(traffic: Traffic, ranks: FloatArray, size_bytes: FloatArray) -> Moved:
    """Steps and bytes of rows under the innermost tier's ``traffic`` per byte."""
    # One group size cannot tell a step from the launch: the base then holds both.
    several = 1.0 if np.ptp(ranks) > 0 else 0.0
    copied = np.zeros_like(size_bytes) if traffic.kept is None else size_bytes * traffic.kept[0]
    return Moved(several * traffic.steps[0], size_bytes * traffic.sent[0], copied, beyond_neighbour(ranks))


def bench(domain: int, bandwidth: float = 1.0) -> Cluster:
    """One scale-up domain of chips with ``bandwidth`` [B/s] and nothing around it."""
    tier = Tier.model_construct(
        name="link", size=domain, bandwidth=bandwidth, latency=0.0, topology="switch", rail_optimised=False,
        oversubscription=1.0, in_network_reduction=True, lossy=False, torus_axes=None,
    )  # fmt: skip
    return Cluster.model_construct(
        name="bench", title="", chip="", chips_per_node=domain, tiers=(tier,), node_overhead=0.0, source={}
    )


def seconds(parameters: FloatArray, found: Sequence[Moved], bandwidth: float) -> FloatArray:
    """The model of the fit [rows]: lower envelope over algorithms and regimes.

    ``parameters`` are logarithms: copy cost, detour, then base [s], hop [s] and share of each regime.
    """
    return np.asarray(np.min(_each(parameters, found, bandwidth), axis=0))


def _each(parameters: FloatArray, found: Sequence[Moved], bandwidth: float) -> FloatArray:
    values = np.exp(parameters)
    return np.array(
        [
            base
            + move.steps * hop
            + (move.sent + values[0] * move.kept) * (1.0 + values[1] * move.beyond) / (share * bandwidth)
            for base, hop, share in values[2:].reshape(-1, 3)
            for move in found
        ]
    )


#: Starts: base [s], hop [s] and share of each regime: of small flags, of low latency, mixed, and of full rate.
_STARTS = (
    ((3e-6, 5e-7, 0.03), (5e-6, 8e-7, 0.15), (8e-6, 1.2e-6, 0.45), (2.5e-5, 2.5e-6, 0.75)),
    ((3e-6, 5e-7, 0.03), (4e-6, 3e-7, 0.05), (1e-5, 8e-7, 0.3), (4e-5, 4e-6, 0.8)),
    ((3e-6, 5e-7, 0.03), (8e-6, 1.5e-6, 0.3), (2e-5, 2e-6, 0.6), (6e-5, 2e-6, 0.85)),
)
#: The envelope has many local minima: as many starts again, twice, spread about these.
_SPREAD, _AGAIN = (0.6, 0.6, 0.3), 2


def _starts(regimes: int) -> list[FloatArray]:
    random = np.random.default_rng(0)
    given = [np.log(np.array(start[-regimes:])) for start in _STARTS]
    spread = [start + random.normal(0.0, _SPREAD, start.shape) for _ in range(_AGAIN) for start in given]
    return [np.concatenate([np.log([0.3, 0.3]), start.ravel()]) for start in [*given, *spread]]


_LOW = np.log([1e-3, 1e-4] + [2e-7, 1e-9, 0.002] * REGIMES)
_HIGH = np.log([3.0, 3.0] + [1e-3, 1e-4, 1.2] * REGIMES)


def solve(
    found: Sequence[Moved], measured: FloatArray, bandwidth: float, regimes: int, *, bridged: bool = False
) -> tuple[FloatArray, float]:
    """Logarithms of the parameters that fit ``measured`` seconds [rows], and the cost that is left.

    ``bridged``: chips are joined over their host, so large groups may pay a detour.
    """
    target = np.log(measured)
    low, high = _LOW[: 2 + 3 * regimes], _HIGH[: 2 + 3 * regimes].copy()
    if not bridged:
        high[1] = low[1] + 1e-3

    def residual(parameters: FloatArray) -> FloatArray:
        return np.asarray(np.log(seconds(parameters, found, bandwidth)) - target)

    best: Any = None
    for start in _starts(regimes):
        first = np.clip(start, low + 1e-5, high - 1e-5)
        result = least_squares(
            residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.08, max_nfev=300
        )
        if best is None or result.cost < best.cost:
            best = result
    return np.asarray(best.x, dtype=np.float64), float(best.cost)


def used_regimes(
    parameters: FloatArray, found: Sequence[Moved], bandwidth: float, *, hops: bool
) -> tuple[Regime, ...]:
    """Regimes that win on a measured row, from low to high rate; others are leftovers of the search.

    ``hops``: whether rows of several group sizes tell a step from the launch.
    """
    winners = np.argmin(_each(parameters, found, bandwidth), axis=0) // len(found)
    triples = np.exp(parameters)[2:].reshape(-1, 3)
    used = sorted((triples[i] for i in set(winners.tolist())), key=lambda row: float(row[2]))
    return tuple(
        Regime.model_validate(
            {
                "base": f"{base * 1e6:.4g} us",
                "hop": f"{hop * 1e6 if hops else 0.0:.4g} us",
                "share": float(f"{share:.4g}"),
            }
        )
        for base, hop, share in used
    )


def detour(parameters: FloatArray) -> float:
    """Fitted extra time per byte of a large group, over that of a pair; 0 where none was found."""
    value = float(np.exp(parameters[1]))
    return float(f"{value:.3g}") if value > 1e-3 else 0.0
