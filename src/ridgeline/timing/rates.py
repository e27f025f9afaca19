"""Which fit, peak and label an operator of one number format gets on one chip.

A format that a calibration does not have follows its chain of relatives, nearest first, and ends at bf16; the
fit is then a share of the format's *own* peak, so it scales by the data sheet, and is labelled `transferred`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import AttentionFit, GemmFit, GroupedFit
from ridgeline.facts.observation import Label

Array = NDArray[np.float64]
Numeric = float | NDArray[Any]
"""A number or an array of numbers that broadcasts with the operator's shape."""

Fit = TypeVar("Fit", GemmFit, AttentionFit, GroupedFit)


class Operand(NamedTuple):
    """How a format reaches the matrix unit: bytes per operand value (scales included) and its relatives."""

    bytes: float
    relatives: tuple[str, ...]


#: Bits: OCP Microscaling Formats 1.0 (32 values share 8 bits), NVFP4 (16 values share 8 bits), DeepSeek-V3
#: blocks (128 values share 32 bits). A relative uses the same data path, one step wider or with other scales.
OPERANDS: dict[str, Operand] = {
    "fp64": Operand(8.0, ()),
    "fp32": Operand(4.0, ("tf32", "bf16", "fp16")),
    "tf32": Operand(4.0, ("bf16", "fp16")),
    "bf16": Operand(2.0, ("fp16",)),
    "fp16": Operand(2.0, ("bf16",)),
    "fp8": Operand(1.0, ("fp8-block", "mxfp8", "int8", "bf16", "fp16")),
    "fp8-block": Operand(1.03125, ("fp8", "mxfp8", "int8", "bf16", "fp16")),
    "mxfp8": Operand(1.03125, ("fp8-block", "fp8", "int8", "bf16", "fp16")),
    "int8": Operand(1.0, ("fp8", "bf16", "fp16")),
    "mxfp6": Operand(0.78125, ("mxfp8", "fp8-block", "fp8", "bf16")),
    "nvfp4": Operand(0.5625, ("mxfp4", "mxfp8", "fp8", "bf16")),
    "mxfp4": Operand(0.53125, ("nvfp4", "mxfp8", "fp8", "bf16")),
    "int4": Operand(0.5, ("int8", "fp8", "bf16", "fp16")),
}

#: bf16 rate of the widest core that takes one tile at a time (Blackwell: 16.4 TFLOP/s per SM).
WIDEST_CORE_FLOPS_PER_S = 20e12

_WORST = (Label.MEASURED, Label.FITTED, Label.TRANSFERRED, Label.BOUND)


def operand(format_name: str) -> Operand:
    """Operand facts of one format; ValueError names the choices."""
    try:
        return OPERANDS[format_name]
    except KeyError:
        raise ValueError(
            f"number format '{format_name}' is unknown; choices: {', '.join(sorted(OPERANDS))}"
        ) from None


def peak_flops_per_s(chip: Chip, format_name: str) -> float:
    """Dense matrix rate of ``format_name`` on ``chip`` [FLOP/s]: its own, or the nearest relative's."""
    for name in (format_name, *operand(format_name).relatives):
        if name in chip.matrix:
            return chip.matrix[name]
    raise ValueError(
        f"chip '{chip.name}' has no matrix rate for '{format_name}' or a relative; "
        f"it has {', '.join(sorted(chip.matrix))}"
    )


def tiling_cores(chip: Chip) -> float:
    """Units that output tiles are spread over: the chip's cores, or more where one core is a whole array.

    A core of up to 20 TFLOP/s in bf16 (every GPU's) works on one tile; a TPU or Gaudi core works on several.
    """
    return max(float(chip.cores), peak_flops_per_s(chip, "bf16") / WIDEST_CORE_FLOPS_PER_S)


def resolve(fits: Mapping[str, Fit], format_name: str) -> tuple[Fit, Label]:
    """The fit of ``format_name``, or of its nearest relative with the label `transferred`.

    Raises:
        ValueError: unknown format, or no fit for it, any relative or bf16.
    """
    for name in (format_name, *operand(format_name).relatives):
        if name in fits:
            label = fits[name].provenance.label
            return fits[name], label if name == format_name else worst(label, Label.TRANSFERRED)
    raise ValueError(f"no kernel fit for '{format_name}' or a relative; the calibration has {sorted(fits)}")


def worst(*labels: Label) -> Label:
    """The least trusted of some labels."""
    return max(labels, key=_WORST.index)


def column(values: Sequence[float]) -> Array:
    """Values per operator as ``[operators, 1]``, to broadcast against ``[operators, plans]``."""
    return np.array(values, dtype=np.float64).reshape(-1, 1)
