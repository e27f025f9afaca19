"""Published results: training runs of papers and vendors, transcribed with source and tolerance.

A file of ``facts/data/published`` is one publication: ``source``, ``framework``, ``date``, values that all
its runs share (``shared``) and the ``runs``. Keys of a run are the columns of a case file; ``metric`` and
``value`` are what was published, in the publisher's own unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline.calibrate.cases import Case, CaseError, case_of
from ridgeline.facts import catalog, document

FOLDER = catalog.BUILT_IN / "published"
METRICS = ("step_time_s", "tokens_per_s_per_chip", "megatron_model_tflops", "megatron_hardware_tflops")


@dataclass(frozen=True, slots=True)
class PublishedRun:
    """One published result as a case, and how far a prediction of its step time may be off."""

    case: Case
    metric: str
    value: float
    tolerance: float  # relative, of the step time
    note: str = ""
    miss: str = ""  # why a prediction outside the tolerance is known and shown; empty = it must hold
    miss_within: float = 0.0  # how far a known miss may be off before it is a new one; relative


def read_published(folder: Path = FOLDER) -> list[PublishedRun]:
    """All published runs, files in alphabetical order.

    Raises:
        CaseError: a file or run cannot be read; the message names file, run and field.
    """
    return [run for path in sorted(folder.glob("*.yaml")) for run in _read_file(path)]


def _read_file(path: Path) -> list[PublishedRun]:
    try:
        data = document.read(path)
    except document.DocumentError as error:
        raise CaseError(f"{path.name}: {error}") from error
    missing = [name for name in ("source", "framework", "date", "runs") if not data.get(name)]
    if missing:
        raise CaseError(f"{path.name}: missing {', '.join(missing)}")
    common = {
        "source": data["source"],
        "framework": data["framework"],
        "date_or_version": data["date"],
        **data.get("shared", {}),
    }
    return [_run({**common, **row}, f"{path.name}, run {index}") for index, row in enumerate(data["runs"], 1)]


def _run(row: Mapping[str, Any], where: str) -> PublishedRun:
    for name in ("id", "model", "metric", "value", "tolerance"):
        if row.get(name) in (None, ""):
            raise CaseError(f"{where}: missing {name}")
    metric, value = str(row["metric"]), float(row["value"])
    where = f"{where} ({row['id']})"
    if metric not in METRICS:
        raise CaseError(f"{where}: unknown metric '{metric}'; known: {' '.join(METRICS)}")
    seconds = {metric: value} if metric in METRICS[:2] else {"step_time_s": _megatron_seconds(row, where)}
    case = case_of({**row, **seconds}, where)
    note, miss = str(row.get("note", "")), str(row.get("miss", ""))
    if bool(miss) != ("miss_within" in row):
        raise CaseError(f"{where}: miss and miss_within belong together")
    within = float(row.get("miss_within", 0.0))
    return PublishedRun(case, metric, value, float(row["tolerance"]), note, miss, within)


def _megatron_seconds(row: Mapping[str, Any], where: str) -> float:
    """Step time [s] from TFLOP/s per chip as Megatron-LM counts them (arXiv:2104.04473, equation 3).

    ``F = k B s L h^2 (1 + s / 6h + V / (k' L h))``: with recomputation k = 96 and k' = 16, without 72 and 12.
    Causal attention is counted in full.
    """
    try:
        architecture = catalog.architecture(str(row["model"]))
    except catalog.CatalogError as error:
        raise CaseError(f"{where}: {error}") from error
    layers, hidden = architecture.num_layers, architecture.hidden
    factor, head = (96, 16) if row["metric"] == "megatron_hardware_tflops" else (72, 12)
    batch, seq = int(row["global_batch"]), int(row["seq"])
    share = 1.0 + seq / (6.0 * hidden) + architecture.vocab / (float(head) * layers * hidden)
    flops = float(factor) * batch * seq * layers * hidden**2 * share
    return flops / (float(row["value"]) * 1e12 * int(row["n_chips"]))
