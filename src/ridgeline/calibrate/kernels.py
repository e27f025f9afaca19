"""Kernel timing tables to `KernelCalibration`: a few physical numbers per chip, format and kernel class.

Each fit minimises the logarithmic error of the timing formula itself with a robust loss, on 70 % of the
shapes; the error written to its provenance is of the other 30 %. `ridgeline calibrate kernels` runs it on tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from ridgeline.calibrate import tables as kernel_tables
from ridgeline.calibrate.energy import energy_fit
from ridgeline.calibrate.measured import from_measured, measured_chips
from ridgeline.calibrate.tables import Source, Table
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import (
    AttentionFit,
    GemmFit,
    GroupedFit,
    KernelCalibration,
    Provenance,
    StreamFit,
)
from ridgeline.facts.observation import Label
from ridgeline.timing.attention import AttentionRates, attention_seconds
from ridgeline.timing.gemm import GemmRates, fit_rates, gemm_seconds
from ridgeline.timing.grouped import GroupedRates, grouped_seconds
from ridgeline.timing.rates import operand, peak_flops_per_s

Array = NDArray[np.float64]
Predict = Callable[[Array, Table], Array]

#: Layers of a model have at least this width; narrower rows of the tables are no product of a transformer.
NARROWEST = 128
FEWEST_EXPERTS = 4
#: Tables of a fit.
NEEDED = ("gemm", "attention_prefill", "attention_decode", "moe")
GROUPED_DONOR = "h100-sxm"
#: Products of a training step have all sides this long; they weigh more in the loss.
LARGE_SIDE, LARGE_WEIGHT = 2048, 2.0
#: Attention of a training step has at least this many tokens of query too; half of the other rows are decode.
LONG_WEIGHT = 3.0
#: A fit that is further off than this in the median is not kept; the format then follows its relatives.
USABLE_ERROR = 0.25
#: Errors above this are outliers to the robust loss.
SOFT_ERROR = 0.08
#: Backward over forward rate at head dim 128: FlashAttention-2 (arXiv:2307.08691, A100) and FlashAttention-3
#: (arXiv:2407.08608, H100). Blackwell follows Hopper.
BACKWARD_AMPERE, BACKWARD_HOPPER = 0.85, 0.78
#: Head dimension at half the wide-head rate where a table has one head dimension only (fitted on H100: 32).
HEAD_HALF = 32.0
#: Memory-bound kernels: achieved shares on H100 are 0.45 at 14 MB, 0.6 at 30 MB and 0.85 at 400 MB, which is
#: 0.9 of the bandwidth after 5 us, half of them launch and half ramp.
STREAM_SHARE, STREAM_LAUNCH_S, STREAM_RAMP_S = 0.90, 2.5e-6, 2.5e-6


def solve(
    predict: Predict, rows: Table, start: Sequence[float], low: Sequence[float], high: Sequence[float]
) -> Array:
    """Positive numbers x that minimise the soft-L1 loss of log(predict(x, rows) / rows['seconds'])."""
    measured = np.log(rows["seconds"])
    weight = rows.get("weight", np.ones_like(measured))

    def residual(logarithms: Array) -> Array:
        return np.asarray(weight * (np.log(predict(np.exp(logarithms), rows)) - measured))

    found = least_squares(
        residual,
        np.log(start),
        bounds=(np.log(low), np.log(high)),
        loss="soft_l1",
        f_scale=SOFT_ERROR,
        max_nfev=80,
    )
    return np.asarray(np.exp(found.x))


def fitted(
    predict: Predict,
    rows: Table,
    shape: tuple[str, ...],
    source: str,
    start: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> tuple[list[float], Provenance]:
    """Numbers fitted on 70 % of the shapes, and the provenance with their error on the rest."""
    test = kernel_tables.held_out(rows, shape)
    train = kernel_tables.thin(~test)
    numbers = solve(predict, kernel_tables.select(rows, train), start, low, high)
    unseen = kernel_tables.select(rows, test)
    error = np.abs(predict(numbers, unseen) / unseen["seconds"] - 1.0)
    provenance = Provenance(
        label=Label.FITTED,
        source=source,
        rows=int(train.sum()),
        median_abs_err=float(np.median(error)),
        p90_abs_err=float(np.quantile(error, 0.9)),
    )
    return [float(number) for number in numbers], provenance


def fit_gemm(rows: Table, chip: Chip, format_name: str, source: str, quantises: bool = False) -> GemmFit:
    """Fit `gemm_seconds` on columns m, n, k, seconds.

    ``quantises``: the rows also contain the quantisation of the activation; a fixed time and a number of
    passes over it are fitted beside the kernel and left out of the result: a recipe counts casts itself.
    """
    bandwidth, peak = chip.memory.bandwidth, peak_flops_per_s(chip, format_name)
    in_bytes = operand(format_name).bytes
    large = np.minimum(np.minimum(rows["m"], rows["n"]), rows["k"]) >= LARGE_SIDE
    rows = {**rows, "weight": np.where(large, LARGE_WEIGHT, 1.0)}

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        rates = GemmRates(peak, bandwidth, float(chip.cores), in_bytes, 2.0, *x[:9])
        seconds = gemm_seconds(r["m"], r["n"], r["k"], 1.0, rates)
        if quantises:
            seconds = seconds + x[9] + x[10] * (2.0 + in_bytes) * r["m"] * r["k"] / bandwidth
        return seconds

    #        rate  tile  memory half  launch  l2    ramp  splitk droop
    start = [0.85, 1e3, 0.80, 1e6, 2.0e-6, 5.0, 1e-6, 4.0, 0.05]
    low = [0.20, 1e1, 0.30, 1e3, 5.0e-7, 0.5, 1e-8, 0.1, 1e-3]
    high = [1.00, 5e4, 1.00, 1e8, 1.5e-5, 30.0, 1e-5, 200.0, 0.50]
    if quantises:
        start, low, high = [*start, 4e-6, 1.0], [*low, 1e-7, 0.3], [*high, 2e-5, 6.0]
        start[4], high[4] = 2.0e-6, 3.0e-6  # the fixed time of a small kernel is told from its launch by bf16
    numbers, provenance = fitted(predict, rows, ("m", "n", "k"), source, start, low, high)
    rate, tile, memory, memory_half, launch, l2, ramp, splitk, droop = numbers[:9]
    return GemmFit(
        rate=rate, tile=tile, memory=memory, memory_half=memory_half, launch=_s(launch), l2=l2, ramp=_s(ramp),
        splitk=splitk, droop=droop, provenance=provenance,
    )  # fmt: skip


def fit_attention(
    prefill: Table, decode: Table, chip: Chip, format_name: str, source: str, backward: float
) -> AttentionFit:
    """Fit `attention_seconds` on causal prefill and decode rows (columns of the tables and seconds)."""
    bandwidth, peak = chip.memory.bandwidth, peak_flops_per_s(chip, format_name)
    rows = _attention_rows(prefill, decode)
    rows["weight"] = np.where(rows["q"] >= LARGE_SIDE, LONG_WEIGHT, 1.0)

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        rate, half, head_half, memory, memory_half, ramp, launch = x
        rates = AttentionRates(
            peak, bandwidth, float(chip.cores), 2.0, operand(format_name).bytes,
            rate, half, head_half, 1.0, memory, memory_half, ramp, launch,
        )  # fmt: skip
        return attention_seconds(
            r["batch"], r["heads"], r["kv_heads"], r["q"], r["kv"], r["head_dim"], r["head_dim"], rates,
            causal_share=r["share"],
        )  # fmt: skip

    #        rate  half head_half memory half ramp launch
    start = [0.65, 500.0, 64.0, 0.8, 1e6, 5e-7, 5e-6]
    low = [0.10, 1.0, 1.0, 0.2, 1e3, 1e-9, 1e-6]
    high = [1.00, 5e3, 500.0, 1.0, 1e8, 1e-5, 5e-5]
    if len(np.unique(rows["head_dim"])) == 1:  # nothing to tell it from: Hopper's value
        start[2], low[2], high[2] = HEAD_HALF, HEAD_HALF * 0.999, HEAD_HALF * 1.001
    keys = ("batch", "heads", "kv_heads", "q", "kv", "head_dim")
    numbers, provenance = fitted(predict, rows, keys, source, start, low, high)
    rate, half, head_half, memory, memory_half, ramp, launch = numbers
    return AttentionFit(
        rate=rate, half=half, head_half=head_half, backward=backward, memory=memory, memory_half=memory_half,
        ramp=_s(ramp), launch=_s(launch), provenance=provenance,
    )  # fmt: skip


def _attention_rows(prefill: Table, decode: Table) -> dict[str, Array]:
    """Prefill (q = kv = isl, causal) and decode (q = 1, kv = isl + step) rows as one table, no windows."""
    parts: list[dict[str, Array]] = []
    for table, decoding in ((prefill, False), (decode, True)):
        window = np.nan_to_num(table["window_size"].astype(np.float64))
        keep = (window == 0) & (table["head_dim"] <= 256) & (decoding | (table["isl"] >= NARROWEST))
        kept = kernel_tables.select(table, keep)
        kv = kept["isl"].astype(np.float64) + kept["step"]
        parts.append(
            {
                "batch": kept["batch_size"].astype(np.float64),
                "heads": kept["num_heads"].astype(np.float64),
                "kv_heads": kept["num_key_value_heads"].astype(np.float64),
                "q": np.ones_like(kv) if decoding else kept["isl"].astype(np.float64),
                "kv": kv,
                "head_dim": kept["head_dim"].astype(np.float64),
                "share": np.ones_like(kv) if decoding else 0.5 + 0.5 / kv,
                "seconds": kept["seconds"],
            }
        )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def fit_grouped(
    rows: Table, chip: Chip, format_name: str, gemm: GemmFit, stream: StreamFit, source: str
) -> GroupedFit:
    """Fit `grouped_seconds` on whole gated expert layers with balanced routing.

    A row times two grouped products (gate and up together, then down) and the memory-bound kernels around
    them: the activation and the permuted copies of the routed rows, and the routing and weighted sum of all
    tokens of the expert-parallel group. A fixed time and a number of passes over either are fitted beside the
    products and left out of the result.
    """
    bandwidth = chip.memory.bandwidth
    dense = fit_rates(
        gemm,
        peak_flops_per_s=peak_flops_per_s(chip, format_name),
        bandwidth_bytes_per_s=bandwidth,
        cores=float(chip.cores),
        in_bytes=operand(format_name).bytes,
        out_bytes=2.0,
    )
    # Below four experts a rank of the table still routes every token of a group of 32 to 256 ranks.
    local = rows["num_experts"] // rows["moe_ep_size"]
    keep = (rows["distribution"] == "balanced") & (local >= FEWEST_EXPERTS)
    keep &= rows["num_tokens"] * rows["topk"] >= rows["moe_ep_size"]
    rows = kernel_tables.select(rows, keep)

    def predict(x: Array, r: Table) -> Array:
        """Seconds of the rows ``r`` under the numbers ``x``."""
        rate, padding, fixed, row_passes, token_passes = x
        rates = GroupedRates(dense, rate, padding, gemm.launch)
        tokens, hidden = r["num_tokens"].astype(np.float64), r["hidden_size"].astype(np.float64)
        routed = tokens * r["topk"] / r["moe_ep_size"]
        experts = np.maximum(1.0, r["num_experts"] / r["moe_ep_size"])
        active = np.minimum(experts, np.maximum(1.0, routed))  # balanced routing leaves none out
        inner = r["inter_size"] / r["moe_tp_size"]
        up = grouped_seconds(routed, experts, 2.0 * inner, hidden, rates, active=active)
        down = grouped_seconds(routed, experts, hidden, inner, rates, active=active)
        around = row_passes * routed * (3.0 * inner + 2.0 * hidden) + token_passes * tokens * hidden
        return np.asarray(up + down + 2.0 * around / (stream.memory * bandwidth) + fixed)

    keys = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    #        rate padding fixed row_passes token_passes
    start = [0.9, 4.0, 1e-5, 1.0, 1.0]
    low = [0.2, 0.1, 1e-7, 0.5, 0.1]
    high = [1.0, 128.0, 1e-4, 3.0, 5.0]
    numbers, provenance = fitted(predict, rows, keys, source, start, low, high)
    return GroupedFit(rate=numbers[0], padding=numbers[1], launch=_s(gemm.launch), provenance=provenance)


def stream_fit(chip: Chip) -> StreamFit:
    """H100's achieved shares as a bandwidth share and a start-up time, carried over to other chips."""
    label = Label.FITTED if chip.name == "h100-sxm" else Label.TRANSFERRED
    return StreamFit(
        memory=STREAM_SHARE,
        half=STREAM_RAMP_S * STREAM_SHARE * chip.memory.bandwidth,
        launch=_s(STREAM_LAUNCH_S),
        provenance=Provenance(
            label=label,
            source="achieved shares on H100 (0.45 at 14 MB, 0.6 at 30 MB, 0.85 at 400 MB) and gpu-stream "
            "triad on a Blackwell part (0.90 at 4 GB); start-up time kept, bandwidth by data sheet",
        ),
    )


