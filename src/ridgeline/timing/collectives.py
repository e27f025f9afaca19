"""Time of one collective: bytes and steps on every tier it crosses, best algorithm and best library regime.

Byte conventions (n ranks): ``all_reduce`` the buffer on each rank; ``all_gather`` the gathered output;
``reduce_scatter`` the input on each rank; ``all_to_all`` what each rank holds, of which (n-1)/n leaves it;
``send`` and ``broadcast`` the message.

Every formula takes floats or arrays of one shape; loops run over tiers, regimes and algorithms, not plans.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ridgeline.facts.chip import Cluster, Tier
from ridgeline.facts.link_calibration import LinkCalibration, LinkFit
from ridgeline.timing.topology import FloatArray, Numeric, Placement, is_scale_up, torus_axes, usable_share

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast"]
KINDS: tuple[str, ...] = get_args(Kind)

#: Where a collective has no fit of its own, the one whose data movement it shares.
_FALLBACK = {
    "all_reduce_in_network": "all_reduce", "all_reduce_engine": "all_reduce",
    "all_reduce_tree": "all_reduce", "send": "all_to_all",
    "broadcast": "all_gather", "reduce_scatter": "all_gather", "all_reduce": "all_gather",
    "dispatch": "all_to_all", "combine": "all_to_all",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Phase:
    """What one collective does on one tier, per rank.

    Attributes:
        tier: index of the tier.
        key: which fit of the calibration applies.
        steps: algorithm steps or messages, each costing the fitted hop.
        sent: bytes sent by one rank.
        kept: bytes of its own shard that a rank copies.
        relays: steps inside nodes of a ring that crosses this tier.
        serial: link latencies that follow one another, where they are not the steps.
    """

    tier: int
    key: str
    steps: Numeric
    sent: FloatArray
    kept: FloatArray | float = 0.0
    relays: Numeric = 0.0
    serial: Numeric | None = None


#: Phases that run one after the other; each is a set of tiers that stream at the same time.
Algorithm = list[list[Phase]]


def collective_seconds(
    kind: Kind,
    size_bytes: Numeric,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    *,
    concurrent: Numeric = 1.0,
    in_network: bool = True,
    engine: bool = False,
) -> FloatArray:
    """Seconds of one collective.

    ``t = min over algorithms of sum over phases of min over regimes of
    [max base + sum over tiers (steps * hop) + max over tiers (concurrent * bytes / (share * bandwidth))]``.

    Algorithms: ring over all tiers (pipelined, each chip of a node drives its own rail), tree (all-reduce,
    broadcast), hierarchical (inside the scale-up domain, then between domains on 1/members of the bytes),
    in-network reduction, direct exchange (all-to-all, send).

    Args:
        kind: the collective.
        size_bytes: [B], float or array [plans], see the module's convention.
        placement: the group on the cluster.
        cluster: the machine.
        links: fitted coefficients of the chip.
        concurrent: equal flows that share each link at the same time, at least 1.
        in_network: use switches that reduce, where the tier has them.
        engine: inside one scale-up domain, also consider the all-reduce kernels of serving engines.

    Returns:
        Seconds; exactly 0 for a group of one.

    Raises:
        ValueError: unknown kind, or a concurrency below 1.
    """
    found = algorithms(kind, size_bytes, placement, cluster, in_network=in_network, engine=engine)
    flows = _at_least_one(concurrent)
    best = _infinite(found)
    for algorithm in found:
        total: FloatArray = np.zeros_like(best)
        for phases in algorithm:
            total = total + stream_seconds(phases, placement, cluster, links, flows)
        best = np.minimum(best, total)
    return np.where(np.asarray(placement.size) > 1, best, 0.0)


def bound_seconds(
    kind: Kind,
    size_bytes: Numeric,
    placement: Placement,
    cluster: Cluster,
    *,
    concurrent: Numeric = 1.0,
    in_network: bool = True,
) -> FloatArray:
    """Lower bound in seconds: data-sheet bandwidth, no latency, the algorithm with the fewest bytes.

    Same arguments as `collective_seconds`; all phases may overlap, so the bound is the slowest tier.
    """
    found = algorithms(kind, size_bytes, placement, cluster, in_network=in_network, engine=False)
    flows = _at_least_one(concurrent)
    best = _infinite(found)
    for algorithm in found:
        slowest: FloatArray = np.zeros_like(best)
        for phase in (phase for phases in algorithm for phase in phases):
            tier = cluster.tiers[phase.tier]
            rate = tier.bandwidth * usable_share(tier, placement.members[phase.tier])
            slowest = np.maximum(slowest, flows * phase.sent / rate)
        best = np.minimum(best, slowest)
    return np.where(np.asarray(placement.size) > 1, best, 0.0)


def _at_least_one(concurrent: Numeric) -> FloatArray:
    flows = np.asarray(concurrent, dtype=np.float64)
    if np.any(flows < 1.0):
        raise ValueError(
            f"concurrent is the number of flows that share a link, at least 1, got {concurrent!r}"
        )
    return flows


def _infinite(algorithms: list[Algorithm]) -> FloatArray:
    shapes = [np.shape(phase.sent) for algorithm in algorithms for phases in algorithm for phase in phases]
    return np.full(np.broadcast_shapes(*shapes), np.inf)


# Algorithms: who sends how much on which tier


def algorithms(
    kind: str, size_bytes: Numeric, placement: Placement, cluster: Cluster, *, in_network: bool, engine: bool
) -> list[Algorithm]:
    size = np.asarray(size_bytes, dtype=np.float64) * np.ones_like(placement.domains[0])
    if kind in ("all_gather", "reduce_scatter"):
        # Libraries gather and scatter with rings only: what nodes lose at scale is measured on them.
        return [[_ring(kind, size, placement, cluster, passes=1.0)]]
    if kind == "all_reduce":
        found: list[Algorithm] = [
            [_ring(kind, size, placement, cluster, passes=2.0)],
            [_tree(size, placement)],
            _hierarchical_reduce(size, placement, cluster, in_network=in_network),
        ]
        if engine:
            found += [_engine_reduce(size, placement, shots=1), _engine_reduce(size, placement, shots=2)]
        return found
    if kind == "all_to_all":
        return [[_exchange(kind, size, placement, cluster)]]
    if kind == "send":
        return [[_send(size, placement)]]
    if kind == "broadcast":
        return [[_broadcast(size, placement, tree=False)], [_broadcast(size, placement, tree=True)]]
    raise ValueError(f"unknown collective '{kind}', choose one of {', '.join(KINDS)}")


def _levels(placement: Placement) -> list[tuple[int, FloatArray, FloatArray, FloatArray]]:
    """Per tier: index, subgroups it joins, domains they make, ranks inside one subgroup (its rails)."""
    n = np.asarray(placement.size, dtype=np.float64)
    levels, before = [], n * np.ones_like(placement.domains[0])
    for index, domains in enumerate(placement.domains):
        levels.append((index, before, domains, n / before))
        before = domains
    return levels


def _ring(key: str, size: FloatArray, placement: Placement, cluster: Cluster, passes: float) -> list[Phase]:
    """One pipelined ring per rail over all tiers (all-reduce passes it twice).

    Every edge of a ring carries ``size / rings * (1 - 1/n)``; a subgroup of m ranks has m rings, so one of a
    rank's m rings leaves the subgroup. A ring has ``subgroups - domains`` edges on a tier. Edges inside the
    innermost domain of a ring that crosses nodes count as relays of the tier it crosses: kernels then wait
    for the network, which is another latency than that of a ring inside the domain. On a torus one ring runs
    along each axis in turn: ``axes (length - 1)`` steps.
    """
    n = np.asarray(placement.size, dtype=np.float64)
    nodes = placement.domains[0]
    phases: list[Phase] = []
    for tier, subgroups, domains, ranks in _levels(placement):
        crossed = subgroups > domains
        last = crossed & (domains <= placement.domains[-1])
        sent = np.where(crossed, passes * size * (1.0 - 1.0 / n) / ranks, 0.0)
        if tier == 0:
            edges = n - nodes
            if cluster.tiers[0].topology == "torus":
                axes, length = torus_axes(cluster.tiers[0], placement.members[0])
                edges = axes * (length - 1.0)
            steps = np.where(nodes > placement.domains[-1], 0.0, passes * edges)
            phases.append(Phase(tier, key, steps, sent, passes * size / n))
        else:
            relays = np.where(last, passes * (n - nodes), 0.0)
            phases.append(Phase(tier, key, passes * (subgroups - domains), sent, relays=relays))
    return phases


def _tree(size: FloatArray, placement: Placement) -> list[Phase]:
    """Double binary tree between scale-up domains, chain inside: every byte goes up once and down once."""
    phases = []
    for tier, subgroups, domains, ranks in _levels(placement):
        fan = subgroups / domains
        depth = fan - 1.0 if tier == 0 else np.ceil(np.log2(fan))
        sent = np.where(fan > 1.0, 2.0 * size / ranks, 0.0)
        phases.append(Phase(tier, "all_reduce_tree", 2.0 * depth, sent))
    return phases


def _hierarchical_reduce(
    size: FloatArray, placement: Placement, cluster: Cluster, *, in_network: bool
) -> Algorithm:
    """Reduce-scatter inside, all-reduce between domains on every rail at once, all-gather inside.

    Switches that reduce halve the bytes (each rank sends its buffer once) and need two steps a tier.
    """
    phases: Algorithm = []
    for tier, subgroups, domains, ranks in _levels(placement):
        fan = subgroups / domains
        share = np.where(fan > 1.0, size / ranks, 0.0)
        if in_network and cluster.tiers[tier].in_network_reduction:
            # A rank answers the reads of all n owners and multicasts what it reduced itself: 1 + 1/n of the
            # buffer inside a scale-up domain; a switch tree with buffers takes it once.
            sent = share * (1.0 + 1.0 / fan) if tier == 0 else share
            phases.append([Phase(tier, "all_reduce_in_network", np.where(fan > 1.0, 2.0, 0.0), sent)])
        else:
            sent = 2.0 * share * (1.0 - 1.0 / fan)
            steps = 2.0 * (fan - 1.0) if tier == 0 else 2.0 * np.ceil(np.log2(fan))
            key = "all_reduce" if tier == 0 else "all_reduce_tree"
            phases.append([Phase(tier, key, steps, sent, 2.0 * share / fan if tier == 0 else 0.0)])
    return phases


def _engine_reduce(size: FloatArray, placement: Placement, *, shots: int) -> Algorithm:
    """Kernel of a serving engine inside one scale-up domain: reads all buffers, or scatters and gathers."""
    n = np.asarray(placement.size, dtype=np.float64)
    factor = n - 1.0 if shots == 1 else 2.0 * (1.0 - 1.0 / n)
    sent = np.where(placement.domains[0] <= 1.0, size * factor, np.inf)
    return [[Phase(0, "all_reduce_engine", shots * (n - 1.0), sent)]]


def _exchange(key: str, size: FloatArray, placement: Placement, cluster: Cluster) -> list[Phase]:
    """Every rank sends 1/n of its bytes to every other; what leaves a domain uses this chip's own link.

    On a torus a byte travels a quarter of each axis, so links carry ``length / 4`` times the bytes.
    """
    n = np.asarray(placement.size, dtype=np.float64)
    phases = []
    for tier, subgroups, domains, ranks in _levels(placement):
        inside = placement.members[tier]
        peers = (inside if tier == 0 else n) - ranks
        travel: Numeric = 1.0
        if cluster.tiers[tier].topology == "torus":
            travel = np.maximum(torus_axes(cluster.tiers[tier], inside)[1] / 4.0, 1.0)
        sent = np.where(subgroups > domains, size * peers / n * travel, 0.0)
        kept = size / n if tier == 0 else 0.0
        # Messages to all peers are in flight together: many postings, one latency.
        phases.append(Phase(tier, key, inside - ranks, sent, kept, serial=1.0 * (subgroups > domains)))
    return phases


def _send(size: FloatArray, placement: Placement) -> list[Phase]:
    """One message to the next member; the slowest pair rules, the one that crosses the outermost tier."""
    outer: FloatArray = np.ones_like(placement.domains[0])
    phases = []
    for tier, subgroups, domains, _ in reversed(_levels(placement)):
        here = outer * (subgroups > domains)
        outer = outer * (subgroups <= domains)
        phases.append(Phase(tier, "send", here, size * here))
    return phases


def _broadcast(size: FloatArray, placement: Placement, *, tree: bool) -> list[Phase]:
    """Pipelined chain (or binary tree) from one rank to all; a domain's ranks split what enters it."""
    phases = []
    for tier, subgroups, domains, ranks in _levels(placement):
        fan = subgroups / domains
        sent = np.where(fan > 1.0, size / ranks, 0.0) * (2.0 if tree else 1.0)
        phases.append(Phase(tier, "broadcast", np.ceil(np.log2(fan)) if tree else subgroups - domains, sent))
    return phases


