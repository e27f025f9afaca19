"""Number formats: what one element costs in memory, scales included."""

from __future__ import annotations

from pydantic import Field

from ridgeline.facts.spec import Positive, Spec


class Format(Spec):
    """A number format. ``bits`` counts element and scale: MXFP8 is 8 + 8/32 = 8.25."""

    name: str
    bits: Positive = Field(description="stored bits per value, scale overhead included")
    element_bits: Positive = Field(description="bits of the element alone")
    block: int | None = Field(None, description="values that share one scale; none = per tensor or no scale")
    matrix_as: str = Field(description="the matrix-unit rate it runs at, a key of Chip.matrix")
    source: str

    @property
    def bytes(self) -> float:
        """Stored bytes per value [byte]."""
        return self.bits / 8.0
