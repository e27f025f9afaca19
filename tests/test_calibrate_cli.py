"""`validate` on tables of kernels and `calibrate`: what they print, and how bad tables end."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate import kernels, whole_step
from ridgeline.calibrate import tables as kernel_tables
from ridgeline.calibrate.gemm_fit import gemm_rows_seconds
from ridgeline.calibrate.kernel_scores import score_table
from ridgeline.cli.main import main
from ridgeline.facts import catalog, document

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "kernels"
real = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is absent")


def write(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(arrow.table(columns), path)
    return path


def gemm_columns(count: int = 240, slower: float = 1.25) -> dict[str, Any]:
    """H100 bf16 rows that take ``slower`` times the prediction, some of them not to be scored."""
    random = np.random.default_rng(5)
    m, n, k = 2 ** random.integers(7, 14, (3, count))
    fit = catalog.kernel_calibration("h100-sxm").gemm["bf16"]
    rows = {"m": m, "n": n, "k": k}
    latency = np.ravel(gemm_rows_seconds(fit, rows, catalog.chip("h100-sxm"), "bf16")) * slower * 1e3
    return {
        "gemm_dtype": ["bfloat16"] * count,
        "m": m, "n": n, "k": k, "latency": latency,
        "chip": ["h100_sxm"] * (count - 20) + ["my_chip"] * 20,
        "framework": ["trtllm"] * 100 + ["mine"] * (count - 100),
        "version": ["1"] * count,
        "kernel_source": ["torch_flow"] * count,
        "timing_mode": ["eager"] * 7 + ["suspect"] * 3 + ["device"] * (count - 10),
    }  # fmt: skip


def test_kernels_are_scored_by_group(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.parquet", gemm_columns())
    assert main(["validate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(g["library"], g["label"], g["n"]) for g in found["groups"]] == [
        ("mine/torch_flow", "transferred", 120),
        ("trtllm/torch_flow", "fitted", 90),
    ]
    for group in found["groups"]:
        assert (group["op"], group["chip"], group["format"]) == ("gemm", "h100-sxm", "bf16")
        assert group["bias"] == pytest.approx(-0.2)
        assert group["median_abs_err"] == pytest.approx(0.2)
        assert group["p90_abs_err"] == pytest.approx(0.2)
    left = {row["reason"]: row["n"] for row in found["left_out"]}
    assert sum(left.values()) == 30
    assert left["chip 'my_chip' is not in the catalog"] == 20
    assert {n for reason, n in left.items() if "timed in mode" in reason} == {7, 3}


def test_the_table_of_groups_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.parquet", gemm_columns())
    out = [str(tmp_path / name) for name in ("s.json", "s.csv", "s.txt")]
    assert main(["validate", str(path), *(word for file in out for word in ("--out", file))]) == 0
    text = capsys.readouterr().out
    assert "240 rows of gemm: 210 scored, 30 left out" in text
    assert "trtllm/torch_flow" in text
    assert "-20.0%" in text
    assert Path(out[2]).read_text() == text
    assert Path(out[1]).read_text().startswith("op,chip,format,library,label,n,")
    assert len(json.loads(Path(out[0]).read_text())["groups"]) == 2


def test_a_limit_spreads_over_the_table(tmp_path: Path) -> None:
    scores = score_table(write(tmp_path / "mine.parquet", gemm_columns()), limit=24)
    assert scores.rows == 24
    assert sum(group.n for group in scores.groups) + sum(scores.left_out.values()) == 24
    assert {group.library for group in scores.groups} == {"mine/torch_flow", "trtllm/torch_flow"}


def _without(name: str) -> dict[str, Any]:
    return {key: values for key, values in gemm_columns().items() if key != name}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (_without("latency"), ("latency", "gemm")),
        (_without("gemm_dtype"), ("not a known table", "gemm_dtype")),
        ({key: values[:0] for key, values in gemm_columns().items()}, ("no rows",)),
        ({**gemm_columns(), "m": ["wide"] * 240}, ("column m", "numbers")),
    ],
)
def test_a_bad_table_is_one_message(
    columns: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "bad.parquet", columns)
    assert main(["validate", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert all(word in err for word in words), err


@pytest.mark.parametrize(
    ("text", "word"), [("", "not a parquet file"), ("m,n,k\n" * 9, "not a parquet file")]
)
def test_a_file_that_is_no_table(
    text: str, word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.parquet"
    path.write_text(text)
    assert main(["validate", str(path)]) == 2
    assert word in capsys.readouterr().err
    assert main(["validate", str(tmp_path / "nothing.parquet")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.parquet", gemm_columns())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert main(["validate", str(path)]) == 2
    assert "pip install 'ridgeline[kernels]'" in capsys.readouterr().err


def test_rows_beyond_the_fitted_range_are_a_group_of_their_own(tmp_path: Path) -> None:
    columns = gemm_columns()
    columns["m"] = np.where(np.arange(240) % 2, columns["m"], 1 << 20)
    found = score_table(write(tmp_path / "mine.parquet", columns)).groups
    assert {g.label for g in found if g.library == "trtllm/torch_flow"} == {"fitted", "transferred"}


def test_a_chip_scored_by_its_relative(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.parquet", gemm_columns())
    own, lent = (score_table(path, lent=flag).groups for flag in (False, True))
    assert {group.label for group in lent} == {"transferred"}
    assert own[0].median_abs_err != lent[0].median_abs_err
    (tmp_path / "runs.csv").write_text(RUNS)
    assert main(["validate", str(tmp_path / "runs.csv"), "--lent"]) == 2
    assert "--lent is for tables of kernels" in capsys.readouterr().err


def test_fits_are_printed_and_kept_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kernel_tables, "LEAST_ROWS", 50)
    real_fit = kernels.fit_each

    def one_chip(*words: Any) -> Any:
        yield from real_fit(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels, "fit_each", one_chip)
    out = tmp_path / "out"
    table = str(write(tmp_path / "a.parquet", gemm_columns(slower=1.0)))
    assert main(["calibrate", "kernels", table, "--out", str(out), "--report", "--json"]) == 130
    text, err = capsys.readouterr()
    assert "2 fits, files written" in err
    lines = {(one["op"], one["format"], one["library"]): one for one in json.loads(text)["fits"]}
    assert lines["gemm", "bf16", "mine/torch_flow"]["label"] == "fitted"
    assert lines["gemm", "bf16", "mine/torch_flow"]["catalog_median_abs_err"] is None
    again = lines["gemm", "bf16", "trtllm/torch_flow"]
    assert again["rows"] < 90
    assert 0.01 < again["catalog_median_abs_err"] < 0.04
    assert ("attention_prefill", "bf16", "vllm/vllm_flash_attn_fa3") in lines, "a part without a table stays"
    written = catalog.KINDS["kernels"].spec.model_validate(document.read(out / "kernels" / "h100-sxm.yaml"))
    assert "mine/torch_flow" in (out / "libraries" / "h100-sxm.yaml").read_text()
    own = catalog.kernel_calibration("h100-sxm")
    assert written.attention.keys() == own.attention.keys(), "parts without a table stay"  # type: ignore[attr-defined]
    lent = {path.stem for path in (out / "kernels").iterdir()}
    assert {"mi300x", "mi325x"} <= lent, "relatives, and theirs"


def test_tables_that_cannot_be_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemm = str(write(tmp_path / "a.parquet", gemm_columns()))
    foreign = str(write(tmp_path / "b.parquet", {**gemm_columns(), "chip": ["my_chip"] * 240}))
    links = {"op_name": ["all_reduce"], "nccl_dtype": ["half"], "num_gpus": [8], "message_size": [1024]}
    links |= {
        "chip": ["h100_sxm"],
        "framework": ["nccl"],
        "kernel_source": ["NCCL"],
        "timing_mode": ["device"],
    }
    other = str(write(tmp_path / "c.parquet", {**links, "latency": [1.0], "version": ["2"]}))
    for words, part in (
        ([gemm, gemm], "a second table of gemm"),
        ([foreign], "they have my_chip"),
        ([gemm, "--chip", "b200-sxm"], "none of the chips b200-sxm; they have h100_sxm, my_chip"),
        ([other], "a table of collective; this verb fits gemm, attention_prefill"),
    ):
        assert main(["calibrate", "kernels", *words]) == 2
        assert part in capsys.readouterr().err


RUNS = "model,chip,n_chips,global_batch,seq,step_time_s,tp,pp,dp,micro_batch,split,quality,family\n"
RUN = "llama-3.1-8b,h100-sxm,8,{batch},4096,{time},2,1,4,1,{split},A,mine\n"


def test_steps_are_fitted_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(whole_step, "SWEEPS", 1)
    path = tmp_path / "runs.csv"
    path.write_text(RUNS + "".join(RUN.format(batch=8 * i, time=0.5 * i, split="fit") for i in range(1, 9)))
    home = catalog.entry_path("chips", "h100-sxm")
    assert home is not None
    shutil.copytree(home.parents[1], tmp_path / "catalog")
    assert main(["calibrate", "steps", str(path), "--json", "--write", str(tmp_path / "catalog")]) == 0
    out, err = capsys.readouterr()
    assert "8 rows of the fit share" in err
    numbers = {(row["kind"], row["name"], row["number"]): row["value"] for row in json.loads(out)}
    assert ("chip", "h100-sxm", "in_situ") in numbers
    written = (tmp_path / "catalog" / "calibrations" / "steps" / "h100-sxm.yaml").read_text()
    assert "rows: 8" in written


def test_runs_that_cannot_be_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(RUNS + RUN.format(batch=8, time=1, split="test-family"))
    assert main(["calibrate", "steps", str(path)]) == 2
    assert "split 'fit'" in capsys.readouterr().err
    assert main(["calibrate", "steps", str(path), "--write", str(tmp_path)]) == 2
    assert "not a catalog folder" in capsys.readouterr().err


@real
@pytest.mark.parametrize(
    "name",
    [
        "gemm",
        "attention_prefill",
        "attention_decode",
        "mla_prefill",
        "mla_decode",
        "moe",
        "collective",
    ],
)
def test_real_tables(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(DATA / f"{name}.parquet"), "--limit", "3000", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == name
    assert found["rows"] == 3000
    scored, left = (sum(row["n"] for row in found[key]) for key in ("groups", "left_out"))
    assert scored + left == 3000
    fitted = [g for g in found["groups"] if g["label"] == "fitted" and g["n"] >= 20]
    assert fitted
    assert all(group["median_abs_err"] < 0.25 for group in fitted)
    middle = sorted(group["median_abs_err"] for group in fitted)[len(fitted) // 2]
    assert middle < 0.08
