"""Logs of nccl-tests: measured collectives from the text that they print."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ridgeline import files
from ridgeline.calibrate.link_tables import Samples

#: Collective of a log, as the name of its file tells.
_LOGS = {
    "allgather": "all_gather", "allreduce": "all_reduce", "alltoall": "all_to_all",
    "reducescatter": "reduce_scatter",
}  # fmt: skip
#: A sweep over sizes has some kB; one of a day of repeats some MB.
MOST_BYTES = 64 * 2**20
#: Sizes and times [us] beyond this, and times below it, are damaged.
MOST, LEAST_US = 1e15, 1e-3
_RANK = re.compile(r"^#.*\bRank\s+(\d+)\b")


@dataclass(frozen=True, slots=True)
class Log:
    """Rows of a log, and how many lines of its table were skipped since no row could be read from them."""

    samples: Samples
    skipped: int = 0
    first_skipped: int = 0  # its line

    @property
    def words(self) -> str:
        """What was skipped, in words; empty where nothing was."""
        plural = "s" if self.skipped > 1 else ""
        return f"line{plural} skipped: first at line {self.first_skipped}" if self.skipped else ""


def read_log(path: Path) -> Log:
    """Samples from the text that nccl-tests print (out-of-place columns; sizes of zero are left out).

    Raises:
        ValueError: no result rows, most of them damaged, or not a collective that is modelled.
    """
    where, name = files.shown_path(path), path.stem.lower().replace("_", "").replace("-", "")
    key = next((key for word, key in _LOGS.items() if word in name), None)
    if key is None:
        raise ValueError(f"{where}: the file name tells no collective, expected one of {', '.join(_LOGS)}")
    lines = files.read_bytes(path, MOST_BYTES).decode("utf-8", errors="replace").splitlines()
    rows = {number: _row(line) for number, line in enumerate(lines, 1) if _of_table(line)}
    good = [row for row in rows.values() if row is not None]
    pairs = [row for row in good if row[0] > 0.0]
    ranks, device = _devices(where, lines)
    if not pairs or not ranks:
        raise ValueError(f"{where}: no devices or rows of results as nccl-tests print them")
    skipped = [number for number, row in rows.items() if row is None]
    if len(skipped) > len(good):
        raise ValueError(
            f"{where}, line {skipped[0]}: {len(skipped)} of {len(rows)} rows of results are not as nccl-tests "
            "print them; the log is damaged"
        )
    size, micros = np.array(pairs).T
    samples = Samples(key, np.full(size.shape, float(ranks)), size, micros * 1e-6, device)
    return Log(samples, len(skipped), skipped[0] if skipped else 0)


def _of_table(line: str) -> bool:
    """Whether a line stands for a row of results: no comment, and not what NCCL or a launcher says in between."""
    words = line.split()
    numbers = sum(word[:1].isdigit() for word in words)
    return bool(words) and not line.startswith("#") and (words[0][:1].isdigit() or numbers >= 5)


def _row(line: str) -> tuple[float, float] | None:
    """Bytes and microseconds of one row; None where it is damaged.

    The redop column may be absent or empty: time and bandwidth are counted from the end, where two sets of four
    columns stand. They say the same thing twice, which shows a damaged digit.
    """
    words = line.split()
    if not 11 <= len(words) <= 13:
        return None
    try:
        size, micros, gigabytes = float(words[0]), float(words[-8]), float(words[-7])
    except ValueError:
        return None
    if not (0.0 <= size <= MOST and LEAST_US <= micros <= MOST and 0.0 <= gigabytes <= MOST):
        return None
    said = size / (micros * 1e3)
    return (size, micros) if abs(said - gigabytes) <= 0.02 + 0.02 * said else None


def _devices(where: str, lines: list[str]) -> tuple[int, str]:
    """How many ranks the head of the log lists, and the device of the first."""
    found = [(number, line, match) for number, line in enumerate(lines, 1) if (match := _RANK.match(line))]
    for place, (number, _, match) in enumerate(found):
        if match[1] != str(place):
            raise ValueError(
                f"{where}, line {number}: rank {files.shown(match[1])}: expected {place}; a line is missing"
            )
    return len(found), found[0][1].rsplit("]", 1)[-1].strip() if found else ""
