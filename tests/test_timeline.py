"""The exact timeline: conservation, dependencies, sends, traces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ridgeline.facts.plan import SCHEDULES
from ridgeline.sim.chrome import ExtraRow, to_chrome, write_chrome
from ridgeline.sim.order import order
from ridgeline.sim.stage_costs import StageCosts
from ridgeline.sim.timeline import COMPUTE, KINDS, LINK, Timeline, simulate


def costs(send_s: float = 0.0, overlapped: bool = True) -> StageCosts:
    return StageCosts(
        forward_s=np.array([1.1, 1.0, 1.0, 1.3]),
        input_grad_s=np.array([1.2, 1.1, 1.1, 1.4]),
        weight_grad_s=np.array([0.9, 0.8, 0.8, 1.0]),
        send_s=send_s,
        send_overlapped=overlapped,
    )


def sample(schedule: str, send_s: float = 0.0, overlapped: bool = True) -> Timeline:
    return simulate(schedule, costs(send_s, overlapped), 16, 4, 3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_pass_runs_once_and_alone(schedule: str) -> None:
    timeline = sample(schedule, 0.1)
    for stage in range(4):
        mask = timeline.compute(stage)
        start, end = timeline.start_s[mask], timeline.end_s[mask]
        assert np.all(start[1:] >= end[:-1])
        passes: dict[str, list[tuple[int, int]]] = {"F": [], "B": [], "W": []}
        for kind, j, chunk in zip(
            timeline.kind[mask], timeline.micro_batch[mask], timeline.chunk[mask], strict=True
        ):
            for part in KINDS[kind].rstrip("+"):
                passes[part].append((int(j), int(chunk)))
        for seen in passes.values():
            assert len(seen) == len(set(seen)) == (16 if schedule == "dualpipe" else 16 * timeline.num_chunks)
        assert timeline.busy_s(stage) + timeline.bubble_s(stage) == pytest.approx(timeline.total_s)


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "zb-h2"])
@pytest.mark.parametrize("overlapped", [True, False])
def test_inputs_come_before_use(schedule: str, overlapped: bool) -> None:
    timeline = sample(schedule, 0.25, overlapped)
    start: dict[tuple[str, int, int], float] = {}
    end: dict[tuple[str, int, int], float] = {}
    for row in np.flatnonzero(timeline.resource == COMPUTE):
        for part in KINDS[timeline.kind[row]]:
            key = (part, int(timeline.stage[row]), int(timeline.micro_batch[row]))
            start[key], end[key] = float(timeline.start_s[row]), float(timeline.end_s[row])
    for (part, stage, j), began in start.items():
        if part == "F" and stage > 0:
            assert began >= end["F", stage - 1, j] + 0.25 - 1e-12
        if part == "B":
            assert began >= end["F", stage, j] - 1e-12
            if stage < 3:
                assert began >= end["B", stage + 1, j] + 0.25 - 1e-12


def test_sends_are_rows_of_the_link() -> None:
    timeline = sample("interleaved", 0.1)
    links = timeline.resource == LINK
    assert links.sum() == 2 * 16 * (4 * 3 - 1)  # every chunk boundary, both directions
    assert np.allclose((timeline.end_s - timeline.start_s)[links], 0.1)
    assert not (sample("interleaved").resource == LINK).any()
    assert sample("interleaved", 0.1, overlapped=False).total_s > timeline.total_s


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_stage_has_no_bubble(schedule: str) -> None:
    timeline = simulate(schedule, costs(0.1), 6, 1, 2)
    assert timeline.bubble_s(0) == pytest.approx(0.0, abs=1e-12)
    assert timeline.total_s == pytest.approx(6 * (1.1 + 1.2 + 0.9))
    assert not (timeline.resource == LINK).any()


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1", "zb-h2", "zb-v"])
def test_fewer_micro_batches_than_stages(schedule: str) -> None:
    timeline = simulate(schedule, costs(), 2, 6)
    assert timeline.total_s > timeline.busy_s(0)


def test_a_large_timeline_has_every_pass_and_every_send() -> None:
    timeline = simulate("interleaved", costs(0.01), 16, 16, 8)
    assert len(timeline) == 2 * 16 * 16 * 8 + 2 * 16 * (16 * 8 - 1)


def test_orders_that_do_not_exist_say_why() -> None:
    with pytest.raises(ValueError, match="multiple of pp"):
        order("interleaved", 6, 4, 2)
    with pytest.raises(ValueError, match="dualpipe"):
        order("dualpipe", 6, 4)
    with pytest.raises(ValueError, match="1f1b"):
        order("2f2b", 6, 4)
    with pytest.raises(ValueError, match="at least 1"):
        order("1f1b", 0, 4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_chrome_trace_has_every_row(schedule: str, tmp_path: Path) -> None:
    timeline = sample(schedule, 0.1)
    extra = [
        ExtraRow(0, "data parallel", "reduce chunk 0", 1.0, 2.5),
        ExtraRow(3, "compute", "optimizer", 90.0, 91.0),
    ]
    trace = json.loads(write_chrome(tmp_path / "trace.json", timeline, extra).read_text())
    assert trace == json.loads(json.dumps(to_chrome(timeline, extra)))
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(events) == len(timeline) + 2
    assert sum(event["dur"] for event in events[:-2]) == pytest.approx(
        1e6 * float((timeline.end_s - timeline.start_s).sum())
    )
    assert events[-2]["dur"] == pytest.approx(1.5e6)
    names = [event for event in trace["traceEvents"] if event["name"] == "thread_name"]
    threads = {(event["pid"], event["tid"]): event["args"]["name"] for event in names}
    assert {(event["pid"], event["tid"]) for event in events} <= set(threads)
    assert sorted(set(threads.values())) == ["compute", "data parallel", "pipeline link"]
    assert {event["pid"] for event in trace["traceEvents"]} == set(range(4))


def test_extra_rows_are_checked() -> None:
    timeline = sample("1f1b")
    with pytest.raises(ValueError, match="stage 4"):
        to_chrome(timeline, [ExtraRow(4, "compute", "optimizer", 0.0, 1.0)])
    with pytest.raises(ValueError, match="before its start"):
        to_chrome(timeline, [ExtraRow(0, "compute", "optimizer", 2.0, 1.0)])
