"""Template: a commented file of one kind of fact to fill in, written from the fields themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo

from ridgeline.facts import catalog
from ridgeline.facts.spec import Spec

#: Text that stands in for a word nobody can guess.
BLANK = "..."
_WORDS = {
    "chip": "h100-sxm",
    "linear": "bf16",
    "linear_backward": "bf16",
    "matrix_as": "bf16",
    "framework": "megatron",
    "label": "bound",
    "source": "document and table that the numbers come from, with its address",
}
_KEYS = {"source": "default", "scale_up": "all_gather", "scale_out": "all_gather"}


def template(kind: str, name: str) -> str:
    """YAML text: required fields with an example, others as comments, each with what it means.

    Raises:
        CatalogError: the kind is unknown.
    """
    entry = next((e for key, e in catalog.KINDS.items() if kind in (key, e.noun)), None)
    if entry is None:
        raise catalog.CatalogError(f"unknown kind '{kind}'; known: {' '.join(catalog.KINDS)}")
    head = f"# {entry.noun} {name}. Numbers carry their unit; lines that begin with # are optional."
    return "\n".join([head, *_fields(entry.spec, {entry.key: name, "title": name})])


def _fields(spec: type[Spec], given: dict[str, str]) -> Iterator[str]:
    for name, field in spec.model_fields.items():
        if name in given:
            yield f"{name}: {given[name]}"
        elif field.is_required():
            yield from _required(name, field)
        else:
            default = field.get_default(call_default_factory=True)
            yield f"# {name}: {_scalar(default)}{_comment(field)}"


def _required(name: str, field: FieldInfo) -> Iterator[str]:
    value = _example(
        name, Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    )
    if isinstance(value, list):
        yield f"{name}:{_comment(field)}"
        yield from (f"  {line}" for line in value)
    else:
        yield f"{name}: {value}{_comment(field)}"


def _example(name: str, annotation: Any) -> str | list[str]:
    """One value as YAML: a scalar, or the lines of a mapping or list."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for part in metadata:
            if isinstance(part, WithJsonSchema) and part.json_schema:
                return str(part.json_schema["examples"][0])
            if getattr(part, "pattern", None):
                return '"2025-01"'
        return _example(name, inner)
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return _example(name, next(part for part in get_args(annotation) if part is not type(None)))
    if get_origin(annotation) is Literal:
        return str(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return _keyed(_KEYS.get(name, "bf16"), _example(name, get_args(annotation)[1]))
    if get_origin(annotation) in (tuple, list):
        item = _example(name, get_args(annotation)[0])
        lines = item if isinstance(item, list) else [item]
        return [f"{'- ' if i == 0 else '  '}{line}" for i, line in enumerate(lines)]
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return list(_fields(annotation, {}))
    if annotation in (int, float):
        return "1"
    if annotation is bool:
        return "false"
    return _WORDS.get(name, BLANK)


def _keyed(key: str, value: str | list[str]) -> list[str]:
    return [f"{key}:", *(f"  {line}" for line in value)] if isinstance(value, list) else [f"{key}: {value}"]


def _comment(field: FieldInfo) -> str:
    choices = _choices(field.annotation)
    words = [part for part in (field.description, f"one of {', '.join(choices)}" if choices else "") if part]
    return f"  # {'; '.join(words)}" if words else ""


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal and len(get_args(annotation)) > 1:
        return [str(choice) for choice in get_args(annotation)]
    return []


def _scalar(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | tuple | list):
        return "{}" if isinstance(value, dict) else "[]"
    return str(value) if str(value) else '""'
