"""Text with units: round trips, exact readings and refusals."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline import units

DIMENSIONS = ("B", "B/s", "FLOP/s", "s", "W", "Hz", "J", "m2", "$")
PREFIXES = {"p": -12, "n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
magnitudes = st.floats(min_value=1e-11, max_value=9e19, allow_nan=False)


@given(
    value=magnitudes,
    dimension=st.sampled_from(DIMENSIONS),
    digits=st.integers(1, 9),
    sign=st.sampled_from([1, -1]),
)
def test_what_is_shown_can_be_read_back(value: float, dimension: str, digits: int, sign: int) -> None:
    shown = units.show(sign * value, dimension, digits)
    assert units.parse(shown, dimension) == pytest.approx(sign * value, rel=0.51 * 10.0 ** (1 - digits))


@given(value=magnitudes, digits=st.integers(1, 6))
def test_a_shown_number_has_no_more_than_three_places_before_the_point(value: float, digits: int) -> None:
    number = units.show(value, "W", digits).split()[0]
    assert abs(float(number)) < 1000
    assert "e" not in number


@given(
    number=st.integers(1, 10**6),
    prefix=st.sampled_from(sorted(PREFIXES)),
    space=st.sampled_from(["", " ", "  "]),
)
def test_prefixes_are_exact_powers_of_ten(number: int, prefix: str, space: str) -> None:
    expected = float(f"{number}e{PREFIXES[prefix]}")
    assert units.parse(f"{number}{space}{prefix}W", "W") == pytest.approx(expected, rel=1e-15)


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_plain_numbers_pass_unchanged(value: float) -> None:
    assert units.parse(value, "1") == value
    assert units.parse(repr(value), "1") == value


@given(text=st.text(max_size=20), dimension=st.sampled_from([*DIMENSIONS, "1"]))
def test_any_text_gives_a_finite_number_or_a_value_error(text: str, dimension: str) -> None:
    try:
        value = units.parse(text, dimension)
    except ValueError:
        return
    assert math.isfinite(value)


@given(value=st.integers(0, 10**15))
def test_thousands_may_be_grouped(value: int) -> None:
    assert units.parse(f"{value:,} B", "B") == value
    assert units.parse(f"{value:_} B", "B") == value


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("3.35 TB/s", "B/s", 3.35e12),
        ("400 Gb/s", "B/s", 50e9),
        ("400Gbps", "B/s", 50e9),
        ("400 GBps", "B/s", 400e9),
        ("80 GB", "B", 80e9),
        ("80 GiB", "B", 80 * 2**30),
        ("16 Gbit", "B", 2e9),
        ("989 TFLOP/s", "FLOP/s", 989e12),
        ("1979 TOPS", "FLOP/s", 1979e12),
        ("5 us", "s", 5e-6),
        ("5 µs", "s", 5e-6),
        ("5 μs", "s", 5e-6),
        ("1.5 min", "s", 90.0),
        ("2 h", "s", 7200.0),
        ("1.2 kWh", "J", 4.32e6),
        ("814 mm2", "m2", 814e-6),
        ("85 %", "1", 0.85),
        (".5", "1", 0.5),
        ("-1e-3", "1", -1e-3),
        ("1,234.5 W", "W", 1234.5),
    ],
)
def test_reads(text: str, dimension: str, value: float) -> None:
    assert units.parse(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "dimension", "says"),
    [
        ("3.3 TB", "B/s", "'3.3 TB' is a size, expected a rate such as '3.35 TB/s'"),
        ("700", "W", "'700' has no unit, expected a power such as '700 W'"),
        (700, "W", "700 has no unit"),
        ("700 Watt", "W", "unknown unit 'Watt'"),
        ("1,5 GB", "B", "unknown unit ',5 GB'"),
        ("12,34 GB", "B", "unknown unit ',34 GB'"),
        ("fast", "B/s", "'fast' is not a rate"),
        ("nan W", "W", "is not a power"),
        ("1e999 W", "W", "is not a finite number"),
        (math.inf, "1", "is not a finite number"),
        (10**400, "1", "is not a finite number"),
        (True, "1", "True is not a number"),
        (None, "B", "None is not a size"),
        ("", "s", "'' is not a time"),
    ],
)
def test_refuses(text: object, dimension: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        units.parse(text, dimension)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "unit", "digits", "shown"),
    [
        (3.35e12, "B/s", 3, "3.35 TB/s"),
        (999.6, "W", 3, "1 kW"),
        (996.0, "W", 2, "1 kW"),
        (123.0, "W", 2, "120 W"),
        (2.5e-6, "s", 3, "2.5 us"),
        (814e-6, "m2", 3, "814 mm2"),
        (0.5, "m2", 3, "0.5 m2"),
        (0.25, "", 3, "0.25"),
        (15.6e12, "", 3, "15.6 T"),
        (0.0, "W", 3, "0 W"),
        (-2e9, "B", 3, "-2 GB"),
    ],
)
def test_shows(value: float, unit: str, digits: int, shown: str) -> None:
    assert units.show(value, unit, digits) == shown


@pytest.mark.parametrize(
    ("text", "count"), [("15.6T", 15.6e12), ("405B", 405e9), ("4M", 4e6), ("2048", 2048.0), (7, 7.0)]
)
def test_counts(text: str | int, count: float) -> None:
    assert units.parse_count(text) == count


@pytest.mark.parametrize("text", ["15.6 TB", "many", "", True, math.nan, "1,5T", 10**400])
def test_refuses_counts(text: object) -> None:
    with pytest.raises(ValueError, match=r"count|finite"):
        units.parse_count(text)  # type: ignore[arg-type]
