"""The report shows the prediction's own numbers, loads nothing, and escapes every text."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import report_fixture as fixture
from ridgeline import report, units
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.metrics import Rung
from ridgeline.report import figures, gantt, inputs, numerals, points, tables, theme
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.sim.timeline import simulate

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements and attributes of a page, and the text of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts.append((self.elements[-1][1], data))

    def figure(self, key: str) -> dict[str, Any]:
        raw = "".join(text for attrs, text in self.scripts if attrs.get("id") == f"data-{key}")
        return json.loads(raw)


def full_page(**changes: Any) -> str:
    return report.page(fixture.prediction(**changes), **fixture.parts())


# Numerals


@pytest.mark.parametrize(
    ("value", "words"),
    [(4.934, "4.93"), (53.04, "53.0"), (9.996, "10.0"), (1204.4, "1,204"), (0.0123, "0.0123"),
     (-0.5, "-0.500"), (0.0, "0"), (2.5e-6, "2.50e-06"), (math.inf, "inf")],
)  # fmt: skip
def test_significant_digits_never_round_a_number_away(value: float, words: str) -> None:
    assert numerals.significant(value) == words


def test_signed_percent_carries_its_sign() -> None:
    assert numerals.signed_percent(-0.27) == f"{numerals.MINUS}27 %"
    assert numerals.signed_percent(0.013) == "+1.3 %"
    assert numerals.count(15.6e12) == "15.6T"


# Figures


def test_the_waterfall_bars_sum_to_the_step_and_each_starts_where_the_last_ended() -> None:
    prediction = fixture.prediction()
    causes, result = report.figure(prediction, "ladder")["data"]
    assert causes["x"] == [rung.seconds for rung in prediction.ladder]
    assert math.fsum(causes["x"]) == pytest.approx(prediction.step_time_s)
    for start, width, following in zip(causes["base"], causes["x"], causes["base"][1:], strict=False):
        assert start + width == pytest.approx(following)
    assert result["x"] == [prediction.step_time_s]
    low = result["x"][0] - result["error_x"]["arrayminus"][0]
    high = result["x"][0] + result["error_x"]["array"][0]
    assert (low, high) == pytest.approx((prediction.step_time_low_s, prediction.step_time_high_s))


def test_a_rung_that_saves_time_has_its_own_colour() -> None:
    rungs = (Rung("ideal", 5.0), Rung("overlap", -0.07))
    causes = report.figure(fixture.prediction(ladder=rungs), "ladder")["data"][0]
    assert causes["marker"]["color"][1] == theme.colour("green")
    assert f"{numerals.MINUS}0.07 s" in report.ladder_text(fixture.prediction(ladder=rungs))


def test_roofline_dots_stand_at_the_operators_intensity_and_rate() -> None:
    prediction = fixture.prediction()
    data = report.figure(prediction, "roofline")["data"]
    dots = [trace for trace in data if "markers" in trace["mode"]]
    shown = [op for op in prediction.operators if op.flops]
    found = sorted(
        (x, y, size)
        for trace in dots
        for x, y, size in zip(trace["x"], trace["y"], trace["marker"]["size"], strict=True)
    )
    assert found == sorted((op.flops / op.bytes, op.flops / op.seconds, op.seconds) for op in shown)
    chip = prediction.scenario.chip
    memory, compute = [trace for trace in data if trace["mode"] == "lines"]
    assert [y / x for x, y in zip(memory["x"], memory["y"], strict=True)] == pytest.approx(
        [chip.memory.bandwidth] * 2
    )
    assert compute["y"] == [chip.matrix["bf16"]] * 2
    assert memory["y"][1] == compute["y"][0]  # the roofs meet at the ridge


def test_roofline_without_operators_still_shows_the_chip() -> None:
    data = report.figure(fixture.prediction(operators=()), "roofline")["data"]
    assert {trace["mode"] for trace in data} == {"lines"}


def test_memory_bars_stack_to_the_stage_and_the_line_is_the_capacity() -> None:
    prediction = fixture.prediction()
    drawn = report.figure(prediction, "memory")
    for stage in range(fixture.STAGES):
        expected = math.fsum(values[stage] for values in prediction.memory.values()) / 1e9
        assert math.fsum(bar["y"][stage] for bar in drawn["data"]) == pytest.approx(expected)
    assert drawn["layout"]["shapes"][0]["y0"] == prediction.memory_capacity_bytes / 1e9
    assert drawn["layout"]["shapes"][0]["line"]["color"] == theme.colour("ink")
    short = report.figure(fixture.prediction(memory_capacity_bytes=40e9), "memory")
    assert short["layout"]["shapes"][0]["line"]["color"] == theme.colour("red")


def test_an_unknown_figure_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown figure 'pie'; choose from ladder, roofline, memory"):
        report.figure(fixture.prediction(), "pie")


def test_figures_are_plain_json() -> None:
    prediction = fixture.prediction()
    for kind in figures.FIGURES:
        drawn = report.figure(prediction, kind)
        assert json.loads(json.dumps(drawn, allow_nan=False)) == drawn


def test_the_gantt_draws_every_block_of_a_small_timeline() -> None:
    rows = fixture.timeline()
    drawn = gantt.pipeline_gantt(rows)
    assert sum(len(trace["x"]) for trace in drawn["data"]) == len(rows)
    busy = math.fsum(math.fsum(trace["x"]) for trace in drawn["data"])
    assert busy == pytest.approx(math.fsum(row.end_s - row.start_s for row in rows), rel=1e-4)
    assert [trace["name"] for trace in drawn["data"]] == ["forward", "backward", "gradient reduce-scatter"]
    assert gantt.pipeline_gantt(SimpleNamespace(rows=rows)) == drawn


def test_the_gantt_of_a_large_timeline_stays_small_and_keeps_the_shares() -> None:
    rows = fixture.timeline(micro_batches=256, chunks=6)
    assert len(rows) > 8 * gantt.MAX_BLOCKS
    drawn = gantt.pipeline_gantt(rows)
    assert len(json.dumps(drawn, separators=(",", ":"))) < 2e6
    kinds = {trace["name"]: trace for trace in drawn["data"]}
    for name, kind in (("forward", "F"), ("backward", "BW")):
        cells = [share for lane in kinds[name]["z"] for share in lane if share is not None]
        seconds = len(cells) * kinds[name]["dx"]
        assert seconds == pytest.approx(
            math.fsum(row.end_s - row.start_s for row in rows if row.kind == kind), rel=0.02
        )


def test_the_gantt_table_adds_up_to_the_step() -> None:
    rows = fixture.timeline()
    end = max(row.end_s for row in rows)
    for line in gantt.gantt_sheet(rows).rows:
        assert math.fsum(float(cell) for cell in line[2:-2]) == pytest.approx(end, abs=0.003)


def test_two_resources_share_the_lane_of_a_stage() -> None:
    rows = [
        report.Block(3, "network", "send", "send", 0, 0, 0.1, 0.2),
        report.Block(3, "compute", "forward 0", "F", 0, 0, 0.0, 0.1),
        report.Block(3, "compute", "nothing", "F", 0, 0, 0.1, 0.1),
    ]
    forward, send = gantt.pipeline_gantt(rows)["data"]
    assert len(forward["x"]) == 1  # what takes no time is not drawn
    assert forward["y"][0] + forward["width"][0] / 2 <= send["y"][0] - send["width"][0] / 2
    assert round(forward["y"][0]) == round(send["y"][0]) == 3  # the hover shows the rounded lane


def test_overlapping_blocks_count_once_in_the_busy_time() -> None:
    rows = [
        report.Block(0, "compute", "forward 1", "F+", 1, 0, 0.0, 0.2),
        report.Block(0, "compute", "backward 0", "BW", 0, 0, 0.0, 0.2),
        report.Block(0, "compute", "forward 2", "F", 2, 0, 0.3, 0.4),
    ]
    assert gantt.gantt_sheet(rows).rows[0][-3:] == ("0.100", "75.0 %", "3")
    drawn = gantt.pipeline_gantt(rows)["data"]
    assert drawn[-1]["name"] == "forward"  # the half-height forward lies over its backward
    assert sorted(drawn[-1]["width"]) == pytest.approx([0.43, 0.86])


def test_overlapping_blocks_leave_no_trace_behind_them() -> None:
    shares = [[1.0] * 50 + [0.0] * 50, [1.0] * 50 + [0.0] * 50]
    winners = gantt._winners(shares, 100)
    assert sorted(set(winners[:50])) == [0, 1]
    assert set(winners[51:]) == {2}


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zb-h1", "zb-v", "dualpipe"])
@pytest.mark.parametrize("dense", [False, True])
def test_simulated_timelines_of_every_schedule_are_drawn(
    schedule: str, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ones = np.ones(4)
    costs = StageCosts(forward_s=ones, input_grad_s=ones, weight_grad_s=ones, send_s=0.05)
    simulated = simulate(schedule, costs, 16, 4, 2)
    if dense:
        monkeypatch.setattr(gantt, "MAX_BLOCKS", 10)
    drawn = gantt.pipeline_gantt(simulated)
    assert {trace["type"] for trace in drawn["data"]} == {"heatmap" if dense else "bar"}
    assert {"forward", "send"} <= {trace["name"] for trace in drawn["data"]}
    json.dumps(drawn, allow_nan=False)
    assert len(gantt.gantt_sheet(simulated).rows) == 8  # four stages, compute and link


def test_the_frontier_holds_the_plans_that_no_other_beats() -> None:
    cloud = fixture.candidates()
    edge = points.frontier(cloud)
    for point in edge:
        assert not any(
            other.step_time_s < point.step_time_s and other.peak_memory_bytes <= point.peak_memory_bytes
            for other in cloud
        )
    drawn = figures.pareto(cloud, edge[0], 80e9)
    assert drawn["data"][0]["y"] == [point.step_time_s for point in cloud]
    assert drawn["data"][1]["y"] == [point.step_time_s for point in edge]
    many = figures.pareto(fixture.candidates(10_000))
    assert len(many["data"][0]["x"]) <= figures.MAX_POINTS


def test_what_a_search_returns_becomes_points() -> None:
    assert points.as_point((fixture.PLAN, 4.93, 73e9)) == report.PlanPoint(
        4.93, 73e9, "tp 8, pp 16, vpp 4, dp 128, mbs 1, interleaved, ZeRO 1"
    )
    assert points.as_point(fixture.prediction()).step_time_s == 4.93
    edge = points.frontier(fixture.candidates())
    assert [trace["name"] for trace in figures.pareto(edge)["data"]] == ["frontier"]


def test_sensitivity_bars_show_the_changes_in_percent_best_first() -> None:
    bars = figures.sensitivity_bars(fixture.effects())["data"][0]
    assert bars["x"] == sorted(100.0 * effect.change for effect in fixture.effects())


def test_light_and_dark_colours_pair_one_to_one() -> None:
    assert theme.LIGHT.keys() == theme.DARK.keys()
    assert len(theme.twins()) == len(theme.LIGHT)
    assert set(theme.CYCLE) <= theme.LIGHT.keys()


def _brightness(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("colours", [theme.LIGHT, theme.DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_the_paper(colours: dict[str, str]) -> None:
    paper = _brightness(colours["paper"])
    for name in ("ink", "muted", *theme.CYCLE):
        mark = _brightness(colours[name])
        contrast = (max(paper, mark) + 0.05) / (min(paper, mark) + 0.05)
        assert contrast >= (4.5 if name in ("ink", "muted") else 3.0), name


# Tables


def test_the_headline_names_model_machine_and_software() -> None:
    words = report.headline(fixture.prediction())
    for part in (
        "Llama 3.1 405B on 16,384 x H100 SXM",
        "2,048 nodes of 8",
        "450 GB/s",
        "megatron-lm-2024",
        "bf16",
    ):
        assert part in words
    assert report.answer(fixture.prediction()).startswith("4.93 s a step (4.70 to 5.30), 41.2 % MFU")
    assert "53.1 days for 15.6T tokens" in report.answer(fixture.prediction())


def test_a_plan_that_does_not_fit_says_what_it_needs() -> None:
    words = report.plan_table(fixture.plans())
    assert "#6 needs 96.3 GB of 80.0" in words
    assert " 96.3!" in words
    assert "does not fit" in report.answer(fixture.plans()[-1])


def test_plan_columns_follow_the_plans() -> None:
    dense = tables.plan_sheet([fixture.prediction()]).columns
    assert "ep" not in dense
    experts = tables.plan_sheet([fixture.prediction(Plan(ep=8, dp=128))])
    assert "ep" in experts.columns
    assert "etp" not in experts.columns
    without = tables.plan_sheet([fixture.prediction(days=None)]).columns
    assert "days" not in without
    assert "MWh" not in without


def test_a_grid_of_plans_is_refused() -> None:
    grid = PlanGrid.of([Plan(), Plan()])
    prediction = fixture.prediction()
    many = replace(prediction, scenario=prediction.scenario.replace(plan=grid))
    with pytest.raises(ValueError, match="one plan, got a grid of 2"):
        report.plan_table([many])
    with pytest.raises(ValueError, match="one plan, got a grid of 2"):
        report.page(many)


def test_the_ladder_text_adds_up() -> None:
    lines = report.ladder_text(fixture.prediction()).splitlines()
    values = [float(re.search(r"(\d+\.\d+) s", line)[1]) for line in lines[1:-1]]  # type: ignore[index]
    assert math.fsum(values[:-1]) == pytest.approx(values[-1], abs=0.01)
    assert all(len(str(value).split(".")[1]) <= 2 for value in values)
    assert lines[1].count("#") == tables.BAR_WIDTH
    assert "kernels fitted" in lines[-1]


def test_memory_and_the_whole_table_are_text() -> None:
    words = report.memory_table(fixture.prediction())
    assert "activations" in words
    assert f"peak {fixture.prediction().peak_memory_bytes / 1e9:.1f} of 80.0 GB: fits" in words
    assert "too much" in report.memory_table(fixture.prediction(memory_capacity_bytes=40e9))
    alike = fixture.prediction(memory={"weights": [1e9, 2e9, 2e9, 2e9, 1e9]})
    assert [row[0] for row in tables.memory_sheet(alike).rows] == ["0", "1–3", "4"]
    everything = report.table(fixture.prediction())
    assert "Where the step goes" in everything
    assert "note: Failures" in everything


def test_columns_of_a_sheet_are_aligned() -> None:
    lines = tables.plan_sheet(fixture.plans()).text().splitlines()
    ends = {line.index("%", line.index("–") if "–" in line else 0) for line in lines[1:]}
    assert len(ends) == 1


def test_inputs_carry_their_sources_and_labels() -> None:
    sheets = inputs.input_sheets(fixture.prediction())
    chip = fixture.prediction().scenario.chip
    assert (
        "bf16 matrix rate",
        units.show(chip.matrix["bf16"], "FLOP/s", 4),
        chip.source["default"],
    ) in sheets[f"Chip: {chip.title}"].rows
    assert all(source for sheet in sheets.values() for *_, source in sheet.rows)
    assert ("gemm, bf16", "fitted", "2,400", "5.5 %", "14.0 %") in [
        row[:5] for row in sheets["Calibration"].rows
    ]


def test_published_results_stand_beside_the_prediction() -> None:
    row = inputs.published_sheet(fixture.prediction(), fixture.published()).rows[0]
    assert row[2:5] == ("0.410", "0.412", "+0.4 %")
    unknown = [fixture.published()[0].model_copy(update={"metric": "loss"})]
    assert inputs.published_sheet(fixture.prediction(), unknown).rows[0][3:5] == ("", "")


# Page


def test_the_page_loads_nothing_from_anywhere() -> None:
    source = full_page()
    parsed = Page(source)
    for tag, attributes in parsed.elements:
        assert "src" not in attributes, tag
        assert "href" not in attributes, tag
        assert tag not in ("link", "iframe", "img", "object", "embed", "base"), tag
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(attributes for tag, attributes in parsed.elements if "http-equiv" in attributes)["content"]
    assert "default-src 'none'" in (policy or "")


def test_the_figures_on_the_page_are_those_of_the_prediction() -> None:
    parsed = Page(full_page())
    assert parsed.figure("ladder") == report.figure(fixture.prediction(), "ladder")
    assert parsed.figure("memory") == report.figure(fixture.prediction(), "memory")
    boxes = [attributes["data-figure"] for _, attributes in parsed.elements if "data-figure" in attributes]
    assert boxes == ["ladder", "roofline", "pipeline", "memory", "pareto", "sensitivity"]


def test_a_page_of_a_bare_prediction_leaves_out_what_it_does_not_know() -> None:
    parsed = Page(report.page(fixture.prediction(operators=(), notes=(), labels={})))
    boxes = [attributes["data-figure"] for _, attributes in parsed.elements if "data-figure" in attributes]
    assert boxes == ["ladder", "memory"]


def test_hostile_names_stay_text() -> None:
    prediction = fixture.prediction()
    architecture = prediction.scenario.architecture.model_copy(update={"title": HOSTILE})
    hostile = replace(
        prediction,
        scenario=prediction.scenario.replace(architecture=architecture),
        ladder=(Rung(HOSTILE, prediction.step_time_s),),
        notes=(HOSTILE,),
        labels={HOSTILE: HOSTILE},
        operators=tuple(replace(op, name=HOSTILE, kind=HOSTILE) for op in prediction.operators),
        memory={HOSTILE: [1e9]},
    )
    blocks = [replace(block, name=HOSTILE, kind=HOSTILE) for block in fixture.timeline()[:3]]
    source = report.page(
        hostile,
        plans=[hostile],
        pareto=[report.PlanPoint(1.0, 1e9, HOSTILE)],
        timeline=blocks,
        sensitivities=[report.Effect(HOSTILE, 0.1, HOSTILE)],
        command=HOSTILE,
        version=HOSTILE,
        catalog_hash=HOSTILE,
    )
    assert source.count("alert(1)") > 10
    assert "<script>alert" not in source
    assert "<img" not in source.replace(report.page(prediction), "")
    scripts = [attributes for tag, attributes in Page(source).elements if tag == "script"]
    assert len([attributes for attributes in scripts if "type" not in attributes]) == 2
    assert all("<script>" not in text for text in (report.html(hostile), report.html(prediction)))


def test_write_report_makes_the_folder_and_returns_the_path(tmp_path: Path) -> None:
    path = report.write_report(tmp_path / "new" / "report.html", fixture.prediction(), version="0.1.0")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert path.stat().st_size < 8e6


def test_the_notebook_fragment_is_small_and_has_no_script() -> None:
    fragment = report.html(fixture.prediction())
    assert len(fragment) < 8000
    assert "<script" not in fragment
    assert "4.93 s a step" in fragment
