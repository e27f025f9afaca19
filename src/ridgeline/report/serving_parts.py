"""Parts of a serving report: plain values that whoever plans or simulates a service fills in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPoint:
    """One deployment under one load: what a user gets against what a chip gives."""

    tokens_per_s_user: float
    tokens_per_s_chip: float
    label: str
    disaggregated: bool = False
    on_front: bool = False
    chosen: bool = False
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Latency:
    """One latency of every request [s]; NaN where it did not happen. ``slo_s`` is what it must not exceed."""

    name: str  # TTFT, TPOT, E2E
    title: str  # what the letters stand for
    values_s: ArrayLike
    slo_s: float | None = None

    @property
    def finite(self) -> NDArray[np.float64]:
        """Values that happened, ascending."""
        values = np.asarray(self.values_s, dtype=np.float64).ravel()
        return np.sort(values[np.isfinite(values)])

    @property
    def requests(self) -> int:
        """All requests, those without the latency too."""
        return int(np.size(np.asarray(self.values_s)))

    @property
    def within(self) -> float | None:
        """Share of all requests that meet the SLO; one that has no value misses it."""
        if self.slo_s is None or not self.requests:
            return None
        return float(np.count_nonzero(self.finite <= self.slo_s)) / self.requests


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class State:
    """All engines over time, arrays ``[t]``: requests that run and wait, share of KV cache in use (0 to 1)."""

    times_s: ArrayLike
    running: ArrayLike
    waiting: ArrayLike
    kv_share: ArrayLike


@dataclass(frozen=True, slots=True)
class StepBlock:
    """One step of one engine; ``kind`` is prefill, decode, mixed or a name of its own.

    ``decodes``, ``prefills``: requests that get a token each, and chunks of prompts.
    """

    engine: str
    kind: str
    start_s: float
    end_s: float
    tokens: int
    decodes: int = 0
    prefills: int = 0

    @property
    def batch(self) -> str:
        """What runs in the step, in words; empty where it is not known."""
        several = [
            f"{count:,} {noun}{'s' if count > 1 else ''}"
            for count, noun in ((self.prefills, "prompt"), (self.decodes, "decode"))
            if count
        ]
        return " and ".join(several)


@dataclass(frozen=True, slots=True)
class ServingEffect:
    """What one change does, relative: -0.27 means 27 % less chip time of a token, TPOT or TTFT."""

    name: str
    chip: float
    tpot: float
    ttft: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMemory:
    """What fills one chip of a pool [bytes], in the order it is drawn: weights, KV cache, activations, reserve."""

    name: str
    capacity_bytes: float
    parts: Mapping[str, float]

    @property
    def total_bytes(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """Mean and percentiles of one metric, in ``unit``; ``slo`` in words."""

    name: str
    unit: str
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    slo: str = ""


def metric_of(name: str, unit: str, values: ArrayLike, *, scale: float = 1.0, slo: str = "") -> Metric:
    """The metric of an array, each value multiplied by ``scale``; values that are not finite are left out.

    Raises:
        ValueError: no value is finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel() * scale
    array = array[np.isfinite(array)]
    if not array.size:
        raise ValueError(f"metric {name}: no finite value")
    p50, p90, p95, p99 = (float(value) for value in np.percentile(array, [50, 90, 95, 99]))
    return Metric(name=name, unit=unit, mean=float(array.mean()), p50=p50, p90=p90, p95=p95, p99=p99, slo=slo)


def engines_of(steps: Sequence[StepBlock]) -> list[str]:
    """Names of the engines, in the order in which they first appear."""
    return list(dict.fromkeys(step.engine for step in steps))
