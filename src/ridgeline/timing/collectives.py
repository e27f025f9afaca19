"""Time of one collective: bytes and steps on every tier it crosses, best algorithm and best library regime.

Byte conventions (n ranks): ``all_reduce`` the buffer on each rank; ``all_gather`` the gathered output;
``reduce_scatter`` the input on each rank; ``all_to_all`` what each rank holds, of which (n-1)/n leaves it;
``send`` and ``broadcast`` the message.

An algorithm's traffic is proportional to the size, so its time on one placement is a few straight lines over
bytes, one per library regime: placements are priced once, ``[plans]``, and every size only picks the lowest line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Cluster
from ridgeline.facts.link_calibration import ENGINES, Kernel, LinkCalibration, LinkFit, Moves
from ridgeline.graph.cache import by_identity
from ridgeline.timing.tariff import Price, Traffic, price, usable
from ridgeline.timing.topology import FloatArray, Numeric, Placement, torus_axes

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast"]
KINDS: tuple[str, ...] = get_args(Kind)


def collective_seconds(
    kind: Kind,
    size_bytes: Numeric,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    *,
    concurrent: Numeric = 1.0,
    in_network: bool = True,
    engine: str = "",
) -> FloatArray:
    """Seconds of one collective.

    ``t = min over algorithms of sum over stages of min over regimes of
    [max base + sum over tiers (steps * hop) + max over tiers (concurrent * bytes / (share * bandwidth))]``.

    Algorithms: ring over all tiers (pipelined, each chip of a node drives its own rail), tree (all-reduce,
    broadcast), hierarchical (inside the scale-up domain, then between domains on 1/members of the bytes),
    in-network reduction, direct exchange (all-to-all, send).

    Args:
        kind: the collective.
        size_bytes: [B], float or array that broadcasts with the plans of ``placement``, see the module's convention.
        placement: the group on the cluster.
        cluster: the machine.
        links: fitted coefficients of the chip.
        concurrent: equal flows that share each link at the same time, at least 1.
        in_network: use switches that reduce, where the tier has them.
        engine: inside one scale-up domain, the all-reduce kernels of this serving engine, where they were timed:
            one of ``ridgeline.facts.link_calibration.ENGINES``.

    Returns:
        Seconds; exactly 0 for a group of one.

    Raises:
        ValueError: unknown kind or engine, or a concurrency below 1.
    """
    if engine and engine not in ENGINES:
        raise ValueError(f"unknown engine '{engine}', choose one of {', '.join(ENGINES)}")
    flows = _at_least_one(concurrent)
    size = np.asarray(size_bytes, dtype=np.float64)
    # the same few groups come back in plan after plan
    prices = _one_group if placement.size.size == 1 and isinstance(flows, float) else _prices
    best: FloatArray | None = None
    for algorithm in prices(kind, placement, cluster, links, flows, in_network, engine):
        total = algorithm.seconds(size)
        best = total if best is None else np.minimum(best, total)
    if best is None:
        return np.zeros(np.broadcast_shapes(size.shape, placement.size.shape))
    return np.where(placement.size > 1.0, best, 0.0)


def _prices(
    kind: str,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    flows: FloatArray | float,
    in_network: bool,
    engine: str,
) -> list[Price]:
    """Prices of all algorithms; none for groups of one."""
    fit = links.scale_up.get(f"all_reduce_{engine}")
    found = algorithms(kind, placement, cluster, in_network=in_network, engine=engine if fit else "", fit=fit)
    if placement.tiers.stop == 0:
        return []
    return _never_faster([price(traffic, placement, cluster, links, flows) for traffic in found])


def _never_faster(prices: list[Price]) -> list[Price]:
    """Kernels that follow one another in size: a longer message takes at least what the ones before it do."""
    floor: FloatArray | float = 0.0
    found = []
    for one in prices:
        if one.window is not None:
            one = one._replace(window=one.window._replace(floor_s=floor))
            floor = np.maximum(floor, one.most_seconds())
        found.append(one)
    return found


_one_group = by_identity(_prices)


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

    Same arguments as `collective_seconds`; all stages may overlap, so the bound is the slowest tier.
    """
    flows = _at_least_one(concurrent)
    size = np.asarray(size_bytes, dtype=np.float64)
    bandwidth = np.array([tier.bandwidth for tier in cluster.tiers]).reshape(placement.chips.shape)
    rate = bandwidth * usable(placement, cluster)
    found = algorithms(kind, placement, cluster, in_network=in_network)
    least = np.min([(traffic.sent / rate).max(axis=0) for traffic in found], axis=0)
    return np.where(placement.size > 1.0, flows * least * size, 0.0)


def _at_least_one(concurrent: Numeric) -> FloatArray | float:
    if isinstance(concurrent, float) and concurrent == 1.0:
        return 1.0
    flows = np.asarray(concurrent, dtype=np.float64)
    if np.any(flows < 1.0):
        raise ValueError(
            f"concurrent is the number of flows that share a link, at least 1, got {concurrent!r}"
        )
    return flows


