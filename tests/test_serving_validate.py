"""Measured points of serving: reading, scores, published results, replays of runs, and fitted engines."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.serving.cases import ServingCase, is_serving, read_serving_cases, serving_case_of
from ridgeline.calibrate.serving.fit import EngineFit
from ridgeline.calibrate.serving.neighbours import Neighbours
from ridgeline.calibrate.serving.predicted import predict_case
from ridgeline.calibrate.serving.replay import Replay, is_run, replay, run_machine
from ridgeline.calibrate.serving.run_settings import RunSettings, run_settings
from ridgeline.calibrate.serving.services import engine_for, service_of
from ridgeline.calibrate.serving.write import write as write_engines
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.cli.main import main
from ridgeline.facts import catalog, document

SHARED = Path(__file__).parents[2] / "shared" / "data"
POINTS = SHARED / "truth" / "serving_points.csv"
RUNS = ("RTXPRO6000_Llama-3.1-8B", "RTXPRO6000_Qwen3-30B-A3B-Instruct-2507")
PUBLISHED = document.read(catalog.BUILT_IN / "published" / "serving" / "serving-2025.yaml")["runs"]
ROW: dict[str, Any] = {
    "id": "one",
    "model": "llama-3.1-8b",
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 14336,
    "vocab": 128256,
    "attention": "gqa",
    "chip": "h100-sxm",
    "n_chips": 1,
    "engine": "vllm",
    "engine_version": "0.11",
    "mode": "aggregated",
    "tp": 1,
    "isl": 1000,
    "osl": 200,
    "concurrency": 8,
    "ttft_ms": 50.0,
    "tpot_ms": 8.0,
    "output_tokens_per_s": 900.0,
    "client": "unknown",
    "split": "fit",
    "quality": "A",
    "group": "a",
}


def case(**changes: Any) -> ServingCase:
    return serving_case_of({**ROW, **changes}, "test")


def write(path: Path, rows: list[dict[str, Any]], drop: tuple[str, ...] = ()) -> Path:
    names = [name for name in rows[0] if name not in drop]
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Reading


def test_reads_a_row(tmp_path: Path) -> None:
    (one,) = read_serving_cases(write(tmp_path / "points.csv", [{**ROW, "unknown_column": "ignored"}]))
    assert (one.num_chips, one.tp, one.isl, one.concurrency) == (1, 1, 1000.0, 8.0)
    assert one.measured == pytest.approx({"tpot": 0.008, "ttft": 0.05, "output_tokens_per_s": 900.0})


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tpot_ms", "-1", "above zero"),
        ("tpot_ms", "nan", "finite"),
        ("ttft_ms", "fast", "a number"),
        ("n_chips", "", "needed"),
        ("n_chips", "0", "1 or more"),
        ("tp", "1.5", "whole number"),
        ("engine", "", "needed"),
        ("mode", "streaming", "aggregated, disaggregated, offline"),
    ],
)
def test_errors_name_line_column_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: str, message: str
) -> None:
    path = write(tmp_path / "bad.csv", [ROW, {**ROW, column: value}])
    with pytest.raises(CaseError, match=f"line 3, column {column}: ") as error:
        read_serving_cases(path)
    for said in (str(path), f"'{value}'" if value else "empty", message):
        assert said in str(error.value)
    assert main(["validate", str(path)]) == 0  # the other line is scored all the same
    assert f"1 line not read: line 3, column {column}: " in capsys.readouterr().out


def test_missing_columns_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "bad.csv", [ROW], drop=("chip", "isl"))
    with pytest.raises(CaseError, match="line 1: missing columns chip, isl"):
        read_serving_cases(path)
    assert main(["validate", str(path)]) == 2
    assert "missing columns chip, isl" in capsys.readouterr().err


def test_kind_follows_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert is_serving(set(ROW))
    assert not is_serving({"model", "chip", "n_chips", "step_time_s", "seq"})
    assert main(["validate", str(write(tmp_path / "points.csv", [ROW])), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "serving"
    assert {row["metric"] for row in found["rows"]} == {"ttft", "tpot", "output_tokens_per_s"}


# Engines and what scripts set on them


@pytest.mark.parametrize(
    ("framework", "month", "vendor", "expected"),
    [
        ("vllm", "2023-06", "NVIDIA", "vllm-2023"),
        ("vllm", "2025-02", "NVIDIA", "vllm-2023"),
        ("vllm", "2025-03", "NVIDIA", "vllm-2026"),
        ("vllm", "", "NVIDIA", "vllm-2026"),
        ("sglang", "2025-12", "NVIDIA", "sglang-2026"),
        ("sglang", "2025-12", "AMD", "sglang-rocm-2026"),
        ("sglang", "2020-01", "NVIDIA", "sglang-2026"),  # none is that old: the oldest
        ("trtllm", "2026-01", "NVIDIA", "trtllm-2026"),
    ],
)
def test_the_engine_follows_month_and_vendor(framework: str, month: str, vendor: str, expected: str) -> None:
    assert engine_for(framework, month, vendor).name == expected


def test_an_unknown_engine_is_not_predicted() -> None:
    with pytest.raises(NotPredictable, match="'orca' is not in the catalog"):
        engine_for("orca", "", "NVIDIA")


def test_settings_of_a_run_are_those_of_its_script() -> None:
    b200, h200, mi300x = (catalog.chip(name) for name in ("b200-sxm", "h200-sxm", "mi300x"))
    one = case(client="inferencex", engine="sglang", concurrency=15)
    assert run_settings(one, b200) == RunSettings(poll_steps=10, kv="fp8", max_batched_tokens=16384)
    assert run_settings(replace(one, concurrency=16.0), b200).poll_steps == 30
    assert run_settings(one, h200) == RunSettings()  # an older chip, another script
    assert run_settings(one, mi300x) == RunSettings(max_batched_tokens=65536)
    assert run_settings(replace(one, engine="trtllm"), h200) == RunSettings(
        balance_steps=60, kv="fp8", max_batched_tokens=8192
    )
    fp8 = replace(one, engine="vllm", precision="fp8-block")
    assert run_settings(fp8, h200) == RunSettings(memory_fraction=0.95)
    assert run_settings(replace(fp8, precision="bf16"), h200) == RunSettings()
    assert run_settings(replace(one, client="unknown"), b200) == RunSettings()


def test_a_prompt_waits_half_a_poll_and_for_the_last_rank() -> None:
    assert RunSettings(poll_steps=30).wait_steps(64, 1, 1000) == 15.0
    # 16 users a rank: a new prompt every 62.5 steps, three other ranks: 1 + 1/2 + 1/3 of that, at most 60
    settings = RunSettings(balance_steps=60)
    assert settings.wait_steps(64, 4, 1000) == 60.0
    assert settings.wait_steps(6400, 4, 1000) == pytest.approx(0.625 * (1 + 1 / 2 + 1 / 3))
    assert settings.wait_steps(64, 1, 1000) == 0.0


def test_a_models_name_matters_only_for_what_no_column_says() -> None:
    """The catalog's model of that name says whether queries are normalised; all else is the row's."""
    rows = (
        case(),
        case(model="qwen3-32b", layers=64, hidden=5120, heads=64, ffn=25600, vocab=151936, tp=2, n_chips=2),
        case(model="mixtral-8x7b", experts=8, topk=2, moe_layers=32, vocab=32000, tp=2, n_chips=2),
    )

    def tpots(names: list[str]) -> list[float]:
        found = [replace(one, model=name) for one, name in zip(rows, names, strict=True)]
        return [predict_case(one, service_of(one)).values["tpot"] for one in found]

    names = [one.model for one in rows]
    plain = tpots(names)
    for turned in (names[1:] + names[:1], names[2:] + names[:2]):
        assert tpots(turned) == pytest.approx(plain, rel=0.02)
    assert tpots(["one", "two", "three"]) == tpots(["two", "three", "one"])
    for one, name in zip(rows, names[1:] + names[:1], strict=True):
        other = service_of(replace(one, model=name))
        assert (other.engine, other.layout, other.limits) == (
            service_of(one).engine, service_of(one).layout, service_of(one).limits,
        )  # fmt: skip


# The predictor without physics


def test_neighbours_learn_from_the_fit_share_and_never_from_the_own_group() -> None:
    near = case(id="own", tpot_ms=1.0)  # the same group as the row that is asked for
    test = case(id="test", group="b", split="test-config", tpot_ms=2.0)
    rough = case(id="rough", group="c", quality="C", tpot_ms=3.0)
    far = case(id="far", group="d", concurrency=64, tpot_ms=16.0)
    pool = Neighbours.of([near, test, rough, far])
    assert {one.id for one in pool.pool} == {"own", "far"}
    assert pool.value(case(), "tpot") == pytest.approx(0.016)
    assert pool.value(test, "tpot") == pytest.approx((0.001 * 0.016) ** 0.5)
    assert np.isnan(Neighbours.of([near, test]).value(case(), "tpot"))


# Scores


@pytest.mark.skipif(not POINTS.is_file(), reason="no measured points on this machine")
def test_measured_points_have_the_documented_shape(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(POINTS), "--limit", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"kind", "n", "covered", "median_abs_err", "p90_abs_err", "bias", "rows", "headline"} <= set(found)
    assert found["n"] == len(found["rows"])
    assert 55 <= len({row["id"] for row in found["rows"]}) <= 60  # a point may have none of the three metrics
    assert found["covered"] == sum(row["status"] == "ok" for row in found["rows"])
    assert set(found["by_metric"]) == {"tpot", "ttft", "output_tokens_per_s"}
    assert {"by_split", "by_kind", "by_regime", "by_chip", "by_model", "by_engine"} <= set(
        found["by_metric"]["tpot"]
    )
    for row in found["rows"]:
        if row["status"] == "ok":
            assert row["low"] <= row["predicted"] <= row["high"]
            assert row["rel_err"] == pytest.approx(row["predicted"] / row["measured"] - 1)
        else:
            assert row["status"].startswith("not predicted: ")
            assert row["predicted"] is None


# Published results


def test_published_points_are_of_many_kinds() -> None:
    assert len({run["id"] for run in PUBLISHED}) == len(PUBLISHED) == 12
    assert len({run["model"] for run in PUBLISHED}) >= 7
    assert {run["engine"] for run in PUBLISHED} == {"vllm", "sglang", "trtllm"}
    assert all(run["source"] and run["split"] for run in PUBLISHED)
    assert sum("miss_within" not in run for run in PUBLISHED) >= 10


@pytest.mark.parametrize("run", PUBLISHED, ids=[run["id"] for run in PUBLISHED])
def test_published_point(run: dict[str, Any]) -> None:
    one = serving_case_of(run, run["id"])
    assert one.tpot_s is not None
    error = predict_case(one, service_of(one)).values["tpot"] / one.tpot_s - 1.0
    if "miss_within" in run:
        assert abs(error) <= run["miss_within"], f"worse than the miss that is known: {error:+.1%}"
        assert abs(error) > run["tolerance"], f"no miss any more: {error:+.1%}"
        pytest.xfail(f"known miss, {error:+.0%}")
    assert abs(error) <= run["tolerance"], f"{error:+.1%}"


# Replays


def recorded(folder: Path, requests: int = 20) -> Path:
    """A run of a server that took 100 ms to the first token and 10 ms for each further one."""
    folder.mkdir(parents=True)
    meta = {
        "model": "meta-llama/Llama-3.1-8B",
        "vllm_version": "0.19.0",
        "engine_kwargs": {"max_num_seqs": 64},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    lines = []
    for i in range(requests):
        arrival, made = 1e9 + 0.5 * i, 20 + 10 * i
        first = 500.0 + 0.5 * i + 0.1
        lines.append(
            {
                "request_id": str(i), "input_toks": 500, "output_toks": made, "arrival_time": arrival,
                "queued_ts": first - 0.1, "scheduled_ts": first - 0.09, "first_token_ts": first,
                "last_token_ts": first + 0.01 * (made - 1),
            }
        )  # fmt: skip
    (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_a_run_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path / "H100-SXM_small")
    assert is_run(folder)
    found = replay(folder)
    by_name = {one.name: one for one in found.latencies}
    assert by_name["TTFT"].measured_s == pytest.approx(0.1, rel=1e-4)
    assert by_name["TPOT"].measured_s == pytest.approx(0.01, rel=1e-4)
    assert by_name["end to end"].spearman == pytest.approx(1.0, abs=0.02)
    assert 0.003 < by_name["TPOT"].predicted_s.mean() < 0.03
    assert found.counts == ()
    assert main(["validate", str(folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["kind"], printed["requests"]) == ("replay", 20)
    assert printed["latencies"][0]["rel_err"] == pytest.approx(found.latencies[0].rel_err)


META = '{{"model": "meta-llama/Llama-3.1-8B", "engine_kwargs": {{{}}}}}'


def request(**changed: str) -> str:
    """A line of ``requests.jsonl``, with values as JSON writes them."""
    values = {
        "arrival_time": "1", "queued_ts": "1", "scheduled_ts": "2", "first_token_ts": "3", "last_token_ts": "4",
        "input_toks": "9", "output_toks": "9",
    } | changed  # fmt: skip
    return "{" + ", ".join(f'"{name}": {value}' for name, value in values.items()) + "}\n"


def test_blank_lines_of_a_run_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recorded(tmp_path / "H100-SXM_blank")
    with (folder / "requests.jsonl").open("a") as file:
        file.write("\n\n")
    assert main(["validate", str(folder)]) == 0
    assert "2 blank lines of requests.jsonl skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("meta.json", "{", "meta.json: line 1 column 2: not valid JSON"),
        ("meta.json", '{"model": "x"}', "expected an object with model"),
        ("meta.json", '{"model": "no/such-model", "engine_kwargs": {}}', "no-such-model|such-model"),
        ("requests.jsonl", "", "holds no request"),
        ("requests.jsonl", '{"input_toks": 3}\n', "line 1, field arrival_time: missing"),
        ("requests.jsonl", "not json\n", "line 1: not valid JSON"),
        ("timeseries.csv", "t,running\n1,2\n", "missing column waiting; expected t, running, waiting"),
        ("meta.json", "[" * 100_000, "meta.json: not valid JSON: nested too deeply"),
        (
            "meta.json",
            META.format('"tensor_parallel_size": 0'),
            "engine_kwargs.tensor_parallel_size: 0: expected a",
        ),
        (
            "meta.json",
            META.format('"data_parallel_size": [1]'),
            r"engine_kwargs.data_parallel_size: \[1\]: expected a",
        ),
        (
            "meta.json",
            META.format('"max_num_seqs": 1e9'),
            "engine_kwargs.max_num_seqs: 1000000000.0: expected a whole",
        ),
        (
            "meta.json",
            META.format('"max_num_seqs": 9999999999'),
            "max_num_seqs: 9999999999: expected a .* to 1,048,576",
        ),
        (
            "requests.jsonl",
            request(input_toks="1e300"),
            "line 1, field input_toks: 1e.300: expected a finite number",
        ),
        (
            "requests.jsonl",
            request(input_toks="1.5"),
            "line 1, field input_toks: 1.5: expected a whole number",
        ),
        (
            "requests.jsonl",
            request(output_toks="0"),
            "line 1, field output_toks: 0: expected a whole number from 1",
        ),
        (
            "requests.jsonl",
            request() + request(last_token_ts="-1e300"),
            "line 2, field last_token_ts: -1e.300: expected",
        ),
        (
            "requests.jsonl",
            request(last_token_ts="2.5"),
            "field last_token_ts: 2.5: expected first_token_ts = 3 or later",
        ),
        (
            "requests.jsonl",
            request(queued_ts="Infinity"),
            "line 1, field queued_ts: inf: expected a finite number",
        ),
        (
            "requests.jsonl",
            request(arrival_time="true"),
            "line 1, field arrival_time: True: expected a finite",
        ),
        ("requests.jsonl", "[" * 100_000, "line 1: not valid JSON: nested too deeply"),
        ("requests.jsonl", "[1]\n", "line 1: expected one JSON object per line"),
        ("timeseries.csv", "t,running,waiting\n2,2\n", "line 2, column waiting: missing"),
        (
            "timeseries.csv",
            "t,running,waiting\n1,2,x\n",
            "line 2, column waiting: 'x': expected a finite number",
        ),
        (
            "timeseries.csv",
            "t,running,waiting\n2,2,3\n1,2,3\n0,2,3\n",
            "line 3: t 1, running 2, waiting 3: expected times",
        ),
        ("timeseries.csv", "t,running,waiting\n2,-2,3\n", "line 2: t 2, running -2, waiting 3: expected"),
        (
            "timeseries.csv",
            "t,running,waiting\n1,2," + "9" * 200_000,
            "timeseries.csv, line 2: not CSV: field larger",
        ),
        ("timeseries.csv", "t,running,waiting\n", "holds no row"),
        (
            "simulator_cluster_config.json",
            '{"link_bw": 1e300}',
            "field link_bw: 1e.300: expected a finite number",
        ),
        ("simulator_cluster_config.json", "{}", r"expected an object with link_bw \[GB/s\]"),
        ("simulator_cluster_config.json", '{"link_bw": 0}', "link_bw = 0: must be above 0 GB/s"),
    ],
)
def test_bad_runs_give_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str, message: str
) -> None:
    folder = recorded(tmp_path / "H100-SXM_bad")
    (folder / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        replay(folder)
    assert main(["validate", str(folder)]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    assert 0 < len(printed.strip()) <= 407


@pytest.mark.parametrize(("link_bw", "machine"), [(16, "pcie-rtx-pro-6000-acs"), (36, "pcie-rtx-pro-6000")])
def test_the_link_of_a_run_chooses_its_machine(tmp_path: Path, link_bw: int, machine: str) -> None:
    folder = recorded(tmp_path / "RTXPRO6000_small")
    (folder / "simulator_cluster_config.json").write_text(json.dumps({"link_bw": link_bw}))
    assert run_machine(folder, "rtx-pro-6000").name == machine


def test_without_a_link_the_chips_own_machine(tmp_path: Path) -> None:
    assert run_machine(recorded(tmp_path / "RTXPRO6000_small"), "rtx-pro-6000").name == "pcie-rtx-pro-6000"


def test_a_folder_that_names_no_chip(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no chip of the catalog"):
        replay(recorded(tmp_path / "somewhere"))


@cache
def measured(name: str) -> Replay:
    return replay(SHARED / "vllm_runs" / name)


@pytest.mark.skipif(not (SHARED / "vllm_runs").is_dir(), reason="no measured runs on this machine")
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize(
    ("latency", "within"),
    [
        ("end to end", 0.06),
        ("TTFT", 0.12),
        ("scheduled to first token", 0.10),
    ],
)
def test_replayed_latencies(name: str, latency: str, within: float) -> None:
    (found,) = [one for one in measured(name).latencies if one.name == latency]
    assert abs(found.rel_err) <= within
    if latency == "end to end":
        assert found.spearman is not None
        assert found.spearman >= 0.95


@pytest.mark.skipif(not (SHARED / "vllm_runs").is_dir(), reason="no measured runs on this machine")
@pytest.mark.parametrize("name", RUNS)
def test_replayed_counts(name: str) -> None:
    assert {one.name for one in measured(name).counts} == {"running requests", "waiting requests"}
    for one in measured(name).counts:
        assert one.rms <= 0.1, one.name


# Fitted engines


def test_writing_a_fit_changes_its_numbers_alone(tmp_path: Path) -> None:
    (tmp_path / "engines").mkdir()
    path = tmp_path / "engines" / "vllm-2026.yaml"
    shutil.copy(catalog.BUILT_IN / "engines" / "vllm-2026.yaml", path)
    path.write_text(re.sub(r"(?m)^(gap: [\d.]+ us)$", r"\1  # of graphs", path.read_text()))
    before = path.read_text().splitlines()
    fit = EngineFit("vllm-2026", {"gap": 2.5, "frontend": 12.0}, rows=7, median_abs_err=0.1, spread=0.222)
    assert write_engines([fit], tmp_path) == [path]
    after = path.read_text().splitlines()
    changed = {b for a, b in zip(before, after, strict=True) if a != b}
    assert changed == {"gap: 2.5 us  # of graphs", "frontend: 12 ms", "rows: 7", "spread: 0.222"}


def test_calibrate_serving_writes_what_it_fitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "engines").mkdir()
    path = tmp_path / "engines" / "vllm-2026.yaml"
    shutil.copy(catalog.BUILT_IN / "engines" / "vllm-2026.yaml", path)
    rows = [
        {**ROW, "id": f"r{users}", "group": f"g{users}", "concurrency": users, "tpot_ms": 7.5 + users / 16}
        for users in (1, 4, 16, 64)
    ]
    points = write(tmp_path / "points.csv", rows)
    command = ["calibrate", "serving", str(points), "--rounds", "1", "--write", str(tmp_path), "--json"]
    assert main(command) == 0
    (fit,) = json.loads(capsys.readouterr().out)
    assert (fit["engine"], fit["rows"]) == ("vllm-2026", 4)
    before = (catalog.BUILT_IN / "engines" / "vllm-2026.yaml").read_text().splitlines()
    after = path.read_text().splitlines()
    names = {b.partition(":")[0] for a, b in zip(before, after, strict=True) if a != b}
    assert names <= {*fit["numbers"], "rows", "spread"}
    assert "rows: 4" in after
    assert sum("#" in line for line in after) == sum("#" in line for line in before)
    assert main(["calibrate", "serving", str(points), "--write", str(tmp_path / "none")]) == 2
