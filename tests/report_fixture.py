"""A realistic prediction and timeline for the report's tests; the numbers are illustrative, not computed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ridgeline.facts import catalog
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.kernel_calibration import (
    AttentionFit,
    EnergyFit,
    GemmFit,
    KernelCalibration,
    Provenance,
    StreamFit,
)
from ridgeline.facts.link_calibration import LinkCalibration, LinkFit
from ridgeline.facts.observation import Label, Observation
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.step_calibration import StepCalibration
from ridgeline.facts.workload import TrainingJob
from ridgeline.metrics import OperatorTime, Prediction, Rung
from ridgeline.report import Block, Effect, PlanPoint

STAGES = 16
MICRO_BATCHES = 16
PLAN = Plan(tp=8, cp=1, pp=STAGES, vpp=4, dp=128, micro_batch=1, schedule="interleaved")


def calibration() -> Calibration:
    """Provenance only: the report shows where fits come from, never their coefficients."""
    fitted = Provenance(
        label=Label.FITTED, source="cuBLAS 12.4 GEMM table, 11,900 held-out shapes", rows=2400,
        median_abs_err=0.055, p90_abs_err=0.14,
    )  # fmt: skip
    moved = Provenance(label=Label.TRANSFERRED, source="published steps on 768 to 16,384 chips", rows=31)
    kernels = KernelCalibration.model_construct(
        chip="h100-sxm",
        gemm={"bf16": GemmFit.model_construct(provenance=fitted)},
        attention={"bf16": AttentionFit.model_construct(provenance=fitted)},
        grouped={},
        stream=StreamFit.model_construct(provenance=fitted),
        energy=EnergyFit.model_construct(provenance=moved),
    )
    links = LinkCalibration.model_construct(
        chip="h100-sxm",
        scale_up={"all_gather": LinkFit.model_construct(provenance=fitted)},
        scale_out={"reduce_scatter": LinkFit.model_construct(provenance=moved)},
    )
    steps = StepCalibration.model_construct(
        chip="h100-sxm", boost_energy=2.0, in_situ=1.06, provenance=fitted
    )
    return Calibration(kernels=kernels, links=links, steps=steps)


def scenario(plan: Plan = PLAN) -> Scenario:
    """Llama 3.1 405B on 16,384 H100."""
    return Scenario(
        architecture=catalog.architecture("llama-3.1-405b"),
        chip=catalog.chip("h100-sxm"),
        cluster=catalog.cluster("dgx-h100"),
        num_chips=16384,
        job=TrainingJob(batch=2048, seq=8192, tokens=15.6e12),
        plan=plan,
        stack=catalog.stack("megatron-lm-2024"),
        recipe=catalog.recipe("bf16"),
        calibration=calibration(),
    )


def operators() -> tuple[OperatorTime, ...]:
    """One micro-batch of 8,192 tokens on a stage of eight layers, tensor parallel over eight chips."""
    tokens, hidden, ffn, tp, layers = 8192, 16384, 53248, 8, 8
    shapes = {
        "qkv": (hidden, 18432 // tp, 0.71),
        "attention out": (hidden // tp, hidden, 0.69),
        "gate and up": (hidden, 2 * ffn // tp, 0.76),
        "down": (ffn // tp, hidden, 0.74),
    }
    found = []
    for phase in ("forward", "input_grad", "weight_grad"):
        for name, (k, n, share) in shapes.items():
            flops = 2.0 * tokens * k * n * layers
            size = 2.0 * (tokens * k + k * n + tokens * n) * layers
            seconds = flops / (989.4e12 * share)
            found.append(OperatorTime(name, phase, "gemm", layers, seconds, flops, size, "bf16", "compute"))
    for phase, factor, share in (("forward", 1.0, 0.56), ("input_grad", 2.5, 0.47)):
        flops = 2.0 * tokens**2 * 16 * 128 * layers * factor
        size = 2.0 * tokens * (16 * 2 + 2) * 128 * layers * factor
        seconds = flops / (989.4e12 * share)
        found.append(
            OperatorTime("attention", phase, "attention", layers, seconds, flops, size, "bf16", "compute")
        )
    for phase in ("forward", "input_grad"):
        for name, passes, per_value in (("norms", 4.0, 4.0), ("rotary", 2.0, 3.0), ("swiglu", 6.0, 5.0)):
            size = 2.0 * tokens * hidden * passes * layers / tp
            seconds = size / (3.35e12 * 0.78)
            flops = size / 2.0 / passes * per_value
            found.append(OperatorTime(name, phase, "stream", layers, seconds, flops, size, "bf16", "memory"))
    embedding = 2.0 * tokens * hidden
    found.append(
        OperatorTime(
            "embedding", "forward", "stream", 1, embedding / 2.4e12, 0.0, embedding, "bf16", "memory"
        )
    )
    return tuple(found)


def memory() -> dict[str, list[float]]:
    """Bytes by kind and stage; stage 0 keeps the most micro-batches in flight."""
    in_flight = [(STAGES - stage - 1) * 2 + 3 * STAGES + 1 for stage in range(STAGES)]
    ends = [1.35 if stage in (0, STAGES - 1) else 1.0 for stage in range(STAGES)]
    return {
        "weights": [6.5e9 * end for end in ends],
        "gradients": [13.0e9 * end for end in ends],
        "optimizer": [0.31e9 * end for end in ends],
        "activations": [0.52e9 * count for count in in_flight],
        "logits": [0.0] * (STAGES - 1) + [1.6e9],
        "buffers": [1.2e9] * STAGES,
        "reserve": [4.0e9] * STAGES,
    }


def prediction(plan: Plan = PLAN, step: float = 4.93, **changes: object) -> Prediction:
    """The best plan, or another one that takes ``step`` seconds."""
    rungs = {
        "model FLOPs at peak": 2.03,
        "GEMM below peak": 0.66,
        "memory-bound operators": 0.41,
        "tensor parallel, exposed": 0.48,
        "pipeline bubble": 0.52,
        "data parallel, exposed": 0.47,
        "optimizer, host, jitter": 0.36,
    }
    kinds = memory()
    peak = max(math.fsum(values[i] for values in kinds.values()) for i in range(STAGES))
    base = Prediction(
        scenario=scenario(plan),
        step_time_s=step,
        step_time_low_s=step * 0.953,
        step_time_high_s=step * 1.075,
        bound_s=1.94,
        mfu=2.03 / step,
        mfu_full_attention=2.13 / step,
        hfu=2.03 / step,
        tokens_per_s_per_chip=2048 * 8192 / step / 16384,
        model_tflops_per_chip=989.4 * 2.03 / step,
        peak_memory_bytes=peak,
        memory_capacity_bytes=80e9,
        memory=kinds,
        ladder=tuple(Rung(cause, seconds * step / 4.93) for cause, seconds in rungs.items()),
        exposed_s={"tp": 0.48, "dp": 0.47, "pp": 0.0},
        bubble_share=0.105,
        energy_j_per_step=step * 590.0,
        average_power_w=590.0,
        days=15.6e12 / (2048 * 8192) * step / 86400.0,
        labels={
            "kernels": "fitted",
            "collectives up to 8 chips": "measured",
            "collectives beyond": "transferred",
        },
        operators=operators(),
        notes=("Failures and restarts are not part of the step time.",),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def plans() -> list[Prediction]:
    """The best plans; the last one does not fit."""
    return [
        prediction(),
        prediction(replace(PLAN, cp=2, pp=8, vpp=8), 5.01, peak_memory_bytes=76.8e9),
        prediction(replace(PLAN, pp=8, vpp=16, dp=256), 5.07, peak_memory_bytes=79.2e9),
        prediction(replace(PLAN, recompute="selective"), 5.21, peak_memory_bytes=61.4e9),
        prediction(
            replace(PLAN, vpp=8, recompute="full", recompute_layers=2), 5.34, peak_memory_bytes=58.0e9
        ),
        prediction(replace(PLAN, tp=4, dp=256), 4.81, peak_memory_bytes=96.3e9),
    ]


def candidates(number: int = 600) -> list[PlanPoint]:
    """A cloud of candidate plans, the same every time."""
    points = []
    for i in range(number):
        turn = (i * 0.61803398875) % 1.0
        slack = (i * 0.754877666) % 1.0
        memory_gb = 28.0 + 62.0 * turn
        step = 4.4 + 34.0 / memory_gb + 3.2 * slack**1.7
        points.append(PlanPoint(step, memory_gb * 1e9, f"candidate {i}"))
    return points


def effects() -> list[Effect]:
    """What some changes do."""
    return [
        Effect("fp8 recipe on linear layers", -0.27, "published: -24 to -31 %"),
        Effect("16 to 32 micro-batches in flight", -0.052, "global batch 4096"),
        Effect("device memory bandwidth +10 %", -0.013),
        Effect("network bandwidth +10 %", -0.009),
        Effect("network bandwidth -50 %", 0.118, "oversubscribed 2:1"),
        Effect("host 6 to 12 us a kernel", 0.004),
    ]


def published() -> list[Observation]:
    """One published row."""
    return [
        Observation(
            subject="llama-3.1-405b, 16,384 H100, 8k", metric="mfu", value=0.41,
            source="The Llama 3 Herd of Models, https://arxiv.org/abs/2407.21783, table 4",
        )
    ]  # fmt: skip


def timeline(micro_batches: int = MICRO_BATCHES, stages: int = STAGES, chunks: int = 4) -> list[Block]:
    """Interleaved 1F1B in Megatron's order, with a gradient reduction at the end of each stage."""
    forward, backward = 0.0195, 0.039
    total = micro_batches * chunks
    orders = []
    for stage in range(stages):
        warm = min(total, (stages - stage - 1) * 2 + (chunks - 1) * stages)
        order = [("F", i) for i in range(warm)]
        for i in range(total - warm):
            order += [("F", warm + i), ("BW", i)]
        orders.append(order + [("BW", i) for i in range(total - warm, total)])
    ends: dict[tuple[str, int, int, int], float] = {}
    clock, done, blocks = [0.0] * stages, [0] * stages, []
    progress = True
    while progress:
        progress = False
        for stage in range(stages):
            while done[stage] < len(orders[stage]):
                kind, number = orders[stage][done[stage]]
                micro_batch, chunk = _unit(number, stages, chunks, kind)
                ready = _ready(ends, kind, micro_batch, chunk, stage, stages, chunks)
                if ready is None:
                    break
                start = max(clock[stage], ready)
                clock[stage] = start + (forward if kind == "F" else backward)
                ends[kind, micro_batch, chunk, stage] = clock[stage]
                name = f"{kind}{micro_batch}"
                blocks.append(Block(stage, "compute", name, kind, micro_batch, chunk, start, clock[stage]))
                done[stage] += 1
                progress = True
    assert all(count == len(order) for count, order in zip(done, orders, strict=True))
    for stage in range(stages):
        name = "gradient reduce-scatter"
        blocks.append(Block(stage, "compute", name, name, -1, -1, clock[stage], clock[stage] + 0.12))
    return blocks


