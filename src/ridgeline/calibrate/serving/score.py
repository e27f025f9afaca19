"""Scoreboard of serving: every metric of every measured point beside its prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.calibrate.refusals import refusal
from ridgeline.calibrate.scores import Score, by, finite, score
from ridgeline.calibrate.serving.cases import METRICS, ServingCase, read_serving_cases
from ridgeline.calibrate.serving.neighbours import Neighbours
from ridgeline.calibrate.serving.pools import pools_of
from ridgeline.calibrate.serving.predicted import Predicted, predict_case
from ridgeline.calibrate.serving.services import service_of
from ridgeline.facts import serving_ranges
from ridgeline.facts.engine import Engine

Progress = Callable[[int, int], None]
HEADLINE = ("A", "B")
NAN = float("nan")
SLICES = ("split", "kind", "regime", "chip", "model", "engine", "engine_version", "client", "mode", "source")


@dataclass(frozen=True, slots=True)
class ServingRow:
    """One metric of one measured point: seconds, or tokens/s; NaN where not predicted."""

    case: ServingCase
    metric: str  # tpot, ttft, output_tokens_per_s
    measured: float
    status: str  # "ok" or "not predicted: reason"
    predicted: float = NAN
    low: float = NAN
    high: float = NAN
    regime: str = ""
    engine: str = ""
    neighbour: float = NAN

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def rel_err(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted / self.measured - 1.0

    @property
    def kind(self) -> str:
        """``dense``, ``moe``, ``moe-mtp`` or ``moe-unknown``: what a target speaks of."""
        if not self.case.experts:
            return "dense"
        return {"none": "moe", "mtp": "moe-mtp"}.get(self.case.speculative, "moe-unknown")

    def key(self, field: str) -> str:
        """The value that slices go by."""
        if field in ("kind", "regime"):
            return str(getattr(self, field))
        return str(getattr(self.case, field))

    def to_dict(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {
            "id": self.case.id,
            "metric": self.metric,
            "measured": self.measured,
            "predicted": finite(self.predicted),
            "rel_err": finite(self.rel_err),
            "status": self.status,
            "low": finite(self.low),
            "high": finite(self.high),
            "quality": self.case.quality,
            "split": self.case.split,
            "source": self.case.source,
            "mode": self.case.mode,
            "model": self.case.model,
            "chip": self.case.chip,
            "num_chips": self.case.num_chips,
            "engine": self.engine,
            "client": self.case.client,
            "kind": self.kind,
            "regime": self.regime,
            "nearest_neighbour": finite(self.neighbour),
        }


@dataclass(frozen=True)
class ServingBoard:
    """All rows; scores are computed when asked for. The headline counts aggregated points of quality A and B."""

    rows: tuple[ServingRow, ...]
    unread: tuple[str, ...] = ()  # lines of the file that could not be read, each with its reason

    @cached_property
    def headline(self) -> tuple[ServingRow, ...]:
        """Aggregated rows of quality A and B, TTFT only where the client is known; all where there are none."""
        chosen = tuple(
            row
            for row in self.rows
            if row.case.quality in HEADLINE
            and row.case.mode == "aggregated"
            and (row.metric != "ttft" or row.case.client == "inferencex")
        )
        return chosen or self.rows

    @cached_property
    def pools(self) -> tuple[ServingRow, ...]:
        """Rows of separate prefill and decode pools, quality A and B; TTFT only where the client is known."""
        return tuple(row for row in self._pools if row.case.quality in HEADLINE)

    @cached_property
    def rough_pools(self) -> tuple[ServingRow, ...]:
        """The same of quality C."""
        return tuple(row for row in self._pools if row.case.quality not in HEADLINE)

    @property
    def _pools(self) -> list[ServingRow]:
        return [
            row
            for row in self.rows
            if row.case.mode == "disaggregated" and (row.metric != "ttft" or row.case.client == "inferencex")
        ]

    def part(self, rows: Sequence[ServingRow]) -> Score:
        """Score of rows of one metric or several."""
        return score(
            [row.measured for row in rows],
            [row.predicted for row in rows],
            low=[row.low for row in rows],
            high=[row.high for row in rows],
            families=[row.case.family or row.case.model for row in rows],
        )

    def neighbours(self, rows: Sequence[ServingRow]) -> Score:
        """Score of the predictor without physics on the same rows."""
        return score([row.measured for row in rows], [row.neighbour for row in rows])

    def slices(self, metric: str, field: str, rows: Sequence[ServingRow] | None = None) -> dict[str, Score]:
        """Scores of one metric by a field of `SLICES`."""
        chosen = [row for row in (self.headline if rows is None else rows) if row.metric == metric]
        return {key: self.part(part) for key, part in by(chosen, [row.key(field) for row in chosen]).items()}

    def worst(self, count: int = 10, among: Sequence[ServingRow] | None = None) -> list[ServingRow]:
        """The predicted rows of the time between tokens, of the headline or ``among``, that are furthest off."""
        chosen = self.headline if among is None else among
        rows = [row for row in chosen if row.ok and row.metric == "tpot"]
        return sorted(rows, key=lambda row: -abs(float(np.log1p(row.rel_err))))[:count]

    def failures(self, among: Sequence[ServingRow] | None = None) -> Counter[str]:
        """How many points, of the headline or ``among``, were not predicted, by reason."""
        seen = {row.case.id: row.status for row in (self.headline if among is None else among) if not row.ok}
        return Counter(status.removeprefix("not predicted: ") for status in seen.values())

    def to_dict(self) -> dict[str, Any]:
        """The scoreboard as plain JSON values."""
        total = self.part([row for row in self.headline if row.metric == "tpot"])
        return {
            "kind": "serving",
            "n": len(self.rows),
            "covered": sum(row.ok for row in self.rows),
            "median_abs_err": total.median_abs_err,
            "p90_abs_err": total.p90_abs_err,
            "bias": total.bias,
            "rows": [row.to_dict() for row in self.rows],
            "headline": {"quality": list(HEADLINE), "metric": "tpot", **total.to_dict()},
            "by_metric": {
                metric: {
                    f"by_{name}": {key: part.to_dict() for key, part in self.slices(metric, name).items()}
                    for name in SLICES
                }
                for metric in METRICS
            },
            "not_predicted": dict(self.failures()),
            "unread": list(self.unread),
            "pools": {
                "quality": list(HEADLINE),
                "by_metric": {
                    metric: {
                        f"by_{name}": {
                            key: part.to_dict() for key, part in self.slices(metric, name, self.pools).items()
                        }
                        for name in SLICES
                    }
                    for metric in METRICS
                },
                "not_predicted": dict(self.failures(self.pools)),
            },
        }

    def table(self, width: int = 110) -> str:
        """The scoreboard as text tables."""
        from ridgeline.calibrate.serving.text import text

        return text(self, width)


def validate(path: str | Path, limit: int | None = None, progress: Progress | None = None) -> ServingBoard:
    """Predict every measured point of a CSV file and score the predictions.

    Points of one group are one configuration and are predicted once for each load.

    Raises:
        CaseError: the file or its header is wrong, or no line can be read.
    """
    unread: list[str] = []
    cases = read_serving_cases(path, unread)
    if limit is not None and limit < len(cases):
        cases = [cases[i] for i in np.linspace(0, len(cases) - 1, limit).astype(int)]
    nearest = Neighbours.of(cases)
    known: dict[object, Predicted | Exception] = {}
    rows: list[ServingRow] = []
    for done, case in enumerate(cases):
        rows += _rows(case, known, nearest)
        if progress is not None:
            progress(done + 1, len(cases))
    return ServingBoard(tuple(rows), tuple(unread))


def _rows(
    case: ServingCase, known: dict[object, Predicted | Exception], nearest: Neighbours
) -> list[ServingRow]:
    """Rows of one point, one for each metric that it measured."""
    neighbour = {metric: nearest.value(case, metric) for metric in case.measured}
    try:
        if case.mode == "disaggregated":
            found, engine = _of_pools(case, known)
        else:
            found, engine = _of_engine(case, known)
    except Exception as error:  # one point never stops the others
        status = f"not predicted: {refusal(error)}"
        return [
            ServingRow(case, metric, value, status, neighbour=neighbour[metric])
            for metric, value in case.measured.items()
        ]
    rows = []
    for metric, value in case.measured.items():
        predicted = found.values.get(metric, NAN)
        status = "ok" if np.isfinite(predicted) else f"not predicted: no {metric} of this load"
        kind = serving_ranges.kind_of(experts=bool(case.experts), drafts=case.speculative != "none")
        named = "offline" if case.mode == "offline" else metric
        low, high = serving_ranges.ends(
            predicted,
            named,
            kind,
            queued=found.regime == "near saturation",
            pools=case.mode == "disaggregated",
        )
        rows.append(
            ServingRow(
                case, metric, value, status, predicted, low, high, found.regime, engine.name,
                neighbour[metric],
            )
        )  # fmt: skip
    return rows


def _of_engine(case: ServingCase, known: dict[object, Predicted | Exception]) -> tuple[Predicted, Engine]:
    """An aggregated or offline point. Raises whatever its prediction raises."""
    service = service_of(case)
    key = (
        service.engine.name, str(service.engine.libraries), service.chip.name,
        service.architecture.model_dump_json(), service.layout,
        service.precision, service.speculation, service.limits, case.isl, case.osl, case.concurrency,
        case.client, case.percentile, case.mode, case.static, case.num_chips, case.request_rate,
    )  # fmt: skip
    return _once(key, known, lambda: predict_case(case, service)), service.engine


def _of_pools(case: ServingCase, known: dict[object, Predicted | Exception]) -> tuple[Predicted, Engine]:
    """A point of separate pools, with the engine that decodes. Raises whatever its prediction raises."""
    from ridgeline.calibrate.serving.pooled import predict_pools

    pools = pools_of(case)
    key = (pools.key, case.isl, case.osl, case.client, case.percentile)
    return _once(key, known, lambda: predict_pools(case, pools)), pools.decode.engine


def _once(
    key: object, known: dict[object, Predicted | Exception], predict: Callable[[], Predicted]
) -> Predicted:
    """What was predicted, or raised, for this key before, or now."""
    if key not in known:
        try:
            known[key] = predict()
        except Exception as error:
            known[key] = error
    found = known[key]
    if isinstance(found, Exception):
        raise found
    return found
