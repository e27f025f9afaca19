"""Grouped matrix multiplication: the experts of one rank in one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import GroupedFit, KernelSet
from ridgeline.facts.observation import Label
from ridgeline.timing.gemm import GemmRates, formula_seconds, gemm_bound_seconds, gemm_rates, gemm_seconds
from ridgeline.timing.rates import Array, Numeric, column, resolve, worst
from ridgeline.timing.surface import count, factor, knots, nodes, stacked

#: Nodes of the correction: rows of an active expert, active experts, columns, depth.
SURFACE = knots(
    (0, 2, 4, 6, 7, 8, 9, 11, 15), (0, 3, 5, 7, 9.8), (4, 8, 10, 11, 12, 13, 15), (4, 8, 10, 11, 12, 13, 15)
)


class GroupedRates(NamedTuple):
    """The dense rates of the same operators, and what grouping changes."""

    gemm: GemmRates
    rate: Numeric
    padding: Numeric
    launch: Numeric
    surface: Array | None = None  # nodes on `SURFACE`, the last axis
    labels: tuple[Label, ...] = ()  # one per operator


def grouped_rates(
    chip: Chip, kernels: KernelSet, formats: Sequence[str], out_bytes: float = 2.0
) -> GroupedRates:
    """Stack hardware and fits for operators of the given formats; every field is ``[len(formats), 1]``."""
    gemm = gemm_rates(chip, kernels, formats, out_bytes)
    found = [resolve(kernels.grouped, name) for name in formats]
    return GroupedRates(
        gemm=gemm,
        rate=column([fit.rate for fit, _ in found]),
        padding=column([fit.padding for fit, _ in found]),
        launch=column([fit.launch for fit, _ in found]),
        surface=stacked([nodes(fit.surface) for fit, _ in found], count(SURFACE)),
        labels=tuple(worst(label, dense) for (_, label), dense in zip(found, gemm.labels, strict=True)),
    )


def fit_rates(gemm: GemmRates, fit: GroupedFit) -> GroupedRates:
    """Rates of one grouped fit on top of dense rates."""
    return GroupedRates(gemm, fit.rate, fit.padding, fit.launch, nodes(fit.surface), (fit.provenance.label,))


def active_experts(rows: Numeric, experts: Numeric) -> Array:
    """Experts that get any of ``rows`` evenly drawn rows: experts (1 - exp(-rows / experts)), at least 1."""
    experts = np.asarray(experts, dtype=np.float64)
    evenly = -experts * np.expm1(-np.asarray(rows, dtype=np.float64) / experts)
    return np.asarray(np.maximum(1.0, evenly))


def grouped_bound_seconds(
    rows: Numeric, experts: Numeric, n: Numeric, k: Numeric, rates: GroupedRates, *, imbalance: Numeric = 1.0
) -> Array:
    """Roofline lower bound [s], weights of active experts read once. Shapes as in `grouped_seconds`."""
    rows = np.asarray(rows, dtype=np.float64) * imbalance
    active = active_experts(rows, experts)
    return gemm_bound_seconds(rows / active, n, k, active, rates.gemm)


def grouped_seconds(
    rows: Numeric,
    experts: Numeric,
    n: Numeric,
    k: Numeric,
    rates: GroupedRates,
    *,
    imbalance: Numeric = 1.0,
    active: Numeric | None = None,
) -> Array:
    """Time of one grouped product: ``experts`` matrices [n, k], each on its share of ``rows`` [s].

    The dense formula (`ridgeline.timing.gemm.gemm_seconds`) with ``m`` = rows per active expert and ``batch``
    = active experts, its matrix rate times ``rate`` and ``padding`` rows more per expert: groups are aligned
    before they are multiplied. The dense correction surface does not apply; a grouped one may.

    Args:
        rows: routed rows on this rank, all experts together (tokens x topk / ep when balanced); at least 1.
        experts: experts whose weights this rank holds.
        n, k: columns of the output and depth of one expert's matrix on this rank.
        rates: hardware and fits, `grouped_rates` or `fit_rates`.
        imbalance: rows of the busiest rank over the mean (1 = balanced): everyone waits for that rank. With
            one expert per rank it is the busiest expert over the mean.
        active: experts that get rows, at most ``experts``; without it what random routing makes of them.
    """
    rows = np.asarray(rows, dtype=np.float64) * imbalance
    busy = active_experts(rows, experts) if active is None else np.asarray(active, dtype=np.float64)
    dense = rates.gemm._replace(rate=rates.gemm.rate * rates.rate, launch=rates.launch)
    seconds = formula_seconds(rows / busy + rates.padding, n, k, busy, dense)
    if rates.surface is None:
        return seconds
    seconds = seconds * factor(SURFACE, rates.surface, (rows / busy, busy, n, k))
    # Layers were timed whole: what a surface gives to the products alone must not make them faster than one
    # product of all rows with one expert's weights, nor than their bytes.
    whole = gemm_seconds(rows, n, k, 1.0, rates.gemm)
    return np.maximum(seconds, np.maximum(whole, gemm_bound_seconds(rows / busy, n, k, busy, rates.gemm)))
