"""Problems: what is wrong with a catalog file, one line per field: ``field.path: message with the value``."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from ridgeline import files

#: Characters of one problem: it stands in a message below the name of its file.
_MOST = 320
NUMBER = re.compile(r"^\s*[-+]?\.?\d")


def validation_problems(error: ValidationError, spec: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """All problems of one failed validation of ``data`` against ``spec``, in the order of the fields."""
    lines: dict[str, None] = {}
    for item in error.errors(include_url=False):
        steps = _written_path(item["loc"], data)  # keys of a mapping may be as long as they like
        path = ".".join(files.one_line(step, files.SHOWN) for step in steps) or "file"
        lines[files.short(files.one_line(f"{path}: {_message(item, spec)}"), _MOST)] = None
    return list(lines)


def source_problems(spec: type[BaseModel], data: Mapping[str, Any]) -> list[str]:
    """Numbers without a source. A ``source`` mapping goes by top-level field, ``default`` covers the rest."""
    if "source" not in spec.model_fields or "source" not in data:
        return []
    source = data["source"]
    if isinstance(source, str):
        return [] if source.strip() else ["source: empty; each number needs one"]
    if not isinstance(source, Mapping):
        return []
    lines = [
        files.short(
            f"source.{files.one_line(str(key), 60)}: {unknown(str(key), [*spec.model_fields, 'default'])}"
        )
        for key in source
        if key != "default" and key not in spec.model_fields
    ]
    lines += [
        f"source.{key}: empty" for key, text in source.items() if isinstance(text, str) and not text.strip()
    ]
    if "default" not in source:
        numeric = [
            name
            for name, value in data.items()
            if name in spec.model_fields and _is_numeric(spec, name, value)
        ]
        lines += [
            f"source.{name}: missing; each number needs one, or give 'default'"
            for name in numeric
            if name not in source
        ]
    return lines


def unknown(name: str, known: list[str]) -> str:
    """``unknown field; did you mean 'x'?`` or, where nothing is close, the whole list."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return (
        f"unknown field; did you mean '{close[0]}'?" if close else f"unknown field; known: {' '.join(known)}"
    )


def _message(item: Any, spec: type[BaseModel]) -> str:
    kind, message, value = item["type"], str(item["msg"]), item["input"]
    fields = _fields_at(spec, item["loc"][:-1])
    name = str(item["loc"][-1]) if item["loc"] else ""
    meaning = fields[name].description if name in fields else None
    if kind == "missing":
        if name == "source":
            return "missing; each number needs one"
        return f"missing; {meaning}" if meaning else "missing"
    if kind == "extra_forbidden":
        return unknown(name, list(fields))
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    shown = "empty value" if value is None else files.shown(value)
    if kind == "finite_number":
        return f"{shown} is not a finite number"
    text = f"{shown} {message[message.index('should') :]}" if "should" in message else f"{shown}: {message}"
    return f"{text} ({meaning})" if meaning and kind == "string_pattern_mismatch" else text


def _written_path(location: tuple[Any, ...], data: Any) -> Iterator[str]:
    """The steps of a pydantic location that the user wrote: union tags and ``[key]`` marks are left out."""
    here = data
    for index, step in enumerate(location):
        in_mapping = isinstance(here, Mapping) and step in here
        in_list = isinstance(here, list | tuple) and isinstance(step, int) and step < len(here)
        if in_mapping or in_list:
            here = here[step]
        elif index < len(location) - 1 or step == "[key]" or not isinstance(here, Mapping):
            continue
        yield str(step)


def _fields_at(spec: type[BaseModel], location: tuple[Any, ...]) -> dict[str, Any]:
    """Fields of the model that a pydantic location points into; empty where it is no model."""
    here: Any = spec
    for step in location:
        models = _models(here)
        owner = next((model for model in models if step in model.model_fields), None)
        if owner is not None:
            here = owner.model_fields[str(step)].annotation
            continue
        tagged = [
            model
            for model in models
            if "kind" in model.model_fields and model.model_fields["kind"].default == step
        ]
        here = tagged[0] if tagged else here
    models = _models(here)
    return dict(models[0].model_fields) if len(models) == 1 else {}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Every model named in an annotation: ``tuple[Tier, ...]``, ``dict[str, GemmFit]``, ``A | B | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in typing.get_args(annotation) for model in _models(part)]


def _is_numeric(spec: type[BaseModel], name: str, value: Any) -> bool:
    if spec.model_fields[name].annotation in (str, str | None):
        return False
    return _holds_number(value)


def _holds_number(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_number(part) for part in value.values())
    if isinstance(value, list):
        return any(_holds_number(part) for part in value)
    return (isinstance(value, int | float) and not isinstance(value, bool)) or (
        isinstance(value, str) and NUMBER.match(value) is not None
    )
