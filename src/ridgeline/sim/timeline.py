"""Timeline: every operation of one pipelined step with its start and end, by exact evaluation of its
dependencies.

An operation starts when its stage is free (stages keep the order that `order` gives) and its input is there:
a forward needs the forward of the slice above, an input gradient that of the slice below, a weight gradient
the input gradient of its own slice. Between stages a hand-over takes ``send_s``; when sends are not
overlapped the sending stage waits for it too. Nothing is approximated, so this is the judge of the closed
forms in `schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ridgeline.sim.order import Order, num_chunks, order
from ridgeline.sim.stage_costs import FloatArray, StageCosts, expand

KINDS = ("F", "B", "W", "BW", "F+", "S")
KIND_NAMES = {
    "F": "forward",
    "B": "input gradient",
    "W": "weight gradient",
    "BW": "backward",
    "F+": "forward",
    "S": "send",
}
COMPUTE, LINK = 0, 1
RESOURCES = ("compute", "pipeline link")

_Slice = tuple[int, int]  # stage, chunk
_Need = tuple[str, int, int, int]  # kind, micro-batch, stage, chunk of the operation that needs an input
_Row = tuple[int, int, int, float, float]  # kind, micro-batch, chunk, start [s], end [s]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Rows as a struct of arrays [rows]: compute rows first, stage by stage in execution order, then sends.

    ``kind`` indexes `KINDS`, ``resource`` indexes `RESOURCES`; a send carries the stage that sends.
    """

    schedule: str
    pp: int
    stage: NDArray[np.int32]
    resource: NDArray[np.int8]
    kind: NDArray[np.int8]
    micro_batch: NDArray[np.int32]
    chunk: NDArray[np.int32]
    start_s: FloatArray
    end_s: FloatArray

    def __len__(self) -> int:
        return int(self.stage.size)

    def name(self, row: int) -> str:
        """What the row is, for people: ``forward 3`` or ``forward 3 chunk 1``."""
        label = f"{KIND_NAMES[KINDS[self.kind[row]]]} {self.micro_batch[row]}"
        return f"{label} chunk {self.chunk[row]}" if self.num_chunks > 1 else label

    @property
    def num_chunks(self) -> int:
        """Model chunks per stage."""
        return int(self.chunk.max()) + 1

    @property
    def total_s(self) -> float:
        """First start to last end of computation on any stage (the first forward starts at zero)."""
        return float(self.end_s[self.resource == COMPUTE].max())

    def compute(self, stage: int) -> NDArray[np.bool_]:
        """Mask of the compute rows of a stage."""
        mask: NDArray[np.bool_] = (self.resource == COMPUTE) & (self.stage == stage)
        return mask

    def busy_s(self, stage: int) -> float:
        """Seconds the stage computes."""
        mask = self.compute(stage)
        return float((self.end_s[mask] - self.start_s[mask]).sum())

    def span_s(self, stage: int) -> float:
        """First start to last end on this stage alone."""
        mask = self.compute(stage)
        return float(self.end_s[mask].max() - self.start_s[mask].min())

    def bubble_s(self, stage: int) -> float:
        """Seconds of the whole pass that the stage does not compute: ``total - busy``."""
        return self.total_s - self.busy_s(stage)

    def peak_in_flight(self, stage: int) -> float:
        """Most micro-batches whose activations the stage holds at once, in units of one full stage.

        Held from the start of the forward to the end of the weight gradient.
        """
        mask = self.compute(stage)
        kind = self.kind[mask]  # in execution order: a forward adds, a weight gradient releases
        steps = np.isin(kind, (KINDS.index("F"), KINDS.index("F+"))).astype(np.int64)
        steps -= np.isin(kind, (KINDS.index("W"), KINDS.index("BW")))
        share = 1 if self.schedule == "dualpipe" else self.num_chunks
        return float(np.cumsum(steps).max()) / share

    def gradient_ready_s(self, stage: int, chunk: int) -> float:
        """When the last weight gradient of a chunk is complete."""
        done = np.isin(self.kind, (KINDS.index("W"), KINDS.index("BW")))
        return float(self.end_s[self.compute(stage) & done & (self.chunk == chunk)].max())

    def first_use_s(self, stage: int, chunk: int) -> float:
        """When the first forward of a chunk starts."""
        mask = self.compute(stage) & (self.kind == KINDS.index("F")) & (self.chunk == chunk)
        return float(self.start_s[mask].min())


def simulate(schedule: str, costs: StageCosts, num_micro_batches: int, pp: int, vpp: int = 1) -> Timeline:
    """The exact timeline of one plan; ``costs`` arrays are [4], ``vpp`` counts for *interleaved* only.

    Raises ValueError where `order` has none for these numbers.
    """
    plan = order(schedule, num_micro_batches, pp, vpp)
    chunks = num_chunks(schedule, vpp) if pp > 1 else 1
    return _evaluate(
        schedule, plan, _durations(schedule, costs, pp, chunks), costs, num_micro_batches, chunks
    )


def _durations(schedule: str, costs: StageCosts, pp: int, chunks: int) -> dict[str, list[list[float]]]:
    """Seconds of every kind of operation, ``[chunk][stage]``."""
    forward, grad, weight = (
        expand(values, pp) for values in (costs.forward_s, costs.input_grad_s, costs.weight_grad_s)
    )
    table = {"F": forward, "B": grad, "W": weight, "BW": grad + weight, "F+": forward}
    if schedule == "dualpipe" and chunks == 2:
        # chunk 1 runs upwards: stage i holds slice pp - 1 - i of that copy
        return {kind: [list(row), list(row[::-1])] for kind, row in table.items()}
    return {kind: [list(row / chunks)] * chunks for kind, row in table.items()}


