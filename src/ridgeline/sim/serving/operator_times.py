"""Seconds of the operators of serving steps, remembered: services that share a chip's kernels share most of them.

A search asks for the same products and the same attention under many caches, drafts, chunks and host numbers. Sizes
are given as the bytes of arrays of float64, which are told apart by value; results must not be written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import GroupedFit, KernelCalibration, KernelSet
from ridgeline.graph.cache import by_identity
from ridgeline.graph.serving.ops import Core, Experts, Product
from ridgeline.timing.attention import AttentionRates, attention_rates, attention_seconds
from ridgeline.timing.expert_layer import busiest_share, expert_layer_seconds
from ridgeline.timing.gemm import GemmRates, gemm_bound_seconds, gemm_rates, gemm_seconds
from ridgeline.timing.grouped import active_experts
from ridgeline.timing.rates import operand, resolve
from ridgeline.timing.stream import stream_rates, stream_seconds

FloatArray = NDArray[np.float64]
#: Operators of one format and how many layers have each.
Products = tuple[tuple[Product, float], ...]
Cores = tuple[tuple[Core, float], ...]

#: Ending of formats whose weights alone are narrow: products run in a wide format and read the narrow weights.
WEIGHT_ONLY = "-wo"
#: Shortest prefills share a kernel with others: a lone one this short would leave cores idle.
TOGETHER_TOKENS = 2048.0
#: Results that are kept: of products and experts by tokens, and of attention by two sizes, which are larger.
_BY_TOKENS, _BY_SIZES = 1024, 256


def multiplied(name: str) -> str:
    """The format that products of weights stored in ``name`` run in: weights alone may be narrow."""
    return catalog.number_format(name).matrix_as if name.endswith(WEIGHT_ONLY) else name


# Products


@by_identity
def product_rates(chip: Chip, kernels: KernelSet, formats: tuple[str, ...]) -> GemmRates:
    """Rates of products; weight-only formats multiply in the wide one. Fields are ``[len(formats), 1]``."""
    rates = gemm_rates(chip, kernels, [multiplied(name) for name in formats])
    narrow = [
        catalog.number_format(name).bytes if name.endswith(WEIGHT_ONLY) else operand(name).bytes
        for name in formats
    ]
    return rates._replace(in_bytes=np.array(narrow).reshape(-1, 1))


@by_identity(size=_BY_TOKENS)
def products_seconds(chip: Chip, kernels: KernelSet, products: Products, rows: bytes) -> FloatArray:
    """All ``products`` together for each number of ``rows`` [s]."""
    n, k, copies = (
        np.array([[getattr(part, axis)] for part, _ in products], dtype=np.float64)
        for axis in ("n", "k", "copies")
    )
    rates = product_rates(chip, kernels, tuple(part.format for part, _ in products))
    counts = np.array([[count] for _, count in products], dtype=np.float64)
    seconds = gemm_seconds(np.frombuffer(rows)[None, :], n, k, copies, rates)
    return _kept((counts * seconds).sum(axis=0))


def products_bound_seconds(
    chip: Chip, kernels: KernelSet, products: tuple[Product, ...], rows: FloatArray
) -> FloatArray:
    """What ``products`` cannot be faster than one after another: weights at peak bandwidth or FLOPs at peak [s]."""
    n, k = (np.array([[getattr(part, axis)] for part in products], dtype=np.float64) for axis in "nk")
    rates = product_rates(chip, kernels, tuple(part.format for part in products))
    return np.asarray(gemm_bound_seconds(rows[None, :], n, k, 1.0, rates).sum(axis=0))


# Experts


@by_identity
def expert_rates(
    chip: Chip, kernels: KernelSet, reference: KernelCalibration, name: str
) -> tuple[GroupedFit, GemmRates]:
    """The fit of an engine's expert kernels, and the dense rates of the chip that it builds on, as numbers."""
    rates = product_rates(chip, reference, (name,))
    scalars: dict[str, Any] = {
        key: float(np.ravel(getattr(rates, key))[0])
        for key in rates._fields
        if key not in ("surface", "labels", "bandwidth_bytes_per_s", "cores", "out_bytes")
    }
    if rates.surface is not None:
        scalars["surface"] = rates.surface.reshape(-1)
    return resolve(kernels.grouped, multiplied(name))[0], rates._replace(**scalars)


@by_identity(size=_BY_TOKENS)
def experts_seconds(
    chip: Chip, kernels: KernelSet, reference: KernelCalibration, experts: tuple[Experts], rows: bytes
) -> FloatArray:
    """The busiest rank's ``experts`` under random routing, by the tokens of a rank [s]; in a tuple, to go by value."""
    (one,), tokens = experts, np.frombuffer(rows)
    fit, dense = expert_rates(chip, kernels, reference, one.format)
    slots, routed, active = routing(one, tokens)
    stream = float(reference.stream.memory) * chip.memory.bandwidth
    return _kept(
        expert_layer_seconds(
            tokens * one.group_tokens,
            routed,
            active,
            slots,
            one.hidden,
            one.inner,
            one.arms,
            fit,
            dense,
            stream,
        )
    )


def experts_bound_seconds(
    chip: Chip, kernels: KernelSet, reference: KernelCalibration, part: Experts, rows: FloatArray
) -> FloatArray:
    """What `experts_seconds` cannot be: weights of the experts that get rows, or their products [s]."""
    _, dense = expert_rates(chip, kernels, reference, part.format)
    _, routed, active = routing(part, rows)
    up = gemm_bound_seconds(routed / active, part.arms * part.inner, part.hidden, active, dense)
    return up + gemm_bound_seconds(routed / active, part.hidden, part.inner, active, dense)


