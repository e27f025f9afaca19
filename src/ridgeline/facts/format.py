"""Number formats: what one element costs in memory, scales included."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from ridgeline.facts.spec import Count, Positive, Prose, Spec

#: What a matrix unit can have a rate for: the keys of ``Chip.matrix``. Other formats run as one of these.
MATRIX_FORMATS = (
    "fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "mxfp8", "mxfp6", "mxfp4", "nvfp4", "int8", "int4",
)  # fmt: skip


def matrix_key(name: str) -> str:
    """``name`` if matrix units come with a rate for it, else ValueError with the choices."""
    if name not in MATRIX_FORMATS:
        raise ValueError(f"unknown format; known: {' '.join(MATRIX_FORMATS)}")
    return name


class Format(Spec):
    """A number format. ``bits`` counts element and scale: MXFP8 is 8 + 8/32 = 8.25."""

    name: str
    element_bits: Positive = Field(description="bits of the element alone")
    bits: Positive = Field(description="stored bits per value, scale overhead included")
    weight_bits: Positive | None = Field(
        None, description="the same of a weight, where scales of weights cover more values; none = as `bits`"
    )
    block: Count | None = Field(
        None, description="values that share one scale; none = per tensor or no scale"
    )
    matrix_as: Annotated[str, AfterValidator(matrix_key)] = Field(
        description="the matrix-unit rate it runs at, a key of Chip.matrix"
    )
    source: Prose

    @property
    def bytes(self) -> float:
        """Stored bytes per value [byte]."""
        return self.bits / 8.0

    @property
    def weight_bytes(self) -> float:
        """Stored bytes per weight [byte]."""
        return (self.weight_bits or self.bits) / 8.0

    @field_validator("bits")
    @classmethod
    def _holds_element(cls, bits: float, info: ValidationInfo) -> float:
        element = info.data.get("element_bits")
        if element is not None and bits < element:
            raise ValueError(f"{bits:g} is below element_bits {element:g}; scales can only add")
        return bits
