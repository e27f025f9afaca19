"""Kernel fits as the YAML text of their catalog files."""

from __future__ import annotations

from typing import Any

import yaml

from ridgeline import units
from ridgeline.facts.kernel_calibration import KernelCalibration, KernelLibraries

#: Fields that a catalog file spells with a unit.
_UNITS = {"launch": "s", "ramp": "s", "cast": "s", "fixed": "s", "static": "W"}
_DIGITS = 4
#: Errors are read as per cent.
_ERROR_DIGITS = 3
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def calibration_yaml(found: KernelCalibration | KernelLibraries) -> str:
    """YAML text that reads back as ``found`` to four significant digits."""
    whole = found.model_dump(mode="json", exclude_defaults=True)
    for library, parts in whole.get("libraries", {}).items():
        for fits in parts.values():
            for fit in fits.values():  # the key says it; `catalog.libraries` puts it back
                assert fit["provenance"].pop("library") == library
    plain = _plain(whole)
    return yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True, default_flow_style=None
    )


def _plain(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        # what a chip is comes first, whatever order the fields have
        keys = sorted(value, key=lambda key: key != "chip")
        return {key: _plain(value[key], key) for key in keys if value[key] not in (None, {})}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        if name in _UNITS:
            return units.show(value, _UNITS[name], _DIGITS)
        return float(f"{value:.{_ERROR_DIGITS if name.endswith('_err') else _DIGITS}g}")
    return value
