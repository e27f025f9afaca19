"""Predicted against measured as one small SVG: a scatter of step times, and how many rows stay under an error.

Written by hand so that no plotting package is needed and the picture stays readable on a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.scoreboard import Row

WIDTH, HEIGHT = 860, 420
#: Left, top, width and height of the two panels.
_SCATTER = (62, 34, 340, 330)
_CURVES = (480, 34, 350, 330)
MOST = 0.6  # largest error on the curves

#: Share, name, class of its marks; drawn in this order, so that unseen families lie on top.
SHARES = (
    ("fit", "fitted on", "fit"),
    ("test-config", "unseen configurations", "config"),
    ("test-family", "unseen families", "family"),
)

_STYLE = """
text{font:12px system-ui,sans-serif;fill:#3a3f47}.h{font-weight:600}.s{font-size:11px;fill:#5a616b}
.card{fill:#fff}path{fill:none}.ax{stroke:#c9ced6}.one{stroke:#5a616b}.band{stroke:#9aa1ab;stroke-dasharray:4 4}
.p{stroke-linecap:round;stroke-width:5;stroke-opacity:.55}.l{stroke-width:2.2}.thin{stroke-width:1.4}
.fit{stroke:#a3aab5}.config{stroke:#2f7fc1}.family{stroke:#d9660a}.mfu{stroke:#7a5ea8;stroke-dasharray:6 4}
.near{stroke:#3b8f5c;stroke-dasharray:2 4}
@media (prefers-color-scheme:dark){text{fill:#dfe3e8}.s{fill:#aab1bb}.card{fill:#1b1e24}.ax{stroke:#444a54}
.one{stroke:#aab1bb}.band{stroke:#767d88}.fit{stroke:#747c88}.config{stroke:#5fa8e6}.family{stroke:#ff9a47}
.mfu{stroke:#b49be0}.near{stroke:#6cc48f}}
""".replace("\n", "")


def svg(rows: Sequence[Row]) -> str:
    """The picture of all predicted ``rows``; raises ValueError where there are none."""
    known = [row for row in rows if row.ok]
    if not known:
        raise ValueError("no predicted row to draw")
    parts = [*_scatter(known), *_curves(known)]
    label = f"Predicted against measured step time of {len(known)} training runs"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(label)}">',
            f"<title>{escape(label)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="card" width="{WIDTH}" height="{HEIGHT}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _scatter(rows: Sequence[Row]) -> list[str]:
    """Step times on two logarithmic axes, with lines of equality and of 25 % either way."""
    left, top, width, height = _SCATTER
    times = [value for row in rows for value in (row.case.step_time_s, row.predicted_s)]
    low, high = math.log10(min(times)) - 0.12, math.log10(max(times)) + 0.12

    def x(seconds: float) -> float:
        """Place of a measured time [px]."""
        return left + width * (math.log10(seconds) - low) / (high - low)

    def y(seconds: float) -> float:
        """Place of a predicted time, which grows upwards [px]."""
        return top + height * (high - math.log10(seconds)) / (high - low)

    parts = [_text(left, top - 14, "Step time [s], predicted over measured", "h")]
    parts.append(f'<rect class="ax" fill="none" x="{left}" y="{top}" width="{width}" height="{height}"/>')
    for decade in range(math.ceil(low), math.floor(high) + 1):
        value = 10.0**decade
        parts.append(
            f'<path class="ax" d="M{left} {y(value):.1f}h{width}M{x(value):.1f} {top}v{height}"/>'
            + _text(left - 8, y(value) + 4, _seconds(decade), "s", "end")
            + _text(x(value), top + height + 17, _seconds(decade), "s", "middle")
        )
    parts.append(_text(left + width / 2, top + height + 36, "measured", "s", "middle"))
    for factor, style in ((1.0, "one"), (1.25, "band"), (0.8, "band")):
        start, end = max(10.0**low, 10.0**low / factor), min(10.0**high, 10.0**high / factor)
        line = f"M{x(start):.1f} {y(start * factor):.1f}L{x(end):.1f} {y(end * factor):.1f}"
        parts.append(f'<path class="{style}" d="{line}"/>')
    line_y = top + 18
    for share, name, style in SHARES:
        points = [
            f"M{x(row.case.step_time_s):.1f} {y(row.predicted_s):.1f}h0"
            for row in rows
            if row.case.split == share
        ]
        if points:
            parts.append(f'<path class="p {style}" d="{"".join(points)}"/>')
            parts.append(f'<path class="p {style}" d="M{left + 14} {line_y - 4}h0"/>')
            parts.append(_text(left + 24, line_y, f"{name} ({len(points)})", "s"))
            line_y += 17
    return parts


def _curves(rows: Sequence[Row]) -> list[str]:
    """Share of rows that stay under an error: this model, and the two without physics on unseen families."""
    left, top, width, height = _CURVES
    parts = [_text(left, top - 14, "Share of rows within an error", "h")]
    for tenth in range(0, 11, 2):
        up = top + height * (1 - tenth / 10)
        parts.append(f'<path class="ax" d="M{left} {up:.1f}h{width}"/>')
        parts.append(_text(left - 8, up + 4, f"{10 * tenth} %", "s", "end"))
    for percent in range(0, int(100 * MOST) + 1, 10):
        across = left + width * percent / (100 * MOST)
        parts.append(f'<path class="ax" d="M{across:.1f} {top}v{height}"/>')
        parts.append(_text(across, top + height + 17, f"{percent} %", "s", "middle"))
    parts.append(_text(left + width / 2, top + height + 36, "error of the step time", "s", "middle"))
    unseen = [row for row in rows if row.case.split == "test-family"] or list(rows)
    measured = np.array([row.case.step_time_s for row in unseen])
    lines = [
        (
            name,
            f"l {style}{' thin' if share == 'fit' else ''}",
            _errors([r for r in rows if r.case.split == share]),
        )
        for share, name, style in SHARES
    ]
    lines += [
        (f"{name}, unseen families", f"l thin {style}", np.abs(np.array(times) / measured - 1.0))
        for name, style, times in (
            ("nearest runs", "near", [row.neighbour_s for row in unseen]),
            ("constant MFU", "mfu", [row.constant_mfu_s for row in unseen]),
        )
    ]
    shown = [line for line in reversed(lines[:3]) if line[2].size] + [
        line for line in lines[3:] if line[2].size
    ]
    line_y = top + height - 17 * len(shown)
    for name, style, errors in shown:
        parts.append(f'<path class="{style}" d="{_rising(errors)}"/>')
        parts.append(f'<path class="{style}" d="M{left + width - 236} {line_y - 4}h22"/>')
        parts.append(_text(left + width - 208, line_y, name, "s"))
        line_y += 17
    return parts


def _rising(errors: NDArray[np.float64]) -> str:
    """Path of the cumulative share over the error, cut at the right edge."""
    left, top, width, height = _CURVES
    grid = np.linspace(0.0, MOST, 61)
    known = np.sort(errors[np.isfinite(errors)])
    shares = np.searchsorted(known, grid, side="right") / errors.size
    points = [
        f"{left + width * e / MOST:.1f} {top + height * (1 - s):.1f}"
        for e, s in zip(grid, shares, strict=True)
    ]
    return "M" + "L".join(points)


def _errors(rows: Sequence[Row]) -> NDArray[np.float64]:
    return np.abs(np.array([row.rel_err for row in rows], dtype=np.float64))


def _seconds(decade: int) -> str:
    return f"{10.0**decade:g}"


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}"'
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" {where}{end}>{escape(words)}</text>'
