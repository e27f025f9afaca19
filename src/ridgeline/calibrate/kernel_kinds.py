"""Kinds of kernel tables: the columns of each, the rows that the formulas speak of, and what is predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.attention_fit import attention_rows_seconds, shapes
from ridgeline.calibrate.gemm_fit import gemm_rows_seconds
from ridgeline.calibrate.grouped_fit import BALANCED, exponent, layer_seconds, layers
from ridgeline.calibrate.tables import FORMATS, QUANTISED
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.kernel_calibration import KernelSet, Provenance
from ridgeline.facts.observation import Label
from ridgeline.timing import attention, gemm, grouped
from ridgeline.timing.rates import operand, resolve, worst
from ridgeline.timing.stream import stream_rates, stream_seconds
from ridgeline.timing.surface import outside

Array = NDArray[np.float64]
Rows = Mapping[str, Array]
Words = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Machine:
    """What one chip of the table is predicted with: its calibration, and other libraries' fits by name."""

    chip: Chip
    cluster: Cluster
    calibration: Calibration
    libraries: Mapping[str, KernelSet]

    def kernels(self, words: Words) -> KernelSet:
        """The chip's fits, with those of the library of ``words`` in their place."""
        own = self.calibration.kernels
        theirs = self.libraries.get(f"{words['framework']}/{words['kernel_source']}")
        if theirs is None:
            return own
        both = {part: {**getattr(own, part), **getattr(theirs, part)} for part in KernelSet.model_fields}
        return KernelSet.model_construct(None, **both)


