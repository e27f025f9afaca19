"""The command line: what every verb prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ridgeline.cli.main import main

Run = Callable[..., tuple[str, str]]
JOB = ["llama-3.1-8b", "--on", "h100-sxm", "--chips", "8", "--batch", "64", "--seq", "4096"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command that must succeed; returns what it wrote to stdout and stderr."""

    def call(*words: str) -> tuple[str, str]:
        code = main(list(words))
        out, err = capsys.readouterr()
        assert code == 0, err
        return out, err

    return call


def test_help_names_every_verb(run: Run) -> None:
    out, _ = run("--help")
    assert all(verb in out for verb in ("train", "explain", "validate", "catalog"))
    for verb in ("train", "explain", "validate"):
        out, _ = run(verb, "--help")
        assert "--json" in out
        assert "--out" in out


def test_version(run: Run) -> None:
    assert run("--version")[0].startswith("ridgeline ")


def test_train_searches_and_says_what_binds(run: Run) -> None:
    out, err = run("train", *JOB, "--tokens", "1T", "--top", "3")
    assert not err
    for part in (
        "Llama 3.1 8B on 8 x H100",
        "plans considered",
        "= predicted step",
        "labels",
        "days",
        "80 %",
    ):
        assert part in out
    assert "What would help most" in out
    assert "--emit megatron" in out


def test_train_json_is_all_of_stdout(run: Run) -> None:
    out, err = run("train", *JOB, "--json")
    values = json.loads(out)
    assert not err
    assert values["plan"]["dp"] * values["plan"]["tp"] * values["plan"]["pp"] * values["plan"]["cp"] == 8
    assert values["command"].startswith("ridgeline train llama-3.1-8b")
    assert values["step_time_low_s"] <= values["step_time_s"] <= values["step_time_high_s"]


def test_given_degrees_are_kept(run: Run) -> None:
    words = "--tp 2 --cp 1 --pp 2 --vpp 1 --micro-batch 1 --zero 1 --recompute none --no-overlap-grad"
    words += " --no-sequence-parallel"
    plan = json.loads(run("train", *JOB, *words.split(), "--json")[0])["plan"]
    assert (plan["tp"], plan["pp"], plan["dp"], plan["overlap_grad"]) == (2, 2, 2, False)
    assert plan["sequence_parallel"] is False


def test_a_given_plan_that_does_not_fit_is_shown(run: Run) -> None:
    words = "--tp 1 --cp 1 --pp 1 --micro-batch 8 --zero 1 --recompute none"
    out, _ = run("train", *JOB, *words.split())
    assert "needs" in out
    assert "0 fit in memory" in out


def test_set_changes_any_field(run: Run) -> None:
    plain = json.loads(run("train", *JOB, "--tp", "2", "--json")[0])
    settings = [
        'chip.memory.bandwidth="4 TB/s"', "stack.host=2 us", "recipe.cast_passes=0", "job.seq=2048",
        "plan.micro_batch=2", "cluster.tiers.1.bandwidth=25 GB/s", "job.tokens=2T", "chips=16",
        "calibration.kernels.stream.launch=1 us",
    ]  # fmt: skip
    words = [word for setting in settings for word in ("--set", setting)]
    changed = json.loads(run("train", *JOB, "--tp", "2", *words, "--json")[0])
    assert changed["scenario"]["chip"]["memory"]["bandwidth"] == "4000000000000.0 B/s"
    assert changed["scenario"]["cluster"]["tiers"][1]["bandwidth"] == "25000000000.0 B/s"
    assert changed["job"]["seq"] == 2048
    assert changed["plan"]["micro_batch"] == 2
    assert changed["num_chips"] == 16
    assert changed["days"] > 0
    assert (
        plain["scenario"]["chip"]["memory"]["bandwidth"] != changed["scenario"]["chip"]["memory"]["bandwidth"]
    )


def test_train_writes_report_result_and_trace(run: Run, tmp_path: Path) -> None:
    files = [tmp_path / "deep" / name for name in ("report.html", "result.json", "my.trace.json")]
    out, _ = run("train", *JOB, *(word for path in files for word in ("--out", str(path))))
    assert all(str(path) in out for path in files)
    assert files[0].read_text().startswith("<!doctype html>")
    assert json.loads(files[1].read_text())["plan"]
    assert json.loads(files[2].read_text())["traceEvents"]
    shown = [run("explain", str(path), "--json")[0] for path in files[:2]]
    assert json.loads(shown[0])["step_time_s"] == json.loads(shown[1])["step_time_s"]


def test_emit_leaves_the_launch_file_alone_on_stdout(run: Run, tmp_path: Path) -> None:
    out, err = run("train", *JOB, "--emit", "megatron")
    assert out.startswith("#!")
    assert "= predicted step" not in out
    assert "= predicted step" in err
    path = tmp_path / "run.sh"
    out, err = run("train", *JOB, "--emit", "megatron", "--out", str(path))
    assert "--tensor-model-parallel-size" in path.read_text()
    assert "#!" not in out
    values = json.loads(run("train", *JOB, "--emit", "torchtitan", "--json")[0])
    assert values["launch"]
    assert values["stack"].startswith("torchtitan")


def test_explain_a_model_takes_the_options_of_train(run: Run) -> None:
    out, _ = run("explain", *JOB, "--tp", "2", "--set", "stack.host=1 us")
    for part in ("Operators of one micro-batch", "Memory by stage", "What to change first", "communication"):
        assert part in out


