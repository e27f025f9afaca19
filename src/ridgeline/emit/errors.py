"""EmitError: a plan that a framework cannot express."""

from __future__ import annotations

from collections.abc import Iterable


class EmitError(ValueError):
    """Names the field, its value and what the framework would accept; nothing is dropped silently."""

    def __init__(
        self, framework: str, field: str, value: object, choices: Iterable[object], why: str = ""
    ) -> None:
        self.framework, self.field, self.value = framework, field, value
        self.choices = tuple(str(choice) for choice in choices)
        reason = f" ({why})" if why else ""
        super().__init__(
            f"{framework} cannot express {field} = {value}{reason}; choose {' or '.join(self.choices)}"
        )
