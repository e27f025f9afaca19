"""The closed forms against the published laws, against the exact timeline, and grid against scalar."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgeline.facts.plan import SCHEDULES
from ridgeline.sim.schedule import (
    BLOCK,
    gather_window_s,
    hidden_gather_s,
    hidden_reduction_s,
    in_flight,
    parameter_copies,
    pipeline_seconds,
    reduction_window_s,
)
from ridgeline.sim.stage_costs import (
    StageCosts,
    above,
    class_rows,
    class_stages,
    expand,
    stage_class,
    stage_counts,
)
from ridgeline.sim.timeline import simulate

seconds = st.floats(0.2, 3.0)
factors = st.lists(st.floats(0.9, 1.1), min_size=4, max_size=4)
EXACT = pytest.approx


def uniform(f: float, b: float, w: float, send_s: float = 0.0, overlapped: bool = True) -> StageCosts:
    ones = np.ones(4)
    return StageCosts(
        forward_s=f * ones,
        input_grad_s=b * ones,
        weight_grad_s=w * ones,
        send_s=send_s,
        send_overlapped=overlapped,
    )


def sized(schedule: str, pp: int, groups: int) -> tuple[int, int]:
    """A legal (pp, number of micro-batches) within the validity of the closed form of a schedule."""
    if schedule == "dualpipe":
        pp = 2 * ((pp + 1) // 2)
        return pp, 2 * pp + 2 * (groups - 1)
    m = {"zb-h1": pp, "zb-h2": 2 * pp - 1, "zb-v": 2 * pp - 1}.get(schedule, 1)
    return pp, groups * pp if schedule == "interleaved" else m + groups - 1


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(
    f=seconds, b=seconds, w=seconds, pp=st.integers(1, 10), vpp=st.integers(1, 4), groups=st.integers(1, 6)
)
@settings(max_examples=60, deadline=None)
def test_equal_stages_are_exact(
    schedule: str, f: float, b: float, w: float, pp: int, vpp: int, groups: int
) -> None:
    pp, m = sized(schedule, pp, groups)
    costs = uniform(f, b, w)
    exact = simulate(schedule, costs, m, pp, vpp)
    times = pipeline_seconds(schedule, costs, m, pp, vpp)
    assert float(times.total_s) == EXACT(exact.total_s, rel=1e-9)
    assert float(times.busy_s) == EXACT(max(exact.busy_s(stage) for stage in range(pp)), rel=1e-9)
    assert float(times.exposed_send_s) == EXACT(0.0, abs=1e-9 * exact.total_s)
    span = max(exact.span_s(stage) for stage in range(pp))
    assert float(times.total_s - times.skew_s) == EXACT(span, rel=1e-9)


# How far (below, above) the exact timeline a form may be with equal stages and sends of up to 10 % of F.
SEND_TOLERANCE = {
    "gpipe": (1e-9, 1e-9),
    "1f1b": (0.01, 1e-9),
    "interleaved": (1e-9, 0.02),
    "zb-h1": (0.02, 1e-9),
    "zb-h2": (0.02, 1e-9),
    "zb-v": (0.02, 0.03),
    "dualpipe": (0.02, 0.04),
}


@pytest.mark.parametrize("overlapped", [True, False])
@pytest.mark.parametrize("schedule", SCHEDULES)
@given(
    b=st.floats(0.8, 1.4), w=st.floats(0.7, 1.0), send=st.floats(0.0, 0.1), pp=st.integers(1, 10),
    vpp=st.integers(2, 4), groups=st.integers(1, 6),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_sends(
    schedule: str, overlapped: bool, b: float, w: float, send: float, pp: int, vpp: int, groups: int
) -> None:
    pp, m = sized(schedule, pp, groups)
    hop = send / vpp if schedule == "interleaved" else send
    costs = uniform(1.0, b, w, hop, overlapped)
    exact = simulate(schedule, costs, m, pp, vpp).total_s
    low, high = SEND_TOLERANCE[schedule]
    total = float(pipeline_seconds(schedule, costs, m, pp, vpp).total_s)
    assert exact * (1 - low) - 1e-9 <= total <= exact * (1 + high) + 1e-9


# How far (below, above) the exact timeline a form may be when stages differ by up to 10 % in each phase.
UNEVEN_TOLERANCE = {
    "gpipe": (1e-9, 1e-9),
    "1f1b": (0.005, 1e-9),
    "interleaved": (0.04, 1e-9),
    "zb-h1": (0.01, 1e-9),
    "zb-h2": (0.03, 1e-9),
    "zb-v": (0.04, 0.07),
    "dualpipe": (0.02, 0.09),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(
    f=factors, b=factors, w=factors, pp=st.integers(1, 12), vpp=st.integers(2, 4), groups=st.integers(1, 8)
)
@settings(max_examples=60, deadline=None)
def test_stages_that_differ(
    schedule: str, f: list[float], b: list[float], w: list[float], pp: int, vpp: int, groups: int
) -> None:
    pp, m = sized(schedule, pp, groups)
    costs = StageCosts(forward_s=np.array(f), input_grad_s=1.1 * np.array(b), weight_grad_s=0.9 * np.array(w))
    exact = simulate(schedule, costs, m, pp, vpp).total_s
    low, high = UNEVEN_TOLERANCE[schedule]
    total = float(pipeline_seconds(schedule, costs, m, pp, vpp).total_s)
    assert exact * (1 - low) - 1e-9 <= total <= exact * (1 + high) + 1e-9


@pytest.mark.parametrize("last", [0.7, 1.0, 1.3])
@pytest.mark.parametrize("pp", [2, 4, 8, 16])
def test_uneven_last_stage_of_one_forward_one_backward_is_exact(pp: int, last: float) -> None:
    forward = np.array([1.1, 1.0, 1.0, last])
    costs = StageCosts(forward_s=forward, input_grad_s=1.2 * forward, weight_grad_s=0.9 * forward)
    for m in (pp, 2 * pp, 5 * pp + 3):
        exact = simulate("1f1b", costs, m, pp).total_s
        assert float(pipeline_seconds("1f1b", costs, m, pp).total_s) == EXACT(exact, rel=1e-9)


def test_published_laws() -> None:
    f, b, w, pp, m = 1.0, 1.3, 0.8, 8, 32
    c, costs = f + b + w, uniform(1.0, 1.3, 0.8)

    def bubble(schedule: str, vpp: int = 1) -> float:
        times = pipeline_seconds(schedule, costs, m, pp, vpp)
        assert float(times.busy_s) == EXACT(m * c)
        return float(times.bubble_s - times.skew_s)

    assert bubble("gpipe") == EXACT((pp - 1) * c)
    assert bubble("1f1b") == EXACT((pp - 1) * c)
    assert bubble("interleaved", 4) == EXACT((pp - 1) / 4 * c)
    assert bubble("zb-h1") == EXACT((pp - 1) * (f + b - w))
    assert bubble("zb-h2") == EXACT((pp - 1) * (f + b - 2 * w))
    assert bubble("dualpipe") <= (pp / 2 - 1) * (f + 2 * b - w) + 1e-9
    even = pipeline_seconds("zb-v", uniform(1.0, 1.0, 1.0), m, pp)
    assert float(even.bubble_s - even.skew_s) == EXACT(0.0, abs=1e-9)


@given(pp=st.integers(1, 16), vpp=st.integers(1, 8), groups=st.integers(1, 5))
def test_step_time_is_linear_in_the_number_of_micro_batches(pp: int, vpp: int, groups: int) -> None:
    """``T = a (m + (pp - 1) / vpp) + c``, the law that published step times follow."""
    a, m = 2.5, groups * pp
    times = pipeline_seconds("interleaved", uniform(1.0, 0.9, 0.6), m, pp, vpp)
    assert float(times.total_s) == EXACT(a * (m + (pp - 1) / vpp), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("overlapped", [True, False])
def test_grid_equals_scalar(schedule: str, overlapped: bool) -> None:
    rng = np.random.default_rng(7)
    n = 40
    pp, vpp = rng.integers(1, 9, n), rng.integers(1, 4, n)
    m = pp * rng.integers(1, 5, n)
    costs = StageCosts(
        forward_s=rng.uniform(0.5, 1.5, (4, n)),
        input_grad_s=rng.uniform(0.5, 1.5, (4, n)),
        weight_grad_s=rng.uniform(0.5, 1.5, (4, n)),
        send_s=rng.uniform(0.0, 0.1, n),
        send_overlapped=overlapped,
    )
    traffic = rng.uniform(0.0, 10.0, (4, n))
    whole = pipeline_seconds(schedule, costs, m, pp, vpp)
    held = in_flight(schedule, m, pp, vpp)
    windows = [form(schedule, costs, m, pp, vpp) for form in (reduction_window_s, gather_window_s)]
    hidden = [form(schedule, costs, traffic, pp, vpp) for form in (hidden_reduction_s, hidden_gather_s)]
    for i in range(n):
        one, degrees = costs.at(i), (int(pp[i]), int(vpp[i]))
        alone = pipeline_seconds(schedule, one, int(m[i]), *degrees)
        for name in ("total_s", "busy_s", "bubble_s", "exposed_send_s", "skew_s"):
            assert getattr(whole, name)[i] == getattr(alone, name)
        assert np.array_equal(held[:, i], in_flight(schedule, int(m[i]), *degrees))
        for grid, form in zip(windows, (reduction_window_s, gather_window_s), strict=True):
            assert np.array_equal(grid[:, i], form(schedule, one, int(m[i]), *degrees))
        for grid, part in zip(hidden, (hidden_reduction_s, hidden_gather_s), strict=True):
            assert np.array_equal(grid[:, i], part(schedule, one, traffic[:, i], *degrees))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_long_grid_equals_its_parts(schedule: str) -> None:
    rng = np.random.default_rng(8)
    n = 2 * BLOCK + 50
    pp, vpp, m = rng.integers(1, 9, n), rng.integers(1, 4, n), rng.integers(1, 30, n)
    forward, grad, weight = rng.uniform(0.5, 1.5, (3, 4, n))
    whole = pipeline_seconds(
        schedule,
        StageCosts(forward_s=forward, input_grad_s=grad, weight_grad_s=weight, send_s=0.1),
        m,
        pp,
        vpp,
    )
    for part in (slice(0, 70), slice(BLOCK - 30, BLOCK + 30), slice(2 * BLOCK - 30, n)):
        costs = StageCosts(
            forward_s=forward[:, part],
            input_grad_s=grad[:, part],
            weight_grad_s=weight[:, part],
            send_s=0.1,
        )
        times = pipeline_seconds(schedule, costs, m[part], pp[part], vpp[part])
        assert np.array_equal(whole.total_s[part], times.total_s)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_cost_serves_many_degrees(schedule: str) -> None:
    """Costs [4] with degrees [plans], and costs [4, plans] with a plain pp."""
    costs = uniform(1.0, 1.2, 0.8, 0.03)
    wide = StageCosts(
        forward_s=np.full((4, 3), 1.0),
        input_grad_s=np.full((4, 3), 1.2),
        weight_grad_s=np.full((4, 3), 0.8),
        send_s=0.03,
    )
    m, pp = np.array([8, 8, 8]), np.array([1, 4, 8])
    times = pipeline_seconds(schedule, costs, m, pp, 2)
    for i in range(3):
        degree = int(pp[i])
        alone = pipeline_seconds(schedule, costs, 8, degree, 2)
        assert times.total_s[i] == alone.total_s == pipeline_seconds(schedule, wide, 8, degree, 2).total_s[i]
        for form in (reduction_window_s, gather_window_s):
            window = form(schedule, costs, 8, degree, 2)
            assert np.array_equal(form(schedule, costs, m, pp, 2)[:, i], window)
            assert np.array_equal(form(schedule, wide, 8, degree, 2)[:, i], window)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_parts_add_up(schedule: str) -> None:
    costs = StageCosts(
        forward_s=np.array([1.0, 1.1, 1.2, 1.4]),
        input_grad_s=np.array([1.0, 1.1, 1.2, 1.5]),
        weight_grad_s=np.array([0.9, 0.9, 0.9, 0.8]),
        send_s=0.05,
    )
    for pp in (1, 2, 3, 4, 8):
        times = pipeline_seconds(schedule, costs, 3 * pp, pp, 2)
        assert float(times.total_s) == float(times.busy_s + times.bubble_s + times.exposed_send_s)
        assert min(float(times.bubble_s), float(times.exposed_send_s), float(times.skew_s)) >= 0.0
        if pp == 1:
            assert float(times.bubble_s) == float(times.exposed_send_s) == 0.0


@pytest.mark.parametrize("schedule", SCHEDULES)
@given(pp=st.integers(1, 8), vpp=st.integers(2, 4), groups=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_in_flight_is_what_the_timeline_holds(schedule: str, pp: int, vpp: int, groups: int) -> None:
    pp, m = sized(schedule, pp, groups)
    exact = simulate(schedule, uniform(1.0, 1.0, 1.0), m, pp, vpp)
    held = in_flight(schedule, m, pp, vpp)
    for kind in range(4):
        stages = [stage for stage in range(pp) if int(stage_class(stage, pp)) == kind]
        if stages:
            assert held[kind] == EXACT(max(exact.peak_in_flight(stage) for stage in stages))


def test_in_flight_of_the_first_interleaved_stage() -> None:
    """2205.05198 section 4.2.3: ``pp (1 + (pp - 1) / (pp vpp))``."""
    assert in_flight("interleaved", 64, 8, 4)[0] == EXACT(8 * (1 + 7 / 32))
    assert parameter_copies("dualpipe") == 2
    assert parameter_copies("1f1b") == 1


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved"])
@given(b=seconds, pp=st.integers(1, 8), vpp=st.integers(1, 4), groups=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_windows_are_those_of_the_timeline(schedule: str, b: float, pp: int, vpp: int, groups: int) -> None:
    pp, m = sized(schedule, pp, groups)
    costs = uniform(1.0, b, b)
    exact = simulate(schedule, costs, m, pp, vpp)
    chunks = vpp if schedule == "interleaved" and pp > 1 else 1
    reduction = reduction_window_s(schedule, costs, m, pp, chunks)
    gather = gather_window_s(schedule, costs, m, pp, chunks)
    for kind, stage in enumerate((0, min(1, pp - 1), min(2, pp - 1), pp - 1)):
        ready = min(exact.gradient_ready_s(stage, chunk) for chunk in range(chunks))
        assert reduction[kind] == EXACT(exact.total_s - ready + 2 * b / chunks)
        needed = max(exact.first_use_s(stage, chunk) for chunk in range(chunks))
        assert gather[kind] == EXACT(needed + 1.0 / chunks)


@pytest.mark.parametrize("schedule", ["zb-h1", "zb-h2", "zb-v", "dualpipe"])
@pytest.mark.parametrize("pp", [2, 4, 8])
def test_windows_of_split_backwards_are_safe(schedule: str, pp: int) -> None:
    """Never longer than what the timeline leaves; equal on the first stage but for the skew."""
    costs, chunks = uniform(1.0, 1.0, 1.0), 2 if schedule in ("zb-v", "dualpipe") else 1
    exact = simulate(schedule, costs, 4 * pp, pp)
    piece = 0.5 if schedule == "zb-v" else 1.0
    window = reduction_window_s(schedule, costs, 4 * pp, pp)
    for stage in range(pp):
        ready = [exact.gradient_ready_s(stage, chunk) for chunk in range(chunks)]
        row = window[int(stage_class(stage, pp))]
        if schedule != "zb-v" or stage <= 2:
            assert row <= exact.total_s - min(ready) + piece + 1e-9
        if stage == 0:
            end = exact.end_s[exact.compute(0)].max()
            assert row == EXACT(end - min(ready) + piece)


def test_hidden_reduction_leaves_the_last_chunk() -> None:
    costs, pp, vpp = uniform(1.0, 1.0, 1.0), 4, 4
    window = reduction_window_s("interleaved", costs, 16, pp, vpp)
    small, large = 0.1 * np.ones(4), 100.0 * np.ones(4)
    assert np.allclose(hidden_reduction_s("interleaved", costs, small, pp, vpp), small)
    assert np.allclose(hidden_reduction_s("interleaved", costs, large, pp, vpp), window)
    # four pieces of 1 s: the last one has only its own backward of 0.5 s to hide under
    assert hidden_reduction_s("interleaved", costs, 4.0 * np.ones(4), pp, vpp)[0] == EXACT(3.5)


def test_stage_classes() -> None:
    assert [int(kind) for kind in stage_class(np.arange(6), 6)] == [0, 1, 2, 2, 2, 3]
    assert stage_counts(np.array([1, 2, 3, 4, 9])).T.tolist() == [
        [1, 0, 0, 0], [1, 0, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 6, 1],
    ]  # fmt: skip
    values = np.array([1.0, 20.0, 300.0, 4000.0])
    for pp in range(1, 8):
        stages = expand(values, pp)
        rows, index = class_rows(values, pp), class_stages(pp)
        assert rows.max() == stages.max()
        for row, sum_above, stage in zip(rows, above(rows, index), index, strict=True):
            assert row == stages[int(stage)]
            assert sum_above == stages[: int(stage)].sum()


def test_unknown_schedule_names_the_choices() -> None:
    with pytest.raises(ValueError, match="zb-h1"):
        pipeline_seconds("2f2b", uniform(1.0, 1.0, 1.0), 4, 2)
    with pytest.raises(ValueError, match="zb-h1"):
        in_flight("2f2b", 4, 2)
