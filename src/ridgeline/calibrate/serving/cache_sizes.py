"""KV caches as vLLM's own logs give them, beside what the catalog makes of the same chip, model and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgeline.calibrate.columns import (
    GIB,
    column,
    flag,
    gib,
    positive,
    positive_count,
    read_rows,
    required_columns,
    text,
    values_of,
)
from ridgeline.facts import catalog
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision
from ridgeline.graph.serving.memory import memory

FILE = catalog.BUILT_IN / "timings" / "kv_cache.csv"
ENGINE = "vllm-2026"


@dataclass(frozen=True, slots=True)
class CacheSize:
    """The cache of one chip [B], at the limits that a log states; ``informs``: numbers of the engine are from it."""

    chip: str = column(text, "", required=True)
    num_chips: int = column(positive_count, 1, required=True)
    model: str = column(text, "", required=True)
    precision: str = column(text, "", required=True)
    max_seqs: int | None = column(positive_count)
    max_batched_tokens: int | None = column(positive_count)
    memory_fraction: float | None = column(positive)
    measured: float = column(gib, 0.0, "kv_gib", required=True)
    informs: bool = column(flag, False, required=True)
    source: str = column(text, "", required=True)

    @property
    def predicted(self) -> float:
        """By the catalog [B]."""
        limits = Limits(
            max_seqs=self.max_seqs,
            max_batched_tokens=self.max_batched_tokens,
            memory_fraction=self.memory_fraction,
        )
        layout, form = Layout(tp=self.num_chips), Precision(linear=self.precision)
        return memory(service(self.model, self.chip, layout, form, ENGINE, limits=limits)).kv

    @property
    def rel_err(self) -> float:
        return self.predicted / self.measured - 1.0

    def __str__(self) -> str:
        said = f"{self.measured / GIB:.2f} GiB logged, {self.predicted / GIB:.2f} predicted"
        return f"{self.model} on {self.num_chips} {self.chip}: {said}"


def cache_sizes(path: Path = FILE) -> list[CacheSize]:
    """Rows of a file.

    Raises:
        CaseError: a column is missing, or a value is not what it should be.
    """

    def lacking(names: set[str]) -> list[str]:
        """Needed columns that a header lacks."""
        return [name for name in required_columns(CacheSize) if name not in names]

    def row(values: Mapping[str, Any], where: str) -> CacheSize:
        """One line."""
        return CacheSize(**values_of(CacheSize, values, where))

    return read_rows(path, lacking, row)
