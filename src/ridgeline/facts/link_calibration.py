"""Fitted collective costs on the links of one chip."""

from __future__ import annotations

from pydantic import Field

from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.spec import Fraction, Seconds, Spec


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


class LinkFit(Spec):
    """One collective on one kind of tier: the lower envelope of its regimes is the time and the size ramp."""

    regimes: tuple[Regime, ...] = Field(min_length=1, description="from low latency to high bandwidth")
    copy_cost: float = Field(
        0.0, ge=0, description="time to copy a byte of the rank's own shard over the time to send one"
    )
    provenance: Provenance


class LinkCalibration(Spec):
    """Coefficients by kind of tier and by collective.

    Keys: ``all_reduce`` (ring), ``all_reduce_tree``, ``all_reduce_in_network`` (NVLS, SHARP),
    ``all_reduce_engine`` (one-shot and two-shot kernels of serving engines), ``all_gather``,
    ``reduce_scatter``, ``all_to_all``, ``send``, ``broadcast``, and the expert-parallel kernels ``dispatch``,
    ``combine``, ``dispatch_low_latency``, ``combine_low_latency``. A collective without a fit of its own
    takes the one that moves data alike: see `ridgeline.timing.collectives`.
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
