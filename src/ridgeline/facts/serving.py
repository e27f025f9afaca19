"""How one model is served: layout, number formats, speculation, limits, and the service of all of them together."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from ridgeline.facts.architecture import Architecture
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.engine import Engine
from ridgeline.facts.kernel_calibration import KernelSet

#: Chance that the first, second and third draft of multi-token prediction is accepted: an assumption. DeepSeek
#: reports 0.85 to 0.9 for the first (arXiv:2412.19437, section 5.4.3); later ones are guessed to fall.
ACCEPTANCE = (0.85, 0.7, 0.6)
#: The same of a smaller model of the same family: arXiv:2211.17192, table 3, has 0.53 to 0.75 for small drafters.
DRAFT_ACCEPTANCE = (0.7, 0.7, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One engine on ``chips = tp * cp * pp * dp`` chips.

    Attention is divided over ``tp`` (and long prefills over ``cp``) and repeated ``dp`` times, each repetition with
    requests and KV cache of its own. Routed experts are spread over all ``tp * dp`` ranks of a pipeline stage: ``ep``
    ways by expert, ``moe_tp = tp * dp / ep`` ways inside each.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    cp: int = 1

    @property
    def chips(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    @property
    def moe_tp(self) -> int:
        """Ranks that share one expert."""
        return self.tp * self.dp // self.ep

    def to_dict(self) -> dict[str, int]:
        """By hand: a search orders tens of thousands of plans by these words, and ``asdict`` copies deeply."""
        return {"tp": self.tp, "pp": self.pp, "ep": self.ep, "dp": self.dp, "cp": self.cp}

    def __str__(self) -> str:
        said = [f"{name}{value}" for name, value in self.to_dict().items() if value > 1]
        return " ".join(said) or "tp1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Number formats of a served model, by names of the catalog."""

    linear: str = "bf16"  # dense matmuls of layers
    experts: str | None = None  # routed experts; None = as linear
    attention: str | None = None  # projections of attention; None = as linear (nvfp4 DeepSeek keeps bf16)
    kv: str = "auto"  # KV cache; auto = as the engine does unless told
    head: str = "bf16"  # output layer

    @property
    def of_experts(self) -> str:
        return self.experts or self.linear

    @property
    def of_attention(self) -> str:
        return self.attention or self.linear

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Draft tokens of each step and how many of them hold.

    ``acceptance[i]`` is the chance that draft ``i`` is accepted if all before it were; a step then makes
    ``1 + sum(prod(acceptance[:i + 1]))`` tokens in the mean.
    """

    method: str = "none"  # none, mtp (layers shipped with the model), draft (a smaller model)
    acceptance: tuple[float, ...] = ()
    draft: Architecture | None = None  # method draft: the smaller model

    @property
    def drafts(self) -> int:
        """Draft tokens of a step."""
        return len(self.acceptance)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens that one decode step makes for a request."""
        made, alive = 1.0, 1.0
        for chance in self.acceptance:
            alive *= chance
            made += alive
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Low-rank adapters (arXiv:2106.09685) that are served beside one base model.

    All ``count`` of them stay in the memory of the chips, in two bytes a value, and requests choose among them evenly.
    They change the projections of attention and the dense feed-forward layers, not routed experts.
    """

    count: int = 0
    rank: int = 16

    def in_use(self, requests: Any) -> Any:
        """How many adapters so many requests ask for in the mean; takes arrays."""
        return self.count * (1.0 - (1.0 - 1.0 / self.count) ** requests) if self.count else 0.0 * requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an operator may set on an engine; None = the engine's default."""

    max_seqs: int | None = None  # requests of one attention rank that decode at a time
    max_batched_tokens: int | None = None  # tokens of one step and attention rank
    max_context: int | None = None  # longest request, tokens; None = as the model
    memory_fraction: float | None = None
    prefix_cache: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One engine that serves one model: all facts a step time or a memory need follows from."""

    architecture: Architecture
    chip: Chip
    cluster: Cluster
    layout: Layout
    precision: Precision
    engine: Engine
    calibration: Calibration  # of the chip: its reference kernels, links, energy
    kernels: KernelSet  # what the engine runs, `ridgeline.facts.engine_kernels`
    speculation: Speculation = field(default_factory=Speculation)
    limits: Limits = field(default_factory=Limits)
    adapters: Adapters = field(default_factory=Adapters)

    def replace(self, **changes: Any) -> Service:
        """A copy with fields replaced."""
        return dataclasses.replace(self, **changes)

    @property
    def max_seqs(self) -> int:
        return self.limits.max_seqs or self.engine.max_seqs

    @property
    def max_batched_tokens(self) -> int:
        return self.limits.max_batched_tokens or self.engine.max_batched_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is put into service: copies of one engine, or a pool of prefill engines and a pool of decode engines.

    ``model_id`` is what the engines load: a Hugging Face id or a path. ``checkpoint`` is the number format of its
    linear layers; None = the format they are served in, so nothing is quantised on loading.

    Raises:
        ValueError: it has both shapes or neither, or a number of copies below one.
    """

    model_id: str
    service: Service | None = None  # one engine does both
    replicas: int = 1
    prefill: Service | None = None
    prefill_replicas: int = 1
    decode: Service | None = None
    decode_replicas: int = 1
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        pools = (self.prefill is not None, self.decode is not None)
        if (self.service is None) != all(pools) or any(pools) != all(pools):
            raise ValueError("deployment: give `service`, or both `prefill` and `decode`")
        for name in ("replicas", "prefill_replicas", "decode_replicas"):
            if getattr(self, name) < 1:
                raise ValueError(f"deployment: {name} is {getattr(self, name)}, expected 1 or more")

    @property
    def disaggregated(self) -> bool:
        return self.service is None

    @property
    def services(self) -> tuple[tuple[Service, int], ...]:
        """Each kind of engine with its number of copies; prefill first."""
        if self.service is not None:
            return ((self.service, self.replicas),)
        assert self.prefill is not None
        assert self.decode is not None
        return ((self.prefill, self.prefill_replicas), (self.decode, self.decode_replicas))

    @property
    def chips(self) -> int:
        return sum(service.layout.chips * copies for service, copies in self.services)


def model_id_of(architecture: Architecture) -> str:
    """The Hugging Face id in the architecture's source, or its own name where none can be read there."""
    found = re.search(r"huggingface\.co/((?:[\w.-]+/)?[\w.-]+)", architecture.source)
    return found.group(1) if found else architecture.name
