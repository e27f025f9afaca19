"""Serving settings: what a plan does under the facts of another request, to see what a setting changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from ridgeline.api.serving_request import ServingRequest
from ridgeline.explore.serving_effects import steadily
from ridgeline.explore.serving_loads import table_of
from ridgeline.explore.serving_plan import ServingPlan
from ridgeline.facts import catalog
from ridgeline.facts.engine import Engine
from ridgeline.facts.services import service
from ridgeline.facts.serving import Service
from ridgeline.graph.serving.memory import memory
from ridgeline.insight.serving_labels import labels_of
from ridgeline.insight.serving_ladder import ladder
from ridgeline.insight.serving_sensitivity import Served


def under(plan: ServingPlan, asked: ServingRequest, other: ServingRequest) -> ServingPlan:
    """A plan of one request with its engines under the facts of another; its own numbers stay as they are."""
    engines = {
        _engine(old).model_dump_json(): _engine(new)
        for old, new in zip(asked.space.engines, other.space.engines, strict=True)
    }

    def moved(one: Service) -> Service:
        engine = engines.get(one.engine.model_dump_json(), one.engine)
        # made anew, as the kernels are those of its libraries
        made = service(
            other.architecture, other.cluster, one.layout, one.precision, engine, one.speculation, one.limits
        )
        return made.replace(chip=other.chip, adapters=one.adapters)

    prefill = None if plan.prefill is None else moved(plan.prefill)
    return dataclasses.replace(plan, service=moved(plan.service), prefill=prefill)


def numbers(plan: ServingPlan, asked: ServingRequest) -> Any:
    """All that the closed form says of a plan.

    Raises:
        ValueError: its engines cannot run under these facts.
    """
    load, one = asked.load, plan.service
    users = max(plan.users / plan.replicas, 1.0)
    steady = steadily(Served(one, users, plan.prefill), load, asked.target, max(plan.prefill_replicas, 1))
    table = table_of(one, load)
    rungs = ladder(one, table, plan.steady, load.isl, load.osl)
    parts = [memory(each) for each in (one, plan.prefill) if each is not None]
    return steady, rungs, labels_of(one), parts, plan.to_dict()


def tables(plan: ServingPlan, asked: ServingRequest) -> list[dict[str, Any]]:
    """All that the simulation reads of a plan's engines."""
    return [
        {field.name: np.asarray(getattr(table, field.name)).tolist() for field in dataclasses.fields(table)}
        for one in (plan.deployed, plan.prefill)
        if one is not None
        for table in (table_of(one, asked.load),)
    ]


def _engine(one: Engine | str) -> Engine:
    return one if isinstance(one, Engine) else catalog.engine(one)
