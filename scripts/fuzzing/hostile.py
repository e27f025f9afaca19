"""Hostile values: numbers, texts and shapes that break careless readers."""

from __future__ import annotations

import datetime
import math
from random import Random
from typing import Any

NUMBERS: tuple[int | float, ...] = (
    0, -1, 1, -0.0, 0.5, 1.5, math.nan, math.inf, -math.inf, 1e308, -1e300, 5e-324, 1e-300, 1e18,
    2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), 2**64, 10**30, 10**400,
)  # fmt: skip
#: Texts that a file or a word of a command may hold.
TEXTS = (
    "", " ", "nan", "inf", "-1", "1e400", "0x10", "1_000", "1,5", "1,000", "٣", "²", "true", "null", "~", "12 parsecs",
    "3.35 TB", "3.35 TB/s", "-4 TB/s", "1e308 TB/s", "nan TB/s", "0 GB", "1e-300 B/s", "TB/s", "4 TB/s/s", "9" * 30,
    "9" * 401,
    "a\nb", "a\rb", "\x1b[31mred\x1b]0;title\x07", "a\u2028b", "a\u202eb", "a\x85b", "\0", "a\0b", "\ufeff", "\ufffe",
    "../../etc/passwd", "/dev/zero", "~nouser/x", ".", "/", "C:\\x", "=cmd|' /C calc'!A0", '"""', "'", '"', "`id`",
    "$(id)", "; rm -rf x #", "%s%n", "{0}", "{{x}}", "!!python/object/apply:os.system [id]", "&a [*a]", "*a", "<<",
    "---",
    "# not", "</script><script>", "naïve 通义 α", "e\u0301", "😀", "bf16", "h100-sxm", "llama-3.1-8b",
    "2026-01-01", "12:30:45",
)  # fmt: skip
#: Put as they are into written text: what a writer of YAML or JSON would never make.
RAW = (
    "[" * 3000 + "]" * 3000,
    '{"a":' * 2000 + "1" + "}" * 2000,
    "[" * 100_000,
    "9" * 5000,
    "-" + "9" * 400,
    "1e400",
    "NaN",
    "-Infinity",
    ".inf",
    "!!binary aGk=",
    "!!set {a, b}",
    "2026-13-45",
    "&x {<<: *x}",
    "[&a [1], *a]",
    '"\\ud800"',
    '"\\u0000"',
    "? [1, 2]",
)
#: Stand in a tree for an entry of `RAW` until it is written.
MARK = "@@raw{}@@"


def number(random: Random) -> int | float:
    """A number that few readers expect."""
    return random.choice(NUMBERS)


def text(random: Random) -> str:
    """A text that few readers expect; now and then a very long one."""
    if random.random() < 0.04:
        return random.choice(("x", "é", "9", "a,", " ")) * random.choice((300, 5_000, 150_000))
    return random.choice(TEXTS)


def value(random: Random) -> Any:
    """Any value that YAML can hold."""
    kind = random.randrange(12)
    if kind < 4:
        return number(random)
    if kind < 7:
        return text(random)
    if kind == 7:
        return MARK.format(random.randrange(len(RAW)))
    return random.choice((
        None, True, False, [], {}, [[]], [None], [0] * 200, {"a": 1}, {1: 2}, {"a": {"b": {"c": []}}}, [{"kind": "x"}],
        datetime.date(2026, 1, 1), datetime.datetime(2026, 1, 1), b"\xff\x00", {f"k{i}": i for i in range(60)},
    ))  # fmt: skip


def restored(written: str) -> str:
    """The written text with the entries of `RAW` in place of their marks."""
    if "@@raw" not in written:
        return written
    for index, raw in enumerate(RAW):
        mark = MARK.format(index)
        for quoted in (f"'{mark}'", f'"{mark}"', mark):
            written = written.replace(quoted, raw)
    return written
