"""Ladder of a decode step: from what physics allows up to the predicted time between tokens. Rungs sum exactly.

The bound takes each product at the rate that binds it (its weights at peak bandwidth or its FLOPs at the matrix peak)
and the cache at peak bandwidth. What the step has beyond it is split by cause, in the order of the rungs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from ridgeline.facts.serving import Service
from ridgeline.graph.serving.memory import format_bytes, memory
from ridgeline.graph.serving.ops import Block, Experts, Message, Product
from ridgeline.metrics import Rung
from ridgeline.sim.serving.operator_times import multiplied
from ridgeline.sim.serving.steady import Steady, decode_step_s
from ridgeline.sim.serving.step_time import StepTimes
from ridgeline.sim.serving.table import StepTable
from ridgeline.timing.grouped import active_experts
from ridgeline.timing.rates import peak_flops_per_s

WEIGHTS = "weights at peak bandwidth"
FLOPS = "matrix FLOPs at peak"
CACHE = "KV cache at peak bandwidth"
KERNELS = "kernels below the bound"
COMMUNICATION = "communication"
HOST = "host"
PREFILLS = "prefills interleaved"
#: Where the time goes in few words, for the line that says what binds.
CAUSES = (WEIGHTS, FLOPS, CACHE, KERNELS, COMMUNICATION, HOST, PREFILLS)


@dataclass(frozen=True, slots=True)
class Bound:
    """Least seconds of a decode step on one chip, all stages of a pipeline one after the other."""

    weights_s: float
    flops_s: float
    cache_s: float


def ladder(service: Service, table: StepTable, steady: Steady, isl: float, osl: float) -> tuple[Rung, ...]:
    """Rungs of the time between tokens of one request [s], whose sum is ``steady.tpot_s``."""
    lanes = table.ranks * table.stages
    decodes, context = steady.decoding / lanes, isl + osl / 2.0
    longest = isl + osl if steady.prefill_s > 0.0 else 0.0
    tokens = decodes * (1.0 + service.speculation.drafts)
    made = service.speculation.tokens_per_step
    step = steady.decode_s  # the very step that the time between tokens is made of, at the same decodes
    alone = dataclasses.replace(table, host_hidden_s=(0.0, 0.0), host_launch_s=0.0, host_s=(0.0, 0.0, 0.0))
    device = min(decode_step_s(alone, decodes, context, longest), step)
    sent = min(_messages(service, tokens, decodes), device)
    bound = decode_bound(service, tokens, decodes, context)
    parts = _within((bound.weights_s, bound.flops_s, bound.cache_s), device - sent)
    rungs = [
        Rung(WEIGHTS, parts[0] / made),
        Rung(FLOPS, parts[1] / made),
        Rung(CACHE, parts[2] / made),
        Rung(KERNELS, (device - sent - sum(parts)) / made),
        Rung(COMMUNICATION, sent / made),
        Rung(HOST, (step - device) / made),
    ]
    rungs.append(Rung(PREFILLS, steady.tpot_s - sum(rung.seconds for rung in rungs)))
    return tuple(rung for rung in rungs if abs(rung.seconds) > 1e-12)


def binds(rungs: tuple[Rung, ...]) -> Rung:
    """The largest rung."""
    return max(rungs, key=lambda rung: rung.seconds)


def decode_bound(service: Service, tokens: float, decodes: float, context: float) -> Bound:
    """The bound of a step of ``tokens`` tokens of ``decodes`` requests on one attention rank."""
    bandwidth = service.chip.memory.bandwidth
    weights = flops = 0.0
    for counted in StepTimes(service).parts:
        part = counted.part
        match part:
            case Product() if part.where != "prefill":
                rows = tokens if part.per == "token" else decodes
                held = part.n * part.k * part.copies
                read, computed = _product(service, held, held * rows, part.format)
            case Experts():
                read, computed = _experts(service, part, tokens)
            case _:
                continue
        if read / bandwidth >= computed:
            weights += counted.count * read / bandwidth
        else:
            flops += counted.count * computed
    cache = decodes * memory(service).request_kv(context) * service.layout.pp / bandwidth
    return Bound(weights, flops, cache)


def _product(service: Service, held: float, pairs: float, name: str) -> tuple[float, float]:
    """Bytes of ``held`` weights, and seconds of ``pairs`` multiplications at the matrix peak."""
    return held * format_bytes(name), 2.0 * pairs / peak_flops_per_s(service.chip, multiplied(name))


def _experts(service: Service, part: Experts, tokens: float) -> tuple[float, float]:
    """Bytes of the experts that some token chose, and seconds of their products, on one rank."""
    slots = tokens * part.group_tokens * part.topk / part.ranks
    held = part.experts / part.ranks
    each = part.hidden * part.inner * (part.arms + 1.0)
    active = float(np.minimum(active_experts(np.maximum(slots, 1e-9), held), held))
    return _product(service, active * each, slots * each, part.format)


def _messages(service: Service, tokens: float, decodes: float) -> float:
    """Seconds of communication of a decode step: the step of a model that has nothing else."""
    blocks = tuple(
        Block(block.name, block.count, tuple(part for part in block.parts if isinstance(part, Message)))
        for block in StepTimes(service).blocks
    )
    times = StepTimes(service, blocks)
    total = times.rows_seconds(np.array([tokens]), "token", prefill=False)
    total = total + times.rows_seconds(np.array([decodes]), "request", prefill=False)
    return float(total[0])


def _within(parts: tuple[float, ...], room: float) -> tuple[float, ...]:
    """``parts``, scaled down where a fit is faster than the bound of the data sheet."""
    total = sum(parts)
    return parts if total <= room or total == 0.0 else tuple(part * room / total for part in parts)
