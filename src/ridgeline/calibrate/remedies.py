"""Remedies: what was tried against the misses that stay, with the figures that each gave. The accuracy page lists them.

The table is `facts/data/remedies.yaml`, reviewed by hand: a remedy that was dropped cannot be computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from ridgeline.calibrate.markdown import table
from ridgeline.facts import catalog
from ridgeline.facts.spec import Spec

FILE = catalog.BUILT_IN / "remedies.yaml"
#: Different remedies that each miss gets before it is let be.
TRIED = 3


class Remedy(Spec):
    """One change of the model that was tried."""

    change: str
    figures: str
    kept: bool


class Miss(Spec):
    """What is further off than wanted, and what was tried."""

    what: str
    remedies: tuple[Remedy, ...]


def misses(file: Path = FILE) -> tuple[Miss, ...]:
    """The table, as reviewed."""
    return tuple(Miss.model_validate(one) for one in yaml.safe_load(file.read_text(encoding="utf-8")))


def remedy_table(found: Sequence[Miss]) -> str:
    """Misses and their remedies as a Markdown table."""
    rows = [
        [miss.what if first else "", remedy.change, remedy.figures, "kept" if remedy.kept else "dropped"]
        for miss in found
        for first, remedy in zip((True, *(False for _ in miss.remedies)), miss.remedies, strict=False)
    ]
    return table(["miss", "remedy", "figures", ""], rows)


def remedies() -> str:
    """The section of the accuracy page about misses that stay."""
    return f"""## What was tried against the misses that stay

A remedy is kept where it has a cause and a source and does not worsen the fit share; figures are median errors before
and after that remedy alone unless said otherwise, at the time it was tried. Test rows show an effect here; no number
was fitted to them.

{remedy_table(misses())}"""
