"""Words of serving results: plans in a line, times with the unit that fits, the tables and the answer as text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ridgeline import files
from ridgeline.api.serving_operation import words as operation_words
from ridgeline.api.serving_simulation import prepared
from ridgeline.explore.serving_check import Check
from ridgeline.explore.serving_plan import Load, ServingPlan, Target
from ridgeline.facts.serving import Service
from ridgeline.insight.serving_ladder import binds
from ridgeline.insight.serving_sensitivity import ServingSensitivity
from ridgeline.metrics import Rung
from ridgeline.report.numerals import percent, signed_percent, significant
from ridgeline.report.sheet import Sheet
from ridgeline.sim.serving.fleet import Operation
from ridgeline.sim.serving.outcome import DONE

if TYPE_CHECKING:
    from ridgeline.api.serving_result import ServingResult

SHOWN_FRONT = 8
_BAR = 24
_SMALL = 0.005  # gains below are not worth a line


def time_words(seconds: float) -> str:
    """``0.0359 -> "35.9 ms"``, ``2.4 -> "2.40 s"``."""
    if not math.isfinite(seconds):
        return "never"
    return f"{significant(seconds)} s" if seconds >= 0.9995 else f"{significant(1e3 * seconds)} ms"


def rate_words(rate: float) -> str:
    """Requests a second."""
    return f"{significant(rate)} requests/s"


def format_words(one: Service) -> str:
    """``fp8-block``, with the experts' format where it is another."""
    precision = one.precision
    return precision.linear if precision.experts is None else f"{precision.linear}/{precision.experts}"


def speculation_words(one: Service) -> str:
    """Drafts of each step, such as ``mtp 3``; ``off`` without."""
    return f"{one.speculation.method} {one.speculation.drafts}" if one.speculation.drafts else "off"


def plan_words(plan: ServingPlan) -> str:
    """A plan in one line: engines, layout and formats."""
    one = plan.service
    words = f"{plan.replicas} x {one.layout} {format_words(one)} KV {one.precision.kv} {one.engine.name}"
    if plan.prefill is not None:
        words = f"prefill {plan.prefill_replicas} x {plan.prefill.layout} + decode {words}"
    return words


def headline(model: str, machine: str, load: Load, target: Target) -> str:
    """Who serves what where, at which load and for which target."""
    parts = [f"{model} on {machine}", f"{load.isl:,.0f} tokens in, {load.osl:,.0f} out"]
    if load.users is not None:
        parts.append(f"{load.users:,.0f} requests under way")
    if load.rate is not None:
        parts.append(rate_words(load.rate))
    limits = [
        f"{name} {time_words(limit)}"
        for name, limit in (("TTFT", target.ttft_s), ("TPOT", target.tpot_s))
        if limit is not None
    ]
    if limits:
        parts.append(f"{' and '.join(limits)} at P{target.percentile:g}")
    return files.one_line(", ".join(parts))


def plan_sheet(plans: Sequence[ServingPlan], *, numbered: bool = True) -> Sheet:
    """Plans as a table; closed-form means."""
    pools = any(plan.disaggregated for plan in plans)
    drafts = any(plan.service.speculation.drafts for plan in plans)
    idle = any(plan.chips != plans[0].chips for plan in plans)
    columns = [
        *(("#",) if numbered else ()),
        "engine",
        *(("prefill",) if pools else ()),
        "decode" if pools else "replicas",
        "format",
        "KV",
        "chunk",
        *(("drafts",) if drafts else ()),
        *(("chips",) if idle else ()),
        "users",
        "tok/s/user",
        "tok/s/chip",
        "TTFT",
        "TPOT",
    ]
    rows = []
    for number, plan in enumerate(plans, 1):
        one = plan.service
        chunk = (plan.prefill or one).max_batched_tokens
        row = [str(number)] if numbered else []
        row.append(one.engine.name)
        if pools:
            row.append(f"{plan.prefill_replicas} x {plan.prefill.layout}" if plan.prefill else "")
        row += [f"{plan.replicas} x {one.layout}", format_words(one), one.precision.kv, f"{chunk:,}"]
        row += [speculation_words(one)] if drafts else []
        row += [f"{plan.chips:,}"] if idle else []
        row += [
            f"{plan.users:,.0f}", significant(plan.tokens_per_s_user), significant(plan.tokens_per_s_chip),
            time_words(plan.ttft_s), time_words(plan.tpot_s),
        ]  # fmt: skip
        rows.append(tuple(row))
    words = {"engine", "prefill", "decode", "replicas", "format", "KV", "drafts"}
    return Sheet(tuple(columns), tuple(rows), "".join("l" if name in words else "r" for name in columns))


