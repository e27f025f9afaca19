"""Nothing that takes longer makes the whole shorter: pipelines, plans under better hardware, power, grid and plan."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ridgeline as rl
from ridgeline.api.request import request
from ridgeline.explore.search import legal_plans
from ridgeline.explore.space import CHOICES, Space
from ridgeline.facts import catalog
from ridgeline.facts.plan import SCHEDULES, SPLIT, Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.spec import SpecT
from ridgeline.graph.laws import PlanError
from ridgeline.predict import train
from ridgeline.sim.schedule import pipeline_seconds
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.sim.step import step
from ridgeline.sim.timeline import simulate


def costs_of(phases: np.ndarray, send: np.ndarray | float = 0.0, overlapped: bool = True) -> StageCosts:
    return StageCosts(
        forward_s=phases[0], input_grad_s=phases[1], weight_grad_s=phases[2], send_s=send, send_overlapped=overlapped
    )  # fmt: skip


@pytest.mark.parametrize("overlapped", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_pass_that_takes_longer_shortens_a_pipeline(schedule: str, overlapped: bool) -> None:
    rng, n = np.random.default_rng(5), 3000
    pp, m, vpp = rng.integers(1, 33, n), rng.integers(1, 100, n), rng.integers(1, 5, n)
    if schedule == "interleaved":
        m = m * pp
    phases = np.exp(rng.normal(0.0, 0.6, (3, 4, n)))
    send = np.where(rng.random(n) < 0.5, 0.0, rng.random(n) * 0.2)

    def total(phases: np.ndarray, send: np.ndarray = send) -> np.ndarray:
        return pipeline_seconds(schedule, costs_of(phases, send, overlapped), m, pp, vpp).total_s

    before = total(phases)
    for phase in range(3):
        for stage in range(4):
            slower = phases.copy()
            slower[phase, stage] *= 1.0 + rng.random(n)
            assert (total(slower) >= before * (1.0 - 1e-12)).all(), (phase, stage)
    assert (total(phases, 2.0 * send) >= before * (1.0 - 1e-12)).all()


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_a_v_with_few_micro_batches_is_near_its_timeline(spread: float) -> None:
    rng = np.random.default_rng(6)
    for _ in range(60):
        pp = int(rng.integers(2, 13))
        m = int(rng.integers(1, 2 * pp))
        mean = np.exp(rng.normal(0.0, 0.2, 3)) * (1.0, 1.1, 0.9)
        costs = costs_of(mean[:, None] * (1.0 + spread * rng.uniform(-1.0, 1.0, (3, 4))))
        ratio = float(pipeline_seconds("zb-v", costs, m, pp).total_s) / simulate("zb-v", costs, m, pp).total_s
        exact = spread == 0.0 and m <= pp
        assert ratio == pytest.approx(1.0, rel=1e-9) if exact else 0.95 < ratio < 1.1


def drawn(seed: int, count: int) -> Iterator[tuple[Scenario, Plan]]:
    """Legal plans of random models, machines, stacks, recipes and schedules."""
    rng = random.Random(seed)
    names = [sorted(catalog.names(kind)) for kind in ("models", "clusters", "stacks", "recipes")]
    found = 0
    while found < count:
        model, cluster, stack, recipe = (rng.choice(kind) for kind in names)
        chips = 2 ** rng.randint(0, 11)
        words = {
            "batch": chips * rng.choice([1, 2, 8]), "seq": 2 ** rng.randint(9, 15), "stack": stack, "recipe": recipe,
            "schedule": rng.choice((*SPLIT, *SCHEDULES)), "recompute": rng.choice(CHOICES["recompute"]),
            "zero": rng.choice((0, 1)),
        }  # fmt: skip
        try:
            asked = request(model, on=cluster, chips=chips, **words)
            grids = [
                legal_plans(asked.scenario, g)[0] for g in Space(fixed=asked.fixed).grids(asked.scenario)
            ]
            grids = [grid for grid in grids if len(grid)]
            grid = rng.choice(grids)
            plans = [grid[rng.randrange(len(grid))] for _ in range(4)]
            step(asked.scenario, PlanGrid.of(plans))
        except (ValueError, IndexError):  # nothing legal, or no such number format on this chip
            continue
        for plan in plans:
            found += 1
            yield asked.scenario, plan


@pytest.fixture(scope="module")
def plans() -> list[tuple[Scenario, Plan]]:
    return list(drawn(11, 200))


def with_fields(spec: SpecT, **changes: object) -> SpecT:
    return spec.model_copy(update=changes)


def better(case: Scenario) -> Iterator[tuple[str, Scenario]]:
    chip, (inside, *outside) = case.chip, case.cluster.tiers
    matrix = {name: 1.5 * rate for name, rate in chip.matrix.items()}
    memory = with_fields(chip.memory, bandwidth=1.5 * chip.memory.bandwidth)
    quick = tuple(with_fields(tier, latency=0.5 * tier.latency) for tier in (inside, *outside))
    wide = tuple(with_fields(tier, bandwidth=2.0 * tier.bandwidth) for tier in (inside, *outside))
    yield "matrix", case.replace(chip=with_fields(chip, matrix=matrix))
    yield "memory", case.replace(chip=with_fields(chip, memory=memory))
    yield "latency", case.replace(cluster=with_fields(case.cluster, tiers=quick))
    yield "links", case.replace(cluster=with_fields(case.cluster, tiers=wide))
    yield "shorter", case.replace(job=with_fields(case.job, seq=case.job.seq // 2))


#: Sharing of one window by two kinds of messages, and a clock that falls for kernels that wait for memory
#: (docs/concepts/limits.md) may still turn a gain into a loss of less than this.
LEFT = 0.005


def test_better_hardware_and_less_work_are_not_slower(plans: list[tuple[Scenario, Plan]]) -> None:
    for case, plan in plans:
        grid = PlanGrid.of([plan])
        before = step(case, grid)
        for name, other in better(case):
            if name == "shorter" and other.job.seq % (2 * plan.cp * plan.tp):
                continue
            after = step(other, grid)
            held = before.pace.matrix[0] == after.pace.matrix[0]  # no power limit in between
            allowed = 1e-9 if held and plan.schedule in SPLIT and plan.tp == 1 else LEFT
            assert after.total_s[0] <= before.total_s[0] * (1.0 + allowed), (
                name,
                plan,
                case.architecture.name,
            )


def test_no_chip_draws_more_than_its_limit(plans: list[tuple[Scenario, Plan]]) -> None:
    for case, plan in plans:
        result = step(case, PlanGrid.of([plan]))
        assert result.joules[0] / result.total_s[0] / plan.chips <= case.chip.tdp * (1.0 + 1e-12)


@pytest.mark.parametrize("name", sorted(catalog.names("chips")))
def test_a_chip_at_rest_draws_less_than_its_limit(name: str) -> None:
    assert catalog.calibration(name).kernels.energy.static < 0.7 * catalog.chip(name).tdp


def test_a_chip_at_its_limit_says_so_and_its_energy_agrees() -> None:
    found = rl.train("llama-3.1-8b", on="l4", chips=64, batch=256, seq=8192).prediction
    assert found.average_power_w <= 72.0
    chip = with_fields(found.scenario.chip, tdp=14.0)
    tight = train(found.scenario.replace(chip=chip))
    assert tight.average_power_w == 14.0
    assert tight.energy_j_per_step == pytest.approx(14.0 * tight.step_time_s * 64, rel=1e-12)
    assert any("power limit of 14 W" in note for note in tight.notes)


#: Plans that were slower on better hardware: passes that wait for the host, few micro-batches, stages that differ.
SEEN = (
    ("llama-2-70b", "dgx-b200", 512, 8, 25264, "nemo-2025-11", "fp8-current",
     {"tp": 2, "cp": 4, "pp": 8, "dp": 8, "zero": 2, "recompute": "selective", "schedule": "zb-v"}),
    ("megatron-gpt-177b-v131k", "pcie-l40s", 4096, 1024, 1024, "hf-deepspeed-2024", "bf16",
     {"pp": 16, "dp": 256, "micro_batch": 2, "zero": 2, "recompute": "full", "recompute_layers": 1,
      "schedule": "zb-v"}),
    ("mistral-7b", "hgx-h800", 512, 128, 1024, "megatron-deepspeed-2021", "fp32",
     {"tp": 8, "pp": 8, "dp": 8, "zero": 0, "recompute": "full", "schedule": "dualpipe"}),
    ("qwen3-235b-a22b", "example-oversubscribed", 8, 8, 8192, "megatron-core-plain", "int8",
     {"cp": 4, "pp": 2, "ep": 2, "micro_batch": 4, "zero": 0, "recompute": "selective", "schedule": "zb-h1"}),
    ("gpt-oss-120b", "mi350x-8", 2048, 1024, 1024, "megatron-core-plain", "fp8-delayed",
     {"tp": 8, "pp": 4, "ep": 16, "dp": 64, "micro_batch": 2, "recompute": "selective", "schedule": "zb-h1"}),
)  # fmt: skip


@pytest.mark.parametrize(("model", "cluster", "chips", "batch", "seq", "stack", "recipe", "degrees"), SEEN)
def test_what_was_slower_on_better_hardware_is_not(
    model: str,
    cluster: str,
    chips: int,
    batch: int,
    seq: int,
    stack: str,
    recipe: str,
    degrees: dict[str, Any],
) -> None:
    asked = request(
        model, on=cluster, chips=chips, batch=batch, seq=seq, stack=stack, recipe=recipe, **degrees
    )  # fmt: skip
    grid = PlanGrid.of([Plan(**degrees)])
    before = float(step(asked.scenario, grid).total_s[0])
    for name, other in better(asked.scenario):
        assert float(step(other, grid).total_s[0]) <= before * (1.0 + 1e-9), name


HYBRIDS = ("nemotron-h-8b", "gemma-2-9b", "jamba-mini", "minimax-text-01", "gemma-3-27b")


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_row_of_a_grid_is_the_plan_to_the_last_bit(name: str) -> None:
    rng = random.Random(4)
    asked = request(name, on="h100-sxm", chips=64, batch=128, seq=4096, stack="nemo-2024-11")
    for grid in list(Space(fixed=asked.fixed).grids(asked.scenario))[:4]:
        legal, _ = legal_plans(asked.scenario, grid)
        chosen = legal.take(np.array(rng.sample(range(len(legal)), min(15, len(legal))), dtype=np.int64))
        whole = step(asked.scenario, chosen)
        for i in range(len(chosen)):
            alone = step(asked.scenario, PlanGrid.of([chosen[i]]))
            assert alone.total_s[0] == whole.total_s[i]
            assert alone.joules[0] == whole.joules[i]
            for kind, held in alone.memory.items():
                assert (held[:, 0] == whole.memory[kind][:, i]).all()


@pytest.mark.parametrize("schedule", SPLIT)
def test_schedules_that_fill_bubbles_need_a_pipeline(schedule: str) -> None:
    question = {"on": "h100-sxm", "chips": 8, "batch": 64, "seq": 2048, "schedule": schedule}
    with pytest.raises(PlanError, match=f"schedule {schedule} needs pp > 1"):
        rl.train("llama-3.1-8b", **question, pp=1)
    found = rl.train("llama-3.1-8b", **question).prediction
    assert found.scenario.plan.pp > 1
    with pytest.raises(PlanError, match="needs pp > 1"):
        train(found.scenario.replace(plan=dataclasses.replace(found.scenario.plan, pp=1, dp=8, tp=1)))
