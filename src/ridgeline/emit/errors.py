"""EmitError: a plan that a framework cannot express."""

from __future__ import annotations

from collections.abc import Iterable

from ridgeline import files

MOST = 400  # characters of a message
_SHOWN = 100  # of a value or a choice


class EmitError(ValueError):
    """Names the field, its value and what the framework would accept; nothing is dropped silently."""

    def __init__(
        self, framework: str, field: str, value: object, choices: Iterable[object], why: str = ""
    ) -> None:
        self.framework, self.field, self.value = framework, field, value
        self.choices = tuple(str(choice) for choice in choices)
        reason = f" ({files.one_line(why, _SHOWN)})" if why else ""
        shown = files.one_line(str(value), _SHOWN)
        wanted = " or ".join(files.one_line(choice, _SHOWN) for choice in self.choices)
        message = f"{framework} cannot express {field} = {shown}{reason}; choose {wanted}"
        super().__init__(files.one_line(message, MOST - 3))
