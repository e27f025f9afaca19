"""Cases: measured training runs, read from a CSV file with one run per line.

A row is self-contained: it holds the shape of the model, the machine, the plan and the measured step time.
Empty fields mean unknown and become ``None``; columns that are not listed here are ignored.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline import files
from ridgeline.calibrate.columns import (
    GIB,
    CaseError,
    column,
    flag,
    gib,
    natural,
    positive_count,
    rate,
    read_rows,
    required_columns,
    seconds,
    stage,
    text,
    values_of,
)

__all__ = ["GIB", "Case", "CaseError", "case_of", "read_cases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured run. Counts are of sequences, tokens or chips; ``None`` is unknown."""

    id: str = column(text, "")
    source: str = column(text, "")
    date: str = column(text, "", "date_or_version")
    framework: str = column(text, "")
    model: str = column(text, "")
    layers: int | None = column(positive_count)
    hidden: int | None = column(positive_count)
    heads: int | None = column(positive_count)
    kv_heads: int | None = column(positive_count)
    head_dim: int | None = column(positive_count)
    ffn: int | None = column(positive_count)  # inner dimension, of one expert where there are experts
    gated: bool = column(flag, True)
    vocab: int | None = column(positive_count)
    tied: bool = column(flag, False, "tied_embeddings")
    experts: int = column(natural, 0)
    topk: int = column(natural, 0)
    shared_experts: int = column(natural, 0)
    moe_layers: int = column(natural, 0)
    attention: str = column(text, "")  # mha, gqa, mqa, mla, swa-mix, hybrid
    arch_note: str = column(text, "")
    chip: str = column(text, "", required=True)
    num_chips: int = column(positive_count, 1, "n_chips", required=True)
    chips_per_node: int | None = column(positive_count)
    network: str = column(text, "")
    precision: str = column(text, "bf16")
    tp: int = column(positive_count, 1)
    pp: int = column(positive_count, 1)
    vpp: int | None = column(positive_count)
    cp: int = column(positive_count, 1)
    ep: int = column(positive_count, 1)
    etp: int = column(positive_count, 1)
    dp: int | None = column(positive_count)
    zero: int | None = column(stage, None, "zero_stage")
    sequence_parallel: bool | None = column(flag)
    micro_batch: int | None = column(positive_count)
    batch: int = column(positive_count, 1, "global_batch", required=True)
    seq: int = column(positive_count, 1, required=True)
    recompute: str = column(text, "")
    offload: str = column(text, "")
    overlap: str = column(text, "")
    kind: str = column(text, "pretrain", "training_kind")
    step_time_s: float = column(seconds, math.nan)
    tokens_per_s_per_chip: float = column(rate, math.nan)
    peak_memory_bytes: float | None = column(gib, None, "peak_memory_gib")
    quality: str = column(text, "A")
    notes: str = column(text, "")
    group: str = column(text, "")  # one configuration; repeats share it
    family: str = column(text, "")
    split: str = column(text, "")  # fit, test-config, test-family

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.seq

    @property
    def data_parallel(self) -> int:
        """Data-parallel ranks: as stated, else what the other degrees leave."""
        return self.dp if self.dp is not None else self.num_chips // (self.tp * self.cp * self.pp)


_KINDS = ("pretrain", "sft", "lora")


def read_cases(path: str | Path, unread: list[str] | None = None) -> list[Case]:
    """Read measured training runs from a CSV file with a header line.

    Needed: ``chip, n_chips, global_batch, seq``; the measurement, ``step_time_s`` or
    ``tokens_per_s_per_chip``; and the model, as dimensions (``layers, hidden, heads, ffn, vocab``) or as
    a catalog name in ``model``. Lines that cannot be read go to ``unread``, with the reason, where it is given.

    Raises:
        CaseError: no such file, a needed column or value is missing, or a value is not what its column holds.
    """
    return read_rows(path, _missing, case_of, unread)


def _missing(columns: set[str]) -> list[str]:
    missing = [name for name in required_columns(Case) if name not in columns]
    if not columns & {"step_time_s", "tokens_per_s_per_chip"}:
        missing.append("step_time_s")
    if not columns & {"layers", "model"}:
        missing.append("model")
    return missing


def case_of(row: Mapping[str, Any], where: str) -> Case:
    """The case in a mapping of CSV column to text or number; ``where`` opens the message of a CaseError."""
    values = values_of(Case, row, where)
    values.setdefault("group", values.get("id", ""))
    return _checked(Case(**values), where)


def _checked(case: Case, where: str) -> Case:
    """Fill the measurement that follows from the other, and hold the degrees to the chip count."""
    if case.kind not in _KINDS:
        raise CaseError(
            f"{where}, column training_kind: {files.shown(case.kind)}: expected one of {', '.join(_KINDS)}"
        )
    if case.num_chips != case.tp * case.pp * case.cp * case.data_parallel:
        product = f"tp {case.tp} x pp {case.pp} x cp {case.cp} x dp {case.data_parallel}"
        raise CaseError(f"{where}, column n_chips: '{case.num_chips}': expected the product of {product}")
    if not math.isnan(case.step_time_s):
        rate = case.tokens / case.step_time_s / case.num_chips
        return dataclasses.replace(case, tokens_per_s_per_chip=rate)
    if not math.isnan(case.tokens_per_s_per_chip):
        seconds = case.tokens / case.tokens_per_s_per_chip / case.num_chips
        return dataclasses.replace(case, step_time_s=seconds)
    raise CaseError(f"{where}, column step_time_s: empty; this value is needed")
