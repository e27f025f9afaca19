"""Pipeline Gantt of one step: a lane per stage and resource; blocks, or time bins where they are too many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ridgeline.report import theme
from ridgeline.report.blocks import Block, blocks_of, busy_s
from ridgeline.report.figures import Figure, text
from ridgeline.report.numerals import percent, significant
from ridgeline.report.sheet import Sheet
from ridgeline.sim.timeline import KIND_NAMES

MAX_BLOCKS = 6000  # more blocks than this are narrower than a pixel, and make the page heavy
MAX_CELLS = 48_000  # lanes x time bins of the dense drawing
LABELLED_BLOCKS = 420  # up to here the micro-batch number is written on its block

COLOURS = {
    "forward": "blue",
    "backward": "green",
    "input gradient": "green",
    "weight gradient": "purple",
    "send": "orange",
}
RESERVE = ("orange", "teal", "gold", "pink", "red", "grey")
#: Drawn on the upper half of the lane: it runs as one pass with the backward behind it.
HALF = "F+"

Lane = tuple[int, str]


def pipeline_gantt(timeline: Any) -> Figure:
    """One step of every stage, blocks coloured by kind and shaded by model chunk.

    Above `MAX_BLOCKS` blocks each lane is cut into time bins, shared out among the kinds in the
    proportion in which they ran, so the figure stays small whatever the number of micro-batches.
    ``timeline`` is anything that `blocks_of` takes.
    """
    blocks = blocks_of(timeline)
    stages = sorted({block.stage for block in blocks})
    bands = _bands(blocks)
    end = max((block.end_s for block in blocks), default=0.0)
    dense = len(blocks) > MAX_BLOCKS
    data = _bins(blocks, stages, bands, end) if dense else _bars(blocks, bands)
    # On a long axis a lane is found by every second or fourth name.
    named = stages[:: max(1, math.ceil(len(stages) / 32))]
    lane_px = (18 if len(stages) > 8 else 30) + 8 * (len(bands) - 1)
    layout = theme.layout(
        height=min(900, 120 + max(1, len(stages)) * lane_px),
        barmode="overlay",
        xaxis=theme.axis("seconds from the start of the step", range=[0, end * 1.005]),
        yaxis=theme.axis(
            "stage", range=[max(stages, default=0) + 0.55, min(stages, default=0) - 0.55], showgrid=False,
            tickvals=named, ticktext=[str(stage) for stage in named],
        ),
    )  # fmt: skip
    return {"data": data, "layout": layout}


def gantt_sheet(timeline: Any) -> Sheet:
    """Seconds by kind of work, idle seconds and busy share of each lane."""
    blocks = blocks_of(timeline)
    kinds = list(_kinds(blocks))
    end = max((block.end_s for block in blocks), default=0.0)
    by_lane: dict[Lane, list[Block]] = {}
    for block in blocks:
        by_lane.setdefault((block.stage, block.resource), []).append(block)
    order = list(_bands(blocks))
    rows = []
    for stage, resource in sorted(by_lane, key=lambda lane: (lane[0], order.index(lane[1]))):
        mine = by_lane[stage, resource]
        spent = [math.fsum(b.end_s - b.start_s for b in mine if kind_name(b.kind) == kind) for kind in kinds]
        busy = busy_s(mine)
        cells = (str(stage), resource, *(f"{value:.3f}" if value else "" for value in spent))
        rows.append((*cells, f"{end - busy:.3f}", percent(busy / end), f"{len(mine):,}"))
    columns = ("stage", "resource", *(f"{kind} s" for kind in kinds), "idle s", "busy", "blocks")
    return Sheet(columns, tuple(rows), "rl" + "r" * (len(kinds) + 3))


def kind_name(kind: str) -> str:
    """``F`` is forward; a kind without a letter of its own goes by its name."""
    return KIND_NAMES.get(kind, kind)


def _kinds(blocks: Sequence[Block]) -> dict[str, str]:
    """Name of kind -> colour: those of the pipeline first, then others as they appear."""
    seen = dict.fromkeys(kind_name(block.kind) for block in blocks)
    colours = {name: theme.colour(colour) for name, colour in COLOURS.items() if name in seen}
    others = [name for name in seen if name not in COLOURS]
    return colours | {name: theme.colour(RESERVE[i % len(RESERVE)]) for i, name in enumerate(others)}


def _bands(blocks: Sequence[Block]) -> dict[str, tuple[float, float]]:
    """Resource -> its part of a stage's lane, which reaches from -0.5 to 0.5; compute takes the upper one."""
    names = sorted({block.resource for block in blocks}, key=lambda name: (name != "compute", name))
    if len(names) < 2:
        return dict.fromkeys(names, (-0.5, 0.5))
    height = 0.32 / (len(names) - 1)
    edges = [-0.5, *(0.18 + i * height for i in range(len(names)))]
    return dict(zip(names, pairwise(edges), strict=True))


