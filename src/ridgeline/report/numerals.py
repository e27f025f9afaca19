"""Numbers as a reader wants them: significant digits that fit a column, and a sign that can be seen."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"


def significant(value: float, digits: int = 3) -> str:
    """``4.934 -> "4.93"``, ``53.04 -> "53.0"``, ``1204.4 -> "1,204"``: never an exponent, never a lost digit.

    Values below 1e-4 switch to an exponent, so a small number is not printed as zero.
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    # Rounding first keeps 9.996 from becoming "10.00".
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def seconds(value: float, total: float) -> str:
    """A part of ``total`` seconds, with the decimals that show the total in three digits.

    All parts then have the same decimals: a column that adds up to the eye.
    """
    decimals = max(0, 2 - math.floor(math.log10(total))) if total > 0 else 2
    return f"{value:.{decimals}f}".replace("-", MINUS)


def percent(share: float, digits: int = 1) -> str:
    """A share as percent: ``0.412 -> "41.2 %"``."""
    return f"{100.0 * share:.{digits}f} %"


def signed_percent(change: float) -> str:
    """A relative change with its sign: ``-0.27 -> "−27 %"``; one decimal below 10 %."""
    size = abs(100.0 * change)
    sign = MINUS if change < 0 else "+"
    return f"{sign}{size:.0f} %" if size >= 9.95 else f"{sign}{size:.1f} %"


def gigabytes(size_bytes: float) -> str:
    """Bytes as decimal gigabytes with one decimal and no unit."""
    return f"{size_bytes / 1e9:,.1f}"


def count(value: float) -> str:
    """A large count with its decimal suffix: ``1.56e13 -> "15.6T"``."""
    for scale, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"
