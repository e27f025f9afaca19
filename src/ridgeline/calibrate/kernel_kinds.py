"""Kinds of kernel tables: the columns of each, the rows that the formulas speak of, and what is predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.kernel_calibration import Provenance, StreamFit
from ridgeline.facts.observation import Label
from ridgeline.timing.attention import attention_rates, attention_seconds
from ridgeline.timing.gemm import gemm_rates, gemm_seconds
from ridgeline.timing.grouped import grouped_rates, grouped_seconds
from ridgeline.timing.rates import resolve, worst

Array = NDArray[np.float64]
Rows = Mapping[str, Array]

#: Number formats of the tables -> ours. Weight-only and smoothed formats are other kernels, not modelled.
FORMATS = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8", "fp8_block": "fp8-block",
    "nvfp4": "nvfp4", "mxfp8": "mxfp8", "mxfp4": "mxfp4", "int8": "int8",
}  # fmt: skip
#: Formats whose timed call also quantises the activation, in a kernel of its own.
QUANTISED = ("fp8", "fp8-block", "nvfp4", "mxfp8", "mxfp4")
#: The formulas speak of products at least this wide and of prompts at least this long.
NARROWEST = 128
WIDEST_HEAD = 256
FEWEST_EXPERTS = 4
#: Memory-bound kernels around the two grouped products of an expert layer: permute, activate, weighted sum.
AROUND = 3.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What one chip of the table is predicted with."""

    chip: Chip
    cluster: Cluster
    calibration: Calibration


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of table: its columns, and how a group of its rows is predicted."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    reason: Callable[[Mapping[str, str]], str | None]  # why a group is not modelled
    mask: Callable[[Rows], NDArray[np.bool_]]
    outside: str  # what the mask leaves out
    names: Callable[[Mapping[str, str]], tuple[str, str]]  # operator and format, as shown
    seconds: Callable[[Mapping[str, str], Rows, Machine], tuple[Array, Label, Provenance]]


def _format_reason(column: str) -> Callable[[Mapping[str, str]], str | None]:
    def reason(words: Mapping[str, str]) -> str | None:
        name = words[column]
        return None if name in FORMATS else f"number format '{name}' is not modelled"

    return reason


def _gemm(words: Mapping[str, str], rows: Rows, machine: Machine) -> tuple[Array, Label, Provenance]:
    """One product, and the cast of its activation where the format needs one."""
    name, kernels = FORMATS[words["gemm_dtype"]], machine.calibration.kernels
    rates = gemm_rates(machine.chip, kernels, [name])
    seconds = np.ravel(gemm_seconds(rows["m"], rows["n"], rows["k"], 1.0, rates))
    if name in QUANTISED:
        moved = (2.0 + float(np.ravel(rates.in_bytes)[0])) * rows["m"] * rows["k"]
        seconds = seconds + _stream(moved, kernels.stream, machine.chip)
    return seconds, rates.labels[0], resolve(kernels.gemm, name)[0].provenance


def _stream(moved: Array, fit: StreamFit, chip: Chip, kernels: float = 1.0) -> Array:
    """Memory-bound kernels [s] that move ``moved`` bytes together."""
    return kernels * fit.launch + (moved + kernels * fit.half) / (fit.memory * chip.memory.bandwidth)


def _attention(
    words: Mapping[str, str], rows: Rows, machine: Machine, *, decode: bool
) -> tuple[Array, Label, Provenance]:
    """Causal prefill (q = kv = isl) or decode (q = 1, kv = isl + step)."""
    name, stored = FORMATS[words["attn_dtype"]], FORMATS[words["kv_cache_dtype"]]
    fits = machine.calibration.kernels.attention
    rates = attention_rates(machine.chip, machine.calibration.kernels, [name], [stored])
    kv = rows["isl"] + rows["step"]
    seconds = attention_seconds(
        rows["batch_size"], rows["num_heads"], rows["num_key_value_heads"], 1.0 if decode else rows["isl"], kv,
        rows["head_dim"], rows["head_dim"], rates, causal_share=1.0 if decode else _causal(rows["isl"], kv),
    )  # fmt: skip
    label = rates.labels[0] if stored == name else worst(rates.labels[0], Label.TRANSFERRED)
    return np.ravel(seconds), label, resolve(fits, name)[0].provenance


def _causal(q: Array, kv: Array) -> Array:
    """Share of the pairs that the last q of kv tokens see."""
    return np.asarray((kv - 0.5 * (q - 1.0)) / kv)


