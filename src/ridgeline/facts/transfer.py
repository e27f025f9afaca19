"""Transfer: one chip's calibration used for another. Shares carry over; joules only within a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import EnergyFit, KernelCalibration, KernelSet, Provenance
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.facts.observation import Label
from ridgeline.facts.spec import Spec, SpecT
from ridgeline.facts.step_calibration import StepCalibration


def kernels(fitted: KernelCalibration, donor: Chip, target: Chip) -> KernelCalibration:
    """``fitted`` on ``donor`` as the calibration of ``target``; every provenance says so.

    Rates and memory shares are relative to the data sheet, so they carry over unchanged. Corrections over sizes
    are of a maker's tiles and libraries: to another maker's chip they do not.
    """
    energy = _energy(fitted.energy, donor, target)
    lent = fitted.model_copy(update={"chip": target.name, "energy": energy})
    return _relabel(lent if donor.vendor == target.vendor else _without_surfaces(lent), donor)


def _without_surfaces(fitted: KernelCalibration) -> KernelCalibration:
    parts = {
        part: {
            name: fit.model_copy(
                update={"surface": None, "skewed": None} if part == "grouped" else {"surface": None}
            )
            for name, fit in getattr(fitted, part).items()
        }
        for part in KernelSet.model_fields
    }
    return fitted.model_copy(update=parts)


def libraries(fitted: Mapping[str, KernelSet], donor: Chip) -> dict[str, KernelSet]:
    """Fits of the libraries on ``donor`` as those of another chip of its maker."""
    return {library: _relabel(fits, donor) for library, fits in fitted.items()}


def links(fitted: LinkCalibration, donor: Chip, target: Chip) -> LinkCalibration:
    """``fitted`` on ``donor`` as the links of ``target``; shares are of each tier's own bandwidth."""
    return _relabel(fitted.model_copy(update={"chip": target.name}), donor)


def steps(fitted: StepCalibration, donor: Chip, target: Chip) -> StepCalibration:
    """Whole-step factors of ``donor`` as those of ``target``."""
    return _relabel(fitted.model_copy(update={"chip": target.name}), donor)


def _energy(fit: EnergyFit, donor: Chip, target: Chip) -> EnergyFit:
    """Joules per operation belong to the silicon: a power-capped part of the same process keeps them.

    Across processes or vendors the power limit at the data-sheet rate is the only guide [W/(FLOP/s) = J].
    """
    power = target.tdp / donor.tdp
    if donor.process == target.process and donor.vendor == target.vendor:
        # less silicon leaks less: what a larger part draws at rest may be more than a small one may draw at all
        return fit if fit.static < target.tdp else fit.model_copy(update={"static": fit.static * power})
    joules = {key: value * power / _speedup(key, donor, target) for key, value in fit.joules_per_flop.items()}
    return fit.model_copy(update={"static": fit.static * power, "joules_per_flop": joules})


def _speedup(key: str, donor: Chip, target: Chip) -> float:
    """Matrix rate of ``target`` over that of ``donor`` in one format, or in the widest both have."""
    both = [
        name for name in (key, "bf16", "fp16", *donor.matrix) if name in donor.matrix.keys() & target.matrix
    ]
    return target.matrix[both[0]] / donor.matrix[both[0]] if both else 1.0


def _relabel(spec: SpecT, donor: Chip) -> SpecT:
    """``spec`` with every provenance in it, however deep, marked as transferred; none can hide."""
    fields = {name: _relabelled(getattr(spec, name), donor) for name in type(spec).model_fields}
    return spec.model_copy(update=fields)


def _relabelled(value: Any, donor: Chip) -> Any:
    if isinstance(value, Provenance):
        # Errors were measured on the donor and say nothing about the target, so they are dropped.
        return Provenance(
            label=max(value.label, Label.TRANSFERRED, key=list(Label).index),
            source=f"transferred from {donor.name}, scaled by the data sheets; {value.source}",
            rows=value.rows,
            library=value.library,
        )
    if isinstance(value, Spec):
        return _relabel(value, donor)
    if isinstance(value, dict):
        return {key: _relabelled(part, donor) for key, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_relabelled(part, donor) for part in value)
    return value
