"""Messages inside the layers: tensor, context and expert parallel traffic, and what of it stays exposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.chip import Cluster
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.facts.stack import Stack
from ridgeline.graph.build import Model
from ridgeline.graph.ops import FloatArray, Message
from ridgeline.graph.shape import Shape
from ridgeline.sim.exposure import exposed_under
from ridgeline.sim.program import FORWARD, INPUT_GRAD, WEIGHT_GRAD, Program
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.dispatch import dispatch_seconds
from ridgeline.timing.topology import Placement, place


@dataclass(frozen=True, slots=True)
class Messages:
    """Exposed seconds per axis ``[3 phases, blocks, shapes]`` and bytes sent per chip ``[blocks, shapes]``."""

    exposed: dict[str, FloatArray]
    hidden_ep: FloatArray | None  # what of expert messages another micro-batch would hide, where one is there
    sent_bytes: FloatArray


def message_times(
    program: Program,
    kernel_s: FloatArray,
    model: Model,
    shape: Shape,
    cluster: Cluster,
    links: LinkCalibration,
    stack: Stack,
    *,
    cores: float,
    overlap_tp: bool,
    overlap_ep: bool | None,
) -> Messages:
    """Time the messages of a sharded ``model``, hidden where a kernel runs beside them.

    ``kernel_s`` are the kernels of ``program`` ``[rows, shapes]``; ``cores`` of the chip, of which the stack lends a
    share; ``overlap_ep`` None: as the stack does it.
    """
    lent = cores * stack.comm_sms
    blocks, shapes = program.num_blocks, shape.tp.size
    exposed = {axis: np.zeros((3, blocks, shapes)) for axis in ("tp", "cp", "ep")}
    sent = np.zeros((blocks, shapes))
    rows = [(index, message) for index, block in enumerate(model.blocks) for message in block.messages]
    for axis, kind in sorted({(message.axis, message.kind) for _, message in rows}):
        group = [(index, message) for index, message in rows if (message.axis, message.kind) == (axis, kind)]
        size = np.empty((len(group), shapes))
        for i, (_, message) in enumerate(group):
            size[i] = message.size
        degree, placement = _placement(axis, shape, cluster)
        seconds = collective_seconds(kind, size, placement, cluster, links)  # type: ignore[arg-type]
        if axis == "ep" and stack.dispatcher != "alltoall":
            # such stacks have both and take the faster: inside a wide domain duplicates cost less than sorting
            once = np.minimum(seconds, _deduplicated(group, size, placement, cluster, links, lent))
            seconds = np.where(_sends_once(group, placement, stack), once, seconds)
        outside = np.maximum(1.0 - 1.0 / degree, 0.0)
        for (index, message), time, volume in zip(group, seconds, size, strict=True):
            phase = FORWARD if message.phase == "forward" else INPUT_GRAD
            window = _window(message, index, phase, program, kernel_s)
            exposed[axis][phase, index] += _exposed(message, time, degree, window, stack, overlap_tp)
            sent[index] += volume * outside
    hidden = None
    hides = overlap_ep if overlap_ep is not None else _hides(shape, cluster, stack)
    if np.any(hides) and np.any(exposed["ep"]):
        # another micro-batch computes meanwhile: everything a layer does in both passes is a window
        busy = (program.incidence @ kernel_s).reshape(3, blocks, shapes).sum(axis=0)
        whole = exposed["ep"].sum(axis=0)
        saved = whole - exposed_under(whole, busy, stack.comm_sms)
        hidden = exposed["ep"] * (hides * saved / np.maximum(whole, 1e-30))
    return Messages(exposed, hidden, sent)


def _hides(shape: Shape, cluster: Cluster, stack: Stack) -> NDArray[np.bool_] | bool:
    """Whether the stack runs expert messages under compute ``[shapes]``.

    Inside a scale-up domain of 72 chips they were short enough to be left exposed; beyond one they are not
    (arXiv:2603.07685, case studies of DeepSeek-V3 on domains of 72 and of 8 chips).
    """
    if stack.overlap_ep or not stack.overlap_ep_beyond:
        return stack.overlap_ep
    return _beyond(_placement("ep", shape, cluster)[1])


def _beyond(placement: Placement) -> NDArray[np.bool_]:
    """Whether a group leaves the innermost domain ``[shapes]``."""
    return np.asarray(placement.domains[0] > 1.0)


def _sends_once(
    group: list[tuple[int, Message]], placement: Placement, stack: Stack
) -> NDArray[np.bool_] | bool:
    """Whether the kernels that send a token once per node and rank are taken ``[messages, shapes]``."""
    if stack.dispatcher == "deepep":
        return True
    limited = np.array([[message.node_limit is not None] for _, message in group])
    return limited | ~_beyond(placement)


def _deduplicated(
    group: list[tuple[int, Message]],
    size: FloatArray,
    placement: Placement,
    cluster: Cluster,
    links: LinkCalibration,
    cores: float,
) -> FloatArray:
    """Dispatch and combine that send a token once per node and once per rank ``[messages, shapes]``."""
    return np.stack(
        [
            dispatch_seconds(
                volume / (message.copies * message.row_bytes),
                message.row_bytes,
                message.copies,
                placement,
                cluster,
                links,
                node_limit=message.node_limit,
                combine=message.name == "combine",
                cores=cores or None,
            )
            for (_, message), volume in zip(group, size, strict=True)
        ]
    )


def _placement(axis: str, shape: Shape, cluster: Cluster) -> tuple[FloatArray, Placement]:
    """Degree and placement of one axis: tensor ranks are neighbours, context ranks ``tp`` apart, experts neighbours."""
    if axis == "tp":
        return shape.tp, place(shape.tp, np.ones_like(shape.tp), cluster)
    if axis == "cp":
        return shape.cp, place(shape.cp, shape.tp, cluster)
    degree = shape.ep * shape.etp
    return degree, place(degree, np.ones_like(degree), cluster)


def _window(
    message: Message, block: int, phase: int, program: Program, kernel_s: FloatArray
) -> FloatArray | float:
    """Seconds of the kernel that may hide a message: its neighbour, or a gradient of it for asynchronous ones."""
    if message.axis == "ep":
        return 0.0
    if message.native:
        # the gather runs under the input gradient, the reduction under the weight gradient
        phase = WEIGHT_GRAD if "gradient" in message.name else INPUT_GRAD
    row = program.near.get((block, phase, message.near))
    return 0.0 if row is None else kernel_s[row]


def _exposed(
    message: Message,
    seconds: FloatArray,
    degree: FloatArray,
    window: FloatArray | float,
    stack: Stack,
    overlap_tp: bool,
) -> FloatArray:
    """What of one message the kernel beside it cannot hide."""
    if message.axis == "ep":
        return seconds
    if message.axis == "cp":
        # the ring's steps run under the attention of the previous step: all but one of cp parts
        return exposed_under(seconds, window * (1.0 - 1.0 / degree), stack.comm_sms)
    if message.native:
        return exposed_under(seconds, window, stack.comm_sms)
    if overlap_tp:
        # chunks: the first gather or the last scatter of tp parts has nothing to hide under
        first = seconds / degree
        return first + exposed_under(seconds - first, window * (1.0 - 1.0 / degree), stack.comm_sms)
    return seconds
