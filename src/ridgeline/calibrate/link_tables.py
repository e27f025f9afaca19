"""Read measured collectives: tables of kernel latencies, shares by node count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline import files
from ridgeline.calibrate.csv_lines import CsvLine, csv_lines, too_damaged
from ridgeline.calibrate.tables import read
from ridgeline.facts import catalog
from ridgeline.facts.link_calibration import ENGINES
from ridgeline.timing.topology import FloatArray

#: A table of shares has some kB, its first line some hundred bytes.
MOST_SHARES_BYTES, LONGEST_HEADER = 4 * 2**20, 64 * 2**10
#: Sizes [B] and shares beyond this are damaged.
LEAST, MOST = 1e-9, 1e15
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
#: Block-scaled fp8: one fp32 scale for 128 values; results return in bf16.
DISPATCH_BYTES, COMBINE_BYTES = 1.0 + 4.0 / 128.0, 2.0
_ENGINE_BYTES = 2.0  # bf16
#: Columns of words, and those that every table has.
_NEEDED = ("chip", "framework", "kernel_source", "version")
_WORDS = (*_NEEDED, "op_name", "nccl_dtype", "allreduce_dtype", "timing_mode")
#: Columns that must be above 0.
_TIMES = (
    "latency", "dispatch_transmit_us", "combine_transmit_us", "dispatch_avg_t_us", "combine_avg_t_us",
)  # fmt: skip
_COUNTS = (
    "num_gpus", "message_size", "num_token", "hidden_size", "num_topk", "num_experts", "dispatch_sms", "combine_sms",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Routing:
    """What rows of dispatch and combine say beside their size, arrays [rows].

    Attributes:
        topk: experts per token.
        row_bytes: bytes of one token.
        cores: cores lent to the kernel; low latency: of the chip.
        experts: routed experts, of low-latency kernels; 0 for others.
    """

    topk: FloatArray
    row_bytes: FloatArray
    cores: FloatArray
    experts: FloatArray

    def take(self, rows: Any) -> Routing:
        """The rows picked by an index."""
        return Routing(self.topk[rows], self.row_bytes[rows], self.cores[rows], self.experts[rows])


@dataclass(frozen=True, slots=True)
class Samples:
    """Measured collectives of one kind, arrays [rows].

    Attributes:
        key: key of the calibration.
        ranks: group size.
        size_bytes: bytes by the convention of `ridgeline.timing.collectives`; for experts, a rank's tokens.
        seconds: measured time.
        source: table, library and version.
        routing: for dispatch and combine.
    """

    key: str
    ranks: FloatArray
    size_bytes: FloatArray
    seconds: FloatArray
    source: str
    routing: Routing | None = None

    def take(self, rows: Any) -> Samples:
        """The rows picked by a boolean or integer index."""
        return replace(
            self,
            ranks=self.ranks[rows],
            size_bytes=self.size_bytes[rows],
            seconds=self.seconds[rows],
            routing=None if self.routing is None else self.routing.take(rows),
        )

    def shapes(self) -> FloatArray:
        """What tells rows apart beside the cores lent [rows, columns]: repeats are held out together."""
        more = (
            [] if self.routing is None else [self.routing.topk, self.routing.row_bytes, self.routing.experts]
        )
        return np.stack([self.ranks, self.size_bytes, *more], axis=1)


@dataclass(frozen=True, slots=True)
class Shares:
    """Achieved share of link bandwidth of collectives over whole nodes, arrays [rows].

    Of the NICs; of the links inside a node where ``inside`` says that they bind, and for a single node.
    """

    key: str
    nodes: FloatArray
    ranks_per_node: FloatArray
    size_bytes: FloatArray
    share: FloatArray
    source: str
    inside: bool = False

    def take(self, rows: Any) -> Shares:
        """The rows picked by a boolean or integer index."""
        names = ("nodes", "ranks_per_node", "size_bytes", "share")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})


def read_table(path: Path) -> dict[str, list[Samples]]:
    """Samples by catalog chip from one parquet table of collectives, engine kernels or expert dispatch.

    Raises:
        ValueError: the table has none of the known columns.
        ImportError: pyarrow is missing (``pip install ridgeline[kernels]``).
    """
    if path.suffix == ".csv":
        raise ValueError(f"{files.shown_path(path)}: expected a parquet table of collectives")
    columns = {name: np.asarray(values.tolist()) for name, values in read(path).items()}
    reader = next((read for column, read in _READERS.items() if column in columns), None)
    if reader is None:
        raise ValueError(f"{path}: no column of {', '.join(_READERS)}; is it a table of collectives?")
    _check_words(path, columns)
    _check(path, columns)
    found: dict[str, list[Samples]] = {}
    for name in sorted(set(columns["chip"])):
        known = CHIPS.get(name, name)
        if catalog.entry_path("chips", known) is None:
            continue
        rows = {key: values[columns["chip"] == name] for key, values in columns.items()}
        found[known] = reader(rows, known, f"{path.name}, {{}}, {name}")
    if not found:
        raise ValueError(
            f"{files.shown_path(path)}: column chip = {files.shown(columns['chip'][0])} is not in the catalog, choose "
            f"one of {files.choices([*CHIPS, *catalog.names('chips')])}"
        )
    return found


def _check_words(path: Path, columns: dict[str, Any]) -> None:
    """One message for the first column of words that is missing, or holds anything else."""
    where = files.shown_path(path)
    for name in _WORDS:
        values = columns.get(name)
        if values is None:
            if name in _NEEDED:
                raise ValueError(f"{where}: no column {name}")
            continue
        if values.ndim != 1:
            raise ValueError(f"{where}: column {name} holds lists, expected words")
        wrong = next((one for one in values.tolist() if not isinstance(one, str)), None)
        if wrong is not None or None in values.tolist():
            raise ValueError(f"{where}: column {name} = {files.shown(wrong)}: expected words")


def _check(path: Path, columns: dict[str, Any]) -> None:
    """One message for the first value that cannot be fitted on."""
    for name in (*_TIMES, *_COUNTS, "node_num"):
        values = columns.get(name)
        if values is None:
            continue
        if values.dtype.kind not in "fiu" or values.ndim != 1:
            raise ValueError(f"{path}: column {name} = {files.shown(values[0])} must hold numbers")
        sizes = values.astype(np.float64)
        bad = ~((sizes > 0.0) & (sizes <= MOST))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ValueError(f"{path}: column {name} = {values[row]} in row {row + 1} must be above 0")
    for name, choices in (("nccl_dtype", _NCCL_BYTES), ("op_name", _OPS)):
        unknown = (
            sorted(set(columns[name]) - set(choices)) if name in columns and "nccl_dtype" in columns else []
        )
        if unknown:
            raise ValueError(
                f"{path}: column {name} = {files.shown(unknown[0])}, choose one of {', '.join(choices)}"
            )


def _collectives(rows: dict[str, Any], _: str, source: str) -> list[Samples]:
    """NCCL rows. Switches add half precision, so full nodes reduce it in-network; int8 shows the rings."""
    size = rows["message_size"] * np.array([_NCCL_BYTES[name] for name in rows["nccl_dtype"]])
    nccl = rows["framework"] == "nccl"
    adds_in_switch = (rows["nccl_dtype"] == "half") & (rows["num_gpus"] >= 8)
    source = source.format("NCCL " + "/".join(sorted(set(rows["version"][nccl])))) + ", 2-8 GPUs"
    found = []
    for op, key in _OPS.items():
        chosen = nccl & (rows["op_name"] == op)
        if key == "all_reduce":
            found.append(_samples("all_reduce_in_network", rows, size, chosen & adds_in_switch, source))
            chosen = chosen & ~adds_in_switch
        found.append(_samples(key, rows, size, chosen, source))
    return found


def _engine_kernels(rows: dict[str, Any], _: str, source: str) -> list[Samples]:
    """All-reduce of each engine, launched in graphs; eager rows time the host."""
    size, graph = rows["message_size"] * _ENGINE_BYTES, rows["timing_mode"] == "graph"
    found = []
    for engine in ENGINES:
        chosen = graph & (rows["framework"] == engine)
        if chosen.any():
            kernels, versions = (
                "/".join(sorted(set(rows[name][chosen]))) for name in ("kernel_source", "version")
            )
            found.append(
                _samples(
                    f"all_reduce_{engine}",
                    rows,
                    size,
                    chosen,
                    source.format(f"{kernels} of {engine} {versions}"),
                )
            )
    return found


def _expert_kernels(rows: dict[str, Any], chip: str, source: str) -> list[Samples]:
    """DeepEP inside one node: high throughput on the SMs lent, or low latency on a core for each expert."""
    low = "dispatch_avg_t_us" in rows
    suffix, column = ("_low_latency", "avg_t_us") if low else ("", "transmit_us")
    kernel, framework, version = (rows[name][0] for name in ("kernel_source", "framework", "version"))
    source = source.format(f"{kernel} of {framework} {version}") + ", one node"
    inside = rows["node_num"] == 1 if "node_num" in rows else np.ones(len(rows["chip"]), dtype=np.bool_)
    rows = {name: values[inside] for name, values in rows.items()}
    tokens, hidden, topk, experts = (
        rows[name].astype(np.float64) for name in ("num_token", "hidden_size", "num_topk", "num_experts")
    )
    ranks = np.full(tokens.shape, float(catalog.cluster_for(chip).chips_per_node))
    found = []
    for name, per_value in (("dispatch", DISPATCH_BYTES), ("combine", COMBINE_BYTES)):
        row = hidden * per_value
        routing = (
            Routing(topk, row, np.full(tokens.shape, float(catalog.chip(chip).cores)), experts)
            if low
            else Routing(topk, row, rows[f"{name}_sms"].astype(np.float64), np.zeros_like(tokens))
        )
        seconds = rows[f"{name}_{column}"].astype(np.float64) * 1e-6
        found.append(Samples(f"{name}{suffix}", ranks, tokens * row, seconds, source, routing))
    return found


_READERS = {
    "nccl_dtype": _collectives, "allreduce_dtype": _engine_kernels, "dispatch_transmit_us": _expert_kernels,
    "dispatch_avg_t_us": _expert_kernels,
}  # fmt: skip


def _samples(key: str, rows: dict[str, Any], size: FloatArray, chosen: Any, source: str) -> Samples:
    ranks = rows["num_gpus"][chosen].astype(np.float64)
    return Samples(key, ranks, size[chosen], rows["latency"][chosen].astype(np.float64) * 1e-3, source)


#: Columns of the shares tables -> (nodes, ranks per node); "Multi" groups have one rank in each node.
_NODES = {f"{nodes}Node-{8 * nodes}GPU": (nodes, 8) for nodes in (2, 4, 8, 16, 32, 64, 128)} | {
    "1 Node": (1, 8), "Multi 16": (16, 1), "Multi 32": (32, 1), "Muiti 64": (64, 1), "Multi 64": (64, 1),
}  # fmt: skip


def is_shares(path: Path) -> bool:
    """Whether the first line of a CSV file is that of shares by size and node count."""
    with files.open_file(path) as file:
        header = file.readline(LONGEST_HEADER).decode("utf-8-sig", errors="replace").split(",")
    return header[0].strip().lower() == "size" and any(_column(name) in _NODES for name in header)


def _column(name: str) -> str:
    return name.split("(")[0].strip()


def read_shares(path: Path, unread: list[str] | None = None) -> Shares:
    """Achieved shares by message size and node count; collective and link follow from the file's name.

    ``ata*`` are all-to-all; ``nvlink*`` are rings on machines whose NICs together outrun the links inside a node.

    Args:
        path: the table.
        unread: takes the reason of each line that holds anything but numbers above 0, and the others are read all
            the same; without it the first such line is an error.

    Raises:
        ValueError: no column of a node count, or most lines are damaged; without ``unread``: any.
    """
    where, (names, *lines) = files.shown_path(path), csv_lines(path, MOST_SHARES_BYTES)
    header = [_column(name) for name in names.cells]
    if not any(name in _NODES for name in header):
        raise ValueError(f"{where}: no columns of node counts, expected some of {', '.join(_NODES)}")
    rows: list[tuple[float, ...]] = []
    bad: list[str] = []
    for line in lines:
        try:
            rows += _shares_of(header, line)
        except ValueError as error:
            bad.append(f"line {line.number}{error}")
    if bad and unread is None:
        raise ValueError(f"{where}, {bad[0]}")
    reason = too_damaged(bad, len(lines))
    if reason:
        raise ValueError(f"{where}{reason}")
    if unread is not None:
        unread += bad
    if not rows:
        raise ValueError(f"{where}: no line holds a share")
    size, nodes, ranks, share = np.array(rows).T
    key = "all_to_all" if path.stem.startswith("ata") else "all_gather"
    inside = path.stem.startswith("nvlink")
    return Shares(key, nodes, ranks, size, share, f"{path.name} of SimAI, 2-128 nodes", inside)


def _shares_of(header: list[str], line: CsvLine) -> list[tuple[float, ...]]:
    """Size, nodes, ranks of a node and share of one line's cells. Raises ValueError: the reason after its number."""
    if line.error:
        raise ValueError(f": {line.error}")
    return [
        (_number("Size", line.cells[0]), *_NODES[name], _number(name, cell))
        for name, cell in zip(header, line.cells, strict=False)
        if name in _NODES and cell
    ]


def _number(column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = 0.0
    if not LEAST <= value <= MOST:
        raise ValueError(
            f", column {files.one_line(column, 60)} = {files.shown(cell)} must be a number above 0, "
            f"from {LEAST:g} to {MOST:g}"
        )
    return value
