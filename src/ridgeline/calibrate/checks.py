"""Checks beyond the error of single runs: are plans ranked right, and does the step follow its law?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.scores import Line, grouped, line, regret, spearman

MIN_PLANS = 5
MIN_POINTS = 3
# A measured family follows the law when no run is further than this from its line.
LAW_RESIDUAL = 0.03


@dataclass(frozen=True, slots=True)
class Ranking:
    """Measured plans of one job on one machine."""

    job: str
    plans: int
    spearman: float | None
    regret: float  # measured time of our pick over the best measured one, less 1

    def to_dict(self) -> dict[str, Any]:
        """The ranking as plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def _job_key(case: Case) -> Hashable:
    # Two frameworks under one job would compare software, not plans.
    size = (case.num_chips, case.batch, case.seq)
    return (case.model, case.chip, *size, case.precision, case.kind, case.framework, case.date)


def _plan_key(case: Case) -> Hashable:
    degrees = (case.tp, case.pp, case.vpp, case.cp, case.ep, case.etp, case.data_parallel, case.micro_batch)
    return (*degrees, case.zero, case.sequence_parallel, case.recompute, case.overlap, case.offload)


def rankings(cases: Sequence[Case], predicted_s: Sequence[float]) -> list[Ranking]:
    """Rank correlation and regret for every job with at least five measured plans; repeats count once."""
    jobs = grouped((_job_key(case), (case, time)) for case, time in zip(cases, predicted_s, strict=True))
    found = []
    for runs in jobs.values():
        plans = grouped((_plan_key(case), (case.step_time_s, time)) for case, time in runs)
        if len(plans) < MIN_PLANS:
            continue
        measured, predicted = np.array([np.median(times, axis=0) for times in plans.values()]).T
        case = runs[0][0]
        name = f"{case.model} on {case.num_chips} {case.chip}, batch {case.batch}, seq {case.seq}"
        found.append(Ranking(name, len(plans), spearman(measured, predicted), regret(measured, predicted)))
    return sorted(found, key=lambda ranking: -ranking.plans)


@dataclass(frozen=True, slots=True)
class Law:
    """``T = a (m + (pp - 1) / vpp) + c`` over the number of micro-batches m, measured and predicted [s].

    ``a`` is the time of one micro-batch, ``c`` the part of the step that no pipelining hides.
    """

    family: str
    runs: int
    measured: Line
    predicted: Line

    def to_dict(self) -> dict[str, Any]:
        """The law as plain JSON values."""
        lines = {"measured": self.measured, "predicted": self.predicted}
        return {
            "family": self.family,
            "runs": self.runs,
            **{
                name: {"a": one.slope, "c": one.intercept, "residual": one.residual}
                for name, one in lines.items()
            },
            "standard_error": {"a": self.measured.slope_error, "c": self.measured.intercept_error},
        }


def _family_key(case: Case) -> Hashable:
    layout = (case.tp, case.cp, case.pp, case.ep, case.micro_batch, case.seq, case.zero, case.recompute)
    return (case.model, case.chip, case.precision, case.framework, case.kind, *layout)


def laws(cases: Sequence[Case], predicted_s: Sequence[float]) -> list[Law]:
    """The law for families of pipelined runs that differ in dp, vpp and batch, where measurements keep it."""
    pipelined = [
        (_family_key(case), (case, time))
        for case, time in zip(cases, predicted_s, strict=True)
        if case.pp > 1 and case.vpp and case.micro_batch
    ]
    found = []
    for runs in grouped(pipelined).values():
        x = [_slots(case) for case, _ in runs]
        if len(set(x)) < MIN_POINTS:
            continue
        measured = line(x, [case.step_time_s for case, _ in runs])
        if measured.residual > LAW_RESIDUAL:
            continue
        case = runs[0][0]
        name = f"{case.model} on {case.chip}, {case.precision}, tp {case.tp} pp {case.pp} cp {case.cp}"
        found.append(Law(name, len(runs), measured, line(x, [time for _, time in runs])))
    return sorted(found, key=lambda law: -law.runs)


def _slots(case: Case) -> float:
    """Micro-batches that the pipeline's length stands for: m + (pp - 1) / vpp."""
    micro_batches = case.batch / (case.data_parallel * (case.micro_batch or 1))
    return micro_batches + (case.pp - 1) / (case.vpp or 1)
