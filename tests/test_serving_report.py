"""The serving report shows the numbers it is given, loads nothing, escapes every text, and leaves out what is empty."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving_report_fixture as fixture
from ridgeline.report import numerals, serving_figures, theme
from ridgeline.report.serving_page import (
    ServingReport,
    metric_sheet,
    serving_page,
    steps_sheet,
    write_serving_report,
)
from ridgeline.report.serving_parts import ChipMemory, Latency, State, StepBlock, metric_of

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
KEYS = [
    "latency-ttft", "latency-tpot", "latency-e2e", "front", "state", "timeline", "step", "sensitivity", "memory",
]  # fmt: skip


class Page(HTMLParser):
    """Elements and attributes of a page, and the text of its scripts."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            key = self.elements[-1][1].get("id")
            self.scripts[key] = self.scripts.get(key, "") + data

    def figures(self) -> list[str]:
        return [attrs["data-figure"] or "" for _, attrs in self.elements if "data-figure" in attrs]


# The page


def test_the_page_has_every_part_once_and_each_figure_a_table() -> None:
    source = serving_page(fixture.report())
    page = Page(source)
    assert page.figures() == KEYS
    for key in KEYS:
        figure = json.loads(page.scripts[f"data-{key}"])
        assert figure["data"]
        section = source.split(f'<section id="{key}">', 1)[1].split("</section>", 1)[0]
        assert section.count("<table>") == 1
        for trace in figure["data"]:
            assert trace.get("hovertemplate"), key
    for words in ("98.3 % of 24.0 meet both SLOs", "3,120 considered", "ridgeline serve deepseek-v3"):
        assert words in source


def test_the_page_fetches_nothing() -> None:
    page = Page(serving_page(fixture.report()))
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "object", "embed"), tag
        assert not {"src", "href"} & attrs.keys(), (tag, attrs)
    policies = [attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv")]
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'")


def test_what_is_empty_is_left_out() -> None:
    source = serving_page(ServingReport(title="t", headline="h", answer="a"))
    page = Page(source)
    assert page.figures() == []
    ids = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert ids == []
    nothing = Latency(name="TTFT", title="", values_s=[math.nan, math.nan])
    still = State(times_s=[], running=[], waiting=[], kv_share=[])
    empty = serving_page(fixture.report(latencies=[nothing], state=still, ladder=[("nothing", 0.0)]))
    assert Page(empty).figures() == ["front", "timeline", "sensitivity", "memory"]


def test_every_text_is_escaped() -> None:
    hostile = fixture.report(
        title=HOSTILE,
        headline=HOSTILE,
        answer=HOSTILE,
        plan=HOSTILE,
        notes=[HOSTILE],
        ladder=[(HOSTILE, 1.0)],
        latencies=[Latency(name=HOSTILE, title=HOSTILE, values_s=[1.0, 2.0], slo_s=1.5)],
        steps=[StepBlock(HOSTILE, HOSTILE, 0.0, 1.0, 5)],
        memory=[ChipMemory(name=HOSTILE, capacity_bytes=1e9, parts={HOSTILE: 1.0})],
        command=HOSTILE,
    )
    source = serving_page(hostile)
    assert "<img" not in source.replace(serving_page(fixture.report()), "")
    plain = re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL)
    assert "alert(1)</script>" not in plain


def test_the_page_is_written_where_asked(tmp_path: Path) -> None:
    path = write_serving_report(tmp_path / "deep" / "serving.html", fixture.report())
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert path.stat().st_size < 6_500_000


# Figures


def test_a_distribution_passes_through_its_percentiles() -> None:
    latency = fixture.latencies()[0]
    line, dots = serving_figures.latency_cdf(latency)["data"]
    assert line["y"][0] == 0.0
    assert line["y"][-1] == 100.0
    assert line["x"] == sorted(line["x"])
    expected = np.nanpercentile(np.asarray(latency.values_s), serving_figures.MARKS) * 1e3
    assert dots["x"] == pytest.approx(list(expected), rel=1e-5)
    assert len(line["x"]) <= serving_figures.CDF_POINTS
    assert latency.within == np.count_nonzero(latency.finite <= 1.0) / fixture.REQUESTS


