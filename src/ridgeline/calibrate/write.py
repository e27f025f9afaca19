"""A `KernelCalibration` as the YAML text of its catalog file."""

from __future__ import annotations

from typing import Any

import yaml

from ridgeline import units
from ridgeline.facts.kernel_calibration import KernelCalibration

#: Fields that a catalog file spells with a unit.
_UNITS = {"launch": "s", "ramp": "s", "static": "W"}
_DIGITS = 4


def calibration_yaml(calibration: KernelCalibration) -> str:
    """YAML text that reads back as ``calibration`` to four significant digits."""
    return yaml.safe_dump(
        _plain(calibration.model_dump(mode="json")), sort_keys=False, width=110, allow_unicode=True
    )


def _plain(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _plain(item, key) for key, item in value.items() if item is not None}
    if isinstance(value, float):
        if name in _UNITS:
            return units.show(value, _UNITS[name], _DIGITS)
        return float(f"{value:.{_DIGITS}g}")
    return value
