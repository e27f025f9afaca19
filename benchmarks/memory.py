"""Memory that a search takes: per plan it keeps, per plan at its peak, and of the process.

python benchmarks/memory.py
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

import numpy as np
from machine import JOB, RIDGELINE, Figure, job_405b, show

from ridgeline.explore.search import CHUNK, evaluate, legal_plans, search
from ridgeline.explore.space import CHOICES, Space
from ridgeline.facts.scenario import Scenario
from ridgeline.predict import train

TARGET_BYTES = 400
_WHOLE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def kept(scenario: Scenario, space: Space) -> tuple[int, int, int]:
    """Legal plans of a space, bytes held when all are evaluated, and bytes at the peak."""
    tracemalloc.start()
    done = []
    for grid in space.grids(scenario):
        legal, _ = legal_plans(scenario, grid)
        for start in range(0, len(legal), CHUNK):
            done.append(evaluate(scenario, legal.take(np.arange(start, min(start + CHUNK, len(legal))))))
    now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return sum(len(part.grid) for part in done), now, peak


def figures() -> list[Figure]:
    """The search for Llama-3.1-405B on 16,384 H100, every choice."""
    scenario, space = job_405b().scenario, Space(searched=CHOICES)
    search(scenario, train)  # caches of the catalog are not the search's
    plans, now, peak = kept(scenario, space)
    met = peak / plans < TARGET_BYTES
    found = [
        Figure(
            "memory of a search at its peak", f"{peak / plans:,.0f} B a plan", f"under {TARGET_BYTES} B", met
        ),
        Figure("  the same, every choice", f"{peak / 1e6:,.0f} MB for {plans:,} plans"),
        Figure("  kept when all are timed", f"{now / plans:,.0f} B a plan"),
    ]
    if sys.platform != "win32":
        words = [sys.executable, "-c", _WHOLE, str(RIDGELINE), "train", *JOB]
        kib = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        found.append(Figure("  resident peak of the whole process", f"{kib * 1024 / 1e6:,.0f} MB"))
    return found


if __name__ == "__main__":
    show(figures())
