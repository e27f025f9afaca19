"""Logs of nccl-tests: damaged lines are counted, a log of mostly damaged lines is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ridgeline.calibrate.nccl_logs import read_log
from ridgeline.cli.main import main

HEAD = "".join(f"#   Rank  {n} Pid 1 on host device  {n} [0x00] A100-SXM4-40GB\n" for n in range(8))


def row(size: int, micros: float = 40.0) -> str:
    """A row of results; its bandwidth follows from size and time."""
    rate = f"{size / (micros * 1e3):.2f}"
    return f"{size:12} {size // 4:9}   float     sum  {micros:.2f}  {rate}  {rate}  0e+00  33.57  0.03  0.05  0e+00\n"


ROWS = [row(2**n) for n in range(10, 30)]


def log(path: Path, rows: list[str]) -> Path:
    path.write_text(HEAD + "#  size  count  type\n" + "".join(rows) + "# Avg bus bandwidth : 1\n")
    return path


def test_a_whole_log_skips_nothing(tmp_path: Path) -> None:
    chatter = ["host:3442:3442 [0] NCCL INFO Launch mode Parallel\n", *ROWS, "\n", row(0, 30.0)]
    found = read_log(log(tmp_path / "all_reduce.log", chatter))
    assert (found.skipped, found.words, found.samples.seconds.size) == (0, "", 20)
    assert set(found.samples.ranks) == {8.0}


@pytest.mark.parametrize(
    "damaged",
    [
        ROWS[5][:40] + "\n",  # cut short
        ROWS[5].replace("40.00", "4x.00"),
        ROWS[5].replace("40.00", "90.00", 1) if "0.82" in ROWS[5] else row(2**20).replace("40.00", "90.00"),
        row(2**20).replace("40.00", "nan"),
        row(2**20).replace("40.00", "-40.0"),
        row(2**20).replace("1048576", "1e300"),
        row(2**20).rstrip() + " 1 2 3\n",
    ],
)
def test_a_damaged_row_is_counted_and_said(
    damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = log(tmp_path / "all_reduce.log", [*ROWS[:3], damaged, *ROWS[3:], damaged])
    found = read_log(path)
    assert (found.skipped, found.first_skipped) == (2, 13)
    assert main(["validate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "22 rows of nccl-tests: 20 scored, 2 left out" in out
    assert "2: lines skipped: first at line 13" in out


def test_a_mostly_damaged_log_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = log(tmp_path / "all_reduce.log", [ROWS[0], "1024 what\n", "2048 is\n", "4096 this\n"])
    assert main(["validate", str(path)]) == 2
    assert "line 11: 3 of 4 rows of results are not as nccl-tests print them" in capsys.readouterr().err


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    path = tmp_path / "all_reduce.log"
    path.write_text(HEAD.replace("Rank  4", "Rank  x") + ROWS[0])
    with pytest.raises(ValueError, match=r"line 6: rank '5': expected 4; a line is missing"):
        read_log(path)
