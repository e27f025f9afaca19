"""PlanPoint: one candidate plan in the plane of step time and memory, and the frontier of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.metrics import Prediction


@dataclass(frozen=True, slots=True)
class PlanPoint:
    """A candidate plan: its step time, its peak memory and a name to show."""

    step_time_s: float
    peak_memory_bytes: float
    label: str

    @classmethod
    def of(cls, prediction: Prediction) -> PlanPoint:
        """The point of one prediction."""
        return cls(prediction.step_time_s, prediction.peak_memory_bytes, plan_label(prediction.scenario.plan))


def as_point(item: PlanPoint | Prediction | tuple[Plan, float, float]) -> PlanPoint:
    """A point from what a search returns: a prediction, or ``(plan, step seconds, peak bytes)``."""
    if isinstance(item, Prediction):
        return PlanPoint.of(item)
    if isinstance(item, tuple):
        plan, step_time_s, peak_memory_bytes = item
        return PlanPoint(step_time_s, peak_memory_bytes, plan_label(plan))
    return item


def plan_label(plan: Plan | PlanGrid) -> str:
    """A plan in one line, degrees of one left out: ``tp 8, pp 16, vpp 4, dp 128, mbs 1, interleaved``."""
    if isinstance(plan, PlanGrid):
        raise ValueError(f"a report shows one plan, got a grid of {len(plan)}; take one with grid[i]")
    degrees = [(name, getattr(plan, name)) for name in ("tp", "cp", "pp", "vpp", "ep", "etp", "dp")]
    parts = [f"{name} {value}" for name, value in degrees if value > 1] or ["one chip"]
    parts.append(f"mbs {plan.micro_batch}")
    if plan.pp > 1:
        parts.append(plan.schedule)
    if plan.recompute == "full" and plan.recompute_layers >= 0:
        parts.append(f"full recompute of {plan.recompute_layers} layers a stage")
    elif plan.recompute != "none":
        parts.append(f"{plan.recompute} recompute")
    parts.append(f"ZeRO {plan.zero}" if plan.zero else "no ZeRO")
    return ", ".join(parts)


def frontier(points: Sequence[PlanPoint]) -> list[PlanPoint]:
    """Points that no other beats in both step time and memory, by rising memory."""
    best: list[PlanPoint] = []
    for point in sorted(points, key=lambda p: (p.peak_memory_bytes, p.step_time_s)):
        if not best or point.step_time_s < best[-1].step_time_s:
            best.append(point)
    return best
