"""ServingPlan: engines on chips at one load, with what the closed form says of them; Load and Target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ridgeline.facts.serving import Deployment, Limits, Service, model_id_of
from ridgeline.sim.serving.steady import Steady

#: Lengths of made-up requests are spread evenly over this share of the mean on both sides: an assumption. Equal
#: lengths would keep the users of a closed loop in step for ever.
SPREAD = 0.2
#: Requests under way swing around their mean: so many times the mean may decode at a time.
SWING = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What users ask: prompts of ``isl`` and answers of ``osl`` tokens in the mean.

    ``users``: requests under way at all times over all replicas; ``rate``: requests a second. Both None: any load.
    ``longest``: tokens of the longest prompt; None = `SPREAD` above the mean.
    """

    isl: float
    osl: float
    users: float | None = None
    rate: float | None = None
    longest: float | None = None

    @property
    def longest_prompt(self) -> int:
        return math.ceil(self.longest or (1.0 + SPREAD) * self.isl)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Latency that ``percentile`` percent of requests must keep: first token, time between tokens [s]."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    percentile: float = 95.0

    @property
    def given(self) -> bool:
        return self.ttft_s is not None or self.tpot_s is not None

    def met(self, ttft_s: float, tpot_s: float) -> bool:
        """Whether two latencies are within the target."""
        return ttft_s <= (self.ttft_s or math.inf) and tpot_s <= (self.tpot_s or math.inf)

    def to_dict(self) -> dict[str, Any]:
        return {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "percentile": self.percentile}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ServingPlan:
    """``replicas`` engines, and where ``prefill`` is given so many engines that only prefill beside them.

    Attributes:
        service, replicas: the engines that decode (and prefill, where there is one pool).
        prefill, prefill_replicas: the pool of prefill engines; None = one pool.
        users: requests under way over all replicas; of a decode pool, those that decode.
        chips: that the plan was given; those that no engine fills are paid for all the same.
        steady: of one decoding engine.
        ttft_s, tpot_s: means. transfer_s: of the cache between pools, part of ``ttft_s``.
        requests_per_s: of all replicas.
    """

    service: Service
    replicas: int
    chips: int
    users: float
    steady: Steady
    ttft_s: float
    tpot_s: float
    requests_per_s: float
    output_tokens_per_s: float
    prefill: Service | None = None
    prefill_replicas: int = 0
    transfer_s: float = 0.0

    @property
    def disaggregated(self) -> bool:
        return self.prefill is not None

    @property
    def tokens_per_s_user(self) -> float:
        """Output tokens a second that one user sees."""
        return 1.0 / self.tpot_s

    @property
    def tokens_per_s_chip(self) -> float:
        """Output tokens a second over all chips of the plan."""
        return self.output_tokens_per_s / self.chips

    @property
    def chips_used(self) -> int:
        extra = self.prefill.layout.chips * self.prefill_replicas if self.prefill else 0
        return self.service.layout.chips * self.replicas + extra

    @property
    def all_users(self) -> float:
        """Requests under way, those in a pool of prefill engines too."""
        return self.users + (self.requests_per_s * self.ttft_s if self.disaggregated else 0.0)

    @property
    def max_seqs(self) -> int:
        """Requests that one attention rank may decode at a time under this load: a power of two with room to swing."""
        ranks = self.replicas * self.service.layout.dp
        wanted = 2 ** math.ceil(math.log2(max(SWING * self.users / ranks, 1.0)))
        return int(min(wanted, self.service.max_seqs))

    @property
    def deployed(self) -> Service:
        """The decoding engine with the limits to be set on it."""
        old = self.service.limits
        limits = Limits(
            max_seqs=old.max_seqs or self.max_seqs,
            max_batched_tokens=old.max_batched_tokens,
            max_context=old.max_context,
            memory_fraction=old.memory_fraction,
            prefix_cache=old.prefix_cache,
        )
        return self.service.replace(limits=limits)

    def deployment(self) -> Deployment:
        """The plan as launch files take it."""
        name = model_id_of(self.service.architecture)
        if self.prefill is None:
            return Deployment(model_id=name, service=self.deployed, replicas=self.replicas)
        return Deployment(
            model_id=name,
            prefill=self.prefill,
            prefill_replicas=self.prefill_replicas,
            decode=self.deployed,
            decode_replicas=self.replicas,
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """Orders plans that are equally good, so that a search always answers the same."""
        one, pool = self.service, self.prefill
        layout = (one.layout.tp, one.layout.pp, one.layout.dp, one.layout.ep, one.max_batched_tokens)
        formats = (one.engine.name, one.precision.linear, one.precision.kv, one.speculation.drafts)
        return (self.disaggregated, formats, layout, self.users, str(pool.layout) if pool else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {
            "engine": self.service.engine.name,
            "replicas": self.replicas,
            **_service_values(self.service),
            "max_seqs": self.service.limits.max_seqs or self.max_seqs,
            "chips": self.chips,
            "chips_used": self.chips_used,
            "disaggregated": self.disaggregated,
            "concurrency": self.users,
            "ttft_s": self.ttft_s,
            "tpot_s": self.tpot_s,
            "tokens_per_s_user": self.tokens_per_s_user,
            "tokens_per_s_chip": self.tokens_per_s_chip,
            "output_tokens_per_s": self.output_tokens_per_s,
            "requests_per_s": self.requests_per_s,
            "limit": self.steady.limit,
        }
        if self.prefill is not None:
            pool = {"replicas": self.prefill_replicas, **_service_values(self.prefill)}
            values |= {"prefill": pool, "transfer_s": self.transfer_s}
        return values


def _service_values(one: Service) -> dict[str, Any]:
    speculation = one.speculation
    return {
        "layout": one.layout.to_dict(),
        "precision": one.precision.to_dict(),
        "speculation": {"method": speculation.method, "acceptance": list(speculation.acceptance)},
        "max_batched_tokens": one.max_batched_tokens,
    }


def front(plans: Sequence[ServingPlan]) -> list[ServingPlan]:
    """Plans that no other beats in tokens/s of a user and tokens/s of a chip, the fastest for a user first."""
    ordered = sorted(plans, key=lambda p: (-p.tokens_per_s_user, -p.tokens_per_s_chip, p.key))
    kept: list[ServingPlan] = []
    most = 0.0
    for plan in ordered:
        if plan.tokens_per_s_chip > most * (1.0 + 1e-9):
            kept.append(plan)
            most = plan.tokens_per_s_chip
    return kept


def fronts(plans: Sequence[ServingPlan]) -> list[ServingPlan]:
    """The `front` of one pool of engines, and that of pools of prefill and decode, where there are such plans."""
    return [
        plan
        for kind in (False, True)
        for plan in front([plan for plan in plans if plan.disaggregated is kind])
    ]
