"""Overrides: ``path=value`` changes any field of a scenario, read and checked as in a catalog file."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from ridgeline import files, units
from ridgeline.api import arguments
from ridgeline.api.errors import InputError
from ridgeline.api.written import written
from ridgeline.facts import problems
from ridgeline.facts.plan import DEGREES, RECOMPUTES, SCHEDULES, Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.spec import MOST_COUNT, Spec, SpecT
from ridgeline.files import SHOWN

#: First word of a path -> field of the scenario.
ROOTS = {
    "model": "architecture",
    "chip": "chip",
    "cluster": "cluster",
    "job": "job",
    "stack": "stack",
    "recipe": "recipe",
    "calibration": "calibration",
    "plan": "plan",
    "chips": "num_chips",
}
_CHOICES = {"schedule": SCHEDULES, "recompute": RECOMPUTES, "zero": (0, 1, 2, 3)}
_Any = TypeVar("_Any")


def override(scenario: Scenario, settings: Iterable[str]) -> tuple[Scenario, dict[str, Any]]:
    """The scenario with every ``path=value`` applied in order, and the plan fields that they fix.

    Raises:
        InputError: no ``=``, an unknown path (with the choices), or a value that the field does not take.
    """
    fixed: dict[str, Any] = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise InputError(
                f"--set {files.one_line(setting, SHOWN)}: write it as path=value, such as "
                "chip.memory.bandwidth='4 TB/s'"
            )
        root, *steps = path.strip().split(".")
        path = files.one_line(path, SHOWN)  # as messages name it
        field = ROOTS.get(root) or (root if root in ROOTS.values() else None)
        if field is None:
            raise InputError(f"--set {path}: unknown field {files.shown(root)}{_choices(root, list(ROOTS))}")
        value = read_value(setting, text)
        if field == "plan":
            fixed |= _plan_field(path, steps, value)
        elif field == "num_chips":
            if steps:
                raise InputError(f"--set {path}: chips is a number and has no fields")
            scenario = scenario.replace(num_chips=_chips(path, value))
        elif field == "calibration":
            scenario = scenario.replace(calibration=_calibration(scenario, path, steps, value))
        else:
            if field == "job" and isinstance(value, str) and steps[:1] in (["tokens"], ["batch"], ["seq"]):
                value = _count(path, value)
            scenario = scenario.replace(
                **{field: changed(getattr(scenario, field), path, root, steps, value)}
            )
    return scenario, fixed


def plan_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Given fields of a plan, checked: unknown names, counts below 1 and unknown choices are errors."""
    names = [field.name for field in dataclasses.fields(Plan)]
    found = {}
    for name, value in values.items():
        if value is None:
            continue
        if name not in names:
            raise InputError(f"unknown plan field '{name}'{_choices(name, names)}")
        if name in _CHOICES:
            found[name] = _choice(name, value)
            continue
        kind: type = int if name in DEGREES else bool
        found[name] = _checked(name, kind, value)
        least = -1 if name == "recompute_layers" else 1
        if kind is int and not least <= found[name] <= MOST_COUNT:
            bound = f"at least {least}" if found[name] < least else f"at most {MOST_COUNT:,}"
            raise InputError(f"{name} = {arguments.said(value)} must be {bound}")
    return found


def _choice(name: str, value: Any) -> Any:
    """One of the choices of a field; a switch is no number, although Python takes True for 1."""
    known, given = _CHOICES[name], arguments.plain(value)
    for choice in known:
        if isinstance(given, type(choice) | float) and not isinstance(given, bool) and given == choice:
            return choice
    raise InputError(f"{name} = {arguments.said(value)} is unknown; choose {one_of(known)}")


def one_of(values: Iterable[Any]) -> str:
    """``1, 2, 4 or 8``."""
    *most, last = [str(value) for value in values]
    return f"{', '.join(most)} or {last}" if most else last


