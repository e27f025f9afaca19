"""What the scripts of published benchmarks set on their servers, from the table ``facts/data/run_settings.yaml``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.facts import catalog, document
from ridgeline.facts.chip import Chip

FILE = catalog.BUILT_IN / "run_settings.yaml"

#: Scripts that size a step by prompt and users add this, and go no lower.
MARGIN, LEAST_TOKENS = 64, 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Settings of one run; 0 and empty: the engine's default.

    ``poll_steps``: decode steps between two looks for new requests. ``balance_steps``: most steps that a prompt waits
    until every rank of attention data parallelism has one. ``tuned``: limits are those of `trtllm_bench.tuned_limits`.
    ``attention_dp``: models with experts divide attention by requests, not by heads. ``grouped``: libraries of expert
    layers, best first. ``graph_batches``: decode batches that are captured, as far as the limit of requests goes.
    ``requests``: of an offline run, all sent at once. ``cluster``: the machine, where the publisher says more of it
    than its chips. ``spread``: sigmas of the logarithms of prompts' and answers' lengths, where its requests are
    published.
    """

    poll_steps: int = 0
    balance_steps: int = 0
    kv: str = ""
    max_batched_tokens: int = 0
    memory_fraction: float | None = None
    tuned: bool = False
    attention_dp: bool = False
    grouped: tuple[str, ...] = ()
    graph_batches: tuple[int, ...] = ()
    requests: int = 0
    cluster: str = ""
    spread: tuple[float, ...] = ()

    def wait_steps(self, users: float, ranks: int, output_tokens: float) -> float:
        """Mean steps that a new prompt waits for the scheduler [1].

        Half of a polling interval; and until each of the other ranks has a new prompt too, whose number of steps is the
        longest of ``ranks - 1`` exponential gaps: their mean gap, ``output_tokens`` over users of a rank, times the
        harmonic number of ``ranks - 1``.
        """
        wait = self.poll_steps / 2.0
        if self.balance_steps and ranks > 1:
            gap = output_tokens / max(users / ranks, 1e-9)
            wait += min(float(self.balance_steps), gap * sum(1.0 / i for i in range(1, ranks)))
        return wait


def run_settings(case: ServingCase, chip: Chip) -> RunSettings:
    """The settings of a case's run."""
    for row in _rows():
        same = row["client"] == case.client and row["engine"] == case.engine
        same = same and row.get("precision", case.precision) == case.precision
        same = same and case.source.startswith(row.get("published", ""))
        same = same and row.get("chip", chip.name) == chip.name
        if "until" in row:
            same = same and "" < case.month < str(row["until"])
        if same and row["vendor"] == chip.vendor.lower() and chip.launch >= str(row.get("chips_since", "")):
            steps = 0
            for users, interval in row.get("poll_steps", ()):
                if users is None or (case.concurrency or 0) <= users:
                    steps = int(interval)
                    break
            tokens = int(row.get("max_batched_tokens", 0))
            if row.get("whole_prompts") and case.isl is not None:
                tokens = max(LEAST_TOKENS, round(case.isl + (case.concurrency or 0)) + MARGIN)
            return RunSettings(
                poll_steps=steps,
                balance_steps=int(row.get("balance_steps", 0)),
                kv=str(row.get("kv", "")),
                max_batched_tokens=tokens,
                memory_fraction=row.get("memory_fraction"),
                tuned=bool(row.get("tuned", False)),
                attention_dp=bool(row.get("attention_dp", False)),
                grouped=tuple(row.get("grouped", ())),
                graph_batches=tuple(row.get("graph_batches", ())),
                requests=_requests(row.get("requests", ()), case),
                cluster=str(row.get("cluster", "")),
                spread=tuple(row.get("spread", ())),
            )
    return RunSettings()


def _requests(listed: Sequence[Sequence[int]], case: ServingCase) -> int:
    """Requests of the run whose lengths are nearest by their ratios; 0 where none are listed or stated."""
    if not listed or case.isl is None or case.osl is None:
        return 0
    isl, osl = case.isl, case.osl
    nearest = min(listed, key=lambda row: abs(math.log(row[0] / isl)) + abs(math.log(row[1] / osl)))
    return int(nearest[2])


@functools.cache
def _rows() -> tuple[dict[str, Any], ...]:
    return tuple(document.read(FILE)["settings"])