def test_the_slo_stands_at_its_place_on_both_kinds_of_axes() -> None:
    near = Latency(name="TPOT", title="", values_s=np.linspace(0.01, 0.02, 50), slo_s=0.015)
    layout = serving_figures.latency_cdf(near)["layout"]
    assert layout["xaxis"].get("type") != "log"
    assert layout["shapes"][0]["x0"] == layout["annotations"][-1]["x"] == pytest.approx(15.0)
    wide = Latency(name="TTFT", title="", values_s=np.logspace(-2, 2, 50), slo_s=10.0)
    layout = serving_figures.latency_cdf(wide)["layout"]
    assert layout["xaxis"]["type"] == "log"
    scale = 1e3 if float(np.median(wide.finite)) < 1 else 1.0
    assert layout["annotations"][-1]["x"] == pytest.approx(math.log10(10.0 * scale))
    assert layout["shapes"][0]["x0"] == pytest.approx(10.0 * scale)


def test_one_request_is_still_a_distribution() -> None:
    line, dots = serving_figures.latency_cdf(Latency(name="E2E", title="", values_s=[2.0]))["data"]
    assert set(line["x"]) == {2.0}
    assert dots["text"][0] == "P50 2.00"


def test_fronts_are_joined_by_kind_and_drawn_whole() -> None:
    data = serving_figures.points_front(fixture.points())["data"]
    named = {trace["name"]: trace for trace in data}
    assert set(named) == {
        "aggregated", "aggregated, front", "disaggregated", "disaggregated, front", "this deployment",
    }  # fmt: skip
    for kind in ("aggregated, front", "disaggregated, front"):
        assert len(named[kind]["x"]) == 14
        assert named[kind]["x"] == sorted(named[kind]["x"])
    assert len(named["this deployment"]["x"]) == 1


def test_a_long_series_keeps_its_peak() -> None:
    times = np.arange(100_000) / 100.0
    waiting = np.zeros(times.size)
    waiting[54_321] = 77.0
    found = State(times_s=times, running=waiting, waiting=waiting, kv_share=waiting / 100.0)
    at, _, peak, share = serving_figures.binned(found, 500)
    assert at.size <= 500
    assert peak.max() == 77.0
    assert share.max() == 0.77
    running = serving_figures.state_over_time(fixture.state())["data"][0]
    assert len(running["x"]) <= serving_figures.TIME_BINS


def test_rungs_of_a_step_sum_to_it() -> None:
    causes, whole = serving_figures.step_ladder(fixture.LADDER)["data"]
    assert math.fsum(causes["x"]) == pytest.approx(whole["x"][0])
    for start, width, following in zip(causes["base"], causes["x"], causes["base"][1:], strict=False):
        assert start + width == pytest.approx(following)
    saved = causes["y"].index("two-batch overlap")
    assert causes["marker"]["color"][saved] == theme.colour("green")
    assert causes["text"][saved].startswith(f"{numerals.MINUS}1.2 ms")
    assert whole["text"] == ["21.0 ms"]


def test_every_step_has_its_bar_on_its_engines_lane() -> None:
    steps = fixture.steps()
    figure = serving_figures.step_gantt(steps)
    assert sum(len(trace["x"]) for trace in figure["data"]) == len(steps)
    assert [trace["name"] for trace in figure["data"]] == ["prefill", "decode", "mixed"]
    assert figure["layout"]["yaxis"]["ticktext"][:3] == ["prefill 0", "prefill 1", "decode 0"]
    sheet = steps_sheet(steps)
    assert len(sheet.rows) == 6
    assert sum(int(row[-1].replace(",", "")) for row in sheet.rows) == sum(step.tokens for step in steps)


