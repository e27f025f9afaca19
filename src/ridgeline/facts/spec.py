"""Base of every fact: a frozen pydantic model whose quantities are read from text with units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from ridgeline import files, units

# Marks a field whose text may have several lines.
_LINES = "lines of text"
_BREAKS = frozenset("\n\t")

#: Text of several lines, such as a note: line feeds and tabs are allowed in it, and flattened where it is shown.
Prose = Annotated[str, _LINES]
#: Prose by the name of what it is about.
Proses = Annotated[dict[str, str], _LINES]
#: Largest count of anything: chips, sequences, tokens of one, entries of a vocabulary. Products of two keep to int64.
MOST_COUNT = 10**9
#: Quantities beyond these are no machine's, and their quotients leave the range of a float.
LEAST, MOST = 1e-24, 1e27


class Spec(BaseModel):
    """A frozen value; unknown keys are errors, so a misspelt field can never be ignored.

    Its text, keys of mappings among it, has one line and holds only what can be seen: names and titles go to
    terminals and into files that are run. Fields of `Prose` may have several lines.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="after")
    @classmethod
    def _seen(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, float | str | dict | tuple):
            assert info.field_name is not None
            allowed = _BREAKS if _LINES in cls.model_fields[info.field_name].metadata else frozenset()
            for part in _parts(value):
                if isinstance(part, str):
                    _check_seen(part, allowed)
                elif abs(part) > MOST:
                    raise ValueError(f"{part:g} is beyond any machine: expected at most {MOST:g}")
        return value


def _parts(value: Any) -> Iterator[str | float]:
    """All text and all floats in a field's value; a `Spec` inside has checked its own."""
    if isinstance(value, str | float):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _parts(key)
            yield from _parts(part)
    elif isinstance(value, tuple):
        for part in value:
            yield from _parts(part)


def _check_seen(text: str, allowed: frozenset[str]) -> None:
    """ValueError with the first character of ``text`` that no line of text holds."""
    if text.isascii() and text.isprintable():
        return
    for character in text:
        if files.unseen(character) and character not in allowed:
            kind = "lines" if allowed else "one line"
            raise ValueError(
                f"{files.shown(text)} holds the invisible character U+{ord(character):04X}, expected {kind} of "
                "visible ones"
            )


def _quantity(dimension: str, example: str) -> tuple[Any, ...]:
    """What makes a float a field that is read from text with a unit of ``dimension``, in SI base units."""

    def read(value: Any) -> float:
        """The number in the base unit; ValueError where the unit is wrong or missing, or the number negative."""
        number = units.parse(value, dimension)
        if number < 0:
            raise ValueError(f"{files.shown(value)} is negative")
        if number and not LEAST <= number <= MOST:
            raise ValueError(f"{files.shown(value)} is beyond any machine: expected {LEAST:g} to {MOST:g}")
        return number

    schema = {
        "type": "string",
        "description": f"text with a unit, such as '{example}'",
        "examples": [example],
    }
    return BeforeValidator(read), WithJsonSchema(schema)


Bytes = Annotated[float, *_quantity("B", "80 GB")]
BytesPerSecond = Annotated[float, *_quantity("B/s", "3.35 TB/s")]
FlopsPerSecond = Annotated[float, *_quantity("FLOP/s", "989 TFLOP/s")]
Seconds = Annotated[float, *_quantity("s", "2.5 us")]
Watts = Annotated[float, *_quantity("W", "700 W")]
Hertz = Annotated[float, *_quantity("Hz", "1.83 GHz")]
SquareMetres = Annotated[float, *_quantity("m2", "814 mm2")]
Usd = Annotated[float, *_quantity("$", "25000 $")]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1, le=MOST_COUNT)]
Natural = Annotated[int, Field(ge=0, le=MOST_COUNT)]

SpecT = TypeVar("SpecT", bound=Spec)
