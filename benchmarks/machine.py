"""What a figure was measured on and how: the machine in words, and the shortest of several timings."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ridgeline.api.request import Request, request

RIDGELINE = Path(sys.executable).with_name("ridgeline")
#: The job that the figures of the whole answer are about.
JOB = ("llama-3.1-405b", "--on", "h100-sxm", "--chips", "16384", "--batch", "2048", "--seq", "8192")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure beside its target; ``target`` empty where none is set."""

    name: str
    value: str
    target: str = ""
    met: bool | None = None

    def line(self) -> str:
        """The figure as a line of text."""
        verdict = {True: "met", False: "missed", None: ""}[self.met]
        return f"{self.name:<74} {self.value:>16}  {self.target:<18} {verdict}".rstrip()


def machine() -> str:
    """Processor, cores and versions in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{_processor()}, {cores} cores, {platform.system()}, {versions}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    mhz = (float(line.split(":", 1)[1]) for line in lines if line.startswith("cpu MHz"))
    return f"{next(names, platform.machine())} at {next(mhz, 0.0) / 1e3:.1f} GHz"


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Shortest and median time of ``work``, which is called once before."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times), statistics.median(times)


def process_seconds(words: Sequence[str | Path], repeats: int) -> tuple[float, float]:
    """Shortest and median time of a command from the start of its process to its end."""

    def work() -> None:
        subprocess.run([*words], check=True, capture_output=True, stdin=subprocess.DEVNULL)

    return seconds(work, repeats)


def job_405b() -> Request:
    """Llama-3.1-405B on 16,384 H100 with an open plan."""
    return request("llama-3.1-405b", on="h100-sxm", chips=16384, batch=2048, seq=8192)


def show(figures: Sequence[Figure]) -> None:
    """Print figures under the machine they were measured on."""
    print(machine())
    for figure in figures:
        print(figure.line())
