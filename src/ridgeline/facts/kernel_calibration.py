"""Fitted kernel rates of one chip. Shares are of the data-sheet rate at the chip's clock."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ridgeline.facts.observation import Label
from ridgeline.facts.spec import Fraction, Positive, Prose, Seconds, Spec, Watts
from ridgeline.facts.surface import Surface


class Provenance(Spec):
    """Where fitted numbers come from and how well they hold on rows they were not fitted to."""

    label: Label
    source: Prose = Field(description="table, library and version, or the chip it was transferred from")
    library: str | None = Field(None, description="framework/kernel that was timed, as kernel tables name it")
    rows: int = Field(0, ge=0, description="rows fitted on")
    median_abs_err: float | None = Field(None, description="median relative error on held-out rows")
    p90_abs_err: float | None = None
    nearest_median_abs_err: float | None = Field(
        None,
        description="the same of the three nearest timed shapes, scaled by the roofline (products) or by the formula "
        "without its surface: a floor that tells noise from a lack of the model",
    )
    nearest_p90_abs_err: float | None = None


class GemmFit(Spec):
    """Matrix multiplication in one format: see `ridgeline.timing.gemm` for the formula."""

    rate: Positive = Field(
        description="share of the matrix peak inside a large tile, before prologues and waves"
    )
    tile: float = Field(ge=0, description="tile area [elements] at which half of that rate is reached")
    memory: Fraction = Field(description="share of memory bandwidth at large sizes")
    memory_half: float = Field(description="bytes at which half of that share is reached", ge=0)
    launch: Seconds = Field(description="time of an empty kernel")
    l2: Positive = Field(description="L2 bandwidth over memory bandwidth")
    ramp: Seconds = Field(description="prologue and epilogue of one wave of tiles")
    splitk: Positive = Field(description="passes over memory that one fp32 split-K partial sum costs")
    droop: float = Field(0.0, description="relative time lost by kernels much longer than 1 ms", ge=0)
    cast: Seconds = Field(
        0.0,
        validate_default=False,
        description="where the library quantises the activation in kernels of its own: their fixed time; "
        "a training recipe counts its casts itself",
    )
    cast_passes: float = Field(
        0.0, ge=0, description="the same: passes over the activation, read and written"
    )
    surface: Surface | None = Field(None, description="correction over m, n and k")
    provenance: Provenance


class AttentionFit(Spec):
    """Fused attention in one format: see `ridgeline.timing.attention`."""

    rate: Positive = Field(description="forward share of the matrix peak for long sequences, head dim 128")
    half: float = Field(description="tokens of query at which half of that rate is reached", ge=0)
    head_half: float = Field(
        description="head dimension at which half of the wide-head rate is reached", ge=0
    )
    backward: Positive = Field(description="backward share of the matrix peak over the forward one")
    memory: Fraction = Field(description="share of memory bandwidth at large sizes (decode)")
    memory_half: float = Field(description="bytes at which half of that share is reached", ge=0)
    ramp: Seconds = Field(description="start and end of one query block on its core")
    launch: Seconds
    solo: float = Field(
        0.0,
        ge=0,
        description="time of the keys and values of one KV head of one sequence, read alone, over what it takes at the "
        "memory bandwidth: how little of the chip a decode kernel splits them over",
    )
    surface: Surface | None = Field(
        None,
        description="correction over keys, sequences x KV heads, head dimension, query group and causal share "
        "(decode: share of the context seen)",
    )
    provenance: Provenance


class GroupedFit(Spec):
    """Grouped GEMM of experts in one format, relative to the dense GEMM of the same chip.

    ``fixed`` and the passes are what an engine's expert layer spends around its two products.
    """

    rate: Positive = Field(description="share of the dense GEMM's rate when every expert has many tokens")
    padding: float = Field(description="rows that aligning one expert's group adds", ge=0)
    launch: Seconds
    fixed: Seconds = Field(
        0.0,
        validate_default=False,
        description="a layer's kernels that grow with nothing: routing, permutation",
    )
    row_passes: float = Field(0.0, ge=0, description="passes over the activations of the routed rows")
    token_passes: float = Field(0.0, ge=0, description="passes over all tokens of the expert-parallel group")
    slot_passes: float = Field(
        0.0, ge=0, description="passes over the activations of all routed rows of the group, its own or not"
    )
    surface: Surface | None = Field(
        None, description="correction over rows an expert, experts, columns, depth"
    )
    skewed: Surface | None = Field(None, description="the same where routing follows a power law")
    provenance: Provenance
    skewed_provenance: Provenance | None = Field(None, description="errors of rows with power-law routing")


class StreamFit(Spec):
    """Memory-bound kernels: share of bandwidth = memory * bytes / (bytes + half)."""

    memory: Fraction
    half: float = Field(ge=0)
    launch: Seconds
    provenance: Provenance


class AccumulationFit(Spec):
    """Products that add to what their output holds, as weight gradients do over micro-batches."""

    exposed: float = Field(
        ge=0, le=2, description="share of reading and writing the accumulator that the product does not hide"
    )
    provenance: Provenance


#: Where nothing was timed: between the A100 (0.5) and the B200 (0.8) of the same source.
ACCUMULATION = AccumulationFit(
    exposed=0.65,
    provenance=Provenance(
        label=Label.TRANSFERRED,
        source="between A100 PCIe and B200, both timed by SimuMax v1.2 (configs/system of that repository)",
    ),
)


class EnergyFit(Spec):
    """Power of one chip: static plus activity."""

    static: Watts = Field(description="power of an idle but clocked chip")
    joules_per_flop: dict[str, Annotated[float, Field(ge=0)]] = Field(
        min_length=1, description="dynamic energy of one matrix FLOP by format"
    )
    joules_per_byte: float = Field(ge=0, description="one byte of device memory traffic")
    joules_per_link_byte: float = Field(ge=0, description="one byte sent on a link")
    provenance: Provenance


class KernelSet(Spec):
    """Fits by number format; attention with another format in its cache has the key ``COMPUTE/CACHE``."""

    gemm: dict[str, GemmFit] = Field({}, description="dense products")
    attention: dict[str, AttentionFit] = Field({}, description="training and prefill")
    decode: dict[str, AttentionFit] = Field({}, description="one query token a sequence")
    latent: dict[str, AttentionFit] = Field({}, description="latent attention, prefill with expanded heads")
    latent_decode: dict[str, AttentionFit] = Field(
        {}, description="latent attention, one query on the latents"
    )
    grouped: dict[str, GroupedFit] = Field({}, description="products of experts")


class KernelCalibration(KernelSet):
    """All kernel coefficients of one chip; a format that is absent falls back to bf16 scaled by the peaks."""

    chip: str
    stream: StreamFit
    accumulation: AccumulationFit = Field(ACCUMULATION, description="weight gradients added to a buffer")
    energy: EnergyFit
    core_stream: float = Field(
        1.33,
        gt=0,
        description="bandwidth of one core over its share of the chip's: timed decode kernels with 0.5 to 0.7 KV heads "
        "a core, each whole on one, contexts of 3,000 to 9,000 tokens; 1.33 is the mean of H100 and RTX PRO 6000",
    )


class KernelLibraries(Spec):
    """Fits of the libraries on one chip that its calibration does not speak for, by ``framework/kernel``."""

    chip: str
    libraries: dict[str, KernelSet]