def routing(part: Experts, rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Routed rows of the group, rows of the busiest rank, and its experts that get any, by tokens of a rank."""
    slots = rows * part.group_tokens * part.topk
    held = part.experts / part.ranks
    routed = np.maximum(slots / part.ranks * busiest_share(slots, part.ranks), 1.0)
    return slots, routed, np.minimum(active_experts(routed, held), held)


# Attention


@by_identity
def core_rates(chip: Chip, kernels: KernelSet, kind: str, stored: str) -> AttentionRates:
    """Rates of attention of a ``kind`` over a cache ``stored`` in a format that kernels are timed with."""
    rates = attention_rates(chip, kernels, ("bf16",), (stored,), kind)  # type: ignore[arg-type]
    if kind == "latent_decode":  # the value is the first part of the cached key
        rates = rates._replace(kv_bytes=np.asarray(rates.kv_bytes) * 576.0 / 1088.0)
    return rates


@by_identity(size=_BY_SIZES)
def decode_seconds(
    chip: Chip,
    kernels: KernelSet,
    reference: KernelCalibration,
    cores: Cores,
    stored: str,
    queries: float,
    batch: bytes,
    context: bytes,
) -> FloatArray:
    """Attention of ``batch`` requests with ``queries`` each to ``context`` keys, in layers of one reach [s]."""
    requests, keys = np.frombuffer(batch), np.frombuffer(context)
    total = np.zeros_like(requests)
    for core, count in cores:
        if core.kind == "index":
            moved = requests * keys * (core.head_dim + 8.0)
            total += count * stream_seconds(moved, stream_rates(chip, reference), kernels=3.0)
            continue
        latent = core.kind == "latent"
        rates = core_rates(chip, kernels, "latent_decode" if latent else "decode", stored)
        kv_heads = 1.0 if latent else core.kv_heads
        d = core.latent_dim if latent else core.head_dim
        v = core.latent_v if latent else core.v_dim
        # drafts of a request share its keys: more query heads for each key
        seconds = attention_seconds(requests, core.heads * queries, kv_heads, 1.0, keys, d, v, rates)
        total += count * np.ravel(seconds)
    return _kept(total)


@by_identity(size=_BY_SIZES)
def prefill_seconds(
    chip: Chip,
    kernels: KernelSet,
    cores: Cores,
    cp: int,
    stored: str,
    expanded: str,
    new: bytes,
    seen: bytes,
) -> FloatArray:
    """Attention of chunks of ``new`` tokens that see ``seen`` keys, their own included, without launch [s].

    Ranks of context parallelism (``cp``) take equal shares of the tokens and of the pairs (zigzag), each against all
    keys. ``expanded``: the format that cached latent keys are expanded in.
    """
    q, keys = np.frombuffer(new), np.frombuffer(seen)
    total = np.zeros_like(q)
    own_q = np.maximum(q / float(cp), 1.0)
    together = np.maximum(TOGETHER_TOKENS / own_q, 1.0)
    for core, count in cores:
        pairs = computed_pairs(q, keys, core.reach, chunked=core.chunked)
        if core.kind == "index":
            rate = core_rates(chip, kernels, "attention", stored)
            flops = 2.0 * pairs / float(cp) * core.heads * core.head_dim
            total += count * flops / (0.5 * float(np.ravel(rate.peak_flops_per_s)[0]))
            continue
        rates = core_rates(chip, kernels, "latent" if core.kind == "latent" else "attention", stored)
        share = np.clip(pairs / (q * keys), 1e-6, 1.0)
        seconds = np.ravel(
            attention_seconds(
                together, core.heads, core.kv_heads, own_q, keys, core.head_dim, core.v_dim, rates,
                causal_share=share,
            )
        )  # fmt: skip
        launch = float(np.ravel(rates.launch)[0])
        total += count * np.maximum(seconds - launch, 0.1 * launch) / together
        if core.expand_n:  # cached keys of earlier chunks and of other ranks are expanded again
            cached = np.maximum(keys - own_q, 0.0)
            wide = product_rates(chip, kernels, (expanded,))
            expand = gemm_seconds(np.maximum(cached, 1.0), core.expand_n, core.latent_v, 1.0, wide)
            total += count * np.where(cached > 0, np.ravel(expand), 0.0)
    return _kept(total)


def computed_pairs(q: FloatArray, kv: FloatArray, reach: float, *, chunked: bool = False) -> FloatArray:
    """Query-key pairs of the last ``q`` of ``kv`` tokens under a causal mask that reaches ``reach`` keys back [1]."""
    first = kv - q + 1.0
    if not np.isfinite(reach):
        return np.asarray(q * (first + (q - 1.0) / 2.0))
    if chunked:  # a query sees its own chunk: half of it in the mean once chunks have passed
        seen = np.where(
            kv <= reach, first + (q - 1.0) / 2.0, np.minimum(first + (q - 1.0) / 2.0, reach / 2.0)
        )
        return np.asarray(q * np.maximum(seen, 1.0))
    rising = np.clip(reach - first, 0.0, q)
    return np.asarray(rising * (first + (rising - 1.0) / 2.0) + (q - rising) * reach)


def _kept(values: FloatArray) -> FloatArray:
    """The result as others may be given it too: not to be written to."""
    values.flags.writeable = False
    return values
