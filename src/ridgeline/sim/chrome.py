"""Chrome trace of a timeline, for Perfetto or chrome://tracing: a process per stage, a thread per kind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from ridgeline import files
from ridgeline.sim.timeline import KINDS, RESOURCES, Timeline

#: Trace viewers sort colours by these reserved names, so every kind keeps one colour.
_COLOURS = {"F": "good", "F+": "good", "B": "bad", "BW": "bad", "W": "terrible", "S": "grey"}


class ExtraRow(NamedTuple):
    """A row that the pipeline timeline does not know, such as gradient reduction or the optimizer."""

    stage: int
    resource: str  # the thread it is drawn on: "data parallel", "compute", ...
    name: str
    start_s: float
    end_s: float


def to_chrome(timeline: Timeline, extra: Iterable[ExtraRow] = ()) -> dict[str, Any]:
    """Trace Event Format, JSON object form: complete events (``ph`` X), times in microseconds.

    Source: Google, "Trace Event Format", sections "Complete Events" and "Metadata Events".

    Raises ValueError for an extra row outside the pipeline or that ends before it starts.
    """
    threads = {name: index for index, name in enumerate(RESOURCES)}
    used = {(stage, RESOURCES[0]) for stage in range(timeline.pp)}
    events: list[dict[str, Any]] = []
    for row in range(len(timeline)):
        kind = KINDS[timeline.kind[row]]
        stage, resource = int(timeline.stage[row]), RESOURCES[timeline.resource[row]]
        used.add((stage, resource))
        event = _event(
            timeline.name(row), stage, threads[resource], timeline.start_s[row], timeline.end_s[row]
        )
        event["cat"] = kind
        event["cname"] = _COLOURS[kind]
        event["args"] = {"micro_batch": int(timeline.micro_batch[row]), "chunk": int(timeline.chunk[row])}
        events.append(event)
    for item in extra:
        if not 0 <= item.stage < timeline.pp:
            raise ValueError(f"extra row {item.name!r}: stage {item.stage} is not in 0 .. {timeline.pp - 1}")
        if item.end_s < item.start_s:
            raise ValueError(
                f"extra row {item.name!r}: ends at {item.end_s} s, before its start {item.start_s} s"
            )
        used.add((item.stage, item.resource))
        thread = threads.setdefault(item.resource, len(threads))
        events.append(
            {**_event(item.name, item.stage, thread, item.start_s, item.end_s), "cat": item.resource}
        )
    return {
        "traceEvents": [*_metadata(timeline.pp, threads, used), *events],
        "displayTimeUnit": "ms",
        "otherData": {"schedule": timeline.schedule, "stages": timeline.pp, "total_s": timeline.total_s},
    }


def write_chrome(path: str | PathLike[str], timeline: Timeline, extra: Iterable[ExtraRow] = ()) -> Path:
    """Write the trace as one JSON file and return where it is."""
    return files.write(Path(path), json.dumps(to_chrome(timeline, extra), separators=(",", ":")))


def _event(name: str, stage: int, thread: int, start_s: float, end_s: float) -> dict[str, Any]:
    return {
        "name": name,
        "ph": "X",
        "pid": stage,
        "tid": thread,
        "ts": float(start_s) * 1e6,
        "dur": float(end_s - start_s) * 1e6,
    }


def _metadata(pp: int, threads: dict[str, int], used: set[tuple[int, str]]) -> list[dict[str, Any]]:
    """Names and order of processes and threads."""
    rows: list[dict[str, Any]] = []
    for stage in range(pp):
        rows.append({"ph": "M", "pid": stage, "name": "process_name", "args": {"name": f"stage {stage}"}})
        rows.append({"ph": "M", "pid": stage, "name": "process_sort_index", "args": {"sort_index": stage}})
    for stage, resource in sorted(used, key=lambda key: (key[0], threads[key[1]])):
        thread = {"ph": "M", "pid": stage, "tid": threads[resource]}
        rows.append({**thread, "name": "thread_name", "args": {"name": resource}})
        rows.append({**thread, "name": "thread_sort_index", "args": {"sort_index": threads[resource]}})
    return rows
