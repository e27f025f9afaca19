"""Search: the whole legal space in one vectorised pass of the ordinary step model."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.explore.space import Space
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.laws import PlanError, rules
from ridgeline.graph.memory import KINDS
from ridgeline.graph.ops import FloatArray
from ridgeline.metrics import Prediction
from ridgeline.sim.step import step

CHUNK = 16384  # plans evaluated at a time: temporaries stay in cache
NEAR = 1.25  # needed memory over capacity up to which a plan that does not fit is a near miss


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A fast plan that does not fit in memory: what it lacks."""

    plan: Plan
    step_time_s: float
    needed_bytes: float
    largest: str  # memory kind that takes most
    remedy: str


@dataclass(frozen=True, slots=True)
class PlanSearch:
    """Best plans of a job on a machine, the Pareto front of time against memory, and why others are out."""

    scenario: Scenario
    best: tuple[Prediction, ...]
    pareto: tuple[tuple[Plan, float, float], ...]  # plan, step seconds, peak bytes
    considered: int
    legal: int
    fit: int
    illegal: dict[str, int]  # rule -> plans it rules out
    near_misses: tuple[NearMiss, ...]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Plans of one structure with what the search compares, each ``[plans]``."""

    grid: PlanGrid
    step_s: FloatArray
    peak_bytes: FloatArray  # of the fullest stage


def search(
    scenario: Scenario,
    train: Callable[[Scenario], Prediction],
    space: Space | None = None,
    *,
    top: int = 5,
    cross_domain_tp: bool = False,
    progress: Callable[[int], None] | None = None,
) -> PlanSearch:
    """Evaluate every plan of ``space`` and return the best ``top``, each predicted in full by ``train``.

    ``cross_domain_tp`` lets tensor parallelism span scale-up domains.

    Raises:
        PlanError: no plan is legal, or none fits in memory; the message counts the reasons.
    """
    chosen = space or Space()
    considered = 0
    reasons: Counter[str] = Counter()
    evaluated: list[Evaluated] = []
    for candidates, legal, broken in legal_grids(scenario, chosen, cross_domain_tp=cross_domain_tp):
        considered += candidates
        reasons.update(broken)
        for start in range(0, len(legal), CHUNK):
            part = legal.take(np.arange(start, min(start + CHUNK, len(legal))))
            evaluated.append(evaluate(scenario, part))
            if progress:
                progress(len(part))
    if not evaluated:
        raise PlanError(_nothing_legal(scenario, considered, reasons))
    capacity = scenario.chip.memory.capacity
    seconds = np.concatenate([part.step_s for part in evaluated])
    peak = np.concatenate([part.peak_bytes for part in evaluated])
    owner = np.repeat(np.arange(len(evaluated)), [len(part.grid) for part in evaluated])
    offset = np.concatenate([[0], np.cumsum([len(part.grid) for part in evaluated])])

    def plan_at(index: int) -> Plan:
        """The plan at ``index`` of all parts one after another."""
        part = int(owner[index])
        return evaluated[part].grid[int(index - offset[part])]

    fits = peak <= capacity
    order = np.argsort(seconds, kind="stable")
    fitting = order[fits[order]]
    misses = tuple(
        _near_miss(scenario, plan_at(int(i)), float(seconds[i]), float(peak[i]))
        for i in _misses(order, fits, peak, capacity)
    )
    if not fitting.size:
        raise PlanError(_nothing_fits(scenario, len(seconds), misses))
    best = tuple(train(scenario.replace(plan=plan_at(int(i)))) for i in fitting[:top])
    front = _pareto(seconds, peak, fitting)
    return PlanSearch(
        scenario=scenario,
        best=best,
        pareto=tuple((plan_at(int(i)), float(seconds[i]), float(peak[i])) for i in front),
        considered=considered,
        legal=int(seconds.size),
        fit=int(fitting.size),
        illegal=dict(reasons),
        near_misses=misses,
    )


def legal_grids(
    scenario: Scenario, space: Space, *, cross_domain_tp: bool = False
) -> Iterator[tuple[int, PlanGrid, dict[str, int]]]:
    """Per structure of ``space``: candidates, the legal ones, and how many each rule turned away.

    Legality depends on the degrees and the schedule; structures that share both share the answer.
    """
    known: dict[tuple[int, str], tuple[NDArray[np.int64], dict[str, int]]] = {}
    kept = []  # the grids whose ids are keys
    for grid in space.grids(scenario):
        key = (id(grid.tp), grid.schedule)
        if key not in known:
            known[key] = _legality(scenario, grid, cross_domain_tp)
            kept.append(grid)
        rows, counts = known[key]
        yield len(grid), grid.take(rows), counts


def legal_plans(
    scenario: Scenario, grid: PlanGrid, *, cross_domain_tp: bool = False
) -> tuple[PlanGrid, dict[str, int]]:
    """The legal rows of ``grid`` and how many rows each rule turned away."""
    rows, counts = _legality(scenario, grid, cross_domain_tp)
    return grid.take(rows), counts


def _legality(
    scenario: Scenario, grid: PlanGrid, cross_domain_tp: bool
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Indices of the legal rows, and how many rows each rule turned away."""
    broken = np.zeros(len(grid), dtype=bool)
    counts = {}
    for rule in rules(
        scenario.architecture, scenario.job, scenario.cluster, scenario.num_chips, grid,
        cross_domain_tp=cross_domain_tp,
    ):  # fmt: skip
        hit = np.broadcast_to(rule.broken, broken.shape)
        if hit.any():
            counts[rule.name] = int(hit.sum())
            broken |= hit
    return np.flatnonzero(~broken), counts


