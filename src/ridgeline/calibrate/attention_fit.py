"""Fused attention: timing table rows to `AttentionFit`, and a fit back to the times of rows."""

from __future__ import annotations

import numpy as np

from ridgeline.calibrate import correction
from ridgeline.calibrate.solve import nearest, provenance, solve_seen
from ridgeline.calibrate.tables import Table, held_out, select
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import AttentionFit
from ridgeline.facts.surface import surface
from ridgeline.timing.attention import (
    GRIDS,
    AttentionRates,
    AttentionSizes,
    Kind,
    corrected_seconds,
    fit_rates,
    formula_seconds,
)
from ridgeline.timing.rates import Array, operand, peak_flops_per_s, tiling_cores

#: What tells two shapes apart.
KEYS = ("batch", "heads", "kv_heads", "q", "context", "head_dim", "share")
#: How near two shapes are: the sizes that a kernel sees.
NEAR = ("batch", "heads", "kv_heads", "kv", "head_dim", "seen")
#: Attention of a training step has at least this many tokens of query; these rows weigh more.
LONG, LONG_WEIGHT = 2048, 3.0
#: Head dimension at half the wide-head rate where a table has one head dimension only (fitted on H100: 32).
HEAD_HALF = 32.0
#: DeepSeek's latent attention (arXiv:2405.04434): query and key, and value, of an expanded head; and the same of
#: the latents that decoding works on, where the value is the first part of the key and is not read again.
EXPANDED = (192.0, 128.0)
LATENT = (576.0, 512.0)


def shapes(rows: Table, kind: Kind) -> dict[str, Array]:
    """Sizes of attention from the columns of a table: causal prefill (q = isl) or decode (q = 1, kv = isl + step).

    A window leaves fewer keys: to a decode step simply a shorter context, to a prefill a smaller causal share.
    """
    context = rows["isl"].astype(np.float64) + rows["step"]
    decode = kind in ("decode", "latent_decode")
    q = np.ones_like(context) if decode else rows["isl"].astype(np.float64)
    heads = rows["num_heads"].astype(np.float64)
    window = np.nan_to_num(rows["window_size"].astype(np.float64)) if "window_size" in rows else 0.0 * context
    reach = np.where(window > 0, np.minimum(window, context), context)
    # the last q of `context` tokens each see what came before them, at most `reach`
    first = context - q + 1.0
    rising = np.clip(reach - first, 0.0, q)
    pairs = rising * (first + (rising - 1.0) / 2.0) + (q - rising) * reach
    one = np.ones_like(context)
    by_kind = {
        "attention": (rows.get("num_key_value_heads"), rows.get("head_dim"), rows.get("head_dim")),
        "decode": (rows.get("num_key_value_heads"), rows.get("head_dim"), rows.get("head_dim")),
        "latent": (heads, one * EXPANDED[0], one * EXPANDED[1]),
        "latent_decode": (one, one * LATENT[0], one * LATENT[1]),
    }
    kv_heads, head_dim, v_dim = (np.asarray(part, dtype=np.float64) for part in by_kind[kind])
    return {
        "batch": rows["batch_size"].astype(np.float64),
        "heads": heads,
        "kv_heads": kv_heads,
        "q": q,
        "kv": reach if decode else context,
        "context": context,
        "head_dim": head_dim,
        "v_dim": v_dim,
        "share": one if decode else pairs / (q * context),
        "seen": reach / context if decode else pairs / (q * context),
    }


def cache_bytes(kind: Kind, stored: str) -> float:
    """Bytes per value of K and V as the formula counts them: all of the key and all of the value."""
    shared = LATENT[0] / sum(LATENT) if kind == "latent_decode" else 1.0
    return operand(stored).bytes * shared


def attention_rows_seconds(
    fit: AttentionFit, sizes: Table, chip: Chip, kind: Kind, name: str, stored: str
) -> Array:
    """Times of rows given as `shapes` [s]."""
    rates = fit_rates(
        fit,
        peak_flops_per_s=peak_flops_per_s(chip, name),
        bandwidth_bytes_per_s=chip.memory.bandwidth,
        cores=tiling_cores(chip),
        kv_bytes=cache_bytes(kind, stored),
        kind=kind,
    )
    return corrected_seconds(_sizes(sizes), rates, sizes["share"], seen=sizes["seen"])