def fit_kernels(tables: Mapping[str, Table], chips: Mapping[str, Chip]) -> dict[str, KernelCalibration]:
    """Fit every chip that the tables and ``chips`` (catalog name -> data sheet) both hold.

    Args:
        tables: ``gemm``, ``attention_prefill``, ``attention_decode`` and ``moe``, columns as published by
            aiconfigurator with ``chip``, ``version`` and ``timing_mode``.
        chips: data sheets by catalog name.

    Raises:
        ValueError: a table is missing, or a chip's rows are.
    """
    return {fit.chip: fit for fit in fit_each(tables, chips)}


def fit_each(tables: Mapping[str, Table], chips: Mapping[str, Chip]) -> Iterator[KernelCalibration]:
    """`fit_kernels`, chip by chip as each is finished; the chip that lends grouped products comes first."""
    missing = [name for name in NEEDED if name not in tables]
    if missing:
        raise ValueError(f"kernel tables missing: {', '.join(missing)}; needed: {', '.join(NEEDED)}")
    present = {
        kernel_tables.CHIPS.get(name, name): name for name in np.unique(tables["gemm"]["chip"]).tolist()
    }
    fitting = [name for name in kernel_tables.CHIPS.values() if name in present and name in chips]
    if not fitting:
        known = ", ".join(kernel_tables.CHIPS)
        raise ValueError(f"table gemm has none of the chips {known}; it has {', '.join(present.values())}")
    donor: KernelCalibration | None = None
    for name in sorted(fitting, key=lambda one: one != GROUPED_DONOR):
        fit = _fit_chip(tables, present[name], chips[name])
        donor = fit if name == GROUPED_DONOR else donor
        yield _with_grouped(fit, donor)


