"""Tariff: what an algorithm's traffic costs on the tiers of one placement, as straight lines over bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Cluster
from ridgeline.facts.link_calibration import LinkCalibration, LinkFit
from ridgeline.graph.cache import by_identity
from ridgeline.timing.cores import Lent, core_seconds_per_byte, first_seconds, together
from ridgeline.timing.topology import FloatArray, Placement, is_scale_up, usable_share

#: Where a collective has no fit of its own, the one whose data movement it shares.
_FALLBACK = {
    "all_reduce_in_network": "all_reduce", "all_reduce_tree": "all_reduce", "send": "all_to_all",
    "broadcast": "all_gather", "reduce_scatter": "all_gather", "all_reduce": "all_gather",
    "dispatch": "all_to_all", "combine": "all_to_all",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one algorithm does on every tier, per rank; arrays ``[tiers, *plans]``.

    Attributes:
        keys: which fit of the calibration applies on each tier.
        steps: algorithm steps or messages, each costing the fitted hop.
        sent: bytes sent by one rank per byte of the collective's size.
        kept: bytes of its own shard that a rank copies per byte of size.
        relays: steps inside nodes of a ring that crosses the tier.
        serial: link latencies that follow one another, where they are not the steps.
        streaming: all tiers carry bytes at the same time; else one tier follows the other.
        able: plans that can run it ``[*plans]``; None = all.
        lent: cores that work beside the scale-up links, for expert kernels.
        least: bytes from which on it is taken ``[*plans]``; set with ``below``.
        below: bytes from which on the next kernel is taken ``[*plans]``; None = all sizes.
    """

    keys: tuple[str, ...]
    steps: FloatArray
    sent: FloatArray
    kept: FloatArray | None = None
    relays: FloatArray | None = None
    serial: FloatArray | None = None
    streaming: bool = True
    able: NDArray[np.bool_] | None = None
    lent: Lent | None = None
    least: FloatArray | None = None
    below: FloatArray | None = None


class Window(NamedTuple):
    """Sizes at which one of several kernels runs, arrays ``[*plans]``."""

    least: FloatArray
    below: FloatArray
    floor_s: (
        FloatArray | float
    )  # what kernels of smaller messages take at most: a longer message is never faster


class Price(NamedTuple):
    """Time of one algorithm as straight lines over bytes ``[regimes, stages, *plans]``; stages follow one another."""

    fixed_s: FloatArray
    per_byte_s: FloatArray
    able: NDArray[np.bool_] | None = None  # plans that can run it ``[*plans]``; None = all
    window: Window | None = None  # None = messages of all sizes

    def seconds(self, size_bytes: FloatArray) -> FloatArray:
        """Each stage at its cheapest regime for ``size_bytes`` [B], which broadcasts with ``[*plans]``.

        Infinite where the algorithm cannot run.
        """
        total: FloatArray | None = None
        for stage in range(self.fixed_s.shape[1]):
            best: FloatArray | None = None
            for fixed, per_byte in zip(self.fixed_s[:, stage], self.per_byte_s[:, stage], strict=True):
                time = per_byte * size_bytes
                time += fixed
                best = time if best is None else np.minimum(best, time)
            assert best is not None
            total = best if total is None else total + best
        assert total is not None
        if self.window is not None:
            least, below, floor = self.window
            taken = (size_bytes >= least) & (size_bytes < below)
            total = np.where(taken, np.maximum(total, floor), np.inf)
        return total if self.able is None else np.where(self.able, total, np.inf)

    def most_seconds(self) -> FloatArray:
        """Time of the longest message that it takes ``[*plans]``; 0 where it takes none, or has no limit."""
        assert self.window is not None
        least, below, _ = self.window
        ends = np.isfinite(below) & (below > least)
        time = self._replace(window=None, able=None).seconds(np.where(ends, below, 0.0))
        return np.where(ends, time, 0.0)


def price(
    traffic: Traffic,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    flows: FloatArray | float = 1.0,
) -> Price:
    """What an algorithm costs on a placement that crosses a tier.

    Tiers that stream together: latencies add, the slowest link sets the rate, one regime serves all. Otherwise
    each tier is a stage with a regime of its own.
    """
    tiers = placement.tiers
    fits = _fits(cluster, links, traffic.keys[tiers], tiers.start, placement.size.ndim)
    steps, sent = traffic.steps[tiers], traffic.sent[tiers]
    serial = steps if traffic.serial is None else traffic.serial[tiers]
    wait = steps * fits.hop_s + serial * fits.slower_s
    if traffic.relays is not None:
        wait += traffic.relays[tiers] * fits.relay_s
    moved = sent
    if traffic.kept is not None:
        moved = np.where(sent > 0.0, sent + fits.copy_cost * traffic.kept[tiers], 0.0)
    if fits.detours:
        moved = moved * (1.0 + fits.detour * beyond_neighbour(placement.members[tiers]))
    fixed = np.maximum(wait, 0.0)
    base = np.where(steps > 0.0, fits.base_s, 0.0)
    per_byte = moved * flows / _rate(fits, placement, cluster, tiers)
    if traffic.lent is not None and tiers.start == 0 and fits.inner.cores is not None:
        cores = core_seconds_per_byte(fits.inner.cores, traffic.lent)
        per_byte[:, 0] = np.where(
            moved[0] > 0.0, together(per_byte[:, 0], cores * fits.slowness[:, 0]), per_byte[:, 0]
        )
        base[:, 0] += np.where(moved[0] > 0.0, first_seconds(fits.inner.cores, traffic.lent), 0.0)
    window = (
        None if traffic.least is None or traffic.below is None else Window(traffic.least, traffic.below, 0.0)
    )
    if not traffic.streaming:
        return Price(base + fixed, per_byte, traffic.able, window)
    fixed = base.max(axis=1, keepdims=True) + fixed.sum(axis=1, keepdims=True)
    return Price(fixed, per_byte.max(axis=1, keepdims=True), traffic.able, window)


