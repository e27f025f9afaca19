"""Results: what a prediction and a search give back. Frozen values that print, draw and save."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ridgeline import files, report
from ridgeline.api import saved, text, timelines
from ridgeline.explore.search import PlanSearch
from ridgeline.facts import catalog
from ridgeline.insight.sensitivity import Sensitivity, sensitivities
from ridgeline.metrics import Prediction
from ridgeline.predict import train as predict
from ridgeline.report import figures, gantt
from ridgeline.report.blocks import Block
from ridgeline.report.page import page
from ridgeline.report.points import PlanPoint, plan_label
from ridgeline.report.tables import plan_sheet

_Value = TypeVar("_Value")


def version() -> str:
    """Version of the installed package."""
    return importlib.metadata.version("ridgeline")


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The prediction of one plan; every field of `Prediction` is also a field of the result."""

    prediction: Prediction
    notes: tuple[str, ...] = ()
    command: str = ""
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # holds what is slow

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # never reached by a complete value; keeps copy and pickle from looping
            raise AttributeError(name)
        return getattr(self.prediction, name)

    @property
    def sensitivities(self) -> tuple[Sensitivity, ...]:
        """What one change of the hardware, the software or the job would do, the largest gain first."""
        return _once(self._memo, "sensitivities", lambda: tuple(_effects(self.prediction)))

    @property
    def blocks(self) -> list[Block] | None:
        """One step of the pipeline, block by block; None where there is no exact order."""
        return _once(self._memo, "blocks", lambda: timelines.blocks(self.prediction))

    def table(self) -> str:
        """Headline, plan, ladder and labels as text."""
        return text.result_text(self.prediction, self.sensitivities, self.notes)

    def explanation(self) -> str:
        """Why the step takes that long: ladder, operators, communication, memory and what to change first."""
        return text.explanation(self.prediction, self.sensitivities, self.notes)

    def figure(self, kind: str = "ladder") -> figures.Figure:
        """A figure as a Plotly dict: ladder, roofline, memory, pipeline or sensitivity.

        Raises:
            ValueError: another kind.
        """
        if kind == "sensitivity":
            return figures.sensitivity_bars(self.sensitivities)
        if kind == "pipeline":
            return gantt.pipeline_gantt(self.blocks or [])
        if kind not in figures.FIGURES:
            known = [*figures.FIGURES, "pipeline", "sensitivity"]
            raise ValueError(f"unknown figure '{kind}'; choose from {', '.join(known)}")
        return figures.figure(self.prediction, kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the prediction, and all that is needed to predict it again."""
        values = self.prediction.to_dict()
        values["notes"] = [*values["notes"], *self.notes]
        return {
            "ridgeline": version(),
            "catalog": catalog.digest(),
            "command": self.command,
            **values,
            "sensitivities": [
                {name: getattr(item, name) for name in ("name", "change", "step_change", "note")}
                for item in self.sensitivities
            ],
            "scenario": saved.scenario_to_dict(self.prediction.scenario),
        }

    def write_report(self, path: str | Path) -> Path:
        """Write the HTML report."""
        return _write_page(path, self, [self.prediction], [])

    def write_trace(self, path: str | Path) -> Path:
        """Write the exact timeline of the step as a Chrome trace."""
        return timelines.write_trace(path, self.prediction)

    def emit(self, framework: str) -> str:
        """The launch file of the plan for ``megatron``, ``torchtitan`` or ``nemo``."""
        from ridgeline.emit import emit  # tables of options, not needed to predict

        return emit(framework, self.prediction.scenario)

    def _repr_html_(self) -> str:
        return report.html(self.prediction)


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The best plans of a search, the front of time against memory, and why other plans are out.

    ``seconds``: of the search; in no text, file or JSON, where the same question gives the same bytes.
    """

    search: PlanSearch
    seconds: float
    notes: tuple[str, ...] = ()
    command: str = ""
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def best(self) -> tuple[TrainingResult, ...]:
        """The best plans, the fastest first."""

        def results() -> tuple[TrainingResult, ...]:
            return tuple(TrainingResult(one, self.notes, self.command) for one in self.search.best)

        return _once(self._memo, "best", results)

    def table(self, width: int = 120) -> str:
        """Headline, best plans, counts, near misses, ladder and what would help, as text."""
        return text.search_text(self.search, self.best[0].sensitivities, self.notes, width=width)

    def figure(self, kind: str = "pareto") -> figures.Figure:
        """A figure as a Plotly dict: pareto, or one of the best plan's (see `TrainingResult.figure`)."""
        if kind == "pareto":
            best = self.search.best[0]
            return figures.pareto(self._points(), PlanPoint.of(best), best.memory_capacity_bytes)
        return self.best[0].figure(kind)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the best plan as in `TrainingResult.to_dict`, the others and the search."""
        values = self.best[0].to_dict()
        scenario = values.pop("scenario")
        search = self.search
        return {
            **values,
            "plans": [_summary(one) for one in search.best],
            "search": {
                "considered": search.considered,
                "legal": search.legal,
                "fit": search.fit,
                "illegal": search.illegal,
                "near_misses": [
                    {
                        "plan": miss.plan.to_dict(),
                        "step_time_s": miss.step_time_s,
                        "needed_bytes": miss.needed_bytes,
                        "largest": miss.largest,
                        "remedy": miss.remedy,
                    }
                    for miss in search.near_misses
                ],
                "pareto": [
                    {"plan": plan.to_dict(), "step_time_s": seconds, "peak_memory_bytes": peak}
                    for plan, seconds, peak in search.pareto
                ],
            },
            "scenario": scenario,
        }

    def write_report(self, path: str | Path) -> Path:
        """Write the HTML report of the best plan, with the others beside it."""
        return _write_page(path, self, self.search.best, self._points())

    def _points(self) -> list[PlanPoint]:
        return [PlanPoint(seconds, peak, plan_label(plan)) for plan, seconds, peak in self.search.pareto]

    def _repr_html_(self) -> str:
        return plan_sheet(self.search.best).html() + self.best[0]._repr_html_()


def _effects(prediction: Prediction) -> list[Sensitivity]:
    return sensitivities(prediction.scenario, predict, prediction)


def _once(memo: dict[str, Any], key: str, make: Callable[[], _Value]) -> _Value:
    if key not in memo:
        memo[key] = make()
    value: _Value = memo[key]
    return value


def _summary(one: Prediction) -> dict[str, Any]:
    values = one.to_dict()
    names = (
        "plan", "step_time_s", "step_time_low_s", "step_time_high_s", "mfu", "tokens_per_s_per_chip",
        "peak_memory_bytes", "fits", "energy_j_per_step", "days",
    )  # fmt: skip
    return {name: values[name] for name in names}


def _write_page(
    path: str | Path,
    result: TrainingResult | PlanResult,
    plans: Sequence[Prediction],
    points: Sequence[PlanPoint],
) -> Path:
    best = result if isinstance(result, TrainingResult) else result.best[0]
    text_of_page = page(
        best.prediction,
        plans=plans,
        pareto=points,
        timeline=best.blocks,
        sensitivities=best.sensitivities,
        command=result.command,
        version=version(),
        catalog_hash=catalog.digest(),
    )
    return files.write(path, saved.embed(text_of_page, result.to_dict()))
