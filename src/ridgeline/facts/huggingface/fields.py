"""Typed access to the fields of a config.json, with errors that name file, field, value and choices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ridgeline import files
from ridgeline.facts.architecture import MOST_LAYERS
from ridgeline.facts.spec import MOST_COUNT


class HuggingFaceError(ValueError):
    """A config.json that is no architecture we can read; the message is complete and meant for the user."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object. ``where`` is the file (and section) that messages start with."""

    values: Mapping[str, Any]
    where: str

    def has(self, *names: str) -> bool:
        """Whether one of the fields is there and not null."""
        return any(self.values.get(name) is not None for name in names)

    def count(self, *names: str, default: int | None = None, least: int = 1) -> int:
        """The first present field of ``names`` as an integer of at least ``least``, else ``default``.

        Raises:
            HuggingFaceError: absent without a default, or not such an integer.
        """
        found = self.optional(*names, least=least)
        if found is not None:
            return found
        if default is not None:
            return default
        other = f" (or {', '.join(repr(name) for name in names[1:])})" if len(names) > 1 else ""
        raise HuggingFaceError(
            f"{self.where}: field '{names[0]}'{other} is missing; a whole number from {least} up is needed"
        )

    def optional(self, *names: str, least: int = 1) -> int | None:
        """As `count`, with None when every field is absent or null."""
        for name in names:
            value = self.values.get(name)
            if value is not None:
                return self._integer(name, value, least)
        return None

    def _integer(self, name: str, value: Any, least: int) -> int:
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_COUNT:
            raise HuggingFaceError(
                f"{self.where}: {name} = {files.shown(value)} must be a whole number from {least} to {MOST_COUNT}"
            )
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A true-or-false field; absent or null gives ``default``."""
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise HuggingFaceError(f"{self.where}: {name} = {files.shown(value)} must be true or false")
        return value

    def text(self, name: str) -> str:
        """A text field; absent or null gives an empty text."""
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise HuggingFaceError(f"{self.where}: {name} = {files.shown(value)} must be a text")
        return value

    def items(self, name: str, length: int | None = None) -> list[Any]:
        """A list field, of ``length`` elements where that is given; absent, null and empty are the same."""
        value = self.values.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise HuggingFaceError(f"{self.where}: {name} = {files.shown(value)} must be a list")
        if value and length is not None and len(value) != length:
            raise HuggingFaceError(
                f"{self.where}: {name} has {len(value)} elements, one for each of {length} layers is needed"
            )
        return value

    def choices(self, name: str, length: int, allowed: tuple[Any, ...]) -> list[Any]:
        """A list with one of the ``allowed`` values for each layer; absent or null: empty."""
        found = self.items(name, length)
        for index, value in enumerate(found):
            if isinstance(value, bool) or value not in allowed:
                known = ", ".join(str(choice) for choice in allowed)
                raise HuggingFaceError(
                    f"{self.where}: {name}[{index}] = {files.shown(value)}; choose one of: {known}"
                )
        return found

    def section(self, name: str) -> Fields:
        """A nested object; absent or null: empty."""
        value = self.values.get(name)
        if value is None:
            value = {}
        if not isinstance(value, Mapping):
            raise HuggingFaceError(f"{self.where}: {name} = {files.shown(value)} must be an object")
        return Fields(value, f"{self.where}: {name}")

    def num_layers(self, *names: str) -> int:
        """The number of layers, within `MOST_LAYERS`."""
        num = self.count(*names)
        if num > MOST_LAYERS:
            raise HuggingFaceError(f"{self.where}: {names[0]} = {num} is beyond {MOST_LAYERS} layers")
        return num

    def divide(self, name: str, total: int, parts: int, by: str) -> int:
        """``total / parts``, refused unless whole."""
        if total % parts:
            raise HuggingFaceError(f"{self.where}: {name} = {total} is not a multiple of {by} = {parts}")
        return total // parts
