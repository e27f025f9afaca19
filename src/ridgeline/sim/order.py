"""Order: what each pipeline stage executes, operation by operation, under each schedule.

An operation is ``(kind, micro_batch, chunk)``. Kinds: ``F`` forward, ``B`` input gradient, ``W`` weight
gradient, ``BW`` both gradients in one pass (the upstream stage gets its gradient when the pass is over),
``F+`` a forward that runs as one overlapped pass with the backward behind it: both start when both inputs are
there and hand on at the end.

A *chunk* is what a stage holds of the model: one slice for gpipe, 1f1b, zb-h1 and zb-h2; ``vpp`` slices for
interleaved, handed round-robin; two for zb-v, placed as a V (stage ``i`` holds slices ``i`` and ``2 pp - 1 -
i``); two for dualpipe, each a full stage of its own copy of the model, chunk 0 running downwards and chunk 1
upwards.
"""

from __future__ import annotations

from collections.abc import Iterator

from ridgeline.facts.plan import SCHEDULES

Operation = tuple[str, int, int]
Order = list[list[Operation]]


def order(schedule: str, num_micro_batches: int, pp: int, vpp: int = 1) -> Order:
    """Operations of every stage, ``[pp]`` lists.

    Raises ValueError for an unknown schedule and for a number of micro-batches the schedule has no order for.
    """
    m = num_micro_batches
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r} is unknown, choose one of {', '.join(SCHEDULES)}")
    if m < 1 or pp < 1 or vpp < 1:
        raise ValueError(f"num_micro_batches {m}, pp {pp} and vpp {vpp} must be at least 1")
    if pp == 1 and schedule != "gpipe":
        return [[(kind, j, 0) for j in range(m) for kind in ("F", "BW")]]
    if schedule == "gpipe":
        return [_gpipe(m) for _ in range(pp)]
    if schedule == "1f1b" or (schedule == "interleaved" and vpp == 1):
        return [_one_forward_one_backward(m, pp - stage - 1) for stage in range(pp)]
    if schedule == "interleaved":
        if m % pp:
            raise ValueError(f"interleaved: num_micro_batches {m} must be a multiple of pp {pp}")
        return [_interleaved(m, pp, vpp, stage) for stage in range(pp)]
    if schedule == "zb-h1":
        return [_zero_bubble(m, pp - stage - 1, pp) for stage in range(pp)]
    if schedule == "zb-h2":
        return [_zero_bubble(m, 2 * (pp - stage - 1), 2 * pp - 1) for stage in range(pp)]
    if schedule == "zb-v":
        return [_zero_bubble_v(m, pp, stage) for stage in range(pp)]
    if pp % 2 or m % 2 or m < 2 * pp:
        raise ValueError(
            f"dualpipe: pp {pp} and num_micro_batches {m} must be even, with num_micro_batches >= 2 pp"
        )
    return [_dualpipe(m, pp, stage) for stage in range(pp)]


def num_chunks(schedule: str, vpp: int) -> int:
    """Model slices a stage holds in the order of ``schedule``."""
    return {"interleaved": vpp, "zb-v": 2, "dualpipe": 2}.get(schedule, 1)


def _gpipe(m: int) -> list[Operation]:
    """All forwards, then all backwards (Huang et al. 1811.06965)."""
    return [("F", j, 0) for j in range(m)] + [("BW", j, 0) for j in range(m)]


def _one_forward_one_backward(m: int, warmup: int) -> list[Operation]:
    """PipeDream-Flush: ``warmup`` forwards, then one forward and one backward in turn, then the rest."""
    depth = min(warmup, m)
    operations: list[Operation] = [("F", j, 0) for j in range(depth)]
    for j in range(m - depth):
        operations += [("F", depth + j, 0), ("BW", j, 0)]
    return operations + [("BW", j, 0) for j in range(m - depth, m)]


def _interleaved(m: int, pp: int, vpp: int, stage: int) -> list[Operation]:
    """Megatron's interleaved 1F1B: groups of ``pp`` micro-batches visit the chunks in turn (2104.04473,
    figure 4).

    The warm-up is ``2 (pp - stage - 1) + (vpp - 1) pp`` chunk forwards: twice the depth of 1F1B, so that
    sends have a slot to hide in.
    """
    total = m * vpp
    walk = [(group + j, chunk) for group in range(0, m, pp) for chunk in range(vpp) for j in range(pp)]
    forwards: list[Operation] = [("F", j, chunk) for j, chunk in walk]
    backwards: list[Operation] = [("BW", j, vpp - 1 - chunk) for j, chunk in walk]
    depth = min(2 * (pp - stage - 1) + (vpp - 1) * pp, total)
    operations = forwards[:depth]
    for n in range(total - depth):
        operations += [forwards[depth + n], backwards[n]]
    return operations + backwards[total - depth :]


