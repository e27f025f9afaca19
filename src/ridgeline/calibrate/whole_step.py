"""Fit what only whole steps can show: two numbers per chip and a few per stack, on the fit share of measured runs.

`ridgeline calibrate steps` runs it.

Chips: how hard the power cap bites (`boost_energy`) and the in-situ factor. Stacks: memory passes of elementwise
operators, host time per kernel, fixed time per step, attention kernel. Rows count once per family, errors are
logarithmic and robust, and every number is held near its physical prior, so that a handful of rows cannot bend it.
No parameter is tied to a model, a size or a row.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from ridgeline import files
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.scenarios import LEEWAY, NotPredictable, scenarios_of
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Moe
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.step_calibration import IN_SITU_LIMITS
from ridgeline.graph.memory import KINDS
from ridgeline.sim.step import step

#: A chip or stack informed by fewer rows keeps its relative's or parent's numbers.
LEAST_ROWS = 8
#: Errors beyond this [log] count linearly: a row that is wrong for another reason does not rule the fit.
HUBER = 0.12
#: Passes over all knobs; each tries values half as far from the current ones as the pass before.
SWEEPS = 4


@dataclass(frozen=True, slots=True)
class Knob:
    """One number that may be fitted: its physical range, what is expected of it and how firmly."""

    name: str  # the field of `StepCalibration` or `Stack`; low, high and expected in its unit
    low: float
    high: float
    expected: float
    spread: float  # standard deviation of the prior of the logarithm

    def penalty(self, value: float) -> float:
        """Squared distance from the expected value in spreads."""
        return (math.log(value / self.expected) / self.spread) ** 2


CHIP_KNOBS = (
    Knob("boost_energy", 1.0, 4.0, 2.0, 0.4),
    Knob("in_situ", *IN_SITU_LIMITS, 1.05, 0.05),
)
STACK_KNOBS = (
    Knob("elementwise_passes", 0.8, 4.0, 1.4, 0.4),
    Knob("softmax_passes", 3.0, 16.0, 6.0, 0.3),
    Knob("host", 0.5e-6, 80e-6, 8e-6, 0.9),
    Knob("hand_over", 1e-5, 5e-3, 3e-4, 1.0),
    Knob("step_fixed", 1e-3, 0.5, 0.03, 1.0),
    Knob("contention", 0.05, 0.5, 0.19, 0.3),
    Knob("jitter", 0.005, 0.15, 0.05, 0.5),
    Knob("attention_share", 0.3, 1.0, 0.9, 0.3),
    Knob("attention_share_newer", 0.2, 1.0, 0.8, 0.4),
)


@dataclass(slots=True)
class Row:
    """One measured step and its scenario."""

    case: Case
    scenario: Scenario
    chip: str  # whose step calibration it reads
    stack: str  # whose fitted numbers it reads
    weight: float = 1.0  # in the cost of the fit: one over the root of its family's rows


@dataclass(slots=True)
class Fit:
    """Current values: (kind, name of chip or stack, knob) -> value."""

    rows: Sequence[Row]
    values: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def scenario(self, row: Row) -> Scenario:
        """The row's scenario with the current values laid over it."""
        known, stack = row.scenario.calibration, row.scenario.stack
        steps = known.steps.model_copy(update=self._of("chip", row.chip, CHIP_KNOBS))
        fitted = self._of("stack", row.stack, STACK_KNOBS)
        return row.scenario.replace(
            calibration=Calibration(known.kernels, known.links, steps),
            stack=stack.model_copy(update=fitted) if fitted else stack,
        )

    def _of(self, kind: str, name: str, knobs: Sequence[Knob]) -> dict[str, float]:
        """Current values of one chip or stack by knob, as far as they are fitted."""
        keys = {knob.name: (kind, name, knob.name) for knob in knobs}
        return {knob: self.values[key] for knob, key in keys.items() if key in self.values}

    def error(self, row: Row) -> float:
        """Natural logarithm of predicted over measured step time."""
        scenario = self.scenario(row)
        assert isinstance(scenario.plan, Plan)
        seconds = float(step(scenario, PlanGrid.of([scenario.plan])).total_s[0])
        return math.log(seconds / row.case.step_time_s)


def collect(cases: Sequence[Case]) -> list[Row]:
    """Rows of quality A and B in the fit share that can be predicted, each family weighing as the root of its size."""
    rows = []
    for case in cases:
        if case.split != "fit" or case.quality not in ("A", "B"):
            continue
        try:
            scenario = chosen(scenarios_of(case))
        except NotPredictable:
            continue
        # a stack without numbers of its own reads its parent's, and its rows inform those
        stack = catalog.stating("stacks", scenario.stack.name, STACK_KNOBS[0].name)
        rows.append(Row(case, scenario, catalog.donor(scenario.chip.name, "steps"), stack))
    sizes = Counter(row.case.family for row in rows)
    for row in rows:
        row.weight = 1.0 / math.sqrt(sizes[row.case.family])
    return rows


def chosen(scenarios: Sequence[Scenario]) -> Scenario:
    """Of the plausible scenarios of one run the fastest that fits in memory, else the lightest: as when scoring."""
    if len(scenarios) == 1:
        return scenarios[0]
    outcomes = []
    for scenario in scenarios:
        assert isinstance(scenario.plan, Plan)
        result = step(scenario, PlanGrid.of([scenario.plan]))
        peak = float(np.max(sum(result.memory[kind] for kind in KINDS)))
        outcomes.append((float(result.total_s[0]), peak, scenario))
    fitting = [one for one in outcomes if one[1] <= LEEWAY * one[2].chip.memory.capacity]
    if fitting:
        return min(fitting, key=lambda one: one[0])[2]
    return min(outcomes, key=lambda one: one[1])[2]


