"""Plan: how a model is laid on the chips. One frozen plan, or a grid of plans as a struct of arrays.

Ranks are laid out tensor first, then context, then data, then pipeline (Megatron order ``tp-cp-dp-pp``); experts are
spread over the tensor x context x data ranks of one pipeline stage: ``etp`` first, then ``ep``, then expert data
parallel.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.facts.spec import MOST_COUNT

SCHEDULES = ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe")
#: Schedules that run input and weight gradients as passes of their own, which fill each other's bubbles in a pipeline.
SPLIT = ("zb-h1", "zb-h2", "zb-v", "dualpipe")
RECOMPUTES = ("none", "selective", "full")

IntArray = NDArray[np.int64]

#: Discrete choices: one value for a whole grid partition (the structure key), never an array.
STRUCTURE = (
    "schedule", "recompute", "zero", "sequence_parallel", "fsdp_reshard",
    "offload_activations", "offload_optimizer",
    "overlap_tp", "overlap_grad", "overlap_param", "overlap_p2p", "overlap_ep",
)  # fmt: skip
#: Degrees: an int for one plan, an int64 array of one shared shape for a grid.
DEGREES = ("tp", "cp", "pp", "vpp", "ep", "etp", "dp", "micro_batch", "replicas", "recompute_layers")
_WHOLE = (*DEGREES, "zero")
_WORDS = {"schedule": SCHEDULES, "recompute": RECOMPUTES}
_SWITCHES = tuple(name for name in STRUCTURE if name not in ("zero", *_WORDS))
#: Least value of a degree, where it is not 1.
_LEAST = {"recompute_layers": -1, "zero": 0}
_MOST = {"zero": 3}


class PlanFieldError(ValueError):
    """A field of a plan that is no whole number, no choice or no switch; names it, its value and what it takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One layout. ``chips = tp * cp * pp * dp``; ``None`` for an overlap switch means: as the stack does it.

    Raises:
        PlanFieldError: a degree is no whole number of at least 1, or another field none of its choices.
    """

    tp: int = 1
    cp: int = 1
    pp: int = 1
    vpp: int = 1  # model chunks per pipeline stage
    ep: int = 1  # expert parallel
    etp: int = 1  # tensor parallel inside an expert
    dp: int = 1
    micro_batch: int = 1  # sequences per pass and data-parallel rank
    zero: int = 1  # 0 none, 1 optimizer, 2 + gradients, 3 + parameters (FSDP)
    replicas: int = 1  # HSDP: copies of the sharded group; dp / replicas ranks share a shard set
    fsdp_reshard: bool = True  # zero 3: parameters are freed after forward and gathered again for backward
    sequence_parallel: bool = True  # activations between tp regions are split along the sequence
    recompute: str = "none"
    recompute_layers: int = -1  # full recompute of this many layers per stage, -1 = all
    schedule: str = "1f1b"
    offload_activations: bool = False
    offload_optimizer: bool = False
    overlap_tp: bool | None = None
    overlap_grad: bool | None = None  # gradient reduction under backward
    overlap_param: bool | None = None  # parameter gathering under forward
    overlap_p2p: bool | None = None
    overlap_ep: bool | None = None

    def __post_init__(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if type(value) is not int or not _LEAST.get(name, 1) <= value <= _MOST.get(name, MOST_COUNT):
                object.__setattr__(self, name, _whole(name, value))
        for name, words in _WORDS.items():
            value = getattr(self, name)
            if not isinstance(value, str) or value not in words:
                raise PlanFieldError(f"{name} = {files.shown(value)} is unknown; choices: {', '.join(words)}")
        for name in _SWITCHES:
            value = getattr(self, name)
            if isinstance(value, np.bool_):
                object.__setattr__(self, name, bool(value))
            elif type(value) is not bool and not (value is None and name.startswith("overlap")):
                raise PlanFieldError(f"{name} = {files.shown(value)}: expected True or False")

    @property
    def chips(self) -> int:
        return self.tp * self.cp * self.pp * self.dp

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanGrid:
    """Many plans of one structure: every degree is an int64 array ``[plans]``; the rest is one value.

    It carries the same field names as `Plan`, so every formula takes either.
    """

    tp: IntArray
    cp: IntArray
    pp: IntArray
    vpp: IntArray
    ep: IntArray
    etp: IntArray
    dp: IntArray
    micro_batch: IntArray
    replicas: IntArray
    recompute_layers: IntArray
    zero: int = 1
    fsdp_reshard: bool = True
    sequence_parallel: bool = True
    recompute: str = "none"
    schedule: str = "1f1b"
    offload_activations: bool = False
    offload_optimizer: bool = False
    overlap_tp: bool | None = None
    overlap_grad: bool | None = None
    overlap_param: bool | None = None
    overlap_p2p: bool | None = None
    overlap_ep: bool | None = None

    def __len__(self) -> int:
        return int(self.tp.size)

    def __getitem__(self, index: int) -> Plan:
        """The plan at ``index``: the scalar twin of that row."""
        fields: dict[str, Any] = {name: int(getattr(self, name)[index]) for name in DEGREES}
        return Plan(**fields, **{name: getattr(self, name) for name in STRUCTURE})

    def take(self, index: NDArray[Any]) -> PlanGrid:
        """A grid of the rows picked by an integer or boolean ``index``."""
        return dataclasses.replace(self, **{name: getattr(self, name)[index] for name in DEGREES})

    @property
    def chips(self) -> IntArray:
        return self.tp * self.cp * self.pp * self.dp

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> PlanGrid:
        """Stack plans of one structure; ValueError if their discrete choices differ."""
        keys = {tuple(getattr(plan, name) for name in STRUCTURE) for plan in plans}
        if len(keys) != 1:
            raise ValueError(f"a grid holds one structure, got {len(keys)}")
        fields: dict[str, Any] = {
            name: np.array([getattr(plan, name) for plan in plans], dtype=np.int64) for name in DEGREES
        }
        return cls(**fields, **dict(zip(STRUCTURE, keys.pop(), strict=True)))


def _whole(name: str, value: Any) -> int:
    """A degree as an int of Python, from any library's integer or from a float that is whole."""
    try:
        number = int(value) if isinstance(value, float) else operator.index(value)
        whole = not isinstance(value, bool) and number == value
    except (TypeError, ValueError, OverflowError):  # no number; not finite
        number, whole = 0, False
    if not whole:
        raise PlanFieldError(f"{name} = {files.shown(value)}: expected a whole number")
    least, most = _LEAST.get(name, 1), _MOST.get(name, MOST_COUNT)
    if not least <= number <= most:
        bound = f"at least {least}" if number < least else f"at most {most:,}"
        raise PlanFieldError(f"{name} = {files.shown(number)} must be {bound}")
    return number