def _sizes(rows: Table) -> AttentionSizes:
    return AttentionSizes(
        *(rows[key] for key in ("batch", "heads", "kv_heads", "q", "kv", "head_dim", "v_dim"))
    )


def fit_attention(
    rows: Table,
    chip: Chip,
    kind: Kind,
    name: str,
    stored: str,
    source: str,
    library: str,
    backward: float,
) -> AttentionFit:
    """Fit on `shapes` and seconds; ``backward`` is taken over, no table has it."""
    bandwidth, peak = chip.memory.bandwidth, peak_flops_per_s(chip, name)
    rows = {**rows, "weight": np.where(rows["q"] >= LONG, LONG_WEIGHT, 1.0)}

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        rate, half, head_half, memory, memory_half, ramp, launch, *solo = x
        rates = AttentionRates(
            peak, bandwidth, tiling_cores(chip), 2.0, cache_bytes(kind, stored),
            rate, half, head_half, 1.0, memory, memory_half, ramp, launch, *solo,
        )  # fmt: skip
        return formula_seconds(_sizes(r), rates, r["share"])

    #        rate  half head_half memory half ramp launch
    start = [0.65, 500.0, 64.0, 0.8, 1e6, 5e-7, 5e-6]
    low = [0.02, 1.0, 1.0, 0.1, 1e3, 1e-9, 1e-6]
    high = [1.00, 5e3, 500.0, 1.0, 1e8, 1e-5, 5e-5]
    decode = kind in ("decode", "latent_decode")
    if decode:  # solo; blocks of queries that read the keys of a head together have no such limit
        start, low, high = [*start, 2.0], [*low, 0.1], [*high, 1e3]
    if len(np.unique(rows["head_dim"])) == 1:  # nothing to tell it from: Hopper's value
        start[2], low[2], high[2] = HEAD_HALF, HEAD_HALF * 0.999, HEAD_HALF * 1.001
    numbers = solve_seen(predict, rows, KEYS, start, low, high)
    rate, half, head_half, memory, memory_half, ramp, launch, *solo = map(float, numbers)
    grid, seen = GRIDS[kind], select(rows, ~held_out(rows, KEYS))
    v_share = float(np.median(rows["v_dim"] / rows["head_dim"]))

    def formula(sizes: tuple[Array, ...]) -> Array:
        """Seconds at nodes: one sequence's heads stand for sequences x KV heads, a prefill asks for all its keys."""
        kv, copies, head, group, share = sizes
        one = np.ones_like(kv)
        at = dict(zip(("batch", "heads", "kv_heads", "q", "kv", "head_dim", "share"),
                      (copies, group, one, one if decode else kv, kv, head, one if decode else share),
                      strict=True))  # fmt: skip
        return predict(numbers, {**at, "v_dim": head * v_share})

    at = (seen["kv"], seen["batch"] * seen["kv_heads"], seen["head_dim"], seen["heads"] / seen["kv_heads"],
          seen["seen"])  # fmt: skip
    nodes = correction.fit_surface(
        grid,
        correction.weights(grid, [np.log2(one) for one in at]),
        np.log(seen["seconds"] / predict(numbers, seen)),
        formula,
        rising=[axis for axis in (0, 1) if grid[axis].size > 1],
        weight=seen["weight"],
    )
    fit = AttentionFit(
        rate=rate, half=half, head_half=head_half, backward=backward, memory=memory, memory_half=memory_half,
        ramp=f"{ramp!r} s", launch=f"{launch!r} s", solo=solo[0] if decode else 0.0, surface=surface(nodes),
        provenance=provenance(rows, KEYS, rows["seconds"], source, library),
    )  # fmt: skip
    found = attention_rows_seconds(fit, rows, chip, kind, name, stored)
    floor = nearest(rows, KEYS, predict(numbers, rows), NEAR)
    return fit.model_copy(update={"provenance": provenance(rows, KEYS, found, source, library, floor)})
