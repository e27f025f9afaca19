"""Ridgeline: how fast a giant model trains on a platform, what binds it and what to change.

    import ridgeline as rl

    result = rl.train("llama-3.1-405b", on="h100-sxm", chips=16384, batch=2048, seq=8192, tokens="15.6T")
    print(result.table())

Names are loaded when they are first used, so importing the package costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as `typing` has it, which takes its time to import
if TYPE_CHECKING:
    from typing import Any

    from ridgeline.api.models import model
    from ridgeline.api.request import Machine, cluster
    from ridgeline.api.results import PlanResult, TrainingResult
    from ridgeline.api.serving import serve
    from ridgeline.api.serving_result import ServingResult
    from ridgeline.api.training import explain, plan, train, validate
    from ridgeline.facts.plan import Plan
    from ridgeline.facts.scenario import Scenario

    __version__: str

#: Public name -> module that defines it. A test holds `__all__` to one list.
_HOMES = {
    "Machine": "ridgeline.api.request",
    "Plan": "ridgeline.facts.plan",
    "PlanResult": "ridgeline.api.results",
    "Scenario": "ridgeline.facts.scenario",
    "ServingResult": "ridgeline.api.serving_result",
    "TrainingResult": "ridgeline.api.results",
    "cluster": "ridgeline.api.request",
    "explain": "ridgeline.api.training",
    "model": "ridgeline.api.models",
    "plan": "ridgeline.api.training",
    "serve": "ridgeline.api.serving",
    "train": "ridgeline.api.training",
    "validate": "ridgeline.api.training",
}

__all__ = [
    "Machine",
    "Plan",
    "PlanResult",
    "Scenario",
    "ServingResult",
    "TrainingResult",
    "__version__",
    "cluster",
    "explain",
    "model",
    "plan",
    "serve",
    "train",
    "validate",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("ridgeline")
    if name not in _HOMES:
        raise AttributeError(f"module 'ridgeline' has no attribute '{name}'; it has {', '.join(__all__)}")
    import importlib

    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
