"""Scoreboard: every measured run beside its prediction, and what the whole says about the predictor.

The predictor is an argument, so this floor knows nothing of how a prediction is made. A run whose row leaves
a field open is predicted under every plausible value: whoever publishes a run has tuned it, so the fastest
value that fits in memory is taken, and the spread of all that fit and are nearly as fast widens the interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.calibrate import checks, reporting
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.nulls import ConstantMfu, NearestNeighbours
from ridgeline.calibrate.refusals import refusal
from ridgeline.calibrate.scenarios import LEEWAY, NotPredictable, scenarios_of
from ridgeline.calibrate.scores import Score, by, finite, score
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.metrics import Prediction

Predict = Callable[[Scenario], Prediction]
Progress = Callable[[int, int], None]

HEADLINE = ("A", "B")
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Row:
    """One measured run and what was predicted for it; times in seconds per step, NaN where not predicted."""

    case: Case
    status: str  # "ok" or "not predicted: reason"
    predicted_s: float = NAN
    low_s: float = NAN
    high_s: float = NAN
    peak_memory_bytes: float = NAN
    allocated_bytes: float = (
        NAN  # of it, what the allocator counts: the reserve apart, on the rank that was measured
    )
    fits: bool = False
    stack: str = ""
    candidates: int = 0  # scenarios tried because fields were open
    constant_mfu_s: float = NAN
    neighbour_s: float = NAN

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def rel_err(self) -> float:
        """Predicted over measured step time, less 1."""
        return self.predicted_s / self.case.step_time_s - 1.0

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {
            "id": self.case.id,
            "measured": self.case.step_time_s,
            "predicted": finite(self.predicted_s),
            "rel_err": finite(self.rel_err),
            "status": self.status,
            "low": finite(self.low_s),
            "high": finite(self.high_s),
            "quality": self.case.quality,
            "split": self.case.split,
            "source": self.case.source,
            "model": self.case.model,
            "chip": self.case.chip,
            "num_chips": self.case.num_chips,
            "stack": self.stack,
            "candidates": self.candidates,
            "peak_memory_bytes": finite(self.peak_memory_bytes),
            "measured_peak_memory_bytes": self.case.peak_memory_bytes,
            "fits": self.fits if self.ok else None,
        }


@dataclass(frozen=True, slots=True)
class Part:
    """One slice of the rows: the score of the predictor and of the two predictors without physics."""

    model: Score
    constant_mfu: Score
    neighbour: Score

    def to_dict(self) -> dict[str, Any]:
        """The slice as plain JSON values."""
        nulls = {"constant_mfu": self.constant_mfu.to_dict(), "nearest_neighbour": self.neighbour.to_dict()}
        return {**self.model.to_dict(), **nulls}


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory: how many runs are judged to fit (all of them did), and the error where it was measured."""

    judged: int
    fits: float | None  # share of the predicted runs
    n: int
    median_abs_err: float | None
    bias: float | None


