"""Offline tables, host time of a step, and the ranges of serving."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate.serving import ranges
from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.predicted import predict_case
from ridgeline.calibrate.serving.run_settings import run_settings
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow
from ridgeline.calibrate.serving.services import service_of
from ridgeline.calibrate.serving.trtllm_bench import tuned_limits
from ridgeline.cli.main import main
from ridgeline.facts import catalog, serving_ranges
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.sim.serving.build import step_table


def case(**changes: Any) -> ServingCase:
    said: dict[str, Any] = {
        "model": "llama-3.1-8b", "layers": 32, "hidden": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128,
        "ffn": 14336, "vocab": 128256, "attention": "gqa", "chip": "h100-sxm", "engine": "trtllm",
        "engine_version": "1.0", "precision": "fp8", "kv_precision": "fp8", "tp": 1, "dp": 1, "pp": 1,
        "isl": 20000.0, "osl": 2000.0, "mode": "offline", "client": "offline", "output_tokens_per_s": 1000.0,
    }  # fmt: skip
    return ServingCase(**{**said, **changes})


def served(engine: str = "trtllm-2026", **changes: Any) -> Service:
    layout = changes.pop("layout", Layout())
    found = service(
        "llama-3.1-8b", changes.pop("chip", "h100-sxm"), layout, Precision(linear="fp8"), engine,
        limits=Limits(max_seqs=64, max_batched_tokens=2048),
    )  # fmt: skip
    return found.replace(engine=found.engine.model_copy(update=changes))


def test_the_benchmark_limits_requests_by_its_own_count_of_the_cache() -> None:
    # (80 GB - 8.03e9 weights) x 0.9 / (2 x 32 x 8 x 128 B x 22,000 tokens) = 44.9 -> at least 64
    assert tuned_limits(service_of(case()), 20000, 2000, 0.9) == (64, 20064)
    # 128 tokens in and out: the cap of 4,096 requests, and no more than so many tokens of prompts
    requests, tokens = tuned_limits(service_of(case()), 128, 128, 0.9)
    assert requests == 256 * math.ceil(min(64.77e9 / (65536 * 256), 4096) / 256)
    assert tokens >= 2 * 3500
    # a pipeline divides the requests among its micro-batches
    halved, _ = tuned_limits(service_of(case(pp=2, num_chips=2)), 1000, 1000, 0.9)
    whole, _ = tuned_limits(service_of(case()), 1000, 1000, 0.9)
    assert halved < 1.5 * whole


def test_the_number_of_requests_is_that_of_the_nearest_lengths() -> None:
    chip = catalog.chip("h100-sxm")
    assert run_settings(case(), chip).requests == 1000
    assert run_settings(case(isl=130.0, osl=120.0), chip).requests == 30000
    assert run_settings(case(client="inferencex"), chip).requests == 0


def test_an_offline_run_is_simulated_whatever_the_model_is_called() -> None:
    named = predict_case(case(), service_of(case()))
    other = case(model="something-else")
    assert predict_case(other, service_of(other)) == named
    assert named.regime == "offline"
    # roofline: no more than the FLOPs of prompts and answers allow
    chip = catalog.chip("h100-sxm")
    flops = 2.0 * 8.0e9 * 22000 / 2000  # for each answered token
    assert 0.0 < named.values["output_tokens_per_s"] < chip.matrix["fp8"] / flops


def test_captured_batches_may_be_a_list() -> None:
    listed = step_table(served(graph_batches=(1, 8, 64), graph_batch=64), 4096)
    assert listed.tokens_s[0, 2] == listed.tokens_s[0, 8]
    assert listed.tokens_s[0, 9] == listed.tokens_s[0, 64]
    assert listed.tokens_s[0, 8] < listed.tokens_s[0, 9]


def test_launches_add_to_planning_and_pipelines_do_not_overlap() -> None:
    table = step_table(served(), 4096)
    assert table.host_launch_s > 0.0
    assert step_table(served("vllm-2026"), 4096).host_launch_s == 0.0
    engine = served().engine
    staged = step_table(served(layout=Layout(pp=4)), 4096)
    assert staged.host_hidden_s == (0.0, 0.0)
    assert staged.host_s[1] == pytest.approx(4 * engine.host_request)
    assert staged.max_seqs == 16


def test_a_machine_has_a_host_speed() -> None:
    one = served()
    slow = one.replace(cluster=one.cluster.model_copy(update={"host": 2.0}))
    assert step_table(slow, 4096).host_hidden_s[1] == pytest.approx(2 * one.engine.host_request)


# Ranges


def rows(errors: dict[str, list[float]]) -> ServingBoard:
    found = []
    for split, values in errors.items():
        for i, error in enumerate(values):
            point = case(
                id=f"{split}{i}", split=split, mode="aggregated", client="", output_tokens_per_s=None
            )
            found.append(
                ServingRow(
                    point, "tpot", 1.0, "ok", math.exp(error), math.exp(error - 0.2), math.exp(error + 0.2)
                )
            )
    return ServingBoard(tuple(found))


def test_widths_hold_four_fifths_of_the_fit_share_alone() -> None:
    errors = list(np.linspace(-0.5, 0.5, 101))
    widths = ranges.fit_ranges(rows({"fit": errors, "test-family": [3.0] * 50}))
    assert widths["tpot"]["dense"] == pytest.approx(0.4, abs=0.02)
    assert set(widths) == {"tpot"}


def test_separate_pools_are_given_what_they_need_beyond_their_kind() -> None:
    one = list(np.linspace(-0.5, 0.5, 101))
    wide = [
        replace(row, case=replace(row.case, mode="disaggregated"))
        for row in rows({"fit": [3.0 * error for error in one]}).rows
    ]
    widths = ranges.fit_ranges(ServingBoard((*rows({"fit": one}).rows, *wide)))["tpot"]
    assert widths["dense"] == pytest.approx(0.4, abs=0.02)
    assert math.hypot(widths["dense"], widths["pools"]) == pytest.approx(1.2, abs=0.06)


def test_the_winkler_score_counts_width_and_misses() -> None:
    inside = ranges.winkler(rows({"fit": [0.0, 0.1]}).rows)
    assert inside == pytest.approx(0.4)
    assert ranges.winkler(rows({"fit": [0.3]}).rows) == pytest.approx(0.4 + 10 * 0.1)


def test_shipped_ranges_have_every_metric_and_kind() -> None:
    for metric in serving_ranges.METRICS:
        for kind in serving_ranges.KINDS:
            low, high = serving_ranges.ends(2.0, metric, kind)
            assert low * high == pytest.approx(4.0)
            assert high > 2.0
            assert serving_ranges.ends(2.0, metric, kind, queued=True)[1] >= high
            assert serving_ranges.ends(2.0, metric, kind, pools=True)[1] >= high


def test_calibrate_ranges_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / serving_ranges.FILE
    table.write_text("# kept\nhalf_widths: {}\n")
    points = tmp_path / "points.csv"
    names = (
        "chip",
        "n_chips",
        "engine",
        "model",
        "isl",
        "osl",
        "tp",
        "dp",
        "concurrency",
        "tpot_ms",
        "split",
    )
    lines = [f"h100-sxm,1,vllm,llama-3.1-8b,256,64,1,1,{users},{6 + users},fit" for users in (1, 2)]
    points.write_text("\n".join([",".join(names), *lines]) + "\n")
    assert main(["calibrate", "ranges", str(points), "--write", str(tmp_path), "--json"]) == 0
    widths = json.loads(capsys.readouterr().out)
    assert set(widths["tpot"]) == set(serving_ranges.KINDS)
    assert table.read_text().startswith("# kept\nhalf_widths:\n  tpot: {dense: ")
    assert main(["calibrate", "ranges", str(points), "--write", str(tmp_path / "none")]) == 2
