"""Points that contradict themselves: their latencies and users together ask for more than their chips have.

By Little's law N users in a closed loop, each of whom waits ``TTFT + osl TPOT`` for an answer, send N over that time
requests a second. Each has ``isl`` tokens to prefill and ``osl`` to make, at two FLOPs for every weight that a token
meets; attention is left out, so the sum is a lower bound. A point above the matrix peak of its chips cannot be true as
stated: fewer users were under way, prompts were found in a prefix cache, or a field is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.calibrate.serving.cases import ServingCase
from ridgeline.calibrate.serving.score import ServingRow
from ridgeline.calibrate.serving.services import service_of
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts.parameters import matmul_parameters_per_token
from ridgeline.sim.serving.operator_times import multiplied
from ridgeline.timing.rates import peak_flops_per_s


@dataclass(frozen=True, slots=True)
class Asked:
    """What a point's own latencies ask of its chips."""

    case: ServingCase
    latency_s: float
    requests_per_s: float
    tokens_per_s: float  # prompt tokens
    flops_per_s: float
    peak_flops_per_s: float

    @property
    def share(self) -> float:
        """Of the matrix peak [1]; above 1 the point contradicts itself."""
        return self.flops_per_s / self.peak_flops_per_s


def asked(case: ServingCase) -> Asked | None:
    """The FLOP rate that a point's mean latencies imply; ``None`` where a field it takes is unknown.

    Formula: ``N / (TTFT + osl TPOT) * (isl + osl) * 2 P``, with P the weights that one token is multiplied with.
    """
    if case.ttft_s is None or case.tpot_s is None or case.concurrency is None or case.static:
        return None
    if case.mode != "aggregated" or case.percentile == "p99":
        return None
    try:
        service = service_of(case)
    except NotPredictable:
        return None
    assert case.isl is not None
    assert case.osl is not None
    latency = case.ttft_s + case.osl * case.tpot_s
    rate = case.concurrency / latency
    experts = service.precision.of_experts if case.experts else service.precision.linear
    peak = max(
        peak_flops_per_s(service.chip, multiplied(name)) for name in (service.precision.linear, experts)
    )
    flops = rate * (case.isl + case.osl) * 2.0 * matmul_parameters_per_token(service.architecture)
    return Asked(case, latency, rate, rate * case.isl, flops, peak * case.num_chips)


def contradictions(rows: Sequence[ServingRow]) -> list[tuple[Asked, ServingRow]]:
    """Points that ask for more than their chips have, worst first, with the row of their TPOT."""
    found = [
        (one, row) for row in rows if row.metric == "tpot" and (one := asked(row.case)) and one.share > 1.0
    ]
    return sorted(found, key=lambda pair: -pair[0].share)


def mislabelled(case: ServingCase) -> bool:
    """Whether the notes of a point deny the drafts that its column states."""
    return case.speculative == "mtp" and "non-MTP" in case.notes
