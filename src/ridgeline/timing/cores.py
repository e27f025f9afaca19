"""Cores lent to an expert kernel: what their work adds to the links' own rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.link_calibration import CoreFit
from ridgeline.timing.topology import FloatArray, Numeric

#: Cores and links work on the same tokens in turn: near the point where both need equal time they wait for each
#: other. The fourth power rounds the corner of their maximum by at most 19 %, as the measured one is.
CORNER = 4.0


@dataclass(frozen=True, slots=True)
class Lent:
    """What an expert kernel has to work with; floats or arrays ``[*plans]``.

    Attributes:
        cores: cores of the chip that the kernel occupies.
        row_bytes: bytes of one token.
        copies: messages of one token to other ranks.
        experts: experts that are signalled one by one; 0 for kernels that signal ranks.
    """

    cores: Numeric
    row_bytes: Numeric
    copies: Numeric
    experts: Numeric = 0.0


def low_latency_cores(experts: Numeric, cores: int) -> FloatArray:
    """Cores that a low-latency kernel occupies: one for g experts each, g the fewest that fits the chip.

    Source: DeepEP, csrc/kernels/internode_ll.cu (``num_warp_groups = ceil_div(num_experts, num_device_sms)``).
    With one expert a rank it leaves most of the chip idle, which is why its rate then falls tenfold.
    """
    count = np.asarray(experts, dtype=np.float64)
    return np.asarray(np.ceil(count / np.ceil(count / cores)))


def core_seconds_per_byte(fit: CoreFit, lent: Lent) -> FloatArray:
    """Seconds of kernel time per byte of a rank's tokens [s/B], as the cores alone would take."""
    per_token = (fit.token + fit.message * np.asarray(lent.copies)) / lent.row_bytes
    per_byte = 0.0 if fit.read is None else 1.0 / fit.read
    sent = 0.0 if fit.send is None else np.asarray(lent.copies) / fit.send
    return np.asarray((per_token + per_byte + sent) / lent.cores)


def first_seconds(fit: CoreFit, lent: Lent) -> FloatArray:
    """Latency [s] that grows with a token's bytes and with the experts signalled."""
    passing = 0.0 if fit.first is None else np.asarray(lent.row_bytes) / fit.first
    return np.asarray(passing + fit.signal * np.asarray(lent.experts))


def together(links: FloatArray, cores: FloatArray) -> FloatArray:
    """Time per byte of links and cores at work on the same tokens: the longer, rounded where they are equal."""
    return np.asarray((links**CORNER + cores**CORNER) ** (1.0 / CORNER))
