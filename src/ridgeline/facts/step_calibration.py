"""What only whole training steps show of a chip: how kernels fare inside a step rather than alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.observation import Label
from ridgeline.facts.spec import Spec

#: Outside these limits a fit has failed: something physical is missing and must be named instead.
IN_SITU_LIMITS = (1.0, 1.15)
InSitu = Annotated[float, Field(ge=IN_SITU_LIMITS[0], le=IN_SITU_LIMITS[1])]


class StepCalibration(Spec):
    """Two numbers of one chip, fitted on whole steps of the fit share of measured runs."""

    chip: str
    boost_energy: float = Field(
        ge=1.0,
        le=4.0,
        description="dynamic energy of a FLOP at the boost clock, where kernel tables are timed, over the energy at "
        "which the chip's sustained rate draws its power limit: how hard the cap bites in a step",
    )
    in_situ: InSitu = Field(
        description="kernel time inside a real step over the isolated time at the same clock (cache and memory "
        "contention, gaps between kernels)"
    )
    provenance: Provenance


def neutral(chip: str) -> StepCalibration:
    """Factors of a chip whose steps nobody measured: kernels run in a step as they do alone, a lower bound."""
    source = "no measured step of this chip or a relative: kernels are taken to run as they do alone"
    provenance = Provenance(label=Label.BOUND, source=source)
    return StepCalibration(chip=chip, boost_energy=1.0, in_situ=1.0, provenance=provenance)
