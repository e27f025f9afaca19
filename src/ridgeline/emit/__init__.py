"""F9: launch arguments of a chosen plan for the frameworks that train it."""

from __future__ import annotations

from ridgeline.emit import megatron, nemo, torchtitan
from ridgeline.emit.errors import EmitError
from ridgeline.facts.scenario import Scenario

__all__ = ["FRAMEWORKS", "SUFFIX", "EmitError", "emit"]

FRAMEWORKS = ("megatron", "torchtitan", "nemo")
#: File name ending of what each framework reads.
SUFFIX = {"megatron": ".sh", "torchtitan": ".toml", "nemo": ".py"}

_WRITERS = {"megatron": megatron.write, "torchtitan": torchtitan.write, "nemo": nemo.write}


def emit(framework: str, scenario: Scenario) -> str:
    """The text of a launch file for one plan.

    Args:
        framework: ``megatron`` (bash), ``torchtitan`` (TOML) or ``nemo`` (Python, Megatron-Bridge).
        scenario: its plan must be one `Plan`, not a grid.

    Raises:
        EmitError: the framework is unknown, or it cannot express the plan or the model; says which field.
    """
    if framework not in _WRITERS:
        raise EmitError("ridgeline", "framework", framework, FRAMEWORKS)
    return _WRITERS[framework](scenario)
