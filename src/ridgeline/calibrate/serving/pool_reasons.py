"""Reasons: what is likely behind a large error of a point of separate pools. No rule reads a name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.pools import pools_of
from ridgeline.calibrate.serving.reasons import APART, KERNELS, apart
from ridgeline.calibrate.serving.score import ServingRow
from ridgeline.insight.serving_labels import labels_of


@dataclass(frozen=True)
class PoolReasons:
    """Rules over rows; knows the repeats of each configuration."""

    apart: dict[object, float]  # largest over smallest TPOT of one configuration and load

    @classmethod
    def of(cls, rows: Iterable[ServingRow]) -> PoolReasons:
        """The repeats among ``rows``."""
        return cls(apart(rows, _load))

    def words(self, row: ServingRow) -> str:
        """The first reason that holds, or nothing."""
        case, pools = row.case, pools_of(row.case)
        decode = pools.decode
        if case.concurrency is None:
            return "users are not stated: those that fill the stated batch of the decode engines"
        if self.apart.get(_load(case), 1.0) > APART:
            return f"repeats of this very configuration are {self.apart[_load(case)]:.1f} times apart"
        if case.experts and (case.decode_dp or 1) > 1 and max(case.decode_ep or 1, 1) != decode.layout.ep:
            return "the stated split of experts is impossible for their width: experts are kept whole"
        if case.experts and (case.decode_dp or 1) > 1 and decode.layout.ep == 1:
            return (
                "attention data parallelism without expert parallelism is stated, which recipes do not have"
            )
        labels = labels_of(decode)
        lent = [part for part in KERNELS if labels.get(part) == "transferred"]
        if lent:
            return f"kernels transferred from a relative: {', '.join(lent)}"
        domain = decode.cluster.tiers[0].size or 1
        if decode.layout.chips > domain:
            return "a decode engine spans nodes: its exchange over the network was not timed"
        if row.kind == "moe-mtp":
            return "number and acceptance of drafts are not stated: a recipe's and means of the fit share stand in"
        if row.regime == "near saturation":
            return "near saturation: a small error of the capacity becomes a queue"
        return ""


def _load(case: ServingCase) -> object:
    """What repeats share."""
    return (
        case.group, case.concurrency, case.isl, case.osl, case.prefill_workers, case.prefill_tp, case.prefill_dp,
        case.decode_workers, case.decode_tp, case.decode_dp, case.speculative, case.percentile,
    )  # fmt: skip
