"""Serving cases: measured points of serving, read from a CSV file with one point per line.

A row holds the shape of the model, the machine, the layout, the load and what was measured. Empty fields mean unknown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline import files
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.columns import (
    CaseError,
    column,
    flag,
    milliseconds,
    natural,
    one_of,
    positive_count,
    rate,
    read_rows,
    required_columns,
    text,
    up_to,
    values_of,
    within,
)
from ridgeline.facts.engine import MOST_SEQS
from ridgeline.facts.requests import LONGEST_REQUEST
from ridgeline.facts.traffic import FASTEST, SLOWEST

#: Columns that only files of serving points have.
MARKS = {"tpot_ms", "ttft_ms", "output_tokens_per_s", "concurrency"}
#: What is measured, and how a row's value is called.
METRICS = {"tpot": "tpot_s", "ttft": "ttft_s", "output_tokens_per_s": "output_tokens_per_s"}
_MONTH = re.compile(r"(20\d\d)-(\d\d)")
#: Chips of one deployment: more than the largest machine has.
MOST_CHIPS = 16_384
_DEGREE, _LENGTH = up_to(MOST_CHIPS), within(1.0, LONGEST_REQUEST)
MODES = ("aggregated", "disaggregated", "offline")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCase:
    """One measured point. Counts are of chips, requests or tokens; ``None`` is unknown."""

    id: str = column(text, "")
    source: str = column(text, "")
    date: str = column(text, "", "date_or_version")
    model: str = column(text, "")
    layers: int | None = column(positive_count)
    hidden: int | None = column(positive_count)
    heads: int | None = column(positive_count)
    kv_heads: int | None = column(positive_count)
    head_dim: int | None = column(positive_count)
    ffn: int | None = column(positive_count)
    gated: bool = column(flag, True)
    vocab: int | None = column(positive_count)
    tied: bool = column(flag, False, "tied_embeddings")
    experts: int = column(natural, 0)
    topk: int = column(natural, 0)
    shared_experts: int = column(natural, 0)
    moe_layers: int = column(natural, 0)
    attention: str = column(text, "")
    arch_note: str = column(text, "")
    chip: str = column(text, "", required=True)
    num_chips: int = column(positive_count, 1, "n_chips", required=True)
    engine: str = column(text, "", required=True)
    engine_version: str = column(text, "")
    mode: str = column(text, "aggregated")
    precision: str = column(text, "bf16")
    moe_precision: str = column(text, "")
    kv_precision: str = column(text, "")
    tp: int | None = column(_DEGREE)
    pp: int | None = column(_DEGREE)
    ep: int | None = column(up_to(MOST_CHIPS, 0))
    dp: int | None = column(_DEGREE)
    batch_size: int | None = column(up_to(MOST_SEQS))
    prefill_workers: int | None = column(_DEGREE)
    prefill_tp: int | None = column(_DEGREE)
    prefill_ep: int | None = column(up_to(MOST_CHIPS, 0))
    prefill_dp: int | None = column(_DEGREE)
    decode_workers: int | None = column(_DEGREE)
    decode_tp: int | None = column(_DEGREE)
    decode_ep: int | None = column(up_to(MOST_CHIPS, 0))
    decode_dp: int | None = column(_DEGREE)
    decode_batch: int | None = column(up_to(MOST_SEQS))
    isl: float | None = column(_LENGTH)
    osl: float | None = column(_LENGTH)
    concurrency: float | None = column(within(1e-3, MOST_SEQS))
    request_rate: float | None = column(within(SLOWEST, FASTEST))
    ttft_s: float | None = column(milliseconds, None, "ttft_ms")
    tpot_s: float | None = column(milliseconds, None, "tpot_ms")
    output_tokens_per_s: float | None = column(rate)
    total_tokens_per_s_per_chip: float | None = column(rate)
    speculative: str = column(one_of("none", "mtp", "unknown"), "none")
    percentile: str = column(text, "mean")  # of the latencies: mean, median, p99
    client: str = column(text, "unknown")  # inferencex, offline, unknown
    quality: str = column(text, "A")
    notes: str = column(text, "")
    group: str = column(text, "")
    family: str = column(text, "")
    split: str = column(text, "")

    @property
    def measured(self) -> dict[str, float]:
        """What the row measured: metric -> value."""
        found = {metric: getattr(self, name) for metric, name in METRICS.items()}
        return {metric: value for metric, value in found.items() if value is not None}

    @property
    def month(self) -> str:
        """As ``2025-10``; empty where neither date nor version names one."""
        found = _MONTH.search(self.date) or _MONTH.search(self.engine_version)
        if found:
            return f"{found[1]}-{found[2]}"
        year = re.search(r"\b(20\d\d)\b", self.engine_version)
        return f"{year[1]}-12" if year else ""

    @property
    def static(self) -> bool:
        """One batch runs from start to end: no request joins or is replaced."""
        return "static batch" in self.notes

    @property
    def open_loop(self) -> bool:
        """Requests come at a rate of their own, whatever the server does."""
        return self.concurrency is None and self.request_rate is not None

    def shape(self) -> Case:
        """The model's dimensions as a training case states them, for `calibrate.shapes.architecture_of`."""
        names = (
            "id", "source", "model", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "gated", "vocab",
            "tied", "experts", "topk", "shared_experts", "moe_layers", "attention", "arch_note", "chip",
        )  # fmt: skip
        return Case(**{name: getattr(self, name) for name in names}, batch=1, seq=1)


def is_serving(columns: set[str]) -> bool:
    """Whether a header is that of serving points."""
    return len(columns & MARKS) >= 2


def read_serving_cases(path: str | Path, unread: list[str] | None = None) -> list[ServingCase]:
    """Read measured points of serving from a CSV file with a header line.

    Needed: ``chip, n_chips, engine`` and the model, as dimensions or as a catalog name in ``model``; lengths
    ``isl, osl`` and one of ``tpot_ms``, ``ttft_ms`` and ``output_tokens_per_s``. A row that lacks what a prediction
    needs is kept and counts as not predicted. Lines that cannot be read go to ``unread``, with the reason, where it
    is given.

    Raises:
        CaseError: no such file, a needed column is missing, or a value is not what its column holds.
    """
    return read_rows(path, _missing, serving_case_of, unread)


def _missing(columns: set[str]) -> list[str]:
    missing = [name for name in required_columns(ServingCase) if name not in columns]
    missing += [name for name in ("isl", "osl") if name not in columns]
    if not columns & {"layers", "model"}:
        missing.append("model")
    return missing


def serving_case_of(row: Mapping[str, Any], where: str) -> ServingCase:
    """The case in a mapping of CSV column to text or number; ``where`` opens the message of a CaseError."""
    values = values_of(ServingCase, row, where)
    values.setdefault("group", values.get("id", ""))
    case = ServingCase(**values)
    if case.mode not in MODES:
        raise CaseError(f"{where}, column mode: {files.shown(case.mode)}: expected one of {', '.join(MODES)}")
    return case
