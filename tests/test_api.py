"""The Python surface at work: questions in, frozen results out that print, draw and can be run again."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import ridgeline as rl

JOB = {"on": "h100-sxm", "chips": 8, "batch": 64, "seq": 4096}


@pytest.fixture(scope="module")
def found() -> rl.PlanResult:
    return rl.plan("llama-3.1-8b", **JOB, tokens="1T", top=3)


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'numpy', 'pydantic', 'scipy', 'plotly', 'yaml'}"
    code = f"import sys, ridgeline; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_listed_and_a_wrong_one_is_answered() -> None:
    assert set(rl.__all__) <= set(dir(rl))
    with pytest.raises(AttributeError, match="it has Machine"):
        rl.simulate_everything  # noqa: B018


def test_models_and_clusters_by_name_and_by_file(tmp_path: Path) -> None:
    assert rl.model("Llama-3.1-8B").num_layers == 32
    assert rl.model(rl.model("llama-3.1-8b")) is rl.model("llama-3.1-8b")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "name: tiny\nhidden: 512\nvocab: 32000\nsource: here\n"
        "layers:\n- count: 4\n  mixer: {kind: attention, heads: 8, kv_heads: 8, head_dim: 64}\n"
        "  mlp: {kind: dense, ffn: 1536}\n"
    )
    assert rl.model(path).hidden == 512
    machine = rl.cluster("h100-sxm", chips=16)
    assert (machine.chip.name, machine.chips) == ("h100-sxm", 16)


def test_train_searches_what_is_open_and_keeps_what_is_given(found: rl.PlanResult) -> None:
    best = rl.train("llama-3.1-8b", **JOB, tokens="1T")
    assert best.step_time_s == found.best[0].step_time_s
    given = rl.train("llama-3.1-8b", **JOB, tp=2, pp=1, cp=1, micro_batch=1, zero=1, recompute="full")
    assert (given.scenario.plan.tp, given.scenario.plan.dp) == (2, 4)
    assert given.step_time_s >= best.step_time_s
    whole = rl.train("llama-3.1-8b", **JOB, plan=given.scenario.plan)
    assert whole.step_time_s == given.step_time_s
    assert rl.train(given.scenario).step_time_s == given.step_time_s


def test_machine_carries_its_chips() -> None:
    machine = rl.cluster("h100-sxm", chips=8)
    result = rl.train("llama-3.1-8b", on=machine, batch=64, seq=4096, tp=8, recompute="full")
    assert result.scenario.num_chips == 8


def test_results_are_frozen_and_copy(found: rl.PlanResult) -> None:
    best = found.best[0]
    for result in (best, found):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            result.notes = ()  # type: ignore[misc]
    assert copy.copy(best).step_time_s == best.step_time_s
    assert pickle.loads(pickle.dumps(best)).prediction == best.prediction


def test_results_print_draw_and_dump(found: rl.PlanResult) -> None:
    best = found.best[0]
    for text in (found.table(), best.table(), best.explanation()):
        assert "Where the step goes" in text
    assert "plans considered" in found.table()
    for kind in ("pareto", "ladder", "roofline", "memory", "sensitivity", "pipeline"):
        assert json.dumps(found.figure(kind), allow_nan=False)
    with pytest.raises(ValueError, match="unknown figure 'pie'"):
        best.figure("pie")
    assert "<table" in found._repr_html_()
    assert "<table" in best._repr_html_()
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["step_time_s"] == best.step_time_s
    assert len(values["plans"]) == 3
    assert values["search"]["fit"] <= values["search"]["legal"] <= values["search"]["considered"]
    assert sum(rung["seconds"] for rung in values["ladder"]) == pytest.approx(best.step_time_s)


def test_saved_results_predict_the_same_again(found: rl.PlanResult, tmp_path: Path) -> None:
    best = found.best[0]
    result, report = tmp_path / "result.json", tmp_path / "report.html"
    result.write_text(json.dumps(found.to_dict()))
    found.write_report(report)
    assert rl.explain(result).prediction == best.prediction
    assert rl.explain(report).prediction == best.prediction
    assert rl.explain(found).prediction == best.prediction
    faster = rl.explain(result, settings=["chip.matrix.bf16=2 PFLOP/s"])
    assert faster.step_time_s < best.step_time_s


def test_trace_opens_in_a_viewer(found: rl.PlanResult, tmp_path: Path) -> None:
    path = found.best[0].write_trace(tmp_path / "new" / "trace.json")
    events = json.loads(path.read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X"}


def test_validate_scores_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "model,chip,n_chips,global_batch,seq,tp,micro_batch,framework,date_or_version,step_time_s\n"
        "llama-3.1-8b,h100-sxm,8,128,8192,2,1,NeMo,2024-06,12.0\n"
    )
    board = rl.validate(path)
    assert len(board.rows) == 1
    assert board.rows[0].ok


def test_a_saved_plan_of_unknown_words_is_refused(found: rl.PlanResult, tmp_path: Path) -> None:
    saved = found.best[0].to_dict()
    for name, value in (("recompute", "h100-sxm"), ("schedule", "x"), ("tp", -1), ("zero", 9)):
        saved["scenario"]["plan"] = {**found.best[0].prediction.scenario.plan.to_dict(), name: value}
        path = tmp_path / "result.json"
        path.write_text(json.dumps(saved))
        with pytest.raises(ValueError, match=rf"result\.json: plan: {name} = "):
            rl.explain(path)
