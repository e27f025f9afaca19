"""Ctrl-C ends the command with one line and code 130, also while modules are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

TRAIN = [
    "train",
    "llama-3.1-8b",
    "--on",
    "h100-sxm",
    "--chips",
    "8",
    "--batch",
    "64",
    "--seq",
    "2048",
    "--tp",
    "2",
]
# Sends Ctrl-C as the command imports its n-th module, the first being the command itself; counts them where n is 0.
PROGRAM = """
import os, runpy, signal, sys
at, seen = int(sys.argv.pop(1)), 0

def hook(event, arguments):
    global seen
    if event == "import" and (seen or arguments[0] == "ridgeline.cli.main"):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
sys.argv[0] = "ridgeline"
try:
    runpy.run_module("ridgeline", run_name="__main__", alter_sys=True)
finally:
    print(seen, file=sys.stderr)
"""


def interrupted(at: int, words: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(at), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def imports() -> int:
    """How many modules the command imports."""
    done = interrupted(0, TRAIN)
    assert done.returncode == 0, done.stderr
    return int(done.stderr)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97])
def test_ctrl_c_during_an_import_ends_with_one_line(imports: int, share: float) -> None:
    done = interrupted(1 + int(share * imports), TRAIN)
    assert done.stderr.split(":")[0].split() == ["interrupted"], done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 130
    assert done.stdout == ""


def test_an_interruption_that_an_import_turned_into_another_error_is_still_one() -> None:
    """As compiled modules do: NumPy reports that it cannot be imported."""
    program = """
import os, signal, sys
import ridgeline.__main__ as command, ridgeline.cli.main as app

def run():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))
    except KeyboardInterrupt as error:
        raise SystemError("module returned NULL") from error

app.main = run
sys.exit(command.main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline", "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("ridgeline ")
