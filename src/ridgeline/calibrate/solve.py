"""Fit a few positive numbers of a formula to timed rows, and say how far off unseen shapes are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial import cKDTree

from ridgeline.calibrate.tables import Table, held_out, select, thin
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.observation import Label
from ridgeline.timing.rates import Array

Predict = Callable[[Array, Table], Array]
#: Errors above this are outliers to the robust loss.
SOFT_ERROR = 0.08
#: Neighbours of the floor.
NEIGHBOURS = 3
#: Evaluations of the Jacobian at most.
PATIENCE = 40


def solve(
    predict: Predict, rows: Table, start: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Array:
    """Positive numbers x that minimise the soft-L1 loss of log(predict(x, rows) / rows['seconds'])."""
    measured = np.log(rows["seconds"])
    weight = rows.get("weight", np.ones_like(measured))

    def residual(logarithms: Array) -> Array:
        """Weighted logarithmic error of every row."""
        return np.asarray(weight * (np.log(predict(np.exp(logarithms), rows)) - measured))

    found = least_squares(
        residual,
        np.log(start),
        bounds=(np.log(low), np.log(high)),
        loss="soft_l1",
        f_scale=SOFT_ERROR,
        max_nfev=PATIENCE,
    )
    return np.asarray(np.exp(found.x))


def solve_seen(
    predict: Predict,
    rows: Table,
    keys: Sequence[str],
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> Array:
    """`solve` on rows whose shape is not held out, thinned."""
    return solve(predict, select(rows, thin(~held_out(rows, tuple(keys)))), start, low, high)


def loss_seen(predict: Predict, rows: Table, keys: Sequence[str], numbers: Array) -> float:
    """What `solve_seen` minimises, at ``numbers``."""
    seen = select(rows, thin(~held_out(rows, tuple(keys))))
    error = np.log(predict(numbers, seen) / seen["seconds"]) * seen.get("weight", 1.0) / SOFT_ERROR
    return float(np.sum(np.sqrt(1.0 + np.square(error))))


def nearest(rows: Table, keys: Sequence[str], scale: Array, sizes: Sequence[str]) -> Array:
    """Times of all rows from the three nearest shapes that are not held out [s]: their ratios to ``scale``.

    ``keys`` tell what is held out, the logarithms of ``sizes`` how near two rows are. A floor: what the rows themselves
    say of a shape between them, whatever the formula.
    """
    unseen = held_out(rows, tuple(keys))
    place = np.log(np.stack([rows[key].astype(np.float64) for key in sizes], axis=1))
    ratio = np.log(rows["seconds"] / scale)
    distance, index = cKDTree(place[~unseen]).query(place, NEIGHBOURS)
    weight = 1.0 / (distance + 1e-9)
    return np.asarray(scale * np.exp(np.sum(weight * ratio[~unseen][index], axis=1) / np.sum(weight, axis=1)))


def provenance(
    rows: Table,
    keys: Sequence[str],
    seconds: Array,
    source: str,
    library: str | None,
    floor: Array | None = None,
) -> Provenance:
    """Provenance of a fit whose predictions are ``seconds``: its errors are those of the held-out shapes.

    ``floor``: times of `nearest`, whose errors stand beside.
    """
    unseen = held_out(rows, tuple(keys))
    measured = rows["seconds"][unseen]
    error, least = (
        np.zeros(0) if one is None else np.abs(one[unseen] / measured - 1.0) for one in (seconds, floor)
    )
    return Provenance(
        label=Label.FITTED,
        source=source,
        library=library,
        rows=int((~unseen).sum()),
        median_abs_err=float(np.median(error)) if error.size else None,
        p90_abs_err=float(np.quantile(error, 0.9)) if error.size else None,
        nearest_median_abs_err=float(np.median(least)) if least.size else None,
        nearest_p90_abs_err=float(np.quantile(least, 0.9)) if least.size else None,
    )
