"""Reasons: what is likely behind a large error of a serving point, told from what its row states or leaves open.

The first rule that holds is shown beside the row; a row that meets none has no reason given. No rule reads a name of a
model or a source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.contradictions import asked, mislabelled
from ridgeline.calibrate.serving.score import ServingRow
from ridgeline.calibrate.serving.services import service_of
from ridgeline.insight.serving_labels import labels_of

#: Share of the matrix peak that no well-predicted point asks of its chips with prompts and answers together.
NEAR_PEAK = 0.45
#: Repeats of one configuration further apart than this say more about the runs than about a model.
APART = 1.25
#: Tokens in over tokens out beyond which the moments at which prompts enter set the time between tokens.
LONG_PROMPTS = 10.0
KERNELS = ("linear layers", "attention", "latent attention", "experts")


def apart(rows: Iterable[ServingRow], load: Callable[[ServingCase], object]) -> dict[object, float]:
    """Largest over smallest measured time between tokens of repeats, by what ``load`` says that they share."""
    found: dict[object, list[float]] = defaultdict(list)
    for row in rows:
        if row.metric == "tpot":
            found[load(row.case)].append(row.measured)
    return {key: max(values) / min(values) for key, values in found.items()}


@dataclass(frozen=True)
class Reasons:
    """Rules over rows; knows the repeats of each configuration."""

    apart: dict[object, float]  # largest over smallest TPOT of one configuration and load

    @classmethod
    def of(cls, rows: Iterable[ServingRow]) -> Reasons:
        """The repeats among ``rows``."""
        return cls(apart(rows, _load))

    def words(self, row: ServingRow) -> str:
        """The first reason that holds, or nothing."""
        return next(iter(self.all(row)), "")

    def all(self, row: ServingRow) -> list[str]:
        """Every reason that holds, the strongest first."""
        case, found = row.case, []
        service = service_of(case)
        sum_ = asked(case)
        if sum_ is not None and sum_.share > 1.0:
            found.append("contradicts itself: see the list below")
        elif sum_ is not None and sum_.share > NEAR_PEAK:
            found.append(
                f"its own latencies ask for {sum_.share:.0%} of the matrix peak by Little's law, more than others"
            )
        if mislabelled(case):
            found.append("contradicts itself: its notes say without drafts, its column with")
        apart = self.apart.get(_load(case), 1.0)
        if apart > APART:
            found.append(f"repeats of this very configuration are {apart:.1f} times apart")
        month = case.month
        if month and month < service.engine.since:
            found.append(f"old engine month: {month}, predicted as {service.engine.name}")
        if row.kind == "moe-mtp":
            found.append("how many drafts were accepted is not stated: means of the fit share stand in")
        if case.experts and case.ep is None:
            found.append("how experts were split over chips is not stated")
        if (case.dp or 1) > 1:
            found.append("attention data parallelism: when its ranks let prompts in is not stated")
        if case.client == "unknown" and (case.isl or 0) > LONG_PROMPTS * (case.osl or 1):
            found.append("long prompts, short answers, client unknown: when prompts entered is not known")
        if row.regime == "near saturation":
            found.append("near saturation: a small error of the capacity becomes a queue")
        labels = labels_of(service)
        lent = [part for part in KERNELS if labels.get(part) == "transferred"]
        if lent:
            found.append(f"kernels transferred from a relative: {', '.join(lent)}")
        if not month:
            found.append("the engine's month is not stated: the newest of its catalog entries is taken")
        return found


def _load(case: ServingCase) -> object:
    """What repeats share."""
    return (
        case.group, case.concurrency, case.isl, case.osl, case.tp, case.ep, case.dp, case.pp, case.batch_size,
        case.speculative, case.percentile,
    )  # fmt: skip
