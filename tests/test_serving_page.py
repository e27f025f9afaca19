"""The page on the accuracy of serving: complete, made from what was measured, and honest about misses."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from ridgeline.calibrate.remedies import misses
from ridgeline.calibrate.serving.beside import REMEDIES
from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.contradictions import asked, contradictions, mislabelled
from ridgeline.calibrate.serving.page import Stamp, page
from ridgeline.calibrate.serving.plot import scatter_svg
from ridgeline.calibrate.serving.reasons import Reasons
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow
from ridgeline.calibrate.serving.targets import Verdict, verdicts
from ridgeline.facts import catalog
from ridgeline.facts.parameters import matmul_parameters_per_token

GENERATOR = Path(__file__).parent.parent / "docs" / "gen_serving_accuracy.py"
COLUMNS = (
    "id,source,model,layers,hidden,heads,kv_heads,head_dim,ffn,vocab,chip,n_chips,engine,date_or_version,precision,tp,"
    "isl,osl,concurrency,ttft_ms,tpot_ms,quality,group,family,split"
)
SHAPE = "llama-3.1-8b,32,4096,32,8,128,14336,128256"
POINTS = [
    f"a,lab,{SHAPE},h100-sxm,1,vllm,2026-01,bf16,1,1024,256,8,60,9.5,A,g1,f,fit",
    f"b,lab,{SHAPE},h100-sxm,1,vllm,2026-01,bf16,1,2048,256,16,90,11,A,g2,f,test-config",
    f"c,lab,{SHAPE},h100-sxm,1,vllm,2026-01,bf16,1,512,256,,90,11,A,g3,f,test-family",
]

CASE = ServingCase(
    id="one", model="llama-3.1-8b", layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, ffn=14336,
    vocab=128256, chip="h100-sxm", engine="vllm", date="2026-01", tp=1, isl=8000.0, osl=100.0, concurrency=64.0,
    ttft_s=0.1, tpot_s=0.01, split="test-family", group="g", family="f",
)  # fmt: skip


def row(case: ServingCase = CASE, predicted: float = 0.02) -> ServingRow:
    return ServingRow(
        case, "tpot", case.tpot_s or 1.0, "ok", predicted, predicted / 2, predicted * 2, "middle", "vllm"
    )


def test_a_point_that_asks_for_more_than_its_chip_has_is_named_with_its_sum() -> None:
    found = asked(CASE)
    assert found is not None
    assert found.requests_per_s == pytest.approx(64 / (0.1 + 100 * 0.01))
    weights = matmul_parameters_per_token(catalog.architecture("llama-3.1-8b"))
    assert found.flops_per_s == pytest.approx(found.requests_per_s * 8100 * 2 * weights)
    assert found.share > 1
    board = ServingBoard((row(),))
    assert [one.case.id for one, _ in contradictions(board.headline)] == ["one"]
    text = page(board, [], Stamp("2026-01-02", "the command", "x.svg"))
    assert "## Points that contradict themselves" in text
    assert "58.2 requests/s" in text
    assert "1" in text.split("unseen families | ")[1], "the row stays in the scores"


def test_a_point_that_can_be_true_is_not_named() -> None:
    assert asked(dataclasses.replace(CASE, concurrency=None)) is None
    assert contradictions([row(dataclasses.replace(CASE, concurrency=2.0))]) == []


def test_reasons_come_from_the_facts_of_a_row() -> None:
    slow = dataclasses.replace(CASE, concurrency=2.0)
    again = dataclasses.replace(slow, tpot_s=0.02)
    reasons = Reasons.of([row(slow), row(again)])
    assert reasons.words(row(slow)) == "repeats of this very configuration are 2.0 times apart"
    assert "client unknown" in Reasons.of([row(slow)]).words(row(slow))
    assert Reasons.of([row()]).words(row()).startswith("contradicts itself")
    denied = dataclasses.replace(slow, speculative="mtp", notes="FP8 non-MTP")
    assert mislabelled(denied)
    assert not mislabelled(dataclasses.replace(denied, notes="FP8 + MTP"))


@pytest.mark.parametrize(
    ("reached", "at_least", "met"),
    [
        (0.08, False, True),
        (-0.081, False, False),
        (None, False, None),
        (0.9, True, True),
        (0.07, True, False),
    ],
)
def test_a_target_is_met_missed_or_not_judged(
    reached: float | None, at_least: bool, met: bool | None
) -> None:
    assert Verdict("x", "y", "1", reached, 0.08, at_least).met is met


def test_targets_are_judged_on_test_shares_alone() -> None:
    fit = dataclasses.replace(CASE, split="fit", id="two")
    board = ServingBoard((row(), row(fit, 99.0)))
    found = {(one.what, one.where): one for one in verdicts(board)}
    assert found["TPOT, dense: median", "unseen families"].reached == pytest.approx(1.0)
    assert all(where == "unseen families" for _, where in found)


def test_generator_writes_page_and_pictures(tmp_path: Path) -> None:
    points = tmp_path / "points.csv"
    points.write_text("\n".join([COLUMNS, *POINTS]) + "\n", encoding="utf-8")
    run = tmp_path / "H100SXM_Llama-3.1-8B"
    run.mkdir()
    (run / "meta.json").write_text(
        json.dumps({"model": "meta-llama/Llama-3.1-8B", "vllm_version": "0.19", "engine_kwargs": {}}),
        encoding="utf-8",
    )
    lines = [
        {
            "input_toks": 200 + i, "output_toks": 50, "arrival_time": 1e9 + i, "queued_ts": 5.0 + i,
            "scheduled_ts": 5.0 + i, "first_token_ts": 5.05 + i, "last_token_ts": 5.5 + i,
        }
        for i in range(8)
    ]  # fmt: skip
    (run / "requests.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    (run / "timeseries.csv").write_text(
        "t,running,waiting\n" + "".join(f"{t},1,0\n" for t in range(9)), encoding="utf-8"
    )
    spec = importlib.util.spec_from_file_location("gen_serving_accuracy", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    out = tmp_path / "serving-accuracy.md"
    generator.main([str(points), str(run), "--out", str(out), "--date", "2026-01-02"])
    text = out.read_text(encoding="utf-8")
    for words in (
        "2026-01-02",
        "## Targets",
        "## Replays of whole runs",
        "0 of 1",
        "host_launch",
        "AIConfigurator",
    ):
        assert words in text
    pictures = sorted((tmp_path / "images").glob("serving-*.svg"))
    assert len(pictures) == 2
    for picture in pictures:
        assert f"images/{picture.name}" in text
        ElementTree.fromstring(picture.read_text(encoding="utf-8"))
        assert "nan" not in picture.read_text(encoding="utf-8")


def test_scatter_needs_a_predicted_point() -> None:
    with pytest.raises(ValueError, match="no predicted point"):
        scatter_svg([dataclasses.replace(row(), status="not predicted: x", predicted=np.nan)])


def test_every_remedy_has_figures() -> None:
    for miss in misses(REMEDIES):
        assert miss.remedies
        assert all(remedy.figures for remedy in miss.remedies)
