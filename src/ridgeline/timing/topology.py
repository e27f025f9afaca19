"""Placement: where the ranks of a group sit on the tiers of a cluster.

Rank i sits on chip i. Blocks of ranks that fit inside a domain never straddle two domains: a rack of 72 chips
that runs groups of 16 leaves eight idle, as such racks are run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Cluster, Tier
from ridgeline.graph.cache import by_identity

#: An int or float for one plan, an int64 or float64 array of one shared shape for a grid.
Numeric = int | float | NDArray[Any]
FloatArray = NDArray[np.float64]

#: Longest torus axis a group is laid along before it takes the next axis (TPU pods of 16 x 16).
TORUS_AXIS = 16.0


@dataclass(frozen=True, slots=True)
class Placement:
    """A group of ranks on a cluster, tier by tier from the inside out.

    Attributes:
        size: ranks of the group ``[*plans]``.
        stride: distance of consecutive members in the global rank order ``[*plans]``.
        domains: the number of a tier's domains that the group touches ``[tiers, *plans]``.
        members: group members inside one domain of a tier, the mean when they do not divide ``[tiers, *plans]``.
        subgroups: parts of the group that a tier joins: its ranks on the innermost, else the domains of the tier
            inside ``[tiers, *plans]``.
        chips: chips that one domain of a tier joins ``[tiers, 1...]``, infinite where it joins all.
        crossed: whether the group leaves a subgroup on a tier ``[tiers, *plans]``.
        tiers: from the first to the last tier that any group of the placement crosses; empty if none crosses any.
    """

    size: FloatArray
    stride: FloatArray
    domains: FloatArray
    members: FloatArray
    subgroups: FloatArray
    chips: FloatArray
    crossed: NDArray[np.bool_]
    tiers: slice

    @property
    def sharing(self) -> FloatArray:
        """Sibling groups that run at the same time inside one domain ``[tiers, *plans]``.

        `Tier.bandwidth` is already what one chip gets when all chips send, so siblings cost nothing by
        themselves: a group with one member per node has one chip's NIC share, one with r members has r.
        """
        return np.maximum(np.minimum(self.chips, self.size * self.stride) / self.members, 1.0)

    @property
    def on_rail(self) -> NDArray[np.bool_]:
        """Whether ring neighbours across a tier are the same chip of different nodes ``[tiers, *plans]``.

        They are when whole inner domains lie between them, or when the group fills the inner domain (each of its
        chips then rings with its twin).
        """
        inner = np.ones_like(self.chips)
        inner[1:] = self.chips[:-1]
        strides, fills = self.stride / inner, inner / self.stride
        aligned: NDArray[np.bool_] = (strides == np.rint(strides)) | (fills == np.rint(fills))
        return aligned


def place(size: Numeric, stride: Numeric, cluster: Cluster) -> Placement:
    """Place a group of ``size`` ranks [1], ``stride`` ranks apart [1], on ``cluster``.

    Members span ``size * stride`` ranks, so they touch ``ceil(size * stride / D)`` domains of ``D`` chips, at
    most one per member; a domain of unlimited size holds all. Members per domain are a mean where they do not
    divide.

    Args:
        size: int or array [plans], at least 1.
        stride: int or array [plans], at least 1.
        cluster: the machine.

    Raises:
        ValueError: a size or stride below 1.
    """
    n, s = np.asarray(size, dtype=np.float64), np.asarray(stride, dtype=np.float64)
    if n.shape != s.shape:
        n, s = np.broadcast_arrays(n, s)
    if n.size == 1:
        return _place_one(float(n.item()), float(s.item()), n.shape, cluster)
    return _place(n, s, cluster)


@by_identity
def _place_one(size: float, stride: float, shape: tuple[int, ...], cluster: Cluster) -> Placement:
    """The same few groups come back in plan after plan."""
    return _place(np.full(shape, size), np.full(shape, stride), cluster)


def _place(n: FloatArray, s: FloatArray, cluster: Cluster) -> Placement:
    if n.size and min(n.min(), s.min()) < 1.0:
        raise ValueError("group size and stride must be at least 1")
    chips = _domain_chips(cluster, n.ndim)
    domains = np.minimum(n, np.maximum(np.ceil(n * s / chips), 1.0))
    subgroups = np.empty_like(domains)
    subgroups[0] = n
    subgroups[1:] = domains[:-1]
    crossed = subgroups > domains
    used = np.flatnonzero(crossed.reshape(len(chips), -1).any(axis=1))
    tiers = slice(int(used[0]), int(used[-1]) + 1) if used.size else slice(0, 0)
    return Placement(n, s, domains, n / domains, subgroups, chips, crossed, tiers)


@by_identity
def _domain_chips(cluster: Cluster, ndim: int) -> FloatArray:
    """Chips of one domain of each tier ``[tiers, 1...]``, with ``ndim`` axes of plans."""
    chips = [np.inf if tier.size is None else float(tier.size) for tier in cluster.tiers]
    return np.array(chips).reshape(-1, *(1,) * ndim)


def is_scale_up(tier: Tier, index: int) -> bool:
    """Whether tier ``index`` is the scale-up domain: the innermost (0), unless that is a routed fabric."""
    return index == 0 and tier.topology not in ("fat-tree", "dragonfly")


def torus_axes(tier: Tier, members: Numeric) -> tuple[FloatArray, FloatArray]:
    """Axes a group of ``members`` uses on a torus and its length along each: ``axes = ceil(log_16 members)``.

    Compilers lay one mesh axis on one torus axis of up to 16 chips and on the next ones beyond; every axis is
    taken as a closed ring (wrap-around links).
    """
    total = float(tier.torus_axes or 3)
    m = np.maximum(np.asarray(members, dtype=np.float64), 1.0)
    axes = np.clip(np.ceil(np.log(m) / np.log(TORUS_AXIS) - 1e-9), 1.0, total)
    return axes, m ** (1.0 / axes)


def usable_share(tier: Tier, members: Numeric) -> FloatArray:
    """Share of a chip's tier bandwidth that ``members`` of one group inside the tier can use [1], in (0, 1].

    A switch gives any pair the full rate. A fully connected mesh has one link per pair, so a group uses
    ``(members - 1) / (D - 1)``. A torus gives the links of the axes that the group lies on:
    ``axes used / axes``.
    """
    m = np.asarray(members, dtype=np.float64)
    if tier.topology == "mesh" and tier.size is not None and tier.size > 1:
        return np.clip((m - 1.0) / (tier.size - 1.0), 1.0 / (tier.size - 1.0), 1.0)
    if tier.topology == "torus":
        axes, _ = torus_axes(tier, m)
        return np.asarray(axes / float(tier.torus_axes or 3), dtype=np.float64)
    return np.ones_like(m)
