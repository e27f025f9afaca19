"""Standard streams that are closed, full or left: the files are written, and the exit code is that of the question."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

JOB = "--on h100-sxm --chips 8 --batch 64 --seq 2048 --tp 2 --dp 4 --micro-batch 1"
TRAIN = ["train", "llama-3.1-8b", *JOB.split()]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="streams of POSIX")


def closing(*numbers: int) -> Callable[[], None]:
    def close() -> None:
        for number in numbers:
            os.close(number)

    return close


def run(
    words: list[str], *closed: int, out: int | None = None, err: int | None = None
) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ridgeline", *words],
        stdout=subprocess.PIPE if out is None else out,
        stderr=subprocess.PIPE if err is None else err,
        preexec_fn=closing(*closed),
        text=True,
        check=False,
    )
    return done.returncode, done.stdout or "", done.stderr or ""


@pytest.mark.parametrize(
    "words", [["catalog", "list"], ["--help"], [*TRAIN, "--json"], [*TRAIN, "--emit", "megatron"]]
)
def test_a_closed_standard_output_is_no_mistake(words: list[str]) -> None:
    code, _, err = run(words, 1)
    assert code == 0
    assert "error" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2), (2,)])
def test_a_file_is_written_whole_whatever_is_closed(closed: tuple[int, ...], tmp_path: Path) -> None:
    """What is said must not go into the file, which would get the number of a closed stream."""
    target = tmp_path / "new" / "result.json"
    assert run([*TRAIN, "--out", str(target)], *closed)[0] == 0
    assert json.loads(target.read_text())["model"] == "llama-3.1-8b"


def test_a_mistake_is_one_where_nobody_can_be_told(tmp_path: Path) -> None:
    mistake = ["catalog", "show", "no-such-thing"]
    assert run(mistake, 2)[0] == 2
    assert run(mistake, 1, 2)[0] == 2
    reading, writing = os.pipe()
    os.close(reading)
    assert run(mistake, err=writing)[0] == 2
    os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_error_changes_no_exit_code() -> None:
    with open("/dev/full", "w") as full:
        assert run(["catalog", "show", "no-such-thing"], err=full.fileno())[0] == 2
        code, out, _ = run(
            [*TRAIN, "--emit", "megatron"], err=full.fileno()
        )  # its table goes to standard error
        assert (code, "torchrun" in out) == (0, True)
        assert run(["catalog", "list"], out=full.fileno(), err=full.fileno())[0] == 2