def test_explain_what_if_and_trace(run: Run, tmp_path: Path) -> None:
    result, trace = tmp_path / "result.json", tmp_path / "step.json"
    run("train", *JOB, "--out", str(result))
    words = ("--set", "chip.matrix.bf16=2 PFLOP/s", "--trace", str(trace), "--json")
    faster = json.loads(run("explain", str(result), *words)[0])
    assert faster["step_time_s"] < json.loads(result.read_text())["step_time_s"]
    assert json.loads(trace.read_text())["traceEvents"]


def test_a_config_of_hugging_face_is_a_model(run: Run, tmp_path: Path) -> None:
    config = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 32000,
    }  # fmt: skip
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    for name in (folder, folder / "config.json"):
        values = json.loads(run("train", str(name), *JOB[1:], "--json")[0])
        assert values["model"] == "tiny"
    assert "Operators" in run("explain", str(folder / "config.json"), *JOB[1:])[0]


def test_lora_and_sft(run: Run) -> None:
    full = json.loads(run("train", *JOB, "--kind", "sft", "--json")[0])
    lora = json.loads(run("train", *JOB, "--kind", "lora", "--json")[0])
    assert lora["step_time_s"] < full["step_time_s"]


@pytest.mark.parametrize(
    ("chip", "stack"),
    [
        ("mi300x", "amd-nemo-2025"),
        ("tpu-v5p", "maxtext-2025"),
        ("gaudi2", "gaudi-2023"),
        ("a100-80gb-sxm", "megatron"),
    ],
)
def test_the_stack_follows_the_vendor(run: Run, chip: str, stack: str) -> None:
    words = ["llama-3.1-8b", "--on", chip, "--chips", "8", "--batch", "64", "--seq", "4096", "--json"]
    assert json.loads(run("train", *words)[0])["stack"].startswith(stack)


def test_validate(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "model,chip,n_chips,global_batch,seq,tp,micro_batch,framework,date_or_version,step_time_s\n"
        + "llama-3.1-8b,h100-sxm,8,128,8192,2,1,NeMo,2024-06,12.0\n" * 3
        + "llama-3.1-8b,mtt-s4000,8,128,8192,2,1,NeMo,2024-06,12.0\n"
    )
    out, _ = run("validate", str(path))
    assert "4 rows: 3 predicted, 1 not" in out
    assert "ridgeline catalog new chip" in " ".join(out.split())
    files = [tmp_path / name for name in ("scores.json", "rows.csv", "table.txt")]
    values = json.loads(
        run("validate", str(path), "--json", *(w for f in files for w in ("--out", str(f))))[0]
    )
    assert (values["n"], values["covered"]) == (4, 3)
    assert json.loads(files[0].read_text()) == values
    assert len(files[1].read_text().splitlines()) == 5
    assert "rows" in files[2].read_text()
    assert json.loads(run("validate", str(path), "--limit", "2", "--json")[0])["n"] == 2


def test_catalog_lists_and_shows(run: Run) -> None:
    assert "chips" in run("catalog", "list")[0]
    assert "h100-sxm" in run("catalog", "list", "chips")[0]
    assert "llama-3.1-8b" in json.loads(run("catalog", "list", "models", "--json")[0])
    assert "memory" in run("catalog", "show", "h100-sxm")[0]
    assert json.loads(run("catalog", "show", "h100-sxm", "--json")[0])["name"] == "h100-sxm"
    assert json.loads(run("catalog", "show", "nemo-2024", "--json")[0])["framework"] == "megatron"
    assert json.loads(run("catalog", "schema", "chip")[0])["properties"]["memory"]


@pytest.mark.parametrize("kind", ["chips", "clusters", "models", "stacks", "recipes", "formats"])
def test_a_new_file_is_one_to_fill_in(run: Run, tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind / "my-own.yaml"
    run("catalog", "new", kind, "my-own", "--out", str(path))
    assert "#" in path.read_text()
    assert "good" in run("catalog", "check", str(path))[0]


def test_a_chip_of_the_user_is_predicted(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "chips" / "my-chip.yaml"
    run("catalog", "new", "chip", "my-chip", "--out", str(path))
    text = path.read_text().replace("# relative: null", "relative: h100-sxm")
    text = text.replace("# cluster: null", "cluster: my-cluster").replace("cores: 1", "cores: 132")
    path.write_text(text)
    cluster = tmp_path / "clusters" / "my-cluster.yaml"
    run("catalog", "new", "cluster", "my-cluster", "--out", str(cluster))
    text = cluster.read_text().replace("chip: h100-sxm", "chip: my-chip")
    cluster.write_text(text.replace("size: 1", "size: 8").replace("chips_per_node: 1", "chips_per_node: 8"))
    monkeypatch.setenv("RIDGELINE_CATALOG", str(tmp_path))
    words = ["llama-3.1-8b", "--on", "my-chip", "--chips", "8", "--batch", "64", "--seq", "4096", "--json"]
    values = json.loads(run("train", *words)[0])
    assert values["chip"] == "my-chip"
    assert "transferred" in values["labels"].values()


def test_the_installed_command_answers() -> None:
    code = "import sys; from ridgeline.cli.main import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "Usage: ridgeline" in done.stdout


def test_a_counter_says_of_how_many() -> None:
    from ridgeline.cli.shared import Counter

    rows, fits = Counter("runs predicted"), Counter("fits")
    rows.reach(3, 1782)
    fits.add(2)
    assert (str(rows), str(fits)) == ("3 of 1,782 runs predicted", "2 fits")
