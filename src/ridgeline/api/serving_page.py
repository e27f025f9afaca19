"""The report of a serving result, filled in for `ridgeline.report.serving_page`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from ridgeline.api import serving_words as words
from ridgeline.api.results import version
from ridgeline.api.serving_simulation import busy_second
from ridgeline.explore.serving_plan import ServingPlan, fronts
from ridgeline.facts import catalog
from ridgeline.facts.serving import Service
from ridgeline.graph.serving.memory import memory
from ridgeline.metrics.serving import tpot_s
from ridgeline.report.numerals import significant
from ridgeline.report.serving_page import ServingReport, serving_page
from ridgeline.report.serving_parts import (
    ChipMemory,
    Latency,
    Metric,
    ServingEffect,
    ServingPoint,
    State,
    StepBlock,
    metric_of,
)
from ridgeline.report.sheet import Sheet
from ridgeline.sim.serving.outcome import DONE

if TYPE_CHECKING:
    from ridgeline.api.serving_result import ServingResult

POINTS = 3000


def page(result: ServingResult) -> str:
    """The self-contained HTML page."""
    plan = result.plan
    kept = (
        "" if result.check is None else words.check_lines(result.check, result.target, result.load, None)[0]
    )
    answer = (
        f"{significant(plan.tokens_per_s_chip)} tokens/s a chip and {significant(plan.tokens_per_s_user)} tokens/s a "
        f"user. {kept}"
    )
    latencies = _latencies(result)
    return serving_page(
        ServingReport(
            title=f"{result.request.architecture.name} on {plan.chips} x {result.request.chip.name}",
            headline=result.headline,
            answer=answer.strip(),
            plan=words.plan_words(plan),
            facts=_facts(result),
            labels=result.labels,
            metrics=_metrics(latencies),
            metrics_note="From the event simulation." if latencies else "",
            plans=words.plan_sheet(words.shown_plans(result, 10)),
            plans_note="Means in closed form.",
            points=_points(result),
            latencies=latencies,
            state=_state(result),
            ladder=[(rung.cause, rung.seconds) for rung in result.ladder],
            effects=[ServingEffect(**asdict(item)) for item in result.sensitivities],
            steps=_busy(result),
            memory=_memory(plan),
            inputs=_inputs(result),
            notes=result.all_notes,
            command=result.command,
            version=version(),
            catalog_hash=catalog.digest(),
        )
    )


def _facts(result: ServingResult) -> list[tuple[str, str, str]]:
    plan = result.plan
    facts = [
        ("tokens/s a chip", significant(plan.tokens_per_s_chip), "output tokens over all chips"),
        ("tokens/s a user", significant(plan.tokens_per_s_user), "1 / TPOT"),
        ("TTFT", words.time_words(plan.ttft_s), "mean, closed form"),
        ("TPOT", words.time_words(plan.tpot_s), "mean, closed form"),
        ("under way", f"{plan.users:,.0f}", f"requests, held by {plan.steady.limit}"),
    ]
    if result.max_rate:
        facts.append(("largest rate", words.rate_words(result.max_rate), "Poisson arrivals, simulated"))
    return facts


def _points(result: ServingResult) -> list[ServingPoint]:
    """Every plan, at most `POINTS` of them by an even stride, and all that no other of their kind beats."""
    found, edge = result.search, {id(plan) for plan in fronts(result.search.plans)}
    stride = max(1, len(found.plans) // POINTS)
    kept = [plan for n, plan in enumerate(found.plans) if n % stride == 0 or id(plan) in edge]
    kept = [*(plan for plan in kept if plan is not result.plan), result.plan]
    return [
        ServingPoint(
            tokens_per_s_user=plan.tokens_per_s_user,
            tokens_per_s_chip=plan.tokens_per_s_chip,
            label=words.plan_words(plan),
            disaggregated=plan.disaggregated,
            on_front=id(plan) in edge,
            chosen=plan is result.plan,
            remark=f"{plan.users:,.0f} under way, TTFT {words.time_words(plan.ttft_s)}",
        )
        for plan in kept
    ]


def _latencies(result: ServingResult) -> list[Latency]:
    if result.check is None:
        return []
    outcome, target = result.check.outcome, result.target
    kept = outcome.measured & (outcome.status == DONE)
    return [
        Latency(
            name="TTFT", title="Time to first token", slo_s=target.ttft_s,
            values_s=(outcome.first_token_s - outcome.sent_s)[kept],
        ),
        Latency(name="TPOT", title="Time per output token", slo_s=target.tpot_s, values_s=tpot_s(outcome)[kept]),
        Latency(name="E2E", title="From send to last token", values_s=(outcome.finish_s - outcome.sent_s)[kept]),
    ]  # fmt: skip


def _metrics(latencies: list[Latency]) -> list[Metric]:
    return [
        metric_of(
            latency.name, "ms", latency.values_s, scale=1e3,
            slo="" if latency.slo_s is None else words.time_words(latency.slo_s),
        )
        for latency in latencies
        if latency.finite.size
    ]  # fmt: skip


def _state(result: ServingResult) -> State | None:
    if result.check is None:
        return None
    outcome = result.check.outcome
    share = np.asarray(outcome.kv_blocks) / max(outcome.blocks, 1)
    return State(times_s=outcome.times_s, running=outcome.running, waiting=outcome.waiting, kv_share=share)


def _busy(result: ServingResult) -> list[StepBlock]:
    if result.check is None:
        return []
    return busy_second(result.check, result.load, result.request.operation)


def _memory(plan: ServingPlan) -> list[ChipMemory]:
    if plan.prefill is None:
        return [_chip("engine", plan.service)]
    return [_chip("prefill", plan.prefill), _chip("decode", plan.service)]


def _chip(name: str, one: Service) -> ChipMemory:
    found = memory(one)
    parts = {
        "weights": found.weights,
        "KV cache": found.kv,
        "activations": found.activations,
        "graphs": found.graphs,
        "reserve": found.reserve,
    }
    return ChipMemory(name=f"{name} {one.layout}", capacity_bytes=found.capacity, parts=parts)


def _inputs(result: ServingResult) -> dict[str, Sheet]:
    asked, engine = result.request, result.plan.service.engine
    rows = (
        ("model", asked.architecture.name, asked.architecture.source),
        ("chip", asked.chip.name, asked.chip.source.get("default", "")),
        ("cluster", asked.cluster.name, asked.cluster.source.get("default", "")),
        ("engine", f"{engine.name} ({engine.versions})", engine.source),
    )
    return {"Facts": Sheet(("what", "name", "source"), rows, "lll")}
