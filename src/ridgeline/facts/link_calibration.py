"""Fitted collective costs on the links of one chip."""

from __future__ import annotations

from pydantic import Field

from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.spec import Fraction, Seconds, Spec


class LinkFit(Spec):
    """One collective on one tier: t = base + steps * hop + bytes * factor / (share * bandwidth) with a size ramp."""

    share: float = Field(gt=0, description="achieved share of the tier's data-sheet bandwidth at large messages")
    half: float = Field(ge=0, description="bytes sent per rank at which half of that share is reached")
    base: Seconds = Field(description="launch of the collective kernel")
    hop: Seconds = Field(description="latency of one algorithm step")
    provenance: Provenance


class LinkCalibration(Spec):
    """Coefficients by tier kind ('scale_up' or 'scale_out') and collective."""

    chip: str
    scale_up: dict[str, LinkFit]
    scale_out: dict[str, LinkFit]
    max_share: Fraction = 1.0
