"""One row, line or file never stops the others: each is counted with its reason, whatever it raised."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ridgeline.calibrate import scoreboard as boards
from ridgeline.calibrate.cases import Case, case_of
from ridgeline.calibrate.refusals import or_none, refusal, unread_words
from ridgeline.cli.main import main
from ridgeline.facts import catalog
from ridgeline.facts.scenario import Scenario
from ridgeline.predict import train as predict

RUN: dict[str, Any] = {
    "id": "good", "framework": "Megatron-LM", "date_or_version": "2024-07", "model": "llama-3.1-8b",
    "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "ffn": 14336, "vocab": 128256,
    "attention": "gqa", "chip": "h100-sxm", "n_chips": 8, "precision": "bf16", "tp": 1, "pp": 1, "cp": 1, "dp": 8,
    "micro_batch": 1, "global_batch": 32, "seq": 4096, "recompute": "none", "step_time_s": 2.0,
}  # fmt: skip
POINT: dict[str, Any] = {
    **{name: RUN[name] for name in ("model", "layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")},
    "id": "good", "attention": "gqa", "chip": "h100-sxm", "n_chips": 1, "engine": "vllm", "engine_version": "0.11",
    "mode": "aggregated", "tp": 1, "isl": 1000, "osl": 200, "concurrency": 8, "tpot_ms": 8.0, "quality": "A",
    "client": "unknown", "split": "fit", "group": "a",
}  # fmt: skip
SPARSE = "acme-1"  # has kernels, but neither links nor a relative that would lend them


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def sparse_chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's catalog with a chip that lacks a link fit."""
    own = tmp_path / "catalog"

    def copy(kind: str, name: str, key: str, **changes: Any) -> None:
        source = catalog.entry_path(kind, name)
        assert source is not None
        values = yaml.safe_load(source.read_text(encoding="utf-8")) | {key: SPARSE, **changes}
        target = own / catalog.KINDS[kind].folder / f"{SPARSE}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(
            yaml.safe_dump({k: v for k, v in values.items() if v is not None}), encoding="utf-8"
        )

    copy("chips", "h100-sxm", "name", relative=None, cluster=SPARSE)
    copy("kernels", "h100-sxm", "chip")
    copy("clusters", "dgx-h100", "name", chip=SPARSE)
    monkeypatch.setenv("RIDGELINE_CATALOG", str(own))
    return SPARSE


def scores(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["validate", str(path), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("row", [RUN, POINT])
def test_a_chip_without_a_link_fit_leaves_the_other_rows(
    row: dict[str, Any], sparse_chip: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**row, "id": "sparse", "chip": sparse_chip, "group": "b", "n_chips": 2 * row["n_chips"], "tp": 2},
        row,
    ]
    found = scores(table(tmp_path / "rows.csv", rows), capsys)
    sparse, good = found["rows"]
    assert good["status"] == "ok"
    assert "no link calibration for chip 'acme-1'" in sparse["status"]
    assert (found["n"], found["covered"]) == (2, 1)
    assert sum(found["not_predicted"].values()) == 1


@pytest.mark.parametrize(("row", "column"), [(RUN, "global_batch"), (POINT, "tpot_ms")])
def test_a_line_that_cannot_be_read_is_counted(
    row: dict[str, Any], column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "rows.csv", [{**row, column: "many"}, row, {**row, "chip": ""}, row])
    found = scores(path, capsys)
    assert found["n"] == found["covered"] == 2
    assert found["unread"] == [
        f"line 2, column {column}: 'many': expected a number",
        "line 4, column chip: empty; this value is needed",
    ]
    assert main(["validate", str(path)]) == 0
    assert f"2 lines not read: line 2, column {column}" in capsys.readouterr().out


def test_a_file_without_a_readable_line_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path / "rows.csv", [{**RUN, "seq": "long"}])
    assert main(["validate", str(path)]) == 2
    assert "line 2, column seq: 'long': expected a number; no line can be read" in capsys.readouterr().err


