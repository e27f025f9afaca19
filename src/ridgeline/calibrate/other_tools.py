"""Beside other tools: what they reach on sources that are also among our rows, and what we reach there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.calibrate.markdown import TESTS, percent, short_source, table
from ridgeline.calibrate.scoreboard import Row


@dataclass(frozen=True, slots=True)
class OtherTool:
    """What another tool reaches on a source that is also among our rows."""

    source: str  # how the source's name begins
    tool: str
    error: float  # mean absolute relative error of the step time
    scope: str


_MULTI = "VIA-Research/vTrain ground truth multi-node"
_SINGLE = "VIA-Research/vTrain ground truth single-node"
_PROFILED = "stated in its paper (arXiv:2312.12391), with kernels profiled on the machine itself"

#: Reviewed by hand, with where each figure comes from.
OTHER_TOOLS = (
    OtherTool(_MULTI, "vTrain", 0.1473, _PROFILED),
    OtherTool(_MULTI, "Calculon", 0.153, "running it on the 109 published points"),
    OtherTool(_MULTI, "llm-analysis", 0.268, "running it on the 109 published points"),
    OtherTool(_SINGLE, "vTrain", 0.0837, _PROFILED),
    OtherTool(_SINGLE, "Calculon", 0.389, "running it on the 1,440 published points"),
    OtherTool(_SINGLE, "llm-analysis", 0.568, "running it on the 1,440 published points"),
    OtherTool(
        "MooreThreads/SimuMax B200",
        "SimuMax",
        0.0562,
        "the 43 cases in its repository, with efficiencies measured at their exact shapes on that machine",
    ),
    OtherTool(
        "Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198, table",
        "Calculon",
        0.0365,
        "stated in its paper, on these 8 runs",
    ),
)


def other_tools(known: Sequence[Row]) -> str:
    """The section of the accuracy page about other tools; sources without a row among ``known`` are left out."""
    rows = []
    for one in OTHER_TOOLS:
        ours = [row for row in known if row.ok and row.case.source.startswith(one.source)]
        if not ours:
            continue
        tests = [row for row in ours if row.case.split in TESTS]
        rows.append(
            [
                short_source(ours[0].case),
                _mean(ours),
                _mean(tests),
                one.tool,
                f"{100 * one.error:.3g} %",
                one.scope,
            ]
        )
    headers = ["source", "ours, all rows", "ours, test rows", "tool", "its error", "on"]
    return f"""## Beside other tools

Mean error of the step time on sources that other tools were held to. Ours are a part of the rows of each source, and
some of them informed the fit, so the test rows stand apart. The errors of others are what their papers and repositories
state, or what running them gave.

{table(headers, rows)}"""


def _mean(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return f"{percent(float(np.mean([abs(row.rel_err) for row in rows])))} of {len(rows)}"
