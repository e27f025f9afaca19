"""The event loop in plain Python: the same bits as the compiled one, where Numba is off or does not load."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.sim.serving import jit
from ridgeline.sim.serving.drive import simulate_fleet
from ridgeline.sim.serving.fleet import Fleet
from ridgeline.sim.serving.simulate import simulate
from test_serving_loop import hashed, step_table, traffic

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    sys.modules[name] = None
import test_plain_python
print(test_plain_python.outcome())
"""


def outcome() -> str:
    """Small runs of one engine and of a fleet, to the last bit."""
    table = step_table(ranks=2, lockstep=False)
    runs = [
        simulate(traffic(12), step_table()),
        simulate(hashed(12), table),
        simulate_fleet(traffic(12, timeout_s=0.5), Fleet(replicas=(table, table))),
    ]
    return " ".join(
        f"{time.hex()}" for run in runs for time in [*run.first_token_s, *run.finish_s, run.energy_j]
    )


@pytest.mark.parametrize(
    ("variables", "missing", "said"),
    [
        ({"NUMBA_DISABLE_JIT": "1"}, "ridgeline.nothing", ""),
        ({}, "llvmlite", "note: Numba cannot be loaded: the simulation runs in plain Python"),
    ],
)
def test_plain_python_gives_the_same_bits(variables: dict[str, str], missing: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), missing],
        env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == outcome()
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == bool(said)


def test_code_that_does_not_compile_is_one_clear_error() -> None:
    def wrong(state: str) -> int:
        return state + 1  # type: ignore[operator]

    with pytest.raises(
        ValueError, match=r"Numba cannot compile the simulation: .+ NUMBA_DISABLE_JIT=1"
    ) as caught:
        jit.keep(wrong)("a")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
