"""Time the closed forms of every pipeline schedule: microseconds per small call, per plan of a large grid.

    python benchmarks/schedule.py

One call is `pipeline_seconds`, `in_flight`, the reduction and the gather window, each once, as a step does.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from ridgeline.facts.plan import SCHEDULES
from ridgeline.sim.schedule import gather_window_s, in_flight, pipeline_seconds, reduction_window_s
from ridgeline.sim.stage_costs import IntArray, StageCosts

Case = tuple[StageCosts, IntArray, IntArray, IntArray]


def one_plan(schedule: str, copies: int) -> Case:
    """One plan repeated, its costs slightly different each time: what a ladder or a what-if asks for."""
    rng = np.random.default_rng(1)
    pp, m = np.full(copies, 8), np.full(copies, 64)
    vpp = np.full(copies, 4 if schedule == "interleaved" else 1)
    return _costs(rng, copies), m, pp, vpp


def grid(schedule: str, plans: int) -> Case:
    """Plans of all degrees: what a search asks for."""
    rng = np.random.default_rng(2)
    pp = rng.choice([1, 2, 4, 8, 16, 32], plans)
    vpp = rng.choice([1, 2, 4, 8], plans) if schedule == "interleaved" else np.ones(plans, dtype=np.int64)
    return _costs(rng, plans), pp * rng.integers(1, 17, plans), pp, vpp


def _costs(rng: np.random.Generator, plans: int) -> StageCosts:
    forward = rng.uniform(0.9, 1.1, (4, plans))
    return StageCosts(
        forward_s=forward,
        input_grad_s=1.1 * forward,
        weight_grad_s=0.9 * forward,
        send_s=rng.uniform(0.0, 0.05, plans),
    )


def seconds(schedule: str, case: Case, repeats: int) -> float:
    """Shortest of ``repeats`` timings of all four functions."""
    costs, m, pp, vpp = case
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        pipeline_seconds(schedule, costs, m, pp, vpp)
        in_flight(schedule, m, pp, vpp)
        reduction_window_s(schedule, costs, m, pp, vpp)
        gather_window_s(schedule, costs, m, pp, vpp)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Print one row per schedule."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--copies", type=int, default=13, help="plans in the small call")
    parser.add_argument("--plans", type=int, default=16384, help="plans in the grid")
    given = parser.parse_args()
    print(f"{'schedule':<12} {given.copies:>6} plans [us] {given.plans:>8} plans [us each]    plans/s")
    for schedule in SCHEDULES:
        small = seconds(schedule, one_plan(schedule, given.copies), 300)
        large = seconds(schedule, grid(schedule, given.plans), 30) / given.plans
        print(f"{schedule:<12} {1e6 * small:>17.0f} {1e6 * large:>24.3f} {1.0 / large:>10,.0f}")


if __name__ == "__main__":
    main()