def fit(rows: Sequence[Row], progress: Callable[[str], None] = print) -> Fit:
    """Coordinate descent over all knobs of chips and stacks with enough rows.

    Numbers come from dense models where a chip or stack has enough of them: steps of experts have costs that no
    number names (uneven routing, waits on token counts), and would be read as a chip or a stack that is slower than
    it is.
    """
    result = Fit(rows)
    groups: list[tuple[str, str, Knob, list[Row]]] = []
    for kind, knobs, key in (("chip", CHIP_KNOBS, "chip"), ("stack", STACK_KNOBS, "stack")):
        members: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            members[getattr(row, key)].append(row)
        for name, group in members.items():
            group = informing(group)
            if len(group) >= LEAST_ROWS:
                groups += [(kind, name, knob, group) for knob in knobs if _applies(kind, name, knob)]
    for kind, name, knob, group in groups:
        first = group[0].scenario
        source = first.calibration.steps if kind == "chip" else first.stack
        result.values[(kind, name, knob.name)] = min(
            max(float(getattr(source, knob.name)), knob.low), knob.high
        )
    for sweep in range(SWEEPS):
        width = 0.5**sweep
        for kind, name, knob, group in groups:
            _improve(result, (kind, name, knob.name), knob, group, width)
        errors = np.expm1([result.error(row) for row in rows])
        progress(
            f"sweep {sweep + 1}: median |error| {np.median(abs(errors)):.4f}, bias {np.median(errors):+.4f}"
        )
    return result


def informing(group: Sequence[Row]) -> list[Row]:
    """The rows of a chip or stack that its numbers are fitted on."""
    dense = [
        row
        for row in group
        if not any(isinstance(layer.mlp, Moe) for layer in row.scenario.architecture.layers)
    ]
    return dense if len(dense) >= LEAST_ROWS else list(group)


def _applies(kind: str, name: str, knob: Knob) -> bool:
    """Softmax passes, attention shares, blocking hand-overs and contention are fitted where the stack has them."""
    if kind == "chip":
        return True
    stack = catalog.stack(name)
    value = float(getattr(stack, knob.name))
    if knob.name == "softmax_passes":
        return stack.attention == "unfused"
    if knob.name.startswith("attention"):
        return value < 1.0
    return knob.name not in ("hand_over", "contention") or value > 0.0


def _improve(result: Fit, key: tuple[str, str, str], knob: Knob, group: Sequence[Row], width: float) -> None:
    """Try values around the current one and keep the best."""
    centre = result.values[key]
    reach = (knob.high / knob.low) ** (0.35 * width)
    tried = sorted(
        {min(max(centre * reach**f, knob.low), knob.high) for f in (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)}
    )
    costs = []
    for value in tried:
        result.values[key] = value
        costs.append(
            sum(row.weight * _loss(result.error(row)) for row in group) + 0.5 * HUBER**2 * knob.penalty(value)
        )
    result.values[key] = tried[int(np.argmin(costs))]


def _loss(error: float) -> float:
    """Huber loss."""
    size = abs(error)
    return 0.5 * size * size if size < HUBER else HUBER * (size - 0.5 * HUBER)


def write(result: Fit, directory: Path) -> list[Path]:
    """Write fitted numbers into the catalog files under ``directory``; everything else in them stays."""
    written = []
    for kind, name in sorted({(kind, name) for kind, name, _ in result.values}):
        values = {knob: value for (k, n, knob), value in result.values.items() if (k, n) == (kind, name)}
        group = [row for row in result.rows if (row.chip if kind == "chip" else row.stack) == name]
        if kind == "chip":
            path = directory / "calibrations" / "steps" / f"{name}.yaml"
            text = _steps_yaml(name, values, result, informing(group))
        else:
            path = directory / "stacks" / f"{name}.yaml"
            text = _edited(files.read_text(path), values, len(informing(group)))
        written.append(files.write(path, text))
    return written


def _steps_yaml(name: str, values: dict[str, float], result: Fit, group: Sequence[Row]) -> str:
    """A chip's step calibration file, with the errors on the rows it was fitted to."""
    errors = np.abs(np.expm1([result.error(row) for row in group]))
    content = {
        "chip": name,
        **{knob: float(f"{value:.4g}") for knob, value in values.items()},
        "provenance": {
            "label": "fitted",
            "source": "whole steps of measured training runs, fit share: ridgeline.calibrate.whole_step",
            "rows": len(group),
            "median_abs_err": float(f"{np.median(errors):.3g}"),
            "p90_abs_err": float(f"{np.quantile(errors, 0.9):.3g}"),
        },
    }
    return yaml.safe_dump(content, sort_keys=False, width=110)


def _edited(text: str, values: dict[str, float], rows: int) -> str:
    """A stack's file with its fitted lines replaced, comments kept."""
    words = {name: _words(name, value) for name, value in values.items()} | {"rows": str(rows)}
    lines, seen = [], set()
    for line in text.splitlines():
        key = line.split(":", 1)[0]
        if key in words:
            comment = f"  #{line.split('#', 1)[1]}" if "#" in line else ""
            line = f"{key}: {words[key]}{comment}"
            seen.add(key)
        lines.append(line)
    lines += [f"{key}: {words[key]}" for key in values if key not in seen]
    return "\n".join(lines) + "\n"


def _words(name: str, value: float) -> str:
    """A number of a stack as its file writes it: times with their unit."""
    if name == "host":
        return f"{value * 1e6:.3g} us"
    if name in ("hand_over", "step_fixed"):
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g}"
