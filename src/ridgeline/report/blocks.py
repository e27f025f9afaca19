"""Block: one row of a timeline as the Gantt draws it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ridgeline.sim.timeline import KIND_NAMES, KINDS, RESOURCES, Timeline


@dataclass(frozen=True, slots=True)
class Block:
    """What ran on which resource of which stage, and when; ``micro_batch`` -1 where there is none."""

    stage: int
    resource: str
    name: str
    kind: str
    micro_batch: int
    chunk: int
    start_s: float
    end_s: float


def blocks_of(timeline: Any) -> list[Block]:
    """The rows of a timeline that last.

    Takes a simulated `Timeline`, or rows with the fields of `Block`: a sequence, or an object that holds one
    as ``rows`` (a measured run).
    """
    if isinstance(timeline, Timeline):
        return [block for block in _simulated(timeline) if block.end_s > block.start_s]
    rows: Iterable[Any] = getattr(timeline, "rows", timeline)
    return [_block(row) for row in rows if row.end_s > row.start_s]


def busy_s(blocks: Sequence[Block]) -> float:
    """Seconds during which at least one of the blocks runs: overlapping ones count once."""
    total, reached = 0.0, float("-inf")
    for block in sorted(blocks, key=lambda b: b.start_s):
        total += max(0.0, block.end_s - max(block.start_s, reached))
        reached = max(reached, block.end_s)
    return total


def _block(row: Any) -> Block:
    if isinstance(row, Block):
        return row
    return Block(
        row.stage, row.resource, row.name, row.kind, row.micro_batch, row.chunk, row.start_s, row.end_s
    )


def _simulated(timeline: Timeline) -> Iterable[Block]:
    columns = zip(
        timeline.stage.tolist(),
        timeline.resource.tolist(),
        timeline.kind.tolist(),
        timeline.micro_batch.tolist(),
        timeline.chunk.tolist(),
        timeline.start_s.tolist(),
        timeline.end_s.tolist(),
        strict=True,
    )
    for stage, resource, kind, micro_batch, chunk, start, end in columns:
        name = f"{KIND_NAMES[KINDS[kind]]} {micro_batch}"
        yield Block(stage, RESOURCES[resource], name, KINDS[kind], micro_batch, chunk, start, end)
