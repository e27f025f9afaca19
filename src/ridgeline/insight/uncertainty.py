"""Interval of a prediction from the labels of what it is made of."""

from __future__ import annotations

import math

from ridgeline.facts.observation import Label
from ridgeline.facts.scenario import Scenario
from ridgeline.insight.labels import labels_of
from ridgeline.sim.step import Step

#: Half width of an 80 % interval of one part's time, relative, by label.
SPREAD = {Label.MEASURED: 0.06, Label.FITTED: 0.10, Label.TRANSFERRED: 0.20, Label.BOUND: 0.30}


def relative_interval(scenario: Scenario, result: Step) -> tuple[float, float]:
    """Low and high end of the step time over its likely value: parts add in quadrature by their share of the step."""
    labels = labels_of(scenario)
    total = float(result.total_s[-1])
    matrix = labels["linear layers"]
    outside = labels.get(
        "collectives across domains", labels.get("collectives inside a domain", Label.FITTED)
    )
    shares = {
        matrix: float(result.pipeline.busy_s[-1]) / total,
        "rest": 1.0 - float(result.pipeline.busy_s[-1]) / total,
    }
    variance = 0.0
    for part, share in shares.items():
        label = Label(outside if part == "rest" else part)
        variance += (share * SPREAD[label]) ** 2
    half = math.sqrt(variance)
    return 1.0 / (1.0 + half), 1.0 + half
