"""Fitted numbers of the catalog as tables, with how well each fit keeps its rows."""

from __future__ import annotations

from ridgeline import units
from ridgeline.calibrate.kernel_errors import kernel_errors
from ridgeline.calibrate.link_errors import link_errors
from ridgeline.calibrate.markdown import percent, table
from ridgeline.calibrate.whole_step import CHIP_KNOBS, LEAST_ROWS, STACK_KNOBS
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.step_calibration import IN_SITU_LIMITS


def fitted_numbers() -> str:
    """The section of the accuracy page that lists what was fitted on steps, kernels and collectives."""
    return "\n\n".join(["## Fitted numbers", _chips(), _stacks(), kernel_errors(), link_errors()])


def _chips() -> str:
    rows = []
    for name in catalog.readable("steps"):
        steps = catalog.step_calibration(name)
        numbers = [f"{getattr(steps, knob.name):.3g}" for knob in CHIP_KNOBS]
        rows.append([name, *numbers, *_held(steps.provenance)])
    others = [name for name in catalog.names("chips") if name not in catalog.names("steps")]
    borrowed: dict[str, list[str]] = {}
    for name in others:
        try:
            borrowed.setdefault(f"those of {catalog.donor(name, 'steps')}", []).append(name)
        except catalog.CatalogError:
            borrowed.setdefault("none, and run at the pace of their kernels alone", []).append(name)
    from_whom = "; ".join(f"{whose}: {', '.join(chips)}" for whose, chips in borrowed.items())
    headers = ["chip", *(f"`{knob.name}`" for knob in CHIP_KNOBS), "rows", "median error", "P90"]
    low, high = IN_SITU_LIMITS
    return f"""Two numbers per chip: how hard the power cap bites, and how much slower kernels are inside a step than
alone, which must lie within {low} and {high} or the fit has failed. Errors are those on the rows of the fit.

{table(headers, rows)}

Other chips read {from_whom}."""


def _stacks() -> str:
    rows = []
    for name in catalog.readable("stacks"):
        stack = catalog.stack(name)
        if stack.rows >= LEAST_ROWS:
            rows.append(
                [
                    name,
                    *(_value(knob.name, getattr(stack, knob.name)) for knob in STACK_KNOBS),
                    str(stack.rows),
                ]
            )
    headers = ["stack", *(f"`{knob.name}`" for knob in STACK_KNOBS), "rows"]
    return f"""Of each software stack, where {LEAST_ROWS} or more rows inform it:

{table(headers, rows)}"""


def _value(name: str, value: float) -> str:
    """A fitted number of a stack as its file writes it: quantities there are times."""
    is_time = catalog.schema("stacks")["properties"][name].get("type") == "string"
    return units.show(value, "s") if is_time else f"{value:.3g}"


def _held(provenance: Provenance) -> list[str]:
    return [str(provenance.rows), percent(provenance.median_abs_err), percent(provenance.p90_abs_err)]
