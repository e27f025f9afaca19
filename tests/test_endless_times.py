"""Times that never come, or only after ages: null in JSON, said in words, refused where they are no numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ridgeline.cli.main import main
from ridgeline.metrics.finite import finite

ON = ["llama-3.1-8b", "--on", "h100-sxm"]
ENGINE = ["--chips", "1", "--tp", "1", "--engine", "vllm-2026", "--precision", "bf16"]
SERVE = ["serve", *ON, *ENGINE, "--isl", "512", "--osl", "64"]
PLAN = ["--tp", "2", "--dp", "4", "--micro-batch", "1"]
TRAIN = ["train", *ON, "--chips", "8", "--batch", "64", "--seq", "2048", *PLAN]

Said = pytest.CaptureFixture[str]


def test_what_is_not_finite_is_none() -> None:
    values = {"a": [math.inf, (1.0, -math.inf)], "b": {"c": math.nan, "d": 2, "e": "inf"}}
    assert finite(values) == {"a": [None, [1.0, None]], "b": {"c": None, "d": 2, "e": "inf"}}


@pytest.mark.parametrize("timeout", ["1ns", "1ms", "10ms"])
def test_no_request_is_served_in_time(tmp_path: Path, capsys: Said, timeout: str) -> None:
    page = tmp_path / "page.html"
    assert main([*SERVE, "--rate", "5", "--timeout", timeout, "--json", "--out", str(page)]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (found["check"]["ttft_s"], found["check"]["tpot_s"], found["check"]["met"]) == (None, None, False)
    assert "no request is served in time: TTFT P95 never, TPOT P95 never" in page.read_text(encoding="utf-8")


def test_those_that_go_first_are_not_served_either(capsys: Said) -> None:
    assert main([*SERVE, "--rate", "5", "--timeout", "1ms", "--urgent", "0.1"]) == 0
    said = capsys.readouterr().out
    assert "TTFT P95 of those that go first never" in said
    assert "Of 800 requests 800 timed out" in said


def test_the_largest_rate_is_the_one_that_is_said(capsys: Said) -> None:
    assert main([*SERVE, "--rate", "1e9"]) == 2
    assert "keeps up with a load of 1e+09 requests/s" in capsys.readouterr().err
    for rate in ("1.1e9", "9e-10"):
        assert main([*SERVE, "--rate", rate]) == 2
        assert f"rate = {rate}: expected requests a second from 1e-9 to 1e9" in capsys.readouterr().err


def test_a_trace_that_hardly_arrives_is_refused(tmp_path: Path, capsys: Said) -> None:
    trace = tmp_path / "slow.csv"
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,512,64\n1e14,512,64\n")
    asked = ["serve", *ON, *ENGINE]
    assert main([*asked, "--trace", str(trace)]) == 2
    assert "slow.csv: 1e-14 requests a second arrive; expected 1e-09 to 1e+09" in capsys.readouterr().err
    trace.write_text("arrival_s,input_tokens,output_tokens\n0,512,64\n1e8,512,64\n")
    assert main([*asked, "--trace", str(trace)]) == 0
    assert "requests/s need 1 chip of this plan" in capsys.readouterr().out


@pytest.mark.parametrize("question", [TRAIN, SERVE])
def test_a_time_beyond_any_is_refused(capsys: Said, question: list[str]) -> None:
    assert main([*question, "--set", "chip.memory.bandwidth=1e-20 B/s"]) == 2
    assert "s, beyond 1e+15 s: a rate of the chip" in capsys.readouterr().err


def test_ages_are_said_aloud(capsys: Said) -> None:
    assert main([*TRAIN, "--set", "chip.memory.bandwidth=1 B/s"]) == 0
    assert "note: ONE STEP TAKES 62,800 years" in capsys.readouterr().out
    assert main([*TRAIN, "--tokens", "1e18"]) == 0
    assert "note: THE RUN TAKES 414,000 years" in capsys.readouterr().out
    assert main([*SERVE, "--set", "chip.memory.bandwidth=1 B/s"]) == 0
    assert "note: ONE TOKEN TAKES 228,000 years" in capsys.readouterr().out
    assert main(TRAIN) == 0
    assert "TAKES" not in capsys.readouterr().out
