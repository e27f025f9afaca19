"""How a deployment is run, from words: router, replicas that start and fail, deadlines, memories below HBM."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ridgeline import units
from ridgeline.api import arguments
from ridgeline.api.errors import InputError
from ridgeline.api.overrides import one_of
from ridgeline.api.request import whole
from ridgeline.sim.serving.engine import Settings, Tier
from ridgeline.sim.serving.fleet import Autoscale, Failure, Operation, Router

#: Routers by the words of options.
ROUTER_WORDS: dict[str, Router] = {
    "round-robin": "round_robin",
    "least-loaded": "least_loaded",
    "prefix": "prefix_aware",
    "session": "sticky",
}
ON_FAILURE = ("retry", "lose")
PREEMPTION = ("recompute", "swap")


def operation(
    *,
    replicas: int | None,
    router: str | None = None,
    min_replicas: int | str | None = None,
    scale_at: float | str | None = None,
    scale_every: float | str | None = None,
    cold_start: float | str | None = None,
    fail: str | Iterable[str] | None = None,
    on_failure: str | None = None,
    timeout: float | str | None = None,
    urgent: float | str | None = None,
    kv_tier: str | Iterable[str] | None = None,
    preemption: str | None = None,
    prefix_cache: bool | None = None,
) -> Operation:
    """Build it; what is left out is as engines do it.

    Args:
        replicas: that the user fixed.
        router: round-robin, least-loaded, prefix or session.
        min_replicas: replicas that are always up; then their number follows the load.
        scale_at: requests on a replica, waiting and running, above which another starts. scale_every: time between
            two such decisions. cold_start: time until a new replica serves.
        fail: ``AT:DOWN`` or ``AT:DOWN:REPLICA``, such as ``60s:120s:0``; several are allowed.
        on_failure: retry or lose the requests of a replica that fails.
        timeout: a request without its first token by then is dropped.
        urgent: share of requests that go first.
        kv_tier: ``NAME:SIZE:BANDWIDTH`` or with ``:LATENCY``, such as ``host:200GB:50GB/s``, of one attention rank.
        preemption: recompute or swap. prefix_cache: False turns it off.

    Raises:
        InputError: a value is wrong; says which, and the choices.
    """
    if router is not None and replicas == 1:
        raise InputError(f"router = {arguments.said(router)}: has no effect with replicas = 1")
    failures = tuple(_failure(text, replicas) for text in _several("fail", fail, "60s:120s:0"))
    if on_failure is not None and not failures:
        raise InputError(
            f"on_failure = {arguments.said(on_failure)}: without a failure; give fail, such as 60s:120s:0"
        )
    return Operation(
        router=ROUTER_WORDS[
            _word("router", "least-loaded" if router is None else router, list(ROUTER_WORDS))
        ],
        settings=_settings(kv_tier, preemption, prefix_cache),
        autoscale=_autoscale(replicas, min_replicas, scale_at, scale_every, cold_start),
        failures=failures,
        on_failure="lose"
        if _word("on_failure", "retry" if on_failure is None else on_failure, ON_FAILURE) == "lose"
        else "retry",
        timeout_s=None if timeout is None else seconds("timeout", timeout),
        urgent=0.0 if urgent is None else _share("urgent", urgent),
    )


def seconds(name: str, value: Any, *, zero: bool = False) -> float:
    """A time from text such as ``50 ms``, or a number of seconds."""
    found = arguments.number(value)
    if found != found:  # no bare number: text with a unit, or nothing that is a time
        try:
            found = units.parse(value, "s")
        except ValueError as error:
            raise InputError(f"{name}: {error}") from None
    if not (found >= 0.0 if zero else found > 0.0) or found >= 1e9:
        raise InputError(
            f"{name} = {arguments.said(value)}: expected seconds {'from' if zero else 'above'} 0, such as 30 or '50 ms'"
        )
    return found


def words(asked: Operation, replicas: int) -> str:
    """What differs from engines on their own, in words; empty where nothing does."""
    router = next(name for name, value in ROUTER_WORDS.items() if value == asked.router)
    parts = [f"router {router}"] if asked.router != "least_loaded" else []
    if asked.autoscale is not None:
        plan = asked.autoscale
        parts.append(
            f"{plan.minimum} to {replicas} replicas, one for every {plan.target:g} requests, cold start "
            f"{plan.cold_start_s:g} s"
        )
    parts += [
        f"replica {failure.replica} down from {failure.at_s:g} s for {failure.down_s:g} s"
        for failure in asked.failures
    ]
    if asked.failures and asked.on_failure == "lose":
        parts.append("its requests are lost")
    parts += [f"timeout {asked.timeout_s:g} s"] if asked.timeout_s is not None else []
    parts += [f"{100.0 * asked.urgent:g} % of requests go first"] if asked.urgent else []
    parts += [f"KV cache also in {tier.name} ({tier.bytes / 1e9:,.4g} GB)" for tier in asked.settings.tiers]
    parts += ["preempted requests swap"] if asked.settings.preemption == "swap" else []
    parts += [] if asked.settings.prefix_cache else ["no prefix cache"]
    return ", ".join(parts)


def to_dict(asked: Operation) -> dict[str, Any]:
    """Plain JSON values."""
    values = dataclasses.asdict(asked)
    values["settings"].pop("max_span")
    return values


def _word(name: str, value: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        close = difflib.get_close_matches(arguments.said(value), choices, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"{name} = {arguments.said(value)} is unknown; {hint}choose {one_of(choices)}")
    return value


def _share(name: str, value: Any) -> float:
    try:
        found = units.parse(arguments.plain(value), "1")
    except ValueError:
        found = -1.0
    if not 0.0 <= found <= 1.0:
        raise InputError(
            f"{name} = {arguments.said(value)}: expected a share from 0 to 1, such as 0.1 or '10 %'"
        )
    return found


def _several(name: str, given: str | Iterable[str] | None, example: str) -> tuple[str, ...]:
    return () if given is None else arguments.texts(name, given, f"text such as {example}, or several")


def _failure(text: str, replicas: int | None) -> Failure:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) not in (2, 3):
        raise InputError(f"fail = {text}: write it as AT:DOWN or AT:DOWN:REPLICA, such as 60s:120s:0")
    replica = parts[2] if len(parts) == 3 else "0"
    if not replica.isdecimal() or len(replica) > 9 or (replicas is not None and int(replica) >= replicas):
        most = "a number from 0" if replicas is None else f"0 to {replicas - 1}"
        raise InputError(f"fail = {text}: replica {replica} is not there; expected {most}")
    return Failure(
        at_s=seconds("fail", parts[0], zero=True), down_s=seconds("fail", parts[1]), replica=int(replica)
    )


def _autoscale(
    replicas: int | None, minimum: Any, scale_at: Any, scale_every: Any, cold_start: Any
) -> Autoscale | None:
    if minimum is None:
        for name, value in (("scale_at", scale_at), ("scale_every", scale_every), ("cold_start", cold_start)):
            if value is not None:
                raise InputError(
                    f"{name} = {arguments.said(value)}: has no effect without min_replicas, which turns scaling on"
                )
        return None
    least = whole("min_replicas", minimum)
    if replicas is None:
        raise InputError(f"min_replicas = {least}: give replicas too, the most that may run")
    if least > replicas:
        raise InputError(f"min_replicas = {least}: expected 1 to replicas = {replicas}")
    known = Autoscale()
    return Autoscale(
        minimum=least,
        target=known.target if scale_at is None else float(whole("scale_at", scale_at)),
        interval_s=known.interval_s if scale_every is None else seconds("scale_every", scale_every),
        cold_start_s=known.cold_start_s
        if cold_start is None
        else seconds("cold_start", cold_start, zero=True),
    )


def _settings(kv_tier: Any, preemption: str | None, prefix_cache: bool | None) -> Settings:
    tiers = tuple(_tier(text) for text in _several("kv_tier", kv_tier, "host:200GB:50GB/s"))
    how = _word("preemption", "recompute" if preemption is None else preemption, PREEMPTION)
    if how == "swap" and not tiers:
        raise InputError(
            "preemption = swap: needs a memory to swap to; give kv_tier, such as host:200GB:50GB/s"
        )
    return Settings(
        prefix_cache=prefix_cache is None or arguments.switch("prefix_cache", prefix_cache),
        preemption="swap" if how == "swap" else "recompute",
        tiers=tiers,
    )


def _tier(text: str) -> Tier:
    parts = [part.strip() for part in text.split(":")]
    if len(parts) not in (3, 4) or not parts[0]:
        raise InputError(
            f"kv_tier = {text}: write it as NAME:SIZE:BANDWIDTH or NAME:SIZE:BANDWIDTH:LATENCY, such as "
            "host:200GB:50GB/s:10us"
        )
    try:
        size, rate = units.parse(parts[1], "B"), units.parse(parts[2], "B/s")
        latency = units.parse(parts[3], "s") if len(parts) == 4 else 0.0
    except ValueError as error:
        raise InputError(f"kv_tier = {text}: {error}") from None
    if size <= 0.0 or rate <= 0.0 or latency < 0.0:
        raise InputError(f"kv_tier = {text}: expected a size and a bandwidth above 0")
    return Tier(name=parts[0], bytes=size, bytes_per_s=rate, latency_s=latency)
