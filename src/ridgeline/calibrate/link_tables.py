"""Read measured collectives: tables of kernel latencies, nccl-tests logs, shares by node count."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.timing.topology import FloatArray

#: Names of chips in the tables -> names in the catalog.
CHIPS = {
    "a100_sxm": "a100-80gb-sxm", "h100_sxm": "h100-sxm", "h200_sxm": "h200-sxm", "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm", "gb200": "gb200", "rtx_pro_6000_server": "rtx-pro-6000",
}  # fmt: skip
_OPS = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
}  # fmt: skip
_NCCL_BYTES = {"half": 2.0, "int8": 1.0}
#: Engines lend dispatch kernels a fixed number of SMs; the usual one is the largest measured.
EXPERT_SMS = 24
#: Block-scaled fp8: one fp32 scale for 128 values; results return in bf16.
_DISPATCH_BYTES, _COMBINE_BYTES = 1.0 + 4.0 / 128.0, 2.0
#: Ranks of the expert-dispatch runs: all chips of one node.
_NODE_RANKS = {"gb200": 4.0}


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured collectives of one kind, arrays [rows].

    Attributes:
        key: key of the calibration.
        ranks: group size.
        size_bytes: bytes by the convention of `ridgeline.timing.collectives`; for experts, a rank's tokens.
        seconds: measured time.
        source: table, library and version.
        topk: experts per token, for dispatch and combine.
    """

    key: str
    ranks: FloatArray
    size_bytes: FloatArray
    seconds: FloatArray
    source: str
    topk: FloatArray | None = None

    def take(self, rows: Any) -> Samples:
        """The rows picked by a boolean or integer index."""
        return replace(
            self,
            ranks=self.ranks[rows],
            size_bytes=self.size_bytes[rows],
            seconds=self.seconds[rows],
            topk=None if self.topk is None else self.topk[rows],
        )


@dataclass(frozen=True, slots=True)
class Shares:
    """Achieved share of NIC bandwidth of collectives over whole nodes, arrays [rows]."""

    key: str
    nodes: FloatArray
    ranks_per_node: FloatArray
    size_bytes: FloatArray
    share: FloatArray
    source: str


def read_table(path: Path) -> dict[str, list[Samples]]:
    """Samples by catalog chip from one parquet table of collectives, engine kernels or expert dispatch.

    Raises:
        ValueError: the table has none of the known columns.
        ImportError: pyarrow is missing (``pip install ridgeline[kernels]``).
    """
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("reading parquet tables needs pyarrow: pip install 'ridgeline[kernels]'") from error
    columns = {name: np.asarray(values) for name, values in parquet.read_table(path).to_pydict().items()}
    reader = next((read for column, read in _READERS.items() if column in columns), None)
    if reader is None:
        raise ValueError(f"{path}: no column of {', '.join(_READERS)}; is it a table of collectives?")
    found: dict[str, list[Samples]] = {}
    for name in sorted(set(columns["chip"]) & set(CHIPS)):
        rows = {key: values[columns["chip"] == name] for key, values in columns.items()}
        found[CHIPS[name]] = reader(rows, name, path.name)
    return found


def _collectives(rows: dict[str, Any], chip: str, table: str) -> list[Samples]:
    """NCCL rows. Switches add half precision, so full nodes reduce it in-network; int8 shows the rings."""
    size = rows["message_size"] * np.array([_NCCL_BYTES[name] for name in rows["nccl_dtype"]])
    nccl = rows["framework"] == "nccl"
    adds_in_switch = (rows["nccl_dtype"] == "half") & (rows["num_gpus"] >= 8)
    versions = "/".join(sorted(set(rows["version"][nccl])))
    source = f"{table}, NCCL {versions}, {chip}, 2-8 GPUs"
    found = []
    for op, key in _OPS.items():
        chosen = nccl & (rows["op_name"] == op)
        if key == "all_reduce":
            found.append(_samples("all_reduce_in_network", rows, size, chosen & adds_in_switch, source))
            chosen = chosen & ~adds_in_switch
        found.append(_samples(key, rows, size, chosen, source))
    return found


def _engine_kernels(rows: dict[str, Any], chip: str, table: str) -> list[Samples]:
    """Engine all-reduce in graphs: the median library of each (ranks, size)."""
    graph = rows["timing_mode"] == "graph"
    keys = np.stack([rows["num_gpus"][graph], rows["message_size"][graph]], axis=1).astype(np.float64)
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    latency = rows["latency"][graph]
    middle = np.array([np.median(latency[index.reshape(-1) == i]) for i in range(len(unique))])
    libraries = ", ".join(sorted(set(rows["framework"][graph])))
    source = f"{table}, median of {libraries} in graphs, {chip}"
    return [Samples("all_reduce_engine", unique[:, 0], unique[:, 1] * 2.0, middle * 1e-3, source)]


