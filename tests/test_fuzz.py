"""The fuzzers find what they are for, and a few mutants of every quick reader end as they should.

``sh scripts/fuzz`` runs ten thousand of each; here are as many as the checks have time for.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest

from fuzzing import log, sane, train_laws
from fuzzing.__main__ import main
from fuzzing.case import one
from fuzzing.mutate import mutant
from fuzzing.readers import Reader, readers
from fuzzing.verdict import CLEAN, FAILURES, LONGEST, REFUSED, command, judge
from fuzzing.work import SeedError, fuzz, run_one
from ridgeline.files import FileError

#: Readers whose mutants cost a few milliseconds.
SLOW = ("own catalog", "saved result", "replay", "words of train", "words of serve", "words of others")
#: Failures that none of the mutants below may show.
HELD = ("traceback", "hang", "memory", "killed")


def ours(text: str) -> Callable[[], str | None]:
    """A reader that refuses with a message of Ridgeline's own."""

    def run() -> str | None:
        raise FileError(Path("a.csv"), text)

    return run


def looked_up() -> str | None:
    return {}["column"]  # type: ignore[no-any-return]


def endless() -> str | None:
    while True:
        sum(range(1000))


def greedy() -> str | None:
    raise MemoryError


def warned() -> str | None:
    np.float64(1e308) * np.float64(1e308)
    return None


def number() -> str | None:
    int("nan")
    return None


@pytest.mark.parametrize(
    ("run", "kind"),
    [
        (lambda: None, CLEAN),
        (ours("no such file"), REFUSED),
        (looked_up, "traceback"),
        (endless, "hang"),
        (greedy, "memory"),
        (ours("x" * LONGEST), "long message"),
        (ours("\x1b[31mred"), "unclear message"),
        (ours("a\u202eb"), "unclear message"),
        (number, "unclear message"),  # Python's own words name no file or field
        (lambda: "latency: below zero", "nonsense"),
        (warned, "warning"),
    ],
)
def test_the_judge_tells_failures(run: Callable[[], str | None], kind: str) -> None:
    assert judge(run, 0.2).kind == kind


def test_a_message_of_the_system_with_a_name_is_clear(tmp_path: Path) -> None:
    def read() -> str | None:
        (tmp_path / "none").read_bytes()
        return None

    assert judge(read).kind == REFUSED


WORDS = Reader("dies", lambda: [one("a.txt", "some text of a seed")], lambda path: end_of(path.read_bytes()))


def fate(content: bytes) -> int:
    return zlib.crc32(content) % 23


def end_of(content: bytes) -> str | None:
    """A reader that some inputs end, that others keep waiting, and that others crash."""
    if fate(content) == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if fate(content) == 1:
        time.sleep(60)
    if fate(content) == 2:
        raise KeyError("column")
    return None


def test_a_worker_that_dies_or_waits_is_one_failure_and_the_rest_goes_on() -> None:
    cases = [mutant(WORDS.seeds(), 7, "dies", i).files["a.txt"] for i in range(60)]
    wanted = {
        kind: sum(fate(case) == i for case in cases) for i, kind in enumerate(("killed", "hang", "traceback"))
    }
    assert all(wanted.values())
    tally = list(fuzz(WORDS, 7, 60, 2, silent_s=0.5))[-1]
    assert tally.counts == {CLEAN: 60 - sum(wanted.values()), **wanted}
    smallest = {one.kind: one.size for one in tally.failures.values()}
    assert smallest["traceback"] == min(len(case) for case in cases if fate(case) == 2)


def test_a_seed_that_is_not_read_is_an_error_not_a_result() -> None:
    for text in ("x", "y"):
        reader = Reader("seed", lambda text=text: [one("a.txt", text)], lambda path: number())  # type: ignore[misc]
        with pytest.raises(SeedError, match=r"seed, seed a\.txt: unclear message, expected clean"):
            list(fuzz(reader, 1, 5))


def test_mutants_are_a_function_of_seed_reader_and_number() -> None:
    for reader in list(readers().values())[:4]:
        cases = reader.seeds()
        same = [[mutant(cases, 5, reader.name, i).files for i in range(20)] for _ in range(2)]
        assert same[0] == same[1]
        other = [mutant(cases, 6, reader.name, i).files for i in range(20)]
        assert other != same[0]
        assert (
            sum(mutant(cases, 5, reader.name, i).files != case.files for i in range(20) for case in cases[:1])
            > 15
        )


