"""The lock files hold what pyproject.toml asks for; who changes one without the other is told to run scripts/lock."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HERE = Path(__file__).parent.parent
LOCKS = ("base", "dev", "lowest")
SYSTEMS = [
    {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": system, "extra": ""}
    for python in ("3.11", "3.12", "3.13", "3.14")
    for system in ("linux", "darwin")
]


def _asked(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for to build, to run and for ``extras``, extras of our own resolved."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())
    lines = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    asked = [Requirement(line) for line in lines]
    inner = {extra for each in asked if each.name == "ridgeline" for extra in each.extras} - set(extras)
    if inner:
        return _asked(*extras, *sorted(inner))
    return [each for each in asked if each.name != "ridgeline"]


def _text(lock: str) -> str:
    return (HERE / "requirements" / f"{lock}.lock").read_text()


def _pins(lock: str) -> dict[str, list[Requirement]]:
    pins: dict[str, list[Requirement]] = {}
    for line in re.findall(r"^(\w.*?) \\$", _text(lock), re.MULTILINE):
        pins.setdefault(canonicalize_name(line.split("==")[0]), []).append(Requirement(line))
    return pins


def _version(pin: Requirement) -> Version:
    (only,) = pin.specifier
    assert only.operator == "=="
    return Version(only.version)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_locked_within_its_bounds(lock: str) -> None:
    pins = _pins(lock)
    for asked in _asked(*(() if lock == "base" else ("dev",))):
        for system in SYSTEMS:
            if asked.marker and not asked.marker.evaluate(system):
                continue
            here = [
                _version(pin)
                for pin in pins.get(canonicalize_name(asked.name), [])
                if not pin.marker or pin.marker.evaluate(system)
            ]
            assert len(here) == 1, f"{lock}.lock has {here or 'no'} {asked.name} on {system}: sh scripts/lock"
            assert here[0] in asked.specifier, f"{lock}.lock has {here[0]}, not {asked}: sh scripts/lock"


def test_lower_bounds_are_the_versions_that_are_tested() -> None:
    pins, wrong = _pins("lowest"), []
    for asked in _asked("dev"):
        (pin,) = pins[canonicalize_name(asked.name)]
        if [Version(each.version) for each in asked.specifier if each.operator == ">="] != [_version(pin)]:
            wrong.append(f"{asked}, but {pin.specifier} is tested")
    assert not wrong


def test_a_user_has_the_versions_of_development() -> None:
    base, dev = _pins("base"), _pins("dev")
    for name, pins in base.items():
        assert [str(pin.specifier) for pin in pins] == [str(pin.specifier) for pin in dev[name]], name
    assert not base.keys() & {"pytest", "ruff", "mypy"}


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_hashes_and_name_no_index_or_machine(lock: str) -> None:
    text = _text(lock)
    assert not re.search(
        r"://|--index|--find-links|--trusted|@ |^\s*#.*(?:/tmp|/home|/root|-r )", text, re.MULTILINE
    )
    for block in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block, block.splitlines()[0]
