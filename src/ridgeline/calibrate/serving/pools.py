"""Pools of a case: the prefill and the decode engines that one measured point states.

Recipes fill in what a point leaves open, by client and engine; neither the model's name nor a row may enter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.pool_settings import PoolSettings, pool_settings, step_of
from ridgeline.calibrate.serving.services import (
    MTP_ACCEPTANCE,
    architecture_of_case,
    engine_for,
    precision_of,
)
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Moe
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service, Speculation

#: Values that share a scale in blocked formats: the part of an expert that a rank holds is no narrower.
BLOCK = 128
#: A step of prompts beyond this many tokens is never the default; a decode engine must take a whole prompt's cache.
LEAST_TOKENS = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Engines of both pools and the users of the closed loop."""

    prefill: Service
    prefill_workers: int
    decode: Service
    decode_workers: int
    users: int

    @property
    def chips(self) -> int:
        return (
            self.prefill.layout.chips * self.prefill_workers + self.decode.layout.chips * self.decode_workers
        )

    @property
    def key(self) -> object:
        """What a prediction depends on."""
        return (
            *(
                (one.engine.name, one.engine.dispatcher, one.chip.name, one.architecture.model_dump_json(),
                 one.layout, one.precision, one.speculation, one.limits)
                for one in (self.prefill, self.decode)
            ),
            self.prefill_workers, self.decode_workers, self.users,
        )  # fmt: skip


def pools_of(case: ServingCase) -> Pools:
    """The pools of one disaggregated point.

    Users that are not stated are those that fill the stated batch of the decode engines.

    Raises:
        NotPredictable: pools, chip, model, engine, format, lengths or load are unknown.
    """
    if catalog.entry_path("chips", case.chip) is None:
        raise NotPredictable(f"unknown chip '{case.chip}': add it with `ridgeline catalog new chip`")
    if case.isl is None or case.osl is None:
        raise NotPredictable("lengths are not stated")
    prefill_workers, decode_workers = case.prefill_workers, case.decode_workers
    if prefill_workers is None or decode_workers is None or case.prefill_tp is None or case.decode_tp is None:
        raise NotPredictable("number or layout of prefill and decode engines is not stated")
    settings = pool_settings(case)
    try:
        architecture = architecture_of_case(case)
        precision = precision_of(case, architecture)
        if settings.kv and precision.kv == "auto":
            precision = replace(precision, kv=settings.kv)
        before = _layout(case, architecture, case.prefill_tp, case.prefill_dp, case.prefill_ep)
        after = _layout(case, architecture, case.decode_tp, case.decode_dp, case.decode_ep)
        users = _users(case, decode_workers * after.dp)
        return Pools(
            prefill=_prefill(case, settings, architecture, precision, before, users / prefill_workers),
            prefill_workers=prefill_workers,
            decode=_decode(case, settings, architecture, precision, after, users / decode_workers),
            decode_workers=decode_workers,
            users=users,
        )
    except catalog.CatalogError as error:
        raise NotPredictable(" ".join(str(error).split())) from error


def _users(case: ServingCase, ranks: int) -> int:
    if case.concurrency is not None:
        return max(1, round(case.concurrency))
    if case.decode_batch is None:
        raise NotPredictable("the load is not stated")
    return case.decode_batch * ranks


def _layout(case: ServingCase, architecture: Architecture, tp: int, dp: int | None, ep: int | None) -> Layout:
    """The layout of one engine.

    Where one expert's part would be narrower than a block of its format, or no whole number, experts are kept whole on
    their ranks whatever is stated.
    """
    ranks, spread = tp * (dp or 1), max(ep or 1, 1)
    mlp = architecture.layers[-1].mlp
    if not isinstance(mlp, Moe):
        spread = 1
    elif ranks % spread or (mlp.ffn * spread) % (ranks * BLOCK):
        spread = ranks
    return Layout(tp=tp, dp=dp or 1, ep=spread)


def _prefill(
    case: ServingCase, settings: PoolSettings, architecture: Architecture, precision: Precision, layout: Layout,
    users: float,
) -> Service:  # fmt: skip
    assert case.isl is not None
    prompt = math.ceil(case.isl)
    tokens = step_of(settings.prefill_tokens, prompt, LEAST_TOKENS) or prompt
    limits = Limits(
        max_seqs=max(1, min(math.ceil(users / layout.dp), tokens // max(prompt // 2, 1), 256)),
        max_batched_tokens=max(tokens, prompt) if case.engine == "trtllm" else tokens,
        memory_fraction=settings.prefill_memory_fraction,
    )
    return _service(case, settings, architecture, precision, layout, Speculation(), limits)


def _decode(
    case: ServingCase, settings: PoolSettings, architecture: Architecture, precision: Precision, layout: Layout,
    users: float,
) -> Service:  # fmt: skip
    assert case.isl is not None
    slots = settings.slots_of(users / layout.dp)
    speculation = Speculation()
    if case.speculative == "mtp":
        drafts = settings.drafts_of(slots, len(MTP_ACCEPTANCE))
        speculation = Speculation(method="mtp", acceptance=MTP_ACCEPTANCE[:drafts])
    limits = Limits(
        max_seqs=slots,
        max_batched_tokens=max(LEAST_TOKENS, math.ceil(case.isl)),
        memory_fraction=settings.decode_memory_fraction,
    )
    return _service(case, settings, architecture, precision, layout, speculation, limits)


def _service(
    case: ServingCase, settings: PoolSettings, architecture: Architecture, precision: Precision, layout: Layout,
    speculation: Speculation, limits: Limits,
) -> Service:  # fmt: skip
    engine = engine_for(case.engine, case.month, catalog.chip(case.chip).vendor)
    if layout.dp > 1 and 0 < settings.exchange_beyond < layout.tp * layout.dp:
        engine = engine.model_copy(update={"dispatcher": "deepep"})
    return service(architecture, case.chip, layout, precision, engine, speculation, limits)
