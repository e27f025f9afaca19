"""Words and tables of the accuracy page: Markdown, percent, seconds, short sources."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from ridgeline.calibrate.cases import Case

#: Shares of the case file as the page calls them, and those that no number was fitted to.
SHARES = {"fit": "fitted on", "test-config": "unseen configurations", "test-family": "unseen families"}
TESTS = ("test-family", "test-config")


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    head = [_line(headers), _line(["---"] * len(headers))]
    return "\n".join([*head, *(_line([cell.replace("|", "\\|") for cell in row]) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def seconds(value: float) -> str:
    """A time in seconds, with three digits."""
    return f"{value:.3g} s"


def percent(value: float | None, *, signed: bool = False) -> str:
    """A share in percent, with one digit below 10."""
    if value is None or not np.isfinite(value):
        return ""
    digits = 1 if abs(value) < 0.0995 else 0
    return f"{100 * value:{'+' if signed else ''}.{digits}f} %"


def short_source(case: Case) -> str:
    """First words of a citation and its arXiv number."""
    number = re.search(r"arXiv:[\d.]+\d", case.source)
    return f"{case.source.split(',')[0].split(': ')[0]}, {number[0]}" if number else case.source
