"""Ranges of serving: half widths that hold 80 % of measured points, from the table ``facts/data/serving_ranges.yaml``.

Widths are in logarithms: a prediction ``p`` has the range ``p exp(-w) .. p exp(w)``. They are fitted on the fit share
by `ridgeline calibrate ranges` and checked on the other shares (docs/serving-accuracy.md).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

from ridgeline.facts import catalog, document

FILE = "serving_ranges.yaml"
#: What a width is listed by: metrics, and under each the kinds of model.
METRICS = ("tpot", "ttft", "output_tokens_per_s", "offline")
DENSE, EXPERTS, DRAFTS = "dense", "experts", "drafts"
KINDS = (DENSE, EXPERTS, DRAFTS)
#: What comes on top in quadrature: near saturation a small error of the capacity becomes a queue; of separate pools of
#: prefill and decode less is known.
QUEUED, POOLS = "queued", "pools"


def half_width(metric: str, kind: str, *, queued: bool = False, pools: bool = False) -> float:
    """Half width of the 80 % range of one metric, in logarithms; ``queued``, ``pools``: as `QUEUED` and `POOLS` say."""
    widths = _table(catalog.BUILT_IN / FILE)[metric]
    extra = [float(widths.get(name, 0.0)) for name, given in ((QUEUED, queued), (POOLS, pools)) if given]
    return math.hypot(float(widths[kind]), *extra)


def ends(
    value: float, metric: str, kind: str, *, queued: bool = False, pools: bool = False
) -> tuple[float, float]:
    """Low and high end of the range about ``value``, in its unit."""
    wide = math.exp(half_width(metric, kind, queued=queued, pools=pools))
    return value / wide, value * wide


def kind_of(*, experts: bool, drafts: bool) -> str:
    """The kind of a service: how well drafts are known comes before all else."""
    return DRAFTS if drafts else EXPERTS if experts else DENSE


@functools.cache
def _table(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = document.read(path)["half_widths"]
    return found