def _bars(blocks: Sequence[Block], bands: Mapping[str, tuple[float, float]]) -> list[Figure]:
    chunks = 1 + max((block.chunk for block in blocks), default=0)
    labelled = len(blocks) <= LABELLED_BLOCKS
    traces = []
    for name, colour in _kinds(blocks).items():
        # A half-height block is drawn over its partner, so it comes last.
        mine = sorted((b for b in blocks if kind_name(b.kind) == name), key=lambda b: b.kind == HALF)
        traces.append(_bar_trace(mine, colour, name, bands, chunks, labelled))
    has_half = any(block.kind == HALF for block in blocks)
    return sorted(traces, key=lambda trace: has_half and trace["name"] == kind_name(HALF))


def _bar_trace(
    blocks: Sequence[Block],
    colour: str,
    name: str,
    bands: Mapping[str, tuple[float, float]],
    chunks: int,
    labelled: bool,
) -> Figure:
    thin = all(block.resource != "compute" for block in blocks)
    trace: Figure = {
        "type": "bar",
        "orientation": "h",
        "name": text(name),
        # Microseconds are enough for the eye, and keep the page small.
        "base": [round(block.start_s, 6) for block in blocks],
        "x": [round(block.end_s - block.start_s, 6) for block in blocks],
        "y": [round(block.stage + _centre(block, bands), 3) for block in blocks],
        "width": [round(_height(block, bands), 3) for block in blocks],
        "marker": {
            "color": colour,
            "opacity": [round(1.0 - 0.5 * max(0, b.chunk) / max(1, chunks - 1), 2) for b in blocks],
            # A gap between computations; a send, thinner than a pixel, is drawn as a tick of its own colour.
            "line": [{"width": 0.5, "color": theme.colour("paper")}, {"width": 1, "color": colour}][thin],
        },
        "customdata": [
            [_words(block), significant(block.end_s - block.start_s), round(block.start_s, 4)]
            for block in blocks
        ],
        "hovertemplate": f"{text(name)}, stage %{{y:.0f}}<br>%{{customdata[0]}}<br>"
        "%{customdata[1]} s from %{customdata[2]} s<extra></extra>",
    }
    if labelled:
        trace |= {
            "text": [str(b.micro_batch) if b.micro_batch >= 0 and b.kind != "S" else "" for b in blocks],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "insidetextfont": {"color": theme.colour("paper"), "size": 10},
            "textangle": 0,
        }
    return trace


def _centre(block: Block, bands: Mapping[str, tuple[float, float]]) -> float:
    top, bottom = bands[block.resource]
    return top + (bottom - top) * (0.25 if block.kind == HALF else 0.5)


def _height(block: Block, bands: Mapping[str, tuple[float, float]]) -> float:
    top, bottom = bands[block.resource]
    return (bottom - top) * (0.43 if block.kind == HALF else 0.86)


def _words(block: Block) -> str:
    if block.kind in KIND_NAMES:
        return f"micro-batch {block.micro_batch}, chunk {block.chunk}"
    return text(block.name)


def _bins(
    blocks: Sequence[Block], stages: Sequence[int], bands: Mapping[str, tuple[float, float]], end: float
) -> list[Figure]:
    """One heat map per kind: the time bins of each lane that the kind was given."""
    lanes = {lane: i for i, lane in enumerate((stage, name) for stage in stages for name in bands)}
    kinds = {name: i for i, name in enumerate(_kinds(blocks))}
    num = max(100, min(1200, MAX_CELLS // len(lanes)))
    filled = [[[0.0] * num for _ in kinds] for _ in lanes]
    for block in blocks:
        line = filled[lanes[block.stage, block.resource]][kinds[kind_name(block.kind)]]
        first, last = block.start_s / end * num, block.end_s / end * num
        for cell in range(int(first), min(num, math.ceil(last))):
            line[cell] += min(last, cell + 1.0) - max(first, float(cell))
    winners = [_winners(lane, num) for lane in filled]
    edges = [stage + bands[name][0] for stage, name in lanes] + [stages[-1] + 0.5]
    step = end / num
    return [
        {
            "type": "heatmap",
            "name": text(name),
            "z": [[1 if winner == kinds[name] else None for winner in lane] for lane in winners],
            "x0": step / 2,
            "dx": step,
            "y": edges,
            "ygap": 2,
            "zmin": 0,
            "zmax": 1,
            "colorscale": [[0, colour], [1, colour]],
            "showscale": False,
            "showlegend": True,
            "hoverongaps": False,
            "hovertemplate": f"{text(name)}, stage %{{y:.0f}}<br>around %{{x:.3f}} s<extra></extra>",
        }
        for name, colour in _kinds(blocks).items()
    ]


def _winners(filled: Sequence[Sequence[float]], num: int) -> list[int]:
    """The kind that each bin of a lane is given; ``len(filled)`` stands for idle.

    What a kind filled but did not get is carried to the next bin, so that over the lane every kind, and idle
    time, is drawn as often as it really ran: taking the largest of each bin would hide all short blocks.
    """
    owed = [0.0] * (len(filled) + 1)
    found = []
    for cell in range(num):
        shares = [kind[cell] for kind in filled]
        # Overlapping blocks fill a bin more than once: they share it, or the excess would be drawn later.
        scale = max(1.0, math.fsum(shares))
        for i, share in enumerate([*shares, max(0.0, 1.0 - math.fsum(shares))]):
            owed[i] += share / scale
        winner = max(range(len(owed)), key=lambda i: owed[i])
        owed[winner] -= 1.0
        found.append(winner)
    return found
