"""Saved results: a scenario as JSON with every fact it was predicted from, in a file or inside a report."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from ridgeline import files
from ridgeline.api.errors import InputError
from ridgeline.api.written import written
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.plan import Plan
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.spec import SpecT
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob

#: A result has 0.1 MB and a report 5 MB.
MAX_BYTES = 64 * 2**20
_BLOCK = re.compile(r'<script type="application/json" id="ridgeline-result">(.*?)</script>', re.DOTALL)


def scenario_to_dict(scenario: Scenario) -> dict[str, Any]:
    """Every fact of a scenario with one plan, as plain JSON values with units."""
    plan = scenario.plan
    assert isinstance(plan, Plan)
    return {
        "architecture": written(scenario.architecture),
        "chip": written(scenario.chip),
        "cluster": written(scenario.cluster),
        "num_chips": scenario.num_chips,
        "job": written(scenario.job),
        "plan": plan.to_dict(),
        "stack": written(scenario.stack),
        "recipe": written(scenario.recipe),
        "calibration": {
            part.name: written(getattr(scenario.calibration, part.name))
            for part in dataclasses.fields(Calibration)
        },
    }


def scenario_from_dict(data: dict[str, Any], where: str) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario of a saved result, and notes about what could not be taken over.

    Raises:
        InputError: a part is missing or cannot be read; ``where`` names the file.
    """
    chip = _part(Chip, data, "chip", where)
    notes: tuple[str, ...] = ()
    fits = data.get("calibration") or {}
    try:
        parts = {
            name: part.model_validate(fits.get(name))
            for name, part in typing.get_type_hints(Calibration).items()
        }
        calibration = Calibration(**parts)
    except ValidationError:  # fits change from version to version; the chip's own facts do not
        calibration = catalog.calibration(chip.name)
        notes = ("the calibration saved in the file is of another version; today's is used",)
    try:
        plan = TypeAdapter(Plan).validate_python(data.get("plan"))
        num_chips = TypeAdapter(int).validate_python(data.get("num_chips"))
    except ValidationError as error:
        raise InputError(f"{where}: plan: {_reason(error)}") from None
    scenario = Scenario(
        architecture=_part(Architecture, data, "architecture", where),
        chip=chip,
        cluster=_part(Cluster, data, "cluster", where),
        num_chips=num_chips,
        job=_part(TrainingJob, data, "job", where),
        plan=plan,
        stack=_part(Stack, data, "stack", where),
        recipe=_part(Recipe, data, "recipe", where),
        calibration=calibration,
    )
    return scenario, notes


def embed(page: str, result: dict[str, Any]) -> str:
    """The report page with its result inside, as data that no browser runs."""
    text = json.dumps(result, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    head, end, tail = page.rpartition("</body>")
    return f'{head}<script type="application/json" id="ridgeline-result">{text}</script>\n{end}{tail}'


def read_result(path: Path) -> dict[str, Any]:
    """The result in a JSON file or in a report.

    Raises:
        InputError: the file cannot be read, or holds no result.
    """
    where, name = files.shown_path(path), files.one_line(path.name, 60)
    try:
        text = files.read_text(path, MAX_BYTES)
    except files.FileError as error:
        raise InputError(str(error)) from None
    if path.suffix.lower() in (".html", ".htm"):
        found = _BLOCK.search(text)
        if found is None:
            raise InputError(f"{where}: holds no result; expected a report of `ridgeline train --out {name}`")
        text = found[1]
    try:
        data = files.parse_json(text)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    if isinstance(data, dict) and data.get("kind") == "serving":
        raise InputError(
            f"{where}: is a result of `ridgeline serve`, which holds its ladder already; run its command again: "
            f"{files.one_line(str(data.get('command') or 'ridgeline serve'), 200)}"
        )
    if not isinstance(data, dict) or not isinstance(data.get("scenario"), dict):
        raise InputError(f"{where}: holds no result; expected a file of `ridgeline train --out {name}`")
    return data


def _part(spec: type[SpecT], data: dict[str, Any], name: str, where: str) -> SpecT:
    assert issubclass(spec, BaseModel)
    try:
        return spec.model_validate(data.get(name))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([name, *(str(step) for step in first["loc"])])
        raise InputError(f"{where}: {files.one_line(place, 100)}: {_reason(error)}") from None


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, in words."""
    return files.short(error.errors()[0]["msg"].removeprefix("Value error, "), 200)
