"""A serving report with plausible values, for tests of the page: DeepSeek-V3 on two kinds of pools."""

from __future__ import annotations

from typing import Any

import numpy as np

from ridgeline.report.serving_page import ServingReport
from ridgeline.report.serving_parts import (
    ChipMemory,
    Latency,
    ServingEffect,
    ServingPoint,
    State,
    StepBlock,
    metric_of,
)
from ridgeline.report.sheet import Sheet

REQUESTS = 4000


def latencies() -> list[Latency]:
    rng = np.random.default_rng(3)
    ttft = 0.18 + rng.lognormal(-1.6, 0.8, REQUESTS)
    tpot = 0.021 * rng.lognormal(0.0, 0.14, REQUESTS)
    e2e = ttft + tpot * rng.lognormal(5.6, 0.7, REQUESTS)
    ttft[-3:] = tpot[-3:] = e2e[-3:] = np.nan
    return [
        Latency(name="TTFT", title="Time to first token", values_s=ttft, slo_s=1.0),
        Latency(name="TPOT", title="Time per output token", values_s=tpot, slo_s=0.03),
        Latency(name="E2E", title="End to end", values_s=e2e),
    ]


def points() -> list[ServingPoint]:
    made = []
    for disaggregated, height, reach in ((False, 3200.0, 95.0), (True, 3900.0, 120.0)):
        rng = np.random.default_rng(int(disaggregated))
        for index in range(14):
            user = 8.0 + (reach - 8.0) * index / 13
            best = height * (1.0 - (user / (1.08 * reach)) ** 2)
            for number in range(12):
                share = 1.0 if number == 0 else float(rng.uniform(0.35, 0.97))
                made.append(
                    ServingPoint(
                        tokens_per_s_user=user * (1.0 if number == 0 else float(rng.uniform(0.9, 1.0))),
                        tokens_per_s_chip=best * share,
                        label=f"{'2 x tp8 / 1 x dp16 ep16' if disaggregated else 'dp16 ep16'}, "
                        f"{2 ** (13 - index)} users",
                        disaggregated=disaggregated,
                        on_front=number == 0,
                        chosen=disaggregated and index == 6 and number == 0,
                        remark="P99 of TTFT 0.9 s",
                    )
                )
    return made


def state() -> State:
    times = np.linspace(0.0, 600.0, 5000)
    wave = 0.5 + 0.5 * np.sin(times / 40.0)
    running = np.round(180 + 220 * wave)
    return State(
        times_s=times,
        running=running,
        waiting=np.round(np.maximum(0.0, 60.0 * (wave - 0.7)) * 4),
        kv_share=np.minimum(1.0, running / 430.0),
    )


def steps() -> list[StepBlock]:
    made = []
    rng = np.random.default_rng(5)
    for engine, kinds in (
        *((f"prefill {i}", ("prefill",)) for i in range(2)),
        *((f"decode {i}", ("decode",)) for i in range(3)),
        ("serve 0", ("mixed", "decode", "decode", "decode")),
    ):
        at, number = 120.0 + float(rng.uniform(0, 0.01)), 0
        while at < 121.0:
            kind = kinds[number % len(kinds)]
            lasts = {"prefill": 0.12, "decode": 0.021, "mixed": 0.05}[kind] * float(rng.uniform(0.9, 1.1))
            tokens = {"prefill": 16384, "decode": 256, "mixed": 8192}[kind]
            made.append(StepBlock(engine, kind, at, min(121.0, at + lasts), tokens))
            at += lasts * (1.15 if kind == "prefill" else 1.02)
            number += 1
    return made


LADDER = [
    ("memory traffic at peak bandwidth", 9.1e-3),
    ("memory efficiency", 2.3e-3),
    ("attention", 2.9e-3),
    ("expert imbalance", 1.4e-3),
    ("dispatch and combine", 3.6e-3),
    ("two-batch overlap", -1.2e-3),
    ("launches and host", 1.9e-3),
    ("speculation", 1.0e-3),
]
MEMORY = [
    ChipMemory(
        name="prefill, H200",
        capacity_bytes=141e9,
        parts={"weights": 86e9, "KV cache": 31e9, "activations": 9e9, "reserve": 4e9},
    ),
    ChipMemory(
        name="decode, H200",
        capacity_bytes=141e9,
        parts={"weights": 58e9, "KV cache": 69e9, "activations": 2.5e9, "reserve": 4e9},
    ),
]


