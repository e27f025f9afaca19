"""Prediction: the numbers a training plan is judged by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ridgeline.facts.scenario import Scenario


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of the ladder: what is added to the ideal step, and by which cause."""

    cause: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator of one micro-batch on the busiest stage, for the roofline and the table behind it."""

    name: str
    phase: str  # forward, input_grad, weight_grad
    kind: str  # gemm, attention, grouped, stream
    count: float  # launches per micro-batch on the busiest stage
    seconds: float  # all launches together
    flops: float
    bytes: float
    format: str
    binds: str  # compute, memory, launch, host


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one training plan does. Times in seconds per optimizer step, sizes in bytes per chip."""

    scenario: Scenario
    step_time_s: float
    step_time_low_s: float
    step_time_high_s: float
    bound_s: float  # physical lower bound: no plan of this shape is faster on this data sheet
    mfu: float  # causal attention counted as half (the model needs no more)
    mfu_full_attention: float  # full attention counted, as Megatron reports
    hfu: float  # recomputed FLOPs included
    tokens_per_s_per_chip: float
    model_tflops_per_chip: float
    peak_memory_bytes: float
    memory_capacity_bytes: float
    memory: dict[str, list[float]]  # kind -> bytes per pipeline stage (worst chip of each stage)
    ladder: tuple[Rung, ...]
    exposed_s: dict[str, float]  # axis (tp, cp, ep, dp, pp) -> exposed communication seconds
    bubble_share: float
    energy_j_per_step: float
    average_power_w: float  # of one chip
    days: float | None  # for the job's token budget
    labels: dict[str, str]  # part -> measured / fitted / transferred / bound
    operators: tuple[OperatorTime, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def tokens_per_day(self) -> float:
        """Tokens that all chips train on in a day without interruption."""
        return self.tokens_per_s_per_chip * self.scenario.num_chips * 86400.0

    @property
    def fits(self) -> bool:
        return self.peak_memory_bytes <= self.memory_capacity_bytes

    def to_dict(self) -> dict[str, Any]:
        """The prediction as plain JSON values."""
        scenario = self.scenario
        return {
            "model": scenario.architecture.name,
            "chip": scenario.chip.name,
            "cluster": scenario.cluster.name,
            "num_chips": scenario.num_chips,
            "stack": scenario.stack.name,
            "recipe": scenario.recipe.name,
            "job": scenario.job.model_dump(),
            "plan": scenario.plan.to_dict(),  # type: ignore[union-attr]
            "step_time_s": self.step_time_s,
            "step_time_low_s": self.step_time_low_s,
            "step_time_high_s": self.step_time_high_s,
            "bound_s": self.bound_s,
            "mfu": self.mfu,
            "mfu_full_attention": self.mfu_full_attention,
            "hfu": self.hfu,
            "tokens_per_s_per_chip": self.tokens_per_s_per_chip,
            "tokens_per_day": self.tokens_per_day,
            "model_tflops_per_chip": self.model_tflops_per_chip,
            "peak_memory_bytes": self.peak_memory_bytes,
            "memory_capacity_bytes": self.memory_capacity_bytes,
            "fits": self.fits,
            "memory": self.memory,
            "ladder": [{"cause": rung.cause, "seconds": rung.seconds} for rung in self.ladder],
            "exposed_s": self.exposed_s,
            "bubble_share": self.bubble_share,
            "energy_j_per_step": self.energy_j_per_step,
            "average_power_w": self.average_power_w,
            "days": self.days,
            "labels": self.labels,
            "operators": [
                {name: getattr(op, name) for name in OperatorTime.__dataclass_fields__}
                for op in self.operators
            ],
            "notes": list(self.notes),
        }
