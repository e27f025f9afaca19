"""Dense products: timing table rows to `GemmFit`, and a fit back to the times of rows."""

from __future__ import annotations

import numpy as np

from ridgeline.calibrate import correction
from ridgeline.calibrate.solve import nearest, provenance, solve_seen
from ridgeline.calibrate.tables import Table, held_out, select
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import GemmFit
from ridgeline.facts.surface import surface
from ridgeline.timing.gemm import SURFACE, GemmRates, fit_rates, formula_seconds, gemm_bound_seconds
from ridgeline.timing.rates import Array, operand, peak_flops_per_s, tiling_cores
from ridgeline.timing.surface import factor

KEYS = ("m", "n", "k")
#: Products of a training step have all sides this long; they weigh more in the loss.
LARGE_SIDE, LARGE_WEIGHT = 2048, 2.0
OUT_BYTES = 2.0
#: Level of a node, and weight of the difference of neighbours: a grid of products is small, so that it need not pack
#: well, and they are held to closer targets than other kernels.
LEVEL, SOFT = 0.01, 0.15


def gemm_rates_of(fit: GemmFit, chip: Chip, format_name: str) -> GemmRates:
    """Rates of one fit, all floats."""
    return fit_rates(
        fit,
        peak_flops_per_s=peak_flops_per_s(chip, format_name),
        bandwidth_bytes_per_s=chip.memory.bandwidth,
        cores=tiling_cores(chip),
        in_bytes=operand(format_name).bytes,
        out_bytes=OUT_BYTES,
    )


def gemm_rows_seconds(fit: GemmFit, rows: Table, chip: Chip, format_name: str) -> Array:
    """Times of rows with columns m, n, k [s]: the product, and the cast that the library times with it."""
    rates = gemm_rates_of(fit, chip, format_name)
    m, n, k = (rows[key].astype(np.float64) for key in KEYS)
    cast = _cast(fit.cast, fit.cast_passes, m * k, operand(format_name).bytes, chip)
    seconds = formula_seconds(m, n, k, 1.0, rates) + cast
    return seconds if rates.surface is None else seconds * factor(SURFACE, rates.surface, (m, n, k))


def _cast(fixed: float, passes: float, values: Array, in_bytes: float, chip: Chip) -> Array:
    """Quantisation of ``values`` from two bytes each [s]."""
    return fixed + passes * (2.0 + in_bytes) * values / chip.memory.bandwidth


def fit_gemm(
    rows: Table, chip: Chip, format_name: str, source: str, library: str = "", quantises: bool = False
) -> GemmFit:
    """Fit on columns m, n, k and seconds.

    ``quantises``: the rows also contain the quantisation of the activation; its fixed time and passes are fitted
    beside the kernel and kept apart, because a training recipe counts its casts itself.
    """
    bandwidth, peak = chip.memory.bandwidth, peak_flops_per_s(chip, format_name)
    in_bytes, cores = operand(format_name).bytes, tiling_cores(chip)
    large = np.minimum(np.minimum(rows["m"], rows["n"]), rows["k"]) >= LARGE_SIDE
    rows = {**rows, "weight": np.where(large, LARGE_WEIGHT, 1.0)}

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        rates = GemmRates(peak, bandwidth, cores, in_bytes, OUT_BYTES, *x[:9])
        seconds = formula_seconds(r["m"], r["n"], r["k"], 1.0, rates)
        if quantises:
            seconds = seconds + _cast(x[9], x[10], r["m"] * r["k"], in_bytes, chip)
        return seconds

    #        rate  tile  memory half  launch  l2    ramp  splitk droop
    start = [0.85, 1e3, 0.80, 1e6, 2.0e-6, 5.0, 1e-6, 4.0, 0.05]
    low = [0.20, 1e1, 0.30, 1e3, 5.0e-7, 0.5, 1e-8, 0.1, 1e-3]
    high = [1.00, 5e4, 1.00, 1e8, 1.5e-5, 30.0, 1e-5, 200.0, 0.50]
    if quantises:
        start, low, high = [*start, 4e-6, 1.0], [*low, 1e-7, 0.3], [*high, 2e-5, 6.0]
        start[4], high[4] = 2.0e-6, 3.0e-6  # the fixed time of a small kernel is told from its launch by bf16
    numbers = solve_seen(predict, rows, KEYS, start, low, high)
    rate, tile, memory, memory_half, launch, l2, ramp, splitk, droop = (float(one) for one in numbers[:9])
    seen = select(rows, ~held_out(rows, KEYS))

    def formula(sizes: tuple[Array, ...]) -> Array:
        """Seconds of the product alone at nodes of the surface: the law holds with and without the cast."""
        m, n, k = sizes
        return formula_seconds(
            m, n, k, 1.0, GemmRates(peak, bandwidth, cores, in_bytes, OUT_BYTES, *numbers[:9])
        )

    nodes = correction.fit_surface(
        SURFACE,
        correction.weights(SURFACE, [np.log2(seen[key].astype(np.float64)) for key in KEYS]),
        np.log(seen["seconds"] / predict(numbers, seen)),
        formula,
        weight=seen["weight"],
        soft=SOFT,
    )
    fit = GemmFit(
        rate=rate, tile=tile, memory=memory, memory_half=memory_half, launch=f"{launch!r} s", l2=l2,
        ramp=f"{ramp!r} s", splitk=splitk, droop=droop,
        cast=f"{float(numbers[9])!r} s" if quantises else "0 s",
        cast_passes=float(numbers[10]) if quantises else 0.0,
        surface=surface(nodes, LEVEL), provenance=provenance(rows, KEYS, rows["seconds"], source, library),
    )  # fmt: skip
    found = gemm_rows_seconds(fit, rows, chip, format_name)
    m, n, k = (rows[key].astype(np.float64) for key in KEYS)
    bound = gemm_bound_seconds(m, n, k, 1.0, gemm_rates_of(fit, chip, format_name))
    floor = nearest(rows, KEYS, bound, KEYS)
    return fit.model_copy(update={"provenance": provenance(rows, KEYS, found, source, library, floor)})