def _unit(number: int, stages: int, chunks: int, kind: str) -> tuple[int, int]:
    group, rest = divmod(number, stages * chunks)
    chunk, within = divmod(rest, stages)
    return group * stages + within, chunk if kind == "F" else chunks - 1 - chunk


def _ready(
    ends: dict[tuple[str, int, int, int], float],
    kind: str, micro_batch: int, chunk: int, stage: int, stages: int, chunks: int,
) -> float | None:  # fmt: skip
    if kind == "F":
        if stage == 0 and chunk == 0:
            return 0.0
        source = (stage - 1, chunk) if stage else (stages - 1, chunk - 1)
    elif stage == stages - 1 and chunk == chunks - 1:
        return ends.get(("F", micro_batch, chunk, stage))
    else:
        source = (stage + 1, chunk) if stage < stages - 1 else (0, chunk + 1)
    return ends.get((kind, micro_batch, source[1], source[0]))


def parts() -> dict[str, Any]:
    """Everything that a full report takes beside its prediction."""
    return {
        "plans": plans(),
        "pareto": candidates(),
        "timeline": timeline(),
        "sensitivities": effects(),
        "published": published(),
        "command": "ridgeline train llama-3.1-405b --on h100-sxm --chips 16384 --batch 2048 --seq 8192",
        "version": "0.1.0",
        "catalog_hash": "0123456789ab",
    }
