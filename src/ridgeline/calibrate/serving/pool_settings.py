"""What launch recipes set on separate pools, from the table ``facts/data/pool_settings.yaml``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.facts import catalog, document

FILE = catalog.BUILT_IN / "pool_settings.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Settings of one run; empty, 0 and None: the engine's default.

    ``slots``: batches that decode ranks are limited to; ``drafts`` and ``prefill_tokens``: steps of (up to, value) by
    slots of a decode rank and tokens of a prompt; ``exchange_beyond``: attention ranks beyond which tokens are sent to
    the ranks of their experts.
    """

    slots: tuple[int, ...] = ()
    drafts: tuple[tuple[float, int], ...] = ()
    prefill_tokens: tuple[tuple[float, int], ...] = ()
    exchange_beyond: int = 0
    prefill_memory_fraction: float | None = None
    decode_memory_fraction: float | None = None
    kv: str = ""

    def slots_of(self, users: float) -> int:
        """Requests that a decode rank with ``users`` users in the mean takes at a time."""
        if not self.slots:
            return max(1, math.ceil(users))
        return max((slots for slots in self.slots if slots <= users), default=1)

    def drafts_of(self, slots: int, default: int) -> int:
        """Draft tokens of a step where drafts are on."""
        return step_of(self.drafts, slots, default)


def pool_settings(case: ServingCase) -> PoolSettings:
    """The settings of a case's run."""
    for row in _rows():
        if row["client"] == case.client and row["engine"] == case.engine:
            return PoolSettings(
                slots=tuple(row.get("slots", ())),
                drafts=_steps(row.get("drafts", ())),
                prefill_tokens=_steps(row.get("prefill_tokens", ())),
                exchange_beyond=int(row.get("exchange_beyond", 0)),
                prefill_memory_fraction=row.get("prefill_memory_fraction"),
                decode_memory_fraction=row.get("decode_memory_fraction"),
                kv=str(row.get("kv", "")),
            )
    return PoolSettings()


def step_of(steps: Sequence[tuple[float, int]], at: float, default: int) -> int:
    """The value of the first step that reaches up to ``at``."""
    return next((value for most, value in steps if at <= most), default)


def _steps(rows: Sequence[Sequence[Any]]) -> tuple[tuple[float, int], ...]:
    return tuple((float("inf") if most is None else float(most), int(value)) for most, value in rows)


@functools.cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(document.read(FILE)["settings"])
