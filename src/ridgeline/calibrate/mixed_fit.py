"""Timings of decodes beside a prefill to the numbers of `ridgeline.timing.tiled`, and how far off unseen shapes are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline import files
from ridgeline.calibrate.columns import CaseError, positive, read_rows
from ridgeline.calibrate.solve import solve_seen
from ridgeline.calibrate.tables import held_out, select
from ridgeline.facts import catalog
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Precision
from ridgeline.sim.serving.step_time import StepTimes
from ridgeline.timing.attention import AttentionRates
from ridgeline.timing.rates import Array
from ridgeline.timing.tiled import TIMED, Tiled, tiled_seconds

FILE = catalog.BUILT_IN / "timings" / "mixed_attention.csv"
KEYS = ("num_heads", "num_key_value_heads", "head_dim", "requests", "kv_tokens")
#: Whose kernel these numbers are of, and a model with attention for it: the rates are the chip's alone.
ENGINE, MODEL = "vllm-2026", "llama-3.1-8b"
#: What a kernel's time goes by of a chip's rates.
_FIELDS = ("rate", "peak_flops_per_s", "cores", "kv_bytes", "bandwidth_bytes_per_s", "head_half")
_LOW = (0.3, 1e-7, 0.01, 0.5, 0.3, 0.5)
_HIGH = (1.5, 3e-5, 1.0, 1.05, 5.0, 8.0)


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one chip and layout of heads, on rows that were not fitted on, and with the numbers that ship."""

    chip: str
    heads: int
    kv_heads: int
    rows: int
    median_abs_err: float
    p90_abs_err: float
    shipped_median_abs_err: float
    shipped_p90_abs_err: float


def read(path: Path = FILE) -> dict[str, Any]:
    """Columns of a file ``[n]``: chip names and the numbers of `KEYS`, ``latency_us`` as ``seconds``.

    Raises:
        CaseError: a column is missing, or a value is no number above 0.
    """
    needed = ("chip", *KEYS, "latency_us")

    def row(values: Mapping[str, Any], where: str) -> list[Any]:
        """The chip and its numbers."""
        if "chip" not in values:
            raise CaseError(f"{where}, column chip: empty; this value is needed")
        return [values["chip"], *(_number(values, name, where) for name in needed[1:])]

    rows = read_rows(path, lambda names: [name for name in needed if name not in names], row)
    if not rows:
        raise CaseError(f"{path}: holds no row")
    found: dict[str, Any] = {
        name: np.array(values) for name, values in zip(needed, zip(*rows, strict=True), strict=True)
    }
    found["seconds"] = found.pop("latency_us") * 1e-6
    return found


def _number(values: Mapping[str, Any], name: str, where: str) -> float:
    said = str(values.get(name, ""))
    if not said:
        raise CaseError(f"{where}, column {name}: empty; this value is needed")
    try:
        return positive(said)
    except ValueError as error:
        raise CaseError(f"{where}, column {name}: {files.shown(said)}: {error}") from None


def fit(rows: Mapping[str, Any], chip: str | None = None) -> tuple[Tiled, list[Errors]]:
    """Numbers fitted on the shapes that are not held out, of ``chip`` alone or of all; errors of all other rows.

    Raises:
        CaseError: no row is of ``chip``.
    """
    rates, cache = _machines(rows["chip"])
    fitting = np.ones(len(rows["seconds"]), np.bool_) if chip is None else rows["chip"] == chip
    if not fitting.any():
        known = files.choices(np.unique(rows["chip"]))
        raise CaseError(f"no row is of chip {files.shown(chip)}; there are {known}")

    def predict(numbers: Array, chosen: Mapping[str, Any]) -> Array:
        """Seconds of rows under `Tiled` numbers."""
        at = chosen["row"].astype(np.int64)
        return _seconds(chosen, _at(rates, at), cache[at], Tiled(*map(float, numbers)))

    indexed = {**rows, "row": np.arange(len(rows["seconds"]), dtype=np.float64)}
    numbers = Tiled(*map(float, solve_seen(predict, select(indexed, fitting), KEYS, TIMED, _LOW, _HIGH)))
    off, shipped = (
        np.abs(_seconds(rows, rates, cache, one) / rows["seconds"] - 1.0) for one in (numbers, TIMED)
    )
    unseen = held_out(rows, KEYS) | ~fitting
    errors = []
    for name in np.unique(rows["chip"]):
        for heads, kv_heads in sorted(set(zip(rows["num_heads"], rows["num_key_value_heads"], strict=True))):
            same = (rows["chip"] == name) & (rows["num_heads"] == heads)
            same &= unseen & (rows["num_key_value_heads"] == kv_heads)
            if same.any():
                both = [float(np.quantile(one[same], q)) for one in (off, shipped) for q in (0.5, 0.9)]
                errors.append(Errors(str(name), int(heads), int(kv_heads), int(same.sum()), *both))
    return numbers, errors


def _seconds(rows: Mapping[str, Any], rates: AttentionRates, cache: Array, numbers: Tiled) -> Array:
    heads, kv_heads, dim, requests, keys = (rows[name] for name in KEYS)
    return tiled_seconds(requests, heads, kv_heads, keys, dim, dim, rates, cache, numbers)


def _machines(names: Any) -> tuple[AttentionRates, Array]:
    """Rates of prefills and last-level cache [byte] of each row's chip."""
    known = {}
    for name in np.unique(names):
        times = StepTimes(service(MODEL, str(name), Layout(), Precision(), ENGINE))
        known[name] = times.prefill_rates, times.service.chip.l2
    fields: dict[str, Any] = {
        field: np.array([float(np.ravel(getattr(known[name][0], field))[0]) for name in names])
        for field in _FIELDS
    }
    return known[names[0]][0]._replace(**fields), np.array([known[name][1] for name in names])


def _at(rates: AttentionRates, index: Any) -> AttentionRates:
    fields: dict[str, Any] = {field: getattr(rates, field)[index] for field in _FIELDS}
    return rates._replace(**fields)
