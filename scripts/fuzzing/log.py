"""Log of the last runs: a JSON file, the table on a terminal, and the table in a page between two markers."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzzing.tally import Tally
from fuzzing.verdict import CLEAN, REFUSED
from ridgeline.files import write

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".fuzz"
READERS, LAWS = FOLDER / "readers.json", FOLDER / "laws.json"


def commit() -> str:
    """The commit of the checkout, with a + where files differ from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def keep(path: Path, rows: Sequence[dict[str, Any]], key: str) -> None:
    """Put rows into a log, over older ones of the same ``key``."""
    known = {row[key]: row for row in read(path)}
    at = commit()
    known |= {row[key]: {**row, "commit": at} for row in rows}
    write(path, json.dumps(list(known.values()), indent=1) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """Rows of a log; none where there is no log."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def table(tallies: Sequence[Tally]) -> str:
    """The tallies as text."""
    lines = [f"{'reader':<20}{'mutants':>9}{'clean':>8}{'error':>8}{'failed':>8}{'seconds':>9}"]
    for one in tallies:
        counts = (one.mutants, one.counts[CLEAN], one.counts[REFUSED], one.failed)
        lines.append(
            f"{one.reader:<20}{counts[0]:>9,}"
            + "".join(f"{n:>8,}" for n in counts[1:])
            + f"{one.seconds:>9.0f}"
        )
    return "\n".join(lines)


def failures(tallies: Sequence[Tally]) -> str:
    """Every distinct failure with the command that shows its smallest input again."""
    lines = []
    for one in tallies:
        for failure in sorted(one.failures.values(), key=lambda each: -each.count):
            lines.append(f"{one.reader}: {failure.kind} x {failure.count:,}: {failure.where}")
            lines.append(f"    {failure.message[:200]!r}")
            lines.append(
                f"    sh scripts/fuzz --reader '{one.reader}' --seed {one.seed} --one {failure.number}"
            )
    return "\n".join(lines)


def page(path: Path) -> None:
    """Write the tables of both logs between their markers in a page.

    Raises:
        ValueError: the page lacks a pair of markers, or a log is empty.
    """
    text = path.read_text(encoding="utf-8")
    for name, lines in (("readers", _readers()), ("laws", _laws())):
        begin, end = f"<!-- fuzz {name} -->", f"<!-- end of fuzz {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{path}: expected '{begin}' and '{end}' on lines of their own")
        text = "".join((before, begin, "\n", "\n".join(lines), "\n", end, after))
    write(path, text)


def _readers() -> list[str]:
    rows = read(READERS)
    if not rows:
        raise ValueError(f"{READERS}: no run yet; sh scripts/fuzz writes it")
    lines = [
        "| Reader | Mutants | Read | Clear error | Failures | Seed | Commit |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in rows:
        counts = row["counts"]
        clean, refused = counts.get(CLEAN, 0), counts.get(REFUSED, 0)
        cells = (row["mutants"], clean, refused, row["mutants"] - clean - refused)
        lines.append(
            f"| {row['reader']} | {' | '.join(f'{n:,}' for n in cells)} | {row['seed']} | {row['commit']} |"
        )
    return lines


def _laws() -> list[str]:
    lines = ["| Law | Checked | Violations | Seed | Commit |", "|---|--:|--:|--:|---|"]
    for row in read(LAWS):
        cells = f"{row['checked']:,} | {len(row['violations']):,} | {row['seed']} | {row['commit']}"
        lines.append(f"| {row['law']} | {cells} |")
    return lines
