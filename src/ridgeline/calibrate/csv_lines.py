"""Lines of a CSV file, each on its own: one that is damaged says so, and those after it are read all the same."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ridgeline import files


@dataclass(frozen=True, slots=True)
class CsvLine:
    """One row: the number of its (last) line, its cells, and what is wrong with it; empty where nothing is."""

    number: int
    cells: list[str]
    error: str = ""


def csv_lines(path: Path, most: int = files.MOST_BYTES) -> list[CsvLine]:
    """The rows of a file of at most ``most`` bytes, the header first; blank lines are left out.

    Raises:
        ValueError: it cannot be read, is no text at all, or its header is damaged.
    """
    content = files.read_bytes(path, most)
    # bytes that are no UTF-8 become lone surrogates, which no text of a file can be
    text = content.decode("utf-8-sig", errors="surrogateescape").replace("\r\n", "\n")
    reader = csv.reader(io.StringIO(text, newline=""))
    found: list[CsvLine] = []
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            found.append(CsvLine(reader.line_num, [], f"not CSV: {error}"))
            continue
        if cells:
            found.append(CsvLine(reader.line_num, cells, _damage(cells)))
    where = files.shown_path(path)
    if not found:
        raise ValueError(f"{where}: empty file; expected a header line with column names")
    if found[0].error:
        raise ValueError(f"{where}, line {found[0].number}: {found[0].error}")
    return found


def _damage(cells: list[str]) -> str:
    """The first byte of a row that is not UTF-8, in words."""
    for cell in cells:
        for character in cell:
            if "\udc80" <= character <= "\udcff":
                return f"byte 0x{ord(character) - 0xDC00:02x} is not UTF-8 text"
    return ""


def too_damaged(bad: Sequence[str], lines: int) -> str:
    """Why a file is refused of whose ``lines`` those with the reasons ``bad`` cannot be read, as it follows its name.

    Empty where it is not refused.

    A few damaged lines are left out and counted; a file of which most is damaged is another file, or nothing.
    """
    if not bad or 2 * len(bad) <= lines:
        return ""
    if len(bad) == lines:
        return f", {bad[0]}; no line can be read"
    return f", {bad[0]}; {len(bad):,} of {lines:,} lines cannot be read: the file is damaged"
