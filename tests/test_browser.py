"""The report in a real browser: figures draw, tables open, nothing is fetched, in light and dark."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import report_fixture as fixture
from ridgeline import report
from ridgeline.report import theme

pytestmark = pytest.mark.browser

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
FIGURES = ["ladder", "roofline", "memory", "pipeline", "pareto", "sensitivity"]


def missing(what: str) -> None:
    """Skip on a desk, fail where the whole suite is meant to run."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or "/usr/bin/chromium"
    if not Path(path).exists():
        missing("no Chromium for the browser test: apt-get install chromium")
    return path


@pytest.fixture(scope="module")
def report_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write_report(
        tmp_path_factory.mktemp("report") / "report.html",
        fixture.prediction(),
        **fixture.parts(),
    )


@pytest.fixture(params=["light", "dark"])
def opened(
    request: pytest.FixtureRequest, chromium: str, report_path: Path, tmp_path: Path
) -> Iterator[tuple[str, object, list[str], list[str]]]:
    """The page open in one colour scheme, with what the console said and what was asked for."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install 'ridgeline[dev]'")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium,
            args=ARGUMENTS,
            color_scheme=request.param,
            viewport={"width": 1280, "height": 900},
        )
        page = browser.new_page()
        complaints: list[str] = []
        requests: list[str] = []
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda sent: requests.append(sent.url))
        page.goto(report_path.as_uri())
        page.wait_for_selector("html[data-drawn=yes]", timeout=60_000)
        yield request.param, page, complaints, requests
        browser.close()


def test_the_report_draws_and_opens_in_both_schemes(
    opened: tuple[str, object, list[str], list[str]], report_path: Path
) -> None:
    scheme, page, complaints, requests = opened
    colours = theme.DARK if scheme == "dark" else theme.LIGHT

    for key in FIGURES:
        marks = page.locator(f"[data-figure={key}] svg.main-svg :is(path, image, rect)").count()  # type: ignore[attr-defined]
        assert marks > 3, key
    ladder = page.locator("[data-figure=ladder] .bars .point").count()  # type: ignore[attr-defined]
    assert ladder == len(fixture.prediction().ladder) + 1
    blocks = page.locator("[data-figure=pipeline] .bars .point").count()  # type: ignore[attr-defined]
    assert blocks == len(fixture.timeline())

    background = page.evaluate("getComputedStyle(document.body).backgroundColor")  # type: ignore[attr-defined]
    assert background == _rgb(colours["paper"])
    drawn = page.locator("[data-figure=ladder] .main-svg").first.get_attribute("style")  # type: ignore[attr-defined]
    assert _rgb(colours["paper"]) in (drawn or "")

    closed = page.locator("details:not([open]) > summary")  # type: ignore[attr-defined]
    assert closed.count() >= len(FIGURES)
    while closed.count():
        closed.first.click()
    tables = page.locator("details table")  # type: ignore[attr-defined]
    assert all(tables.nth(i).is_visible() for i in range(tables.count()))

    # No sideways scrolling of the page itself, also on a narrow screen.
    for width in (1280, 420):
        page.set_viewport_size({"width": width, "height": 900})  # type: ignore[attr-defined]
        page.wait_for_timeout(300)  # type: ignore[attr-defined]
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # type: ignore[attr-defined]

    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report_path.as_uri()]


def test_hovering_a_bar_shows_its_value(opened: tuple[str, object, list[str], list[str]]) -> None:
    _, page, _, _ = opened
    page.locator("[data-figure=ladder] .bars .point").nth(1).hover(force=True)  # type: ignore[attr-defined]
    page.wait_for_selector("[data-figure=ladder] .hovertext")  # type: ignore[attr-defined]
    words = page.locator("[data-figure=ladder] .hovertext").first.text_content()  # type: ignore[attr-defined]
    assert "GEMM below peak" in words
    assert "0.66 s" in words


def _rgb(colour: str) -> str:
    return f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
