"""Figures of a serving report as plain Plotly dicts, drawn from the parts it is given."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.report import theme
from ridgeline.report.figures import Figure, text
from ridgeline.report.numerals import MINUS, gigabytes, percent, signed_percent, significant
from ridgeline.report.serving_parts import (
    ChipMemory,
    Latency,
    ServingEffect,
    ServingPoint,
    State,
    StepBlock,
    engines_of,
)

MAX_POINTS = 2000  # deployments drawn; the fronts are always drawn whole
MAX_STEPS = 6000  # steps drawn; more are narrower than a pixel, and make the page heavy
CDF_POINTS = 400
TIME_BINS = 600
MARKS = (50, 90, 99)  # percentiles marked on a distribution

KIND_COLOURS = {"prefill": "orange", "decode": "blue", "mixed": "purple"}
#: Parts of memory in reading order; others take the colours that are left.
PART_COLOURS = {"weights": "blue", "KV cache": "green", "activations": "orange", "reserve": "grey"}
_LEFT = ("purple", "teal", "gold", "pink", "red")


def points_front(points: Sequence[ServingPoint]) -> Figure:
    """Tokens/s of a user against tokens/s of a chip; the fronts of both kinds of deployment are joined."""
    data = []
    for disaggregated, colour, symbol, words in (
        (False, "blue", "circle", "aggregated"),
        (True, "purple", "diamond", "disaggregated"),
    ):
        mine = [point for point in points if point.disaggregated == disaggregated]
        rest = [point for point in mine if not point.on_front]
        drawn = rest[:: max(1, math.ceil(len(rest) / MAX_POINTS))]
        if drawn:
            marker = {"color": theme.colour(colour), "size": 6, "symbol": symbol, "opacity": 0.35}
            data.append({**_plane(drawn, words), "mode": "markers", "marker": marker})
        front = sorted((p for p in mine if p.on_front), key=lambda p: p.tokens_per_s_user)
        if front:
            data.append(
                {
                    **_plane(front, f"{words}, front"),
                    "mode": "lines+markers",
                    # what a point gives, every slower one gives too
                    "line": {"color": theme.colour(colour), "width": 1.5, "shape": "vh"},
                    "marker": {"color": theme.colour(colour), "size": 8, "symbol": symbol},
                }
            )
    chosen = [point for point in points if point.chosen]
    if chosen:
        mark = {
            "color": theme.colour("orange"), "size": 15, "symbol": "star",
            "line": {"width": 1, "color": theme.colour("paper")},
        }  # fmt: skip
        data.append({**_plane(chosen, "this deployment"), "mode": "markers", "marker": mark})
    layout = theme.layout(
        height=420,
        xaxis=theme.axis("tokens/s of one user", rangemode="tozero"),
        yaxis=theme.axis("tokens/s of one chip", rangemode="tozero"),
    )
    return {"data": data, "layout": layout}


def latency_cdf(latency: Latency) -> Figure:
    """Share of requests whose latency is at most x, with marks at `MARKS` and a line at the SLO.

    The axis is logarithmic where the slowest request takes over thirty times as long as the median one.
    """
    values = latency.finite
    scale, unit = _unit(values)
    shares = np.linspace(0.0, 100.0, min(CDF_POINTS, max(2, values.size)))
    xs = np.percentile(values, shares) * scale
    marks = np.percentile(values, MARKS) * scale
    logarithmic = bool(xs[-1] > 30.0 * max(float(marks[0]), 1e-12)) and xs[0] > 0.0
    colour = theme.colour("blue")
    labels = [f"P{mark} {significant(float(x))}" for mark, x in zip(MARKS, marks, strict=True)]
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": text(latency.name),
        "x": [_short(x) for x in xs],
        "y": [round(float(share), 3) for share in shares],
        "line": {"color": colour, "width": 2},
        "hovertemplate": f"%{{y:.1f}} % within %{{x:.4g}} {unit}<extra></extra>",
    }
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "percentiles",
        "x": [_short(x) for x in marks],
        "y": list(MARKS),
        "marker": {"color": colour, "size": 8},
        "text": labels,
        "cliponaxis": False,
        "hovertemplate": f"%{{text}} {unit}<extra></extra>",
    }
    slo = None if latency.slo_s is None else latency.slo_s * scale
    axis = theme.axis(f"{text(latency.name)}, {unit}", **_range(xs, slo, logarithmic=logarithmic))
    layout = theme.layout(
        height=280,
        showlegend=False,
        xaxis=axis,
        yaxis=theme.axis("requests, %", range=[0, 104], tickvals=[0, 25, 50, 75, 90, 100]),
    )
    layout["margin"] = {
        **layout["margin"],
        "t": 26,
    }  # room for the buttons, which else hide the last percentile
    layout["annotations"] = [
        {
            "text": words, "x": _place(float(x), logarithmic=logarithmic), "y": mark, "xanchor": "left",
            "yanchor": "top", "xshift": 6, "yshift": -1, "showarrow": False, "borderpad": 1,
            "bgcolor": theme.colour("paper"), "font": {"size": 12, "color": theme.colour("ink")},
        }
        for words, x, mark in zip(labels, marks, MARKS, strict=True)
    ]  # fmt: skip
    if slo is not None:
        layout["shapes"] = [_slo_line(slo)]
        layout["annotations"].append(_slo_note(slo, unit, logarithmic=logarithmic))
    return {"data": [line, dots], "layout": layout}


def state_over_time(state: State) -> Figure:
    """Requests that run and wait, and under them the share of KV cache in use, all against time."""
    times, running, waiting, kv = binned(state, TIME_BINS)
    traces = []
    for name, values, colour, axis in (
        ("running", running, "blue", "y"),
        ("waiting", waiting, "orange", "y"),
        ("KV cache in use", 100.0 * kv, "green", "y2"),
    ):
        trace = {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": [_short(time, 5) for time in times],
            "y": [_short(value) for value in values],
            "yaxis": axis,
            "line": {"color": theme.colour(colour), "width": 1.5, "shape": "hv"},
            "hovertemplate": "%{y:.1f} %" if axis == "y2" else "%{y:,.0f}",
        }
        traces.append(trace)
    layout = theme.layout(
        height=400,
        hovermode="x unified",
        hoversubplots="axis",  # one box for both axes that stand on this one
        xaxis=theme.axis(
            "seconds", anchor="y2", hoverformat=".4~g", unifiedhovertitle={"text": "%{x:.4~g} s"}
        ),
        yaxis=theme.axis("requests", domain=[0.42, 1.0], rangemode="tozero"),
        yaxis2=theme.axis("KV cache, %", domain=[0.0, 0.33], range=[0, 105]),
    )
    return {"data": traces, "layout": layout}


def step_ladder(ladder: Sequence[tuple[str, float]], result: str = "decode step") -> Figure:
    """Causes of one step [s], each bar starting where the last one ended; the last bar is their sum."""
    rungs = [(cause, value) for cause, value in ladder if value]
    total = math.fsum(value for _, value in rungs)
    starts = [math.fsum(value for _, value in rungs[:i]) for i in range(len(rungs))]
    scale, unit = (1e3, "ms") if total >= 1e-3 else (1e6, "us")
    decimals = max(0, 2 - math.floor(math.log10(total * scale))) if total > 0 else 2
    words = [
        f"{value * scale:.{decimals}f} {unit}  {percent(value / total, 0)}".replace("-", MINUS)
        for _, value in rungs
    ]
    colours = [
        "blue" if i == 0 else "orange" if value >= 0 else "green" for i, (_, value) in enumerate(rungs)
    ]
    bars = {
        "type": "bar",
        "orientation": "h",
        "name": "cause",
        "y": [text(cause) for cause, _ in rungs],
        "x": [value * scale for _, value in rungs],
        "base": [start * scale for start in starts],
        "marker": {"color": [theme.colour(colour) for colour in colours]},
        "text": words,
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [
            f"{(start + value) * scale:.{decimals}f} {unit}"
            for start, (_, value) in zip(starts, rungs, strict=True)
        ],
        "hovertemplate": "%{y}<br>%{text} of the step<br>up to here %{customdata}<extra></extra>",
    }
    whole = f"{total * scale:.{decimals}f} {unit}"
    last = {
        "type": "bar",
        "orientation": "h",
        "name": text(result),
        "y": [f"<b>{text(result)}</b>"],
        "x": [total * scale],
        "marker": {"color": theme.colour("ink")},
        "text": [whole],
        "textposition": "inside",
        "insidetextanchor": "start",
        "insidetextfont": {"color": theme.colour("paper")},
        "hovertemplate": f"{text(result)} {whole}<extra></extra>",
    }
    highest = max([total, *(start + value for start, (_, value) in zip(starts, rungs, strict=True))])
    layout = theme.layout(
        height=70 + 32 * (len(rungs) + 1),
        barmode="overlay",
        bargap=0.28,
        showlegend=False,
        # 22 % of room on the right: the label of the longest bar stands outside it.
        xaxis=theme.axis(f"{unit} of one step", range=[0, 1.22 * highest * scale]),
        yaxis=_names_axis(),
    )
    return {"data": [bars, last], "layout": layout}


def step_gantt(steps: Sequence[StepBlock]) -> Figure:
    """A lane for each engine, its steps coloured by kind; engines beyond `MAX_STEPS` steps are left out."""
    lanes = drawn_engines(steps)
    shown = [step for step in steps if step.engine in lanes]
    begin = min((step.start_s for step in shown), default=0.0)
    end = max((step.end_s for step in shown), default=1.0)
    kinds = list(dict.fromkeys([*KIND_COLOURS, *(step.kind for step in shown)]))
    data = []
    for number, kind in enumerate(kinds):
        mine = [step for step in shown if step.kind == kind]
        if not mine:
            continue
        colour = KIND_COLOURS.get(kind) or _LEFT[number % len(_LEFT)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": text(kind),
                # Microseconds are enough for the eye, and keep the page small.
                "base": [round(step.start_s, 6) for step in mine],
                "x": [round(step.end_s - step.start_s, 6) for step in mine],
                "y": [lanes.index(step.engine) for step in mine],
                "width": 0.78,
                "marker": {
                    "color": theme.colour(colour),
                    "line": {"width": 0.5, "color": theme.colour("paper")},
                },
                "customdata": [
                    [
                        text(step.engine),
                        significant((step.end_s - step.start_s) * 1e3),
                        f"{step.tokens:,} tokens" + (f" of {step.batch}" if step.batch else ""),
                    ]
                    for step in mine
                ],
                "hovertemplate": f"%{{customdata[0]}}: {text(kind)}<br>%{{customdata[1]}} ms from "
                "%{base:.4f} s<br>%{customdata[2]}<extra></extra>",
            }
        )
    named = range(0, len(lanes), max(1, math.ceil(len(lanes) / 32)))
    pad = 0.005 * (end - begin)
    layout = theme.layout(
        height=min(900, 110 + max(1, len(lanes)) * (30 if len(lanes) <= 12 else 18)),
        barmode="overlay",
        xaxis=theme.axis("seconds", range=[begin - pad, end + pad]),
        yaxis=theme.axis(
            "", range=[len(lanes) - 0.4, -0.6], showgrid=False, ticks="",
            tickvals=list(named), ticktext=[text(lanes[i]) for i in named],
        ),
    )  # fmt: skip
    return {"data": data, "layout": layout}


def effect_bars(effects: Sequence[ServingEffect]) -> Figure:
    """Relative change of the chip time of a token and of the time between tokens for each what-if; less is left."""
    names = [text(effect.name) for effect in effects]
    data = []
    for title, colour, values in (
        ("chip time of a token", "blue", [effect.chip for effect in effects]),
        ("time between tokens", "orange", [effect.tpot for effect in effects]),
    ):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": title,
                "y": names,
                "x": [100.0 * value for value in values],
                "marker": {"color": theme.colour(colour)},
                "text": [signed_percent(value) for value in values],
                "textposition": "outside",
                "textangle": 0,
                "cliponaxis": False,
                "customdata": [text(effect.note) for effect in effects],
                "hovertemplate": f"%{{y}}<br>{title} %{{text}}<br>%{{customdata}}<extra></extra>",
            }
        )
    reached = [100.0 * value for effect in effects for value in (effect.chip, effect.tpot)] or [0.0]
    low, high = min(0.0, *reached), max(0.0, *reached)
    pad = 0.2 * max(high - low, 1e-9)
    layout = theme.layout(
        height=110 + 46 * max(1, len(effects)),
        bargap=0.28,
        xaxis=theme.axis(
            "change, %", range=[low - pad, high + pad], zeroline=True, zerolinecolor=theme.colour("line")
        ),
        yaxis=_names_axis(),
    )
    return {"data": data, "layout": layout}


def chip_memory(chips: Sequence[ChipMemory]) -> Figure:
    """What fills a chip of each pool, against its capacity [GB = 1e9 B]."""
    names = [text(chip.name) for chip in chips]
    parts = list(dict.fromkeys(part for chip in chips for part in chip.parts))
    spare = itertools.cycle(_LEFT)
    data = []
    for part in parts:
        colour = PART_COLOURS.get(part) or next(spare)
        values = [chip.parts.get(part, 0.0) for chip in chips]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": text(part),
                "y": names,
                "x": [value / 1e9 for value in values],
                "marker": {"color": theme.colour(colour)},
                "text": [
                    f"{gigabytes(value)}" if value > 0.06 * chip.capacity_bytes else ""
                    for value, chip in zip(values, chips, strict=True)
                ],
                "textposition": "inside",
                "insidetextanchor": "middle",
                "textangle": 0,
                "insidetextfont": {"color": theme.colour("paper")},
                "customdata": [
                    [gigabytes(value), percent(value / chip.capacity_bytes)]
                    for value, chip in zip(values, chips, strict=True)
                ],
                "hovertemplate": f"%{{y}}<br>{text(part)} %{{customdata[0]}} GB, "
                "%{customdata[1]} of the chip<extra></extra>",
            }
        )
    shapes = [
        {
            "type": "line", "x0": chip.capacity_bytes / 1e9, "x1": chip.capacity_bytes / 1e9,
            "y0": i - 0.44, "y1": i + 0.44,
            "line": {
                "color": theme.colour("red" if chip.total_bytes > chip.capacity_bytes else "ink"),
                "width": 1.6, "dash": "dash",
            },
        }
        for i, chip in enumerate(chips)
    ]  # fmt: skip
    notes = [
        {
            "text": f"{gigabytes(chip.capacity_bytes)} GB", "x": chip.capacity_bytes / 1e9, "y": i,
            "xanchor": "left", "yanchor": "middle", "xshift": 5, "showarrow": False,
            "font": {"size": 12, "color": theme.colour("muted")},
        }
        for i, chip in enumerate(chips)
    ]  # fmt: skip
    widest = max([0.0, *(max(chip.capacity_bytes, chip.total_bytes) for chip in chips)])
    layout = theme.layout(
        height=110 + 46 * max(1, len(chips)),
        barmode="stack",
        bargap=0.3,
        xaxis=theme.axis("GB of one chip", range=[0, 1.13 * widest / 1e9]),
        yaxis=_names_axis(),
        shapes=shapes,
        annotations=notes,
    )
    return {"data": data, "layout": layout}


def drawn_engines(steps: Sequence[StepBlock]) -> list[str]:
    """The first engines whose steps together are at most `MAX_STEPS`; never none."""
    lanes: list[str] = []
    drawn = 0
    for engine in engines_of(steps):
        drawn += sum(step.engine == engine for step in steps)
        if lanes and drawn > MAX_STEPS:
            break
        lanes.append(engine)
    return lanes


def binned(state: State, bins: int) -> tuple[NDArray[np.float64], ...]:
    """Times, running, waiting and KV share; more instants than ``bins`` are cut into as many equal spans.

    A span shows its highest value: a short peak must not be lost.
    """
    times = np.asarray(state.times_s, dtype=np.float64)
    series = [
        np.asarray(values, dtype=np.float64) for values in (state.running, state.waiting, state.kv_share)
    ]
    if times.size <= bins:
        return (times, *series)
    edges = np.linspace(times[0], times[-1], bins + 1)
    starts = np.unique(np.searchsorted(times, edges[:-1]))
    return (times[starts], *(np.maximum.reduceat(values, starts) for values in series))


def _unit(values: NDArray[np.float64]) -> tuple[float, str]:
    """Milliseconds where the median is below a second."""
    return (1e3, "ms") if float(np.median(values)) < 1.0 else (1.0, "s")


def _range(xs: NDArray[np.float64], slo: float | None, *, logarithmic: bool) -> dict[str, Any]:
    """Room on the right for the last label, and for that of the line at the SLO, which is longer."""
    low, high = float(xs[0]), max(float(xs[-1]), slo or 0.0)
    if logarithmic:
        ends = np.log10([low, high, slo or low])
        span = ends[1] - ends[0]
        last = max(ends[1] + 0.14 * span, ends[2] + 0.42 * span)
        return {"type": "log", "range": [ends[0] - 0.03 * span, last], "dtick": 1}
    return {"range": [0.0, max(1.16 * high, 1.45 * (slo or 0.0))]}


def _place(x: float, *, logarithmic: bool) -> float:
    """Where Plotly wants an annotation: at the logarithm on a logarithmic axis, other than a shape."""
    return math.log10(x) if logarithmic else x


def _slo_line(slo: float) -> dict[str, Any]:
    return {
        "type": "line", "x0": slo, "x1": slo, "y0": 0, "y1": 1, "yref": "paper", "layer": "below",
        "line": {"color": theme.colour("red"), "width": 1.4, "dash": "dash"},
    }  # fmt: skip


def _slo_note(slo: float, unit: str, *, logarithmic: bool) -> dict[str, Any]:
    return {
        "text": f"SLO {significant(slo)} {unit}", "x": _place(slo, logarithmic=logarithmic), "y": 0.02,
        "yref": "paper", "xanchor": "left", "yanchor": "bottom", "xshift": 4, "showarrow": False,
        "font": {"size": 12, "color": theme.colour("red")},
    }  # fmt: skip


def _plane(points: Sequence[ServingPoint], name: str) -> Figure:
    return {
        "type": "scatter",
        "name": name,
        "x": [point.tokens_per_s_user for point in points],
        "y": [point.tokens_per_s_chip for point in points],
        "text": [
            text(point.label) + (f"<br>{text(point.remark)}" if point.remark else "") for point in points
        ],
        "hovertemplate": "%{text}<br>%{x:.1f} tokens/s a user<br>%{y:,.0f} tokens/s a chip<extra></extra>",
    }


def _names_axis() -> dict[str, Any]:
    """An axis of words, read from the top."""
    return theme.axis("", autorange="reversed", ticks="", tickfont={"size": 13, "color": theme.colour("ink")})


def _short(value: float, digits: int = 6) -> float:
    """Enough digits to draw with; a number of sixteen makes the page heavy."""
    return float(f"{float(value):.{digits}g}")
