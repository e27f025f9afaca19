"""Time the planning of serving: a whole search on one core, one warm estimate, and the answer from process start.

python benchmarks/serving_search.py
"""

from __future__ import annotations

from machine import RIDGELINE, Figure, process_seconds, seconds, show

from ridgeline.explore.serving_loads import table_of
from ridgeline.explore.serving_plan import Load, Target
from ridgeline.explore.serving_search import ServingSearch, search
from ridgeline.explore.serving_space import ServingSpace
from ridgeline.facts import catalog
from ridgeline.facts.services import service
from ridgeline.facts.serving import ACCEPTANCE, Layout, Precision
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.steady import closed_loop

LOAD = Load(isl=4096, osl=512)
TARGET_SEARCH_S, TARGET_ESTIMATE_S = 5.0, 1e-3


def deepseek() -> ServingSearch:
    """DeepSeek-V3 on 32 H200: every engine, layout, format, number of drafts and load, one pool and two."""
    cluster = catalog.cluster_for("h200-sxm")
    chip = catalog.chip(
        cluster.chip
    ).model_copy()  # what is remembered of a chip is remembered of this very object
    target = Target(ttft_s=2.0, tpot_s=0.05)
    space = ServingSpace(acceptance=ACCEPTANCE)
    return search(catalog.architecture("deepseek-v3"), chip, cluster, 32, LOAD, target, space)


def figures(repeats: int = 3) -> list[Figure]:
    """Best of ``repeats``; nothing that one search has made is left to the next."""
    found = deepseek()
    best, median = seconds(deepseek, repeats)
    layout = Layout(tp=1, dp=8, ep=8)
    one = service("deepseek-v3", "h200-sxm", layout, Precision(linear="fp8-block"), "vllm-2026")
    table = table_of(one, LOAD)
    estimate, _ = seconds(lambda: closed_loop(table, LOAD.isl, LOAD.osl, 256.0), 50)
    fresh, _ = seconds(lambda: step_table(one.replace(chip=one.chip.model_copy()), 8192), 20)
    words = [
        RIDGELINE, "serve", "deepseek-v3", "--on", "h200-sxm", "--chips", "32", "--isl", "4096", "--osl", "512",
    ]  # fmt: skip
    whole, _ = process_seconds(words, repeats)
    return [
        Figure(
            "search, DeepSeek-V3 on 32 H200, one core", f"{best:.2f} s", "under 5 s", best <= TARGET_SEARCH_S
        ),
        Figure("  median of the same", f"{median:.2f} s"),
        Figure(
            "  services looked at, and plans in closed form", f"{found.considered:,}, {len(found.plans):,}"
        ),
        Figure(
            "one steady-state estimate, warm",
            f"{1e3 * estimate:.2f} ms",
            "under 1 ms",
            estimate <= TARGET_ESTIMATE_S,
        ),
        Figure("  table of step times of one service", f"{1e3 * fresh:.1f} ms"),
        Figure("whole answer from process start, without a simulation", f"{whole:.2f} s"),
    ]


if __name__ == "__main__":
    show(figures())
