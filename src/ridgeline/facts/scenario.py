"""Scenario: one model, one machine, one job, one plan and one stack. The unit of prediction."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All facts a prediction needs; a what-if is a copy with one change (`replace`)."""

    architecture: Architecture
    chip: Chip
    cluster: Cluster
    num_chips: int
    job: TrainingJob
    plan: Plan | PlanGrid
    stack: Stack
    recipe: Recipe
    calibration: Calibration

    def replace(self, **changes: Any) -> Scenario:
        """A copy with fields replaced."""
        return dataclasses.replace(self, **changes)
