"""The event simulation of a plan's engines; Numba is loaded only where one runs."""

from __future__ import annotations

from ridgeline.explore.serving_check import Check, Pool, pool_of
from ridgeline.explore.serving_plan import Load
from ridgeline.facts.requests import Requests
from ridgeline.report.serving_parts import StepBlock
from ridgeline.sim.serving.fleet import Fleet, Transfer
from ridgeline.sim.serving.outcome import Outcome


def simulated(requests: Requests, pool: Pool) -> Outcome:
    """The requests through one engine, or through replicas behind a router that sends to the least loaded."""
    if _alone(pool):
        from ridgeline.sim.serving.simulate import simulate

        return simulate(requests, pool.replicas[0])
    from ridgeline.sim.serving.drive import simulate_fleet

    return simulate_fleet(requests, fleet_of(pool))


def fleet_of(pool: Pool) -> Fleet:
    """The engines of a pool behind their router."""
    return Fleet(
        replicas=pool.replicas,
        prefill=pool.prefill,
        router="least_loaded",
        transfer=Transfer(bytes_per_s=pool.transfer_bytes_per_s),
    )


def _alone(pool: Pool) -> bool:
    return len(pool.replicas) == 1 and not pool.prefill


def busy_second(check: Check, load: Load) -> list[StepBlock]:
    """Every step of one busy second of a check, engine by engine, prefill engines first; cut at its edges."""
    from ridgeline.sim.serving.timeline import busy_window, engine_steps, fleet_steps

    pool, window = pool_of(check.plan, load, check.replicas), busy_window(check.outcome)
    if _alone(pool):
        steps = engine_steps(check.requests, pool.replicas[0], window)
    else:
        steps = fleet_steps(check.requests, fleet_of(pool), window)
    count = len(pool.replicas)
    steps.sort(key=lambda step: (step.replica < count, step.replica, step.unit, step.start_s))
    units = {step.replica for step in steps if step.unit}
    blocks = []
    for step in steps:
        name = f"engine {step.replica + 1}"
        if pool.prefill:
            decodes = step.replica < count
            name = f"decode {step.replica + 1}" if decodes else f"prefill {step.replica - count + 1}"
        if step.replica in units:
            name += f", part {step.unit + 1}"
        start_s, end_s = max(step.start_s, window[0]), min(step.end_s, window[1])
        blocks.append(StepBlock(name, step.kind, start_s, end_s, step.tokens, step.decodes, step.prefills))
    return blocks
