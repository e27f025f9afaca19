"""Fitted collective costs on the links of one chip."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.spec import Bytes, BytesPerSecond, Fraction, Seconds, Spec

#: Serving engines whose own all-reduce kernels are known, as keys ``all_reduce_ENGINE``.
ENGINES = ("sglang", "vllm", "trtllm")
#: What an all-reduce kernel moves: every rank reads all others' buffers; it scatters and gathers; the switch adds.
Moves = Literal["one_shot", "two_shot", "in_switch"]


class Regime(Spec):
    """One way a library moves data (NCCL: LL, LL128, Simple): low latency and low rate, or the reverse.

    ``t = base + steps * hop + bytes / (share * bandwidth)``; the library takes the cheapest for each size.
    """

    base: Seconds = Field(description="launch and setup of the collective kernel")
    hop: Seconds = Field(description="one algorithm step on a tier of the reference latency")
    relay: Seconds = Field(
        default=0.0,
        validate_default=False,
        description="scale-out: one step inside a node, of a ring that leaves the node",
    )
    share: float = Field(gt=0, le=1.5, description="achieved share of the tier's data-sheet bandwidth")


class CoreFit(Spec):
    """Core time of an expert kernel: with few cores lent they, not the links, set its rate.

    A token of h bytes that goes to c other ranks costs ``token + c message + h (1 / read + c / send)`` seconds of
    one core. Cores work side by side, so a kernel on S of them needs the S-th part for all its tokens.
    """

    token: Seconds = Field(default=0.0, validate_default=False, description="one token: its routing row")
    message: Seconds = Field(
        default=0.0, validate_default=False, description="one token to one rank: flags, slot"
    )
    read: BytesPerSecond | None = Field(None, description="own copy of a token through one core; unset: free")
    send: BytesPerSecond | None = Field(
        None, description="a token's bytes to or from one rank through one core; unset: free"
    )
    first: BytesPerSecond | None = Field(
        None,
        description="rate at which a single token passes the kernel, which sets its latency; unset: free",
    )
    signal: Seconds = Field(
        default=0.0,
        validate_default=False,
        description="one expert's count or flag; low-latency kernels raise one each",
    )


class Kernel(Spec):
    """All-reduce kernel of an engine, for messages below a size that the engine sets for each group size."""

    moves: Moves
    below: dict[int, Bytes] = Field(
        description="by number of ranks: longer messages go on to the next kernel"
    )
    regimes: tuple[Regime, ...] = Field(min_length=1)


class LinkFit(Spec):
    """One collective on one kind of tier: the lower envelope of its regimes is the time and the size ramp."""

    regimes: tuple[Regime, ...] = Field(min_length=1, description="from low latency to high bandwidth")
    copy_cost: float = Field(
        0.0, ge=0, description="time to copy a byte of the rank's own shard over the time to send one"
    )
    detour: float = Field(
        0.0,
        ge=0,
        description="extra time per byte, over that of a pair, as all peers of a large group lie behind a host bridge",
    )
    cores: CoreFit | None = Field(None, description="expert kernels: core time beside link time")
    kernels: tuple[Kernel, ...] = Field(
        (),
        description="an engine's own all-reduce kernels, asked in this order; `regimes` are then those of the library "
        "that takes the rest",
    )
    rest: Moves = Field("two_shot", description="what that library moves")
    provenance: Provenance


class LinkCalibration(Spec):
    """Coefficients by kind of tier and by collective.

    Keys: ``all_reduce`` (ring), ``all_reduce_tree``, ``all_reduce_in_network`` (NVLS, SHARP),
    ``all_reduce_sglang``, ``all_reduce_vllm`` and ``all_reduce_trtllm`` (one-shot and two-shot kernels of
    serving engines), ``all_gather``, ``reduce_scatter``, ``all_to_all``, ``send``, ``broadcast``, and the
    expert-parallel kernels ``dispatch``, ``combine``, ``dispatch_low_latency``, ``combine_low_latency``. A
    collective without a fit of its own takes the one that moves data alike: see `ridgeline.timing.collectives`.
    """

    chip: str
    scale_up: dict[str, LinkFit]
    scale_out: dict[str, LinkFit]
    scale_up_latency: Seconds = Field(description="tier latency at which the scale-up hops were measured")
    scale_out_latency: Seconds = Field(description="tier latency at which the scale-out hops were measured")
    lossy_share: Fraction = Field(
        0.9, description="share of bandwidth kept on lossy Ethernet with ECMP hashing (estimate)"
    )
    cross_rail_share: Fraction = Field(
        0.9,
        description="share of bandwidth kept by flows that leave their rail and cross the spine (estimate)",
    )
