"""Interval of a prediction: what is known of the errors of steps like this one.

Half widths hold 80 % of the fit share of measured runs and are checked on the other shares (docs/accuracy.md). They
add in quadrature: a floor that no calibration removes (runs of one configuration differ by 2-3 %, published rows leave
fields open), kernels whose rates were transferred, routed experts (imbalance and dispatch are bounds), and time spent
in effects that are known less well than kernels are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ridgeline.facts.observation import Label
from ridgeline.sim.reality import ORDER
from ridgeline.sim.step import Step

FLOOR = 0.085
TRANSFERRED = 0.03
EXPERTS = 0.25
#: Half width of one effect, relative to the time it takes in the step.
EFFECTS = {"tp": 0.6, "cp": 0.6, "ep": 0.6, "dp": 0.6, "host": 0.6, "pipeline": 0.45, "fixed": 0.5}


def relative_interval(labels: Mapping[str, str], result: Step) -> tuple[float, float]:
    """Low and high end of the step time over its likely value.

    ``labels`` are those of `ridgeline.insight.labels.labels_of`; ``result`` is a staircase evaluation.
    """
    total = float(result.total_s[-1])
    parts = [FLOOR]
    if Label(labels["linear layers"]) in (Label.TRANSFERRED, Label.BOUND):
        parts.append(TRANSFERRED)
    if "experts" in labels:
        parts.append(EXPERTS)
    for effect, half in EFFECTS.items():
        i = ORDER.index(effect)
        parts.append(half * float(result.total_s[i + 1] - result.total_s[i]) / total)
    half = math.sqrt(sum(part * part for part in parts))
    return 1.0 / (1.0 + half), 1.0 + half
