"""Reporting: what a source's numbers stand for, from the table ``facts/data/reporting.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ridgeline.calibrate.cases import Case
from ridgeline.facts import catalog, document

FILE = catalog.BUILT_IN / "reporting.yaml"


def allocated_bytes(case: Case, stages: Sequence[float]) -> float:
    """Of bytes on each pipeline stage those that the case's measured peak counts: the fullest, or rank 0's."""
    return stages[0] if case.source.startswith(_rank_0_sources()) else max(stages)


@functools.cache
def _rank_0_sources() -> tuple[str, ...]:
    """Beginnings of the names of sources whose peak memory is that of rank 0 alone."""
    return tuple(str(row["source"]) for row in document.read(FILE)["rank_0_memory"])
