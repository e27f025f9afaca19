"""Timeline: every step of some seconds of a simulation, one by one.

The same simulation runs again, with spans of one step, and stops where the window ends; a step is noted as it ends.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.drive import Drive
from ridgeline.sim.serving.engine import Engine, Settings, new_engine
from ridgeline.sim.serving.fleet import Fleet
from ridgeline.sim.serving.outcome import Outcome
from ridgeline.sim.serving.simulate import FIRST_SAMPLE_S, SAMPLES, check_requests, next_event_s
from ridgeline.sim.serving.state import SPAN, STEP, new_requests
from ridgeline.sim.serving.table import StepTable

#: Steps of one window: beyond, each is narrower than a pixel.
MOST_STEPS = 6000


@dataclass(frozen=True, slots=True)
class Step:
    """One step: of which replica (prefill replicas after those that decode) and unit, what ran in it."""

    replica: int
    unit: int
    start_s: float
    end_s: float
    decodes: int  # requests
    prefills: int  # chunks of prompts
    tokens: int

    @property
    def kind(self) -> str:
        return "mixed" if self.decodes and self.prefills else "prefill" if self.prefills else "decode"


def busy_window(outcome: Outcome, seconds: float = 1.0) -> tuple[float, float]:
    """The ``seconds`` that begin at the median instant of those with the most requests running and waiting [s].

    A third of all instants counts as busy, so that a lone burst does not stand for the whole run.
    """
    load = outcome.running + outcome.waiting
    busy = np.flatnonzero(load >= np.quantile(load, 2.0 / 3.0)) if load.size else np.zeros(0, np.int64)
    start = float(outcome.times_s[busy[len(busy) // 2]]) if busy.size else 0.0
    start = max(min(start, outcome.end_s - seconds), 0.0)
    return start, start + seconds


def engine_steps(
    requests: Requests,
    table: StepTable,
    window: tuple[float, float],
    settings: Settings | None = None,
    *,
    seed: int = 0,
) -> list[Step]:
    """Steps of one engine that overlap ``window`` [s], as `simulate` would make them; at most `MOST_STEPS`."""
    from ridgeline.sim.serving import loop

    check_requests(requests)
    single = dataclasses.replace(settings or Settings(), max_span=1)
    engine = new_engine(
        requests, new_requests(requests), table, single, seed=seed, samples=SAMPLES, sample_s=FIRST_SAMPLE_S
    )
    found: list[Step] = []
    loop.run(engine.state, engine.table, float(np.nextafter(window[0], -math.inf)))
    while (now := next_event_s(engine)) < math.inf and now <= window[1] and len(found) < MOST_STEPS:
        found += [step for step in _steps(engine, 0) if step.end_s == now]
        loop.run(engine.state, engine.table, now)
    return found + [step for step in _steps(engine, 0) if step.start_s < window[1]]


def fleet_steps(
    requests: Requests, fleet: Fleet, window: tuple[float, float], *, seed: int = 0
) -> list[Step]:
    """The same of a fleet, as `simulate_fleet` would make them."""
    single = dataclasses.replace(fleet, settings=dataclasses.replace(fleet.settings, max_span=1))
    check_requests(requests)
    single.check()
    drive = _Watched(requests, single, seed)
    drive.window = window
    drive.run()
    under_way = [step for r, engine in enumerate(drive.engines) for step in _steps(engine, r)]
    return drive.found + [step for step in under_way if step.start_s < window[1]]


class _Watched(Drive):
    """A drive that notes the steps of a window, and ends with it."""

    window = (0.0, math.inf)

    def __init__(self, requests: Requests, fleet: Fleet, seed: int) -> None:
        super().__init__(requests, fleet, seed)
        self.found: list[Step] = []

    def advance(self, r: int, until: float) -> float:
        engine = self.engines[r]
        end_s = self.ends[r]
        if end_s < self.window[0]:
            until = min(until, float(np.nextafter(self.window[0], -math.inf)))
            return super().advance(r, until)
        self.found += [step for step in _steps(engine, r) if step.end_s == end_s]
        return super().advance(r, end_s)

    def over_at(self) -> float:
        """Nothing later is of interest."""
        full = len(self.found) >= MOST_STEPS
        return -math.inf if full else self.window[1]


def _steps(engine: Engine, replica: int) -> Iterator[Step]:
    """The step that each unit of an engine is in."""
    units: Any = engine.arrays["units"]
    lanes: Any = engine.arrays["lanes"]
    per_unit = int(engine.table["lanes_per_unit"])
    for u, unit in enumerate(units):
        if unit["kind"] not in (SPAN, STEP):
            continue
        mine = lanes[u * per_unit : (u + 1) * per_unit]
        yield Step(
            replica=replica,
            unit=u,
            start_s=float(unit["start_s"]),
            end_s=float(unit["end_s"]),
            decodes=int(mine["decoding"][mine["decodes"] > 0].sum()),
            prefills=int(mine["chunks"].sum()),
            tokens=int(mine["tokens"].sum()),
        )
