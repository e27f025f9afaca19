"""Kinds of tables about links: collectives of NCCL and of engines, dispatch and combine of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate import kernel_kinds
from ridgeline.calibrate.kernel_kinds import Array, Kind, Machine, Predicted, Rows
from ridgeline.calibrate.link_tables import COMBINE_BYTES, DISPATCH_BYTES
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import ENGINES
from ridgeline.facts.observation import Label
from ridgeline.timing.collectives import Kind as Collective
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.dispatch import dispatch_seconds
from ridgeline.timing.rates import worst
from ridgeline.timing.topology import place

COLLECTIVES: dict[str, Collective] = {
    "all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all", "all_to_all": "all_to_all",
}  # fmt: skip
VALUE_BYTES = {"half": 2.0, "bfloat16": 2.0, "float16": 2.0, "float": 4.0, "float32": 4.0, "int8": 1.0}
EXPERT_OPS = ("dispatch", "combine", "dispatch_low_latency", "combine_low_latency")


def _collective(words: Mapping[str, str], rows: Rows, machine: Machine) -> Predicted:
    kind, dtype = COLLECTIVES[words["op_name"]], words["nccl_dtype"]
    in_network = dtype != "int8"  # switches add half precision, not bytes
    seconds = _seconds(kind, rows, VALUE_BYTES[dtype], machine, in_network=in_network)
    reduces = kind == "all_reduce" and in_network and machine.cluster.tiers[0].in_network_reduction
    return Predicted(seconds, *_origin((kind, "all_reduce_in_network") if reduces else (kind,), machine))


def _engine(words: Mapping[str, str], rows: Rows, machine: Machine) -> Predicted:
    """All-reduce of a serving engine, with that engine's own fit."""
    name = words["framework"]
    seconds = _seconds("all_reduce", rows, VALUE_BYTES[words["allreduce_dtype"]], machine, engine=name)
    return Predicted(seconds, *_origin((f"all_reduce_{name}",), machine))


def _seconds(kind: Collective, rows: Rows, value: float, machine: Machine, **how: Any) -> Array:
    ranks, where = np.unique(rows["num_gpus"], return_inverse=True)
    size = rows["message_size"] * value
    seconds = np.empty_like(size)
    for i, count in enumerate(ranks):
        chosen = where.reshape(-1) == i
        placement = place(np.array([count]), np.array([1.0]), machine.cluster)
        seconds[chosen] = collective_seconds(
            kind, size[chosen], placement, machine.cluster, machine.calibration.links, **how
        )
    return seconds


def _expert(words: Mapping[str, str], rows: Rows, machine: Machine) -> Predicted:
    """Dispatch or combine inside one node, on the cores that the row lends."""
    name = words["expert_op"]
    combine, low = name.startswith("combine"), name.endswith("low_latency")
    hidden_bytes = rows["hidden_size"] * (COMBINE_BYTES if combine else DISPATCH_BYTES)
    ranks = np.full(hidden_bytes.shape, float(machine.cluster.chips_per_node))
    placement = place(ranks, np.ones_like(ranks), machine.cluster)
    seconds = dispatch_seconds(
        rows["num_token"], hidden_bytes, rows["num_topk"], placement, machine.cluster, machine.calibration.links,
        combine=combine, low_latency=low, cores=float(machine.chip.cores) if low else rows["lent_sms"],
        experts=rows["num_experts"],
    )  # fmt: skip
    return Predicted(np.ravel(seconds), *_origin((name,), machine))


def _origin(keys: Sequence[str], machine: Machine) -> tuple[Label, Provenance]:
    """The label of what priced a row, and where the first of its fits comes from."""
    fits = machine.calibration.links.scale_up
    found = [fits[key].provenance for key in keys if key in fits]
    if not found:  # priced with another collective's regimes
        return Label.TRANSFERRED, next(iter(fits.values())).provenance
    return worst(*(one.label for one in found)), found[0]


def _collective_reason(words: Mapping[str, str]) -> str | None:
    if words["op_name"] not in COLLECTIVES:
        return f"collective '{words['op_name']}' is not modelled"
    return _size_reason(words["nccl_dtype"])


