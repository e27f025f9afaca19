"""Calibration: what a chip really achieves, in a few physical numbers per kernel class, with provenance.

Two files per chip: ``calibrations/kernels/CHIP.yaml`` (this chip's kernels, its in-situ factor and its energy) and
``calibrations/links/CHIP.yaml`` (the collectives on its links).
"""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.facts.kernel_calibration import KernelCalibration
from ridgeline.facts.link_calibration import LinkCalibration


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything fitted that a prediction on one chip uses."""

    kernels: KernelCalibration
    links: LinkCalibration
