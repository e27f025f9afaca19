"""Measured files of which a few lines are damaged: those are left out, counted and named; most of them are refused."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from ridgeline.calibrate.cases import read_cases
from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.link_tables import read_shares
from ridgeline.calibrate.serving.cases import read_serving_cases
from ridgeline.calibrate.serving.replay import replay
from ridgeline.cli.main import main

SHARES = (
    "Size,2Node-16GPU(CX7),4Node-32GPU(CX7)\n16777216,0.55,0.52\n1073741824,0.93,0.91\n2147483648,0.94,0.92\n"
)
RUN = "llama-3.1-8b,h100-sxm,8,64,4096,4.2\n"
RUNS = "model,chip,n_chips,global_batch,seq,step_time_s\n"
POINT = {
    "model": "llama-3.1-8b", "chip": "h100-sxm", "n_chips": 1, "engine": "vllm", "tp": 1, "isl": 1000, "osl": 200,
    "concurrency": 8, "tpot_ms": 8.0,
}  # fmt: skip
HUGE = "99999999999999999999"

Said = pytest.CaptureFixture[str]


def points(path: Path, *rows: dict[str, Any]) -> Path:
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(names))
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())
    return path


def recorded(folder: Path, count: int = 40, **engine: Any) -> Path:
    """A run of a server, request by request."""
    folder.mkdir()
    meta = {"model": "meta-llama/Llama-3.1-8B", "vllm_version": "0.19.0", "engine_kwargs": engine}
    (folder / "meta.json").write_text(json.dumps(meta))
    lines = [json.dumps(request(i)) for i in range(count)]
    (folder / "requests.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def request(number: int, made: int = 30) -> dict[str, Any]:
    sent = 0.5 * number
    return {
        "input_toks": 500, "output_toks": made, "arrival_time": 1e9 + sent, "queued_ts": 500.0 + sent,
        "scheduled_ts": 500.01 + sent, "first_token_ts": 500.1 + sent,
        "last_token_ts": 500.1 + sent + 0.01 * (made - 1),
    }  # fmt: skip


def changed(folder: Path, *lines: bytes, at: int = 3) -> None:
    """Put ``lines`` in the place of as many requests."""
    path = folder / "requests.jsonl"
    kept = path.read_bytes().splitlines()
    kept[at : at + len(lines)] = lines
    path.write_bytes(b"\n".join(kept) + b"\n")


# Tables


@pytest.mark.parametrize("bad", ["abc,0.1,0.2", "1024,-1,0.2", "1024,\udcff,0.2"])
def test_a_damaged_line_of_shares_is_left_out(tmp_path: Path, capsys: Said, bad: str) -> None:
    path = tmp_path / "ata_cx7.csv"
    path.write_bytes((SHARES + bad + "\n").encode("utf-8", "surrogateescape"))
    assert main(["validate", str(path)]) == 0
    said = capsys.readouterr().out
    assert "7 rows of shares: 6 scored, 1 left out" in said
    assert "1: line not read: line 5" in said
    path.write_bytes((SHARES + 4 * f"{bad}\n").encode("utf-8", "surrogateescape"))
    with pytest.raises(
        ValueError, match=r"ata_cx7.csv, line 5.*4 of 7 lines cannot be read: the file is damaged"
    ):
        read_shares(path, [])
    with pytest.raises(ValueError, match=r"ata_cx7.csv, line 5"):
        read_shares(path)


def test_a_line_that_is_no_text_leaves_the_others(tmp_path: Path, capsys: Said) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes((RUNS + 2 * RUN).encode() + b"llama\xff-3.1-8b,h100-sxm,8,64,4096,4.2\n" + RUN.encode())
    unread: list[str] = []
    assert len(read_cases(path, unread)) == 3
    assert unread == ["line 4: byte 0xff is not UTF-8 text"]
    with pytest.raises(CaseError, match=r"runs.csv, line 4: byte 0xff"):
        read_cases(path)
    assert main(["validate", str(path)]) == 0
    assert "1 line not read: line 4: byte 0xff is not UTF-8 text" in capsys.readouterr().out


def test_a_line_that_is_no_csv_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(RUNS + RUN + "x" * 200_000 + RUN + RUN)
    unread: list[str] = []
    assert len(read_cases(path, unread)) == 2
    assert unread == ["line 3: not CSV: field larger than field limit (131072)"]


@pytest.mark.parametrize("content", [b"\xff\xfe" + "a,b\n1,2\n".encode("utf-16-le"), b"", b"\0" * 64])
def test_what_is_no_table_is_refused(tmp_path: Path, capsys: Said, content: bytes) -> None:
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    assert main(["validate", str(path)]) == 2
    assert "runs.csv" in capsys.readouterr().err


@pytest.mark.parametrize(
    "column",
    [
        "isl", "osl", "concurrency", "request_rate", "batch_size", "tp", "pp", "ep", "dp", "prefill_workers",
        "decode_workers", "decode_batch", "decode_dp", "layers", "n_chips", "tpot_ms", "output_tokens_per_s",
    ],
)  # fmt: skip
def test_a_wild_number_of_a_point_names_its_column(tmp_path: Path, column: str) -> None:
    unread: list[str] = []
    path = points(tmp_path / "points.csv", {**POINT, column: HUGE}, POINT)
    assert len(read_serving_cases(path, unread)) == 1
    (reason,) = unread
    assert reason.startswith(f"line 2, column {column}: '{HUGE}': expected ")


@pytest.mark.parametrize("column", ["step_time_s", "tokens_per_s_per_chip", "seq", "global_batch"])
def test_a_wild_number_of_a_run_names_its_column(tmp_path: Path, column: str) -> None:
    unread: list[str] = []
    good = dict(zip(RUNS.strip().split(","), RUN.strip().split(","), strict=True))
    path = points(tmp_path / "runs.csv", {**good, column: HUGE}, good)
    assert len(read_cases(path, unread)) == 1
    (reason,) = unread
    assert reason.startswith(f"line 2, column {column}: '{HUGE}': expected ")


def test_an_unknown_way_of_drafting_is_refused(tmp_path: Path) -> None:
    unread: list[str] = []
    path = points(tmp_path / "points.csv", {**POINT, "speculative": "mtp:3:1e400"}, POINT)
    assert len(read_serving_cases(path, unread)) == 1
    assert unread == ["line 2, column speculative: 'mtp:3:1e400': expected one of none, mtp, unknown"]


# Replays


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not valid JSON"),
        (b'{"input_toks": "\xff"}', "byte 0xff is not UTF-8 text"),
        (b"[]", "expected one JSON object per line"),
        (
            json.dumps({**request(3), "arrival_time": 1e11}).encode(),
            "field arrival_time: 100000000000: too far",
        ),
        (
            json.dumps({**request(3), "arrival_time": 1e9 + 1e5}).encode(),
            "field arrival_time: 1000100000: too far",
        ),
    ],
)
def test_a_damaged_request_is_left_out(tmp_path: Path, capsys: Said, line: bytes, reason: str) -> None:
    folder = recorded(tmp_path / "h100sxm_run")
    changed(folder, line)
    found = replay(folder)
    assert found.requests == 39
    (said,) = found.left_out
    assert said.startswith("line 4")
    assert reason in said
    assert main(["validate", str(folder)]) == 0
    text = capsys.readouterr().out
    assert f"1 of 40 requests left out, so that the load is lighter than the measured one: {said}" in text
    changed(folder, line, line, line, at=9)
    with pytest.raises(CaseError, match=r"requests.jsonl, line 4.* \(4 of 40 requests cannot be read\)"):
        replay(folder)


def test_a_short_line_of_a_time_series_is_left_out(tmp_path: Path, capsys: Said) -> None:
    folder = recorded(tmp_path / "h100sxm_run")
    path = folder / "timeseries.csv"
    path.write_text("t,running,waiting\n0,1,0\n1,1\n2,1,0\n")
    found = replay(folder)
    assert found.counts[0].times_s.tolist() == [0.0, 2.0]
    assert found.notes == (
        "timeseries.csv: 1 line not read: line 3, column waiting: missing; this value is needed",
    )
    path.write_text("t,running,waiting\n0,1,0\n1,1\n2,1\n")
    assert main(["validate", str(folder)]) == 2
    assert "2 of 3 lines cannot be read: the file is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pipe", "loop", "dangling"])
@pytest.mark.parametrize("name", ["timeseries.csv", "simulator_cluster_config.json"])
def test_what_is_no_file_is_not_taken_as_absent(tmp_path: Path, kind: str, name: str) -> None:
    folder = recorded(tmp_path / "h100sxm_run")
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(folder / (name if kind == "loop" else "nowhere"))
    with pytest.raises(CaseError, match=name):
        replay(folder)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"data_parallel_size": 10**9}, "engine_kwargs.data_parallel_size: 1000000000: expected .* 1 to 16,384"),
        (
            {"data_parallel_size": 9_000, "tensor_parallel_size": 2},
            "engine_kwargs.data_parallel_size: 9,000: 2 x 1 x 9,000 chips; expected at most 16,384",
        ),
        ({"tensor_parallel_size": 3}, "engine_kwargs.tensor_parallel_size: 3: does not divide the 32 heads of llama"),
        ({"tensor_parallel_size": 64}, "engine_kwargs.tensor_parallel_size: 64: does not divide the 32 heads"),
        ({"pipeline_parallel_size": 33}, "engine_kwargs.pipeline_parallel_size: 33: llama-3.1-8b has 32 layers"),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_names_its_field(tmp_path: Path, engine: dict[str, Any], said: str) -> None:
    with pytest.raises(CaseError, match=f"meta.json, field {said}"):
        replay(recorded(tmp_path / "h100sxm_run", **engine))


def test_answers_of_one_token_have_no_time_between_tokens(tmp_path: Path, capsys: Said) -> None:
    folder = recorded(tmp_path / "h100sxm_run", 0)
    lines = [json.dumps({**request(i, 1), "last_token_ts": 501.0 + 0.5 * i}) for i in range(20)]
    (folder / "requests.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["validate", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (tpot,) = [one for one in found["latencies"] if one["name"] == "TPOT"]
    assert set(tpot.values()) == {"TPOT", None}
    assert found["itl_p99_s"] == {"measured_request_means": None, "predicted": None}
    assert [line.split() for line in replay(folder).table().splitlines() if "TPOT" in line] == [
        ["TPOT", *"---"]
    ]


def test_what_the_link_of_a_run_does_is_said(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "RTXPRO6000_run")
    (folder / "simulator_cluster_config.json").write_text('{"link_bw": 16}')
    (note,) = replay(folder).notes
    assert note == (
        "link_bw 16 GB/s only chose the machine, pcie-rtx-pro-6000-acs; the links of that one are simulated, of which "
        "one chip uses none"
    )