EFFECTS = [
    ServingEffect("users x 2", -0.21, 0.18, 0.0, "misses the target of TPOT"),
    ServingEffect("KV cache in fp8", -0.08, -0.11, -0.01),
    ServingEffect("memory bandwidth +10 %", -0.03, -0.04, -0.02),
    ServingEffect("users / 2", 0.4, -0.09, 0.0),
]


def report(**changes: Any) -> ServingReport:
    ttft, tpot, e2e = latencies()
    plans = Sheet(
        (
            "#",
            "prefill",
            "decode",
            "chips",
            "tokens/s of a chip",
            "P99 TTFT s",
            "P99 TPOT ms",
            "$ / M tokens",
        ),
        (
            ("1", "2 x tp8 ep8", "1 x dp16 ep16", "32", "1,940", "0.912", "28.8", "0.41"),
            ("2", "", "2 x dp16 ep16", "32", "1,610", "0.984", "29.6", "0.50"),
        ),
        "rllrrrrr",
        strong=frozenset([0]),
    )
    inputs = {
        "Load and model": Sheet(
            ("input", "value", "source"),
            (
                ("arrivals", "24 requests/s, Poisson", "given"),
                ("model", "DeepSeek-V3 671B", "arXiv:2412.19437"),
            ),
            "lll",
        ),
        "Chip: H200": Sheet(
            ("input", "value", "source"), (("memory", "141 GB", "NVIDIA data sheet"),), "lll"
        ),
    }
    parts: dict[str, Any] = {
        "title": "DeepSeek-V3 on 32 x H200",
        "headline": "DeepSeek-V3 671B on 32 x H200 SXM 141GB (NVLink 450 GB/s in domains of 8), SGLang 2026, fp8-block",
        "answer": "1,940 tokens/s of a chip at 46 tokens/s of a user, P99 TTFT 0.91 s, P99 TPOT 28.8 ms, $0.41 a "
        "million tokens",
        "plan": "2 prefill engines of tp8 ep8, 1 decode engine of dp16 ep16, KV over NIXL",
        "facts": [
            ("throughput", "1,940 tokens/s", "per chip; 62,080 all chips"),
            ("goodput", "23.6 requests/s", "98.3 % of 24.0 meet both SLOs"),
            ("P99 TTFT", "0.91 s", "SLO 1.00 s"),
            ("P99 TPOT", "28.8 ms", "SLO 30.0 ms"),
            ("price", "$0.41", "a million output tokens"),
            ("energy", "0.61 J", "an output token"),
        ],
        "labels": {"kernels": "fitted", "links": "fitted", "engine": "transferred"},
        "metrics": [
            metric_of("TTFT", "s", ttft.values_s, slo="P99 at most 1.00 s"),
            metric_of("TPOT", "ms", tpot.values_s, scale=1e3, slo="P99 at most 30.0 ms"),
            metric_of("E2E", "s", e2e.values_s),
        ],
        "metrics_note": "4,000 requests after a warm-up of 400.",
        "plans": plans,
        "plans_note": "Of 3,120 considered; all meet the SLOs.",
        "points": points(),
        "latencies": [ttft, tpot, e2e],
        "state": state(),
        "ladder": LADDER,
        "effects": EFFECTS,
        "steps": steps(),
        "memory": MEMORY,
        "inputs": inputs,
        "notes": ["The engine's host times are transferred from an older release."],
        "command": "ridgeline serve deepseek-v3 --on h200-sxm --chips 32",
        "version": "0.1.0",
        "catalog_hash": "abc123",
    }
    return ServingReport(**(parts | changes))