def _size_reason(dtype: str) -> str | None:
    return None if dtype in VALUE_BYTES else f"type '{dtype}' has no known size"


def _engine_reason(words: Mapping[str, str]) -> str | None:
    if words["framework"] not in ENGINES:
        return f"engine '{words['framework']}' is not modelled, only {', '.join(ENGINES)}"
    return _size_reason(words["allreduce_dtype"])


def _expert_reason(words: Mapping[str, str]) -> str | None:
    return None if words["expert_op"] in EXPERT_OPS else f"'{words['expert_op']}' is not modelled"


def _group(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray((rows["num_gpus"] >= 2) & (rows["message_size"] > 0))


def _one_node(rows: Rows) -> NDArray[np.bool_]:
    return np.asarray((rows["node_num"] == 1) & (rows["num_token"] >= 1))


KINDS: dict[str, Kind] = kernel_kinds.KINDS | {
    "collective": Kind(
        ("op_name", "nccl_dtype"), ("num_gpus", "message_size"), _collective_reason, _group,
        "one GPU or no bytes", lambda words: (COLLECTIVES[words["op_name"]], words["nccl_dtype"]), _collective,
    ),
    "engine_all_reduce": Kind(
        ("allreduce_dtype",), ("num_gpus", "message_size"), _engine_reason, _group, "one GPU or no bytes",
        lambda words: ("all_reduce", words["allreduce_dtype"]), _engine,
    ),
    "expert_parallel": Kind(
        ("expert_op",), ("node_num", "hidden_size", "num_token", "num_topk", "num_experts", "lent_sms"),
        _expert_reason, _one_node, "several nodes or no tokens",
        lambda words: (words["expert_op"], "bf16" if words["expert_op"].startswith("combine") else "fp8-block"),
        _expert,
    ),
}  # fmt: skip
#: The column that tells the kind.
MARKS = kernel_kinds.MARKS | {
    "nccl_dtype": "collective", "allreduce_dtype": "engine_all_reduce", "expert_op": "expert_parallel",
}  # fmt: skip


# Tables of expert kernels have two times in a row: they are read as two rows, of one column of times

_EXPERT_COLUMNS = {"dispatch_transmit_us": "", "dispatch_avg_t_us": "_low_latency"}


class _Metadata(NamedTuple):
    num_rows: int


class _Unfolded:
    """What scoring asks of a parquet file, over rows in memory."""

    def __init__(self, table: Any) -> None:
        self._table = table
        self.schema_arrow = table.schema
        self.metadata = _Metadata(table.num_rows)

    def iter_batches(self, size: int, columns: list[str]) -> Iterator[Any]:
        """Chunks of at most ``size`` rows."""
        yield from self._table.select(columns).combine_chunks().to_batches(max_chunksize=size)


def unfold(file: Any) -> Any:
    """A parquet file; one of dispatch and combine with each in rows of its own (``expert_op``, latency in ms).

    Raises:
        ValueError: a column of such a table is missing.
    """
    names = file.schema_arrow.names
    mark = next((name for name in _EXPERT_COLUMNS if name in names), None)
    if mark is None:
        return file
    import pyarrow as pa
    import pyarrow.compute as pc

    low, time = _EXPERT_COLUMNS[mark], mark.removeprefix("dispatch")
    needed = [f"combine{time}", *(() if low else ("dispatch_sms", "combine_sms"))]
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"a table with the column {mark} needs the columns {', '.join(missing)} too")
    whole = file.read()
    parts = []
    for op in ("dispatch", "combine"):
        lent = pa.array(np.zeros(whole.num_rows)) if low else whole[f"{op}_sms"]
        part = whole.append_column("expert_op", pa.array([f"{op}{low}"] * whole.num_rows))
        part = part.append_column("lent_sms", pc.cast(lent, pa.float64()))
        parts.append(
            part.append_column("latency", pc.multiply(pc.cast(whole[f"{op}{time}"], pa.float64()), 1e-3))
        )
    return _Unfolded(pa.concat_tables(parts))
