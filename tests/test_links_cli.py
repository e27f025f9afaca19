"""`calibrate links`, and `validate` on tables and logs of links: what they print, and how bad files end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate import links
from ridgeline.cli.main import main
from ridgeline.facts import catalog
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.topology import place

arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
real = pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is absent")
Said = pytest.CaptureFixture[str]


def write(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(arrow.table(columns), path)
    return path


def engine_columns(slower: float = 1.25) -> dict[str, Any]:
    """All-reduce of two engines on H100, ``slower`` than predicted; a few rows in eager mode."""
    sizes = 2 ** np.arange(7, 27)
    cluster, own = catalog.cluster_for("h100-sxm"), catalog.link_calibration("h100-sxm")
    columns: dict[str, Any] = {name: [] for name in ("num_gpus", "message_size", "latency", "framework")}
    for engine in ("vllm", "sglang"):
        for ranks in (2, 8):
            time = collective_seconds(
                "all_reduce", sizes * 2.0, place(ranks, 1, cluster), cluster, own, engine=engine
            )
            columns["num_gpus"] += [ranks] * len(sizes)
            columns["message_size"] += sizes.tolist()
            columns["latency"] += (time * slower * 1e3).tolist()
            columns["framework"] += [engine] * len(sizes)
    count = len(columns["latency"])
    return columns | {
        "op_name": ["all_reduce"] * count, "kernel_source": ["custom"] * count, "chip": ["h100_sxm"] * count,
        "allreduce_dtype": ["bfloat16"] * count, "version": ["1"] * count,
        "timing_mode": ["eager"] * 3 + ["graph"] * (count - 3),
    }  # fmt: skip


def expert_columns(low: bool = False) -> dict[str, Any]:
    count = 24
    named: dict[str, Any] = (
        {"dispatch_avg_t_us": [20.0] * count, "combine_avg_t_us": [30.0] * count}
        if low
        else {
            "dispatch_transmit_us": [500.0] * count, "combine_transmit_us": [900.0] * count,
            "dispatch_sms": [24] * count, "combine_sms": [24] * count,
        }
    )  # fmt: skip
    return named | {
        "chip": ["h100_sxm"] * count, "framework": ["sglang"] * count, "kernel_source": ["deepep"] * count,
        "version": ["0.5.12"] * count, "timing_mode": ["device"] * count, "node_num": [1] * count,
        "hidden_size": [7168] * count, "num_token": (2 ** np.arange(count) % 4096 + 1).tolist(),
        "num_topk": [8] * count, "num_experts": [256] * count,
    }  # fmt: skip


def test_engines_are_scored_with_their_own_fit(tmp_path: Path, capsys: Said) -> None:
    assert main(["validate", str(write(tmp_path / "a.parquet", engine_columns())), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "engine_all_reduce"
    assert [(g["op"], g["library"], g["n"]) for g in found["groups"]] == [
        ("all_reduce", "sglang/custom", 40), ("all_reduce", "vllm/custom", 37),
    ]  # fmt: skip
    assert all(
        g["bias"] == pytest.approx(-0.2) and g["p90_abs_err"] == pytest.approx(0.2) for g in found["groups"]
    )


@pytest.mark.parametrize("low", [False, True])
def test_dispatch_and_combine_are_scored_apart(low: bool, tmp_path: Path, capsys: Said) -> None:
    path = write(tmp_path / "e.parquet", expert_columns(low))
    assert main(["validate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    end = "_low_latency" if low else ""
    assert [(g["op"], g["n"]) for g in found["groups"]] == [(f"combine{end}", 24), (f"dispatch{end}", 24)]
    assert {g["label"] for g in found["groups"]} == {"fitted"}
    assert main(["validate", str(path), "--limit", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 10


def without(columns: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: values for key, values in columns.items() if key != name}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (without(expert_columns(), "combine_transmit_us"), ("combine_transmit_us", "too")),
        (without(expert_columns(), "num_topk"), ("num_topk", "expert_parallel")),
        (without(engine_columns(), "latency"), ("latency", "engine_all_reduce")),
        ({**engine_columns(), "chip": ["mine"] * 80}, ("column chip", "'mine'", "h100_sxm")),
        ({**engine_columns(), "latency": [0.0] * 80}, ("column latency", "0.0", "above 0")),
        ({**engine_columns(), "num_gpus": ["two"] * 80}, ("column num_gpus", "'two'", "numbers")),
        ({name: values[:8] for name, values in engine_columns().items()}, ("rows are too few", "12")),
    ],
)
def test_a_bad_table_cannot_be_fitted(
    columns: dict[str, Any], words: tuple[str, ...], tmp_path: Path, capsys: Said
) -> None:
    path = write(tmp_path / "bad.parquet", columns)
    assert main(["calibrate", "links", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


SHARES = "Size,2Node-16GPU(NIC),4Node-32GPU(NIC)\n16777216,0.3,0.2\n33554432,0.5,{cell}\n"


def test_files_that_no_fit_takes(tmp_path: Path, capsys: Said) -> None:
    table = str(write(tmp_path / "a.parquet", engine_columns()))
    share, other = tmp_path / "nic.csv", tmp_path / "nvlink.csv"
    share.write_text(SHARES.format(cell="half"))
    other.write_text(SHARES.format(cell=0.4))
    text = tmp_path / "notes.md"
    text.write_text("x")
    for files, words in (
        ([table, table], ("stands in", "give one of each")),
        ([table, str(share)], ("nic.csv", "line 3", "4Node-32GPU", "'half'")),
        ([table, str(other)], ("nvlink.csv", "inside a node")),
        ([str(text)], ("notes.md", ".parquet", ".csv")),
        ([str(tmp_path / "none.parquet")], ("no such file",)),
    ):
        assert main(["calibrate", "links", *files]) == 2
        err = capsys.readouterr().err
        assert all(word in err for word in words), err


def test_fits_are_kept_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    def one_chip(tables: dict[str, Any], shares: object) -> Any:
        assert set(tables) == {"h100-sxm"}
        yield catalog.link_calibration("h100-sxm")
        raise KeyboardInterrupt

    monkeypatch.setattr(links, "fit_each", one_chip)
    out, path = tmp_path / "out", write(tmp_path / "a.parquet", engine_columns())
    assert main(["calibrate", "links", str(path), "--out", str(out), "--report"]) == 130
    text, err = capsys.readouterr()
    assert "1 chips fitted, files written" in err
    line = next(line for line in text.splitlines() if "all_reduce_vllm" in line)
    assert line.split()[:4] == ["h100-sxm", "scale_up", "all_reduce_vllm", "fitted"]
    median, ninth, shipped, shipped_ninth = line.split()[-4:]
    assert (median, ninth) == (shipped, shipped_ninth)
    assert (out / "h100-sxm.yaml").read_text().startswith("chip: h100-sxm")


def test_a_fit_is_written_and_read_back(tmp_path: Path, capsys: Said) -> None:
    out, path = tmp_path / "calibrations" / "links", write(tmp_path / "a.parquet", engine_columns(slower=2.0))
    assert main(["calibrate", "links", str(path), "--out", str(out), "--json"]) == 0
    fits = {(fit["chip"], fit["op"]): fit for fit in json.loads(capsys.readouterr().out)["fits"]}
    assert fits["h100-sxm", "all_reduce_vllm"]["median_abs_err"] < 0.05
    assert catalog.check(out / "h100-sxm.yaml", "links") == []
    shipped = links.document(catalog.link_calibration("h100-sxm"))
    written = (out / "h100-sxm.yaml").read_text()
    assert "custom of vllm 1" in written
    for key in ("all_gather", "dispatch"):  # no table speaks of them
        assert (
            links.document(catalog.link_calibration("h100-sxm"))["scale_up"][key] == shipped["scale_up"][key]
        )


def test_shares_and_logs_are_scored(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "nic.csv"
    path.write_text(SHARES.format(cell=0.4))
    assert main(["validate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"]) == ("shares", 4)
    assert [(g["op"], g["format"], g["n"]) for g in found["groups"]] == [
        ("all_gather", "2 nodes", 2), ("all_gather", "4 nodes", 2),
    ]  # fmt: skip
    path.write_text(SHARES.format(cell="-1"))
    assert main(["validate", str(path)]) == 0
    assert (
        "1: line not read: line 3, column 4Node-32GPU = '-1' must be a number above 0"
        in capsys.readouterr().out
    )
    log = tmp_path / "allreduce.log"
    log.write_text("nothing\n")
    assert main(["validate", str(log)]) == 2
    assert "nccl-tests" in capsys.readouterr().err
    device = "".join(f"#   Rank  {n} Pid 1 on localhost device  {n} [0x00] MyChip\n" for n in range(2))
    log.write_text(device + "1024 256 float sum 9.1 0.1 0.1 N/A 9.1 0.1 0.1 N/A\n")
    assert main(["validate", str(log)]) == 2
    assert "'MyChip' is not in the catalog" in capsys.readouterr().err


@real
@pytest.mark.parametrize("name", ["allreduce_custom", "deepep_normal", "deepep_low_latency"])
def test_real_tables_of_links(name: str, capsys: Said) -> None:
    """All rows, fitted and held out, of every chip and library: 6 % in the median, 20 % in nine of ten."""
    assert main(["validate", str(DATA / "kernels" / f"{name}.parquet"), "--json"]) == 0
    for group in json.loads(capsys.readouterr().out)["groups"]:
        miss = (group["chip"], group["library"].split("/")[0]) == ("gb200", "vllm")
        assert group["label"] == "fitted"
        assert group["median_abs_err"] <= 0.065, group
        assert miss or group["p90_abs_err"] <= 0.25, group


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("chip", None, "column chip = None: expected words"),
        ("version", 3, "column version = 3: expected words"),
        ("kernel_source", ["a"], "column kernel_source"),
        ("num_gpus", [2], "column num_gpus"),
        ("message_size", 1e300, "column message_size = 1e+300 in row"),
        ("latency", float("nan"), "column latency = nan in row"),
    ],
)
def test_cells_that_no_fit_takes(name: str, value: Any, words: str, tmp_path: Path, capsys: Said) -> None:
    columns = engine_columns()
    columns[name] = [value] * len(columns[name])
    path = write(tmp_path / "engine.parquet", columns)
    assert main(["calibrate", "links", str(path)]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("message_size", 1e300), ("message_size", -1.0), ("latency", 1e-300), ("num_gpus", 1e13)],
)
def test_damaged_rows_are_left_out_and_counted(name: str, value: float, tmp_path: Path, capsys: Said) -> None:
    columns = engine_columns()
    columns[name] = [value, *map(float, columns[name][1:])]
    columns["timing_mode"] = ["graph"] * len(columns[name])
    assert main(["validate", str(write(tmp_path / "engine.parquet", columns))]) == 0
    out, err = capsys.readouterr()
    assert "80 rows of engine_all_reduce: 79 scored, 1 left out" in out
    assert "1: a size below 0 or beyond 1e+12, or a time of no kernel" in out
    assert err == ""


def test_a_missing_column_of_words(tmp_path: Path, capsys: Said) -> None:
    columns = engine_columns()
    del columns["version"]
    assert main(["calibrate", "links", str(write(tmp_path / "engine.parquet", columns))]) == 2
    assert "engine.parquet: no column version" in capsys.readouterr().err