def ladder_lines(rungs: Sequence[Rung], bounds: tuple[float, float]) -> list[str]:
    """The ladder with bars; rungs add up to the time between tokens; ``bounds``: its range [s]."""
    total = math.fsum(rung.seconds for rung in rungs)
    largest = max(rung.seconds for rung in rungs)
    width = max(len(rung.cause) for rung in rungs) + 2
    lines = []
    for number, rung in enumerate(rungs):
        cause = rung.cause if number == 0 else f"+ {rung.cause}"
        bar = "#" * round(_BAR * max(rung.seconds, 0.0) / largest)
        lines.append(
            f"  {cause:<{width}}  {1e3 * rung.seconds:>8.2f} ms  {percent(rung.seconds / total, 0):>5}  {bar}".rstrip()
        )
    low, high = (f"{significant(1e3 * bound)}" for bound in bounds)
    lines.append(f"  {'= time between tokens':<{width}}  {1e3 * total:>8.2f} ms  80 %: {low} to {high} ms")
    return lines


def effect_lines(effects: Sequence[ServingSensitivity]) -> list[str]:
    """What shortens the chip time of a token or the time between tokens; changes with a catch come last."""
    gains = [item for item in effects if min(item.chip, item.tpot) <= -_SMALL]
    if not gains:
        return ["  nothing that we tried gains 0.5 %"]
    gains.sort(key=lambda item: bool(item.note))
    rows = [
        ("", item.name, signed_percent(item.chip), signed_percent(item.tpot), signed_percent(item.ttft), item.note)
        for item in gains
    ]  # fmt: skip
    sheet = Sheet(("", "", "chip time", "TPOT", "TTFT", ""), tuple(rows), "llrrrl")
    return sheet.text().splitlines()


def check_lines(found: Check, target: Target, load: Load, rate: float | None) -> list[str]:
    """What the simulation says of the chosen plan."""
    rank = f"P{found.percentile:g}"
    parts = []
    for name, value, limit in (
        ("TTFT", found.ttft_s, target.ttft_s),
        ("TPOT", found.tpot_s, target.tpot_s),
    ):
        against = "" if limit is None else f" of {time_words(limit)}"
        parts.append(f"{name} {rank} {time_words(value)}{against}")
    verdict = "" if not target.given else ": target kept" if found.met else ": target missed"
    served = "" if found.metrics.counts["done"] else f"{_unserved(found)}: "
    lines = [f"Simulated ({found.words}): {served}{', '.join(parts)}{verdict}"]
    if rate is not None:
        what = "within the target" if target.given else "without a queue that grows"
        lines.append(
            f"Largest rate {what}, Poisson arrivals: {rate_words(rate)} on {chips_words(found.plan.chips)}"
            if rate > 0.0
            else f"Under Poisson arrivals no rate {'keeps the target' if target.given else 'is served whole'}"
        )
        if load.rate is not None and rate > 0.0:
            needed = chips_needed(found.plan, load.rate, rate)
            lines.append(f"{rate_words(load.rate)} need {chips_words(needed)} of this plan")
    return lines


def _unserved(found: Check) -> str:
    """That no request was served, and what became of them."""
    dropped = found.metrics.counts["timed_out"]
    return "no request is served in time" if dropped else "no request is served"


def chips_words(count: int) -> str:
    """``1 chip``, ``16 chips``."""
    return f"{count:,} chip{'' if count == 1 else 's'}"


def replicas_up(found: Check) -> float | None:
    """Replicas, prefill engines included, that were up in the mean; None where nobody counted."""
    outcome = found.outcome
    return None if math.isnan(outcome.replica_s) else outcome.replica_s / max(outcome.end_s, 1e-12)


