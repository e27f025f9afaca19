"""Laws: what must hold for every plan and every service, checked over random draws; violations with their commands."""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from fuzzing import log, serve_laws, train_laws

#: One law at one draw: its name, whether it holds, what was seen, and the command that shows it.
Finding = tuple[str, bool, str, str]
#: Services for one plan: their tables take longer.
_SERVED = 0.3


def run(draws: int, seed: int) -> int:
    """Check ``draws`` plans and a share of services; print violations by law. Exit 1 where one is violated."""
    checked: Counter[str] = Counter()
    violations: dict[str, list[dict[str, str]]] = {}
    stopped = False
    try:
        for name, holds, seen, command in _all(draws, seed):
            checked[name] += 1
            if not holds:
                violations.setdefault(name, []).append({"seen": seen, "command": command})
            _progress(checked, violations)
    except KeyboardInterrupt:
        stopped = True
    finally:
        rows: list[dict[str, Any]] = [
            {"law": name, "checked": count, "violations": violations.get(name, []), "seed": seed}
            for name, count in checked.items()
        ]
        log.keep(log.LAWS, rows, "law")
    _report(checked, violations)
    print(
        f"\n{sum(checked.values()):,} checks, {sum(map(len, violations.values())):,} violations, seed {seed}"
    )
    if stopped:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if violations else 0


def _all(draws: int, seed: int) -> Iterator[Finding]:
    parts: tuple[tuple[str, int, Callable[[Random], Iterator[Finding]]], ...] = (
        ("training", draws, train_laws.findings), ("serving", round(draws * _SERVED), serve_laws.findings),
    )  # fmt: skip
    for noun, count, findings in parts:
        drawn = number = 0
        while drawn < count:
            number += 1
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = list(findings(Random(f"{seed}/laws/{noun}/{number}")))
            drawn += bool(found)  # a draw that is not legal has nothing to say
            yield from found


def _progress(checked: Counter[str], violations: dict[str, list[dict[str, str]]]) -> None:
    if sys.stderr.isatty():
        bad = sum(map(len, violations.values()))
        sys.stderr.write(f"\r\033[K{sum(checked.values()):,} checks, {bad:,} violations")
        sys.stderr.flush()


def _report(checked: Counter[str], violations: dict[str, list[dict[str, str]]]) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K")
    print(f"{'law':<58}{'checked':>9}{'violated':>9}")
    for name, count in checked.items():
        print(f"{name:<58}{count:>9,}{len(violations.get(name, [])):>9,}")
    for name, found in violations.items():
        print(f"\n{name}")
        for one in found[:5]:
            print(f"    {one['seen']}\n    {one['command']}")
