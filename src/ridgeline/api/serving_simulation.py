"""The event simulation of a plan's engines; Numba is loaded only where one runs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ridgeline.api.errors import InputError
from ridgeline.explore.serving_check import Check, Pool, pool_of
from ridgeline.explore.serving_plan import Load
from ridgeline.facts.requests import Requests
from ridgeline.report.serving_parts import StepBlock
from ridgeline.sim.serving.fleet import Fleet, Operation, Transfer
from ridgeline.sim.serving.outcome import Outcome

GOLDEN = 0.6180339887498949


def simulated(requests: Requests, pool: Pool, operation: Operation | None = None) -> Outcome:
    """The requests through one engine, or through replicas behind a router."""
    how = operation or Operation()
    asked = prepared(requests, how)
    if _alone(pool, how):
        from ridgeline.sim.serving.simulate import simulate

        return simulate(asked, pool.replicas[0], how.settings)
    from ridgeline.sim.serving.drive import simulate_fleet

    return simulate_fleet(asked, fleet_of(pool, how))


def prepared(requests: Requests, operation: Operation) -> Requests:
    """The requests with deadlines and levels of an operation; those of a trace keep their own levels."""
    changes: dict[str, Any] = {}
    if operation.timeout_s is not None:
        changes["timeout_s"] = operation.timeout_s
    if operation.urgent and requests.priority is None:
        # evenly spread by the golden ratio, so that any stretch of requests has its share
        place = np.modf(np.arange(len(requests)) * GOLDEN)[0]
        changes["priority"] = np.where(place < operation.urgent, 0, 1)
    return dataclasses.replace(requests, **changes) if changes else requests


def fleet_of(pool: Pool, operation: Operation) -> Fleet:
    """The engines of a pool behind their router.

    Raises:
        InputError: a replica that fails is not there.
    """
    fleet = Fleet(
        replicas=pool.replicas,
        prefill=pool.prefill,
        router=operation.router,
        transfer=Transfer(bytes_per_s=pool.transfer_bytes_per_s),
        settings=operation.settings,
        autoscale=operation.autoscale,
        failures=operation.failures,
        on_failure=operation.on_failure,
    )
    count = len(pool.replicas) + len(pool.prefill)
    for failure in operation.failures:
        if failure.replica >= count:
            raise InputError(
                f"fail: replica {failure.replica} is not there; the plan has {count} engines, 0 to {count - 1} "
                "(those that prefill come last); --replicas fixes how many"
            )
    return fleet


def _alone(pool: Pool, operation: Operation) -> bool:
    return len(pool.replicas) == 1 and not pool.prefill and operation.together_s is None


def busy_second(check: Check, load: Load, operation: Operation | None = None) -> list[StepBlock]:
    """Every step of one busy second of a check, engine by engine, prefill engines first; cut at its edges."""
    from ridgeline.sim.serving.timeline import busy_window, engine_steps, fleet_steps

    pool, window = pool_of(check.plan, load, check.replicas), busy_window(check.outcome)
    how = operation or Operation()
    requests = prepared(check.requests, how)
    if _alone(pool, how) and requests.after is None:
        steps = engine_steps(requests, pool.replicas[0], window, how.settings)
    else:
        steps = fleet_steps(requests, fleet_of(pool, how), window)
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
