"""Fleet: replicas behind a router, pools of prefill and decode, scaling and failures, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ridgeline.sim.serving.engine import Settings
from ridgeline.sim.serving.table import StepTable

Router = Literal["round_robin", "least_loaded", "prefix_aware", "sticky"]
ROUTERS: tuple[Router, ...] = ("round_robin", "least_loaded", "prefix_aware", "sticky")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Links that carry KV cache from prefill to decode: each sends one request after the other.

    A prefill replica hands its requests to ``links`` shared by all of them in turn, or has a link of its own
    (``links = 0``).
    """

    bytes_per_s: float
    latency_s: float = 0.0
    links: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Replica ``replica`` (by its place in `Fleet.replicas`, then `Fleet.prefill`) is down for ``down_s`` seconds."""

    at_s: float
    replica: int
    down_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Autoscale:
    """Keep ``target`` requests, waiting and running, per replica of `Fleet.replicas`.

    Every ``interval_s`` the number of replicas becomes requests / target, rounded up and within limits. A new one
    serves after ``cold_start_s``; one too many gets no more requests and stops when it is empty.
    """

    minimum: int = 1
    target: float = 32.0
    interval_s: float = 10.0
    cold_start_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How a deployment is run, whatever its engines are.

    ``timeout_s``: a request without its first token by then is dropped. ``urgent``: share of the requests that go
    before all others. ``minimum`` of ``autoscale`` is at least 1; the replicas of the plan are its maximum.
    """

    router: Router = "least_loaded"
    settings: Settings = field(default_factory=Settings)
    autoscale: Autoscale | None = None
    failures: tuple[Failure, ...] = ()
    on_failure: Literal["retry", "lose"] = "retry"
    timeout_s: float | None = None
    urgent: float = 0.0

    @property
    def together_s(self) -> float | None:
        """How long replicas must be simulated together at least, until what joins them shows [s].

        None where each gets an even share of the requests and nothing else joins them: one then speaks for all.
        """
        if self.router == "least_loaded" and self.autoscale is None and not self.failures:
            return None
        spans = [0.0, *(1.5 * (failure.at_s + failure.down_s) for failure in self.failures)]
        if self.autoscale is not None:
            spans.append(5.0 * (self.autoscale.cold_start_s + 2.0 * self.autoscale.interval_s))
        return max(spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Replicas, each a `StepTable` of any chip, that serve the same model.

    ``prefill`` replicas, where there are any, run all prefills and hand the KV cache over; `replicas` then decode.
    """

    replicas: tuple[StepTable, ...]
    prefill: tuple[StepTable, ...] = ()
    router: Router = "least_loaded"
    transfer: Transfer = field(default_factory=lambda: Transfer(bytes_per_s=float("inf")))
    settings: Settings = field(default_factory=Settings)
    autoscale: Autoscale | None = None
    failures: tuple[Failure, ...] = ()
    on_failure: Literal["retry", "lose"] = "retry"

    def check(self) -> None:
        """Raises ValueError naming the field."""
        if not self.replicas:
            raise ValueError("replicas: is empty, a fleet needs at least one")
        if self.router not in ROUTERS:
            raise ValueError(f"router: {self.router!r} is unknown, choose one of {', '.join(ROUTERS)}")
        count = len(self.replicas) + len(self.prefill)
        for failure in self.failures:
            if not 0 <= failure.replica < count:
                raise ValueError(f"failures: replica {failure.replica} is not one of {count}")
        if self.autoscale and not 1 <= self.autoscale.minimum <= len(self.replicas):
            raise ValueError(
                f"autoscale.minimum: {self.autoscale.minimum}, expected 1 to {len(self.replicas)}"
            )
