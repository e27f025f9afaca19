"""Serving space: every engine, layout, number format and speculation that may serve a model on a machine.

What is fixed is kept, what is open is enumerated in one order, so that a search gives the same answer each time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, LatentAttention, Moe
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.engine import Engine
from ridgeline.facts.services import default_cache, service
from ridgeline.facts.serving import Adapters, Layout, Limits, Precision, Service, Speculation
from ridgeline.graph.serving.heads import unshared_heads

#: Frameworks that are searched.
FRAMEWORKS = ("vllm", "sglang", "trtllm")
#: Tokens of one step and attention rank that are tried beside the engine's own default.
CHUNKS = (2048, 8192, 16384)
#: Families whose 8-bit checkpoints carry scales of blocks of 128 x 128 weights.
BLOCKED = ("deepseek", "kimi", "glm", "minimax", "qwen3", "qwen3-next")
#: Families that were trained in 8 bits: nobody serves the widened copy.
NARROW = ("deepseek", "kimi")
BLOCK = 128


@dataclass(frozen=True, slots=True)
class ServingSpace:
    """Which services to look at.

    ``fixed`` holds fields of `Layout`, and ``precision``, ``experts``, ``kv`` (names of formats), ``chunk``,
    ``max_seqs`` and ``replicas``. ``engines`` are names or values; none = those that run on the chip. ``acceptance``
    adds speculation by the model's own prediction layers, of one to so many drafts, or by the ``draft`` model. All
    serve ``adapters``.
    """

    fixed: dict[str, Any] = field(default_factory=dict)
    engines: tuple[Engine | str, ...] = ()
    acceptance: tuple[float, ...] = ()
    adapters: Adapters = field(default_factory=Adapters)
    draft: Architecture | None = None

    def bases(self, architecture: Architecture, chip: Chip, cluster: Cluster) -> Iterator[Service]:
        """One service per engine, whose layout and formats are still to be chosen."""
        for engine in self.engines or engines_of(chip):
            base = service(architecture, cluster, Layout(), Precision(), engine)
            yield base.replace(architecture=architecture, chip=chip, cluster=cluster, adapters=self.adapters)

    def precisions(self, base: Service) -> list[Precision]:
        """Formats that are searched: as fixed, or those of `formats`, the cache as the engine keeps it."""
        if "precision" in self.fixed:
            found = [_with_experts(self.fixed["precision"], base.architecture)]
        else:
            found = formats(base.architecture, base.chip)
        if "experts" in self.fixed:
            found = [dataclasses.replace(one, experts=self.fixed["experts"]) for one in found]
        kv = self.fixed.get("kv", "auto")
        if "kv" not in self.fixed and "fp8" not in base.chip.matrix:
            kv = "bf16"  # an engine's narrow cache needs a chip that knows the format
        return [default_cache(dataclasses.replace(one, kv=kv), base.engine) for one in found]

    def speculations(self, architecture: Architecture) -> list[Speculation]:
        """One to all drafts by a smaller model or the prediction layers that the model ships; none without either."""
        if self.draft is None and not architecture.mtp:
            return []
        method = "mtp" if self.draft is None else "draft"
        return [
            Speculation(method=method, acceptance=self.acceptance[:n], draft=self.draft)
            for n in range(1, len(self.acceptance) + 1)
        ]

    def limits(self, base: Service, prompt: int) -> Limits:
        """Limits that are fixed; an engine that prefills whole prompts gets steps that hold the longest."""
        chunk = self.fixed.get("chunk")
        if chunk is None and not holds(base, base.max_batched_tokens, prompt):
            chunk = 2 ** math.ceil(math.log2(prompt))
        return Limits(max_seqs=self.fixed.get("max_seqs"), max_batched_tokens=chunk)

    def services(self, base: Service, chips: int, prompt: int) -> Iterator[Service]:
        """Every service on one engine's software that needs at most ``chips`` chips, fitting or not.

        ``prompt``: tokens of the longest prompt.
        """
        architecture, limits = base.architecture, self.limits(base, prompt)
        if not holds(base, limits.max_batched_tokens or base.max_batched_tokens, prompt):
            return
        for precision in self.precisions(base):
            for layout in layouts(architecture, precision, base.cluster, chips, self.fixed):
                if layout.cp == 1 or context_parallel(base):
                    yield base.replace(layout=layout, precision=precision, limits=limits)

    def variants(self, one: Service, prompt: int) -> Iterator[Service]:
        """The service with other chunk sizes, with a cache in fp8, and with drafts, as far as these are open."""
        caches = [one.precision]
        if "kv" not in self.fixed and "fp8" in one.chip.matrix and one.precision.kv != "fp8":
            caches.append(dataclasses.replace(one.precision, kv="fp8"))
        chunks = [one.limits.max_batched_tokens]
        if "chunk" not in self.fixed:
            chunks += [
                chunk for chunk in CHUNKS if chunk != one.max_batched_tokens and holds(one, chunk, prompt)
            ]
        for precision in caches:
            for chunk in chunks:
                if (precision, chunk) != (one.precision, one.limits.max_batched_tokens):
                    limits = dataclasses.replace(one.limits, max_batched_tokens=chunk)
                    yield one.replace(precision=precision, limits=limits)
            for speculation in self.speculations(one.architecture):
                if self.draft is not None and wrong(self.draft, precision, one.layout):
                    continue  # these ranks cannot share the smaller model
                yield one.replace(precision=precision, speculation=speculation)


def engines_of(chip: Chip) -> list[Engine]:
    """The newest engine of each framework that runs on a chip: one for its vendor alone goes before one for all."""
    known = [catalog.engine(name) for name in catalog.readable("engines")]
    found = []
    for framework in FRAMEWORKS:
        same = [one for one in known if one.framework == framework and one.runs_on(chip)]
        if same:
            found.append(max(same, key=lambda one: (bool(one.vendor), one.since, one.name)))
    return found


def context_parallel(one: Service) -> bool:
    """Whether the engine divides the prompts of this model over ranks of context parallelism."""
    return one.engine.context_parallel == ("experts" if is_moe(one.architecture) else "dense")


def holds(one: Service, chunk: int, prompt: int) -> bool:
    """Whether an engine with steps of ``chunk`` tokens takes prompts that long: all do that prefill in chunks."""
    return one.engine.schedule != "whole" or chunk >= prompt


def formats(architecture: Architecture, chip: Chip) -> list[Precision]:
    """Formats in which checkpoints of the model are published and that the chip multiplies itself.

    Weights alone in four bits are multiplied in bf16 and run anywhere; they are looked at for dense models, whose
    steps they shorten most. Any other format can be fixed.
    """
    wide = "bf16" if "bf16" in chip.matrix else "fp16"
    if architecture.family == "gpt-oss":  # released with experts in MXFP4 only
        return [Precision(linear=wide, experts="mxfp4" if "mxfp4" in chip.matrix else "mxfp4-wo")]
    found = [] if architecture.family in NARROW and "fp8" in chip.matrix else [Precision(linear=wide)]
    if "fp8" in chip.matrix:
        found.append(Precision(linear="fp8-block" if architecture.family in BLOCKED else "fp8"))
    if "nvfp4" in chip.matrix:
        found.append(_with_experts("nvfp4", architecture))
    if not is_moe(architecture):
        found.append(Precision(linear="int4-wo"))
    return found


def _with_experts(linear: str, architecture: Architecture) -> Precision:
    """nvfp4 checkpoints of models with latent attention keep its projections wide."""
    latent = any(isinstance(layer.mixer, LatentAttention) for layer in architecture.layers)
    return Precision(linear=linear, attention="bf16" if linear == "nvfp4" and latent else None)


def layouts(
    architecture: Architecture, precision: Precision, cluster: Cluster, chips: int, fixed: dict[str, Any]
) -> list[Layout]:
    """Legal layouts of at most ``chips`` chips, in ascending order of tp, pp, dp and ep.

    Open degrees are powers of two: tensor parallelism inside a scale-up domain; a pipeline where tensor parallelism
    fills at least half of one and attention is not data parallel; experts whole on their ranks, or inside a domain
    also divided by tensor parallelism.
    """
    domain = cluster.tiers[0].size or chips
    experts = is_moe(architecture)
    found = []
    for tp in _choices(fixed, "tp", min(domain, chips)):
        for pp in _choices(fixed, "pp", min(8, chips // tp) if 2 * tp >= domain else 1):
            for dp in _choices(fixed, "dp", chips // (tp * pp) if experts and pp == 1 else 1):
                ranks = tp * dp
                divided = [ranks] if ranks > domain else [1, ranks]
                ep = [fixed["ep"]] if "ep" in fixed else sorted(set(divided)) if experts else [1]
                for each in ep:
                    one = Layout(tp=tp, pp=pp, dp=dp, ep=each, cp=fixed.get("cp", 1))
                    if one.chips <= chips and not wrong(architecture, precision, one):
                        found.append(one)
    return found


def is_moe(architecture: Architecture) -> bool:
    """Whether some layer has routed experts."""
    return any(isinstance(layer.mlp, Moe) for layer in architecture.layers)


def _choices(fixed: dict[str, Any], name: str, most: int) -> list[int]:
    if name in fixed:
        return [int(fixed[name])]
    return [2**i for i in range(12) if 2**i <= most]


def wrong(architecture: Architecture, precision: Precision, layout: Layout) -> str:
    """Why a layout cannot serve the model, in one sentence; empty where it can."""
    ranks = layout.tp * layout.dp
    for layer in architecture.layers:
        bad = unshared_heads(layer.mixer, layout.tp)
        if bad:
            return f"tp = {layout.tp} does not divide the {bad} of {architecture.name}"
        if not isinstance(layer.mlp, Moe):
            continue
        if ranks % layout.ep:
            return f"ep = {layout.ep} does not divide tp x dp = {ranks}"
        if layer.mlp.experts % layout.ep:
            return f"ep = {layout.ep} does not divide the {layer.mlp.experts} experts of {architecture.name}"
        block = BLOCK if precision.of_experts == "fp8-block" else 1
        if layer.mlp.ffn % (layout.moe_tp * block):
            return (
                f"tp x dp / ep = {layout.moe_tp} does not divide the {layer.mlp.ffn} columns of an expert"
                + (f" into whole blocks of {block}" if block > 1 else "")
            )
    if layout.cp > 1 and (layout.dp > 1 or layout.pp > 1):
        return f"cp = {layout.cp} goes with dp 1 and pp 1: engines divide prompts over whole replicas of one stage"
    if not is_moe(architecture) and (layout.dp > 1 or layout.ep > 1):
        return f"{architecture.name} has no experts: dp and ep are 1, more chips are more replicas"
    if layout.pp > architecture.num_layers:
        return f"pp = {layout.pp} is more than the {architecture.num_layers} layers of {architecture.name}"
    return ""
