"""The accuracy page and the performance page: complete, made from what was measured, and small."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from ridgeline.calibrate import reasons
from ridgeline.calibrate.page import Stamp, page
from ridgeline.calibrate.plot import svg
from ridgeline.calibrate.published import PublishedRun, read_published
from ridgeline.calibrate.remedies import TRIED, misses
from ridgeline.calibrate.scoreboard import Row, Scoreboard, validate
from ridgeline.predict import train

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def held() -> list[tuple[PublishedRun, Row]]:
    """Every third published run with its prediction."""
    runs = read_published()[::3]
    return list(zip(runs, validate([run.case for run in runs], train).rows, strict=True))


@pytest.fixture(scope="module")
def text(held: list[tuple[PublishedRun, Row]]) -> str:
    board = Scoreboard(tuple(row for _, row in held))
    return page(board, held, Stamp("2026-01-02", "the command", "images/accuracy.svg"))


def test_page_shows_every_published_run_and_every_miss(
    text: str, held: list[tuple[PublishedRun, Row]]
) -> None:
    for run, row in held:
        assert f"`{run.case.id}`" in text
        if not abs(row.rel_err) <= run.tolerance:
            assert f"- `{run.case.id}`" in text
    assert "2026-01-02" in text
    assert "the command" in text


def test_tables_of_the_page_are_whole(text: str) -> None:
    tables = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    assert len(tables) > 10
    for table in tables:
        columns = {line.replace("\\|", "").count("|") for line in table.strip().splitlines()}
        assert len(columns) == 1, table
    assert "nan" not in text.lower().replace("nanoseconds", "").split()


def test_a_row_that_is_not_predicted_is_counted(held: list[tuple[PublishedRun, Row]]) -> None:
    lost = dataclasses.replace(held[0][1], status="not predicted: a reason", predicted_s=float("nan"))
    board = Scoreboard((lost, *(row for _, row in held[1:])))
    words = page(board, held, Stamp("today", "command", "picture.svg"))
    assert "1 not: a reason (1)" in words


def test_picture_is_small_and_well_formed(held: list[tuple[PublishedRun, Row]]) -> None:
    picture = svg([row for _, row in held])
    assert len(picture) < 100_000
    root = ElementTree.fromstring(picture)
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme:dark" in picture
    with pytest.raises(ValueError, match="no predicted row"):
        svg([])


def test_every_miss_that_stays_had_three_remedies_with_figures(text: str) -> None:
    for miss in misses():
        assert len(miss.remedies) >= TRIED, miss.what
        for remedy in miss.remedies:
            assert re.search(r"\d", remedy.figures), remedy.change
            assert remedy.change in text


def test_reasons_are_told_from_conditions_not_from_names() -> None:
    source = inspect.getsource(reasons)
    assert not re.search(r"case\.(id|model|source|group|family)\b", source)
    words = [one.words for one in reasons.REASONS]
    assert len(set(words)) == len(words)


# Performance


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/machine.py`, with its folder on the path as for a script."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("machine")


def test_figures_say_whether_they_meet_their_target(benchmark: ModuleType) -> None:
    prediction = importlib.import_module("prediction")
    figures = prediction.figures(repeats=1)
    assert len(figures) == 4
    assert all(figure.value.endswith(" ms") for figure in figures)
    assert {figure.met for figure in figures if figure.target} <= {True, False}
    assert "cores" in benchmark.machine()


def test_performance_page_has_a_row_for_every_figure(benchmark: ModuleType) -> None:
    sys.modules.pop("page", None)
    writer = importlib.import_module("page")
    figure = benchmark.Figure("a name", "1 s", "under 2 s", met=True)
    words = writer.page({part: [figure] for part in writer.PARTS}, "2026-01-02")
    assert words.count("| a name | 1 s | under 2 s | met |") == len(writer.PARTS)
    assert benchmark.machine() in words