def _plan_field(path: str, steps: list[str], value: Any) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(Plan)]
    if len(steps) != 1 or steps[0] not in names:
        raise InputError(f"--set {path}: unknown field of a plan{_choices('.'.join(steps), names)}")
    try:
        return plan_fields({steps[0]: value})
    except InputError as error:
        raise InputError(f"--set {path}: {error}") from None


def _calibration(scenario: Scenario, path: str, steps: list[str], value: Any) -> Any:
    names = [part.name for part in dataclasses.fields(scenario.calibration)]
    if not steps or steps[0] not in names:
        choices = one_of(f"calibration.{name}" for name in names)
        raise InputError(f"--set {path}: choose {choices}")
    part = changed(getattr(scenario.calibration, steps[0]), path, f"calibration.{steps[0]}", steps[1:], value)
    return dataclasses.replace(scenario.calibration, **{steps[0]: part})


def changed(spec: SpecT, path: str, root: str, steps: list[str], value: Any) -> SpecT:
    """``spec`` with the field at ``steps`` replaced and everything validated again."""
    data = written(spec)
    if not steps:
        raise InputError(f"--set {path}: name a field of {root}{_choices('', list(data))}")
    here: Any = data
    twin: Any = spec  # walks beside the plain data and knows which mappings have fixed fields
    for depth, step in enumerate(steps):
        where = files.one_line(".".join([root, *steps[:depth]]), SHOWN)
        key = _key(path, where, here, twin, step, last=depth == len(steps) - 1)
        if depth == len(steps) - 1:
            here[key] = value
        else:
            here = here[key]
            twin = getattr(twin, step) if isinstance(twin, Spec) else twin[key]
    try:
        return type(spec).model_validate(data)
    except ValidationError as error:
        lines = problems.validation_problems(error, type(spec), data)
        said = f"--set {path}={files.one_line(str(value), SHOWN)}:"
        raise InputError(files.listed(said, [f"{root}.{line}" for line in lines])) from None


def _key(path: str, where: str, here: Any, twin: Any, step: str, *, last: bool) -> Any:
    if isinstance(here, list):
        if not step.isdecimal() or len(step) > 9 or int(step) >= len(here):
            raise InputError(f"--set {path}: {where} has {len(here)} entries; choose {_places(len(here))}")
        return int(step)
    if not isinstance(here, dict):
        raise InputError(f"--set {path}: {where} is one value and has no field {files.shown(step)}")
    if step not in here and (isinstance(twin, Spec) or not last):
        raise InputError(
            f"--set {path}: {where} has no field {files.shown(step)}{_choices(step, list(here))}"
        )
    return step


def read_value(setting: str, text: str) -> Any:
    """A value of ``--set`` as YAML reads it. Raises InputError where it does not."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # also: an impossible date, brackets without end
        raise InputError(
            f"--set {files.one_line(setting.partition('=')[0], SHOWN)}: {files.shown(text)} cannot be read; "
            "write a number, a text or a list"
        ) from None


def _count(path: str, text: str) -> float:
    try:
        return units.parse_count(text)
    except ValueError as error:
        raise InputError(f"--set {path}: {error}") from None


def _checked(name: str, kind: type[_Any], value: Any) -> _Any:
    """``value`` as a whole number or a switch; text that spells one is taken, 2.5, bytes and True for 1 are not."""
    given = arguments.plain(value)
    try:
        if isinstance(given, bytes) or (isinstance(given, bool) and kind is not bool):
            raise TypeError
        return TypeAdapter(kind).validate_python(given)
    except (ValidationError, TypeError):
        noun = "true or false" if kind is bool else "a whole number"
        raise InputError(f"{name} = {files.shown(value)}: expected {noun}") from None


def _chips(path: str, value: Any) -> int:
    number = _checked(f"--set {path}", int, value)
    if number > MOST_COUNT:
        raise InputError(f"--set {path}: {files.shown(number)}: expected at most {MOST_COUNT:,}")
    return number


def _places(number: int) -> str:
    return one_of(range(number)) if number <= 10 else f"0 to {number - 1}"


def _choices(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"; {hint}choices: {files.choices(known).replace(', ', ' ')}"
