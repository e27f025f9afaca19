"""Base of every fact: a frozen pydantic model whose quantities are read from text with units."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from ridgeline import units


class Spec(BaseModel):
    """A frozen value; unknown keys are errors, so a misspelt field can never be ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _quantity(dimension: str, example: str) -> tuple[Any, ...]:
    """What makes a float a field that is read from text with a unit of ``dimension``, in SI base units."""

    def read(value: Any) -> float:
        """The number in the base unit; ValueError where the unit is wrong or missing, or the number negative."""
        number = units.parse(value, dimension)
        if number < 0:
            raise ValueError(f"{value!r} is negative")
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
Count = Annotated[int, Field(ge=1)]

SpecT = TypeVar("SpecT", bound=Spec)
