"""Pictures of the serving scores as small SVG: predicted against measured, and a replay beside its run.

Written by hand so that no plotting package is needed and pictures stay readable on a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.plot import MOST, SHARES
from ridgeline.calibrate.serving.replay import Compared, Counts, Replay
from ridgeline.calibrate.serving.score import ServingRow

FloatArray = NDArray[np.float64]
WIDTH = 860
_STYLE = """
text{font:12px system-ui,sans-serif;fill:#3a3f47}.h{font-weight:600}.s{font-size:11px;fill:#5a616b}
.card{fill:#fff}path{fill:none}.ax{stroke:#c9ced6}.one{stroke:#5a616b}.band{stroke:#9aa1ab;stroke-dasharray:4 4}
.p{stroke-linecap:round;stroke-width:4;stroke-opacity:.5}.l{stroke-width:2.2}.thin{stroke-width:1.4}
.fit{stroke:#a3aab5}.config{stroke:#2f7fc1}.family{stroke:#d9660a}.near{stroke:#3b8f5c;stroke-dasharray:2 4}
.run{stroke:#2f7fc1}.sim{stroke:#d9660a;stroke-dasharray:6 3}
@media (prefers-color-scheme:dark){text{fill:#dfe3e8}.s{fill:#aab1bb}.card{fill:#1b1e24}.ax{stroke:#444a54}
.one{stroke:#aab1bb}.band{stroke:#767d88}.fit{stroke:#747c88}.config,.run{stroke:#5fa8e6}.family,.sim{stroke:#ff9a47}
.near{stroke:#6cc48f}}
""".replace("\n", "")


@dataclass(frozen=True, slots=True)
class Panel:
    """A frame in pixels with a linear scale in each direction."""

    left: float
    top: float
    width: float
    height: float
    x_range: tuple[float, float]
    y_range: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + self.width * (value - low) / (high - low)

    def y(self, value: float) -> float:
        """Grows upwards."""
        low, high = self.y_range
        return self.top + self.height * (high - value) / (high - low)

    def frame(self, title: str, below: str) -> list[str]:
        """Border, title above, name of the axis below."""
        return [
            _text(self.left, self.top - 12, title, "h"),
            f'<rect class="ax" fill="none" x="{self.left}" y="{self.top}" '
            f'width="{self.width}" height="{self.height}"/>',
            _text(self.left + self.width / 2, self.top + self.height + 34, below, "s", "middle"),
        ]

    def ticks(
        self, xs: Sequence[float], ys: Sequence[float], x_words: Callable[[float], str], y_words: Callable[[float], str]
    ) -> list[str]:  # fmt: skip
        """Lines and numbers at places of both axes."""
        parts = []
        for value in xs:
            parts.append(f'<path class="ax" d="M{self.x(value):.1f} {self.top}v{self.height}"/>')
            parts.append(_text(self.x(value), self.top + self.height + 16, x_words(value), "s", "middle"))
        for value in ys:
            parts.append(f'<path class="ax" d="M{self.left} {self.y(value):.1f}h{self.width}"/>')
            parts.append(_text(self.left - 7, self.y(value) + 4, y_words(value), "s", "end"))
        return parts

    def line(self, xs: FloatArray, ys: FloatArray, style: str) -> str:
        """A curve; points inside a flat run are left out."""
        kept = [i for i in range(len(xs)) if i in (0, len(xs) - 1) or not ys[i - 1] == ys[i] == ys[i + 1]]
        points = "L".join(f"{self.x(float(xs[i])):.1f} {self.y(float(ys[i])):.1f}" for i in kept)
        return f'<path class="l {style}" d="M{points}"/>'


def scatter_svg(rows: Sequence[ServingRow]) -> str:
    """TPOT predicted over measured, and how many points stay under an error; raises ValueError where there are none."""
    known = [row for row in rows if row.ok and row.metric == "tpot"]
    if not known:
        raise ValueError("no predicted point to draw")
    label = f"Predicted against measured time between tokens of {len(known)} points"
    return _page(label, 420, [*_scatter(known), *_errors(known)])


def _scatter(rows: Sequence[ServingRow]) -> list[str]:
    values = [math.log10(1e3 * v) for row in rows for v in (row.measured, row.predicted)]
    low, high = min(values) - 0.12, max(values) + 0.12
    panel = Panel(62, 34, 340, 330, (low, high), (low, high))
    places = [math.log10(m * 10.0**d) for d in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5)]
    places = [place for place in places if low < place < high]

    def words(place: float) -> str:
        return f"{10.0**place:.3g}"

    parts = panel.frame("Time between tokens [ms], predicted by measured", "measured")
    parts += panel.ticks(places, places, words, words)
    for factor, style in ((1.0, "one"), (1.25, "band"), (0.8, "band")):
        shift = math.log10(factor)
        start, end = max(low, low - shift), min(high, high - shift)
        parts.append(
            f'<path class="{style}" d="M{panel.x(start):.1f} {panel.y(start + shift):.1f}'
            f'L{panel.x(end):.1f} {panel.y(end + shift):.1f}"/>'
        )
    line = panel.top + 18
    for share, name, style in SHARES:
        points = [
            f"M{panel.x(math.log10(1e3 * row.measured)):.1f} {panel.y(math.log10(1e3 * row.predicted)):.1f}h0"
            for row in rows
            if row.case.split == share
        ]
        if points:
            parts.append(f'<path class="p {style}" d="{"".join(points)}"/>')
            parts.append(f'<path class="p {style}" d="M{panel.left + 14} {line - 4}h0"/>')
            parts.append(_text(panel.left + 24, line, f"{name} ({len(points)})", "s"))
            line += 17
    return parts


def _errors(rows: Sequence[ServingRow]) -> list[str]:
    panel = Panel(480, 34, 350, 330, (0.0, MOST), (0.0, 1.0))
    parts = panel.frame("Share of points within an error", "error of the time between tokens")
    parts += panel.ticks(np.arange(0.0, 0.61, 0.1), np.arange(0.0, 1.01, 0.2), _percent, _percent)  # type: ignore[arg-type]
    lines = [
        (name, style, np.abs([row.rel_err for row in rows if row.case.split == share]))
        for share, name, style in reversed(SHARES)
    ]
    unseen = [row for row in rows if row.case.split == "test-family"] or list(rows)
    near = np.abs([row.neighbour / row.measured - 1.0 for row in unseen])
    lines.append(("nearest points, unseen families", "near thin", near))
    shown = [line for line in lines if line[2].size]
    place = panel.top + panel.height - 17 * len(shown)
    grid = np.linspace(0.0, MOST, 121)
    for name, style, errors in shown:
        counts = np.searchsorted(np.sort(errors[np.isfinite(errors)]), grid, side="right")
        parts.append(panel.line(grid, counts / errors.size, style))
        parts.append(f'<path class="l {style}" d="M{panel.left + 130} {place - 4}h22"/>')
        parts.append(_text(panel.left + 158, place, name, "s"))
        place += 17
    return parts


def replay_svg(run: Replay) -> str:
    """Running and waiting requests over time, and the distributions of end-to-end latency and TTFT."""
    by_name = {one.name: one for one in run.latencies}
    columns, places = (54.0, 480.0), (68.0, 358.0)
    parts = [_text(54, 24, f"{run.name}, {by_name['end to end'].measured_s.size} requests", "h")]
    for x, style, name in ((560.0, "run", "measured"), (680.0, "sim", "predicted")):
        parts.append(f'<path class="l {style}" d="M{x} 20h26"/>')
        parts.append(_text(x + 34, 24, name, "s"))
    for left, count in zip(columns, run.counts, strict=False):
        parts += _counts(count, left, places[0])
    top = places[1] if run.counts else places[0]
    for left, name in zip(columns, ("end to end", "TTFT"), strict=True):
        parts += _distribution(by_name[name], left, top)
    return _page(f"Replay of {run.name} beside its run", int(top + 210 + 52), parts)


def _counts(count: Counts, left: float, top: float) -> list[str]:
    most = max(float(count.measured.max()), float(count.predicted.max()), 1.0)
    panel = Panel(left, top, 350, 210, (0.0, float(count.times_s.max())), (0.0, 1.08 * most))
    parts = panel.frame(f"{count.name.capitalize()}, {100 * count.rms:.1f} % of the peak apart", "time [s]")
    parts += panel.ticks(_round_steps(panel.x_range[1]), _round_steps(panel.y_range[1]), _plain, _plain)
    parts.append(panel.line(count.times_s, count.measured, "run"))
    parts.append(panel.line(count.times_s, count.predicted, "sim"))
    return parts


def _distribution(one: Compared, left: float, top: float) -> list[str]:
    most = max(float(one.measured_s.max()), float(one.predicted_s.max()))
    panel = Panel(left, top, 350, 210, (0.0, 1.03 * most), (0.0, 1.0))
    title = one.name[0].upper() + one.name[1:]
    parts = panel.frame(f"{title}, mean {100 * one.rel_err:+.1f} %", "seconds; share of requests below")
    parts += panel.ticks(_round_steps(panel.x_range[1]), (0.0, 0.25, 0.5, 0.75, 1.0), _plain, _percent)
    shares = np.linspace(0.0, 1.0, min(one.measured_s.size, 150))
    for values, style in ((one.measured_s, "run"), (one.predicted_s, "sim")):
        parts.append(panel.line(np.quantile(values, shares), shares, style))
    return parts


def _round_steps(most: float) -> list[float]:
    """Some five round numbers from 0 to at most ``most``."""
    size = 10.0 ** math.floor(math.log10(most))
    step = next(size * share for share in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0) if most / (size * share) <= 6.0)
    return [step * i for i in range(math.floor(most / step) + 1)]


def _page(label: str, height: int, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
    return "\n".join(
        [
            f'{head}aria-label="{escape(label)}">',
            f"<title>{escape(label)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect class="card" width="{WIDTH}" height="{height}" rx="6"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _plain(value: float) -> str:
    return f"{value:g}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> str:
    end = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}"{end}>{escape(words)}</text>'
