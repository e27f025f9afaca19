"""Calibration: what a chip really achieves, in a few physical numbers per kernel class, with provenance.

Three files per chip: ``calibrations/kernels/CHIP.yaml`` (this chip's kernels and its energy),
``calibrations/links/CHIP.yaml`` (the collectives on its links) and ``calibrations/steps/CHIP.yaml`` (how both fare
inside whole steps).
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.facts.kernel_calibration import KernelCalibration
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.facts.step_calibration import StepCalibration


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything fitted that a prediction on one chip uses."""

    kernels: KernelCalibration
    links: LinkCalibration
    steps: StepCalibration
