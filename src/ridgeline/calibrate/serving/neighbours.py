"""A predictor without physics: the three nearest measured points of the fit share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ridgeline.calibrate.serving.cases import ServingCase

NEAREST = 3
_QUALITIES = ("A", "B")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Points that may be learned from: quality A and B of the fit share."""

    pool: tuple[ServingCase, ...]

    @classmethod
    def of(cls, cases: Iterable[ServingCase]) -> Neighbours:
        """The pool in a list of points."""
        return cls(tuple(case for case in cases if case.split == "fit" and case.quality in _QUALITIES))

    def value(self, case: ServingCase, metric: str) -> float:
        """Geometric mean of the metric at the nearest points of other groups: same model first, then by log distance.

        Distance is over chips, concurrency, lengths and tensor parallelism; NaN where the pool has none.
        """
        others = [one for one in self.pool if one.group != case.group and metric in one.measured]
        for same in (
            lambda one: (one.model, one.chip, one.engine) == (case.model, case.chip, case.engine),
            lambda one: (one.model, one.engine) == (case.model, case.engine),
            lambda one: one.chip == case.chip,
            lambda one: True,
        ):
            near = [one for one in others if same(one)]
            if near:
                break
        else:
            return math.nan
        distance = [_distance(case, one) for one in near]
        nearest = np.argsort(distance, kind="stable")[:NEAREST]
        return float(np.exp(np.mean([math.log(near[i].measured[metric]) for i in nearest])))


def _distance(a: ServingCase, b: ServingCase) -> float:
    pairs = (
        (a.num_chips, b.num_chips), (a.concurrency, b.concurrency), (a.isl, b.isl), (a.osl, b.osl), (a.tp, b.tp),
    )  # fmt: skip
    return sum(math.log((x or 1) / (y or 1)) ** 2 for x, y in pairs)
