"""Pairs: plans of a pool of prefill engines and a pool of decode engines of the same software and formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ridgeline.explore import serving_pools as pools
from ridgeline.explore.serving_loads import HEADROOM, batches, capacity, table_of
from ridgeline.explore.serving_plan import Load, ServingPlan, Target, front
from ridgeline.explore.serving_space import context_parallel
from ridgeline.facts.serving import Precision, Service
from ridgeline.sim.serving.steady import Steady
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.transfer import transfer_s

#: Prefill engines that are combined with every decode engine of the same software and formats.
PREFILLS = 4
#: Shares of the users who wait for the next token, not for the first, in divided pools.
_DECODING = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def apart(
    tables: Sequence[tuple[Service, StepTable]],
    chips: int | None,
    load: Load,
    target: Target,
    cp: tuple[int, ...],
) -> list[ServingPlan]:
    """Prefill and decode pools of one engine's software and formats; ``cp``: ranks that may share a prompt."""
    groups: dict[tuple[str, Precision], list[tuple[Service, StepTable]]] = {}
    for one, table in tables:
        groups.setdefault((one.engine.name, one.precision), []).append((one, table))
    plans = []
    for members in groups.values():
        prefills = _prefills(members, load, chips, cp)
        seen = set()
        for one, table in members:
            if (one.layout, one.speculation) in seen:
                continue  # a decode engine's chunk size is without effect
            seen.add((one.layout, one.speculation))
            for users in _decode_batches(one, table, chips, load):
                steady = pools.decode_alone(table, load.isl, load.osl, users)
                if steady is None:
                    continue
                for prefill in prefills:
                    made = (
                        _pair(one, steady, prefill, chips, load)
                        if load.rate is None
                        else _pair_for(one, steady, prefill, chips, load, target)
                    )
                    if made is not None:
                        plans.append(made)
    return list(_thinned(plans, target))


def _decode_batches(one: Service, table: StepTable, chips: int | None, load: Load) -> list[float]:
    """Requests of one decode engine to look at: where users are given, shares of them that decode, over its copies."""
    if load.users is None or chips is None:
        return batches(table, load)
    copies = range(1, min(chips // one.layout.chips, 8) + 1)
    found = {load.users * share / n for n in copies for share in _DECODING}
    return sorted(users for users in found if 1.0 <= users <= capacity(table, load))


@dataclass(frozen=True, slots=True)
class _Prefill:
    """A prefill engine, what it does, and how long the cache of a prompt takes to a decode engine."""

    service: Service
    rate: pools.PrefillRate
    sent_s: float

    @property
    def chips(self) -> int:
        return self.service.layout.chips


def _prefills(
    members: Sequence[tuple[Service, StepTable]], load: Load, chips: int | None, cp: tuple[int, ...]
) -> list[_Prefill]:
    """The prefill engines that no other beats in time and in prompts a chip, best yield first."""
    alone = [(one, table) for one, table in members if one.speculation.method == "none"]
    kept = _fastest(_rated(alone, load))
    wide = []
    for one in (item.service for item in kept):
        layout = one.layout
        if layout.dp > 1 or layout.pp > 1 or not context_parallel(one):
            continue
        for ways in cp:
            divided = one.replace(layout=replace(layout, cp=ways))
            if ways > 1 and divided.layout.chips < (chips or math.inf):
                wide.append((divided, table_of(divided, load)))
    return _fastest([*(kept if 1 in cp else []), *_rated(wide, load)])


def _rated(members: Sequence[tuple[Service, StepTable]], load: Load) -> list[_Prefill]:
    return [
        _Prefill(one, pools.prefill_rate(table, load.isl), transfer_s(one, table, load.isl))
        for one, table in members
    ]


def _fastest(rated: list[_Prefill]) -> list[_Prefill]:
    """Those with the best yield of all that are as fast, so many."""
    kept: list[_Prefill] = []
    for item in sorted(rated, key=lambda item: (-item.rate.requests_per_s / item.chips, item.rate.took_s)):
        if not kept or item.rate.took_s < 0.95 * kept[-1].rate.took_s:
            kept.append(item)
    return kept[:PREFILLS]


def _pair(
    one: Service, steady: Steady, prefill: _Prefill, chips: int | None, load: Load
) -> ServingPlan | None:
    """The balanced pair of pools; None where the chips do not hold both, or the users asked for are others."""
    assert chips is not None
    each = steady.output_tokens_per_s / load.osl
    prefills, decodes, served = pools.divide(
        chips, prefill.chips, one.layout.chips, prefill.rate.requests_per_s, each
    )
    if not served:
        return None
    plan = _divided(one, steady, prefill, prefills, decodes, served, chips, load)
    if load.users is not None and not 0.9 <= plan.all_users / load.users <= 1.1:
        return None
    return plan


def _pair_for(
    one: Service, steady: Steady, prefill: _Prefill, chips: int | None, load: Load, target: Target
) -> ServingPlan | None:
    """Pools as large as the rate needs; None where the chips are too few, or a smaller batch would do."""
    assert load.rate is not None
    each = HEADROOM * steady.output_tokens_per_s / load.osl
    decodes = math.ceil(load.rate / each)
    prefills = math.ceil(load.rate / (pools.BUSY * prefill.rate.requests_per_s))
    used = decodes * one.layout.chips + prefills * prefill.chips
    if (chips is not None and used > chips) or (load.rate < 0.5 * each * decodes and steady.running > 1.0):
        return None
    paid = used if target.given or chips is None else chips
    return _divided(one, steady, prefill, prefills, decodes, load.rate, paid, load)


def _divided(
    one: Service,
    steady: Steady,
    prefill: _Prefill,
    prefills: int,
    decodes: int,
    served: float,
    chips: int,
    load: Load,
) -> ServingPlan:
    """The plan of two pools that serve so many requests a second."""
    busy = served / (prefills * prefill.rate.requests_per_s)
    ttft = prefill.rate.ttft_s(min(busy, pools.BUSY), prefills) + prefill.sent_s
    return ServingPlan(
        service=one,
        replicas=decodes,
        chips=chips,
        users=served * steady.tpot_s * max(load.osl - 1.0, 1.0),
        steady=steady,
        ttft_s=ttft,
        tpot_s=steady.tpot_s,
        requests_per_s=served,
        output_tokens_per_s=served * load.osl,
        prefill=prefill.service,
        prefill_replicas=prefills,
        transfer_s=prefill.sent_s,
    )


def _thinned(plans: list[ServingPlan], target: Target) -> Iterator[ServingPlan]:
    """The pairs that no other pair beats, with and without the target: there are thousands of hopeless ones."""
    kept: dict[int, ServingPlan] = {id(plan): plan for plan in front(plans)}
    if target.given:
        within = [plan for plan in plans if target.met(plan.ttft_s, plan.tpot_s)]
        kept |= {id(plan): plan for plan in front(within)}
    yield from kept.values()