def derived(found: Mapping[str, KernelCalibration]) -> dict[str, KernelCalibration]:
    """Chips with one measured rate, from the fits of their relatives in ``found``."""
    lent: dict[str, KernelCalibration] = {}
    for target in measured_chips(kernel_tables.CHIPS.values()):
        relative, source = target.relative or "", target.source.get("products", "its catalog entry")
        theirs = found.get(relative) or lent.get(relative)
        if theirs is not None:
            donor = catalog.chip(relative)
            lent[target.name] = from_measured(theirs, donor, target, target.products, source)
    return lent


def _with_grouped(fit: KernelCalibration, donor: KernelCalibration | None) -> KernelCalibration:
    """``fit`` itself, or with the donor's grouped fit (shares of its own dense rate) where it has none."""
    if fit.grouped:
        return fit
    if donor is None or not donor.grouped:
        raise ValueError(
            f"{fit.chip} has no rows of grouped products and {GROUPED_DONOR} is not in the tables"
        )
    theirs, dense = donor.grouped["bf16"], fit.gemm["bf16"]
    provenance = Provenance(
        label=Label.TRANSFERRED,
        source=f"share of the dense rate on {donor.chip}; {theirs.provenance.source}",
        rows=theirs.provenance.rows,
    )
    borrowed = GroupedFit(
        rate=theirs.rate, padding=theirs.padding, launch=_s(dense.launch), provenance=provenance
    )
    return fit.model_copy(update={"grouped": {"bf16": borrowed}})


