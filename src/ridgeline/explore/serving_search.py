"""Serving search: every service of a space in closed form at every load, and the plans that no other beats.

Two passes: all engines, layouts, formats and speculations with the engine's own chunk and cache; then other chunk
sizes and caches for those that came near the front or near the cheapest plan within the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ridgeline.explore.serving_loads import (
    HEADROOM,
    at_rate,
    batches,
    plan_of,
    table_of,
    with_replicas,
)
from ridgeline.explore.serving_pairs import apart
from ridgeline.explore.serving_plan import Load, ServingPlan, Target, front
from ridgeline.explore.serving_space import ServingSpace
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.serving import Service
from ridgeline.graph.serving.memory import Memory, format_bytes, memory
from ridgeline.sim.serving.build import drafts_fit, with_drafts
from ridgeline.sim.serving.steady import closed_loop
from ridgeline.sim.serving.table import StepTable

#: A service whose best point has this share of the yield of the front is looked at with other chunks and caches.
NEAR = 0.95
#: Without a target: tokens a second that a reader follows.
READING = 20.0
#: Prompts from so many tokens on are also divided over ranks of context parallelism, so many ways: shorter ones leave
#: each rank too few tokens to fill its kernels.
LONG_PROMPT, DIVISIONS = 16_384, (1, 2, 4, 8)
#: Chips that engines may take where the number of chips is open: two scale-up domains, at least and at most so many.
OPEN_CHIPS = (16, 64)
#: Answers whose times differ by less are as good as each other.
ALIKE = 0.05


@dataclass(frozen=True, slots=True)
class Lack:
    """A service that does not fit: what the cache of one request needs beyond what is left [B of one chip]."""

    service: Service
    lacking_bytes: float


@dataclass(frozen=True, slots=True, eq=False)
class ServingSearch:
    """All plans in the order of their `ServingPlan.key`, the front, and the best within the target by its means.

    ``best`` is None where no plan keeps the target; ``nearest`` then comes closest. ``lack``: the service that lacks
    least memory, of those that do not fit.
    """

    plans: tuple[ServingPlan, ...]
    front: tuple[ServingPlan, ...]
    ranked: tuple[ServingPlan, ...]  # within the target, cheapest first, one of each service
    nearest: ServingPlan
    considered: int
    fit: int
    lack: Lack | None

    @property
    def best(self) -> ServingPlan | None:
        return self.ranked[0] if self.ranked else None


class NothingFits(ValueError):
    """No service of the space fits in the memory of its chips, or none keeps up with the load (``fit`` above 0).

    ``lack`` is the nearest of those that do not fit; None where all do, or none is legal.
    """

    def __init__(self, message: str, lack: Lack | None, fit: int) -> None:
        super().__init__(message)
        self.lack, self.fit = lack, fit


@dataclass(slots=True)
class _Found:
    """What a search has gathered."""

    plans: list[ServingPlan] = field(default_factory=list)
    tables: list[tuple[Service, StepTable]] = field(default_factory=list)
    replicas: int | None = None  # of one pool, where they are fixed
    plain: dict[tuple[object, ...], StepTable] = field(default_factory=dict)  # without drafts
    considered: int = 0
    lack: Lack | None = None

    def table(self, one: Service, load: Load) -> StepTable:
        """The step times; drafts start from those without, if these are known."""
        key = (one.engine.name, one.layout, one.precision, one.limits)
        if not one.speculation.drafts:
            self.plain[key] = table_of(one, load)
            return self.plain[key]
        plain = self.plain.get(key)
        return with_drafts(plain, one) if plain and drafts_fit(plain, one) else table_of(one, load)


def search(
    architecture: Architecture,
    chip: Chip,
    cluster: Cluster,
    chips: int | None,
    load: Load,
    target: Target | None = None,
    space: ServingSpace | None = None,
    *,
    divided: bool | None = None,
    progress: Callable[[int], None] | None = None,
) -> ServingSearch:
    """Evaluate every plan of ``space`` for ``load`` on ``chips`` chips.

    ``chips`` None with ``load.rate``: as many replicas of each service as the rate needs. ``divided``: prefill and
    decode engines apart (True), one pool of engines (False), or whichever is better. ``progress`` is told the number
    of new plans.

    Raises:
        NothingFits: no service is legal, or none fits.
        ValueError: neither chips nor a rate.
    """
    if chips is None and load.rate is None and not (space and "replicas" in space.fixed):
        raise ValueError("chips: missing; without them a rate must say how many are needed")
    chosen, wanted = space or ServingSpace(), target or Target()
    found = _Found(replicas=chosen.fixed.get("replicas"))
    cp: tuple[int, ...] = DIVISIONS if load.isl >= LONG_PROMPT else (1,)
    if divided and "cp" in chosen.fixed:  # only prompts are divided, so only prefill engines are
        cp = (chosen.fixed["cp"],)
        chosen = replace(chosen, fixed={k: v for k, v in chosen.fixed.items() if k != "cp"})
    elif "cp" in chosen.fixed:
        cp = (1,)
    room = chips or int(np.clip(2 * (cluster.tiers[0].size or OPEN_CHIPS[0]), *OPEN_CHIPS))
    for base in chosen.bases(architecture, chip, cluster):
        _add(found, chosen.services(base, room, load.longest_prompt), chips, load, wanted, progress)
    near = _near(found.plans, wanted)
    _add(
        found,
        (v for one in near for v in chosen.variants(one, load.longest_prompt)),
        chips,
        load,
        wanted,
        progress,
    )
    if divided:
        found.plans.clear()
    if divided is not False:
        pairs = apart(found.tables, chips, load, wanted, cp)
        found.plans += pairs
        if progress:
            progress(len(pairs))
    if not found.plans:
        raise NothingFits(_nothing(found, architecture, load, room), found.lack, len(found.tables))
    plans = tuple(sorted(found.plans, key=lambda plan: plan.key))
    return ServingSearch(
        plans=plans,
        front=tuple(front(plans)),
        ranked=tuple(_ranked(plans, load, wanted)),
        nearest=min(plans, key=lambda plan: (_miss(plan, wanted), plan.key)),
        considered=found.considered,
        fit=len(found.tables),
        lack=found.lack,
    )


def lacking_bytes(found: Memory, tokens: float) -> float:
    """What one chip lacks to hold the cache of one request of ``tokens`` tokens [B]; at most 0 where it fits."""
    return found.request_kv(tokens) - found.kv


def _add(
    found: _Found,
    services: Iterable[Service],
    chips: int | None,
    load: Load,
    target: Target,
    progress: Callable[[int], None] | None,
) -> None:
    """Evaluate services and keep their plans."""
    for one in services:
        found.considered += 1
        lacking = lacking_bytes(memory(one), load.isl + load.osl)
        if lacking > 0.0:
            if found.lack is None or lacking < found.lack.lacking_bytes:
                found.lack = Lack(one, lacking)
            continue
        table = found.table(one, load)
        found.tables.append((one, table))
        plans = list(_plans(one, table, chips, load, target, found.replicas))
        found.plans += plans
        if progress:
            progress(len(plans))


def _plans(
    one: Service,
    table: StepTable,
    chips: int | None,
    load: Load,
    target: Target,
    fixed: int | None = None,
) -> Iterator[ServingPlan]:
    """One service at the loads that are asked for; ``fixed``: so many replicas, on chips of their own."""
    if fixed is not None:
        if chips is not None and fixed * one.layout.chips > chips:
            return
        chips = fixed * one.layout.chips
    elif load.rate is not None and (chips is None or target.given):
        plan = _enough(one, table, chips, load, load.rate, target)
        if plan is not None:
            yield plan
        return
    assert chips is not None
    replicas = chips // one.layout.chips
    if load.rate is not None:
        steady = at_rate(table, load, load.rate / replicas)
        if steady is not None:
            yield plan_of(one, replicas, chips, steady, rate=load.rate, osl=load.osl)
    elif load.users is not None:
        replicas = min(replicas, int(load.users))  # an engine without users is left out
        steady = closed_loop(table, load.isl, load.osl, load.users / replicas)
        yield plan_of(one, replicas, chips, steady, osl=load.osl)
    else:
        for users in batches(table, load):
            yield plan_of(one, replicas, chips, closed_loop(table, load.isl, load.osl, users), osl=load.osl)


def _enough(
    one: Service, table: StepTable, chips: int | None, load: Load, rate: float, target: Target
) -> ServingPlan | None:
    """So many replicas as the rate needs, each as busy as the target allows; None where the chips are too few."""
    loads = [closed_loop(table, load.isl, load.osl, users) for users in batches(table, load)]
    wanted = target if target.given else Target(tpot_s=1.0 / READING)
    held = [steady for steady in loads if wanted.met(steady.ttft_s, steady.tpot_s)]
    best = max(steady.output_tokens_per_s for steady in held or loads) / load.osl
    replicas = math.ceil(rate / (HEADROOM * best))
    if chips is not None:
        replicas = min(replicas, chips // one.layout.chips)
    return with_replicas(one, table, load, replicas, rate)


def _ranked(plans: Sequence[ServingPlan], load: Load, target: Target) -> list[ServingPlan]:
    """Plans within the target, cheapest first; each service once, at its best load.

    Where a rate is given all plans of so many chips cost the same and the shortest answer wins, of those about as short
    the one with the widest format. Without target and load a plan must be as fast as a reader, if one is.
    """
    within = [plan for plan in plans if target.met(plan.ttft_s, plan.tpot_s)]
    if not target.given and load.users is None and load.rate is None:
        readable = [plan for plan in within if plan.tokens_per_s_user >= READING]
        within = readable or within

    def order(plan: ServingPlan) -> tuple[object, ...]:
        life = plan.ttft_s + plan.tpot_s * (load.osl - 1.0)
        if load.rate is not None:
            alike = round(math.log(life) / ALIKE)
            return (plan.chips, alike, -format_bytes(plan.service.precision.of_experts), life, plan.key)
        return (-plan.tokens_per_s_chip, life, plan.key)

    kept: dict[tuple[int, int, int], ServingPlan] = {}
    for plan in sorted(within, key=order):
        kept.setdefault((id(plan.service), id(plan.prefill), plan.prefill_replicas), plan)
    return list(kept.values())


def _near(plans: Sequence[ServingPlan], target: Target) -> list[Service]:
    """Services of the first pass with a point near the front, or near the cheapest plan within the target.

    Chips that no engine fills do not count here: which services are looked at again then hardly depends on how many
    chips there are.
    """
    chosen: dict[int, Service] = {}
    groups = [plans]
    if target.given:
        groups.append([plan for plan in plans if target.met(plan.ttft_s, plan.tpot_s)])
    for group in groups:
        ordered = sorted(group, key=lambda plan: (-plan.tokens_per_s_user, plan.key))
        speeds = np.array([-plan.tokens_per_s_user for plan in ordered])
        yields = np.array([plan.output_tokens_per_s / plan.chips_used for plan in ordered])
        most = np.maximum.accumulate(yields) if len(yields) else yields
        for plan, own in zip(ordered, yields, strict=True):
            # the best yield of all plans that are as fast for a user
            at = int(np.searchsorted(speeds, -plan.tokens_per_s_user, side="right")) - 1
            if own >= NEAR * most[at]:
                chosen.setdefault(id(plan.service), plan.service)
    return sorted(chosen.values(), key=lambda one: (one.engine.name, str(one.precision), str(one.layout)))


def _miss(plan: ServingPlan, target: Target) -> float:
    """How many times beyond the target a plan is, at its worse latency."""
    shares = [1.0]
    if target.ttft_s is not None:
        shares.append(plan.ttft_s / target.ttft_s)
    if target.tpot_s is not None:
        shares.append(plan.tpot_s / target.tpot_s)
    return max(shares)


def _nothing(found: _Found, architecture: Architecture, load: Load, chips: int) -> str:
    if found.considered == 0:
        return (
            f"no legal service of {architecture.name} on {chips} chips for prompts of up to "
            f"{load.longest_prompt:,} tokens (engines that prefill whole prompts need a chunk as long)"
        )
    if found.tables or found.lack is None:
        rate = f" of {load.rate:g} requests/s" if load.rate is not None else ""
        return f"no plan of {architecture.name} on {chips} chips keeps up with a load{rate}"
    one, lacking = found.lack.service, found.lack.lacking_bytes
    return (
        f"{architecture.name} does not fit on {chips} x {one.chip.name}: {one.layout} in {one.precision.linear} "
        f"with {one.engine.name} lacks {lacking / 1e9:.1f} GB on each chip for a request of "
        f"{load.isl + load.osl:,.0f} tokens"
    )
