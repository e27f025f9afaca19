"""The closed form of serving: it settles, keeps what one engine can do, and does not lose by better hardware."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ridgeline.api.serving_request import serving_request
from ridgeline.explore.serving_search import search
from ridgeline.facts.requests import Requests
from ridgeline.facts.serving import Service
from ridgeline.facts.spec import SpecT
from ridgeline.insight.serving_ladder import ladder
from ridgeline.sim.serving import steady
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.steady import closed_loop
from ridgeline.sim.serving.table import StepTable

#: model, machine, chips, tokens in and out, users, chunk: long prompts and short answers.
LONG = (
    ("glm-4.5-air", "hgx-b300-roce", 32, 26564, 15, 1019, 512),
    ("opt-2.7b", "mi350x-8", 4, 25733, 2, 7, 2048),
    ("mistral-large-2", "pcie-rtx-pro-4500", 8, 20186, 107, 4, 2048),
    ("mpt-30b", "pcie-h100", 2, 21771, 26, 280, 2048),
    ("gemma-2-27b", "gb300-nvl72", 4, 23045, 18, 16, 8192),
    ("kimi-k2", "dgx-h100-powercap", 16, 17618, 2, 8, 2048),
)
CASES = pytest.mark.parametrize(("model", "machine", "chips", "isl", "osl", "users", "chunk"), LONG)


def service(model: str, machine: str, chips: int, isl: int, osl: int, users: int, chunk: int) -> Service:
    asked = serving_request(
        model, on=machine, chips=chips, isl=isl, osl=osl, concurrency=users, chunk=chunk,
        engine="vllm-2026", disaggregated=False, speculate=False,
    )  # fmt: skip
    found = search(
        asked.architecture, asked.chip, asked.cluster, asked.chips, asked.load, asked.target, asked.space
    )
    return min(found.plans, key=lambda plan: plan.key).service


def with_fields(spec: SpecT, **changes: object) -> SpecT:
    return spec.model_copy(update=changes)


def better(one: Service) -> Iterator[tuple[str, Service]]:
    chip, cluster = one.chip, one.cluster
    memory = with_fields(chip.memory, capacity=1.5 * chip.memory.capacity)
    fast = with_fields(chip.memory, bandwidth=1.5 * chip.memory.bandwidth)
    quick = tuple(with_fields(tier, latency=0.5 * tier.latency) for tier in cluster.tiers)
    yield "capacity", dataclasses.replace(one, chip=with_fields(chip, memory=memory))
    yield "bandwidth", dataclasses.replace(one, chip=with_fields(chip, memory=fast))
    yield "latency", dataclasses.replace(one, cluster=with_fields(cluster, tiers=quick))


@CASES
def test_more_users_and_better_hardware_do_not_lower_throughput(
    model: str, machine: str, chips: int, isl: int, osl: int, users: int, chunk: int
) -> None:
    one = service(model, machine, chips, isl, osl, users, chunk)
    table = step_table(one, isl + osl)
    before = closed_loop(table, isl, osl, users).output_tokens_per_s
    for name, other in better(one):
        after = closed_loop(step_table(other, isl + osl), isl, osl, users).output_tokens_per_s
        assert after >= before * (1.0 - 1e-3), name
    assert closed_loop(table, isl, osl, 2.0 * users).output_tokens_per_s >= before * (1.0 - 1e-3)


@CASES
def test_it_settles_and_its_rungs_are_its_own(
    model: str, machine: str, chips: int, isl: int, osl: int, users: int, chunk: int
) -> None:
    one = service(model, machine, chips, isl, osl, users, chunk)
    table = step_table(one, isl + osl)
    lanes = table.ranks * table.stages
    for count in np.geomspace(1.0, 4.0 * users, 12):
        found = closed_loop(table, isl, osl, float(count))
        rungs = ladder(one, table, found, isl, osl)
        assert math.fsum(rung.seconds for rung in rungs) == pytest.approx(found.tpot_s, rel=1e-12)
        assert all(rung.seconds > 0.0 for rung in rungs)
        # Little's law with all that run
        life = found.ttft_s + found.tpot_s * (osl - 1.0)
        assert found.output_tokens_per_s / osl * life == pytest.approx(
            found.running + found.waiting, rel=1e-6
        )
        assert lanes <= found.decoding + 1e-9


def test_halves_find_the_fixed_point_of_secants_and_the_mean_at_a_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = service("llama-3.1-8b", "h100-sxm", 1, 512, 256, 64, 2048)
    table = step_table(one, 1024)
    loop = steady._Loop(table, 512.0, 256.0, 64.0, 64.0)
    secants, halves = steady._settled(loop), steady._bisected(loop)
    assert halves.decodes == pytest.approx(secants.decodes, rel=1e-3)
    assert halves.tpot_s == pytest.approx(secants.tpot_s, rel=1e-3)

    def stairs(_: object, decodes: float) -> steady._Round:
        target = 5.0 if decodes < 3.0 else 2.0
        return steady._Round(decodes, target, 0.0, 0.0, 0.0, target, 0.0, 0.0)

    monkeypatch.setattr(steady._Loop, "at", stairs)
    found = steady._settled(steady._Loop(table, 512.0, 256.0, 64.0, 8.0))
    assert found.decodes == pytest.approx(3.0)
    assert found.target == pytest.approx(3.0)  # two thirds of the time it leads to 5, one third to 2
    assert found.tpot_s == pytest.approx(3.0)


SIMULATED: tuple[tuple[Any, ...], ...] = (
    ("mpt-30b", "dgx-h100", 4, 15990, 26, 3, 2048),
    ("llama-3.2-3b", "pcie-rtx-pro-4500", 1, 5323, 350, 11, 2048),
    ("llama-3.1-8b", "h100-sxm", 1, 8000, 64, 6, 2048),
)


def measured(case: tuple[Any, ...]) -> tuple[StepTable, float, float]:
    """The table of a case, and tokens a second and time between tokens of its simulation."""
    isl, osl, users = case[3], case[4], case[5]
    table = step_table(service(*case), isl + osl)
    n = max(8 * users, 60)
    sent = Requests(
        arrival_s=np.zeros(n), input_tokens=np.full(n, isl), output_tokens=np.full(n, osl), users=users
    )
    outcome = simulate(sent, table)
    finish = np.sort(outcome.finish_s)
    low, high = int(0.2 * n), int(0.8 * n)
    between = (outcome.finish_s - outcome.first_token_s)[low:high].mean() / (osl - 1)
    return table, osl * (high - low) / (finish[high] - finish[low]), float(between)


@pytest.mark.parametrize("case", SIMULATED, ids=lambda case: case[0])
def test_prefills_of_few_users_take_their_turns_as_simulated(case: tuple[Any, ...]) -> None:
    table, simulated, _ = measured(case)
    assert closed_loop(table, *case[3:6]).output_tokens_per_s == pytest.approx(simulated, rel=0.1)


BOUND_BY_PREFILLS: tuple[tuple[Any, ...], ...] = (
    ("gemma-2-27b", "gb300-nvl72", 4, 23045, 18, 16, 8192),
    ("megatron-gpt-1.7b", "pcie-rtx-pro-4500", 1, 1791, 2, 44, 2048),
    ("qwen2.5-7b", "h100-sxm", 1, 12000, 20, 40, 2048),
)


@pytest.mark.parametrize("case", BOUND_BY_PREFILLS, ids=lambda case: case[0])
def test_a_step_holds_a_chunk_and_other_prompts_queue_as_simulated(case: tuple[Any, ...]) -> None:
    table, simulated, between = measured(case)
    found = closed_loop(table, *case[3:6])
    assert found.output_tokens_per_s == pytest.approx(simulated, rel=0.15)
    assert found.tpot_s == pytest.approx(between, rel=0.15)


def test_a_served_chip_draws_no_more_than_its_limit() -> None:
    isl, osl, users = 2048, 8, 16
    table = step_table(service("llama-3.1-8b", "l4", 1, isl, osl, users, 2048), isl + osl)
    sent = Requests(
        arrival_s=np.zeros(40), input_tokens=np.full(40, isl), output_tokens=np.full(40, osl), users=users
    )
    outcome = simulate(sent, table)
    assert outcome.energy_j / outcome.end_s <= 72.0 * (1.0 + 1e-12)
    tight = simulate(sent, dataclasses.replace(table, limit_w=20.0))
    assert tight.energy_j / tight.end_s == pytest.approx(20.0, rel=0.01)
    assert tight.energy_j <= 20.0 * tight.end_s * (1.0 + 1e-12)
    np.testing.assert_array_equal(tight.finish_s, outcome.finish_s)
