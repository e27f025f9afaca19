"""Expert layers: timing table rows to `GroupedFit`, and a fit back to the times of rows.

A row times a whole gated expert layer on one rank: two grouped products (gate and up together, then down) and the
memory-bound kernels around them: the activation and the permuted copies of the routed rows, and the routing and
weighted sum of all tokens of the expert-parallel group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ridgeline.calibrate import correction
from ridgeline.calibrate.gemm_fit import gemm_rates_of
from ridgeline.calibrate.routing import busiest
from ridgeline.calibrate.solve import loss_seen, nearest, provenance, solve_seen
from ridgeline.calibrate.tables import LEAST_ROWS, Table, held_out, select
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import GemmFit, GroupedFit, StreamFit
from ridgeline.facts.surface import Surface, surface
from ridgeline.timing.grouped import SURFACE, GroupedRates, grouped_seconds
from ridgeline.timing.rates import Array
from ridgeline.timing.surface import factor

KEYS = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
BALANCED = "balanced"
SKEWED = "power-law routing"


def exponent(distribution: str) -> float | None:
    """Of ``power_law_1.2``; None of ``balanced``."""
    return None if distribution == BALANCED else float(distribution.rpartition("_")[2])


def layers(rows: Table, distribution: str) -> dict[str, Array]:
    """Sizes of one rank's expert layer from the columns of a table with one distribution of routing."""
    tokens, ranks = rows["num_tokens"].astype(np.float64), rows["moe_ep_size"].astype(np.float64)
    power = exponent(distribution)
    experts = np.maximum(1.0, rows["num_experts"] / ranks)
    if power is None:
        routed = np.maximum(1.0, tokens * rows["topk"] / ranks)
        active = np.minimum(experts, routed)  # balanced routing leaves none out
    else:
        routed, active = busiest(tokens, rows["topk"], rows["num_experts"], ranks, power)
    hidden = rows["hidden_size"].astype(np.float64)
    inner = rows["inter_size"] / rows["moe_tp_size"]
    slots = tokens * rows["topk"]
    return {
        "tokens": tokens,
        "slots": slots,
        "routed": routed,
        "active": active,
        "hidden": hidden,
        "inner": inner,
    }


def _parts(
    fit_numbers: tuple[Any, ...], sizes: Table, dense: Any, stream: StreamFit, chip: Chip
) -> tuple[Array, Array, Array]:
    """Up product, down product and everything around them [s]."""
    rate, padding, launch, fixed, row_passes, token_passes, slot_passes = fit_numbers
    rates = GroupedRates(dense, rate, padding, launch)
    rows, active, hidden, inner = (sizes[key] for key in ("routed", "active", "hidden", "inner"))
    up = grouped_seconds(rows, active, 2.0 * inner, hidden, rates, active=active)
    down = grouped_seconds(rows, active, hidden, inner, rates, active=active)
    width = 3.0 * inner + 2.0 * hidden
    around = (row_passes * rows + slot_passes * sizes["slots"]) * width + token_passes * sizes[
        "tokens"
    ] * hidden
    return up, down, fixed + 2.0 * around / (stream.memory * chip.memory.bandwidth)


