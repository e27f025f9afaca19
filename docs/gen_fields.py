"""MkDocs hook: the field reference, written from the typed specs themselves.

Type, unit, limits and meaning of a field are said once, at the field, and shown here in place of the mark.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import WithJsonSchema
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ridgeline.facts import (
    architecture,
    chip,
    format,
    kernel_calibration,
    link_calibration,
    observation,
    plan,
    recipe,
    stack,
    workload,
)
from ridgeline.facts.spec import Spec

MARK = "<!-- generated: fields -->"

#: Headings of the page and the specs under each, in reading order.
GROUPS: tuple[tuple[str, tuple[type[Spec], ...]], ...] = (
    ("Chips and clusters", (chip.Chip, chip.Memory, chip.ScaleUp, chip.Cluster, chip.Tier)),
    (
        "Models",
        (
            architecture.Architecture,
            architecture.Layer,
            architecture.Attention,
            architecture.LatentAttention,
            architecture.StateSpace,
            architecture.LinearAttention,
            architecture.Dense,
            architecture.Moe,
            architecture.Published,
        ),
    ),
    ("Software and numbers", (stack.Stack, recipe.Recipe, format.Format)),
    (
        "Calibration",
        (
            kernel_calibration.KernelCalibration,
            kernel_calibration.GemmFit,
            kernel_calibration.AttentionFit,
            kernel_calibration.GroupedFit,
            kernel_calibration.StreamFit,
            kernel_calibration.EnergyFit,
            link_calibration.LinkCalibration,
            link_calibration.LinkFit,
            link_calibration.CoreFit,
            kernel_calibration.Provenance,
        ),
    ),
    ("Workload and observations", (workload.TrainingJob, observation.Observation)),
)
_BOUNDS: dict[type, str] = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
_NAMES = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
_PLAN_FIELD = re.compile(r"^    (\w+): ([^=#]+?)(?: = ([^#]+?))?(?:  # (.*))?$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(MARK, page()) if MARK in markdown else markdown


def page() -> str:
    """The whole reference as Markdown."""
    parts: list[str] = []
    for title, specs in GROUPS:
        parts += [f"## {title}", *(_section(spec) for spec in specs)]
    parts += ["## Plan", _plan()]
    return "\n\n".join(parts)


def _section(spec: type[Spec]) -> str:
    hints = get_type_hints(spec, include_extras=True)
    rows = [_row(name, hints[name], info) for name, info in spec.model_fields.items()]
    return "\n\n".join([f"### {spec.__name__}", _docstring(spec), _table(rows)])


def _row(name: str, hint: Any, info: FieldInfo) -> list[str]:
    bounds = [_bound(item) for item in info.metadata if type(item) in _BOUNDS]
    text = describe(hint)
    extra = [bound for bound in bounds if bound not in text]
    return [f"`{name}`", " ".join([text, *extra]), _default(info), info.description or ""]


def _bound(item: Any) -> str:
    value = next(getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name))
    return f"{_BOUNDS[type(item)]} {value:g}"


def describe(hint: Any) -> str:
    """A type in words: ``quantity such as `80 GB```, ``integer ≥ 1``, a link to another spec."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _annotated(parts[0], parts[1:])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(part) for part in parts))
    if origin is Literal:
        return " ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        return f"list of {describe(parts[0])}"
    if origin is list:
        return f"list of {describe(parts[0])}"
    if origin is dict:
        return f"mapping: {describe(parts[0])} to {describe(parts[1])}"
    if isinstance(hint, type) and issubclass(hint, Spec):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return _NAMES.get(hint, getattr(hint, "__name__", str(hint)).lower())


def _annotated(base: Any, metadata: Iterable[Any]) -> str:
    words = [describe(base)]
    for item in metadata:
        if isinstance(item, WithJsonSchema):
            assert item.json_schema is not None, "every quantity shows an example"
            return f"quantity such as `{item.json_schema['examples'][0]}`"
        if isinstance(item, FieldInfo):
            words += [_bound(bound) for bound in item.metadata if type(bound) in _BOUNDS]
    return " ".join(words)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.default
    if value is PydanticUndefined:
        factory: Callable[..., Any] | None = info.default_factory
        value = factory() if factory is not None else None
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{value}`" if value != "" else "empty"


def _docstring(kind: type) -> str:
    return (inspect.getdoc(kind) or "").replace("``", "`")


def _plan() -> str:
    """The plan is a plain dataclass, fast enough for grids; its meanings are the comments at its fields."""
    source = inspect.getsource(plan.Plan).split("@property", 1)[0]
    rows = [
        [f"`{name}`", f"`{kind.strip()}`", f"`{default}`" if default else "required", meaning or _axis(name)]
        for name, kind, default, meaning in _PLAN_FIELD.findall(source)
    ]
    return "\n\n".join([_docstring(plan.Plan), _table(rows)])


def _axis(name: str) -> str:
    known = {
        "tp": "tensor parallel",
        "cp": "context parallel",
        "pp": "pipeline parallel: number of stages",
        "dp": "data parallel",
        "schedule": " ".join(f"`{value}`" for value in plan.SCHEDULES),
        "recompute": " ".join(f"`{value}`" for value in plan.RECOMPUTES),
        "offload_activations": "activations wait in host memory",
        "offload_optimizer": "the optimizer runs on the host",
        "overlap_tp": "tensor-parallel messages under the GEMMs",
        "overlap_p2p": "pipeline sends under compute",
        "overlap_ep": "expert all-to-all under compute",
    }
    return known.get(name, "")


def _table(rows: list[list[str]]) -> str:
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join(
        lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    )
