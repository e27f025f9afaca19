"""Request: one question about a training run: from words to a scenario and what is fixed of its plan."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ridgeline import files, units
from ridgeline.api import arguments
from ridgeline.api.degrees import check_degrees
from ridgeline.api.errors import InputError
from ridgeline.api.models import model as find_model
from ridgeline.api.overrides import override, plan_fields
from ridgeline.calibrate.software import stack_for
from ridgeline.facts import catalog, problems
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.plan import Plan
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.spec import MOST_COUNT
from ridgeline.facts.stack import Stack
from ridgeline.facts.workload import TrainingJob
from ridgeline.timing.rates import peak_flops_per_s

#: Frameworks that keep one fp32 copy of the parameters, sharded over the data-parallel ranks.
_SHARDED = ("fsdp", "maxtext")


@dataclass(frozen=True, slots=True)
class Machine:
    """Chips joined by a network, and how many of them a job gets; None leaves it to the job."""

    cluster: Cluster
    chip: Chip
    chips: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A scenario whose plan is open, and what is fixed of it."""

    scenario: Scenario
    fixed: Mapping[str, Any] = field(default_factory=dict)  # fields of `Plan`
    cross_domain_tp: bool = False
    notes: tuple[str, ...] = ()
    every: bool = False  # search every schedule and ZeRO stage
    settings: tuple[str, ...] = ()
    #: The same question with other settings; None where it was not asked in words.
    again: Callable[..., Request] | None = field(default=None, repr=False, compare=False)


def cluster(name: str | Cluster, chips: int | str | None = None) -> Machine:
    """The cluster ``name``, or a chip's default one, with ``chips`` of its chips.

    Raises:
        CatalogError: unknown name, or more chips than it has.
    """
    count = None if chips is None else whole("chips", chips)
    arguments.named("on", name, Cluster, "the name of a cluster or a chip, or a Cluster")
    found = name if isinstance(name, Cluster) else catalog.cluster_for(name, count)
    return Machine(found, catalog.chip(found.chip), count)


def request(
    model: str | Path | Architecture,
    *,
    on: str | Cluster | Machine,
    chips: int | str | None = None,
    batch: int | str,
    seq: int | str,
    tokens: float | str | None = None,
    kind: str = "pretrain",
    plan: Plan | None = None,
    stack: str | Stack | None = None,
    recipe: str | Recipe | None = None,
    settings: Iterable[str] = (),
    cross_domain_tp: bool = False,
    every: bool = False,
    **degrees: Any,
) -> Request:
    """Build a request. Counts may be text such as ``15.6T``.

    Args:
        model: catalog name, path to a ``config.json``, its folder or an architecture file, or a value.
        on: cluster, or chip (its default cluster), or a `Machine`.
        plan: all fields of one plan; ``degrees`` fix single fields of `Plan` instead, the rest is searched.
        stack: training stack; the newest of the chip's vendor when left out.
        recipe: number recipe; bf16 (fp16 on chips without bf16) when left out.
        settings: ``path=value`` changes of any field.
        cross_domain_tp: tensor parallelism may span scale-up domains.
        every: search every schedule and ZeRO stage, also those that few frameworks bring.

    Raises:
        ValueError: a name, a value or a combination is wrong; the message says which and the choices.
    """
    machine = machine_of(on, chips)
    if machine.chips is None:
        raise InputError("chips: missing; how many chips does the job run on?")
    architecture = find_model(model)
    software = stack if isinstance(stack, Stack) else _stack(stack, machine.chip)
    again = functools.partial(
        request, architecture, on=machine, batch=batch, seq=seq, tokens=tokens, kind=kind, plan=plan, stack=software,
        recipe=recipe, cross_domain_tp=cross_domain_tp, every=every, **degrees,
    )  # fmt: skip
    scenario = Scenario(
        architecture=architecture,
        chip=machine.chip,
        cluster=machine.cluster,
        num_chips=machine.chips,
        job=_job(batch=batch, seq=seq, tokens=tokens, kind=kind),
        plan=Plan(),
        stack=software,
        recipe=recipe
        if isinstance(recipe, Recipe)
        else _recipe(recipe, software, machine.chip).on(machine.chip),
        calibration=catalog.calibration(machine.chip.name),
    )
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(f"plan = {files.shown(plan)}: expected a Plan")
    given = plan_fields(plan.to_dict() if plan is not None else {}) | plan_fields(degrees)
    changes = settings_of(settings)
    scenario, fixed = override(scenario, changes)
    beyond, every = arguments.switch("cross_domain_tp", cross_domain_tp), arguments.switch("every", every)
    return checked(Request(scenario, given | fixed, beyond, tuple(_notes(scenario)), every, changes, again))