@pytest.mark.parametrize("name", [name for name in readers() if name not in SLOW])
def test_mutants_of_a_reader_end_as_they_should(name: str, tmp_path: Path) -> None:
    reader = readers()[name]
    cases = list(reader.seeds())
    counts = dict.fromkeys((CLEAN, REFUSED, *FAILURES), 0)
    for number in range(30):
        case = mutant(cases, 2, name, number)
        verdict = run_one(reader, case, tmp_path / "input", number)
        counts[verdict.kind] += 1
        assert verdict.kind not in HELD, (
            f"{verdict} sh scripts/fuzz --reader '{name}' --seed 2 --one {number}"
        )
    assert counts[REFUSED] > 0  # mutants do damage


@pytest.mark.parametrize("name", [name for name in readers() if name not in SLOW])
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    reader = readers()[name]
    for case in list(reader.seeds())[:20]:
        path = case.write(tmp_path / "input")
        assert judge(lambda path=path: reader.check(path)).kind == CLEAN, case.main  # type: ignore[misc]


def test_a_command_is_held_to_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    assert command(["catalog", "list", "chips"]) is None
    for words in (["catalog", "show", "nonesuch"], []):  # one message; the help
        ended = command(words)
        assert ended is not None
        assert ended.kind == REFUSED
    for failure, kind in (
        (lambda: sys.stderr.write("error: " + "x" * 500), "long message"),
        (lambda: sys.stderr.write("error: \x1b[31m"), "unclear message"),
        (lambda: None, "unclear message"),
    ):
        monkeypatch.setattr("ridgeline.cli.main.main", lambda words, failure=failure: (failure() and 0) or 2)
        ended = command(["x"])
        assert ended is not None
        assert ended.kind == kind


def test_values_that_make_no_sense_are_found() -> None:
    assert sane.amounts({"latency": 1.0, "name": "a b"}) is None
    assert sane.amounts({"latency": -1.0}) == "below zero.latency: -1.0"
    assert sane.facts({"a": [1.0, float("nan")]}) == "not finite.a: nan"
    assert sane.facts({"a": np.array([1.0, np.inf])}) == "not finite.a: an array"
    assert str(sane.facts({"title": "a\x1b"})).startswith("control character.title")


def test_the_command_reports_keeps_and_shows_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(log, "READERS", tmp_path / "log.json")
    monkeypatch.setattr("fuzzing.__main__.readers", lambda: {"dies": WORDS})
    assert main(["--reader", "dies", "--mutants", "8", "--seed", "3", "--save", str(tmp_path / "kept")]) in (
        0,
        1,
    )
    shown = capsys.readouterr().out
    assert "8 mutants of 1 readers" in shown
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- fuzz readers -->\nold\n<!-- end of fuzz readers -->\n<!-- fuzz laws --><!-- end of fuzz laws -->\n"
    )
    log.page(page)
    assert "| dies | 8 |" in page.read_text()
    assert "old" not in page.read_text()
    failing = next(i for i in range(200) if fate(mutant(WORDS.seeds(), 3, "dies", i).files["a.txt"]) == 2)
    assert main(["--reader", "dies", "--seed", "3", "--one", str(failing)]) == 1
    assert "traceback: KeyError" in capsys.readouterr().out


def test_laws_hold_for_a_few_draws_and_a_broken_one_is_found() -> None:
    found = [finding for i in range(25) for finding in train_laws.findings(Random(f"few/{i}"))]
    assert len(found) > 60
    assert {name for name, *_ in found} >= {
        "ladder sums to the step",
        "batch x2: no less memory",
        "JSON round trip",
    }
    physical = (
        "step and low end at or above the bound",
        "ladder sums to the step",
        "finite JSON",
        "JSON round trip",
    )
    assert [one for one in found if one[0] in physical and not one[1]] == []
    drawn = next(filter(None, (train_laws.draw(Random(f"few/{i}")) for i in range(60))))
    below = dataclasses.replace(drawn.prediction, step_time_s=0.5 * drawn.prediction.bound_s)
    broken = {name for name, holds, _ in train_laws.laws_of(below) if not holds}
    assert {"step and low end at or above the bound", "ladder sums to the step"} <= broken
