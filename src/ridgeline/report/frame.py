"""Frame: what every report page shares: panels, template, style, script, and the policy that keeps it offline."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ridgeline.report import theme
from ridgeline.report.figures import Figure
from ridgeline.report.sheet import Sheet


@dataclass(frozen=True, slots=True)
class Panel:
    """One figure of the page, the sentence that says how to read it and the table behind it."""

    key: str
    title: str
    lead: str
    figure: Figure
    sheet: Sheet

    @property
    def json(self) -> Markup:
        """The figure as JSON that cannot end its script element."""
        raw = json.dumps(self.figure, allow_nan=False, separators=(",", ":"))
        return Markup(raw.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def render(template: str, **values: Any) -> str:
    """The page of a template that extends the frame, with style, scripts and colours of the house."""
    script, plotly = _resource("page.js"), plotly_script()
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            css=Markup(_style()),
            script=Markup(script),
            plotly=Markup(plotly),
            twins=Markup(json.dumps(theme.twins())),
            policy=_policy(script, plotly),
        )
    )


@functools.cache
def plotly_script() -> str:
    """Plotly's JavaScript, from the installed package."""
    source = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    return source.read_text(encoding="utf-8").replace("\r\n", "\n")


def _style() -> str:
    return (
        _resource("page.css")
        .replace("/* light */", theme.css_variables(theme.LIGHT))
        .replace("/* dark */", theme.css_variables(theme.DARK))
    )


@functools.cache
def _resource(name: str) -> str:
    return (importlib.resources.files("ridgeline.report") / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Only our own two scripts run, and nothing is fetched: the browser holds the page to being offline."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {hashes}"


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("ridgeline.report", package_path=""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
