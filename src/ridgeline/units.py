"""Text with a unit to plain SI floats, and back: ``"3.35 TB/s" -> 3.35e12``. Nothing else.

Inside Ridgeline every number is a plain float in SI base units whose name carries the unit
(``latency_s``, ``bandwidth_bytes_per_s``). Text is read only at the edge: catalog files, ``--set``.
"""

from __future__ import annotations

import math
import re

_DECIMAL = {
    "": 1.0, "p": 1e-12, "n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "k": 1e3, "K": 1e3,
    "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}  # fmt: skip
_BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}

# dimension -> {unit as written: factor to the SI base unit}
_UNITS: dict[str, dict[str, float]] = {
    "B": {"B": 1.0, "b": 0.125, "bit": 0.125},
    "B/s": {"B/s": 1.0, "b/s": 0.125, "bps": 0.125, "bit/s": 0.125, "Bps": 1.0},
    "FLOP/s": {"FLOP/s": 1.0, "FLOPS": 1.0, "FLOPs": 1.0, "OP/s": 1.0, "OPS": 1.0},
    "s": {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "W": {"W": 1.0},
    "Hz": {"Hz": 1.0},
    "J": {"J": 1.0, "Wh": 3600.0},
    "m2": {"m2": 1.0, "mm2": 1e-6},
    "$": {"$": 1.0, "USD": 1.0},
    "1": {"": 1.0, "%": 0.01},
}
_UNPREFIXED = {"min", "h", "d", "%", "m2", "mm2"}
_MEANING = {
    "B": ("a size", "80 GB"), "B/s": ("a rate", "3.35 TB/s"), "FLOP/s": ("a compute rate", "989 TFLOP/s"),
    "s": ("a time", "2.5 us"), "W": ("a power", "700 W"), "Hz": ("a frequency", "1.83 GHz"),
    "J": ("an energy", "1.2 kWh"), "m2": ("an area", "814 mm2"), "$": ("a price", "25000 $"),
    "1": ("a number", "0.85 or 85 %"),
}  # fmt: skip
# Commas only between groups of three: "1,5 GB" must not become 15 GB.
_NUMBER = re.compile(
    r"^\s*([-+]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d[\d_]*)?(?:(?<=\d)\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*$"
)


def parse(text: str | float, dimension: str) -> float:
    """Read ``text`` as a quantity of ``dimension`` and return it in SI base units.

    ``dimension`` is one of ``B  B/s  FLOP/s  s  W  Hz  J  m2  $  1``. A bare number is accepted only for
    dimension ``1``: everywhere else the unit must be written.

    Raises:
        ValueError: no number, an unknown unit, or a unit of another dimension (the message says which).
    """
    noun, example = _MEANING[dimension]
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{_said(text)} is not {noun}; write it like '{example}'")
    if not isinstance(text, str):
        if dimension != "1":
            raise ValueError(f"{_said(text)} has no unit, expected {noun} such as '{example}'")
        return _real(text)
    match = _NUMBER.match(text)
    if not match:
        raise ValueError(f"{_said(text)} is not {noun}; write it like '{example}'")
    number = float(match[1].replace(",", "").replace("_", ""))
    unit = match[2]
    factor = _factor(unit.replace(" ", ""), dimension)
    if factor is not None:
        # Dividing by 1e6 is correctly rounded where multiplying by 1e-6 is not: "5 us" is 5e-06 exactly.
        return _finite(number * factor if factor >= 1 else number / round(1 / factor), text)
    for other, (other_noun, _) in _MEANING.items():
        if other not in (dimension, "1") and _factor(unit, other) is not None:
            raise ValueError(f"{_said(text)} is {other_noun}, expected {noun} such as '{example}'")
    missing = "has no unit" if not unit else f"has unknown unit {_said(unit)}"
    raise ValueError(f"{_said(text)} {missing}, expected {noun} such as '{example}'")


def _said(value: object) -> str:
    """A wrong value as a message repeats it: short, and on one line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 64 else f"{text[:60]}...{text[-1]}"


def _factor(unit: str, dimension: str) -> float | None:
    for name, factor in _UNITS[dimension].items():
        if unit == name:
            return factor
    for name, factor in _UNITS[dimension].items():
        if name and name not in _UNPREFIXED and unit.endswith(name):
            prefix = unit[: -len(name)]
            scale = _BINARY.get(prefix) or _DECIMAL.get(prefix)
            if scale is not None:
                return factor * scale
    return None


def _real(value: float) -> float:
    try:
        return _finite(float(value), value)
    except OverflowError:
        raise ValueError("an integer of that length is not a finite number") from None


def _finite(value: float, text: object) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{_said(text)} is not a finite number")
    return value


def parse_count(text: str | float) -> float:
    """Read a count with an optional decimal suffix: ``"15.6T" -> 1.56e13``, ``"405B"`` means 4.05e11."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{_said(text)} is not a count; write it like '15.6T'")
    if not isinstance(text, str):
        return _real(text)
    match = _NUMBER.match(text)
    scale = {"": 1.0, "K": 1e3, "k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
    if not match or match[2] not in scale:
        raise ValueError(f"{_said(text)} is not a count; write it like '15.6T', '2048' or '4M'")
    return _finite(float(match[1].replace(",", "").replace("_", "")) * scale[match[2]], text)


_PREFIXES = [(1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")]
_SMALL = [(1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")]


def show(value: float, unit: str, digits: int = 3) -> str:
    """Format an SI value with a decimal prefix: ``show(3.35e12, "B/s") -> "3.35 TB/s"``.

    ``digits`` are significant; ``parse`` reads the result back to that precision. Units that take no prefix
    (``min``, ``h``, ``d``, ``%``) are written plainly, areas below a tenth of a square metre in mm2.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    if unit == "m2" and abs(value) < 0.1:
        return f"{_round(value * 1e6, digits):.15g} mm2"
    if unit in _UNPREFIXED or (not unit and abs(value) < 1):
        return f"{_round(value, digits):.15g} {unit}".strip()
    rounded = _round(value, digits)  # first, so that 999.9 W becomes 1 kW and not 1000 W
    for scale, prefix in _PREFIXES if abs(rounded) >= 1 else _SMALL:
        if abs(rounded) >= scale * (1 - 1e-12):
            return f"{_round(rounded / scale, digits):.15g} {prefix}{unit}".strip()
    return f"{rounded:.15g} {unit}".strip()


def _round(value: float, digits: int) -> float:
    """``value`` to ``digits`` significant digits."""
    return float(f"{value:.{max(digits, 1) - 1}e}")
