"""F9: figures as plain Plotly dicts, tables as text and HTML, and one self-contained report page."""

from __future__ import annotations

from ridgeline.report.blocks import Block
from ridgeline.report.effects import Effect
from ridgeline.report.figures import figure
from ridgeline.report.page import html, page, write_report
from ridgeline.report.points import PlanPoint
from ridgeline.report.tables import answer, headline, ladder_text, memory_table, plan_table, table

__all__ = [
    "Block",
    "Effect",
    "PlanPoint",
    "answer",
    "figure",
    "headline",
    "html",
    "ladder_text",
    "memory_table",
    "page",
    "plan_table",
    "table",
    "write_report",
]