def operation_lines(found: Check, operation: Operation) -> list[str]:
    """How the plan was run, where that is not as engines do on their own, and what became of requests."""
    how = operation_words(operation, found.plan.replicas)
    if not how:
        return []
    lines, up = [f"Run with {how}"], replicas_up(found)
    said = [
        f"{count:,} {status.replace('_', ' ')}"
        for status, count in found.metrics.counts.items()
        if count and status != "done"
    ]
    if said:
        lines.append(f"Of {sum(found.metrics.counts.values()):,} requests {' and '.join(said)}")
    if operation.autoscale is not None or operation.failures:
        engines = found.replicas + found.plan.prefill_replicas
        if up is not None:
            lines.append(f"{significant(up)} of {engines} engines were up in the mean")
    levels = found.requests.priority
    if operation.urgent and levels is None:
        lines.append(
            f"TTFT P{found.percentile:g} of those that go first {time_words(_urgent_ttft(found, operation))}"
        )
    if found.metrics.cache_hit_share:
        lines.append(
            f"{percent(found.metrics.cache_hit_share, 0)} of prompt tokens were found in the KV cache"
        )
    return lines


def _urgent_ttft(found: Check, operation: Operation) -> float:
    """TTFT of requests that go first, at the percentile of the check [s]."""
    outcome = found.outcome
    first = prepared(found.requests, operation).priority
    assert first is not None
    kept = outcome.measured & (first == 0) & (outcome.status == DONE)
    if not kept.any():
        return math.nan
    return float(np.percentile((outcome.first_token_s - outcome.sent_s)[kept], found.percentile))


def chips_needed(plan: ServingPlan, wanted: float, held: float) -> int:
    """Chips for ``wanted`` requests a second, where all engines of the plan hold ``held``: whole replicas or pools."""
    if plan.prefill is not None:  # pools grow together: whole copies of the pair
        return plan.chips_used * max(1, math.ceil(wanted / held - 1e-9))
    return max(1, math.ceil(wanted / (held / plan.replicas) - 1e-9)) * plan.service.layout.chips


def label_line(labels: dict[str, str]) -> str:
    """Parts of the prediction by how far they can be trusted."""
    by_label: dict[str, list[str]] = {}
    for part, label in labels.items():
        by_label.setdefault(label, []).append(part)
    return "labels  " + "; ".join(f"{label}: {', '.join(parts)}" for label, parts in by_label.items())


def serving_text(result: ServingResult, top: int) -> str:
    """The whole answer for a terminal."""
    found = result.search
    counts = (
        f"  {found.considered:,} services considered, {found.fit:,} fit in memory, {len(found.plans):,} plans in "
        "closed form"
    )
    shown = shown_plans(result, top)
    parts = [
        result.headline,
        "\n".join([plan_sheet(shown).text(), counts]),
    ]
    if result.check is not None:
        lines = check_lines(result.check, result.target, result.load, result.max_rate)
        parts.append("\n".join([*lines, *operation_lines(result.check, result.request.operation)]))
    if result.load.users is None and result.load.rate is None and len(found.front) > 1:
        title = "What a user gets against what a chip gives"
        parts.append("\n".join([title, plan_sheet(thinned(found.front), numbered=False).text()]))
    rung = binds(result.ladder)
    share = percent(rung.seconds / result.plan.tpot_s, 0)
    title = f"Where the time between tokens goes (plan 1); most of it is {rung.cause} ({share})"
    parts += [
        "\n".join([title, *ladder_lines(result.ladder, result.tpot_range_s)]),
        "\n".join(["What would help most (chip time of a token)", *effect_lines(result.sensitivities)]),
        label_line(result.labels),
    ]
    parts.append("\n".join(files.one_line(f"note: {note}") for note in dict.fromkeys(result.all_notes)))
    return "\n\n".join(part for part in parts if part)


def shown_plans(result: ServingResult, top: int) -> list[ServingPlan]:
    """The chosen plan, then others of the search that differ in more than the chunk."""
    shown = [result.plan]
    for plan in result.search.ranked:
        if len(shown) >= max(top, 1):
            break
        if all(_kind(plan) != _kind(other) for other in shown):
            shown.append(plan)
    return shown


def _kind(plan: ServingPlan) -> tuple[object, ...]:
    one = plan.service
    return (
        one.engine.name, one.layout, one.precision, one.speculation, plan.replicas,
        plan.prefill.layout if plan.prefill else None,
    )  # fmt: skip


def thinned(front: Sequence[ServingPlan]) -> list[ServingPlan]:
    """At most `SHOWN_FRONT` of a front, both ends included."""
    if len(front) <= SHOWN_FRONT:
        return list(front)
    steps = (len(front) - 1) / (SHOWN_FRONT - 1)
    return [front[round(i * steps)] for i in range(SHOWN_FRONT)]
