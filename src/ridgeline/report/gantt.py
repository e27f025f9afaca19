"""Pipeline Gantt of one step: a lane per stage and resource; blocks, or time bins for many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ridgeline.report import theme
from ridgeline.report.figures import Figure, text
from ridgeline.report.numerals import percent, significant
from ridgeline.report.sheet import Sheet

MAX_BLOCKS = 6000  # more blocks than this are narrower than a pixel, and make the page heavy
MAX_CELLS = 48_000  # lanes x time bins of the dense drawing
LABELLED_BLOCKS = 420  # up to here the micro-batch number is written on its block

KINDS = {
    "F": ("forward", "blue"),
    "B": ("backward", "green"),
    "W": ("weight gradient", "purple"),
}
RESERVE = ("orange", "teal", "gold", "pink", "red", "grey")

Lane = tuple[int, str]


class Row(Protocol):
    """One block of a timeline: what ran on which resource of which stage, and when."""

    @property
    def stage(self) -> int: ...
    @property
    def resource(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def chunk(self) -> int: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


def rows_of(timeline: Any) -> list[Row]:
    """The blocks of a timeline that last: ``timeline.rows`` or the timeline itself when it is a sequence."""
    rows: Iterable[Row] = getattr(timeline, "rows", timeline)
    return [row for row in rows if row.end_s > row.start_s]


def pipeline_gantt(timeline: Any) -> Figure:
    """One step of every stage, blocks coloured by kind and shaded by model chunk.

    Above `MAX_BLOCKS` blocks each lane is cut into time bins, shared out among the kinds in the
    proportion in which they ran, so the figure stays small whatever the number of micro-batches.
    """
    rows = rows_of(timeline)
    lanes = lanes_of(rows)
    kinds = _kinds(rows)
    end = max((row.end_s for row in rows), default=0.0)
    dense = len(rows) > MAX_BLOCKS
    data = _bins(rows, lanes, kinds, end) if dense else _blocks(rows, lanes, kinds)
    names = [_lane_name(lane, lanes) for lane in lanes]
    layout = theme.layout(
        height=min(760, 110 + max(6, 17 if len(lanes) > 8 else 28) * max(1, len(lanes))),
        barmode="overlay",
        bargap=0.0,
        xaxis=theme.axis("seconds from the start of the step", range=[0, end * 1.005]),
        yaxis=theme.axis(
            "stage", type="category", categoryorder="array", categoryarray=names,
            range=[len(lanes) - 0.4, -0.6], showgrid=False,
        ),
    )  # fmt: skip
    return {"data": data, "layout": layout}


def gantt_sheet(timeline: Any) -> Sheet:
    """Busy seconds by kind, idle seconds and busy share of each lane."""
    rows = rows_of(timeline)
    kinds = _kinds(rows)
    end = max((row.end_s for row in rows), default=0.0)
    lines = []
    for stage, resource in lanes_of(rows):
        mine = [row for row in rows if (row.stage, row.resource) == (stage, resource)]
        spent = [math.fsum(r.end_s - r.start_s for r in mine if r.kind == kind) for kind in kinds]
        busy = math.fsum(spent)
        cells = [str(stage), resource, *(f"{seconds:.3f}" for seconds in spent)]
        lines.append((*cells, f"{end - busy:.3f}", percent(busy / end), str(len(mine))))
    names = [kind_name(kind) for kind in kinds]
    columns = ("stage", "resource", *(f"{name} s" for name in names), "idle s", "busy", "blocks")
    return Sheet(columns, tuple(lines), "rl" + "r" * (len(kinds) + 3))


def lanes_of(rows: Sequence[Row]) -> list[Lane]:
    """Stages in order; within a stage the compute lane first."""
    return sorted(
        {(row.stage, row.resource) for row in rows}, key=lambda lane: (lane[0], lane[1] != "compute", lane[1])
    )


def kind_name(kind: str) -> str:
    """``F`` is forward; a kind without a letter of its own goes by its name."""
    return KINDS[kind][0] if kind in KINDS else kind


def _kinds(rows: Sequence[Row]) -> dict[str, str]:
    """Kind -> colour, in the order F, B, W, then others as they appear."""
    seen = dict.fromkeys(row.kind for row in rows)
    colours = {kind: theme.colour(KINDS[kind][1]) for kind in KINDS if kind in seen}
    others = [kind for kind in seen if kind not in KINDS]
    return colours | {kind: theme.colour(RESERVE[i % len(RESERVE)]) for i, kind in enumerate(others)}


def _lane_name(lane: Lane, lanes: Sequence[Lane]) -> str:
    stage, resource = lane
    return str(stage) if len({name for _, name in lanes}) == 1 else text(f"{stage} {resource}")


def _blocks(rows: Sequence[Row], lanes: Sequence[Lane], kinds: Mapping[str, str]) -> list[Figure]:
    names = {lane: _lane_name(lane, lanes) for lane in lanes}
    chunks = 1 + max((row.chunk for row in rows), default=0)
    return [
        _block_trace([row for row in rows if row.kind == kind], colour, kind, names, chunks, len(rows))
        for kind, colour in kinds.items()
    ]


def _block_trace(
    rows: Sequence[Row], colour: str, kind: str, names: Mapping[Lane, str], chunks: int, num_blocks: int
) -> Figure:
    trace: Figure = {
        "type": "bar",
        "orientation": "h",
        "name": text(kind_name(kind)),
        # Microseconds are enough for the eye, and keep the page small.
        "base": [round(row.start_s, 6) for row in rows],
        "x": [round(row.end_s - row.start_s, 6) for row in rows],
        "y": [names[row.stage, row.resource] for row in rows],
        "width": 0.86,
        "marker": {
            "color": colour,
            "opacity": [round(1.0 - 0.5 * max(0, row.chunk) / max(1, chunks - 1), 2) for row in rows],
            "line": {"width": 0.5, "color": theme.colour("paper")},
        },
        "customdata": [
            [_words(row), significant(row.end_s - row.start_s), round(row.start_s, 4)] for row in rows
        ],
        "hovertemplate": f"{text(kind_name(kind))}, stage %{{y}}<br>%{{customdata[0]}}<br>"
        "%{customdata[1]} s from %{customdata[2]} s<extra></extra>",
    }
    if num_blocks <= LABELLED_BLOCKS:
        trace |= {
            "text": [str(row.micro_batch) if row.micro_batch >= 0 else "" for row in rows],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "insidetextfont": {"color": theme.colour("paper"), "size": 10},
            "textangle": 0,
        }
    return trace


def _words(row: Row) -> str:
    if row.kind in KINDS:
        return f"micro-batch {row.micro_batch}, chunk {row.chunk}"
    return text(row.name)


def _bins(rows: Sequence[Row], lanes: Sequence[Lane], kinds: Mapping[str, str], end: float) -> list[Figure]:
    """One heat map per kind: the time bins of each lane that the kind was given."""
    num = max(100, min(1200, MAX_CELLS // len(lanes)))
    place = {lane: i for i, lane in enumerate(lanes)}
    order = {kind: i for i, kind in enumerate(kinds)}
    filled = [[[0.0] * num for _ in kinds] for _ in lanes]
    for row in rows:
        line = filled[place[row.stage, row.resource]][order[row.kind]]
        first, last = row.start_s / end * num, row.end_s / end * num
        for cell in range(int(first), min(num, math.ceil(last))):
            line[cell] += min(last, cell + 1.0) - max(first, float(cell))
    winners = [_winners(lane, num) for lane in filled]
    step = end / num
    return [
        {
            "type": "heatmap",
            "name": text(kind_name(kind)),
            "z": [[1 if winner == i else None for winner in lane] for lane in winners],
            "x0": step / 2,
            "dx": step,
            "y": [_lane_name(lane, lanes) for lane in lanes],
            "ygap": 2,
            "zmin": 0,
            "zmax": 1,
            "colorscale": [[0, colour], [1, colour]],
            "showscale": False,
            "showlegend": True,
            "hoverongaps": False,
            "hovertemplate": f"{text(kind_name(kind))}, stage %{{y}}<br>around %{{x:.3f}} s<extra></extra>",
        }
        for i, (kind, colour) in enumerate(kinds.items())
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
        for i, share in enumerate([*shares, max(0.0, 1.0 - math.fsum(shares))]):
            owed[i] += share
        winner = max(range(len(owed)), key=lambda i: owed[i])
        owed[winner] -= 1.0
        found.append(winner)
    return found