def machine_of(on: str | Cluster | Machine, chips: int | str | None) -> Machine:
    """What a question names, with the chips that it gives or else those of the machine.

    Raises:
        ValueError: an unknown name, or a number of chips that is none.
    """
    if not isinstance(on, Machine):
        return cluster(on, chips)
    count = on.chips if chips is None else chips
    return Machine(on.cluster, on.chip, None if count is None else whole("chips", count))


def settings_of(settings: Iterable[str]) -> tuple[str, ...]:
    """The ``path=value`` of a question, one or several. Raises InputError for anything but text."""
    return arguments.texts("settings", settings, "path=value texts, such as ['chip.tdp=700 W']")


def checked(one: Request) -> Request:
    """The request itself if its degrees can fit the machine and the job. Raises InputError where not."""
    check_degrees(one.scenario, one.fixed, cross_domain_tp=one.cross_domain_tp)
    _check_recipe(one.scenario.recipe, one.scenario.chip)
    return one


def _check_recipe(recipe: Recipe, chip: Chip) -> None:
    """Raise InputError where the chip multiplies neither a format of the recipe nor a wider one."""
    for name in (recipe.linear, recipe.linear_backward, recipe.attention, recipe.head):
        try:
            peak_flops_per_s(chip, name)
        except ValueError as error:
            raise InputError(f"recipe = {recipe.name}: {error}") from None


def whole(name: str, value: int | str | float, most: int = MOST_COUNT) -> int:
    """A count from 1 to ``most``, from a number or from text such as ``16,384`` or ``4M``."""
    try:
        number = units.parse_count(arguments.plain(value))
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None
    if number != int(number) or number < 1:
        raise InputError(f"{name} = {files.one_line(str(value), 60)} must be a whole number of at least 1")
    if number > most:
        raise InputError(f"{name} = {files.one_line(str(value), 60)}: expected at most {most:,}")
    return int(number)


def _job(*, batch: int | str, seq: int | str, tokens: float | str | None, kind: str) -> TrainingJob:
    values: dict[str, Any] = {"batch": whole("batch", batch), "seq": whole("seq", seq), "kind": kind}
    if tokens is not None:
        try:
            values["tokens"] = units.parse_count(arguments.plain(tokens))
        except ValueError as error:
            raise InputError(f"tokens: {error}") from None
    try:
        return TrainingJob.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(problems.validation_problems(error, TrainingJob, values))) from None


def _stack(name: str | None, chip: Chip) -> Stack:
    name = arguments.text("stack", name, "the name of a stack, or a Stack")
    return catalog.stack(name) if name else stack_for("", None, chip.vendor)


def _recipe(name: str | None, stack: Stack, chip: Chip) -> Recipe:
    name = arguments.text("recipe", name, "the name of a recipe, or a Recipe")
    if name:
        return catalog.recipe(name)
    if "bf16" not in chip.matrix and "fp16" in chip.matrix:
        return catalog.recipe("fp16")
    return catalog.recipe("bf16-fsdp" if stack.framework in _SHARDED else "bf16")


def _notes(scenario: Scenario) -> Iterable[str]:
    chip = scenario.chip
    linear = catalog.number_format(scenario.recipe.linear).matrix_as
    if linear not in chip.matrix:
        yield f"{chip.title} does not multiply in {linear}: the nearest wider format is used"
    context, seq = scenario.architecture.context, scenario.job.seq
    if context is not None and seq > context:
        yield f"sequences of {seq:,} tokens are longer than the {context:,} that the model was made for"
