"""Degrees: whether the given ones can fit the machine, said in the words of who gave them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ridgeline.api.errors import InputError
from ridgeline.api.overrides import one_of
from ridgeline.explore.space import Space
from ridgeline.facts.architecture import Moe
from ridgeline.facts.chip import Cluster
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.laws import rules

_NUMERALS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")


def check_degrees(scenario: Scenario, fixed: Mapping[str, Any], *, cross_domain_tp: bool = False) -> None:
    """Raise InputError if the given degrees cannot fit, whatever the open ones are."""
    chips, chip = scenario.num_chips, scenario.chip
    if chips < 1:
        raise InputError(f"chips = {chips} must be at least 1")
    check_machine(scenario.cluster, chips)
    domain = scenario.cluster.tiers[0].size or chips
    tp = fixed.get("tp", 1)
    if tp > domain and not cross_domain_tp:
        spans = math.ceil(tp / domain)
        number = _NUMERALS[spans] if spans < len(_NUMERALS) else str(spans)
        choices = one_of(d for d in range(1, domain + 1) if domain % d == 0)
        raise InputError(
            f"tp = {tp} spans {number} scale-up domains of {domain} {chip.name.upper()}; "
            f"choose {choices}, or --allow-cross-domain-tp"
        )
    given = {name: fixed[name] for name in ("tp", "cp", "pp", "dp") if name in fixed}
    product = math.prod(given.values())
    words = " x ".join(f"{name} {value}" for name, value in given.items())
    if len(given) == 4 and product != chips:
        ranks = product // given["dp"]
        fill = f"; dp {chips // ranks} would fill them" if chips % ranks == 0 else ""
        raise InputError(f"{words} = {product:,} is not the {chips:,} chips given{fill}")
    if chips % product:
        result = f"{words} = {product:,}" if len(given) > 1 else words
        raise InputError(f"{result} does not divide the {chips:,} chips")
    per_pass = fixed.get("dp", 1) * fixed.get("micro_batch", 1)
    if scenario.job.batch % per_pass:
        parts = " x ".join(f"{name} {fixed[name]}" for name in ("dp", "micro_batch") if name in fixed)
        raise InputError(f"batch = {scenario.job.batch:,} does not divide by {parts} = {per_pass:,}")
    if fixed.get("vpp", 1) > 1 and fixed.get("schedule", "interleaved") != "interleaved":
        raise InputError(f"vpp = {fixed['vpp']} needs schedule interleaved, not {fixed['schedule']}")
    _check_effect(scenario, fixed)


def check_machine(cluster: Cluster, chips: int | None) -> None:
    """Raise InputError for more chips than a cluster has, as it stands after all settings."""
    if chips is not None and cluster.max_chips is not None and chips > cluster.max_chips:
        raise InputError(f"chips = {chips:,}: cluster '{cluster.name}' has at most {cluster.max_chips:,}")


def _check_effect(scenario: Scenario, fixed: Mapping[str, Any]) -> None:
    """Raise InputError for a field whose effect the model or another given field takes away. Defaults say nothing."""
    experts = any(isinstance(layer.mlp, Moe) for layer in scenario.architecture.layers)
    if fixed.get("etp", 1) > 1 and not experts:
        raise InputError(f"etp = {fixed['etp']}: has no effect: {scenario.architecture.name} has no experts")
    how, layers = fixed.get("recompute", "full"), fixed.get("recompute_layers", -1)
    if layers != -1 and how != "full":
        raise InputError(
            f"recompute_layers = {layers}: has no effect with recompute = {how}; choose recompute full"
        )
    if fixed.get("fsdp_reshard") is False and fixed.get("zero", 3) != 3:
        raise InputError(f"fsdp_reshard = False: has no effect with zero = {fixed['zero']}; choose zero 3")


def broken_by_all(scenario: Scenario, space: Space, *, cross_domain_tp: bool = False) -> list[str]:
    """The rules that every plan of ``space`` breaks, as sentences; empty where each is kept by some plan."""
    kept: dict[str, bool] = {}
    messages: dict[str, str] = {}
    for grid in space.grids(scenario):
        for rule in rules(
            scenario.architecture, scenario.job, scenario.cluster, scenario.num_chips, grid,
            cross_domain_tp=cross_domain_tp,
        ):  # fmt: skip
            kept[rule.name] = kept.get(rule.name, False) or not bool(np.all(rule.broken))
            messages[rule.name] = rule.message
    return [messages[name] for name, good in kept.items() if not good]