# Algorithms: who sends how much on which tier


def algorithms(
    kind: str,
    placement: Placement,
    cluster: Cluster,
    *,
    in_network: bool,
    engine: str = "",
    fit: LinkFit | None = None,
) -> list[Traffic]:
    """Every way a library may run ``kind`` on a placement; ``fit`` tells the kernels of an engine's all-reduce."""
    if kind in ("all_gather", "reduce_scatter"):
        # Libraries gather and scatter with rings only: what nodes lose at scale is measured on them.
        return [_ring(kind, placement, cluster, passes=1.0)]
    if kind == "all_reduce":
        found = [
            _ring(kind, placement, cluster, passes=2.0),
            _tree(placement),
            _hierarchical_reduce(placement, cluster, in_network=in_network),
        ]
        if engine and fit is not None and fit.kernels:
            own = _served(fit.kernels, placement)
            found = [replace(traffic, able=~own) for traffic in found]
            found += _engine_kernels(engine, fit, placement, own)
        elif engine:
            # An engine's measured kernels include what it calls for large buffers: inside a domain nothing else runs.
            found = [replace(traffic, able=placement.domains[0] > 1.0) for traffic in found]
            found += [_engine_reduce(engine, placement, shots) for shots in (1, 2)]
        return found
    if kind == "all_to_all":
        return [_exchange(kind, placement, cluster)]
    if kind == "send":
        return [_send(placement)]
    if kind == "broadcast":
        return [_broadcast(placement, tree=False), _broadcast(placement, tree=True)]
    raise ValueError(f"unknown collective '{kind}', choose one of {', '.join(KINDS)}")


def _ring(key: str, placement: Placement, cluster: Cluster, passes: float) -> Traffic:
    """One pipelined ring per rail over all tiers (all-reduce passes it twice).

    Every edge of a ring carries ``size / rings * (1 - 1/n)``; a subgroup of m ranks has m rings, so one of a
    rank's m rings leaves the subgroup. A ring has ``subgroups - domains`` edges on a tier. Edges inside the
    innermost domain of a ring that crosses nodes count as relays of the tier it crosses: kernels then wait
    for the network, which is another latency than that of a ring inside the domain. On a torus one ring runs
    along each axis in turn: ``axes (length - 1)`` steps.
    """
    n, domains = placement.size, placement.domains
    nodes, outermost = domains[0], domains[-1]
    sent = np.where(placement.crossed, placement.subgroups * (passes * (1.0 - 1.0 / n) / n), 0.0)
    steps = passes * (placement.subgroups - domains)
    if cluster.tiers[0].topology == "torus":
        axes, length = torus_axes(cluster.tiers[0], placement.members[0])
        steps[0] = passes * (axes * (length - 1.0))
    steps[0] = np.where(nodes > outermost, 0.0, steps[0])
    relays = np.where(_outermost(placement), passes * (n - nodes), 0.0)
    relays[0] = 0.0
    return Traffic((key,) * len(domains), steps, sent, _on_first(placement, passes / n), relays)


def _outermost(placement: Placement) -> NDArray[np.bool_]:
    """The last tier that a group crosses ``[tiers, *plans]``."""
    last: NDArray[np.bool_] = placement.crossed & (placement.domains <= placement.domains[-1])
    return last


def _on_first(placement: Placement, values: FloatArray) -> FloatArray:
    """``values`` on the innermost tier and 0 on all others ``[tiers, *plans]``."""
    rows = np.zeros_like(placement.domains)
    rows[0] = values
    return rows


def _tree(placement: Placement) -> Traffic:
    """Double binary tree between scale-up domains, chain inside: every byte goes up once and down once."""
    fan = placement.subgroups / placement.domains
    depth = np.ceil(np.log2(fan))
    depth[0] = fan[0] - 1.0
    sent = np.where(fan > 1.0, 2.0 * placement.subgroups / placement.size, 0.0)
    return Traffic(("all_reduce_tree",) * len(fan), 2.0 * depth, sent)


def _hierarchical_reduce(placement: Placement, cluster: Cluster, *, in_network: bool) -> Traffic:
    """Reduce-scatter inside, all-reduce between domains on every rail at once, all-gather inside.

    Switches that reduce halve the bytes (each rank sends its buffer once) and need two steps a tier.
    """
    fan = placement.subgroups / placement.domains
    share = np.where(fan > 1.0, placement.subgroups / placement.size, 0.0)
    steps, sent, copied = np.empty_like(fan), np.empty_like(fan), np.zeros_like(fan)
    keys = []
    for index, tier in enumerate(cluster.tiers):
        wide, part = fan[index], share[index]
        if in_network and tier.in_network_reduction:
            # A rank answers the reads of all n owners and multicasts what it reduced itself: 1 + 1/n of the
            # buffer inside a scale-up domain; a switch tree with buffers takes it once.
            keys.append("all_reduce_in_network")
            steps[index] = np.where(wide > 1.0, 2.0, 0.0)
            sent[index] = part * (1.0 + 1.0 / wide) if index == 0 else part
            continue
        keys.append("all_reduce" if index == 0 else "all_reduce_tree")
        steps[index] = 2.0 * (wide - 1.0) if index == 0 else 2.0 * np.ceil(np.log2(wide))
        sent[index] = 2.0 * part * (1.0 - 1.0 / wide)
        if index == 0:
            copied[0] = 2.0 * part / wide
    return Traffic(tuple(keys), steps, sent, copied, streaming=False)


