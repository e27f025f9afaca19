"""ServingResult: what planning a deployment gives back. A frozen value that prints, draws, saves and emits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ridgeline import files
from ridgeline.api import saved, serving_operation, serving_words
from ridgeline.api.results import version
from ridgeline.api.serving_request import ServingRequest
from ridgeline.api.written import written
from ridgeline.explore import serving_effects
from ridgeline.explore.serving_check import Check
from ridgeline.explore.serving_loads import table_of
from ridgeline.explore.serving_plan import Load, ServingPlan, Target
from ridgeline.explore.serving_search import ServingSearch
from ridgeline.explore.serving_space import NARROW
from ridgeline.facts import catalog, serving_ranges
from ridgeline.facts.architecture import Moe
from ridgeline.graph.serving.memory import memory
from ridgeline.insight.serving_labels import labels_of
from ridgeline.insight.serving_ladder import binds, ladder
from ridgeline.insight.serving_sensitivity import ServingSensitivity
from ridgeline.metrics import Rung
from ridgeline.metrics.endless import endless
from ridgeline.metrics.finite import finite


@dataclass(frozen=True, slots=True, eq=False)
class ServingResult:
    """The chosen plan of a search, what the simulation says of it, and all other plans.

    ``max_rate``: requests a second that the plan holds under Poisson arrivals within the target; None = not simulated.
    ``seconds``: of the search; in no text, file or JSON, where the same question gives the same bytes.
    """

    request: ServingRequest
    search: ServingSearch
    plan: ServingPlan
    check: Check | None
    max_rate: float | None
    seconds: float
    notes: tuple[str, ...] = ()
    command: str = ""
    _memo: dict[str, Any] = field(default_factory=dict, repr=False)  # holds what is slow

    @property
    def load(self) -> Load:
        return self.request.load

    @property
    def target(self) -> Target:
        return self.request.target

    @property
    def front(self) -> tuple[ServingPlan, ...]:
        """Plans that no other beats in tokens/s of a user and of a chip."""
        return self.search.front

    @property
    def ttft_s(self) -> float:
        """Mean of the closed form [s]."""
        return self.plan.ttft_s

    @property
    def tpot_s(self) -> float:
        """Mean of the closed form [s]."""
        return self.plan.tpot_s

    @property
    def tpot_range_s(self) -> tuple[float, float]:
        """Where 80 % of measured points like this one would lie [s]."""
        one = self.plan.service
        experts = any(isinstance(layer.mlp, Moe) for layer in one.architecture.layers)
        kind = serving_ranges.kind_of(experts=experts, drafts=one.speculation.drafts > 0)
        return serving_ranges.ends(self.tpot_s, "tpot", kind, pools=self.plan.disaggregated)

    @property
    def tokens_per_s_chip(self) -> float:
        return self.plan.tokens_per_s_chip

    @property
    def ladder(self) -> tuple[Rung, ...]:
        """Where the time between tokens goes; rungs sum to ``tpot_s``."""
        one = self.plan.service
        return ladder(one, table_of(one, self.load), self.plan.steady, self.load.isl, self.load.osl)

    @property
    def sensitivities(self) -> tuple[ServingSensitivity, ...]:
        """What one change of the hardware, the software or the load would do, the largest gain first."""
        if "sensitivities" not in self._memo:
            found = serving_effects.effects(self.plan, self.load, self.target)
            self._memo["sensitivities"] = found
        return tuple(self._memo["sensitivities"])

    @property
    def labels(self) -> dict[str, str]:
        """How far each part of the step can be trusted."""
        return labels_of(self.plan.service)

    @property
    def headline(self) -> str:
        """Who serves what where."""
        chip, network = self.request.chip, self.request.cluster
        machine = f"{self.plan.chips:,} x {chip.title} ({network.name})"
        title = self.request.architecture.title or self.request.architecture.name
        return serving_words.headline(title, machine, self.load, self.target)

    @property
    def chips_needed(self) -> int | None:
        """Chips of this plan for the rate that was asked; None without a rate or a simulation."""
        if self.load.rate is None or not self.max_rate:
            return None
        return serving_words.chips_needed(self.plan, self.load.rate, self.max_rate)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Assumptions behind the numbers."""
        longest = max(self.ttft_s, self.tpot_s)
        return (*endless("one token", longest), *self.notes, *_assumptions(self))

    def table(self, top: int = 5) -> str:
        """Headline, best plans, check, front, ladder, labels and notes as text."""
        return serving_words.serving_text(self, top)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None for a time that never comes."""
        return dict(finite(self._values()))

    def _values(self) -> dict[str, Any]:
        asked, found = self.request, self.search
        return {
            "kind": "serving",
            "ridgeline": version(),
            "catalog": catalog.digest(),
            "command": self.command,
            "model": asked.architecture.name,
            "chip": asked.chip.name,
            "cluster": asked.cluster.name,
            "num_chips": self.plan.chips,
            "load": {
                "isl": self.load.isl,
                "osl": self.load.osl,
                "concurrency": self.load.users,
                "rate": self.load.rate,
                "trace": None if asked.trace is None else asked.trace.path,
            },
            "target": self.target.to_dict(),
            "plan": self.plan.to_dict(),
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "tpot_low_s": self.tpot_range_s[0],
            "tpot_high_s": self.tpot_range_s[1],
            "tokens_per_s_user": self.plan.tokens_per_s_user,
            "tokens_per_s_chip": self.plan.tokens_per_s_chip,
            "ladder": [{"cause": rung.cause, "seconds": rung.seconds} for rung in self.ladder],
            "binds": binds(self.ladder).cause,
            "sensitivities": [asdict(item) for item in self.sensitivities],
            "memory": memory_parts(self.plan),
            "operation": serving_operation.to_dict(asked.operation),
            "check": None if self.check is None else _check(self.check),
            "max_rate": self.max_rate,
            "chips_needed": self.chips_needed,
            "labels": self.labels,
            "notes": list(self.all_notes),
            "plans": [plan.to_dict() for plan in serving_words.shown_plans(self, 10)],
            "front": [plan.to_dict() for plan in found.front],
            "search": {
                "considered": found.considered,
                "fit": found.fit,
                "points": [
                    [
                        plan.tokens_per_s_user,
                        plan.tokens_per_s_chip,
                        plan.ttft_s,
                        serving_words.plan_words(plan),
                    ]
                    for plan in found.plans
                ],
            },
            "inputs": {
                "architecture": written(asked.architecture),
                "chip": written(asked.chip),
                "cluster": written(asked.cluster),
                "engine": written(self.plan.service.engine),
            },
        }

    def write_report(self, path: str | Path) -> Path:
        """Write the HTML report, with the numbers of `to_dict` inside."""
        from ridgeline.api.serving_page import page  # figures are not needed to predict

        return files.write(path, saved.embed(page(self), self.to_dict()))

    def emit(self, framework: str | None = None) -> str:
        """The launch file of the plan: for its engine's framework, or for ``kubernetes``.

        Raises:
            EmitError: the framework is unknown, or cannot express the plan; says which field.
        """
        from ridgeline.emit.serving import emit_serving  # tables of options, not needed to predict

        return emit_serving(framework or self.plan.service.engine.framework, self.plan.deployment())

    def _repr_html_(self) -> str:
        return f"<pre>{escape(self.table())}</pre>"


def memory_parts(plan: ServingPlan) -> dict[str, float]:
    """What fills one chip of the decoding engine [B]."""
    found = memory(plan.service)
    return {
        "weights": found.weights,  # adapters among them
        "kv_cache": found.kv,
        "activations": found.activations,
        "graphs": found.graphs,
        "reserve": found.reserve,
        "capacity": found.capacity,
    }


def _check(found: Check) -> dict[str, Any]:
    return {
        "requests": found.words,
        "percentile": found.percentile,
        "ttft_s": found.ttft_s,
        "tpot_s": found.tpot_s,
        "keeps_up": found.keeps_up,
        "met": found.met,
        "replicas": found.replicas,
        "replicas_up": serving_words.replicas_up(found),
        "metrics": found.metrics.to_dict(),
    }


def _assumptions(result: ServingResult) -> list[str]:
    """What the numbers of the chosen plan rest on."""
    plan, asked = result.plan, result.request
    one, notes = plan.service, []
    if not result.target.given and asked.load.users is None and asked.load.rate is None:
        notes.append(
            "no target and no load given: the plan with most tokens/s/chip at 20 tokens/s/user is taken"
        )
    notes.append("TTFT and TPOT in tables are closed-form means without queues of random arrivals")
    chosen = one.precision.linear not in ("bf16", "fp16") and "precision" not in asked.space.fixed
    if chosen and asked.architecture.family not in NARROW:  # those were trained and released in 8 bits
        notes.append(
            f"{one.precision.linear} weights: check that the checkpoint exists and keeps the quality you need; "
            "--precision fixes the format"
        )
    if one.precision.kv not in ("bf16", "fp16") and "kv" not in asked.space.fixed:
        notes.append(
            f"the KV cache is in {one.precision.kv}, chosen by the search or the engine; --kv bf16 keeps it wide"
        )
    if one.speculation.drafts:
        chances = ", ".join(f"{chance:g}" for chance in one.speculation.acceptance)
        notes.append(
            f"drafts are accepted with chance {chances} (assumption): "
            f"{one.speculation.tokens_per_step:.2f} tokens a step"
        )
    if one.adapters.count:
        notes.append(
            f"adapters: {one.adapters.count} of rank {one.adapters.rank} stay on the chips and are asked for evenly; "
            "they change attention and dense layers, not routed experts; their time is a bound by bytes and FLOPs"
        )
    if plan.prefill is not None:
        notes.append(
            f"prefill engines are held at 85 % busy (assumption); the cache of a prompt takes "
            f"{serving_words.time_words(plan.transfer_s)} to the decode engines"
        )
    if plan.chips_used < plan.chips:
        notes.append(
            f"{plan.chips - plan.chips_used} of {plan.chips} chips stay idle; tokens/s/chip counts them"
        )
    if not one.engine.rows:
        notes.append(f"host times of {one.engine.name} are estimates that no measured run has informed yet")
    return notes
