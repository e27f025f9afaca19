"""Time one warm prediction: every operator, the ladder, memory, energy and range of one plan.

python benchmarks/prediction.py
"""

from __future__ import annotations

from machine import Figure, seconds, show

from ridgeline.api.request import request
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.predict import train

TARGET_S = 2e-3


def scenarios() -> dict[str, Scenario]:
    """One dense and one mixture-of-experts run at full size."""
    dense = request("llama-3.1-405b", on="h100-sxm", chips=16384, batch=2048, seq=8192).scenario
    experts = request("deepseek-v3", on="h800", chips=2048, batch=15360, seq=4096).scenario
    return {
        "Llama-3.1-405B on 16,384 H100": dense.replace(plan=Plan(tp=8, pp=16, dp=128, zero=1)),
        "DeepSeek-V3 on 2,048 H800": experts.replace(plan=Plan(pp=16, ep=64, dp=128, zero=1)),
    }


def figures(repeats: int = 200) -> list[Figure]:
    """Shortest time of a prediction in a process that has made one before."""
    found = []
    for name, scenario in scenarios().items():
        best, median = seconds(lambda scenario=scenario: train(scenario), repeats)  # type: ignore[misc]
        value = f"{1e3 * best:.2f} ms"
        found.append(Figure(f"one prediction, {name}", value, "under 2 ms", best < TARGET_S))
        found.append(Figure("  median of the same", f"{1e3 * median:.2f} ms"))
    return found


if __name__ == "__main__":
    show(figures())
