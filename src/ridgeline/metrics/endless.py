"""Times that are longer than anyone waits: a number of the question is likely wrong, and the answer says so."""

from __future__ import annotations

YEAR_S = 365.25 * 86400.0
#: One step or one answer longer than a century, and a run longer than ten thousand years, are no plans [s].
LONG_STEP_S, LONG_RUN_S = 100.0 * YEAR_S, 1e4 * YEAR_S
#: Beyond this a time is no number of a machine [s].
MOST_S = 1e15


def check_time(what: str, seconds: float) -> None:
    """Raise ValueError where a time is beyond any."""
    if not seconds <= MOST_S:
        raise ValueError(
            f"{what} takes {seconds:.3g} s, beyond {MOST_S:g} s: a rate of the chip or the cluster is no machine's, or "
            "the work is too much for any"
        )


def endless(what: str, seconds: float | None, most: float = LONG_STEP_S) -> tuple[str, ...]:
    """A loud note on a time above ``most`` seconds; none on others."""
    if seconds is None or seconds <= most:
        return ()
    return (
        f"{what.upper()} TAKES {years(seconds)}: check the rates of the machine and the size of the work",
    )


def years(seconds: float) -> str:
    """``414,000 years``: three digits."""
    found = seconds / YEAR_S
    return f"{float(f'{found:.3g}'):,.0f} years"
