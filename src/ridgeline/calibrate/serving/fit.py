"""Numbers of serving engines from measured points of the fit share.

Few physical numbers of each engine, by robust least squares on the logarithm of the time between tokens, and with less
weight on the time to the first token at light load, where it is not a queue. Closed form throughout: hundreds of points
in a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.predicted import static_case, steady_case
from ridgeline.calibrate.serving.run_settings import run_settings
from ridgeline.calibrate.serving.services import service_of
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts.engine import Engine
from ridgeline.facts.serving import Service
from ridgeline.sim.serving.build import step_table

FloatArray = NDArray[np.float64]
Progress = Callable[[int], None]

#: Field, unit in the file, its size in seconds (or 1), lowest and highest value in that unit.
NUMBERS = (
    ("pass_launch", "us", 1e-6, 0.3, 8.0),
    ("casts_apart", "", 1.0, 0.0, 1.0),
    ("gap", "us", 1e-6, 0.0, 6.0),
    ("host_exposed", "ms", 1e-3, 0.0, 4.0),
    ("host_step", "ms", 1e-3, 0.0, 20.0),
    ("host_request", "us", 1e-6, 0.0, 200.0),
    ("host_prefill", "ms", 1e-3, 0.0, 20.0),
    ("host_launch", "us", 1e-6, 1.0, 60.0),
    ("frontend", "ms", 1e-3, 0.0, 120.0),
)
#: Where the fit of an engine without graphs starts a second time: launches that no step waits for have no slope, so a
#: fit that starts with short ones never finds long ones. Units as above.
LAUNCHING = {"gap": 1.0, "pass_launch": 2.0, "host_step": 10.0, "host_launch": 20.0}
#: Weight of the logarithm of TTFT beside that of TPOT, and the most users at which it is no queue.
TTFT_WEIGHT, TTFT_USERS = 0.35, 4
#: Errors beyond this count less than squared.
SOFT = 0.1
MISSING = 1.0


@dataclass(frozen=True, slots=True)
class EngineFit:
    """Fitted numbers of one engine in the units of its file, and how well they hold."""

    engine: str
    numbers: dict[str, float]
    rows: int
    median_abs_err: float
    spread: float  # relative half-width that holds 80 % of the rows


def fit_engines(
    cases: Sequence[ServingCase],
    rounds: int = 6,
    progress: Progress | None = None,
    only: str | None = None,
) -> list[EngineFit]:
    """Fit every engine that points of the fit share (aggregated, quality A and B, no speculation) ran on."""
    pools: dict[str, list[tuple[ServingCase, Service]]] = {}
    for case in cases:
        if (
            case.split != "fit"
            or case.quality not in "AB"
            or case.mode != "aggregated"
            or case.concurrency is None
        ):
            continue
        if case.tpot_s is None or case.speculative != "none":
            continue
        try:
            service = service_of(case)
        except NotPredictable:
            continue
        if only is None or service.engine.name == only:
            pools.setdefault(service.engine.name, []).append((case, service))
    return [_fit(name, pool, rounds, progress) for name, pool in pools.items()]


def _fit(
    name: str, pool: list[tuple[ServingCase, Service]], rounds: int, progress: Progress | None
) -> EngineFit:
    from scipy.optimize import least_squares

    engine = pool[0][1].engine
    free = [row for row in NUMBERS if _matters(row[0], engine, pool)]
    low, high = (np.array([row[i] for row in free]) for i in (3, 4))
    start = np.array([float(getattr(engine, row[0])) / row[2] for row in free])
    starts = [start]
    if not engine.graph_batch:
        starts.append(np.array([LAUNCHING.get(row[0], at) for row, at in zip(free, start, strict=True)]))
    weight = _weights([case for case, _ in pool])

    def changed(values: FloatArray) -> Engine:
        """The engine with other numbers."""
        update = {row[0]: float(value) * row[2] for row, value in zip(free, values, strict=True)}
        return engine.model_copy(update=update)

    def residual(values: FloatArray) -> FloatArray:
        """Weighted logarithms of predicted over measured."""
        if progress is not None:
            progress(1)
        return _errors(pool, changed(values), weight)

    inside = [np.clip(at, low + 1e-3 * (high - low), high - 1e-3 * (high - low)) for at in starts]
    tried = [
        least_squares(
            residual, at, bounds=(low, high), loss="soft_l1", f_scale=SOFT, max_nfev=rounds,
            diff_step=[0.05] * len(free), x_scale=high - low,
        )
        for at in inside
    ]  # fmt: skip
    found = min(tried, key=lambda each: float(each.cost))
    plain = _errors(pool, changed(found.x), np.ones(len(pool)))[: len(pool)]
    size = np.abs(plain)
    return EngineFit(
        engine=name,
        numbers={row[0]: float(value) for row, value in zip(free, found.x, strict=True)},
        rows=len(pool),
        median_abs_err=float(np.median(size)),
        spread=float(np.expm1(np.quantile(size, 0.8))),
    )


def _matters(field: str, engine: Engine, pool: list[tuple[ServingCase, Service]]) -> bool:
    """Whether a number can be told from these points: hidden host time cannot, nor a cast without narrow formats."""
    if field == "host_exposed":
        return engine.host_overlap
    if field in ("host_step", "host_request"):
        return not engine.host_overlap
    if field == "casts_apart":
        return any(service.precision.linear != "bf16" for _, service in pool)
    alone = _first_tokens([case for case, _ in pool])
    if field == "host_prefill":  # one batch from start to end hides what a request that enters costs
        return any(seen and not case.static for seen, (case, _) in zip(alone, pool, strict=True))
    return field not in ("frontend", "host_launch") or bool(alone.any())


def _first_tokens(cases: Sequence[ServingCase]) -> NDArray[np.bool_]:
    """Points whose TTFT is no queue; those of a known client alone, where there are any."""
    light = np.array([bool(case.ttft_s) and (case.concurrency or 0) <= TTFT_USERS for case in cases])
    known = light & np.array([case.client == "inferencex" for case in cases])
    return known if known.any() else light


def _weights(cases: Sequence[ServingCase]) -> FloatArray:
    """Each configuration counts once, each family as the fourth root of its rows."""
    groups, families = [case.group for case in cases], [case.family for case in cases]
    weight = np.array(
        [1.0 / math.sqrt(groups.count(case.group)) / families.count(case.family) ** 0.25 for case in cases]
    )
    return np.asarray(weight / weight.mean())


def _errors(pool: list[tuple[ServingCase, Service]], engine: Engine, weight: FloatArray) -> FloatArray:
    tpot, ttft = np.zeros(len(pool)), np.zeros(len(pool))
    tables: dict[object, object] = {}
    counted = _first_tokens([case for case, _ in pool])
    for i, (case, service) in enumerate(pool):
        assert case.isl is not None
        assert case.osl is not None
        assert case.tpot_s is not None
        key = (
            service.chip.name, id(service.architecture), service.layout, service.precision, service.limits,
            1 << math.ceil(math.log2(case.isl + case.osl)),
        )  # fmt: skip
        table = tables.get(key)
        if table is None:
            table = tables[key] = step_table(service.replace(engine=engine), key[-1])
        try:
            found = (static_case if case.static else steady_case)(case, table).values  # type: ignore[arg-type]
        except ValueError:
            tpot[i] = MISSING
            continue
        tpot[i] = math.log(found["tpot"] / case.tpot_s)
        if counted[i] and case.ttft_s:
            waited = run_settings(case, service.chip).wait_steps(
                case.concurrency or 1, service.layout.dp, case.osl
            )
            ttft[i] = math.log((found["ttft"] + waited * found["tpot"]) / case.ttft_s)
    return np.concatenate([weight * tpot, TTFT_WEIGHT * weight * ttft])
