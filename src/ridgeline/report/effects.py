"""Effect: what one change does to the step time; the value behind the sensitivity bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class HasEffect(Protocol):
    """Anything with a name, a relative change of the step time and a remark."""

    @property
    def name(self) -> str: ...
    @property
    def change(self) -> float: ...
    @property
    def note(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Effect:
    """``change`` is relative: -0.27 means a step 27 % shorter."""

    name: str
    change: float
    note: str = ""
