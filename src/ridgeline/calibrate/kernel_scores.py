"""Score the shipped kernel and collective coefficients on a table of measured kernels.

A table is a parquet file with the columns of aiconfigurator's tables and ``chip``, ``framework`` and
``timing_mode``; its columns tell what was timed. Rows stream through in chunks, and a group is all rows of one
operator, chip, number format and library. Times are those of the prediction itself; nothing is fitted here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.kernel_kinds import DECODES, Array, Kind, Machine
from ridgeline.calibrate.link_kinds import KINDS, MARKS, unfold
from ridgeline.calibrate.refusals import refusal
from ridgeline.calibrate.tables import CHIPS, TIMED, TableError, opened, readable
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.observation import Label
from ridgeline.timing.rates import worst

CHUNK_ROWS = 131_072
#: Sizes and times [ms] beyond this, and times below a clock cycle, are damaged.
MOST_NUMBER, LEAST_MS = 1e12, 1e-9
_WORDS = ("chip", "framework", "kernel_source", "timing_mode")


#: Operator, chip, format, library, label.
Key = tuple[str, str, str, str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """Errors of one operator, chip, format and library; relative, bias is the median of the signed error."""

    op: str
    chip: str
    format: str
    library: str
    label: str
    n: int
    median_abs_err: float
    p90_abs_err: float
    bias: float


@dataclass(frozen=True, slots=True)
class KernelScores:
    """All groups of one table, and why rows were left out."""

    table: str
    kind: str
    rows: int
    groups: tuple[Group, ...]
    left_out: Mapping[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "table": self.table,
            "kind": self.kind,
            "rows": self.rows,
            "groups": [asdict(group) for group in self.groups],
            "left_out": [{"reason": reason, "n": n} for reason, n in self.left_out.items()],
        }


def score_table(
    path: Path,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
    lent: bool = False,
) -> KernelScores:
    """Predict the rows of a parquet table and score the predictions by group.

    Args:
        path: the table.
        limit: at most this many rows, spread evenly over the file.
        progress: called with the number of rows of each chunk done.
        lent: leave each chip's own coefficients out and take those of its nearest calibrated relative, as for a
            chip that is known by its data sheet alone.

    Raises:
        ImportError: pyarrow is absent; the message says what to install.
        TableError: not a parquet file, no rows, or columns are missing.
    """
    file = _open(path)
    name = detect(path, file.schema_arrow.names)
    kind, total = KINDS[name], int(file.metadata.num_rows)
    if not total:
        raise TableError(f"{path}: the table has no rows")
    if limit is not None and limit < 1:
        raise TableError(f"limit = {limit} must be at least 1")
    index = None if limit is None or limit >= total else np.arange(limit) * total // limit
    machines: dict[str, Machine | str] = {}
    errors: dict[Key, list[Array]] = {}
    left_out: Counter[str] = Counter()
    seen = 0
    for chunk in _chunks(path, file, kind, index):
        count = len(chunk["latency"])
        seen += count
        for words, rows in _groups(chunk, kind):
            chip = words["chip"]
            if chip not in machines:
                machines[chip] = _machine(chip, lent)
            mine: Counter[str] = Counter()
            try:
                _score(kind, words, rows, machines[chip], errors, mine)
            except Exception as error:  # one group of rows never stops the others
                mine = Counter({refusal(error): len(rows["latency"])})
            left_out.update(mine)
        if progress is not None:
            progress(count)
    groups = tuple(_group(key, np.concatenate(errors[key])) for key in sorted(errors))
    return KernelScores(path.name, name, seen, groups, dict(left_out.most_common()))


def kind_of(path: Path) -> str:
    """The kind of a parquet table, checked for its columns and for rows. Raises as `score_table`."""
    file = _open(path)
    name = detect(path, file.schema_arrow.names)
    if not file.metadata.num_rows:
        raise TableError(f"{path}: the table has no rows")
    return name


def detect(path: Path, columns: Sequence[str]) -> str:
    """The kind of a table, from its columns.

    Raises:
        TableError: no known kind, or columns of that kind are missing.
    """
    mark = next((mark for mark in MARKS if mark in columns), None)
    if mark is None:
        raise TableError(
            f"{path}: not a known table of kernels; it needs a column of {', '.join(MARKS)} "
            f"({', '.join(KINDS)})"
        )
    name = MARKS[mark]
    kind = KINDS[name]
    missing = [word for word in (*_WORDS, *kind.words, *kind.numbers, "latency") if word not in columns]
    if missing:
        raise TableError(f"{path}: a table of {name} needs the columns {', '.join(missing)} too")
    return _phase(path, name) if name in DECODES else name


def _phase(path: Path, name: str) -> str:
    """Prefill or decode: the columns are the same, the operator's name tells."""
    file = opened(path)
    if "op_name" not in file.schema_arrow.names:
        raise TableError(f"{path}: a table of attention needs the column op_name too (context or generation)")
    with readable(path):
        first = next(file.iter_batches(1, columns=["op_name"]), None)
    word = str(first.column(0)[0]) if first is not None and first.num_rows else ""
    return DECODES[name] if any(part in word for part in ("generation", "decode")) else name


def _open(path: Path) -> Any:
    file = opened(path)
    with readable(path):
        return unfold(file)


# Rows


