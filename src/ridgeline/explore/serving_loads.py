"""One kind of engine at a load: its step times, what it holds, and the plan of so many copies of it."""

from __future__ import annotations

import math

from ridgeline.explore.serving_plan import Load, ServingPlan
from ridgeline.facts.serving import Service
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.steady import Steady, closed_loop
from ridgeline.sim.serving.table import StepTable

#: Share of the closed form's rate that replicas are given where their number follows from a rate: queues of random
#: arrivals need the rest. The simulation then says whether it is enough.
HEADROOM = 0.85
_FIXED_POINT = 25


def table_of(service: Service, load: Load) -> StepTable:
    """The step times for requests of this length."""
    longest = int(2 ** math.ceil(math.log2(max(load.isl + load.osl, 2048.0))))
    return step_table(service, longest)


def batches(table: StepTable, load: Load) -> list[float]:
    """Users of one engine: powers of two up to what its cache and its limits hold, and that number itself."""
    most = capacity(table, load)
    found = [float(2**i) for i in range(24) if 2**i <= most]
    if most > 1.2 * found[-1]:
        found.append(float(math.floor(most)))
    return found


def capacity(table: StepTable, load: Load) -> float:
    """Requests that one engine can run at a time, over all lanes; at least 1."""
    held = table.num_blocks * table.block_size / (load.isl + load.osl / 2.0) / table.stages
    return max(1.0, min(float(table.max_seqs), held) * table.ranks * table.stages)


def at_rate(table: StepTable, load: Load, rate: float) -> Steady | None:
    """Means of one engine that gets ``rate`` requests a second; None where it cannot keep up.

    Little's law: ``users = rate x life(users)``, solved from an empty engine upwards.
    """
    most, users = capacity(table, load), 1e-3
    for _ in range(_FIXED_POINT):
        steady = closed_loop(table, load.isl, load.osl, max(users, 1.0))
        needed = rate * (steady.ttft_s + steady.tpot_s * (load.osl - 1.0))
        if needed > most:
            return None
        if abs(needed - users) <= 1e-3 * users:
            break
        users = needed
    return closed_loop(table, load.isl, load.osl, max(users, 1.0))


def with_replicas(
    one: Service, table: StepTable, load: Load, replicas: int, rate: float
) -> ServingPlan | None:
    """So many replicas that share a rate, on chips of their own; None where they cannot keep up."""
    steady = at_rate(table, load, rate / replicas)
    if steady is None:
        return None
    return plan_of(one, replicas, replicas * one.layout.chips, steady, rate=rate, osl=load.osl)


def plan_of(
    one: Service, replicas: int, chips: int, steady: Steady, *, osl: float, rate: float | None = None
) -> ServingPlan:
    """So many engines in one steady state; with ``rate`` they share that instead of what they could do."""
    tokens = steady.output_tokens_per_s * replicas if rate is None else rate * osl
    return ServingPlan(
        service=one,
        replicas=replicas,
        chips=chips,
        users=(steady.running + steady.waiting) * replicas,
        steady=steady,
        ttft_s=steady.ttft_s,
        tpot_s=steady.tpot_s,
        requests_per_s=tokens / osl,
        output_tokens_per_s=tokens,
    )
