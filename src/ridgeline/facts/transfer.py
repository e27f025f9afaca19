"""Transfer: one chip's calibration used for another. Shares carry over; joules only within a process."""

from __future__ import annotations

from typing import TypeVar

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import (
    AttentionFit,
    EnergyFit,
    GemmFit,
    GroupedFit,
    KernelCalibration,
    Provenance,
    StreamFit,
)
from ridgeline.facts.link_calibration import LinkCalibration, LinkFit
from ridgeline.facts.observation import Label

_FitT = TypeVar("_FitT", GemmFit, AttentionFit, GroupedFit, StreamFit, EnergyFit, LinkFit)


def kernels(fitted: KernelCalibration, donor: Chip, target: Chip) -> KernelCalibration:
    """``fitted`` on ``donor`` as the calibration of ``target``; every provenance says so.

    Rates and memory shares are relative to the data sheet, so they carry over unchanged.
    """
    return fitted.model_copy(
        update={
            "chip": target.name,
            "gemm": {key: _relabel(fit, donor) for key, fit in fitted.gemm.items()},
            "attention": {key: _relabel(fit, donor) for key, fit in fitted.attention.items()},
            "grouped": {key: _relabel(fit, donor) for key, fit in fitted.grouped.items()},
            "stream": _relabel(fitted.stream, donor),
            "energy": _relabel(_energy(fitted.energy, donor, target), donor),
        }
    )


def links(fitted: LinkCalibration, donor: Chip, target: Chip) -> LinkCalibration:
    """``fitted`` on ``donor`` as the links of ``target``; shares are of each tier's own bandwidth."""
    return fitted.model_copy(
        update={
            "chip": target.name,
            "scale_up": {key: _relabel(fit, donor) for key, fit in fitted.scale_up.items()},
            "scale_out": {key: _relabel(fit, donor) for key, fit in fitted.scale_out.items()},
        }
    )


def _energy(fit: EnergyFit, donor: Chip, target: Chip) -> EnergyFit:
    """Joules per operation belong to the silicon: a power-capped part of the same process keeps them.

    Across processes or vendors the power limit at the data-sheet rate is the only guide [W/(FLOP/s) = J].
    """
    if donor.process == target.process and donor.vendor == target.vendor:
        return fit
    power = target.tdp / donor.tdp
    joules = {key: value * power / _speedup(key, donor, target) for key, value in fit.joules_per_flop.items()}
    return fit.model_copy(update={"static": fit.static * power, "joules_per_flop": joules})


def _speedup(key: str, donor: Chip, target: Chip) -> float:
    """Matrix rate of ``target`` over that of ``donor`` in one format, or in the widest both have."""
    shared = [
        name
        for name in (key, "bf16", "fp16", *donor.matrix)
        if name in donor.matrix and name in target.matrix
    ]
    return target.matrix[shared[0]] / donor.matrix[shared[0]] if shared else 1.0


def _relabel(fit: _FitT, donor: Chip) -> _FitT:
    old = fit.provenance
    new = Provenance(
        label=max(old.label, Label.TRANSFERRED, key=list(Label).index),
        source=f"transferred from {donor.name}, scaled by the data sheets; {old.source}",
        rows=old.rows,
    )
    return fit.model_copy(update={"provenance": new})