def _expert_kernels(rows: dict[str, Any], chip: str, table: str) -> list[Samples]:
    """DeepEP inside one node: high throughput with a fixed number of SMs, or low latency."""
    low = "dispatch_avg_t_us" in rows
    # With one or two experts a rank the low-latency kernel leaves most of its cores idle: another regime.
    chosen = rows["num_experts"] >= 64 if low else rows["dispatch_sms"] == EXPERT_SMS
    suffix, column = ("_low_latency", "avg_t_us") if low else ("", "transmit_us")
    note = "" if low else f", {EXPERT_SMS} SMs"
    source = f"{table}, DeepEP in SGLang {rows['version'][0]}, {chip}, one node{note}"
    values = rows["num_token"].astype(np.float64) * rows["hidden_size"]
    ranks = np.full(values.shape, _NODE_RANKS.get(chip, 8.0))
    return [
        Samples(
            f"{name}{suffix}", ranks[chosen], (values * per_value)[chosen],
            rows[f"{name}_{column}"][chosen].astype(np.float64) * 1e-6, source,
            rows["num_topk"][chosen].astype(np.float64),
        )
        for name, per_value in (("dispatch", _DISPATCH_BYTES), ("combine", _COMBINE_BYTES))
    ]  # fmt: skip


_READERS = {
    "nccl_dtype": _collectives, "allreduce_dtype": _engine_kernels, "dispatch_transmit_us": _expert_kernels,
    "dispatch_avg_t_us": _expert_kernels,
}  # fmt: skip


def _samples(key: str, rows: dict[str, Any], size: FloatArray, chosen: Any, source: str) -> Samples:
    ranks = rows["num_gpus"][chosen].astype(np.float64)
    return Samples(key, ranks, size[chosen], rows["latency"][chosen].astype(np.float64) * 1e-3, source)


def read_log(path: Path) -> Samples:
    """Samples from the text that nccl-tests print (out-of-place columns; sizes of zero are left out).

    Raises:
        ValueError: no result rows, or not a collective that is modelled.
    """
    names = {"allgather": "all_gather", "allreduce": "all_reduce", "alltoall": "all_to_all",
             "reducescatter": "reduce_scatter"}  # fmt: skip
    key = next((key for name, key in names.items() if name in path.stem.lower()), None)
    if key is None:
        raise ValueError(f"{path}: the file name tells no collective, expected one of {', '.join(names)}")
    text = path.read_text().splitlines()
    ranks = sum(1 for line in text if line.startswith("#") and " Rank " in line)
    rows = [line.split() for line in text if line.strip()[:1].isdigit()]
    # The redop column may be absent or empty: count from the end, where two sets of four columns stand.
    pairs = [(float(row[0]), float(row[-8])) for row in rows if len(row) >= 11 and float(row[0]) > 0]
    if not pairs:
        raise ValueError(f"{path}: no rows of results as nccl-tests print them")
    size, micros = np.array(pairs).T
    return Samples(key, np.full(size.shape, float(ranks)), size, micros * 1e-6, f"nccl-tests log {path.name}")


#: Columns of the shares tables -> (nodes, ranks per node); "Multi" groups have one rank in each node.
_NODES = {f"{nodes}Node-{8 * nodes}GPU": (nodes, 8) for nodes in (2, 4, 8, 16, 32, 64, 128)} | {
    "Multi 16": (16, 1), "Multi 32": (32, 1), "Muiti 64": (64, 1),
}  # fmt: skip


def read_shares(path: Path) -> Shares:
    """Achieved shares by message size and node count; the collective follows from the file's name.

    Raises:
        ValueError: no column of a node count.
    """
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    header = [name.split("(")[0].strip() for name in lines[0]]
    rows = [
        (float(line[0]), *_NODES[name], float(cell))
        for line in lines[1:]
        for name, cell in zip(header, line, strict=False)
        if name in _NODES and cell
    ]
    if not rows:
        raise ValueError(f"{path}: no columns of node counts, expected some of {', '.join(_NODES)}")
    size, nodes, ranks, share = np.array(rows).T
    key = "all_to_all" if path.stem.startswith("ata") else "all_gather"
    return Shares(key, nodes, ranks, size, share, f"{path.name} of SimAI, 2-128 nodes")
