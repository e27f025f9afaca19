"""The same question gives the same bytes: on stdout, in JSON, reports, traces and launch files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = "train llama-3.1-8b --on h100-sxm --chips 16 --batch 64 --seq 4096"
SERVE = "serve llama-3.1-8b --on h100-sxm --chips 2 --isl 512 --osl 64 --concurrency 8"
#: What is asked in the folder of the answers, in this order.
COMMANDS = [
    f"{TRAIN} --out train.json --out train.html --out trace.json",
    f"{TRAIN} --json",
    f"{TRAIN} --emit megatron",
    f"{TRAIN} --tp 2 --pp 2 --emit torchtitan",
    f"{TRAIN} --tp 2 --pp 2 --emit nemo",
    "explain train.json",
    "explain train.json --json --out explain.html",
    f"{SERVE} --simulate --json --out serve.html",
    f"{SERVE} --engine vllm --emit vllm",
    f"{SERVE} --engine vllm --tp 2 --emit kubernetes --out deploy.yaml",
    "validate runs.csv --json --out rows.csv --out rows.json",
    "validate runs.csv",
    "validate H100-SXM_small",
    "validate H100-SXM_small --json",
    "catalog list",
    "train llama-3.1-8b --on no-such-chip --chips 16 --batch 64 --seq 4096",
]
PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path
from ridgeline.cli.main import main

for i, command in enumerate(json.load(sys.stdin)):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(command.split())
    Path(f"printed-{i:02}.txt").write_text(f"{command}\\n{code}\\n{out.getvalue()}", encoding="utf-8")
"""


def answers(folder: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    from test_serving_validate import recorded
    from test_validate import ROW, write

    folder.mkdir()
    write(folder / "runs.csv", [ROW, {**ROW, "id": "two", "seq": 4096}])
    recorded(folder / "H100-SXM_small")
    running = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert running.stdin is not None
    running.stdin.write(json.dumps(COMMANDS))
    running.stdin.close()
    return running


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same questions in two folders, hours, languages and orders of sets."""
    root = tmp_path_factory.mktemp("same")
    one = {"PYTHONHASHSEED": "1", "TZ": "UTC", "COLUMNS": "120"}
    two = {
        "PYTHONHASHSEED": "2",
        "TZ": "Asia/Tokyo",
        "COLUMNS": "120",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    running = [answers(root / "a", one), answers(root / "a-longer-name", two)]
    assert [process.wait() for process in running] == [0, 0]
    return root / "a", root / "a-longer-name"


def test_the_same_question_gives_the_same_bytes(folders: tuple[Path, Path]) -> None:
    first, second = ({p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in folders)
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == []
    assert len(first) >= len(COMMANDS) + 8


def test_every_command_answered(folders: tuple[Path, Path]) -> None:
    codes = [(folders[0] / f"printed-{i:02}.txt").read_text().splitlines()[1] for i in range(len(COMMANDS))]
    assert codes == [*["0"] * (len(COMMANDS) - 1), "2"]


def test_what_is_written_names_no_folder_of_the_machine(folders: tuple[Path, Path]) -> None:
    names = [os.fsencode(folders[0]), os.fsencode(Path(__file__).parent.parent), sys.prefix.encode()]
    for path in folders[0].rglob("*"):
        if path.is_file() and path.parent == folders[0]:
            content = path.read_bytes()
            assert [name for name in names if name in content] == [], path.name


def test_how_long_a_search_took_is_kept_apart(capsys: pytest.CaptureFixture[str]) -> None:
    import ridgeline as rl

    found = rl.plan("llama-3.1-8b", on="h100-sxm", chips=16, batch=64, seq=4096)
    assert found.seconds > 0.0
    assert "seconds" not in found.to_dict()["search"]