def test_a_step_says_what_runs_in_it() -> None:
    step = StepBlock("engine 1", "mixed", 1.0, 1.01, 600, decodes=88, prefills=1)
    assert (
        serving_figures.step_gantt([step])["data"][0]["customdata"][0][2]
        == "600 tokens of 1 prompt and 88 decodes"
    )


def test_every_change_has_a_bar_for_chip_time_and_one_for_tokens() -> None:
    chip, tpot = serving_figures.effect_bars(fixture.EFFECTS)["data"]
    assert chip["x"] == [100.0 * effect.chip for effect in fixture.EFFECTS]
    assert tpot["x"] == [100.0 * effect.tpot for effect in fixture.EFFECTS]
    assert "misses the target of TPOT" in serving_page(fixture.report())


def test_engines_beyond_what_can_be_drawn_are_left_to_the_table() -> None:
    many = [
        StepBlock(f"engine {engine}", "decode", i / 100.0, (i + 1) / 100.0, 1)
        for engine in range(80)
        for i in range(100)
    ]
    figure = serving_figures.step_gantt(many)
    assert len(figure["data"][0]["x"]) == serving_figures.MAX_STEPS
    source = serving_page(fixture.report(steps=many))
    assert "The first 60 engines are drawn; the table has all." in source


def test_memory_is_stacked_against_each_chips_own_capacity() -> None:
    figure = serving_figures.chip_memory(fixture.MEMORY)
    assert [trace["name"] for trace in figure["data"]] == ["weights", "KV cache", "activations", "reserve"]
    assert [shape["x0"] for shape in figure["layout"]["shapes"]] == [141.0, 141.0]
    over = ChipMemory(name="small", capacity_bytes=80e9, parts={"weights": 90e9})
    line = serving_figures.chip_memory([over])["layout"]["shapes"][0]
    assert line["line"]["color"] == theme.colour("red")
    assert "Does not fit: small." in serving_page(fixture.report(memory=[over]))


def test_metrics_are_those_of_the_values() -> None:
    metric = metric_of("TPOT", "ms", [0.01, 0.02, math.nan, 0.03], scale=1e3)
    assert (metric.mean, metric.p50) == pytest.approx((20.0, 20.0))
    row = metric_sheet([metric]).rows[0]
    assert row[:3] == ("TPOT", "ms", numerals.significant(20.0))
    assert len(row) == 7
    with pytest.raises(ValueError, match="no finite value"):
        metric_of("TTFT", "s", [math.nan])


# A real browser


def _missing(what: str) -> None:
    """Skip on a desk, fail where the whole suite is meant to run."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(params=["light", "dark"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Any, list[str], list[str]]]:
    """The page open in one colour scheme, with what the console said and what was asked for."""
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(chromium).exists():
        _missing("no Chromium for the browser test: apt-get install chromium")
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'ridgeline[dev]'")
    path = write_serving_report(tmp_path / "serving.html", fixture.report())
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium,
            args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"],
            color_scheme=request.param,
            viewport={"width": 1280, "height": 900},
        )
        page = browser.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: requests.append(sent.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        yield request.param, page, complaints, requests
        browser.close()


@pytest.mark.browser
def test_the_page_draws_in_both_schemes(opened: tuple[str, Any, list[str], list[str]]) -> None:
    scheme, page, complaints, requests = opened
    colours = theme.DARK if scheme == "dark" else theme.LIGHT
    for key in KEYS:
        assert page.locator(f"[data-figure={key}] svg.main-svg :is(path, image, rect)").count() > 3, key
    assert page.locator("[data-figure=timeline] .bars .point").count() == len(fixture.steps())
    red, green, blue = (int(colours["paper"][i : i + 2], 16) for i in (1, 3, 5))
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == f"rgb({red}, {green}, {blue})"
    wide = page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert wide
    page.set_viewport_size({"width": 420, "height": 900})
    page.wait_for_timeout(600)
    squeezed = "[...document.querySelectorAll('.figure')].filter(box => box.offsetHeight < 200).length"
    assert page.evaluate(squeezed) == 0
    page.locator("#state summary").click()
    assert page.locator("#state table").is_visible()
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert complaints == []