def _zero_bubble(m: int, warmup: int, limit: int) -> list[Operation]:
    """ZB-H1 and ZB-H2 (2401.10241, figures 2 and 3): 1F1B order with weight gradients put off.

    A stage runs a weight gradient only when ``limit`` micro-batches hold activations, and after the last
    forward one behind each input gradient.
    """
    depth = min(warmup + 1, m)
    operations: list[Operation] = [("F", j, 0) for j in range(depth)]
    forwards, weights = depth, 0
    for j in range(m):
        operations.append(("B", j, 0))
        if forwards - weights == limit or forwards == m:
            operations.append(("W", weights, 0))
            weights += 1
        if forwards < m:
            operations.append(("F", forwards, 0))
            forwards += 1
    return operations + [("W", j, 0) for j in range(weights, m)]


def _zero_bubble_v(m: int, pp: int, stage: int) -> list[Operation]:
    """ZB-V (2401.10241 section 6, figure 8): two chunks placed as a V, the memory of 1F1B on every stage.

    The order is laid out for at least ``2 pp - 1`` micro-batches and those beyond ``m`` are left out of it.
    """
    padded = max(m, 2 * pp - 1)
    operations: list[Operation] = []
    count = {(kind, chunk): 0 for kind in "FBW" for chunk in (0, 1)}

    def add(*steps: tuple[str, int]) -> None:
        """Append the next micro-batch of each (kind, chunk)."""
        for step in steps:
            operations.append((step[0], count[step], step[1]))
            count[step] += 1

    for _ in range(2 * (pp - stage) - 1):
        add(("F", 0))
    for _ in range(stage):
        add(("F", 1), ("F", 0))
    for _ in range(pp - stage):
        add(("F", 1), ("B", 1), ("W", 1))
    while count["F", 1] < count["F", 0] or count["F", 0] < padded:
        if count["F", 0] < padded:
            add(("F", 0))
        add(("B", 0), ("W", 0), ("F", 1), ("B", 1), ("W", 1))
    for _ in range(stage):
        add(("B", 0), ("B", 1))
    for _ in range(pp - stage):
        add(("B", 0), ("W", 0))
    for chunk in (1, 0):
        while count["W", chunk] < count["B", chunk]:
            add(("W", chunk))
    return [operation for operation in operations if operation[1] < m]


def _dualpipe(m: int, pp: int, stage: int) -> list[Operation]:
    """DualPipe (DeepSeek-V3, 2412.19437, figure 5; phases as in the authors' open-source release).

    Half of the micro-batches enter at each end. ``near`` is the direction that enters at this half of the
    stages. The paper counts the overlapped pass of a forward and a backward as ``F&B``; here it takes ``F + B
    + W``.
    """
    half, near = pp // 2, int(stage >= pp // 2)
    depth = min(stage, pp - 1 - stage)
    far = 1 - near
    operations: list[Operation] = []
    numbers: dict[tuple[str, int], Iterator[int]] = {
        (kind, chunk): iter(range(chunk * (m // 2), (chunk + 1) * (m // 2)))
        for kind in "FB"
        for chunk in (0, 1)
    }
    late: list[tuple[int, int]] = []  # weight gradients put off, oldest first

    def forward(chunk: int, paired: bool = False) -> None:
        """Append the chunk's next forward; ``paired`` with the backward that follows."""
        operations.append(("F+" if paired else "F", next(numbers["F", chunk]), chunk))

    def backward(chunk: int, split: bool = False) -> None:
        """Append the chunk's next backward, its weight gradient put off where it is ``split``."""
        j = next(numbers["B", chunk])
        operations.append(("B" if split else "BW", j, chunk))
        if split:
            late.append((j, chunk))

    def weight() -> None:
        """Append the oldest weight gradient that was put off."""
        j, chunk = late.pop(0)
        operations.append(("W", j, chunk))

    for _ in range(2 * (half - depth - 1)):
        forward(near)
    for _ in range(depth + 1):
        forward(near)
        forward(far)
    for _ in range(half - depth - 1):
        backward(far, split=True)
        weight()
        forward(far)
    for n in range(m // 2 - pp + depth + 1):
        forward(near, paired=n > 0 or depth < half - 1)
        backward(far)
        forward(far, paired=True)
        backward(near)
    for _ in range(half - depth - 1):
        backward(far)
        forward(far, paired=True)
        backward(near)
    split = False
    for n in range(depth + 1):
        split = split or (n == (depth + 1) // 2 and depth % 2 == 1)
        backward(far, split)
        split = split or (n == (depth + 1) // 2 and depth % 2 == 0)
        backward(near, split)
    for _ in range(half - depth - 1):
        weight()
        backward(near, split=True)
    while late:
        weight()
    return operations