# Time of phases


def stream_seconds(
    phases: list[Phase], placement: Placement, cluster: Cluster, links: LinkCalibration, flows: FloatArray
) -> FloatArray:
    """Tiers that stream together: latencies add, the slowest link sets the rate, one regime serves all."""
    fits = [_fit(links, cluster, phase) for phase in phases]
    best: FloatArray | None = None
    for rank in range(max(len(fit.regimes) for fit in fits)):
        base, steps, stream = np.zeros(()), np.zeros(()), np.zeros(())
        for phase, fit in zip(phases, fits, strict=True):
            tier = cluster.tiers[phase.tier]
            regime = fit.regimes[min(rank, len(fit.regimes) - 1)]
            scale_up = is_scale_up(tier, phase.tier)
            slower = tier.latency - (links.scale_up_latency if scale_up else links.scale_out_latency)
            serial = phase.steps if phase.serial is None else phase.serial
            wait = phase.steps * regime.hop + phase.relays * regime.relay + serial * slower
            rate = regime.share * tier.bandwidth * _derate(phase, placement, tier, links)
            used = np.asarray(phase.sent) > 0.0
            base = np.maximum(base, np.where(np.asarray(phase.steps) > 0.0, regime.base, 0.0))
            steps = steps + np.maximum(wait, 0.0)
            moved = np.where(used, phase.sent + fit.copy_cost * phase.kept, 0.0)
            stream = np.maximum(stream, flows * moved / rate)
        time = base + steps + stream
        best = time if best is None else np.minimum(best, time)
    assert best is not None
    return np.asarray(best, dtype=np.float64)


