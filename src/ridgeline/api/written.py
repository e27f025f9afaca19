"""Written: a fact as the text a catalog file would hold, so that reading it again gives the same fact.

Facts keep plain SI floats; files keep ``3.35 TB/s``. A result is saved, and one field of a fact is changed,
through this form, so units and limits are checked again exactly as for a file.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

from pydantic import WithJsonSchema

from ridgeline import units
from ridgeline.facts.spec import Spec

_DIMENSIONS = ("B", "B/s", "FLOP/s", "s", "W", "Hz", "J", "m2", "$")


def written(spec: Spec) -> dict[str, Any]:
    """``spec`` as a mapping of plain values that ``model_validate`` reads back to an equal value."""
    return {
        name: _plain(getattr(spec, name), _unit((field.annotation, *field.metadata)))
        for name, field in type(spec).model_fields.items()
    }


def _plain(value: Any, unit: str | None) -> Any:
    if isinstance(value, Spec):
        return written(value)
    if isinstance(value, Mapping):
        return {key: _plain(part, unit) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, unit) for part in value]
    if isinstance(value, Enum):
        return value.value
    return f"{value!r} {unit}" if unit and isinstance(value, float) else value


def _unit(parts: tuple[Any, ...]) -> str | None:
    """The SI unit of a quantity among an annotation and its metadata; None where the field is plain."""
    for part in parts:
        if isinstance(part, WithJsonSchema):
            examples = (part.json_schema or {}).get("examples", [])
            return next((name for name in _DIMENSIONS for text in examples if _reads(text, name)), None)
        found = _unit((*typing.get_args(part), *getattr(part, "__metadata__", ())))
        if found:
            return found
    return None


def _reads(text: str, dimension: str) -> bool:
    try:
        units.parse(text, dimension)
    except ValueError:
        return False
    return True
