"""Serving: search the plans of a deployment, check the chosen one in the simulation, and say what it holds."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ridgeline.api import arguments
from ridgeline.api.effects import without_effect
from ridgeline.api.errors import InputError
from ridgeline.api.serving_operation import words
from ridgeline.api.serving_request import DEGREES, ServingRequest, serving_request
from ridgeline.api.serving_result import ServingResult
from ridgeline.api.serving_settings import numbers, tables, under
from ridgeline.api.serving_simulation import simulated
from ridgeline.api.serving_words import plan_words, time_words
from ridgeline.explore import serving_check
from ridgeline.explore.serving_check import Check
from ridgeline.explore.serving_plan import SPREAD, Load, ServingPlan, Target
from ridgeline.explore.serving_search import NothingFits, ServingSearch, lacking_bytes, search
from ridgeline.explore.serving_space import ServingSpace
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Cluster
from ridgeline.graph.serving.memory import memory
from ridgeline.metrics.endless import check_time

#: Chips that are tried when nothing fits, to say what would.
_TRIED = tuple(2**i for i in range(11))


def serve(
    model: str | Path | Architecture,
    *,
    on: str | Cluster | Any = None,
    simulate: bool | None = None,
    progress: Callable[[int], None] | None = None,
    command: str = "",
    **question: Any,
) -> ServingResult:
    """Plan a deployment: what is not given is searched, and the cheapest plan within the target is taken.

    Args:
        model: catalog name, ``config.json``, architecture file or value.
        on: cluster or chip, or what `cluster` returned.
        simulate: check plans in the event simulation; left out: where a target, a rate or a trace is given.
        question: ``chips, isl, osl, rate, concurrency, trace, ttft, tpot, percentile, engine, precision, experts, kv,
            chunk, max_seqs, disaggregated, speculate, settings, replicas`` and degrees, as `serving_request` takes
            them, and how it is run, as `serving_operation.operation` does.

    Raises:
        ValueError: something is wrong, nothing fits, or no plan keeps the target; the message says what.
    """
    if on is None:
        raise InputError("on: missing; name a cluster or a chip")
    simulate = None if simulate is None else arguments.switch("simulate", simulate)
    arguments.called("progress", progress)
    asked = serving_request(model, on=on, **question)
    return answer(asked, simulate=simulate, progress=progress, command=command)


def answer(
    asked: ServingRequest,
    *,
    simulate: bool | None = None,
    progress: Callable[[int], None] | None = None,
    command: str = "",
) -> ServingResult:
    """Search what a request leaves open and check what is chosen.

    Raises:
        InputError: nothing fits, or no plan keeps the target.
    """
    run, how = functools.partial(simulated, operation=asked.operation), words(asked.operation, 0)
    if simulate is None:
        simulate = asked.target.given or asked.load.rate is not None or bool(how)
    if not simulate and how:
        raise InputError(f"simulate = False: {how} has an effect in the simulation alone")
    if not simulate and asked.target.percentile != Target().percentile:
        raise InputError(
            f"percentile = {asked.target.percentile:g}: has no effect without a simulation; give ttft, tpot or a rate"
        )
    start = time.perf_counter()
    found = _searched(asked, progress)
    if found.best is None:
        raise InputError(_impossible(asked, found))
    check_time("one token", max(found.best.ttft_s, found.best.tpot_s))
    seconds = time.perf_counter() - start
    if not simulate:
        notes = (*asked.notes, *_unfelt(asked, found, found.best, simulate=False))
        return ServingResult(asked, found, found.best, None, None, seconds, notes, command)
    plans = serving_check.candidates(found, asked.load, asked.target)
    requests = None if asked.trace is None else asked.trace.requests
    together_s = asked.operation.together_s
    checked, tried = serving_check.first_that_keeps(
        plans, asked.load, asked.target, run, chips=asked.chips, requests=requests, together_s=together_s,
        grows="replicas" not in asked.space.fixed, progress=progress,
    )  # fmt: skip
    if asked.target.given:
        checked = serving_check.refined(checked, asked.load, asked.target, run, together_s=together_s)
    unfelt = _unfelt(asked, found, checked.plan, simulate=True)
    notes = (*asked.notes, *_remarks(asked, checked, tried), *unfelt)
    most = serving_check.largest_rate(
        checked.plan, asked.load, asked.target, run, together_s=together_s, progress=progress
    )
    return ServingResult(asked, found, checked.plan, checked, most, seconds, notes, command)


def _unfelt(asked: ServingRequest, found: ServingSearch, plan: ServingPlan, *, simulate: bool) -> list[str]:
    """Notes of settings without which the search finds the same plan, and this plan does the same.

    The plan alone is looked at first, as most settings change its numbers; all plans only where one does not.
    """

    def same(settings: tuple[str, ...]) -> bool:
        assert asked.again is not None
        other = asked.again(settings=settings)
        before = under(plan, asked, other)
        if other.notes != asked.notes or numbers(before, other) != numbers(plan, asked):
            return False
        if simulate and tables(before, other) != tables(plan, asked):
            return False
        best = _searched(other, None).best
        return best is not None and found.best is not None and best.to_dict() == found.best.to_dict()

    return without_effect(asked.settings, same)


def _searched(asked: ServingRequest, progress: Callable[[int], None] | None) -> ServingSearch:
    try:
        return search(
            asked.architecture, asked.chip, asked.cluster, asked.chips, asked.load, asked.target, asked.space,
            divided=asked.divided, progress=progress,
        )  # fmt: skip
    except NothingFits as error:
        if error.lack is not None and not error.fit:
            raise InputError(f"{error}; {_would_fit(asked)}") from None
        if asked.load.rate is not None:
            raise InputError(f"{error}{_most(asked)}") from None
        raise InputError(str(error)) from None


def _would_fit(asked: ServingRequest) -> str:
    """The smallest changes that make the model fit: open degrees, more chips; or a narrower format on these chips."""
    fixed = asked.space.fixed
    open_degrees = {name: value for name, value in fixed.items() if name not in DEGREES}
    open_formats = {name: value for name, value in open_degrees.items() if name not in ("precision", "kv")}
    here = asked.chips or _TRIED[-1]
    same = [(fixed, n) for n in _TRIED if n > here] if open_degrees == fixed else []
    tries = (
        [
            *((open_degrees, n) for n in _TRIED if n <= here),
            *same,
            *((open_degrees, n) for n in _TRIED if n > here),
        ],
        [(open_formats, n) for n in _TRIED if n <= here] if open_formats != open_degrees else [],
    )
    found = []
    for attempts in tries:
        words = (_fitting(asked, dataclasses.replace(asked.space, fixed=one), n) for one, n in attempts)
        found += [next((each for each in words if each), "")]
    said = " or ".join(words for words in found if words)
    return f"{said} would fit" if said else f"it fits on no layout of up to {_TRIED[-1]:,} chips"


def _fitting(asked: ServingRequest, space: ServingSpace, chips: int) -> str:
    """A service that fits on so many chips, in words; empty where none does."""
    tokens = asked.load.isl + asked.load.osl
    for base in space.bases(asked.architecture, asked.chip, asked.cluster):
        for one in space.services(base, chips, asked.load.longest_prompt):
            if one.layout.chips == chips and lacking_bytes(memory(one), tokens) <= 0.0:
                return f"{one.layout} in {one.precision.linear} on {chips} chip{'s' if chips > 1 else ''}"
    return ""


def _most(asked: ServingRequest) -> str:
    """The rate that the chips do hold."""
    load = Load(isl=asked.load.isl, osl=asked.load.osl)
    found = search(
        asked.architecture, asked.chip, asked.cluster, asked.chips, load, asked.target, asked.space,
        divided=asked.divided,
    )  # fmt: skip
    rate = max((plan.requests_per_s for plan in found.ranked), default=0.0)
    words = " within the target" if asked.target.given else ""
    return f": the most is about {rate:.3g} requests/s{words}"


def _impossible(asked: ServingRequest, found: ServingSearch) -> str:
    """No plan keeps the target: the best that each of its latencies can be."""
    target, parts = asked.target, []
    if target.ttft_s is not None:
        best = min(found.plans, key=lambda plan: (plan.ttft_s, plan.key))
        parts.append(f"TTFT is {time_words(best.ttft_s)} at best ({plan_words(best)})")
    if target.tpot_s is not None:
        best = min(found.plans, key=lambda plan: (plan.tpot_s, plan.key))
        parts.append(f"TPOT is {time_words(best.tpot_s)} at best ({plan_words(best)})")
    near = found.nearest
    both = ""
    if len(parts) == 2:
        both = (
            f"; both together come closest with {plan_words(near)}: TTFT {time_words(near.ttft_s)}, "
            f"TPOT {time_words(near.tpot_s)}"
        )
    wanted = " and ".join(
        f"{name} {time_words(limit)}"
        for name, limit in (("TTFT", target.ttft_s), ("TPOT", target.tpot_s))
        if limit is not None
    )
    return f"no plan keeps {wanted} even in the mean: {'; '.join(parts)}{both}"


def _remarks(asked: ServingRequest, checked: Check, tried: int) -> list[str]:
    """What the check says beside its numbers."""
    notes = []
    if not checked.met and asked.target.given:
        notes.append(
            f"no plan of the {tried} simulated keeps the target at P{asked.target.percentile:g}; "
            "the one that comes closest is shown"
        )
    elif asked.target.given and tried > 1:
        plans = "plan that looked" if tried == 2 else "plans that looked"
        notes.append(
            f"{tried - 1} {plans} cheaper in closed form missed the target at P{asked.target.percentile:g} "
            "when simulated"
        )
    elif not checked.keeps_up:
        notes.append("the queue grows in the simulation: the chips do not keep up with this load")
    if asked.trace is None:
        share = round(100 * SPREAD)
        notes.append(f"simulated lengths vary evenly by {share} % around their means (assumption)")
    if checked.replicas < checked.plan.replicas:
        notes.append(
            f"one of {checked.plan.replicas} replicas is simulated with its share of the requests; "
            "the router spreads them evenly"
        )
    return notes
