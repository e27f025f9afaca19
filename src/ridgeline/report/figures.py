"""Figures as plain Plotly dicts: ``{"data": [...], "layout": {...}}``, drawn from a prediction's own numbers.

Every text that came from a file is escaped: Plotly reads a few HTML tags in labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from ridgeline import units
from ridgeline.metrics import OperatorTime, Prediction, Rung
from ridgeline.report import theme
from ridgeline.report.effects import HasEffect
from ridgeline.report.numerals import gigabytes, percent, seconds, signed_percent, significant
from ridgeline.report.points import PlanPoint, frontier

Figure = dict[str, Any]

KIND_COLOURS = {"gemm": "blue", "attention": "teal", "grouped": "purple", "stream": "orange"}
PHASE_SYMBOLS = {"forward": "circle", "input_grad": "diamond", "weight_grad": "square"}
MAX_POINTS = 3000  # candidate plans drawn; the frontier is always drawn whole


def text(value: str) -> str:
    """Text that Plotly shows as it is written."""
    return escape(value, quote=False)


def ladder_waterfall(prediction: Prediction) -> Figure:
    """From the ideal step down to the predicted one: one bar per cause, starting where the last one ended.

    The bars of the first trace sum to ``step_time_s``; the last bar is the prediction with its range.
    Causes that cost nothing are left out.
    """
    rungs = [rung for rung in prediction.ladder if rung.seconds]
    total, bound = prediction.step_time_s, prediction.bound_s
    layout = theme.layout(
        height=70 + 32 * (len(rungs) + 1),
        barmode="overlay",
        bargap=0.28,
        showlegend=False,
        # 18 % of room on the right: the label of the longest bar stands outside it.
        xaxis=theme.axis("seconds of one step", range=[0, 1.18 * max(total, prediction.step_time_high_s)]),
        yaxis=_words_axis(),
        shapes=[_line(x0=bound, x1=bound, y0=0, y1=1, yref="paper", dash="dot")],
        annotations=[
            _note(
                f"physical bound {significant(bound)} s", x=bound, y=1, yref="paper", xanchor="left", yshift=2
            )
        ],
    )
    layout["margin"] = {**layout["margin"], "t": 26}
    return {"data": [_cause_bars(rungs, total), _step_bar(prediction)], "layout": layout}


def _cause_bars(rungs: Sequence[Rung], total: float) -> dict[str, Any]:
    """One bar per rung of a step of ``total`` [s], each starting where the last one ended."""
    starts = [math.fsum(rung.seconds for rung in rungs[:i]) for i in range(len(rungs))]
    colours = [
        theme.colour("blue" if i == 0 else "orange" if rung.seconds >= 0 else "green")
        for i, rung in enumerate(rungs)
    ]
    return {
        "type": "bar",
        "orientation": "h",
        "name": "cause",
        "y": [text(rung.cause) for rung in rungs],
        "x": [rung.seconds for rung in rungs],
        "base": starts,
        "marker": {"color": colours},
        "text": [f"{seconds(r.seconds, total)} s  {percent(r.seconds / total, 0)}" for r in rungs],
        "textposition": "outside",
        "cliponaxis": False,
        "customdata": [
            [seconds(r.seconds, total), percent(r.seconds / total), seconds(start + r.seconds, total)]
            for r, start in zip(rungs, starts, strict=True)
        ],
        "hovertemplate": "%{y}<br>%{customdata[0]} s, %{customdata[1]} of the step"
        "<br>up to here %{customdata[2]} s<extra></extra>",
    }


def _step_bar(prediction: Prediction) -> dict[str, Any]:
    """The predicted step with its range."""
    total = prediction.step_time_s
    return {
        "type": "bar",
        "orientation": "h",
        "name": "predicted",
        "y": ["<b>predicted step</b>"],
        "x": [total],
        "marker": {"color": theme.colour("ink")},
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [max(0.0, prediction.step_time_high_s - total)],
            "arrayminus": [max(0.0, total - prediction.step_time_low_s)],
            "color": theme.colour("grey"),
            "thickness": 2,
            "width": 5,
        },
        "text": [f"{significant(total)} s"],
        "textposition": "inside",
        "insidetextanchor": "start",
        "insidetextfont": {"color": theme.colour("paper")},
        "hovertemplate": f"predicted step {significant(total)} s<br>"
        f"{_range_words(prediction)}<extra></extra>",
    }


def roofline(prediction: Prediction) -> Figure:
    """The chip's memory and compute roofs, and each operator as a dot whose area is its time.

    x is arithmetic intensity [FLOP/byte], y the achieved rate [FLOP/s]; operators without FLOPs
    have no place on logarithmic axes and stand in the table only.
    """
    chip = prediction.scenario.chip
    shown = [op for op in prediction.operators if op.flops > 0 and op.bytes > 0 and op.seconds > 0]
    formats = roof_formats(prediction)
    top = max(chip.matrix[name] for name in formats)
    xs = [op.flops / op.bytes for op in shown]
    ridge = top / chip.memory.bandwidth
    x_low = 10.0 ** math.floor(math.log10(min([*xs, ridge / 30.0]) * 0.8))
    x_high = 10.0 ** math.ceil(math.log10(max([*xs, ridge * 10.0]) * 1.25))
    data = [_roof([x_low, ridge], [x_low * chip.memory.bandwidth, top], _memory_words(prediction))]
    middle = math.sqrt(x_low * ridge)
    notes = [
        _note(
            text(_memory_words(prediction)), x=math.log10(middle), xshift=-6,
            y=math.log10(middle * chip.memory.bandwidth), xanchor="right",
        )
    ]  # fmt: skip
    for name in formats:
        rate = chip.matrix[name]
        words = f"{name} {units.show(rate, 'FLOP/s')}"
        data.append(_roof([rate / chip.memory.bandwidth, x_high], [rate, rate], words))
        notes.append(
            _note(text(words), x=math.log10(x_high), y=math.log10(rate), xanchor="right", yanchor="bottom")
        )
    longest = max((op.seconds for op in shown), default=1.0)
    for kind in dict.fromkeys(op.kind for op in shown):
        # The longest first: a short operator must not hide behind a long one.
        ops = sorted((op for op in shown if op.kind == kind), key=lambda op: -op.seconds)
        data.append(_dots(ops, kind, longest))
    ys = [op.flops / op.seconds for op in shown]
    y_low = min([*ys, top / 300.0]) * 0.6
    return {
        "data": data,
        "layout": theme.layout(
            height=440,
            xaxis=theme.axis(
                "arithmetic intensity, FLOP per byte of device memory", type="log",
                range=[math.log10(x_low), math.log10(x_high * 1.1)], **_decades(x_low, x_high, 1.0),
            ),
            yaxis=theme.axis(
                "TFLOP/s of one chip", type="log", range=[math.log10(y_low), math.log10(top * 2.2)],
                **_decades(y_low, top * 2.2, 1e12),
            ),
            annotations=notes,
        ),
    }  # fmt: skip


def memory_by_stage(prediction: Prediction) -> Figure:
    """Stacked bars of what fills the worst chip of each pipeline stage, against its capacity [GB = 1e9 B]."""
    kinds = {kind: values for kind, values in prediction.memory.items() if any(values)}
    stages = max((len(values) for values in kinds.values()), default=0)
    capacity = prediction.memory_capacity_bytes
    totals = [math.fsum(values[i] for values in kinds.values()) for i in range(stages)]
    data = [
        {
            "type": "bar",
            "name": text(kind),
            "x": [str(i) for i in range(stages)],
            "y": [value / 1e9 for value in values],
            "marker": {"color": theme.cycle(number)},
            "customdata": [
                [gigabytes(value), gigabytes(total)] for value, total in zip(values, totals, strict=True)
            ],
            "hovertemplate": f"stage %{{x}}<br>{text(kind)} %{{customdata[0]}} GB"
            "<br>all together %{customdata[1]} GB<extra></extra>",
        }
        for number, (kind, values) in enumerate(kinds.items())
    ]
    layout = theme.layout(
        height=360,
        barmode="stack",
        bargap=max(0.18, 1.0 - stages / 5.0),  # one stage alone must not become a wall
        xaxis=theme.axis("pipeline stage", type="category"),
        yaxis=theme.axis("GB on the worst chip", range=[0, 1.1 * max([capacity, *totals]) / 1e9]),
        shapes=[
            _line(
                x0=0, x1=1, xref="paper", y0=capacity / 1e9, y1=capacity / 1e9, dash="dash",
                color="ink" if prediction.fits else "red",
            )
        ],
        annotations=[
            _note(
                f"capacity<br>{gigabytes(capacity)} GB", x=1, xref="paper", y=capacity / 1e9, xanchor="left",
                yanchor="middle", align="left", xshift=4,
            )
        ],
    )  # fmt: skip
    layout["margin"] = {**layout["margin"], "r": 76}  # the capacity's label stands beside the bars
    return {"data": data, "layout": layout}


def pareto(
    points: Sequence[PlanPoint], chosen: PlanPoint | None = None, capacity_bytes: float = 0.0
) -> Figure:
    """Candidate plans by peak memory and step time, with the frontier; at most `MAX_POINTS` are drawn."""
    edge = frontier(points)
    # An even stride keeps the cloud's shape; a random sample would change from run to run.
    drawn = list(points[:: max(1, math.ceil(len(points) / MAX_POINTS))])
    cloud = {
        **_plane(drawn, "candidate plans"),
        "mode": "markers",
        "marker": {"color": theme.colour("grey"), "size": 5, "opacity": 0.55},
    }
    data = [
        *([cloud] if len(edge) < len(points) else []),
        {
            **_plane(edge, "frontier"),
            "mode": "lines+markers",
            "line": {"color": theme.colour("blue"), "width": 1.5, "shape": "hv"},
            "marker": {"color": theme.colour("blue"), "size": 7},
        },
    ]
    if chosen is not None:
        mark = {"color": theme.colour("orange"), "size": 13, "symbol": "diamond"}
        data.append({**_plane([chosen], "this plan"), "mode": "markers", "marker": mark})
    shapes, notes = [], []
    if capacity_bytes:
        x = capacity_bytes / 1e9
        shapes = [_line(x0=x, x1=x, y0=0, y1=1, yref="paper", dash="dash")]
        notes = [_note("capacity", x=x, y=1, yref="paper", xanchor="right", yanchor="top", xshift=-3)]
    return {
        "data": data,
        "layout": theme.layout(
            height=380,
            xaxis=theme.axis("peak memory, GB"),
            yaxis=theme.axis("step time, s"),
            shapes=shapes,
            annotations=notes,
        ),
    }


def sensitivity_bars(items: Sequence[HasEffect]) -> Figure:
    """Relative change of the step time for each change of an input; shorter steps to the left, in green."""
    ordered = sorted(items, key=lambda item: item.change)
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [text(item.name) for item in ordered],
        "x": [100.0 * item.change for item in ordered],
        "marker": {"color": [theme.colour("green" if item.change < 0 else "orange") for item in ordered]},
        "text": [signed_percent(item.change) for item in ordered],
        "textposition": "auto",
        "insidetextfont": {"color": theme.colour("paper")},
        "textangle": 0,
        "cliponaxis": False,
        "customdata": [text(item.note) for item in ordered],
        "hovertemplate": "%{y}<br>step %{text}<br>%{customdata}<extra></extra>",
    }
    values = [100.0 * item.change for item in ordered] or [0.0]
    low, high = min(0.0, *values), max(0.0, *values)
    pad = 0.34 * max(high - low, 1e-9)
    layout = theme.layout(
        height=70 + 30 * max(1, len(ordered)),
        showlegend=False,
        bargap=0.3,
        xaxis=theme.axis(
            "change of the step time, %", range=[low - pad, high + pad], zeroline=True,
            zerolinecolor=theme.colour("line"),
        ),
        yaxis=_words_axis(),
    )  # fmt: skip
    return {"data": [bar], "layout": layout}


FIGURES: dict[str, Callable[[Prediction], Figure]] = {
    "ladder": ladder_waterfall,
    "roofline": roofline,
    "memory": memory_by_stage,
}


def figure(prediction: Prediction, kind: str = "ladder") -> Figure:
    """One figure of a prediction as a Plotly dict.

    Raises:
        ValueError: ``kind`` is not the name of a figure.
    """
    if kind not in FIGURES:
        raise ValueError(f"unknown figure '{kind}'; choose from {', '.join(FIGURES)}")
    return FIGURES[kind](prediction)


def roof_formats(prediction: Prediction) -> list[str]:
    """Matrix formats whose roof is drawn: those operators use, and the recipe's; else the chip's first."""
    matrix = prediction.scenario.chip.matrix
    used = [op.format for op in prediction.operators if op.kind != "stream"]
    recipe = prediction.scenario.recipe
    wanted = dict.fromkeys([*used, recipe.linear, recipe.attention])
    return [name for name in wanted if name in matrix] or [next(iter(matrix))]


def _dots(ops: Sequence[OperatorTime], kind: str, longest: float) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": text(kind),
        "x": [op.flops / op.bytes for op in ops],
        "y": [op.flops / op.seconds for op in ops],
        "marker": {
            "color": theme.colour(KIND_COLOURS.get(kind, "grey")),
            "size": [op.seconds for op in ops],
            "sizemode": "area",
            "sizeref": 2.0 * longest / 24.0**2,
            "sizemin": 4,
            "symbol": [PHASE_SYMBOLS.get(op.phase, "circle") for op in ops],
            "opacity": 0.8,
            "line": {"width": 1, "color": theme.colour("paper")},
        },
        "customdata": [
            [
                text(op.name),
                text(op.phase.replace("_", " ")),
                units.show(op.seconds, "s"),
                text(op.binds),
                f"{significant(op.flops / op.bytes)} FLOP/B",
                units.show(op.flops / op.seconds, "FLOP/s"),
            ]
            for op in ops
        ],
        "hovertemplate": "%{customdata[0]}, %{customdata[1]}<br>%{customdata[2]} a micro-batch, "
        "%{customdata[3]} binds<br>%{customdata[4]}, %{customdata[5]}<extra></extra>",
    }


def _decades(low: float, high: float, unit: float) -> dict[str, Any]:
    """Ticks at the powers of ten inside the range, written out in ``unit``."""
    powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    values = [10.0**power for power in powers]
    return {"tickvals": values, "ticktext": [f"{value / unit:,.12g}" for value in values]}


def _roof(x: list[float], y: list[float], words: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "line": {"color": theme.colour("muted"), "width": 1.5},
        "showlegend": False,
        "hovertemplate": f"{text(words)}<extra></extra>",
    }


def _memory_words(prediction: Prediction) -> str:
    memory = prediction.scenario.chip.memory
    return f"{memory.kind} {units.show(memory.bandwidth, 'B/s')}"


def _plane(points: Sequence[PlanPoint], name: str) -> Figure:
    return {
        "type": "scatter",
        "name": name,
        "x": [point.peak_memory_bytes / 1e9 for point in points],
        "y": [point.step_time_s for point in points],
        "text": [text(point.label) for point in points],
        "hovertemplate": "%{text}<br>%{y:.3f} s, %{x:.1f} GB<extra></extra>",
    }


def _words_axis() -> dict[str, Any]:
    """An axis of words, read from the top."""
    return theme.axis("", autorange="reversed", ticks="", tickfont={"size": 13, "color": theme.colour("ink")})


def _line(*, color: str = "muted", dash: str = "solid", **place: Any) -> dict[str, Any]:
    return {"type": "line", "line": {"color": theme.colour(color), "width": 1.2, "dash": dash}, **place}


def _note(words: str, **place: Any) -> dict[str, Any]:
    return {
        "text": words,
        "showarrow": False,
        "yanchor": "bottom",
        "font": {"size": 12, "color": theme.colour("muted")},
        **place,
    }


def _range_words(prediction: Prediction) -> str:
    low, high = prediction.step_time_low_s, prediction.step_time_high_s
    return f"80 % range {significant(low)} to {significant(high)} s"
