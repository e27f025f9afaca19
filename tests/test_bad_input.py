"""Bad input: one clear message on stderr, exit code 2, never a stack trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ridgeline.api import training
from ridgeline.cli.main import main

JOB = "train llama-3.1-405b --on h100-sxm --chips 1024 --batch 2048 --seq 8192"
SMALL = "train llama-3.1-405b --on h100-sxm --chips 8"
CHIPS_1000 = JOB.replace("1024", "1000")

# (command, parts of the message)
COMMANDS: list[tuple[str, tuple[str, ...]]] = [
    (f"{CHIPS_1000} --tp 16", (
        "tp = 16 spans two scale-up domains of 8 H100-SXM; choose 1, 2, 4 or 8, or --allow-cross-domain-tp",
    )),
    (f"{CHIPS_1000} --tp 8 --pp 3", ("tp 8 x pp 3 = 24 does not divide the 1,000 chips",)),
    (f"{JOB} --tp 8 --cp 1 --pp 16 --dp 9", ("1,152 is not the 1,024 chips", "dp 8 would fill them")),
    (f"{JOB} --dp 7", ("dp 7 does not divide the 1,024 chips",)),
    (f"{JOB} --dp 8 --micro-batch 3", ("batch = 2,048 does not divide by dp 8 x micro_batch 3 = 24",)),
    (f"{JOB} --tp 0", ("tp = 0 must be at least 1",)),
    (f"{JOB} --tp two", ("--tp", "integer")),
    (f"{JOB} --pp 1024", ("126 layers do not fill pp x vpp",)),
    (f"{JOB} --vpp 4 --schedule 1f1b", ("vpp = 4 needs schedule interleaved",)),
    (f"{JOB} --schedule fast", ("schedule = fast is unknown", "1f1b")),
    (f"{JOB} --recompute some", ("recompute = some is unknown", "selective")),
    (f"{JOB} --zero 5", ("zero = 5 is unknown", "3")),
    (f"{JOB} --ep 8", ("ep must divide",)),
    (f"{JOB} --top 0", ("top = 0",)),
    (f"{JOB} --kind pretraining", ("kind", "pretrain")),
    (f"{JOB} --tokens lots", ("tokens", "lots")),
    (f"{JOB} --tokens -5", ("tokens",)),
    (f"{JOB} --emit jax", ("--emit jax", "megatron", "torchtitan", "nemo")),
    (f"{JOB} --out report.pdf", ("report.pdf", ".html")),
    (f"{JOB} --stack nemo-2042", ("unknown stack", "nemo-2024")),
    (f"{JOB} --recipe bf17", ("unknown recipe", "bf16")),
    (f"{JOB} --sett x=1", ("--sett",)),
    (f"{JOB} --set chip.memry.bandwidth=4", ("chip.memry", "did you mean 'memory'")),
    (f"{JOB} --set chp.memory=4", ("unknown field 'chp'", "chip", "stack")),
    (f"{JOB} --set chip.memory.bandwidth=4", ("chip.memory.bandwidth", "has no unit", "TB/s")),
    (f"{JOB} --set chip.memory.bandwidth=-4TB/s", ("negative",)),
    (f"{JOB} --set chip.memory.bandwidth=4TB", ("is a size, expected a rate",)),
    (f"{JOB} --set chip.matrix.fp7=4TFLOP/s", ("chip.matrix", "fp7")),
    (f"{JOB} --set cluster.tiers.7.latency=1us", ("cluster.tiers has 2 entries", "0 or 1")),
    (f"{JOB} --set chip.tdp.x=1", ("chip.tdp is one value",)),
    (f"{JOB} --set job.batch=0", ("job.batch",)),
    (f"{JOB} --set job.seq=.nan", ("job.seq",)),
    (f"{JOB} --set plan.recomput=full", ("plan.recomput", "did you mean")),
    (f"{JOB} --set plan.tp=2.5", ("plan.tp", "whole number")),
    (f"{JOB} --set nonsense", ("path=value",)),
    (f"{JOB} --set chips=0", ("chips = 0",)),
    ("train llama-3.1-405b --on h100-sxm --chips 0 --batch 8 --seq 8192", ("chips = 0",)),
    ("train llama-3.1-405b --on h100-sxm --chips many --batch 8 --seq 8192", ("chips", "many")),
    (f"{SMALL} --batch 0 --seq 8192", ("batch = 0",)),
    (f"{SMALL} --batch -4 --seq 8192", ("batch = -4",)),
    (f"{SMALL} --batch nan --seq 8192", ("batch", "nan")),
    (f"{SMALL} --batch inf --seq 8192", ("batch", "inf")),
    (f"{SMALL} --batch 1.5 --seq 8192", ("batch = 1.5",)),
    (f"{SMALL} --batch 8 --seq 0", ("seq = 0",)),
    (f"{SMALL} --batch 8 --seq 8192", ("none of", "fits in 85 GB")),
    (f"{SMALL} --seq 8192", ("--batch",)),
    (JOB.replace("405b", "406b"), ("unknown model", "llama-3.1-405b")),
    (JOB.replace("h100", "h101"), ("unknown cluster or chip", "h100-sxm")),
    (JOB.replace("llama-3.1-405b", "./no/config.json"), ("no/config.json", "no such file")),
    (JOB.replace("llama-3.1-405b", "./no.yaml"), ("no.yaml", "no such file")),
    ("train --on h100-sxm --chips 8 --batch 8 --seq 8192", ("MODEL",)),
    ("explain nothing.json", ("nothing.json", "no such file")),
    ("explain nothing.html", ("nothing.html", "no such file")),
    ("explain llama-3.1-8b", ("not a result file", "--on")),
    ("explain --on h100-sxm", ("first",)),
    ("validate nothing.csv", ("nothing.csv", "no such file")),
    ("catalog show h101", ("unknown entry 'h101'",)),
    ("catalog list chip-sets", ("unknown kind", "chips")),
    ("catalog schema thing", ("unknown kind", "chips")),
    ("catalog new thing x", ("unknown kind", "chips")),
    ("catalog check nothing.yaml", ("nothing.yaml", "no such file")),
    ("catalog frobnicate", ("frobnicate",)),
    ("frobnicate", ("frobnicate",)),
]  # fmt: skip


@pytest.mark.parametrize(("command", "parts"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_one_message_and_exit_code_2(
    command: str, parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert_fails(command.split(), parts, capsys)


CHIP = """
name: my-chip
title: my chip
vendor: me
launch: 2025-01
matrix: {bf16: 989 TFLOP/s, fp7: 2 PFLOP/s}
vector: 67 TFLOP/s
memory: {kind: HBM3, capacity: 80 GB, bandwidth: 3.3 TB}
l2: 50 MB
cores: 132
clock: 1.83 GHz
scale_up: {link: NVLink, bandwidth: 450 GB/s, domain: 8}
host_bandwidth: 64 GB/s
tdp: 700 W
"""
HEADER = "model,chip,n_chips,global_batch,seq,step_time_s\n"
ROW = "llama-3.1-8b,h100-sxm,8,8,4096,1\n"
MODEL = "name: tiny\nhidden: 512\nvocab: 32000\nlayers: []\n"

# (file name, its text, command with FILE, parts of the message)
FILES: list[tuple[str, str, str, tuple[str, ...]]] = [
    ("my-chip.yaml", CHIP, "catalog check FILE", (
        "my-chip.yaml: 3 problems", "memory.bandwidth: '3.3 TB' is a size, expected a rate", "fp7",
        "source: missing",
    )),
    ("my-chip.yaml", "name: [", "catalog check FILE --kind chip", ("my-chip.yaml", "not valid YAML")),
    ("config.json", '{"model_type": "llama", "hidden_size": 40', "train FILE JOB", ("seems cut off",)),
    ("config.json", '{"model_type": "nonesuch"}', "train FILE JOB", ("nonesuch", "choose one of")),
    ("config.json", '{"model_type": "llama", "hidden_size": "x"}', "train FILE JOB", ("config.json",)),
    ("tiny.yaml", MODEL, "train FILE JOB", ("tiny.yaml", "layers")),
    ("runs.csv", HEADER.replace("n_chips,", ""), "validate FILE", ("line 1", "missing column n_chips")),
    ("runs.csv", "", "validate FILE", ("empty file",)),
    ("runs.csv", HEADER + ROW.replace("8,8", "eight,8"), "validate FILE", ("line 2", "n_chips", "eight")),
    ("runs.csv", HEADER + ROW, "validate FILE --limit 0", ("limit = 0",)),
    ("runs.csv", HEADER + ROW, "validate FILE --out x.doc", ("x.doc", ".json")),
    ("r.json", "{}", "explain FILE", ("holds no result",)),
    ("r.json", "{", "explain FILE", ("not valid JSON",)),
    ("r.json", '{"scenario": {"chip": {}}}', "explain FILE", ("chip",)),
    ("r.html", "<html></html>", "explain FILE", ("holds no result",)),
    ("r.json", "{}", "explain FILE --tp 4", ("--set",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "command", "parts"), FILES)
def test_bad_files(
    name: str,
    text: str,
    command: str,
    parts: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    path.write_text(text)
    job = JOB.split()[2:]
    words = [word for part in command.split() for word in {"FILE": [str(path)], "JOB": job}.get(part, [part])]
    assert_fails(words, parts, capsys)


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    words = [*JOB.split(), "--tp", "8", "--pp", "16", "--out", str(tmp_path / "file" / "result.json")]
    assert_fails(words, ("file",), capsys)


def test_ctrl_c_says_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(HEADER + "llama-3.1-8b,h100-sxm,8,64,4096,1\n" * 3)
    calls = []

    def interrupted(scenario: object) -> object:
        calls.append(scenario)
        if len(calls) == 1:
            raise ValueError("no")
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "predict", interrupted)
    assert main(["validate", str(path)]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", [f"{CHIPS_1000} --tp 16", "validate nothing.csv", "frobnicate"])
def test_the_process_ends_with_2_and_no_trace(command: str) -> None:
    code = "import sys; from ridgeline.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def assert_fails(words: list[str], parts: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 2, says nothing on stdout and every one of ``parts`` in one message on stderr."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    for part in parts:
        assert part in err
