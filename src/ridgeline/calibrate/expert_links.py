"""Fit dispatch and combine of experts: cores at work beside the links of one node."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import least_squares

from ridgeline.calibrate.link_tables import Samples
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import CoreFit, LinkFit, Regime
from ridgeline.facts.observation import Label
from ridgeline.timing.cores import Lent, core_seconds_per_byte, first_seconds, low_latency_cores, together
from ridgeline.timing.topology import FloatArray

#: Starts in seconds and seconds per byte: token, message, read, send, first, signal.
_CORES = (3e-7, 5e-8, 1e-10, 3e-11, 1e-9, 1e-8)
#: Then share and base; kernels on a fixed number of cores have a second regime: its base, and by how much the first
#: one is slower. Tokens leave in chunks of a channel's queue: below a chunk they wait for no credits, but pay a flag
#: each.
_HIGH_THROUGHPUT = ((0.65, 2.5e-5, 4e-5, 1.3), (0.65, 2.5e-5, 8e-5, 1.8), (0.65, 2e-5, 2.5e-5, 1.1))
_LOW_LATENCY = ((0.65, 1e-5),)
#: What contributes less than this is not there: the search leaves it anywhere below.
_LEAST_SECONDS, _LEAST_PER_BYTE = 1e-9, 1e-13


def solve(samples: Samples, bandwidth: float, sent: FloatArray) -> FloatArray:
    """Logarithms of the parameters; ``sent`` are copies of a token that leave the rank [rows]."""
    low = samples.key.endswith("low_latency")
    target = np.log(samples.seconds)

    def residual(parameters: FloatArray) -> FloatArray:
        return np.asarray(np.log(seconds(parameters, samples, bandwidth, sent)) - target)

    best: Any = None
    for start in _LOW_LATENCY if low else _HIGH_THROUGHPUT:
        first = np.log([*_CORES, *start])
        below, above = first - 14.0, first + 6.0
        below[6], above[6] = np.log([0.1, 1.2])
        if not low:
            below[9], above[9] = 0.0, np.log(4.0)
        result = least_squares(
            residual, first, bounds=(below, above), loss="soft_l1", f_scale=0.08, max_nfev=400
        )
        if best is None or result.cost < best.cost:
            best = result
    return np.asarray(best.x, dtype=np.float64)


def seconds(parameters: FloatArray, samples: Samples, bandwidth: float, sent: FloatArray) -> FloatArray:
    """The model of the fit [rows], as `ridgeline.timing.tariff` prices it inside one node."""
    routing = samples.routing
    assert routing is not None
    low = samples.key.endswith("low_latency")
    cores = low_latency_cores(routing.experts, int(routing.cores[0])) if low else routing.cores
    lent = Lent(cores, routing.row_bytes, sent, routing.experts)
    fit, (share, *regimes) = core_fit(parameters), np.exp(parameters[6:])
    per_byte = together(sent / (share * bandwidth), core_seconds_per_byte(fit, lent))
    work, first = per_byte * samples.size_bytes, first_seconds(fit, lent)
    if low:
        return np.asarray(regimes[0] + first + work)
    base, second, slower = regimes
    return np.asarray(first + np.minimum(base + slower * work, second + work))


def core_fit(parameters: FloatArray) -> CoreFit:
    """Core times of fitted parameters, negligible ones left out."""
    token, message, read, send, first, signal = np.exp(parameters[:6]).tolist()

    def rate(per_byte: float) -> float | None:
        return 1.0 / per_byte if per_byte > _LEAST_PER_BYTE else None

    def time(value: float) -> float:
        return value if value > _LEAST_SECONDS else 0.0

    return CoreFit.model_construct(
        token=time(token), message=time(message), read=rate(read), send=rate(send), first=rate(first),
        signal=time(signal),
    )  # fmt: skip


def link_fit(parameters: FloatArray, samples: Samples, error: FloatArray, rows: int) -> LinkFit:
    """The fit as the catalog has it."""
    share, *regimes = np.exp(parameters[6:])
    lines = [(regimes[0], share)]
    if len(regimes) == 3:
        base, second, slower = regimes
        # A second regime that never wins on a measured row is a leftover of the search.
        lines = (
            [(base, share / slower), (second, share)]
            if slower > 1.005 and second > base
            else [(min(base, second), share)]
        )
    return LinkFit(
        regimes=tuple(
            Regime.model_validate({"base": f"{base * 1e6:.4g} us", "hop": "0 us", "share": float(f"{own:.4g}")})
            for base, own in lines
        ),
        # kernels that signal ranks tell nothing of experts
        cores=core_fit(parameters) if samples.key.endswith("low_latency") else _unsignalled(core_fit(parameters)),
        provenance=Provenance(
            label=Label.FITTED, source=samples.source, rows=rows,
            median_abs_err=round(float(np.median(error)), 4),
            p90_abs_err=round(float(np.quantile(error, 0.9)), 4),
        ),
    )  # fmt: skip


def _unsignalled(fit: CoreFit) -> CoreFit:
    return fit.model_copy(update={"signal": 0.0})
