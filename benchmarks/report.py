"""Time and size of the report of a planned run.

python benchmarks/report.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from machine import Figure, job_405b, seconds, show

from ridgeline.api.training import answer


def figures(repeats: int = 5) -> list[Figure]:
    """The report of the best plan of Llama-3.1-405B on 16,384 H100."""
    found = answer(job_405b())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        start = time.perf_counter()
        found.write_report(path)
        first = time.perf_counter() - start
        again, _ = seconds(lambda: found.write_report(path), repeats)
        size = path.stat().st_size
    return [
        Figure("report, first time: what-ifs, exact timeline, figures, page", f"{first:.2f} s"),
        Figure("  again, what-ifs and timeline known", f"{again:.2f} s"),
        Figure("  size, plotting library inside", f"{size / 1e6:.1f} MB"),
    ]


if __name__ == "__main__":
    show(figures())
