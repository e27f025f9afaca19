"""Published results hold: every run of ``facts/data/published`` is predicted within its tolerance."""

from __future__ import annotations

import pytest

from ridgeline.calibrate.published import PublishedRun, read_published
from ridgeline.calibrate.scoreboard import predict_case

predict = pytest.importorskip("ridgeline.predict", exc_type=ImportError)

RUNS = read_published()


def test_there_are_enough_and_their_names_are_unique() -> None:
    names = [run.case.id for run in RUNS]
    assert len(names) >= 25
    assert len(set(names)) == len(names)
    assert all(0.0 < run.tolerance <= 0.3 for run in RUNS)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.case.id)
def test_published_result(run: PublishedRun) -> None:
    found = predict_case(run.case, predict.train)
    error = found.best.step_time_s / run.case.step_time_s - 1.0
    if run.miss and abs(error) > run.tolerance:
        pytest.xfail(f"known miss, {100 * error:+.0f} %: {run.miss}")
    assert abs(error) <= run.tolerance, f"predicted {found.best.step_time_s:.4g} s ({100 * error:+.1f} %)"
    assert found.best.bound_s <= run.case.step_time_s * 1.02, "a measured run is faster than its bound"
