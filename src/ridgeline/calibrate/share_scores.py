"""Score the shipped coefficients on collectives between nodes and on logs of nccl-tests.

Tables of shares name no machine. Their single-node columns are those of an H100 node within a few percent, so H100
nodes with 50 GB/s a chip stand for them, and H800 nodes (the same with 200 GB/s links, which bind) for shares of
links inside a node. Every such score is labelled transferred.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.kernel_scores import Group, KernelScores
from ridgeline.calibrate.link_tables import Samples, Shares, read_shares
from ridgeline.calibrate.nccl_logs import read_log
from ridgeline.calibrate.refusals import first_words
from ridgeline.calibrate.tables import TableError
from ridgeline.facts import catalog
from ridgeline.facts.observation import Label
from ridgeline.timing.collectives import Kind, collective_seconds
from ridgeline.timing.topology import FloatArray, place

NIC_MACHINE, LINK_MACHINE = "h100-sxm", "h800"
#: Ranges of message size that a log is scored in [B]: launch, ramp, full rate.
_BANDS = ((0.0, 1e6, "below 1 MB"), (1e6, 1.28e8, "1-128 MB"), (1.28e8, np.inf, "128 MB and up"))


def score_shares(path: Path, limit: int | None = None) -> KernelScores:
    """Errors of achieved bandwidth by node count.

    Raises:
        ValueError: the file is no table of shares or most of it is damaged, or ``limit`` is below 1.
    """
    unread: list[str] = []
    table = read_shares(path, unread)
    table = table.take(_chosen(table.share.size, limit))
    chip = LINK_MACHINE if table.inside else NIC_MACHINE
    error = predicted_share(table, chip) / table.share - 1.0
    groups = []
    for nodes, ranks in sorted(set(zip(table.nodes.tolist(), table.ranks_per_node.tolist(), strict=True))):
        rows = (table.nodes == nodes) & (table.ranks_per_node == ranks)
        one_each = ", 1 rank each" if ranks == 1 else ""
        name = f"{nodes:.0f} node{'s' if nodes > 1 else ''}{one_each}"
        groups.append(_group(table.key, chip, name, "SimAI", error[rows]))
    left_out = (
        {f"line{'s' if len(unread) > 1 else ''} not read: {first_words(unread)}": len(unread)}
        if unread
        else {}
    )
    return KernelScores(path.name, "shares", table.share.size + len(unread), tuple(groups), left_out)


def predicted_share(table: Shares, chip: str) -> FloatArray:
    """Share of link bandwidth [rows] that nodes of ``chip`` are predicted to achieve.

    The bytes that a rank's own link must carry over its data-sheet time: on NICs ``size (1 - 1/n) / m`` of a ring
    and ``size (1 - 1/N)`` of an exchange over N nodes with m ranks each; inside a node ``size (1 - 1/n)``.
    """
    cluster, links = catalog.cluster_for(chip), catalog.calibration(chip).links
    ranks, nodes = table.ranks_per_node, table.nodes
    n = nodes * ranks
    placement = place(n, np.where(ranks > 1, 1.0, float(cluster.chips_per_node)), cluster)
    kind: Kind = "all_to_all" if table.key == "all_to_all" else "all_gather"
    time = collective_seconds(kind, table.size_bytes, placement, cluster, links)
    inside = (nodes == 1) | table.inside
    exchange = kind == "all_to_all"
    across = (1.0 - 1.0 / nodes) if exchange else (1.0 - 1.0 / n) / ranks
    carried = table.size_bytes * np.where(inside, 1.0 - 1.0 / n, across)
    # one rank in each node never uses the links inside
    inside = inside & (ranks > 1)
    return np.asarray(
        carried / (time * np.where(inside, cluster.tiers[0].bandwidth, cluster.tiers[1].bandwidth))
    )


def score_log(path: Path, limit: int | None = None) -> KernelScores:
    """Errors of time by message size, for the device that the log names.

    Raises:
        ValueError: no log of nccl-tests, a device that the catalog does not have, or ``limit`` is below 1.
    """
    log = read_log(path)
    samples = log.samples.take(_chosen(log.samples.seconds.size, limit))
    chip = _chip(path, samples.source)
    error = log_seconds(samples, chip) / samples.seconds - 1.0
    groups = [
        _group(samples.key, chip, name, "nccl-tests", error[rows])
        for low, high, name in _BANDS
        if (rows := (samples.size_bytes >= low) & (samples.size_bytes < high)).any()
    ]
    left_out = {log.words: log.skipped} if log.skipped else {}
    return KernelScores(path.name, "nccl-tests", samples.seconds.size + log.skipped, tuple(groups), left_out)


def log_seconds(samples: Samples, chip: str) -> FloatArray:
    """Predicted seconds [rows] of a log's collectives on nodes of ``chip``."""
    cluster, links = catalog.cluster_for(chip), catalog.calibration(chip).links
    placement = place(samples.ranks, np.ones_like(samples.ranks), cluster)
    return collective_seconds(samples.key, samples.size_bytes, placement, cluster, links)  # type: ignore[arg-type]


def _chip(path: Path, device: str) -> str:
    """The catalog's chip of a device name such as ``A100-SXM4-40GB``: most words shared, fewest left over."""
    words = {re.sub(r"^sxm\d*$", "sxm", word) for word in re.split(r"[-\s]+", device.lower())}
    names = [name for name in catalog.names("chips") if name.split("-")[0] in words]
    if not names:
        raise TableError(
            f"{files.shown_path(path)}: device {files.shown(device)} is not in the catalog; "
            "list its chips with `ridgeline catalog list chips`"
        )
    return max(
        names, key=lambda name: (2 * len(words & set(name.split("-"))) - name.count("-"), "sxm" in name)
    )


def _chosen(rows: int, limit: int | None) -> NDArray[np.int64]:
    if limit is not None and limit < 1:
        raise TableError(f"limit = {limit} must be at least 1")
    count = rows if limit is None else min(limit, rows)
    return np.arange(count, dtype=np.int64) * rows // count


def _group(op: str, chip: str, name: str, library: str, error: FloatArray) -> Group:
    size = np.abs(error)
    return Group(
        op, chip, name, library, str(Label.TRANSFERRED), len(error), float(np.median(size)),
        float(np.quantile(size, 0.9)), float(np.median(error)),
    )  # fmt: skip
