"""Golden numbers: every catalog model in training and serving on three chips, launch files and a few simulations.

A change that only moves code leaves them as they are. A change of the model writes them anew with
`sh scripts/golden`, and says in the changelog what moved, by how much and why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

import golden_questions
from golden_questions import FOLDER

#: Relative difference of a number that counts as the same: sums in another order differ in the last bits.
SAME = 1e-9
NOTHING = 1e-15  # absolute: a rung or an exposed time that is nothing but such a difference


def differences(path: str, known: Any, found: Any) -> Iterator[str]:
    """Where two answers differ, each with both values."""
    if isinstance(known, dict) and isinstance(found, dict) and known.keys() == found.keys():
        for key, value in known.items():
            yield from differences(f"{path}.{key}", value, found[key])
    elif isinstance(known, list) and isinstance(found, list) and len(known) == len(found):
        for index, value in enumerate(known):
            yield from differences(f"{path}.{index}", value, found[index])
    elif isinstance(known, float) and isinstance(found, float | int):
        if not math.isclose(known, found, rel_tol=SAME, abs_tol=NOTHING):
            yield f"{path}: was {known!r}, is {found!r}"
    elif known != found:
        yield f"{path}: was {known!r}, is {found!r}"


def plain(value: Any) -> Any:
    """``value`` as it comes back from a file."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("model", golden_questions.models())
def test_answers_are_the_golden_ones(model: str) -> None:
    known = json.loads((FOLDER / "models" / f"{model}.json").read_text(encoding="utf-8"))
    found = {one.key: plain(golden_questions.ask(one)) for one in golden_questions.questions(model)}
    assert list(differences(model, known, found)) == []


def test_no_golden_file_is_of_a_model_that_is_gone() -> None:
    assert sorted(path.stem for path in (FOLDER / "models").iterdir()) == golden_questions.models()


def test_launch_files_are_the_golden_ones() -> None:
    known = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / "launches").iterdir()}
    assert golden_questions.launches() == known


def test_simulations_are_the_golden_ones() -> None:
    known = json.loads((FOLDER / "simulations.json").read_text(encoding="utf-8"))
    assert list(differences("simulations", known, plain(golden_questions.simulations()))) == []


def test_a_difference_is_seen_and_the_last_bit_is_not() -> None:
    known = {"a": [1.0, "x"], "b": 2}
    assert list(differences("", known, {"a": [1.0 + 1e-12, "x"], "b": 2})) == []
    assert list(differences("", known, {"a": [1.0 + 1e-6, "y"], "b": 3})) == [
        ".a.0: was 1.0, is 1.000001",
        ".a.1: was 'x', is 'y'",
        ".b: was 2, is 3",
    ]
    assert list(differences("", known, {"a": [1.0]})) == [": was {'a': [1.0, 'x'], 'b': 2}, is {'a': [1.0]}"]
