"""Effects: engines with one change, evaluated in closed form as the search does, for `insight.serving_sensitivity`."""

from __future__ import annotations

from ridgeline.explore import serving_pools as pools
from ridgeline.explore.serving_loads import capacity, table_of
from ridgeline.explore.serving_plan import Load, ServingPlan, Target
from ridgeline.explore.serving_search import lacking_bytes
from ridgeline.explore.serving_space import holds
from ridgeline.graph.serving.memory import memory
from ridgeline.insight.serving_sensitivity import Served, Steadily, serving_sensitivities
from ridgeline.insight.serving_sensitivity import ServingSensitivity as Sensitivity
from ridgeline.sim.serving.steady import closed_loop
from ridgeline.sim.serving.transfer import transfer_s


def effects(plan: ServingPlan, load: Load, target: Target) -> tuple[Sensitivity, ...]:
    """What one change would do to a plan at its own number of requests under way."""
    base = Served(plan.service, max(plan.users / plan.replicas, 1.0), plan.prefill)
    engines = max(plan.prefill_replicas, 1)
    return serving_sensitivities(base, lambda served: steadily(served, load, target, engines))


def steadily(served: Served, load: Load, target: Target, engines: int = 1) -> Steadily:
    """Means of one engine, or of a balanced pair of pools with so many prefill ``engines``.

    Raises:
        ValueError: the cache does not hold one request, or a prompt that is taken whole does not fit in a step.
    """
    one, first = served.service, served.first
    for each in (one, first):
        if lacking_bytes(memory(each), load.isl + load.osl) > 0.0:
            raise ValueError(f"{each.layout}: the cache of one request does not fit")
    if not holds(first, first.max_batched_tokens, load.longest_prompt):
        raise ValueError(f"a prompt of {load.longest_prompt:,} tokens does not fit in one step")
    table = table_of(one, load)
    users, note = served.users, ""
    most = capacity(table, load)
    if users > most * (1.0 + 1e-9):
        users, note = most, f"an engine runs {most:,.0f} at a time"
    if served.prefill is None:
        steady = closed_loop(table, load.isl, load.osl, served.users)
        ttft, chip_s = steady.ttft_s, one.layout.chips / steady.output_tokens_per_s
    else:
        alone = pools.decode_alone(table, load.isl, load.osl, users)
        if alone is None:
            raise ValueError("the cache does not hold the load")
        steady, before = alone, table_of(served.prefill, load)
        rate = pools.prefill_rate(before, load.isl)
        ttft = rate.ttft_s(pools.BUSY, engines) + transfer_s(served.prefill, before, load.isl)
        prompts = served.prefill.layout.chips / (pools.BUSY * rate.requests_per_s)
        chip_s = prompts / load.osl + one.layout.chips / steady.output_tokens_per_s
    misses = [
        name
        for name, value, limit in (("TTFT", ttft, target.ttft_s), ("TPOT", steady.tpot_s, target.tpot_s))
        if limit is not None and value > limit
    ]
    words = [note] if note else []
    words += [f"misses the target of {' and '.join(misses)}"] if misses else []
    return Steadily(ttft, steady.tpot_s, chip_s, "; ".join(words))
