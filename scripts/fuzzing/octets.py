"""Mutations of bytes: what transfers, editors and crashes do to any file."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from fuzzing import hostile

#: Put between bytes: NUL, text that is not UTF-8, marks of byte order, separators, controls.
_INSERTED = (
    b"\0", b"\xff", b"\xc3(", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b"\xe2\x80\xa8", b"\x1b[2J", b"\r",
    b"\n\n",
    b"\t", b'"', b"'", b",,,", b":", b"{", b"[", b"#", b"\\", b"\x85", b"\x1a", b"\xc2\xa0",
)  # fmt: skip
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _span(data: bytes, random: Random, longest: int = 64) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.randint(1, longest))


def _flip(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << random.randrange(8))]) + data[at + 1 :]


def _insert(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_INSERTED) + data[at:]


def _hostile(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + hostile.text(random).encode() + data[at:]


def _delete(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:start] + data[end:]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _number(data: bytes, random: Random) -> bytes:
    found = list(_NUMBER.finditer(data))
    if not found:
        return _hostile(data, random)
    where = random.choice(found)
    value = hostile.number(random)
    return data[: where.start()] + str(value).encode() + data[where.end() :]


def _line(data: bytes, random: Random) -> bytes:
    """A line dropped, given twice, moved, emptied or cut short."""
    lines = data.split(b"\n")
    at, change = random.randrange(len(lines)), random.randrange(5)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(at, lines[at])
    elif change == 2:
        lines.insert(random.randrange(len(lines)), lines.pop(at))
    else:
        lines[at] = b"" if change == 3 else lines[at][: len(lines[at]) // 2]
    return b"\n".join(lines)


def _whole(data: bytes, random: Random) -> bytes:
    """The whole file in another encoding, empty, or something else altogether."""
    return random.choice((
        b"", b"\n", b"\0" * 100, b"\xef\xbb\xbf" + data, data.decode("latin-1").encode("utf-16"), data[::-1],
        data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), data + data, b"\x1f\x8b\x08" + data, b"PAR1" + data,
        b"[" * 100_000, b'{"a":' * 50_000, b"x" * 300_000, b"a,b\n" * 2, b"{}", b"[]", b"null", b"1", b'"text"',
        b"---\n---\n", b"%YAML 9.9\n", data.upper(), data.replace(b" ", b"\t"),
    ))  # fmt: skip


_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip, _flip, _insert, _insert, _hostile, _delete, _cut, _repeat, _number, _number, _line, _line, _whole,
)  # fmt: skip


def mutated(data: bytes, random: Random) -> bytes:
    """``data`` with one change."""
    return random.choice(_CHANGES)(data, random)