@dataclass(frozen=True, slots=True)
class Predicted:
    """Times of some rows, the fit they come from, and where its surface is only carried on ``[rows]``."""

    seconds: Array
    label: Label
    provenance: Provenance
    carried_on: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of table: its columns, and how a group of its rows is predicted."""

    words: tuple[str, ...]
    numbers: tuple[str, ...]
    reason: Callable[[Words], str | None]  # why a group is not modelled
    mask: Callable[[Rows], NDArray[np.bool_]]
    outside: str  # what the mask leaves out
    names: Callable[[Words], tuple[str, str]]  # operator and format, as shown
    seconds: Callable[[Words, Rows, Machine], Predicted]


def _format_reason(*columns: str) -> Callable[[Words], str | None]:
    def reason(words: Words) -> str | None:
        """The first format that is not modelled."""
        unknown = [words[column] for column in columns if words[column] not in FORMATS]
        return f"number format '{unknown[0]}' is not modelled" if unknown else None

    return reason


def _gemm(words: Words, rows: Rows, machine: Machine) -> Predicted:
    """One product, and the cast of its activation where the library times one with it."""
    name = FORMATS[words["gemm_dtype"]]
    fit, label = resolve(machine.kernels(words).gemm, name)
    seconds = gemm_rows_seconds(fit, rows, machine.chip, name)
    if name in QUANTISED and not fit.cast:  # a fit lent by a format that needs no cast
        moved = (2.0 + operand(name).bytes) * rows["m"] * rows["k"]
        seconds = seconds + stream_seconds(moved, stream_rates(machine.chip, machine.calibration.kernels))
    beyond = outside(gemm.SURFACE, (rows["m"], rows["n"], rows["k"]))
    return Predicted(np.ravel(seconds), label, fit.provenance, beyond)


def _attention(words: Words, rows: Rows, machine: Machine, *, kind: attention.Kind, column: str) -> Predicted:
    """Causal prefill (q = kv = isl) or decode (q = 1, kv = isl + step)."""
    name, stored = FORMATS[words[column]], FORMATS[words["kv_cache_dtype"]]
    fit, label = attention.fit_of(machine.kernels(words), kind, name, stored)
    sizes = shapes(rows, kind)
    seconds = attention_rows_seconds(fit, sizes, machine.chip, kind, name, stored)
    at = (
        sizes["kv"],
        sizes["batch"] * sizes["kv_heads"],
        sizes["head_dim"],
        sizes["heads"] / sizes["kv_heads"],
    )
    return Predicted(np.ravel(seconds), label, fit.provenance, outside(attention.GRIDS[kind][:4], at))


def _moe(words: Words, rows: Rows, machine: Machine) -> Predicted:
    """A gated expert layer: two grouped products and the memory-bound kernels around them."""
    name, kernels = FORMATS[words["moe_dtype"]], machine.kernels(words)
    fit, label = resolve(kernels.grouped, name)
    dense, dense_label = resolve(machine.calibration.kernels.gemm, name)
    skewed = words["distribution"] != BALANCED
    sizes = layers(rows, words["distribution"])
    seconds = layer_seconds(
        fit, sizes, machine.chip, name, {name: dense}, machine.calibration.kernels.stream, skewed
    )
    at = (sizes["routed"] / sizes["active"], sizes["active"], sizes["inner"], sizes["hidden"])
    if skewed and fit.skewed is None:
        label = worst(label, Label.TRANSFERRED)
    return Predicted(
        np.ravel(seconds), worst(label, dense_label), fit.provenance, outside(grouped.SURFACE, at)
    )


def _moe_mask(rows: Rows) -> NDArray[np.bool_]:
    """Every rank has an expert and a routed row."""
    ranks = rows["moe_ep_size"]
    enough = (rows["num_experts"] >= ranks) & (rows["num_tokens"] * rows["topk"] >= ranks)
    return np.asarray((ranks >= 1) & (rows["moe_tp_size"] >= 1) & enough)


def _moe_reason(words: Words) -> str | None:
    try:
        exponent(words["distribution"])
    except ValueError:
        return f"distribution of routing '{words['distribution']}' is not modelled"
    return _format_reason("moe_dtype")(words)


def _positive(rows: Rows) -> NDArray[np.bool_]:
    """Rows whose sizes are all at least 1, but for those that may be nothing."""
    first = next(iter(rows.values()))
    found = np.ones(len(first), dtype=bool)
    for name, values in rows.items():
        if name not in ("latency", "step", "window_size"):
            found &= values >= 1
    return found


def _attention_table(op: str, kind: attention.Kind, latent: bool) -> Kind:
    column = "mla_dtype" if latent else "attn_dtype"
    more = () if latent else ("num_key_value_heads", "head_dim", "window_size")

    def shown(words: Words) -> tuple[str, str]:
        """Operator and format."""
        name, stored = FORMATS[words[column]], FORMATS[words["kv_cache_dtype"]]
        return op, name if name == stored else f"{name}, {stored} cache"

    return Kind(
        (column, "kv_cache_dtype"), ("batch_size", "isl", "step", "num_heads", *more),
        _format_reason(column, "kv_cache_dtype"), _positive, "a size below 1", shown,
        partial(_attention, kind=kind, column=column),
    )  # fmt: skip


KINDS: dict[str, Kind] = {
    "gemm": Kind(
        ("gemm_dtype",), ("m", "n", "k"), _format_reason("gemm_dtype"), _positive, "a size below 1",
        lambda words: ("gemm", FORMATS[words["gemm_dtype"]]), _gemm,
    ),
    "attention_prefill": _attention_table("attention_prefill", "attention", latent=False),
    "attention_decode": _attention_table("attention_decode", "decode", latent=False),
    "mla_prefill": _attention_table("mla_prefill", "latent", latent=True),
    "mla_decode": _attention_table("mla_decode", "latent_decode", latent=True),
    "moe": Kind(
        ("moe_dtype", "distribution"),
        ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size"),
        _moe_reason, _moe_mask, "a rank without an expert or a routed row",
        lambda words: (
            "moe" if words["distribution"] == BALANCED else "moe_skewed", FORMATS[words["moe_dtype"]]
        ),
        _moe,
    ),
}  # fmt: skip
#: The column that tells the kind.
MARKS = {
    "gemm_dtype": "gemm", "attn_dtype": "attention_prefill", "mla_dtype": "mla_prefill", "moe_dtype": "moe",
}  # fmt: skip
#: Kinds whose columns are those of another; the operator's name tells them apart.
DECODES = {"attention_prefill": "attention_decode", "mla_prefill": "mla_decode"}
