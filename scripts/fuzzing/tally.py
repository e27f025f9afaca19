"""Tally: what became of the mutants of one reader, and each distinct failure with its smallest input."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from fuzzing.verdict import CLEAN, REFUSED, Verdict


@dataclass(slots=True)
class Failure:
    """Failures of one kind at one place: how many, and the smallest input's number, size and message."""

    kind: str
    where: str
    message: str
    number: int
    size: int
    count: int = 1


@dataclass(slots=True)
class Tally:
    """Of one reader: ``seed`` made the mutants, ``seconds`` is the wall time of all."""

    reader: str
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def mutants(self) -> int:
        return sum(self.counts.values())

    @property
    def failed(self) -> int:
        """Mutants that failed."""
        return self.mutants - self.counts[CLEAN] - self.counts[REFUSED]

    def add(self, number: int, verdict: Verdict, size: int) -> None:
        """Count one mutant."""
        self.counts[verdict.kind] += 1
        if not verdict.failed:
            return
        key = (verdict.kind, verdict.where)
        known = self.failures.get(key)
        if known is None:
            self.failures[key] = Failure(verdict.kind, verdict.where, verdict.message, number, size)
            return
        known.count += 1
        if size < known.size:
            known.message, known.number, known.size = verdict.message, number, size

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "reader": self.reader,
            "seed": self.seed,
            "mutants": self.mutants,
            "counts": dict(sorted(self.counts.items())),
            "failures": [asdict(one) for one in self.failures.values()],
            "seconds": round(self.seconds, 1),
        }