def evaluate(scenario: Scenario, grid: PlanGrid) -> Evaluated:
    """Step time [s] and peak memory [B] of every plan of ``grid``: the ordinary step, nothing left out."""
    result = step(scenario, grid)
    total = sum(result.memory[kind] for kind in KINDS)
    return Evaluated(grid, result.total_s, np.asarray(total).max(axis=0))


def _pareto(seconds: FloatArray, peak: FloatArray, fitting: NDArray[np.int64]) -> list[int]:
    """Indices of plans that no other beats in both time and memory, fastest first."""
    front: list[int] = []
    least = np.inf
    for i in fitting:
        if peak[i] < least * (1.0 - 1e-9):
            front.append(int(i))
            least = float(peak[i])
    return front


def _misses(
    order: NDArray[np.int64],
    fits: NDArray[np.bool_],
    peak: FloatArray,
    capacity: float,
) -> list[int]:
    """The three fastest of the plans that lack at most a quarter of the memory."""
    near = order[(~fits[order]) & (peak[order] < NEAR * capacity)]
    return [int(i) for i in near[:3]]


def _near_miss(scenario: Scenario, plan: Plan, seconds: float, needed: float) -> NearMiss:
    result = step(scenario, PlanGrid.of([plan]))
    stage = np.asarray(sum(result.memory[kind] for kind in KINDS))[:, 0].argmax()
    parts = {kind: float(result.memory[kind][stage, 0]) for kind in KINDS}
    return NearMiss(plan, seconds, needed, max(parts, key=lambda kind: parts[kind]), _remedy(scenario, plan))


def _remedy(scenario: Scenario, plan: Plan) -> str:
    """The smallest change that makes a plan fit, tried in order of cost."""
    tries: list[tuple[str, dict[str, object]]] = []
    if plan.recompute == "none":
        tries += [("selective recompute", {"recompute": "selective"})]
        tries += [
            (f"full recompute of {k} layers a stage", {"recompute": "full", "recompute_layers": k})
            for k in (1, 2, 4, 8)
        ]
    if plan.recompute != "full":
        tries += [("full recompute", {"recompute": "full"})]
    for factor in (2, 4):
        if plan.dp % factor == 0:
            tries.append((f"cp {plan.cp * factor}", {"cp": plan.cp * factor, "dp": plan.dp // factor}))
    if plan.micro_batch > 1:
        tries.append((f"micro-batch {plan.micro_batch // 2}", {"micro_batch": plan.micro_batch // 2}))
    for text, change in tries:
        other = dataclasses.replace(plan, **change)  # type: ignore[arg-type]
        legal, _ = legal_plans(scenario, PlanGrid.of([other]))
        if len(legal) and evaluate(scenario, legal).peak_bytes[0] <= scenario.chip.memory.capacity:
            return text
    return "more chips or a smaller model per chip"


def _nothing_legal(scenario: Scenario, considered: int, reasons: Counter[str]) -> str:
    ruled = ", ".join(f"{name} ({count:,})" for name, count in reasons.most_common(4))
    return (
        f"no legal plan for {scenario.architecture.name} with batch {scenario.job.batch} on {scenario.num_chips} "
        f"chips; of {considered:,} considered, ruled out by: {ruled or 'degrees that do not multiply to the chips'}"
    )


def _nothing_fits(scenario: Scenario, legal: int, misses: tuple[NearMiss, ...]) -> str:
    text = (
        f"none of {legal:,} legal plans fits in {scenario.chip.memory.capacity / 1e9:.0f} GB of "
        f"{scenario.chip.title}"
    )
    if misses:
        text += (
            f"; the closest fast one needs {misses[0].needed_bytes / 1e9:.1f} GB, mostly {misses[0].largest}"
        )
    return text + "; add chips, recompute or offload"