def _fit(links: LinkCalibration, cluster: Cluster, phase: Phase) -> LinkFit:
    scale_up = is_scale_up(cluster.tiers[phase.tier], phase.tier)
    table = links.scale_up if scale_up else links.scale_out
    key = phase.key
    while key not in table:
        if key not in _FALLBACK:
            where = "scale_up" if scale_up else "scale_out"
            raise ValueError(
                f"link calibration '{links.chip}' has no {where} fit for '{phase.key}', "
                f"it has {', '.join(table)}"
            )
        key = _FALLBACK[key]
    return table[key]


def _derate(phase: Phase, placement: Placement, tier: Tier, links: LinkCalibration) -> FloatArray:
    """What the layout leaves of a link's rate: usable links, oversubscription, hashing, leaving the rail.

    Ring and tree neighbours of a group are adjacent nodes and stay below their leaf; direct exchanges and
    pipeline sends cross the up-links and pay the oversubscription.
    """
    share = usable_share(tier, placement.members[phase.tier])
    if is_scale_up(tier, phase.tier):
        return share
    if phase.key in ("all_to_all", "send"):
        share = share / max(tier.oversubscription, 1.0)
    if tier.lossy:
        share = share * links.lossy_share
    if tier.rail_optimised and phase.key != "all_to_all":
        share = share * np.where(placement.on_rail[phase.tier], 1.0, links.cross_rail_share)
    return share