def _chunks(path: Path, file: Any, kind: Kind, index: NDArray[np.int64] | None) -> Iterator[dict[str, Any]]:
    """Columns of each chunk; words as (codes, names)."""
    import pyarrow as pa

    words, numbers = (*_WORDS, *kind.words), (*kind.numbers, "latency")
    start = 0
    with readable(path):
        batches = file.iter_batches(CHUNK_ROWS, columns=[*words, *numbers])
    while True:
        with readable(path):
            batch = next(batches, None)
        if batch is None:
            return
        end = start + batch.num_rows
        chunk = batch
        if index is not None:
            chosen = index[(index >= start) & (index < end)] - start
            chunk = batch.take(pa.array(chosen))
        start = end
        if not chunk.num_rows:
            continue
        found: dict[str, Any] = {}
        for name in words:
            with readable(path):
                column = chunk.column(chunk.schema.get_field_index(name)).cast(pa.string())
                coded = column.fill_null("").dictionary_encode()
            found[name] = coded.indices.to_numpy(zero_copy_only=False), coded.dictionary.to_pylist()
        for name in numbers:
            column = chunk.column(chunk.schema.get_field_index(name))
            try:
                found[name] = column.to_numpy(zero_copy_only=False).astype(np.float64)
            except (ValueError, TypeError, NotImplementedError) as error:
                said = files.one_line(str(error), 160)
                raise TableError(
                    f"{files.shown_path(path)}: column {name} must hold numbers: {said}"
                ) from None
        yield found


def _groups(chunk: Mapping[str, Any], kind: Kind) -> Iterator[tuple[dict[str, str], dict[str, Array]]]:
    """Rows of a chunk by equal words."""
    words = (*_WORDS, *kind.words)
    code = np.zeros(len(chunk["latency"]), dtype=np.int64)
    for name in words:
        indices, names = chunk[name]
        code = code * len(names) + indices
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        named = {name: chunk[name][1][chunk[name][0][rows[0]]] for name in words}
        yield named, {name: chunk[name][rows] for name in (*kind.numbers, "latency")}


def _score(
    kind: Kind,
    words: Mapping[str, str],
    rows: dict[str, Array],
    machine: Machine | str,
    errors: dict[Key, list[Array]],
    left_out: Counter[str],
) -> None:
    count = len(rows["latency"])
    if words["timing_mode"] not in TIMED:
        left_out[f"timed in mode '{words['timing_mode']}', not the kernel alone"] += count
        return
    if isinstance(machine, str):
        left_out[machine] += count
        return
    if (why := kind.reason(words)) is not None:
        left_out[why] += count
        return
    timed = np.isfinite(rows["latency"]) & (rows["latency"] > 0)
    # checked before anything is multiplied: a damaged size would overflow there
    sized = np.all([(rows[name] >= 0.0) & (rows[name] <= MOST_NUMBER) for name in kind.numbers], axis=0)
    sized &= (rows["latency"] >= LEAST_MS) & (rows["latency"] <= MOST_NUMBER)
    good = timed & sized
    inside = np.zeros_like(good)
    inside[good] = kind.mask({name: values[good] for name, values in rows.items()})
    for mask, reason in (
        (~timed, "no latency"),
        (timed & ~sized, f"a size below 0 or beyond {MOST_NUMBER:g}, or a time of no kernel"),
        (good & ~inside, kind.outside),
    ):
        if mask.any():
            left_out[reason] += int(mask.sum())
    rows = {name: values[good & inside] for name, values in rows.items()}
    if not len(rows["latency"]):
        return
    with np.errstate(all="ignore"):  # sizes that no kernel has: their time is no number, and is left out
        found = kind.seconds(words, rows, machine)
        error = np.ravel(found.seconds) / (rows["latency"] * 1e-3) - 1.0
    finite = np.isfinite(error)
    if not finite.all():
        left_out["sizes that no kernel has"] += int((~finite).sum())
    op, shown = kind.names(words)
    library = f"{words['framework']}/{words['kernel_source']}"
    # Coefficients of one library say less about another.
    label = found.label if _same_library(found.provenance, words) else worst(found.label, Label.TRANSFERRED)
    beyond = np.broadcast_to(False if found.carried_on is None else found.carried_on, error.shape)
    for mask, trust in ((finite & ~beyond, label), (finite & beyond, worst(label, Label.TRANSFERRED))):
        if mask.any():
            key = (op, machine.chip.name, shown, library, str(trust))
            errors.setdefault(key, []).append(error[mask])


def _same_library(provenance: Provenance, words: Mapping[str, str]) -> bool:
    kernel, framework = words["kernel_source"], words["framework"]
    nccl = framework == "nccl" and "NCCL" in provenance.source  # links name their library in the source
    named = provenance.library or ""
    return nccl or named == f"{framework}/{kernel}" or f"{kernel} of {framework} " in provenance.source


def _machine(table_chip: str, lent: bool) -> Machine | str:
    name = CHIPS.get(table_chip, table_chip)
    if catalog.entry_path("chips", name) is None:
        return f"chip '{table_chip}' is not in the catalog"
    try:
        chip, cluster, own = catalog.chip(name), catalog.cluster_for(name), catalog.calibration(name)
        if not lent:
            return Machine(chip, cluster, own, catalog.libraries(name))
        theirs = replace(own, kernels=catalog.lent_kernels(name))
        return Machine(chip, cluster, theirs, catalog.libraries(catalog.lender(name)))
    except catalog.CatalogError as error:
        return f"chip '{table_chip}': {error}"


def _group(key: Key, error: Array) -> Group:
    size = np.abs(error)
    return Group(
        *key,
        len(error),
        float(np.median(size)),
        float(np.quantile(size, 0.9)),
        float(np.median(error)),
    )
