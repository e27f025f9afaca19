"""Serving search: every service of a space in closed form at every load, and the plans that no other beats.

Two passes: all engines, layouts, formats and speculations with the engine's own chunk and cache; then other chunk
sizes and caches for those that came near the front or near the cheapest plan within the target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ridgeline.explore import serving_pools as pools
from ridgeline.explore.serving_plan import Load, ServingPlan, Target
from ridgeline.explore.serving_space import ServingSpace, context_parallel
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.serving import Precision, Service
from ridgeline.graph.serving.memory import Memory, format_bytes, memory
from ridgeline.sim.serving.build import drafts_fit, step_table, with_drafts
from ridgeline.sim.serving.steady import Steady, closed_loop
from ridgeline.sim.serving.table import StepTable
from ridgeline.sim.serving.transfer import transfer_s

#: A service whose best point has this share of the yield of the front is looked at with other chunks and caches.
NEAR = 0.95
#: Without a target: tokens a second that a reader follows.
READING = 20.0
#: Share of the closed form's rate that replicas are given where their number follows from a rate: queues of random
#: arrivals need the rest. The simulation then says whether it is enough.
HEADROOM = 0.85
#: Prefill engines that are combined with every decode engine of the same software and formats.
PREFILLS = 4
#: Prompts from so many tokens on are also divided over ranks of context parallelism, so many ways: shorter ones leave
#: each rank too few tokens to fill its kernels.
LONG_PROMPT, DIVISIONS = 16_384, (1, 2, 4, 8)
#: Chips that engines may take where the number of chips is open: two scale-up domains, at least and at most so many.
OPEN_CHIPS = (16, 64)
#: Answers whose times differ by less are as good as each other.
ALIKE = 0.05
_FIXED_POINT = 25
#: Shares of the users who wait for the next token, not for the first, in divided pools.
_DECODING = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


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
        pairs = _apart(found.tables, chips, load, wanted, cp)
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


def table_of(service: Service, load: Load) -> StepTable:
    """The step times for requests of this length."""
    longest = int(2 ** math.ceil(math.log2(max(load.isl + load.osl, 2048.0))))
    return step_table(service, longest)


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


def _apart(
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


def front(plans: Sequence[ServingPlan]) -> list[ServingPlan]:
    """Plans that no other beats in tokens/s of a user and tokens/s of a chip, the fastest for a user first."""
    ordered = sorted(plans, key=lambda p: (-p.tokens_per_s_user, -p.tokens_per_s_chip, p.key))
    kept: list[ServingPlan] = []
    most = 0.0
    for plan in ordered:
        if plan.tokens_per_s_chip > most * (1.0 + 1e-9):
            kept.append(plan)
            most = plan.tokens_per_s_chip
    return kept


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
