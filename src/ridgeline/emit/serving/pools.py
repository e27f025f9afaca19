"""Pool: the copies of one engine in a deployment; what every framework refuses, and what its file says on top."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ridgeline import files
from ridgeline.emit.errors import EmitError
from ridgeline.facts.architecture import Moe
from ridgeline.facts.serving import Deployment, Service, model_id_of

#: What an engine does: everything, or one half of a disaggregated deployment.
Role = Literal["serve", "prefill", "decode"]

# What stands in a name for characters that cannot be seen (`ridgeline.files.one_line`), and how a cut one ends.
_REWRITTEN = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})|^.{100,}\.\.\.$")

PLAIN = ("bf16", "fp16")  # formats a checkpoint can be quantised from on loading


@dataclass(frozen=True, slots=True)
class Pool:
    """Copies of one engine, all in the same role."""

    role: Role
    service: Service
    copies: int

    @property
    def chips_per_node(self) -> int:
        """Chips of one copy that share a node."""
        return min(self.service.layout.chips, self.service.cluster.chips_per_node)

    @property
    def nodes(self) -> int:
        """Nodes of one copy."""
        return self.service.layout.chips // self.chips_per_node

    @property
    def is_moe(self) -> bool:
        return any(isinstance(layer.mlp, Moe) for layer in self.service.architecture.layers)


def pools_of(framework: str, deployment: Deployment) -> tuple[Pool, ...]:
    """The pools of a deployment, each checked for what no framework can do."""
    roles: tuple[Role, ...] = ("prefill", "decode") if deployment.disaggregated else ("serve",)
    pools = tuple(
        Pool(role, service, copies)
        for role, (service, copies) in zip(roles, deployment.services, strict=True)
    )
    _check_id(framework, "model_id", deployment.model_id)
    for pool in pools:
        _check(framework, pool)
        draft = pool.service.speculation.draft
        if draft is not None:
            _check_id(framework, "speculation.draft", model_id_of(draft))
    models = {pool.service.architecture.name: None for pool in pools}
    if len(models) > 1:
        choices = [f"{next(iter(models))}, as the prefill engines serve"]
        raise EmitError(framework, "decode.architecture", list(models)[1], choices)
    sent, kept = pools[0].service.precision.kv, pools[-1].service.precision.kv
    if sent != kept:
        raise EmitError(
            framework, "decode.precision.kv", kept, [sent], "the format that prefill engines send"
        )
    return pools


def _check_id(framework: str, field: str, model_id: str) -> None:
    """What an engine loads is a word of its command line: it must be seen, and must not be taken for an option.

    A model that was read from a folder has the folder's name as it can be seen: escaped, or cut. Nothing on disk is
    called so, and an engine would look for it in vain.
    """
    if not model_id or model_id.startswith("-") or any(files.unseen(character) for character in model_id):
        why = "empty, with a dash in front or with characters that cannot be seen"
        raise EmitError(framework, field, model_id, ["a Hugging Face id or a path"], why)
    if _REWRITTEN.search(model_id):
        why = "not its name on disk, which is too long or has characters that cannot be seen"
        raise EmitError(framework, field, model_id, ["a name of plain text: rename the folder"], why)


def _check(framework: str, pool: Pool) -> None:
    service = pool.service
    layout, engine = service.layout, service.engine
    if engine.framework != framework:
        raise EmitError(framework, "engine", engine.name, [f"an engine of framework {framework}"])
    if not pool.is_moe:
        for field in ("dp", "ep"):
            if getattr(layout, field) > 1:
                why = "a dense model; its copies share nothing"
                raise EmitError(
                    framework, f"layout.{field}", getattr(layout, field), ["1, and more replicas"], why
                )
    elif layout.tp * layout.dp % layout.ep:
        choices = [f"a divisor of tp x dp = {layout.tp * layout.dp}"]
        raise EmitError(framework, "layout.ep", layout.ep, choices)
    if layout.chips % pool.chips_per_node:
        choices = [f"a multiple of {pool.chips_per_node} chips, which fill whole nodes"]
        raise EmitError(framework, "layout", f"{layout} on {layout.chips} chips", choices)
    if service.speculation.method not in ("none", "mtp", "draft"):
        raise EmitError(framework, "speculation.method", service.speculation.method, ["none", "mtp", "draft"])
    if service.speculation.method == "mtp" and not service.architecture.mtp:
        why = f"{service.architecture.name} ships no such layers"
        raise EmitError(framework, "speculation.method", "mtp", ["none", "draft"], why)
    if service.speculation.method == "draft" and service.speculation.draft is None:
        raise EmitError(framework, "speculation.draft", None, ["the Architecture of the draft model"])
    if service.speculation.method != "none" and not service.speculation.drafts:
        raise EmitError(framework, "speculation.acceptance", "()", ["one chance for each draft token"])


def memory_fraction(framework: str, service: Service, of: Literal["total", "free"]) -> float:
    """Share of memory to write, where the engine counts it as the framework does."""
    if service.engine.memory_of != of:
        raise EmitError(framework, "engine.memory_of", service.engine.memory_of, [of])
    given = service.limits.memory_fraction
    return service.engine.memory_fraction if given is None else given


def prefix_cache(service: Service) -> bool:
    """Whether blocks of earlier requests are kept: as the operator says, else as the engine does."""
    given = service.limits.prefix_cache
    return service.engine.prefix_cache if given is None else given


def quantisation(
    framework: str, deployment: Deployment, service: Service, methods: dict[str, str]
) -> str | None:
    """The framework's word for quantising on loading; None where weights are served as stored."""
    stored, precision = deployment.checkpoint, service.precision
    if stored is None or stored == precision.linear:
        return None
    served = precision.linear
    if stored not in PLAIN:
        choices = [*PLAIN, f"a checkpoint already in {served}"]
        raise EmitError(framework, "checkpoint", stored, choices, f"served in {served}")
    if served not in methods:
        why = f"a {stored} checkpoint is not quantised to it on loading"
        raise EmitError(framework, "precision.linear", served, [stored, *methods], why)
    for field, value in (("experts", precision.of_experts), ("attention", precision.of_attention)):
        if value != served:
            why = "one format for all linear layers is quantised on loading"
            raise EmitError(framework, f"precision.{field}", value, [served], why)
    return methods[served]


def one_of(framework: str, field: str, value: str, words: dict[str, str]) -> str:
    """The framework's word for a value."""
    if value not in words:
        raise EmitError(framework, field, value, words)
    return words[value]


def header(deployment: Deployment, pools: tuple[Pool, ...], checked: str) -> list[str]:
    """Lines that say what the file is for; the writer adds its own comment mark."""
    architecture = pools[0].service.architecture
    lines = [
        f"{architecture.title or architecture.name}, served as {deployment.model_id}; emitted by Ridgeline"
    ]
    for pool in pools:
        service, precision = pool.service, pool.service.precision
        formats = f"linear {precision.linear}"
        if pool.is_moe:
            formats += f", experts {precision.of_experts}"
        formats += f", attention {precision.of_attention}, KV {precision.kv}, head {precision.head}"
        role = "" if pool.role == "serve" else f"{pool.role}: "
        copies = f"{pool.copies:,} x " if pool.copies > 1 else ""
        lines.append(
            f"{role}{copies}{service.layout} on {service.layout.chips} x {service.chip.title}; {formats}"
        )
    if deployment.checkpoint is None:
        lines.append("Weights are served as stored: take a checkpoint in the formats above.")
    lines.append(f"Option names checked against {checked}.")
    return lines
