"""Reasons: what is likely behind a large error, told from the physical condition of a run, never from its name.

Each condition is one that the model treats with a bound, a transferred number or not at all. The first that
applies is shown beside the run; a run that meets none has no reason given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ridgeline.calibrate.cases import Case

#: Tokens of one chip in one step under which fixed costs and communication outweigh the products.
FEW_TOKENS = 4096
#: Sequence times hidden size of one micro-batch under which kernels are shorter than their launch.
SMALL_WORK = 8e6


@dataclass(frozen=True, slots=True)
class Reason:
    """A physical condition and what it leaves uncertain."""

    holds: Callable[[Case], bool]
    words: str


def _experts(case: Case) -> bool:
    return case.experts > 0


def _few_tokens(case: Case) -> bool:
    return case.tokens / case.num_chips <= FEW_TOKENS


REASONS: tuple[Reason, ...] = (
    Reason(
        lambda case: case.chip.startswith(("tpu", "gaudi")),
        "no kernel table of this chip: rates are transferred from a relative",
    ),
    Reason(
        lambda case: (
            case.zero == 3 and case.num_chips > 64 and case.tokens / case.num_chips <= 2 * FEW_TOKENS
        ),
        "ZeRO-3 over many nodes with few tokens a chip: gathers and their contention rule the step",
    ),
    Reason(
        lambda case: _experts(case) and "unknown" in case.recompute,
        "experts: dispatcher, recomputation and graph capture are not stated, and differ from version to version",
    ),
    Reason(_experts, "experts: imbalance and dispatch across nodes are transferred numbers"),
    Reason(
        lambda case: "pcie" in case.chip or case.chip in ("l40s", "h200-nvl"),
        "chips joined by PCIe: contention of host bridges is transferred",
    ),
    Reason(
        lambda case: case.kind == "lora" and case.num_chips > 8 and _few_tokens(case),
        "one micro-batch a step over nodes: fixed costs and jitter weigh most",
    ),
    Reason(
        lambda case: (case.hidden or 0) * case.seq * (case.micro_batch or 1) / case.tp <= SMALL_WORK,
        "kernels shorter than their launch: host time, which differs from machine to machine, sets the step",
    ),
    Reason(
        lambda case: "unknown" in case.recompute,
        "recomputation is not stated: the fastest that fits in memory is taken",
    ),
)


def reason(case: Case) -> str:
    """The likely reason of a large error of ``case``; empty where no condition applies."""
    return next((one.words for one in REASONS if one.holds(case)), "")
