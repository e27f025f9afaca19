"""Time of expert-parallel dispatch and combine: a token goes once to each node, then once to each rank."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ridgeline.facts.chip import Cluster
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.timing.collectives import peers
from ridgeline.timing.cores import Lent, low_latency_cores
from ridgeline.timing.tariff import Traffic, price
from ridgeline.timing.topology import FloatArray, Numeric, Placement

#: Cores that engines lend high-throughput kernels (DeepEP README: ``Buffer.set_num_sms(24)``), and those of an H100,
#: which low-latency kernels may all take.
LENT_CORES, CHIP_CORES = 24.0, 132


def distinct(groups: Numeric, picks: Numeric) -> FloatArray:
    """Expected distinct groups hit by ``picks`` balanced random picks: ``G (1 - (1 - 1/G)^k)`` [1]."""
    g = np.asarray(groups, dtype=np.float64)
    return np.asarray(g * (1.0 - (1.0 - 1.0 / g) ** picks))


def dispatch_seconds(
    tokens: Numeric,
    hidden_bytes: Numeric,
    topk: Numeric,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    *,
    node_limit: Numeric | None = None,
    combine: bool = False,
    low_latency: bool = False,
    concurrent: Numeric = 1.0,
    cores: Numeric | None = None,
    experts: Numeric = 256.0,
) -> FloatArray:
    """Seconds to send every token to the ranks of its experts (or, with ``combine``, results back).

    High throughput: a token crosses the scale-out network once per distinct other node, on its own rail, and
    the scale-up links once per distinct rank that is not on that rail:

        nodes = distinct(min(N, limit), k) (1 - 1/N)          bytes out  = tokens hidden nodes
        ranks = distinct(m min(N, limit), k) (1 - 1/m)        bytes up   = tokens hidden ranks

    for N nodes with m ranks each. Low latency: one message per chosen expert, ``k`` copies of every token,
    straight to its rank. Routing is balanced; the busiest rank is for the caller to scale.

    Few cores cannot fill the links: where the chip's kernels were timed, the time of bytes on the scale-up links and
    of tokens on the cores lent join as in `ridgeline.timing.cores`.

    Args:
        tokens: tokens of one rank [1], float or array [plans].
        hidden_bytes: bytes of one token in its format, scales included [B] (7168 * 1.03125 for block fp8).
        topk: experts per token [1].
        placement: the expert-parallel group; arrays of all but ``tokens`` have its shape.
        cluster: the machine.
        links: fitted coefficients of the chip.
        node_limit: most nodes a token may go to; None = no limit.
        combine: results back to their tokens: same routes, its own fit.
        low_latency: the kernels of decode.
        concurrent: equal flows that share each link, at least 1.
        cores: cores lent to the kernel [1]; low latency: cores of the chip. None = 24 and 132.
        experts: routed experts of the layer [1]; low-latency kernels take a core for each and signal each.

    Returns:
        Seconds; exactly 0 for a group of one. Checked inside one node (8 and 4 ranks); beyond, transferred.

    Reference: DeepSeek-V3 (arXiv:2412.19437), section 3.2.2; DeepEP.
    """
    key = ("combine" if combine else "dispatch") + ("_low_latency" if low_latency else "")
    traffic = dispatch_traffic(key, topk, placement, node_limit)
    lent = (
        Lent(low_latency_cores(experts, int(CHIP_CORES if cores is None else cores)), hidden_bytes,
             traffic.sent.sum(axis=0), experts)
        if low_latency
        else Lent(LENT_CORES if cores is None else cores, hidden_bytes, traffic.sent.sum(axis=0))
    )  # fmt: skip
    size = np.asarray(np.asarray(tokens, dtype=np.float64) * hidden_bytes)
    flows = np.asarray(concurrent, dtype=np.float64)
    if placement.tiers.stop == 0:
        return np.zeros(np.broadcast_shapes(size.shape, placement.size.shape))
    time = price(replace(traffic, lent=lent), placement, cluster, links, flows).seconds(size)
    return np.where(placement.size > 1.0, time, 0.0)


def dispatch_traffic(
    key: str, topk: Numeric, placement: Placement, node_limit: Numeric | None = None
) -> Traffic:
    """What dispatch or combine does on every tier per byte of a rank's tokens: see `dispatch_seconds`."""
    n, subgroups, members = placement.size, placement.subgroups, placement.members
    ranks, crossed = n / subgroups, placement.crossed
    if key.endswith("low_latency"):
        copies = topk * peers(placement, ranks) / n
    else:
        # groups a token may go to on a tier: nodes, or on the innermost the ranks of the nodes it may go to
        groups, nodes = subgroups.copy(), placement.domains[0]
        if node_limit is not None:
            groups, nodes = np.minimum(groups, node_limit), np.minimum(nodes, node_limit)
        groups[0] = members[0] * nodes
        own = subgroups.copy()
        own[0] = members[0]
        copies = distinct(groups, topk) * (1.0 - 1.0 / own)
    sent = np.where(crossed, copies, 0.0)
    return Traffic((key,) * len(ranks), members - ranks, sent, serial=np.where(crossed, 1.0, 0.0))