@dataclass(frozen=True, slots=True)
class Scoreboard:
    """All rows; scores are computed when asked for. The headline counts quality A and B."""

    rows: tuple[Row, ...]
    unread: tuple[str, ...] = ()  # lines of the file that could not be read, each with its reason

    @property
    def headline(self) -> tuple[Row, ...]:
        """Rows of quality A and B; all rows where there are none."""
        return tuple(row for row in self.rows if row.case.quality in HEADLINE) or self.rows

    @property
    def rough(self) -> tuple[Row, ...]:
        """Rows of quality C, where some are better."""
        counted = {id(row) for row in self.headline}
        return tuple(row for row in self.rows if id(row) not in counted)

    def part(self, rows: Sequence[Row] | None = None) -> Part:
        """Score of ``rows`` (default: the headline rows)."""
        rows = self.headline if rows is None else rows
        measured = [row.case.step_time_s for row in rows]
        families = [row.case.family or row.case.model for row in rows]
        work = [row.case.tokens / row.case.num_chips for row in rows]
        low, high = [row.low_s for row in rows], [row.high_s for row in rows]
        predicted = [row.predicted_s for row in rows]
        mfu, neighbour = [row.constant_mfu_s for row in rows], [row.neighbour_s for row in rows]
        return Part(
            score(measured, predicted, low=low, high=high, families=families, work=work),
            score(measured, mfu, families=families, work=work),
            score(measured, neighbour, families=families, work=work),
        )

    def slices(self, field: str) -> dict[str, Part]:
        """Scores by ``split``, ``chip``, ``model``, ``framework``, ``source`` or another field of `Case`."""
        rows = self.headline
        keys = [row.stack if field == "stack" else str(getattr(row.case, field)) for row in rows]
        return {key: self.part(part) for key, part in by(rows, keys).items()}

    def worst(self, count: int = 10) -> list[Row]:
        """The predicted headline rows that are furthest off, by the logarithm of predicted over measured."""
        rows = [row for row in self.headline if row.ok]
        return sorted(rows, key=lambda row: -abs(float(np.log1p(row.rel_err))))[:count]

    def failures(self) -> Counter[str]:
        """How many rows were not predicted, by reason."""
        return Counter(row.status.removeprefix("not predicted: ") for row in self.rows if not row.ok)

    def memory(self) -> Memory:
        """Memory of the headline rows."""
        ok = [row for row in self.headline if row.ok]
        errors = [
            row.allocated_bytes / row.case.peak_memory_bytes - 1.0 for row in ok if row.case.peak_memory_bytes
        ]
        return Memory(
            judged=len(ok),
            fits=float(np.mean([row.fits for row in ok])) if ok else None,
            n=len(errors),
            median_abs_err=float(np.median(np.abs(errors))) if errors else None,
            bias=float(np.median(errors)) if errors else None,
        )

    def rankings(self) -> list[checks.Ranking]:
        """How well plans of one job are ranked, for every job with five or more measured plans."""
        ok = [row for row in self.headline if row.ok]
        return checks.rankings([row.case for row in ok], [row.predicted_s for row in ok])

    def laws(self) -> list[checks.Law]:
        """Measured and predicted slope and intercept of the step time over the number of micro-batches."""
        ok = [row for row in self.headline if row.ok]
        return checks.laws([row.case for row in ok], [row.predicted_s for row in ok])

    def to_dict(self) -> dict[str, Any]:
        """The scoreboard as plain JSON values."""
        total = self.part()
        rough = self.rough
        memory = self.memory()
        return {
            "n": len(self.rows),
            "covered": sum(row.ok for row in self.rows),
            "median_abs_err": total.model.median_abs_err,
            "p90_abs_err": total.model.p90_abs_err,
            "bias": total.model.bias,
            "rows": [row.to_dict() for row in self.rows],
            "headline": {"quality": list(HEADLINE), **total.to_dict()},
            "quality_c": self.part(rough).to_dict() if rough else None,
            **{
                f"by_{name}": {key: part.to_dict() for key, part in self.slices(name).items()}
                for name in ("split", "chip", "model", "framework", "source", "stack")
            },
            "memory": {name: getattr(memory, name) for name in memory.__dataclass_fields__},
            "rankings": [ranking.to_dict() for ranking in self.rankings()],
            "laws": [law.to_dict() for law in self.laws()],
            "not_predicted": dict(self.failures()),
            "unread": list(self.unread),
        }

    def table(self, width: int = 110) -> str:
        """The scoreboard as text tables."""
        from ridgeline.calibrate.scoreboard_text import text  # rich is imported only when text is asked for

        return text(self, width)


def validate(
    cases: Sequence[Case],
    predict: Predict,
    *,
    limit: int | None = None,
    progress: Progress | None = None,
    unread: Sequence[str] = (),
) -> Scoreboard:
    """Predict every case and score the result.

    Args:
        cases: measured runs; the two predictors without physics learn from those of split ``fit``.
        predict: Scenario to Prediction; whatever it raises is a row not predicted, with its reason.
        limit: at most this many rows, spread evenly over the file.
        progress: called with (rows done, rows in all).
        unread: lines of the file that could not be read, which the scoreboard counts.
    """
    chosen = list(cases)
    if limit is not None and limit < len(chosen):
        chosen = [chosen[i] for i in np.linspace(0, len(chosen) - 1, max(1, limit)).astype(int)]
    mfu, neighbours = ConstantMfu.fit(cases), NearestNeighbours.fit(cases)
    once = _remembered(predict)
    rows = []
    for done, case in enumerate(chosen, start=1):
        rows.append(_row(case, once, mfu(case), neighbours(case)))
        if progress is not None:
            progress(done, len(chosen))
    return Scoreboard(tuple(rows), tuple(unread))


