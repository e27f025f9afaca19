"""Laws of services in closed form, over random models, machines, engines, layouts and loads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from ridgeline.api.overrides import changed
from ridgeline.explore.serving_loads import capacity, table_of
from ridgeline.explore.serving_plan import Load
from ridgeline.explore.serving_space import engines_of
from ridgeline.facts import catalog
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.insight.serving_ladder import ladder
from ridgeline.sim.serving.steady import Steady, closed_loop
from ridgeline.sim.serving.table import StepTable

_CLOSE = 1e-9
#: The closed form is a fixed point: what two of them may differ by.
_POINT = 2e-3
_LITTLE = 0.05


@dataclass(frozen=True, slots=True)
class Drawn:
    """A service at a load of ``users`` on one engine, and the words that ask for it."""

    service: Service
    load: Load
    users: float
    table: StepTable
    steady: Steady
    words: str


def findings(random: Random) -> Iterator[tuple[str, bool, str, str]]:
    """Every law at one random service; nothing where it cannot be."""
    drawn = _draw(random)
    if drawn is None:
        return
    for name, holds, seen in (*_numbers(drawn), *_loads(drawn), *_faster(drawn)):
        yield f"serving: {name}", holds, seen, drawn.words


def _draw(random: Random) -> Drawn | None:
    model, on = random.choice(catalog.names("models")), random.choice(catalog.names("clusters"))
    tp, dp = 2 ** random.randrange(4), 2 ** random.choice((0, 0, 0, 1, 2))
    chunk = 2 ** random.randrange(9, 14)
    isl, osl = (float(round(10 ** random.uniform(low, high))) for low, high in ((1.5, 4.5), (0.5, 3.3)))
    try:
        chip = catalog.chip(catalog.cluster_for(on).chip)
        engines = engines_of(chip)
        formats = [name for name in ("bf16", "fp8") if name in chip.matrix]
        if not engines or not formats:
            return None
        engine, linear = random.choice(engines), random.choice(formats)
        one = service(
            model, on, Layout(tp=tp, dp=dp, ep=random.choice((1, tp * dp))), Precision(linear=linear, kv="bf16"),
            engine, limits=Limits(max_batched_tokens=chunk),
        )  # fmt: skip
        load = Load(isl=isl, osl=osl)
        table = table_of(one, load)
        most = capacity(table, load)
    except ValueError:
        return None
    if table.num_blocks * table.block_size < 4 * (isl + osl):
        return None
    users = float(random.choice([2**i for i in range(11) if 2**i <= most / 2] or [1]))
    words = (
        f"ridgeline serve {model} --on {on} --chips {tp * dp} --tp {tp} --dp {dp} --ep {one.layout.ep} --isl {isl:.0f} "
        f"--osl {osl:.0f} --concurrency {users:.0f} --engine {engine.name} --precision {linear} --kv bf16 "
        f"--chunk {chunk} --no-speculate --aggregated"
    )
    return Drawn(one, load, users, table, closed_loop(table, isl, osl, users), words)


def _numbers(drawn: Drawn) -> Iterator[tuple[str, bool, str]]:
    """Laws of one steady state by itself."""
    steady, load = drawn.steady, drawn.load
    times = (steady.ttft_s, steady.tpot_s, steady.output_tokens_per_s, steady.running)
    yield "finite times above zero", all(math.isfinite(one) and one > 0 for one in times), f"{times}"
    life = steady.ttft_s + steady.tpot_s * (load.osl - 1.0)
    there = steady.output_tokens_per_s / load.osl * life
    off = there / (steady.running + steady.waiting) - 1.0
    yield f"Little's law within {_LITTLE:.0%}", abs(off) <= _LITTLE, f"{off:+.1%}"
    rungs = [rung.seconds for rung in ladder(drawn.service, drawn.table, steady, load.isl, load.osl)]
    total = math.fsum(rungs)
    yield (
        "ladder sums to the time between tokens",
        abs(total / steady.tpot_s - 1.0) < _CLOSE,
        f"{total} of {steady.tpot_s}",
    )
    yield "no rung below zero", min(rungs) >= -1e-12, f"{min(rungs):g} of {steady.tpot_s:g} s"


def _loads(drawn: Drawn) -> Iterator[tuple[str, bool, str]]:
    """More users and longer prompts."""
    load, base = drawn.load, drawn.steady
    twice = closed_loop(drawn.table, load.isl, load.osl, 2.0 * drawn.users)
    gained = twice.output_tokens_per_s / base.output_tokens_per_s - 1.0
    yield "users x2: no fewer tokens a second", gained >= -_POINT, f"{gained:+.2%}"
    longer = twice.tpot_s / base.tpot_s - 1.0
    yield "users x2: no shorter time between tokens", longer >= -_POINT, f"{longer:+.2%}"
    prompts = Load(isl=2.0 * load.isl, osl=load.osl)
    try:
        table = table_of(drawn.service, prompts)
    except ValueError:
        return
    if capacity(table, prompts) < drawn.users:
        return
    slow = closed_loop(table, prompts.isl, prompts.osl, drawn.users)
    lost = slow.output_tokens_per_s / base.output_tokens_per_s - 1.0
    yield "prompts x2: no more tokens a second", lost <= _POINT, f"{lost:+.2%}"


def _faster(drawn: Drawn) -> Iterator[tuple[str, bool, str]]:
    """Faster hardware gives no fewer tokens a second."""
    one, load = drawn.service, drawn.load
    chip, tiers = one.chip, one.cluster.tiers
    changes: list[tuple[str, str, list[tuple[list[str], Any]]]] = [
        ("matrix x1.5", "chip", [(["matrix", name], f"{1.5 * rate!r} FLOP/s") for name, rate in chip.matrix.items()]),
        ("memory bandwidth x1.5", "chip", [(["memory", "bandwidth"], f"{1.5 * chip.memory.bandwidth!r} B/s")]),
        ("scale-up bandwidth x2", "cluster", [(["tiers", "0", "bandwidth"], f"{2.0 * tiers[0].bandwidth!r} B/s")]),
        (
            "latency / 2", "cluster",
            [(["tiers", str(i), "latency"], f"{0.5 * t.latency!r} s") for i, t in enumerate(tiers)],
        ),
    ]  # fmt: skip
    for name, root, settings in changes:
        spec: Any = getattr(one, root)
        for steps, value in settings:
            spec = changed(spec, ".".join(steps), root, steps, value)
        faster = closed_loop(table_of(one.replace(**{root: spec}), load), load.isl, load.osl, drawn.users)
        lost = faster.output_tokens_per_s / drawn.steady.output_tokens_per_s - 1.0
        yield f"{name}: no fewer tokens a second", lost >= -_POINT, f"{lost:+.2%}"
