"""Legality: the rules that a plan must keep to fit the model, the job and the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.architecture import (
    Architecture,
    Attention,
    LatentAttention,
    LinearAttention,
    Moe,
    StateSpace,
)
from ridgeline.facts.chip import Cluster
from ridgeline.facts.plan import SPLIT, IntArray, Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.workload import TrainingJob


class PlanError(ValueError):
    """The degrees do not fit the model, the job or the machine; the message says which and what would."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One condition of a legal plan: ``broken`` is True where a plan violates it."""

    name: str
    broken: NDArray[np.bool_] | bool
    message: str


def rules(
    arch: Architecture,
    job: TrainingJob,
    cluster: Cluster,
    num_chips: int,
    plan: Plan | PlanGrid,
    *,
    cross_domain_tp: bool = False,
) -> list[Rule]:
    """Every rule of legality for one plan (in plain numbers) or a grid ``[plans]``."""
    p = plan
    per_pass = p.dp * p.micro_batch
    m = job.batch / per_pass
    domain = cluster.tiers[0].size or num_chips
    layers, chunks = arch.num_layers, p.pp * p.vpp
    moe = [layer.mlp for layer in arch.layers if isinstance(layer.mlp, Moe)]
    experts = math.gcd(*(mlp.experts for mlp in moe)) if moe else 1
    return [
        Rule("chips", p.chips != num_chips, f"tp x cp x pp x dp must be {num_chips} chips"),
        Rule("batch", job.batch % per_pass != 0, f"batch {job.batch} must divide by dp x micro-batch"),
        Rule(
            "tp domain",
            (p.tp > domain) & (not cross_domain_tp),
            f"tp spans several scale-up domains of {domain} chips; choose {_divisors(domain)}",
        ),
        Rule("heads", _heads_broken(arch, p.tp), f"tp must divide the {_head_text(arch)}"),
        Rule(
            "layers",
            _short(layers, chunks, p.pp),
            f"{layers} layers do not fill pp x vpp chunks (at most a layer may be missing at each end)",
        ),
        Rule(
            "sequence",
            job.seq % (p.cp * (1 + (p.cp > 1)) * p.tp) != 0,
            f"sequence {job.seq} must divide by 2 x cp x tp",
        ),
        Rule("vpp", (p.vpp > 1) & (p.pp == 1), "vpp needs pp > 1"),
        Rule(
            "pipeline",
            (p.schedule in SPLIT) & (p.pp == 1),
            f"schedule {p.schedule} needs pp > 1: it fills the bubbles of a pipeline, and one stage has none",
        ),
        Rule(
            "interleaving",
            (p.vpp > 1) & (np.rint(m) % p.pp != 0),
            "interleaved schedules need micro-batches that divide by pp",
        ),
        Rule(
            "two-way pipeline",
            (p.schedule == "dualpipe") & (p.pp > 1) & ((p.pp % 2 != 0) | (np.rint(m) < 2 * p.pp)),
            "dualpipe needs an even pp and at least 2 pp micro-batches",
        ),
        Rule("experts", experts % p.ep != 0, f"ep must divide the {experts} experts"),
        Rule(
            "expert ranks",
            (p.tp * p.cp * p.dp) % (p.ep * p.etp) != 0,
            "ep x etp must divide tp x cp x dp",
        ),
        Rule("replicas", p.dp % p.replicas != 0, "replicas must divide dp"),
    ]


#: Rules that published runs break here and there: uneven layers, odd batches, framework extensions.
RELAXED = ("layers", "heads", "tp domain", "interleaving", "two-way pipeline", "sequence", "batch")


def check_plan(scenario: Scenario, *, strict: bool = False) -> None:
    """Raise PlanError with every broken rule of a one-plan scenario.

    ``strict`` also holds a plan to divisibility that real runs sometimes relax (uneven layers, odd batches).
    """
    plan = scenario.plan
    assert isinstance(plan, Plan)
    problems = []
    relaxed = () if strict else RELAXED
    for rule in rules(scenario.architecture, scenario.job, scenario.cluster, scenario.num_chips, plan):
        if rule.name not in relaxed and rule.broken:
            problems.append(f"{rule.message} (got {_got(plan)})")
    if scenario.job.batch < plan.dp * plan.micro_batch:
        problems.append(
            f"batch = {scenario.job.batch} is less than dp x micro-batch = {plan.dp * plan.micro_batch}"
        )
    if problems:
        raise PlanError("; ".join(problems))


def _got(plan: Plan) -> str:
    names = ("tp", "cp", "pp", "vpp", "ep", "etp", "dp", "micro_batch")
    return ", ".join(f"{name} {getattr(plan, name)}" for name in names)


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def _heads(arch: Architecture) -> list[int]:
    """Heads of every mixer that tensor parallelism must divide."""
    heads = []
    for layer in arch.layers:
        match layer.mixer:
            case Attention() | LatentAttention() | StateSpace():
                heads.append(layer.mixer.heads)
            case LinearAttention():
                heads += [layer.mixer.k_heads, layer.mixer.v_heads]
            case None:
                pass
    return heads


def _heads_broken(arch: Architecture, tp: int | IntArray) -> NDArray[np.bool_] | bool:
    broken: NDArray[np.bool_] | bool = False
    for heads in set(_heads(arch)):
        broken = broken | (heads % tp != 0)
    for kv in {layer.mixer.kv_heads for layer in arch.layers if isinstance(layer.mixer, Attention)}:
        broken = broken | (kv % tp != 0) & (tp % kv != 0)  # key-value heads are split, or copied evenly
    return broken


def _head_text(arch: Architecture) -> str:
    kv = sorted({layer.mixer.kv_heads for layer in arch.layers if isinstance(layer.mixer, Attention)})
    text = f"{'/'.join(str(h) for h in sorted(set(_heads(arch))))} heads"
    return text + (f" (and divide into {'/'.join(map(str, kv))} key-value heads)" if kv else "")


def _short(layers: int, chunks: int | IntArray, pp: int | IntArray) -> NDArray[np.bool_] | bool:
    """Layers fill the chunks, but for one layer missing at each end (where embedding and head sit)."""
    per_chunk = -(-layers // chunks)
    missing = per_chunk * chunks - layers
    return (missing > 2) | (chunks > layers + 2) | ((missing > 0) & (pp == 1))