def test_a_mistake_of_our_own_is_one_row_and_says_where() -> None:
    good, bad = case_of(RUN, "test"), case_of({**RUN, "id": "bad", "seq": 2048}, "test")

    def faulty(scenario: Scenario) -> Any:
        return {}["steps"] if scenario.job.seq == 2048 else predict(scenario)

    rows = boards.validate([bad, good], faulty).rows
    assert [row.ok for row in rows] == [False, True]
    assert rows[0].status.startswith("not predicted: internal error at test_isolation.py:")
    assert "KeyError 'steps'" in rows[0].status


def test_predictors_without_physics_pass_over_what_they_cannot_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from ridgeline.calibrate import nulls

    real = nulls.architecture_of

    def architecture(case: Case) -> Any:
        if case.id == "bad":
            raise ZeroDivisionError
        return real(case)

    monkeypatch.setattr(nulls, "architecture_of", architecture)
    cases = [case_of({**RUN, "id": name, "group": name}, "test") for name in ("bad", "a", "b")]
    assert nulls.ConstantMfu.fit(cases)(cases[0]) is None
    assert nulls.NearestNeighbours.fit(cases)(cases[1]) == pytest.approx(2.0)


def test_debugging_raises_what_is_our_own_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIDGELINE_DEBUG", "1")
    assert refusal(ValueError("too\nlong")) == "too"
    with pytest.raises(ZeroDivisionError):
        or_none(lambda: 1 / 0)


def test_many_unread_lines_are_a_number_and_the_first_reasons() -> None:
    assert unread_words([]) == ""
    assert (
        unread_words([f"line {n}" for n in range(5)])
        == "5 lines not read: line 0; line 1; line 2; and 2 more"
    )


# What is written beside the answer

TRAIN = [
    "train",
    "llama-3.1-8b",
    "--on",
    "h100-sxm",
    "--chips",
    "8",
    "--batch",
    "32",
    "--seq",
    "4096",
    "--tp",
    "1",
]


def test_a_file_that_cannot_be_written_loses_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "result.json"
    # /proc takes no file, not even from root; the folder looks writable beforehand
    assert main([*TRAIN, "--out", "/proc/result.json", "--out", str(good)]) == 2
    out, err = capsys.readouterr()
    assert "predicted step" in out
    assert err.startswith("error: /proc/result.json: not written: ")
    assert json.loads(good.read_text())["model"] == "llama-3.1-8b"


@pytest.mark.parametrize("name", ["folder.json", "file.txt/result.json"])
def test_what_cannot_be_written_is_said_before_the_search(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file.txt").write_text("")
    assert main([*TRAIN, "--out", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is a folder; name a file in it" in err or "is a file, not a folder" in err


def test_a_reader_that_went_away_loses_no_file(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ridgeline", *TRAIN, "--out", str(target)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(target.read_text())["chip"] == "h100-sxm"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["catalog", "show", "h100-sxm"], [*TRAIN, "--json"]])
def test_a_full_standard_output_is_one_message(words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ridgeline", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: standard output: No space left on device"
    assert "Exception" not in done.stderr


def test_a_home_is_expanded_and_a_command_that_is_shown_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main([*TRAIN, "--out", "~/my plan.json"]) == 0
    assert f"ridgeline explain '{tmp_path}/my plan.json'" in capsys.readouterr().out
    assert (tmp_path / "my plan.json").is_file()


@pytest.mark.parametrize(
    ("emit", "name", "ending"), [("nemo", "run.sh", ".py"), ("megatron", "run.py", ".sh")]
)
def test_a_launch_file_has_the_ending_of_what_it_holds(
    emit: str, name: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TRAIN, "--emit", emit, "--out", str(tmp_path / name)]) == 2
    assert f"choose .html, trace.json, .json, {ending}" in capsys.readouterr().err


def test_a_new_catalog_file_replaces_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("# hours of work\n")
    assert main(["catalog", "new", "chip", "mine", "--out", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "# hours of work\n"
    assert main(["catalog", "new", "chip", "../mine"]) == 2
    assert "a name may hold only lower-case letters" in capsys.readouterr().err
