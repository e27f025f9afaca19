"""Bad input: one clear message on stderr, exit code 2, never a stack trace."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pyarrow
import pytest

from ridgeline.api import training
from ridgeline.cli.main import main
from ridgeline.facts import catalog

JOB = "train llama-3.1-405b --on h100-sxm --chips 1024 --batch 2048 --seq 8192"
SMALL = "train llama-3.1-405b --on h100-sxm --chips 8"
CHIPS_1000 = JOB.replace("1024", "1000")

SERVE = "serve llama-3.1-8b --on h100-sxm --chips 8 --isl 512 --osl 64"
V100 = "train llama-3.1-8b --on v100-32gb-sxm --chips 8 --batch 8 --seq 2048"

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
    (f"{JOB} --set cluster.tiers.².latency=1us", ("cluster.tiers has 2 entries", "0 or 1")),
    (f"{JOB} --set chip.tdp.x=1", ("chip.tdp is one value",)),
    (f"{JOB} --set cluster.max_chips=1", ("chips = 1,024", "'dgx-h100' has at most 1")),
    (f"{SERVE} --set cluster.max_chips=1", ("chips = 8", "'dgx-h100' has at most 1")),
    (f"{JOB} --set model.layers.0.mixer.kv_heads=7", ("kv_heads = 7 does not divide heads = 128",)),
    (f"{SERVE} --set model.layers.0.mixer.kv_heads=7", ("kv_heads = 7 does not divide heads = 32",)),
    (f"{SERVE} --tp 7", ("tp = 7 does not divide the 32 heads",)),
    (f"{JOB} --set plan.tp=true", ("plan.tp", "True", "whole number")),
    (f"{JOB} --set chips=true", ("chips = True", "whole number")),
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
    # sizes without a limit, numbers beyond int64
    (f"{SMALL} --batch 9999999999999999999 --seq 2048", ("batch = 9999999999999999999: expected at most 1,000,0",)),
    (f"{SMALL} --batch 8 --seq 9999999999999999999", ("seq = 9999999999999999999: expected at most 1,000,0",)),
    (JOB.replace("1024", "9" * 401), ("chips: '9999", "is not a finite number")),
    (f"{JOB} --set chips={'9' * 401}", ("--set chips: 9999", "expected at most 1,000,000,000")),
    (f"{JOB} --set job.batch=1e19", ("job.batch: 1e+19", "exceeded maximum size")),
    (f"{JOB} --tp 9999999999999999999999", ("tp = 9999999999999999999999 must be at most 1,000,000,000",)),
    (f"{JOB} --tokens 9999999999999999999999T", ("tokens", "less than or equal to")),
    (f"{SERVE} --max-seqs 9999999999999", ("max_seqs = 9999999999999: expected at most 1,048,576",)),
    (f"{SERVE} --chunk 9999999999999999999999999", ("chunk = 9999999999999999999999999: expected at most",)),
    (f"{SERVE} --concurrency {'1' * 30}", ("concurrency = 1111", "expected at most 1,000,000,000")),
    (f"{SERVE} --adapters {'1' * 30}", ("adapters = 1111", "expected at most 1,000,000,000")),
    (f"{SERVE} --replicas {'1' * 30}", ("replicas = 1111", "expected at most 1,000,000,000")),
    (f"{SERVE} --rate 1e-300", ("rate = 1e-300", "from 1e-9")),
    (f"{SERVE} --concurrency 800000000 --chunk 2048 --tp 1 --engine vllm --simulate", (
        "the simulation of", "needs", "GB of memory; at most 50,000,000 are taken",
    )),
    (f"{JOB} --set chip.memory.bandwidth=1e-300B/s", ("chip.memory.bandwidth: '1e-300B/s' is beyond any machine",)),
    # nesting, long values
    (f"{JOB} --set stack.host={'[' * 2000}", ("--set stack.host: '[[[", "cannot be read")),
    (f"{JOB} --set stack.host={'x' * 100_000}", ("stack.host: 'xxx", "is not a time; write it like")),
    (f"{JOB} --set {'x' * 100_000}", ("path=value",)),
    (f"{JOB} --{'x' * 100_000}", ("No such option",)),
    (JOB.replace("llama-3.1-405b", "x" * 100_000), ("unknown model 'xxx",)),
    # names of users
    (JOB.replace("llama-3.1-405b", "~nouser/config.json"), ("~nouser/config.json: no such user",)),
    # what has no effect
    (f"{SERVE} --no-speculate --draft nonsense", ("draft = nonsense: has no effect without speculation",)),
    (f"{SERVE} --experts fp8", ("experts = fp8: has no effect: llama-3.1-8b has no experts",)),
    (f"{SERVE} --adapter-rank 16", ("adapter_rank = 16: goes with adapters",)),
    (f"{SERVE} --percentile 99", ("percentile = 99: has no effect without a simulation",)),
    (f"{SERVE} --replicas 1 --router prefix", ("router = prefix: has no effect with replicas = 1",)),
    (f"{SERVE} --kv-tier host:200GB:50GB/s", ("kv_tier: has no effect", "preemption = swap")),
    (f"{SERVE} --scale-at 3", ("scale_at = 3: has no effect without min_replicas",)),
    (f"{SERVE} --on-failure lose", ("on_failure = lose: without a failure",)),
    (f"{SERVE} --preemption swap", ("preemption = swap: needs a memory to swap to",)),
    (f"{JOB} --recompute none --recompute-layers 4", ("recompute_layers = 4: has no effect with recompute = none",)),
    (f"{JOB} --zero 1 --no-fsdp-reshard", ("fsdp_reshard = False: has no effect with zero = 1",)),
    (f"{JOB} --etp 2", ("etp = 2: has no effect: llama-3.1-405b has no experts",)),
    # formats that a chip does not multiply
    (f"{V100} --recipe nvfp4", ("recipe = nvfp4: chip 'v100-32gb-sxm' has no", "fp16, fp32, fp64")),
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


@pytest.mark.parametrize(("command", "parts"), COMMANDS, ids=[command[:150] for command, _ in COMMANDS])
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

TRACE = "serve llama-3.1-8b --on h100-sxm --chips 8 --trace"
TRAFFIC = """arrivals: {{kind: poisson, rate_per_s: 5}}
lengths: {{kind: independent, input: {{kind: fixed, tokens: 99}}, output: {{kind: fixed, tokens: 9}}}}
num_requests: {}
"""

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
    ("r.json", "[" * 100_000, "explain FILE", ("r.json: not valid JSON: nested too deeply",)),
    ("r.json", '{"kind": "serving", "command": "' + "x" * 9000 + '"}', "explain FILE", (
        "result of `ridgeline serve`",
    )),
    ("config.json", "[" * 100_000, "train FILE JOB", ("config.json: not valid JSON: nested too deeply",)),
    ("config.json", '{"model_type": "' + "x" * 9000 + '"}', "train FILE JOB", ("'xxx", "is unknown")),
    ("config.json", '{"model_type": "llama", "num_hidden_layers": [' + "1, " * 9000 + "1]}", "train FILE JOB", (
        "num_hidden_layers = [1, 1,",
    )),
    ("tiny.yaml", MODEL + "".join(f"field{n}: 1\n" for n in range(99)), "train FILE JOB", (
        "tiny.yaml: 100 problems", "more: `ridgeline catalog check", "lists all",
    )),
    ("tiny.yaml", MODEL + "x" * 900 + ": 1\n", "catalog check FILE --kind model", ("tiny.yaml: 2 problems", "xxx")),
    ("tiny.yaml", "name: !" + "x" * 9000 + " 1\n", "catalog check FILE --kind model", ("not valid YAML",)),
    ("runs.csv", HEADER + ROW.replace("8,8", "8," + "9" * 30), "validate FILE", ("line 2", "global_batch", "9999")),
    ("runs.csv", HEADER + ROW.replace("8,8", "8,5e9"), "validate FILE", ("'5e9': expected at most 1,000,000,000",)),
    ("runs.csv", HEADER + ROW.replace("8,8", "8," + "x" * 9000), "validate FILE", ("line 2", "expected a number")),
    ("runs.csv", HEADER + "x" * 200_000 + ROW, "validate FILE", ("runs.csv, line 2: not CSV: field larger",)),
    ("ata_x.csv", "Size,2Node-16GPU\n1024," + "9" * 200_000, "validate FILE", ("ata_x.csv, line 2: not CSV",)),
    ("ata_x.csv", "Size,2Node-16GPU\n1024," + "x" * 9000, "validate FILE", ("line 2, column 2Node-16GPU = 'xxx",)),
    ("ata_x.csv", "Size,2Node-16GPU\n1e300,0.5\n", "validate FILE", ("column Size = '1e300'", "to 1e+15")),
    ("k.parquet", "PAR1" + "x" * 99 + "PAR1", "validate FILE", ("k.parquet: not a parquet file",)),
    ("t.yaml", TRAFFIC.format(1_000_000_000_000), f"{TRACE} FILE", (
        "num_requests: 1,000,000,000,000 needs 250,000 GB of memory; at most 50,000,000 are taken",
    )),
    ("t.yaml", TRAFFIC.format("9\nsystem_tokens: 6400000000000000000000"), f"{TRACE} FILE", ("system_tokens: 6400",)),
    ("t.yaml", TRAFFIC.format("9\nsessions: {turns: 2, gap_s: 1e308}"), f"{TRACE} FILE", ("sessions.gap_s: '1e308'",)),
    ("t.yaml", TRAFFIC.format(9).replace("rate_per_s: 5", "rate_per_s: 1e-17"), f"{TRACE} FILE", (
        "t.yaml: requests arrive until", "expected at most 1e+15 s",
    )),
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


@pytest.mark.parametrize(
    "command",
    [
        "catalog check FILE --kind models", "train FILE JOB", "explain FILE", "validate FILE",
        f"{TRACE} FILE", "calibrate links FILE",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_never_waited_for(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = {"validate": ".csv", "explain": ".json", "calibrate": ".parquet"}.get(
        command.split()[0], ".yaml"
    )
    path = tmp_path / f"input{ending}"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    words = [
        w for part in command.split() for w in {"FILE": [str(path)], "JOB": JOB.split()[2:]}.get(part, [part])
    ]
    model = kind == "a folder" and command.startswith("train")  # whose config.json is looked for
    assert_fails(words, ("input", "no such file" if model else f"is {kind}"), capsys)


@pytest.mark.parametrize("variable", ["RIDGELINE_CATALOG", "XDG_CONFIG_HOME"])
def test_a_catalog_folder_of_nobody(
    variable: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "~nouser/x")
    assert_fails(["catalog", "list", "models"], (f"{variable}: ~nouser/x: no such user",), capsys)


def test_a_pipe_of_any_name_is_not_taken_for_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "input")
    assert_fails(["validate", str(tmp_path / "input")], ("input: is a pipe, expected a file",), capsys)


def test_without_a_home_the_built_in_catalog_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert main(["catalog", "list", "models"]) == 0
    assert "llama-3.1-405b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (MemoryError(), "not enough memory"),
        (RecursionError("deep"), "nested too deeply"),
        (OverflowError("int too large"), "a number is too large: int too large"),
        (csv.Error("field larger"), "field larger"),
        (ValueError("a\x1b[31mb" + " word" * 200), "a\\x1b[31mb word"),
        (FileNotFoundError(2, "No such file or directory", "x" * 9000), "xxx: No such file or directory"),
        (pyarrow.ArrowNotImplementedError("no such type"), "no such type"),
    ],
)
def test_the_last_net_is_one_line(
    error: Exception, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a reader should have caught ends as one line, too."""

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(catalog, "kinds", fails)
    assert_fails(["catalog", "list"], (part,), capsys)
    monkeypatch.setenv("RIDGELINE_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["catalog", "list"])


def test_warnings_of_libraries_stay_off_the_terminal() -> None:
    code = "import warnings; from ridgeline.cli.main import main; main(['catalog', 'list']); "
    code += "warnings.warn_explicit('overflow', RuntimeWarning, 'x.py', 1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""


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
    assert len(err) <= len("error: ") + 400 + len("\n") or words[:2] == ["catalog", "check"]
    assert max(map(len, err.splitlines())) <= len("error: ") + 400
    for part in parts:
        assert part in err
