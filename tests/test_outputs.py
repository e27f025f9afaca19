"""Outputs: none replaces what the answer reads or another output; refused before any work, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.facts import catalog, notes

JOB = "--on h100-sxm --chips 8 --batch 64 --seq 2048 --tp 2 --dp 4 --micro-batch 1"
LOAD = "--isl 512 --osl 64 --top 1"
SERVE = "--on h100-sxm --chips 1 --tp 1 --no-simulate"


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file of each kind that a verb reads."""
    monkeypatch.chdir(tmp_path)
    assert main([*f"train llama-3.1-8b {JOB}".split(), "--out", "result.json", "--out", "report.html"]) == 0
    for name in (
        "own.csv",
        "traffic.yaml",
        "config.json",
        "run/meta.json",
        "run/requests.jsonl",
        "hf/config.json",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("{}")
    os.symlink("own.csv", "link.csv")
    os.link("own.csv", "hard.csv")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        "validate own.csv --out own.csv",
        "validate ./own.csv --out run/../own.csv",
        "validate own.csv --out link.csv",
        "validate link.csv --out own.csv",
        "validate own.csv --out hard.csv",
        "validate run --out run/meta.json",
        "explain result.json --out ./result.json --set plan.micro_batch=2",
        "explain result.json --trace result.json",
        "explain report.html --out report.html",
        f"explain config.json {JOB} --out config.json",
        f"train ./config.json {JOB} --out config.json",
        f"train hf/ {JOB} --out ./hf/config.json",
        f"serve llama-3.1-8b {SERVE} --trace traffic.yaml --emit kubernetes --out ./traffic.yaml",
        f"serve llama-3.1-8b {SERVE} --isl 512 --osl 64 --draft hf/config.json --out hf/config.json",
    ],
)
def test_an_output_never_replaces_what_is_read(
    command: str, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in inputs.rglob("*.*") if path.is_file()}
    capsys.readouterr()
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is read for this answer, which would replace it" in err
    assert {path: path.read_bytes() for path in inputs.rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        f"train llama-3.1-8b {JOB} --out q.json --out ./q.json",
        f"train llama-3.1-8b {JOB} --out own/q.json --out own/../own/q.json",
        "explain result.json --out a.html --trace a.html",
        "explain result.json --trace new.trace.json --out ./new.trace.json",
    ],
)
def test_two_outputs_are_two_files(command: str, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(command.split()) == 2
    assert "is also the file of --" in capsys.readouterr().err


def test_an_output_beside_what_is_read_is_written(inputs: Path) -> None:
    words = ["explain", "result.json", "--trace", "t.json", "--out", "s.json", "--out", "run/result.json"]
    assert main(words) == 0
    assert "traceEvents" in json.loads((inputs / "t.json").read_text())
    assert main(words) == 0  # what we wrote is replaced


def test_an_entry_that_is_shown_does_not_replace_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = catalog.entry_path("chips", "h100-sxm")
    assert source is not None
    path = tmp_path / "chips" / "h100-sxm.yaml"
    path.parent.mkdir()
    shutil.copy(source, path)
    monkeypatch.setenv("RIDGELINE_CATALOG", str(tmp_path))
    assert main(["catalog", "show", "h100-sxm", "--json", "--out", str(path)]) == 2
    assert path.read_bytes() == source.read_bytes()


def test_a_model_whose_file_has_no_name_of_text_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = catalog.entry_path("models", "llama-3.1-8b")
    assert source is not None
    monkeypatch.chdir(tmp_path)
    shutil.copy(source, "mod\udcff.yaml")
    outputs = ("r.html", "r.json", "run\udcfe.sh")
    words = [part for name in outputs for part in ("--out", name)]
    assert main(["train", "./mod\udcff.yaml", *JOB.split(), "--emit", "megatron", *words]) == 0
    assert "codec" not in capsys.readouterr().err
    for name in outputs:
        assert Path(name).read_text(encoding="utf-8")


def test_one_bad_engine_of_the_user_leaves_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    words = ["serve", "llama-3.1-8b", *SERVE.split(), "--concurrency", "8", *LOAD.split()]
    assert main([*words, "--engine", "vllm-2026"]) == 0
    table = capsys.readouterr().out
    notes.tell.cache_clear()
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "bad.yaml").write_text("name: bad\n")
    monkeypatch.setenv("RIDGELINE_CATALOG", str(tmp_path))
    assert main([*words, "--engine", "vllm-2026"]) == 0
    assert capsys.readouterr().out == table
    assert [r.getMessage() for r in caplog.records if "engines/bad.yaml is left out" in r.getMessage()]
    assert main([*words, "--engine", "bad"]) == 2
    assert "error: bad.yaml: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (["explain", "./loop"], "loop: cannot be read: Too many levels of symbolic links"),
        (["explain", "./none"], "none: no such file"),
        (["validate", "loop"], "loop: cannot be read: Too many levels of symbolic links"),
        (["validate", ""], "'FILE': is empty; name a file"),
        (["catalog", "check", ""], "'FILE': is empty; name a file"),
        (["catalog", "check", "/"], "/: 1 problem\n  is a folder, expected a file"),
        (["train", "hf", *JOB.split()], "unknown model 'hf'; the folder of that name is ./hf"),
    ],
)
def test_the_message_says_which_file_and_what_is_wrong(
    command: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("loop", "loop")
    Path("hf").mkdir()
    Path("hf/config.json").write_text("{}")
    assert main(command) == 2
    assert reason in capsys.readouterr().err