def _remembered(predict: Predict) -> Predict:
    """``predict`` that answers a scenario it has seen from memory: many published runs are repeats."""
    seen: dict[Hashable, Prediction] = {}

    def answer(scenario: Scenario) -> Prediction:
        """The prediction of ``scenario``, made once; what only names or explains it does not tell scenarios apart."""
        plan = scenario.plan
        assert isinstance(plan, Plan)
        values = (scenario.architecture, scenario.cluster, scenario.job, scenario.recipe)
        names = (scenario.chip.name, scenario.stack.name, scenario.num_chips, plan)
        key = (*names, *(value.model_dump_json(exclude={"source", "title"}) for value in values))
        if key not in seen:
            seen[key] = predict(scenario)
        return seen[key]

    return answer


def _row(case: Case, predict: Predict, mfu_s: float | None, neighbour_s: float | None) -> Row:
    nulls: dict[str, Any] = {
        "constant_mfu_s": NAN if mfu_s is None else mfu_s,
        "neighbour_s": NAN if neighbour_s is None else neighbour_s,
    }
    try:
        found = predict_case(case, predict)
    except Exception as error:  # one row never stops the others
        return Row(case, f"not predicted: {refusal(error)}", **nulls)
    best = found.best
    if not (np.isfinite(best.step_time_s) and best.step_time_s > 0):
        return Row(case, f"not predicted: step time {best.step_time_s} s", **nulls)
    return Row(
        case,
        "ok",
        predicted_s=best.step_time_s,
        low_s=found.low_s,
        high_s=found.high_s,
        peak_memory_bytes=best.peak_memory_bytes,
        allocated_bytes=allocated_bytes(case, best),
        fits=best.fits,
        stack=best.scenario.stack.name,
        candidates=found.tried,
        **nulls,
    )


def allocated_bytes(case: Case, prediction: Prediction) -> float:
    """Bytes that an allocator reports as its peak: all kinds but the reserve, on the stage that was measured."""
    kinds = [stages for kind, stages in prediction.memory.items() if kind != "reserve"]
    return reporting.allocated_bytes(case, [sum(stage) for stage in zip(*kinds, strict=True)])


@dataclass(frozen=True, slots=True)
class Found:
    """The prediction that stands for a case, and the interval over all plausible ones [s]."""

    best: Prediction
    low_s: float
    high_s: float
    tried: int


def predict_case(case: Case, predict: Predict) -> Found:
    """Predict ``case`` under every plausible value of what it leaves open, and choose.

    Raises:
        ValueError: no scenario can be built.
        Exception: none can be predicted; whatever the first one raised.
    """
    predictions: list[Prediction] = []
    first_error: Exception | None = None
    scenarios = scenarios_of(case)
    for scenario in scenarios:
        try:
            predictions.append(predict(scenario))
        except Exception as error:  # a plan that cannot be predicted leaves the others
            first_error = first_error or error
    if not predictions:
        raise first_error or NotPredictable("no plausible plan")
    fitting = [one for one in predictions if one.peak_memory_bytes <= LEEWAY * one.memory_capacity_bytes]
    if not fitting:  # the run did fit: the candidate that needs least memory is the nearest to it
        fitting = [min(predictions, key=lambda one: one.peak_memory_bytes)]
    best = min(fitting, key=lambda one: one.step_time_s)
    # who tunes a run may miss its best plan by what a prediction cannot tell apart, not by more
    near = [one for one in fitting if one.step_time_s <= best.step_time_high_s]
    return Found(
        best=best,
        low_s=min(one.step_time_low_s for one in near),
        high_s=max(one.step_time_high_s for one in near),
        tried=len(scenarios),
    )