def _slices(schedule: str, pp: int, chunks: int) -> dict[_Slice, _Slice | None]:
    """Where a forward of (stage, chunk) hands its output to, None at the end of the model."""
    if schedule == "dualpipe" and chunks == 2:
        walks = [[(stage, 0) for stage in range(pp)], [(stage, 1) for stage in reversed(range(pp))]]
    elif schedule == "zb-v" and chunks == 2:
        walks = [[(stage, 0) for stage in range(pp)] + [(stage, 1) for stage in reversed(range(pp))]]
    else:
        walks = [[(stage, chunk) for chunk in range(chunks) for stage in range(pp)]]
    return {here: there for walk in walks for here, there in zip(walk, [*walk[1:], None], strict=True)}


def _evaluate(
    schedule: str,
    plan: Order,
    seconds: dict[str, list[list[float]]],
    costs: StageCosts,
    m: int,
    chunks: int,
) -> Timeline:
    """Run every stage as far as its inputs are there; an arrival wakes the stage that waits for it."""
    pp = len(plan)
    below = _slices(schedule, pp, chunks)
    above = {there: here for here, there in below.items() if there is not None}
    send, wait = float(costs.send_s), not costs.send_overlapped
    arrival = _inputs(below, above, m)
    clock = [0.0] * pp
    place = [0] * pp
    waiting: dict[_Need, int] = {}
    rows: list[list[_Row]] = [[] for _ in range(pp)]
    sends: list[tuple[int, int, int, int, int, float, float]] = []
    ready = list(range(pp))
    while ready:
        stage = ready.pop()
        operations = plan[stage]
        while place[stage] < len(operations):
            here = place[stage]
            together = operations[here : here + 1 + (operations[here][0] == "F+")]
            needs = [(kind[0], j, stage, chunk) for kind, j, chunk in together]
            missing = next((need for need in needs if need not in arrival), None)
            if missing is not None:
                waiting[missing] = stage
                break
            end = max(clock[stage], *(arrival[need] for need in needs))
            for kind, j, chunk in together:
                start, end = end, end + seconds[kind][chunk][stage]
                rows[stage].append((KINDS.index(kind), j, chunk, start, end))
            clock[stage] = end
            place[stage] += len(together)
            for kind, j, chunk in together:
                if kind == "B":
                    arrival["W", j, stage, chunk] = end
                there = None if kind == "W" else (below if kind[0] == "F" else above).get((stage, chunk))
                if there is None:
                    continue
                arrived = end
                if there[0] != stage and send > 0.0:
                    arrived = end + send
                    sends.append((stage, LINK, KINDS.index("S"), j, chunk, end, arrived))
                    if wait:
                        clock[stage] = arrived
                goes = (kind[0], j, *there)
                arrival[goes] = arrived
                if goes in waiting:
                    ready.append(waiting.pop(goes))
    _check(plan, rows, m, chunks, schedule)
    computed = [(stage, COMPUTE, *row) for stage in range(pp) for row in rows[stage]]
    return _table(schedule, pp, computed + sends)


def _inputs(below: dict[_Slice, _Slice | None], above: dict[_Slice, _Slice], m: int) -> dict[_Need, float]:
    """What is there at the start: inputs of the first slice, and the loss gradient as soon as the last has run."""
    found: dict[_Need, float] = {}
    for here, there in below.items():
        for j in range(m):
            if here not in above:
                found["F", j, *here] = 0.0
            if there is None:
                found["B", j, *here] = 0.0
    return found


def _table(schedule: str, pp: int, rows: list[tuple[int, int, int, int, int, float, float]]) -> Timeline:
    """Rows of stage, resource, kind, micro-batch, chunk, start and end [s] as columns."""
    columns = list(zip(*rows, strict=True))
    return Timeline(
        schedule=schedule,
        pp=pp,
        stage=np.array(columns[0], dtype=np.int32),
        resource=np.array(columns[1], dtype=np.int8),
        kind=np.array(columns[2], dtype=np.int8),
        micro_batch=np.array(columns[3], dtype=np.int32),
        chunk=np.array(columns[4], dtype=np.int32),
        start_s=np.array(columns[5], dtype=np.float64),
        end_s=np.array(columns[6], dtype=np.float64),
    )


def _check(plan: Order, rows: list[list[_Row]], m: int, chunks: int, schedule: str) -> None:
    """Every stage ran each micro-batch of each chunk forward, backward and through its weights, once."""
    for stage, (operations, done) in enumerate(zip(plan, rows, strict=True)):
        assert len(done) == len(operations), (
            f"{schedule}: stage {stage} waits for ever after {len(done)} operations"
        )
        passes: dict[str, set[tuple[int, int]]] = {"F": set(), "B": set(), "W": set()}
        count = 0
        for kind, j, chunk in operations:
            for part in kind.rstrip("+"):
                passes[part].add((j, chunk))
                count += 1
        expected = m if schedule == "dualpipe" else m * chunks
        assert count == 3 * expected
        assert all(len(seen) == expected for seen in passes.values())
        assert all(a[4] <= b[3] for a, b in pairwise(done)), f"stage {stage} runs two at once"
