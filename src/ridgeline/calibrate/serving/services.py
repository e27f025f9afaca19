"""Services of a case: the engine, formats and layout that one measured point states, by value.

The engine is chosen by framework, date and chip vendor only; neither the model's name nor the load may enter.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.run_settings import run_settings
from ridgeline.calibrate.shapes import NotPredictable, architecture_of
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, LatentAttention
from ridgeline.facts.engine import Engine
from ridgeline.facts.services import service, with_libraries
from ridgeline.facts.serving import Layout, Limits, Precision, Service, Speculation

#: Formats of tables by their names in the catalog; four-bit integers and mxfp4 narrow the weights alone.
_FORMATS = {"fp16": "bf16", "int4": "int4-wo", "mxfp4": "mxfp4-wo"}
#: Drafts that engines verify when multi-token prediction is on and nothing else is said, and the chance of each
#: after those before it: means of the fit share.
MTP_ACCEPTANCE = (0.7, 0.5, 0.4)


def service_of(case: ServingCase) -> Service:
    """The engine of one aggregated or offline point.

    Raises:
        NotPredictable: chip, model, engine, format, layout or lengths are unknown.
    """
    if catalog.entry_path("chips", case.chip) is None:
        raise NotPredictable(f"unknown chip '{case.chip}': add it with `ridgeline catalog new chip`")
    if case.isl is None or case.osl is None:
        raise NotPredictable("lengths are not stated")
    if case.tp is None:
        raise NotPredictable("tensor parallelism is not stated")
    layout = Layout(tp=case.tp, pp=case.pp or 1, dp=case.dp or 1, ep=max(case.ep or 1, 1))
    if layout.tp * layout.dp % layout.ep:
        raise NotPredictable(f"ep {layout.ep} does not divide tp {layout.tp} x dp {layout.dp}")
    try:
        chip = catalog.chip(case.chip)
        engine = engine_for(case.engine, case.month, chip.vendor)
        architecture = architecture_of_case(case)
        each = -(-(case.concurrency or 1.0) // layout.dp)
        settings = run_settings(case, chip)
        seqs = int(max(each, case.batch_size or 0, 32))
        if case.open_loop:
            seqs = stated(case, "max_num_seqs") or engine.max_seqs
        limits = Limits(
            max_seqs=seqs,
            max_batched_tokens=stated(case, "max_num_batched_tokens") or settings.max_batched_tokens or None,
            memory_fraction=settings.memory_fraction,
        )
        speculation = Speculation()
        if case.speculative == "mtp":
            speculation = Speculation(method="mtp", acceptance=MTP_ACCEPTANCE)
        precision = precision_of(case, architecture)
        if settings.kv and precision.kv == "auto":
            precision = replace(precision, kv=settings.kv)
        machine = settings.cluster or case.chip
        found = service(architecture, machine, layout, precision, engine, speculation, limits)
        return with_libraries(found, grouped=settings.grouped) if settings.grouped else found
    except catalog.CatalogError as error:
        raise NotPredictable(" ".join(str(error).split())) from error


def stated(case: ServingCase, setting: str) -> int | None:
    """A setting that the notes of a case write as ``name=number``."""
    found = re.search(rf"\b{setting}=(\d+)", case.notes)
    return int(found[1]) if found else None


def architecture_of_case(case: ServingCase) -> Architecture:
    """By dimensions; where they cannot say all of an attention, the catalog's model of that name."""
    named = catalog.entry_path("models", case.model) is not None
    if (named and case.attention in ("hybrid", "swa-mix")) or "sparse attention" in case.arch_note:
        return catalog.architecture(case.model)
    return _by_dimensions(case.shape())


@lru_cache(maxsize=256)
def _by_dimensions(shape) -> Architecture:  # type: ignore[no-untyped-def]
    return architecture_of(shape)


def precision_of(case: ServingCase, architecture: Architecture) -> Precision:
    """Formats as checkpoints have them.

    Four-bit checkpoints of models with latent attention narrow the experts (and nvfp4 the dense layers), not attention.
    """
    linear = _format(case.precision)
    experts = _format(case.moe_precision) if case.moe_precision else None
    latent = isinstance(architecture.layers[-1].mixer, LatentAttention)
    attention = "bf16" if latent and linear in ("nvfp4", "int4-wo", "mxfp4-wo") else None
    if latent and linear in ("int4-wo", "mxfp4-wo"):
        linear, experts = "bf16", linear
    said = case.kv_precision
    kv = "auto" if not said else "fp8" if said.startswith("fp8") else "bf16"
    return Precision(linear=linear, experts=experts, attention=attention, kv=kv)


def _format(name: str) -> str:
    found = _FORMATS.get(name, name)
    if catalog.entry_path("formats", found) is None:
        raise NotPredictable(f"format '{name}' is unknown")
    return found


def engine_for(framework: str, month: str, vendor: str) -> Engine:
    """The newest engine of a framework that is not after ``month`` (the oldest where all are; empty: the newest).

    Engines for chips of one vendor go before those for all.

    Raises:
        NotPredictable: no engine of that framework is in the catalog.
    """
    found = [engine for engine in _engines() if engine.framework == framework]
    if not found:
        raise NotPredictable(f"engine '{framework}' is not in the catalog")
    own = [engine for engine in found if engine.vendor == vendor.lower()]
    pool = own or [engine for engine in found if not engine.vendor] or found
    earlier = [engine for engine in pool if not month or engine.since <= month]
    return earlier[-1] if earlier else pool[0]


@lru_cache(maxsize=1)
def _engines() -> tuple[Engine, ...]:
    return tuple(
        sorted((catalog.engine(name) for name in catalog.readable("engines")), key=lambda e: e.since)
    )
