"""Memory that a search takes: per plan it keeps, per plan in one chunk, and of the whole process.

python benchmarks/memory.py
"""

from __future__ import annotations

import subprocess
import sys
import tracemalloc

from machine import JOB, RIDGELINE, Figure, job_405b, show

from ridgeline.explore.search import CHUNK, search
from ridgeline.predict import train

TARGET_BYTES = 400
_WHOLE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, capture_output=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def figures() -> list[Figure]:
    """The search for Llama-3.1-405B on 16,384 H100."""
    scenario = job_405b().scenario
    search(scenario, train)  # caches of the catalog are not the search's
    tracemalloc.start()
    result = search(scenario, train)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = [
        Figure(
            "memory of a search, peak over its legal plans",
            f"{peak / result.legal:,.0f} B a plan",
            f"under {TARGET_BYTES} B",
            peak / result.legal < TARGET_BYTES,
        ),
        Figure(f"  peak; plans are timed {CHUNK:,} at a time", f"{peak / 1e6:,.0f} MB"),
    ]
    if sys.platform != "win32":
        words = [sys.executable, "-c", _WHOLE, str(RIDGELINE), "train", *JOB]
        kib = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        found.append(Figure("  resident peak of the whole process", f"{kib * 1024 / 1e6:,.0f} MB"))
    return found


if __name__ == "__main__":
    show(figures())
