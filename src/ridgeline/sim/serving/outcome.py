"""Outcome: what happened to every request and to the engines over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: How a request ended.
DONE, CANCELLED, TIMED_OUT, LOST, REFUSED = range(5)
#: Edges of the histogram of inter-token latencies: 1 % apart from 10 us to 1,000 s.
ITL_EDGES_S = 1e-5 * 1.01 ** np.arange(1852)


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """Arrays ``[n]`` by request, in the order of `ridgeline.facts.requests.Requests`; NaN where it did not happen.

    Attributes:
        sent_s: when the client sent it (open loop: its scheduled arrival).
        scheduled_s: when the step of its first chunk was planned: as it begins, or `StepTable.lag` steps before.
        first_token_s, finish_s: when its first and last token came out.
        made_tokens: tokens it got.
        cached_tokens: prompt tokens found in the prefix cache.
        preemptions: how often its blocks were taken from it.
        replica: the engine that decoded it.
        status: DONE, CANCELLED, TIMED_OUT, LOST (a replica failed and nobody took over) or REFUSED (it can never fit).
        measured: requests that count in statistics.
        itl_counts: ``[len(ITL_EDGES_S) + 1]`` how many gaps between tokens of a request fell between the edges.
        times_s: ``[t]`` ascending; ``running``, ``waiting``, ``kv_blocks`` ``[t]`` are the state of all engines then.
        batch_steps: ``[largest + 1]`` steps by number of decoding requests.
        steps: all steps; ``busy_s``: seconds of all engines within steps.
        blocks: KV blocks of all engines together.
        end_s: end of the last step.
        energy_j: of all engines from 0 to ``end_s``.
        chips: of all engines.
        replica_s: seconds that engines were up, added over all; NaN where nobody counted.
    """

    sent_s: FloatArray
    scheduled_s: FloatArray
    first_token_s: FloatArray
    finish_s: FloatArray
    made_tokens: IntArray
    cached_tokens: IntArray
    preemptions: IntArray
    replica: IntArray
    status: IntArray
    measured: NDArray[np.bool_]
    itl_counts: IntArray
    times_s: FloatArray
    running: IntArray
    waiting: IntArray
    kv_blocks: IntArray
    batch_steps: IntArray
    steps: int
    busy_s: float
    blocks: int
    end_s: float
    energy_j: float
    chips: int
    replica_s: float = float("nan")
