"""Training: predict one run, search its plans, explain a result, validate against measured runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ridgeline import files
from ridgeline.api import arguments
from ridgeline.api.degrees import broken_by_all
from ridgeline.api.effects import without_effect
from ridgeline.api.errors import InputError
from ridgeline.api.overrides import override
from ridgeline.api.request import Request, checked, request, settings_of, whole
from ridgeline.api.results import PlanResult, TrainingResult
from ridgeline.api.saved import read_result, scenario_from_dict
from ridgeline.calibrate.cases import read_cases
from ridgeline.calibrate.scoreboard import Scoreboard
from ridgeline.calibrate.scoreboard import validate as score
from ridgeline.explore.search import PlanSearch, evaluate, legal_plans, search
from ridgeline.explore.space import CHOICES, SEARCHED, Space
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Cluster
from ridgeline.facts.plan import DEGREES, Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.laws import PlanError
from ridgeline.metrics import Prediction
from ridgeline.predict import train as predict

RESULTS = (".json", ".html", ".htm")


def train(
    model: str | Path | Architecture | Scenario, *, on: str | Cluster | Any = None, **question: Any
) -> TrainingResult:
    """Predict one training run; degrees that are not given are searched and the fastest plan is taken.

    Args:
        model: catalog name, ``config.json``, architecture file or value; or a whole `Scenario` with one plan.
        on: cluster or chip, or what `cluster` returned.
        question: ``chips, batch, seq, tokens, kind, plan, stack, recipe, settings`` and fields of `Plan`, as
            `ridgeline.api.request.request` takes them.

    Raises:
        ValueError: something is wrong or nothing fits; the message says what.
    """
    if isinstance(model, Scenario):
        if on is not None or question:
            raise InputError(
                "a Scenario already holds the machine, the job and the plan; change it with replace"
            )
        if not isinstance(model.plan, Plan):
            raise InputError(
                f"plan: one Plan is needed, got a grid of {len(model.plan)}; take one with grid[i]"
            )
        return TrainingResult(predict(model))
    if "top" in question:
        raise InputError(
            f"top = {files.shown(question['top'])}: one plan is predicted; rl.plan gives several"
        )
    return plan(model, on=on, top=1, **question).best[0]


def plan(
    model: str | Path | Architecture,
    *,
    on: str | Cluster | Any = None,
    top: int = 5,
    progress: Callable[[int], None] | None = None,
    command: str = "",
    **question: Any,
) -> PlanResult:
    """Search the plans of a training run. Arguments as for `train`; ``top`` plans are predicted in full."""
    missing = [
        name
        for name, value in (("on", on), *((n, question.get(n)) for n in ("batch", "seq")))
        if value is None
    ]
    if missing:
        raise InputError(f"{', '.join(missing)}: missing; a run needs on, chips, batch and seq")
    return answer(request(model, on=on, **question), top=top, progress=progress, command=command)


def answer(
    asked: Request, *, top: int = 5, progress: Callable[[int], None] | None = None, command: str = ""
) -> PlanResult:
    """Search the plans that a request leaves open.

    Raises:
        PlanError: no plan is legal, or none fits in memory although all degrees were open.
    """
    top = whole("top", top)
    arguments.called("progress", progress)
    start = time.perf_counter()
    found, notes = _found(asked, top, progress)
    unfelt = without_effect(asked.settings, lambda rest: _same(asked, rest, found.best[0]))
    return PlanResult(found, time.perf_counter() - start, (*notes, *unfelt), command)


def _found(
    asked: Request, top: int, progress: Callable[[int], None] | None = None
) -> tuple[PlanSearch, tuple[str, ...]]:
    """The search of a request, and its notes."""
    space, notes = _space(asked), asked.notes
    try:
        return (
            search(
                asked.scenario,
                predict,
                space,
                top=top,
                cross_domain_tp=asked.cross_domain_tp,
                progress=progress,
            ),
            notes,
        )
    except PlanError as error:
        broken = broken_by_all(asked.scenario, space, cross_domain_tp=asked.cross_domain_tp)
        if broken:
            raise PlanError("; ".join(broken)) from None
        nearest = _nearest(asked, space) if any(name in asked.fixed for name in DEGREES) else None
        if nearest is None:
            raise
        # Who gives a plan wants to see it, even where it needs more memory than there is.
        return nearest, (*notes, str(error))


def _same(asked: Request, settings: tuple[str, ...], best: Prediction) -> bool:
    """Whether the question with these settings alone has the same answer, to the last bit.

    The best plan is looked at first, as most settings change its numbers: only where one does not, all plans are.
    """
    assert asked.again is not None
    other = asked.again(settings=settings)
    assert isinstance(best.scenario.plan, Plan)
    alone = predict(other.scenario.replace(plan=best.scenario.plan))
    if other.notes != asked.notes or alone.to_dict() != best.to_dict():
        return False
    return _found(other, 1)[0].best[0].to_dict() == best.to_dict()


def explain(result: TrainingResult | PlanResult | str | Path, settings: Iterable[str] = ()) -> TrainingResult:
    """Predict a result again, from a value or a saved file; ``settings`` change fields first.

    Raises:
        InputError: the file holds no result, or a setting is wrong.
    """
    settings = settings_of(settings)
    if isinstance(result, PlanResult):
        result = result.best[0]
    command = ""
    notes: tuple[str, ...] = ()
    if isinstance(result, TrainingResult):
        scenario, command, notes = result.prediction.scenario, result.command, result.notes
    else:
        arguments.path("result", result, "a result, or the path of a saved one")
        data = read_result(Path(result))
        scenario, notes = scenario_from_dict(data["scenario"], str(result))
        command = str(data.get("command", ""))
    before = scenario
    scenario, fixed = override(before, settings)
    assert isinstance(scenario.plan, Plan)
    if fixed or settings:
        changed = Plan(**(scenario.plan.to_dict() | fixed))
        checked(
            Request(scenario, {name: getattr(changed, name) for name in DEGREES[:8]}, cross_domain_tp=True)
        )
        scenario = scenario.replace(plan=changed)
    prediction = predict(scenario)
    plan = scenario.plan

    def same(rest: tuple[str, ...]) -> bool:
        other = predict(override(before, rest)[0].replace(plan=plan))
        return other.to_dict() == prediction.to_dict()

    return TrainingResult(prediction, (*notes, *without_effect(settings, same)), command)


def validate(
    path: str | Path, limit: int | None = None, progress: Callable[[int, int], None] | None = None
) -> Scoreboard:
    """Predict every measured run of a CSV file and score the predictions.

    Raises:
        CaseError: the file or its header is wrong, or no line can be read.
    """
    arguments.path("path", path, "the path of a table of measured runs")
    limit = None if limit is None else whole("limit", limit)
    arguments.called("progress", progress)
    unread: list[str] = []
    cases = read_cases(path, unread)
    return score(cases, predict, limit=limit, progress=progress, unread=unread)


def _space(asked: Request) -> Space:
    """What is searched: ZeRO only where the stack can choose it."""
    if asked.every:
        return Space(fixed=dict(asked.fixed), searched=dict(CHOICES))
    searched = dict(SEARCHED)
    if asked.scenario.stack.zero == 3:
        searched["zero"] = (3,)
    return Space(fixed=dict(asked.fixed), searched=searched)


def _nearest(asked: Request, space: Space) -> PlanSearch | None:
    """The plan that needs least memory, where none fits; None where none is legal."""
    scenario = asked.scenario
    considered, legal_count, best = 0, 0, None
    for grid in space.grids(scenario):
        considered += len(grid)
        legal, _ = legal_plans(scenario, grid, cross_domain_tp=asked.cross_domain_tp)
        if not len(legal):
            continue
        legal_count += len(legal)
        peak = evaluate(scenario, legal).peak_bytes
        where = int(peak.argmin())
        if best is None or peak[where] < best[0]:
            best = (float(peak[where]), legal[where])
    if best is None:
        return None
    prediction = predict(scenario.replace(plan=best[1]))
    return PlanSearch(
        scenario=scenario,
        best=(prediction,),
        pareto=((best[1], prediction.step_time_s, prediction.peak_memory_bytes),),
        considered=considered,
        legal=legal_count,
        fit=0,
        illegal={},
        near_misses=(),
    )
