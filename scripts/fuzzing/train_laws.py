"""Laws of training plans, over random models, machines, stacks, recipes and plans."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from ridgeline.api.overrides import override
from ridgeline.api.request import request
from ridgeline.api.saved import scenario_from_dict, scenario_to_dict
from ridgeline.facts import catalog
from ridgeline.facts.plan import RECOMPUTES, SCHEDULES, Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.laws import PlanError, check_plan
from ridgeline.graph.memory import KINDS
from ridgeline.metrics import Prediction
from ridgeline.predict import train
from ridgeline.sim.step import step

#: Sums of seconds may differ by rounding.
_CLOSE = 1e-9
_LAST_BITS = 1e-12


@dataclass(frozen=True, slots=True)
class Drawn:
    """A legal plan, its prediction, and the words that ask for it."""

    scenario: Scenario
    prediction: Prediction
    words: str


def findings(random: Random) -> Iterator[tuple[str, bool, str, str]]:
    """Every law at one random plan; nothing where the draw is not legal."""
    drawn = draw(random)
    if drawn is None:
        return
    for name, holds, seen in (*laws_of(drawn.prediction), *_grid(drawn), *_round_trip(drawn, random)):
        yield name, holds, seen, drawn.words
    yield from _what_ifs(drawn)


def draw(random: Random) -> Drawn | None:
    """A random plan of a random job; None where no such plan is legal."""
    model, on = random.choice(catalog.names("models")), random.choice(catalog.names("clusters"))
    tp, cp, pp = (
        2 ** random.choice(powers) for powers in ((0, 0, 1, 2, 3), (0, 0, 0, 1, 2), (0, 0, 1, 2, 3, 4))
    )
    schedule = random.choice(SCHEDULES)
    dp, micro = 2 ** random.randrange(9), 2 ** random.choice((0, 0, 1, 2))
    degrees: dict[str, Any] = {
        "tp": tp, "cp": cp, "pp": pp, "dp": dp, "micro_batch": micro, "zero": random.randrange(4), "schedule": schedule,
        "recompute": random.choice(RECOMPUTES), "vpp": 2 if schedule == "interleaved" else 1,
        "ep": random.choice((1, 1, 2, 8)),
    }  # fmt: skip
    job = {
        "chips": tp * cp * pp * dp, "batch": dp * micro * random.choice((1, 2, 8, 16, 64)),
        "seq": 2 ** random.randrange(9, 15), "recipe": random.choice(catalog.names("recipes")),
        "stack": random.choice(catalog.names("stacks")),
    }  # fmt: skip
    try:
        scenario = request(model, on=on, **job, **degrees).scenario.replace(plan=Plan(**degrees))
        check_plan(scenario, strict=True)
        found = train(scenario)
    except (ValueError, PlanError):
        return None
    options = [f"--{name.replace('_', '-')} {value}" for name, value in {**job, **degrees}.items()]
    return Drawn(scenario, found, f"ridgeline train {model} --on {on} {' '.join(options)}")


def laws_of(p: Prediction) -> Iterator[tuple[str, bool, str]]:
    """Laws of one prediction by itself."""
    rungs = [rung.seconds for rung in p.ladder]
    total = math.fsum(rungs)
    yield (
        "step and low end at or above the bound",
        min(p.step_time_s, p.step_time_low_s) >= p.bound_s * (1 - _CLOSE),
        (f"{p.step_time_low_s:g}, {p.step_time_s:g} of {p.bound_s:g} s"),
    )
    yield (
        "MFU and HFU in (0, 1], HFU at least MFU",
        0 < p.mfu <= p.hfu * (1 + _CLOSE) <= 1 + 2 * _CLOSE,
        f"{p.mfu}, {p.hfu}",
    )
    yield (
        "low <= step <= high",
        p.step_time_low_s <= p.step_time_s <= p.step_time_high_s,
        f"{p.step_time_s:g}",
    )
    yield (
        "ladder sums to the step",
        abs(total / p.step_time_s - 1) < _CLOSE,
        f"{total!r} of {p.step_time_s!r}",
    )
    yield (
        "no rung below zero",
        min(rungs) >= -_CLOSE * p.step_time_s,
        f"{min(rungs):g} of {p.step_time_s:g} s",
    )
    exposed = min(p.exposed_s.values(), default=0.0)
    yield "no exposed time below zero", exposed >= 0, f"{exposed:g} s"
    yield "memory from 0 on", min(map(min, p.memory.values())) >= 0, "a kind below zero"
    yield "bubble in [0, 1]", 0 <= p.bubble_share <= 1, f"{p.bubble_share}"
    tdp = p.scenario.chip.tdp
    yield (
        "average power within the chip's",
        p.average_power_w <= tdp * (1 + _CLOSE),
        f"{p.average_power_w:.1f} of {tdp:g} W",
    )
    yield "finite JSON", _finite(p), "NaN or infinite"


def _finite(p: Prediction) -> bool:
    try:
        json.dumps(p.to_dict(), allow_nan=False)
    except ValueError:
        return False
    return True


def _grid(drawn: Drawn) -> Iterator[tuple[str, bool, str]]:
    """A plan among others gives what it gives alone."""
    scenario, plan = drawn.scenario, drawn.scenario.plan
    assert isinstance(plan, Plan)
    beside = [plan]
    for change in ({"micro_batch": 1}, {"ep": 1}, {"micro_batch": 2}):
        other = Plan(**(plan.to_dict() | change))
        try:
            check_plan(scenario.replace(plan=other), strict=True)
        except PlanError:
            continue
        beside.append(other)
    both = step(scenario, PlanGrid.of(beside))
    for i, one in enumerate(beside):
        alone = step(scenario, PlanGrid.of([one]))
        off = abs(float(both.total_s[i] / alone.total_s[0]) - 1.0)
        same = all(np.array_equal(both.memory[kind][:, i], alone.memory[kind][:, 0]) for kind in KINDS)
        yield (
            "a plan in a grid as alone (last bits apart)",
            off < _LAST_BITS and same,
            f"{off:g} off, memory {same}",
        )


def _round_trip(drawn: Drawn, random: Random) -> Iterator[tuple[str, bool, str]]:
    """A saved scenario gives the same prediction; one draw in four, it costs as much as all others."""
    if random.random() < 0.25:
        saved = json.loads(json.dumps(scenario_to_dict(drawn.scenario)))
        again = train(scenario_from_dict(saved, "saved")[0])
        yield "JSON round trip", again.to_dict() == drawn.prediction.to_dict(), f"{again.step_time_s!r}"


def _what_ifs(drawn: Drawn) -> Iterator[tuple[str, bool, str, str]]:
    """Faster hardware is not slower; more work takes no less time and memory."""
    base, scenario = drawn.prediction, drawn.scenario
    for name, settings in _faster(scenario):
        changed = _changed(scenario, settings)
        if changed is not None:
            slower = changed.step_time_s / base.step_time_s - 1.0
            yield f"{name}: not slower", slower <= _CLOSE, f"{slower:+.3%}", _with(drawn.words, settings)
    for name, settings in _more(scenario):
        changed = _changed(scenario, settings)
        if changed is not None:
            gained = changed.step_time_s / base.step_time_s - 1.0
            yield f"{name}: not faster", gained >= -_CLOSE, f"{gained:+.3%}", _with(drawn.words, settings)
            freed = changed.peak_memory_bytes / base.peak_memory_bytes - 1.0
            yield f"{name}: no less memory", freed >= -_CLOSE, f"{freed:+.3%}", _with(drawn.words, settings)


def _faster(scenario: Scenario) -> Iterator[tuple[str, list[str]]]:
    chip, tiers = scenario.chip, scenario.cluster.tiers
    yield "matrix x1.5", [f"chip.matrix.{name}={1.5 * rate!r} FLOP/s" for name, rate in chip.matrix.items()]
    yield "vector x2", [f"chip.vector={2 * chip.vector!r} FLOP/s"]
    yield "memory bandwidth x1.5", [f"chip.memory.bandwidth={1.5 * chip.memory.bandwidth!r} B/s"]
    yield "scale-up bandwidth x2", [f"cluster.tiers.0.bandwidth={2 * tiers[0].bandwidth!r} B/s"]
    yield (
        "scale-out bandwidth x2",
        [f"cluster.tiers.{i}.bandwidth={2 * tiers[i].bandwidth!r} B/s" for i in range(1, len(tiers))],
    )
    yield (
        "latency / 2",
        [f"cluster.tiers.{i}.latency={0.5 * tier.latency!r} s" for i, tier in enumerate(tiers)],
    )


def _more(scenario: Scenario) -> Iterator[tuple[str, list[str]]]:
    arch, job = scenario.architecture, scenario.job
    yield "batch x2", [f"job.batch={2 * job.batch}"]
    yield "sequence x2", [f"job.seq={2 * job.seq}"]
    yield "vocabulary x2", [f"model.vocab={2 * arch.vocab}"]
    if len(arch.layers) == 1:
        yield "layers x2", [f"model.layers.0.count={2 * arch.num_layers}"]


def _changed(scenario: Scenario, settings: list[str]) -> Prediction | None:
    try:
        return train(override(scenario, settings)[0])
    except ValueError:  # such as layers that no longer fill the stages
        return None


def _with(words: str, settings: list[str]) -> str:
    return " ".join([words, *(f"--set {shlex.quote(one)}" for one in settings)])
