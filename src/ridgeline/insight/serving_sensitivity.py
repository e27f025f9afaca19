"""Sensitivity of a service: what one change of the hardware, the software or the load does to it.

Each what-if is a copy of the engines with one change, whose step times are made anew: no derivative, no rule of thumb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.engine import Engine
from ridgeline.facts.serving import ACCEPTANCE, Service, Speculation

#: The next narrower format of weights, by the present one: those that checkpoints are published in.
NARROWER = {"bf16": "fp8", "fp16": "fp8", "fp8": "nvfp4", "fp8-block": "nvfp4"}
#: Times of the host that a step waits for.
_HOST = ("host_step", "host_request", "host_exposed", "host_prefill", "host_launch")


@dataclass(frozen=True, slots=True)
class Served:
    """Engines and the load they carry: ``users`` requests under way on one engine that decodes."""

    service: Service
    users: float
    prefill: Service | None = None

    @property
    def first(self) -> Service:
        """The engine that makes first tokens."""
        return self.prefill or self.service

    def each(self, change: Callable[[Service], Service]) -> Served:
        """The same change of all engines."""
        prefill = None if self.prefill is None else change(self.prefill)
        return dataclasses.replace(self, service=change(self.service), prefill=prefill)


@dataclass(frozen=True, slots=True)
class Steadily:
    """What `Served` gives in closed form; ``chip_s``: seconds of one chip that an output token takes."""

    ttft_s: float
    tpot_s: float
    chip_s: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class ServingSensitivity:
    """One what-if. Changes are relative: -0.27 means 27 % less time; ``chip``: of the chip time of a token."""

    name: str
    ttft: float
    tpot: float
    chip: float
    note: str = ""


def serving_sensitivities(
    base: Served, evaluate: Callable[[Served], Steadily]
) -> tuple[ServingSensitivity, ...]:
    """Every what-if that applies, the largest gain in chip time of a token first.

    ``evaluate`` raises ValueError for what cannot be served at all; that is no advice.
    """
    was, found = evaluate(base), []
    for name, other, remark in what_ifs(base):
        try:
            now = evaluate(other)
        except ValueError:
            continue
        found.append(
            ServingSensitivity(
                name=name,
                ttft=now.ttft_s / was.ttft_s - 1.0,
                tpot=now.tpot_s / was.tpot_s - 1.0,
                chip=now.chip_s / was.chip_s - 1.0,
                note="; ".join(words for words in (remark, now.note) if words),
            )
        )
    return tuple(sorted(found, key=lambda item: (item.chip, item.tpot)))


def what_ifs(base: Served) -> Iterator[tuple[str, Served, str]]:
    """Name, engines with one change, and what it assumes."""
    yield from _hardware(base)
    yield from _formats(base)
    yield from _software(base)
    yield from _load(base)


def _hardware(base: Served) -> Iterator[tuple[str, Served, str]]:
    chip, cluster = base.service.chip, base.service.cluster
    memory = chip.memory.model_copy(update={"bandwidth": 1.1 * chip.memory.bandwidth})
    yield "memory bandwidth +10 %", _on(base, chip.model_copy(update={"memory": memory}), cluster), ""
    matrix = {name: 1.1 * rate for name, rate in chip.matrix.items()}
    yield "matrix peak +10 %", _on(base, chip.model_copy(update={"matrix": matrix}), cluster), ""
    largest = max(base.service.layout.chips, base.first.layout.chips)
    inside, *outside = cluster.tiers
    if largest > 1:
        faster = inside.model_copy(update={"bandwidth": 2.0 * inside.bandwidth})
        link = chip.scale_up.model_copy(update={"bandwidth": 2.0 * chip.scale_up.bandwidth})
        wide = cluster.model_copy(update={"tiers": (faster, *outside)})
        yield "scale-up bandwidth x 2", _on(base, chip.model_copy(update={"scale_up": link}), wide), ""
        quick = tuple(tier.model_copy(update={"latency": 0.5 * tier.latency}) for tier in cluster.tiers)
        yield "network latency / 2", _on(base, chip, cluster.model_copy(update={"tiers": quick})), ""
    if outside and (base.prefill is not None or largest > (inside.size or largest)):
        more = [tier.model_copy(update={"bandwidth": 2.0 * tier.bandwidth}) for tier in outside]
        wide = cluster.model_copy(update={"tiers": (inside, *more)})
        yield "scale-out bandwidth x 2", _on(base, chip, wide), ""


def _on(base: Served, chip: Chip, cluster: Cluster) -> Served:
    return base.each(lambda one: one.replace(chip=chip, cluster=cluster))


def _formats(base: Served) -> Iterator[tuple[str, Served, str]]:
    precision, matrix = base.service.precision, base.service.chip.matrix
    if precision.kv in ("bf16", "fp16") and "fp8" in matrix:
        narrow = dataclasses.replace(precision, kv="fp8")
        yield "KV cache in fp8", base.each(lambda one: one.replace(precision=narrow)), ""
    name = NARROWER.get(precision.linear, "")
    if name in matrix and precision.experts is None:
        # nvfp4 checkpoints keep attention as it is
        attention = precision.of_attention if name == "nvfp4" else None
        less = dataclasses.replace(precision, linear=name, attention=attention)
        yield f"weights in {name}", base.each(lambda one: one.replace(precision=less)), ""


def _software(base: Served) -> Iterator[tuple[str, Served, str]]:
    yield "host time / 2", base.each(lambda one: one.replace(engine=_quicker(one.engine))), ""
    drafts, mtp = base.service.speculation.drafts, base.service.architecture.mtp
    if mtp and base.service.speculation.method in ("none", "mtp") and drafts < len(ACCEPTANCE):
        chances = (*base.service.speculation.acceptance, ACCEPTANCE[drafts])
        drafted = base.service.replace(speculation=Speculation(method="mtp", acceptance=chances))
        name = f"{drafts + 1} draft{'s' if drafts else ''} by prediction layers"
        words = f"accepted with chance {', '.join(f'{chance:g}' for chance in chances)} (assumption)"
        yield name, dataclasses.replace(base, service=drafted), words
    chunk = base.first.max_batched_tokens
    for other in (chunk // 2, 2 * chunk):
        yield f"chunk {chunk:,} -> {other:,} tokens", _chunked(base, other), ""


def _quicker(engine: Engine) -> Engine:
    return engine.model_copy(update={name: 0.5 * getattr(engine, name) for name in _HOST})


def _chunked(base: Served, tokens: int) -> Served:
    """The engine that prefills with another chunk."""
    limits = dataclasses.replace(base.first.limits, max_batched_tokens=tokens)
    other = base.first.replace(limits=limits)
    if base.prefill is None:
        return dataclasses.replace(base, service=other)
    return dataclasses.replace(base, prefill=other)


def _load(base: Served) -> Iterator[tuple[str, Served, str]]:
    yield "users x 2", dataclasses.replace(base, users=2.0 * base.users), ""
    if base.users >= 2.0:
        yield "users / 2", dataclasses.replace(base, users=0.5 * base.users), ""
