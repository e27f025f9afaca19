"""Observation: one measured or published number with its provenance. Label: how far a number can be trusted."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from ridgeline.facts.spec import Prose, Spec


class Label(StrEnum):
    """Where a number comes from, best first."""

    MEASURED = "measured"  # this very thing was timed
    FITTED = "fitted"  # a formula fitted on measurements of this chip
    TRANSFERRED = "transferred"  # fitted elsewhere, scaled by the data sheet
    BOUND = "bound"  # physics only


class Observation(Spec):
    """One number somebody measured or published."""

    subject: str = Field(description="what was observed, a stable slug")
    metric: str = Field(description="name with unit, such as step_time_s")
    value: float
    source: Prose
    date: str = ""
    tolerance: float = Field(0.1, gt=0, description="relative tolerance a prediction is held to")
    note: Prose = ""