def _points(sizes: Table) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Where the surface is read for the up and for the down product."""
    mean, active = sizes["routed"] / sizes["active"], sizes["active"]
    return (mean, active, 2.0 * sizes["inner"], sizes["hidden"]), (
        mean,
        active,
        sizes["hidden"],
        sizes["inner"],
    )


def layer_seconds(
    fit: GroupedFit,
    sizes: Table,
    chip: Chip,
    format_name: str,
    gemm: Mapping[str, GemmFit],
    stream: StreamFit,
    skewed: bool,
) -> Array:
    """Times of `layers` [s]; the surface of each product counts by its share of the two."""
    dense = gemm_rates_of(gemm[format_name], chip, format_name)
    numbers = (
        fit.rate,
        fit.padding,
        fit.launch,
        fit.fixed,
        fit.row_passes,
        fit.token_passes,
        fit.slot_passes,
    )
    up, down, around = _parts(numbers, sizes, dense, stream, chip)
    found = fit.skewed if skewed and fit.skewed is not None else fit.surface
    if found is None:
        return up + down + around
    above, below = (np.log(factor(SURFACE, found.nodes, at)) for at in _points(sizes))
    return np.asarray((up + down + around) * np.exp((up * above + down * below) / (up + down)))


def fit_grouped(
    parts: Mapping[str, Table],
    chip: Chip,
    format_name: str,
    gemm: Mapping[str, GemmFit],
    stream: StreamFit,
    source: str,
    library: str,
) -> GroupedFit:
    """Fit on rows by distribution; the numbers come from balanced routing, skewed routing has its own surface."""
    dense = gemm_rates_of(gemm[format_name], chip, format_name)
    launch = float(np.ravel(dense.launch)[0])
    tables = {name: {**rows, **layers(rows, name)} for name, rows in parts.items()}
    first = tables.get(BALANCED) or next(iter(tables.values()))

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        up, down, around = _parts((*x[:2], launch, *x[2:]), r, dense, stream, chip)
        return up + down + around

    #        rate padding fixed passes: row token slot
    start = [0.9, 4.0, 1e-5, 1.0, 1.0, 0.1]
    low = [0.05, 0.1, 1e-7, 0.1, 0.05, 1e-3]
    high = [1.0, 128.0, 1e-4, 5.0, 10.0, 5.0]
    # Kernels whose tiles have 128 rows whatever an expert gets are a minimum of their own, which few padded rows and a
    # tiny rate hide (Cutlass on Hopper).
    tiled = [0.3, 100.0, *start[2:]]
    numbers = min(
        (solve_seen(predict, first, KEYS, one, low, high) for one in (start, tiled)),
        key=lambda found: loss_seen(predict, first, KEYS, found),
    )
    rate, padding, fixed, row_passes, token_passes, slot_passes = map(float, numbers)

    def correct(name: str | None) -> Surface | None:
        """The surface of balanced rows, or that of all others."""
        chosen = [t for key, t in tables.items() if (key == BALANCED) == (name == BALANCED)]
        if not chosen:
            return None
        rows = {key: np.concatenate([one[key] for one in chosen]) for key in chosen[0]}
        if len(rows["seconds"]) < LEAST_ROWS:
            return None  # too few to say more than the numbers do
        seen = select(rows, ~held_out(rows, KEYS))
        up, down, around = _parts((*numbers[:2], launch, *numbers[2:]), seen, dense, stream, chip)
        above, below = (correction.weights(SURFACE, [np.log2(a) for a in at]) for at in _points(seen))
        share = (up / (up + down))[:, None]
        design = above.multiply(share) + below.multiply(1.0 - share)
        missed = np.log(seen["seconds"] / (up + down + around))
        return surface(correction.fit_surface(SURFACE, design.tocsr(), missed, formula, rising=(0,)))

    def formula(sizes: tuple[Array, ...]) -> Array:
        """Seconds of one product at nodes."""
        mean, active, n, k = sizes
        rates = GroupedRates(dense, rate, padding, launch)
        return grouped_seconds(mean * active, active, n, k, rates, active=active)

    unknown = provenance(first, KEYS, first["seconds"], source, library)
    fit = GroupedFit(
        rate=rate, padding=padding, launch=f"{launch!r} s", fixed=f"{fixed!r} s", row_passes=row_passes,
        token_passes=token_passes, slot_passes=slot_passes, surface=correct(BALANCED), skewed=correct(None),
        provenance=unknown,
    )  # fmt: skip
    errors: dict[str, Any] = {}
    for field, wanted in (("provenance", True), ("skewed_provenance", False)):
        chosen = [(name, t) for name, t in tables.items() if (name == BALANCED) == wanted]
        if not chosen:
            continue
        rows = {key: np.concatenate([t[key] for _, t in chosen]) for key in chosen[0][1]}
        bare = fit.model_copy(update={"surface": None, "skewed": None})
        found, plain = (
            np.concatenate(
                [layer_seconds(one, t, chip, format_name, gemm, stream, not wanted) for _, t in chosen]
            )
            for one in (fit, bare)
        )
        # rows of one exponent are nearer to each other than to another's
        power = np.concatenate([np.full(len(t["seconds"]), 10.0 ** (exponent(n) or 0.0)) for n, t in chosen])
        floor = nearest({**rows, "power": power}, KEYS, plain, (*KEYS, "power"))
        named = source if wanted else SKEWED
        errors[field] = provenance(rows, KEYS, found, named, library if wanted else None, floor)
    if "provenance" not in errors:  # no balanced rows: what is known is known of skewed ones
        own = {"source": source, "library": library}
        errors["provenance"] = errors["skewed_provenance"].model_copy(update=own)
    return fit.model_copy(update=errors)
