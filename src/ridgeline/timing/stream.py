"""Memory-bound kernels: norms, activations, casts, optimizer, copies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import KernelCalibration
from ridgeline.facts.observation import Label
from ridgeline.timing.rates import Array, Numeric


class StreamRates(NamedTuple):
    """Hardware and fit, floats or arrays that broadcast with the bytes."""

    bandwidth_bytes_per_s: Numeric
    memory: Numeric
    half: Numeric
    launch: Numeric
    label: Label = Label.FITTED


def stream_rates(chip: Chip, kernels: KernelCalibration) -> StreamRates:
    """Rates of one chip."""
    fit = kernels.stream
    return StreamRates(chip.memory.bandwidth, fit.memory, fit.half, fit.launch, fit.provenance.label)


def stream_bound_seconds(moved_bytes: Numeric, rates: StreamRates) -> Array:
    """Lower bound [s]: bytes / bandwidth."""
    return np.asarray(np.asarray(moved_bytes, dtype=np.float64) / rates.bandwidth_bytes_per_s)


def stream_seconds(moved_bytes: Numeric, rates: StreamRates, *, kernels: Numeric = 1.0) -> Array:
    """Time to move ``moved_bytes`` (read and written together) in ``kernels`` equal kernels [s].

    ::

        t = kernels launch + (bytes + kernels half) / (memory bandwidth)

    which is launch + bytes / (bandwidth share) with share = memory bytes / (bytes + half). Zero kernels of
    zero bytes take no time.

    Args:
        moved_bytes: bytes read and written, at least 0.
        rates: hardware and fit.
        kernels: number of kernels the bytes are spread over, at least 0.
    """
    moved = np.asarray(moved_bytes, dtype=np.float64) + np.asarray(kernels, dtype=np.float64) * rates.half
    return np.asarray(
        kernels * np.asarray(rates.launch) + moved / (rates.memory * np.asarray(rates.bandwidth_bytes_per_s))
    )