def _served(kernels: Sequence[Kernel], placement: Placement) -> NDArray[np.bool_]:
    """Groups inside one scale-up domain, of sizes that an engine has kernels for ``[*plans]``."""
    sizes = sorted({float(ranks) for kernel in kernels for ranks in kernel.below})
    return np.asarray((placement.domains[0] <= 1.0) & np.isin(placement.size, sizes))


def _engine_kernels(engine: str, fit: LinkFit, placement: Placement, own: NDArray[np.bool_]) -> list[Traffic]:
    """An engine's kernels, each for the sizes that the ones before it leave, and its library for the rest."""
    key = f"all_reduce_{engine}"
    least = np.zeros_like(placement.size)
    found = []
    for number, kernel in enumerate(fit.kernels, 1):
        below = least.copy()
        for ranks, size in kernel.below.items():
            below = np.where(placement.size == ranks, np.maximum(least, size), below)
        traffic = engine_traffic(f"{key}/{number}", kernel.moves, placement)
        found.append(replace(traffic, able=own, least=least, below=below))
        least = below
    rest = engine_traffic(key, fit.rest, placement)
    return [*found, replace(rest, able=own, least=least, below=np.full_like(least, np.inf))]


def engine_traffic(key: str, moves: Moves, placement: Placement) -> Traffic:
    """What one all-reduce kernel moves inside a scale-up domain: see `ridgeline.facts.link_calibration.Moves`."""
    n = placement.size
    rounds, factor = {
        "one_shot": (n - 1.0, n - 1.0),
        "two_shot": (2.0 * (n - 1.0), 2.0 * (1.0 - 1.0 / n)),
        "in_switch": (np.full_like(n, 2.0), 1.0 + 1.0 / n),
    }[moves]
    keys = (key, *("all_reduce",) * (len(placement.domains) - 1))
    return Traffic(keys, _on_first(placement, rounds), _on_first(placement, factor))


def _engine_reduce(engine: str, placement: Placement, shots: int) -> Traffic:
    """Kernel of a serving engine inside one scale-up domain: reads all buffers, or scatters and gathers."""
    traffic = engine_traffic(f"all_reduce_{engine}", "one_shot" if shots == 1 else "two_shot", placement)
    return replace(traffic, able=placement.domains[0] <= 1.0)


def _exchange(key: str, placement: Placement, cluster: Cluster) -> Traffic:
    """Every rank sends 1/n of its bytes to every other; what leaves a domain uses this chip's own link.

    On a torus a byte travels a quarter of each axis, so links carry ``length / 4`` times the bytes.
    """
    n, crossed = placement.size, placement.crossed
    ranks = n / placement.subgroups
    sent = np.where(crossed, peers(placement, ranks) / n, 0.0)
    for index, tier in enumerate(cluster.tiers):
        if tier.topology == "torus":
            sent[index] *= np.maximum(torus_axes(tier, placement.members[index])[1] / 4.0, 1.0)
    # Messages to all peers are in flight together: many postings, one latency.
    return Traffic(
        (key,) * len(ranks),
        placement.members - ranks,
        sent,
        _on_first(placement, 1.0 / n),
        serial=np.where(crossed, 1.0, 0.0),
    )


def peers(placement: Placement, ranks: FloatArray) -> FloatArray:
    """Members that a rank reaches on a tier beyond its subgroup of ``ranks``, all of them but for those inside.

    The innermost tier reaches its own domain, the others everyone: ``[tiers, *plans]``.
    """
    reached = placement.size - ranks
    reached[0] = placement.members[0] - ranks[0]
    return reached


def _send(placement: Placement) -> Traffic:
    """One message to the next member; the slowest pair rules, the one that crosses the outermost tier."""
    here = np.where(_outermost(placement), 1.0, 0.0)
    return Traffic(("send",) * len(here), here, here)


def _broadcast(placement: Placement, *, tree: bool) -> Traffic:
    """Pipelined chain (or binary tree) from one rank to all; a domain's ranks split what enters it."""
    fan = placement.subgroups / placement.domains
    copies = 2.0 if tree else 1.0
    sent = np.where(fan > 1.0, copies * placement.subgroups / placement.size, 0.0)
    steps = np.ceil(np.log2(fan)) if tree else placement.subgroups - placement.domains
    return Traffic(("broadcast",) * len(fan), steps, sent)