class _Fits(NamedTuple):
    """Fitted coefficients of one key per tier ``[regimes, tiers, 1...]`` unless said otherwise."""

    base_s: FloatArray
    hop_s: FloatArray
    relay_s: FloatArray
    bytes_per_s: (
        FloatArray  # regime's share of the data-sheet bandwidth, oversubscription and hashing taken off
    )
    slower_s: FloatArray  # [tiers, 1...]: latency of the tier beyond the reference
    copy_cost: FloatArray  # [tiers, 1...]
    off_rail: FloatArray  # [tiers, 1...]: share of the rate that is left to flows that leave their rail
    leaves_rail: bool  # whether any tier takes that off
    detour: FloatArray  # [tiers, 1...]
    detours: bool  # whether any tier has one
    slowness: FloatArray  # share of the fastest regime over the regime's own
    inner: LinkFit  # of the first tier


@by_identity
def _fits(cluster: Cluster, links: LinkCalibration, keys: tuple[str, ...], first: int, ndim: int) -> _Fits:
    """Coefficients of ``keys``, one per tier from ``first`` on, for placements with ``ndim`` axes of plans.

    Ring and tree neighbours of a group are adjacent nodes and stay below their leaf; direct exchanges and
    pipeline sends cross the up-links and pay the oversubscription.
    """
    tiers = [(index, cluster.tiers[index]) for index in range(first, first + len(keys))]
    inside = [is_scale_up(tier, index) for index, tier in tiers]
    fits = [_fit(links, key, scale_up) for key, scale_up in zip(keys, inside, strict=True)]
    most = max(len(fit.regimes) for fit in fits)
    regimes = [[fit.regimes[min(rank, len(fit.regimes) - 1)] for fit in fits] for rank in range(most)]
    left, off_rail = np.ones(len(keys)), np.ones(len(keys))
    for i, (key, (_, tier), scale_up) in enumerate(zip(keys, tiers, inside, strict=True)):
        if scale_up:
            continue
        if key in ("all_to_all", "send"):
            left[i] /= max(tier.oversubscription, 1.0)
        if tier.lossy:
            left[i] *= links.lossy_share
        if tier.rail_optimised and key != "all_to_all":
            off_rail[i] = links.cross_rail_share
    bandwidth = left * [tier.bandwidth for _, tier in tiers]
    reference = [links.scale_up_latency if scale_up else links.scale_out_latency for scale_up in inside]

    def column(values: object) -> FloatArray:
        """Values per tier, with an axis for each axis of plans."""
        table = np.array(values, dtype=np.float64)
        return table.reshape(*table.shape, *(1,) * ndim)

    return _Fits(
        base_s=column([[regime.base for regime in row] for row in regimes]),
        hop_s=column([[regime.hop for regime in row] for row in regimes]),
        relay_s=column([[regime.relay for regime in row] for row in regimes]),
        bytes_per_s=column([[regime.share for regime in row] * bandwidth for row in regimes]),
        slower_s=column([tier.latency for _, tier in tiers]) - column(reference),
        copy_cost=column([fit.copy_cost for fit in fits]),
        off_rail=column(off_rail),
        leaves_rail=bool((off_rail != 1.0).any()),
        detour=column([fit.detour for fit in fits]),
        detours=any(fit.detour for fit in fits),
        slowness=column(
            [
                [fit.regimes[-1].share / regime.share for fit, regime in zip(fits, row, strict=True)]
                for row in regimes
            ]
        ),
        inner=fits[0],
    )


def beyond_neighbour(members: FloatArray) -> FloatArray:
    """Share of a rank's peers that are not its neighbour [1]: 0 in a pair, towards 1 in a large group.

    A pair of PCIe chips sits below one switch; the rest of a larger group is reached over the host's bridges.
    """
    return np.asarray(np.maximum(members - 2.0, 0.0) / np.maximum(members - 1.0, 1.0))


def _fit(links: LinkCalibration, wanted: str, scale_up: bool) -> LinkFit:
    """The fit of a key, or of the one that moves data alike; ``key/2`` is the second kernel of an engine's fit."""
    table = links.scale_up if scale_up else links.scale_out
    key, _, kernel = wanted.partition("/")
    if kernel:
        return table[key].model_copy(update={"regimes": table[key].kernels[int(kernel) - 1].regimes})
    while key not in table:
        if key not in _FALLBACK:
            where = "scale_up" if scale_up else "scale_out"
            raise ValueError(
                f"link calibration '{links.chip}' has no {where} fit for '{wanted}', it has {', '.join(table)}"
            )
        key = _FALLBACK[key]
    return table[key]


def _rate(fits: _Fits, placement: Placement, cluster: Cluster, tiers: slice) -> FloatArray:
    """Bytes per second that the layout leaves of each tier's links ``[regimes, tiers, *plans]``."""
    rate = fits.bytes_per_s * usable(placement, cluster, tiers)
    if fits.leaves_rail:
        rate = rate * np.where(placement.on_rail[tiers], 1.0, fits.off_rail)
    return rate


def usable(placement: Placement, cluster: Cluster, tiers: slice = slice(None)) -> FloatArray | float:
    """Share of a chip's links that the group can use on each tier ``[tiers, *plans]``, or 1 on switches only."""
    links = cluster.tiers[tiers]
    if all(tier.topology not in ("mesh", "torus") for tier in links):
        return 1.0
    shares = [
        usable_share(tier, inside) for tier, inside in zip(links, placement.members[tiers], strict=True)
    ]
    return np.stack(shares)
