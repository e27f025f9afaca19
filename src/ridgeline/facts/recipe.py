"""Recipe: the number formats of a training step. fp8 training is a recipe, not a format."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ridgeline.facts.chip import Chip
from ridgeline.facts.spec import Fraction, Prose, Spec


class Recipe(Spec):
    """Which tensors are stored, multiplied and sent in which format, and what conversion costs."""

    name: str
    title: str
    linear: str = Field(description="format of forward linear layers")
    linear_backward: str = Field(description="format of input- and weight-gradient matmuls of linear layers")
    attention: str = Field("bf16", description="format of the attention core")
    head: str = Field("bf16", description="format of the output layer")
    weight_bytes: float = Field(
        2.0, gt=0, description="stored bytes per parameter on each rank, master copy apart"
    )
    transpose_bytes: float = Field(
        0.0,
        ge=0,
        description="of weight_bytes: a transposed copy kept for chips that multiply 8-bit operands in one layout only",
    )
    gather_bytes: float = Field(2.0, gt=0, description="bytes per parameter when parameters are gathered")
    grad_bytes: float = Field(4.0, gt=0, description="bytes per parameter of the gradient buffer")
    grad_reduce_bytes: float = Field(2.0, gt=0, description="bytes per parameter when gradients are reduced")
    master_bytes: float = Field(4.0, ge=0, description="bytes of the master copy per parameter")
    moment_bytes: float = Field(8.0, ge=0, description="bytes of both optimizer moments per parameter")
    saved_linear_bytes: float = Field(
        2.0, gt=0, description="bytes per value of linear-layer inputs kept for backward"
    )
    cast_passes: float = Field(
        0.0,
        ge=0,
        description="extra memory passes over each linear input (amax, cast, transpose), in bf16 reads",
    )
    high_precision_share: Fraction = Field(
        0.0, description="share of layers kept in bf16 (first and last layers)"
    )
    scaling: Literal["none", "delayed", "current", "block"] = "none"
    source: Prose

    def on(self, chip: Chip) -> Recipe:
        """The recipe as ``chip`` runs it: one with block-scaled formats reads either layout and keeps no transpose."""
        if not self.transpose_bytes or "mxfp8" not in chip.matrix:
            return self
        return self.model_copy(
            update={"weight_bytes": self.weight_bytes - self.transpose_bytes, "transpose_bytes": 0.0}
        )
