"""Fitted numbers into the files of engines, which keep their words, order and comments."""

from __future__ import annotations

import re
from pathlib import Path

from ridgeline import files
from ridgeline.calibrate.serving.fit import NUMBERS, EngineFit

_UNITS = {row[0]: row[1] for row in NUMBERS}
#: Below this in its unit a number stands at its lower bound of nothing.
NONE = 1e-3
_LINE = r"^{name}:[^#\n]*?(?P<note>[ \t]*#.*)?$"


def write(fits: list[EngineFit], directory: Path) -> list[Path]:
    """Rewrite the numbers of each engine in ``directory/engines`` -> the files written.

    Raises:
        OSError: a file cannot be read or written.
    """
    written = []
    for fit in fits:
        path = directory / "engines" / f"{fit.engine}.yaml"
        text = files.read_text(path)
        for name, value in fit.numbers.items():
            shown = f"{value:.4g}" if value >= NONE else "0"
            text = _set(text, name, f"{shown} {_UNITS[name]}".strip())
        text = _set(text, "spread", f"{fit.spread:.3g}")
        text = _set(text, "rows", str(fit.rows))
        written.append(files.write(path, text))
    return written


def _set(text: str, name: str, value: str) -> str:
    """``text`` with one top-level field set; a new field goes before ``rows``."""
    pattern = re.compile(_LINE.format(name=name), re.MULTILINE)
    if pattern.search(text):
        return pattern.sub(lambda found: f"{name}: {value}{found['note'] or ''}", text, count=1)
    return re.sub(r"^rows:", f"{name}: {value}\nrows:", text, count=1, flags=re.MULTILINE)