def _fit_chip(tables: Mapping[str, Table], table_name: str, chip: Chip) -> KernelCalibration:
    gemm: dict[str, GemmFit] = {}
    for format_name, source in kernel_tables.GEMM[table_name].items():
        rows, text = _rows(tables, "gemm", table_name, source, "gemm_dtype")
        rows = kernel_tables.select(rows, (rows["n"] >= NARROWEST) & (rows["k"] >= NARROWEST))
        gemm[format_name] = fit_gemm(rows, chip, format_name, text, source.quantises)
    attention: dict[str, AttentionFit] = {}
    backward = BACKWARD_AMPERE if chip.name.startswith("a100") else BACKWARD_HOPPER
    for format_name, (source, decoding) in kernel_tables.ATTENTION[table_name].items():
        prefill, text = _rows(tables, "attention_prefill", table_name, source, "attn_dtype")
        decode, decode_text = _rows(tables, "attention_decode", table_name, decoding, "attn_dtype")
        prefill = kernel_tables.select(prefill, prefill["kv_cache_dtype"] == source.dtype)
        decode = kernel_tables.select(decode, decode["kv_cache_dtype"] == decoding.dtype)
        text += f"; {decode_text}; backward share from the FlashAttention-2 and -3 papers"
        attention[format_name] = fit_attention(prefill, decode, chip, format_name, text, backward)
    stream = stream_fit(chip)
    grouped: dict[str, GroupedFit] = {}
    for format_name, source in kernel_tables.GROUPED[table_name].items():
        rows, text = _rows(tables, "moe", table_name, source, "moe_dtype")
        fit = fit_grouped(rows, chip, format_name, gemm[format_name], stream, text)
        if fit.provenance.median_abs_err is not None and fit.provenance.median_abs_err <= USABLE_ERROR:
            grouped[format_name] = fit
    return KernelCalibration(
        chip=chip.name,
        gemm=gemm,
        attention=attention,
        grouped=grouped,
        stream=stream,
        energy=energy_fit(chip, gemm),
    )


def _rows(
    tables: Mapping[str, Table], table: str, chip: str, source: Source, dtype_column: str
) -> tuple[dict[str, NDArray[Any]], str]:
    rows = kernel_tables.rows_of(tables[table], chip, source, dtype_column)
    if not len(rows["seconds"]):
        raise ValueError(
            f"table {table} has no device-timed rows of {chip} for {source.kernel} of "
            f"{source.framework}, dtype {source.dtype}: the library that stands for this format"
        )
    return rows, source.text(table, str(rows["version"][0]))


def _s(seconds: float) -> str:
    return f"{seconds!r} s"