def _attention_reason(words: Mapping[str, str]) -> str | None:
    return next(
        (why for column in ("attn_dtype", "kv_cache_dtype") if (why := _format_reason(column)(words))), None
    )


def _attention_format(words: Mapping[str, str]) -> str:
    name, stored = FORMATS[words["attn_dtype"]], FORMATS[words["kv_cache_dtype"]]
    return name if name == stored else f"{name}, {stored} cache"


def _attention_mask(rows: Rows, shortest: int) -> NDArray[np.bool_]:
    window = np.nan_to_num(rows["window_size"])
    return np.asarray((window == 0) & (rows["head_dim"] <= WIDEST_HEAD) & (rows["isl"] >= shortest))


def _moe(words: Mapping[str, str], rows: Rows, machine: Machine) -> tuple[Array, Label, Provenance]:
    """A gated expert layer: two grouped products and the memory-bound kernels around them."""
    name, kernels = FORMATS[words["moe_dtype"]], machine.calibration.kernels
    rates = grouped_rates(machine.chip, kernels, [name])
    tokens, hidden = rows["num_tokens"], rows["hidden_size"]
    routed = tokens * rows["topk"] / rows["moe_ep_size"]
    experts = np.maximum(1.0, rows["num_experts"] / rows["moe_ep_size"])
    active = np.minimum(experts, np.maximum(1.0, routed)) if words["distribution"] == "balanced" else None
    inner = rows["inter_size"] / rows["moe_tp_size"]
    up = grouped_seconds(routed, experts, 2.0 * inner, hidden, rates, active=active)
    down = grouped_seconds(routed, experts, hidden, inner, rates, active=active)
    around = 2.0 * (routed * (3.0 * inner + 2.0 * hidden) + tokens * hidden)
    seconds = np.ravel(up + down) + _stream(around, kernels.stream, machine.chip, AROUND)
    # Fits are of balanced routing.
    label = (
        rates.labels[0] if words["distribution"] == "balanced" else worst(rates.labels[0], Label.TRANSFERRED)
    )
    return seconds, label, resolve(kernels.grouped, name)[0].provenance


def _moe_mask(rows: Rows) -> NDArray[np.bool_]:
    """As fitted: a rank with fewer than four experts of the table still routes every token of its group."""
    ranks = rows["moe_ep_size"]
    enough = (rows["num_experts"] >= FEWEST_EXPERTS * ranks) & (rows["num_tokens"] * rows["topk"] >= ranks)
    return np.asarray((ranks >= 1) & (rows["moe_tp_size"] >= 1) & enough)


def _attention_table(op: str, shortest: int) -> Kind:
    limits = (
        f"sliding window, head above {WIDEST_HEAD} or prompt below {shortest}, outside the formula's range"
    )
    return Kind(
        ("attn_dtype", "kv_cache_dtype"),
        ("batch_size", "isl", "step", "num_heads", "num_key_value_heads", "head_dim", "window_size"),
        _attention_reason, lambda rows: _attention_mask(rows, shortest), limits,
        lambda words: (op, _attention_format(words)),
        partial(_attention, decode=op == "attention_decode"),
    )  # fmt: skip


KINDS: dict[str, Kind] = {
    "gemm": Kind(
        ("gemm_dtype",), ("m", "n", "k"), _format_reason("gemm_dtype"),
        lambda rows: np.asarray((rows["n"] >= NARROWEST) & (rows["k"] >= NARROWEST) & (rows["m"] >= 1)),
        f"n or k below {NARROWEST}, outside the formula's range",
        lambda words: ("gemm", FORMATS[words["gemm_dtype"]]), _gemm,
    ),
    "attention_prefill": _attention_table("attention_prefill", NARROWEST),
    "attention_decode": _attention_table("attention_decode", 1),
    "moe": Kind(
        ("moe_dtype", "distribution"),
        ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"),
        _format_reason("moe_dtype"), _moe_mask, "fewer than 4 experts on a rank or no row for it",
        lambda words: (
            "moe_skewed" if words["distribution"].startswith("power") else "moe", FORMATS[words["moe_dtype"]]
        ),
        _moe,
    ),
}  # fmt: skip
#: The column that tells the kind.
MARKS = {
    "gemm_dtype": "gemm", "attn_dtype": "attention_prefill", "moe_dtype": "moe",
}  # fmt: skip
