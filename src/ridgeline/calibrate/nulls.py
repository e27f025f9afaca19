"""Two predictors without physics: what any model of a machine has to beat.

*Constant MFU* reads one number per chip and format off the runs it may learn from. *Nearest neighbours*
repeats the MFU of the three most similar runs. Both turn MFU into time by the model FLOPs of the run.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.refusals import or_none
from ridgeline.calibrate.shapes import architecture_of
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Attention, LatentAttention
from ridgeline.facts.parameters import mixer_matmul_parameters, mlp_active_parameters

NEIGHBOURS = 3
_QUALITIES = ("A", "B")
_Key = Callable[[Case], tuple[str, ...]]
# Which runs may be neighbours: the first of these rules that leaves any run is used.
_POOLS: tuple[_Key, ...] = (
    lambda case: (case.source, case.model, case.chip, case.precision),
    lambda case: (case.model, case.chip, case.precision),
    lambda case: (case.source, case.chip, case.precision),
    lambda case: (case.chip, case.precision),
    lambda case: (case.chip,),
    lambda case: (case.precision,),
    lambda case: (),
)


def model_flops(case: Case) -> float:
    """FLOPs of one step that the model needs: 6 per matmul weight and token, causal attention counted half.

    LoRA needs no gradient of the frozen weights: 4 per weight. Recomputation is not counted.

    Raises:
        NotPredictable: the row's shape cannot be expressed.
    """
    architecture = architecture_of(case)
    weights = float(architecture.hidden * architecture.vocab)
    attention = 0.0
    for layer in architecture.layers:
        mixer = layer.mixer
        per_layer = mixer_matmul_parameters(mixer, architecture.hidden)
        per_layer += mlp_active_parameters(layer.mlp, architecture.hidden)
        weights += layer.count * per_layer
        if isinstance(mixer, Attention):
            width = 2 * mixer.heads * mixer.head_dim
            window = min(mixer.window or case.seq, case.seq)
        elif isinstance(mixer, LatentAttention):
            width = mixer.heads * (mixer.nope_dim + mixer.rope_dim + mixer.v_dim)
            window = case.seq
        else:
            continue
        # mean number of keys of a causal, windowed query
        keys = window - window * (window - 1) / (2 * case.seq)
        attention += layer.count * 6 * width * keys
    factor = 4 if case.kind == "lora" else 6
    return float(case.tokens) * (factor * weights + attention)


def achieved_flops(case: Case) -> float:
    """Measured model FLOP rate of one chip [FLOP/s]."""
    return model_flops(case) / case.step_time_s / case.num_chips


@functools.lru_cache(maxsize=256)
def _peak(chip: str, precision: str) -> float:
    """Dense matrix rate of a chip in a format [FLOP/s]; 1.0 for a chip that the catalog does not know."""
    if catalog.entry_path("chips", chip) is None:
        return 1.0
    matrix = catalog.chip(chip).matrix
    family = {"fp8-block": "fp8", "mxfp8": "fp8"}
    for name in (precision, family.get(precision, ""), "bf16", "fp16"):
        if name in matrix:
            return matrix[name]
    return max(matrix.values())


def mfu(case: Case) -> float:
    """Measured model FLOPs utilisation, against the matrix rate of the row's format."""
    return achieved_flops(case) / _peak(case.chip, case.precision)


def _learnable(cases: Sequence[Case]) -> list[Case]:
    """Rows to learn from: split fit (all where a file has none), good quality, a countable shape."""
    has_split = any(case.split == "fit" for case in cases)
    chosen = [case for case in cases if (case.split == "fit" or not has_split) and case.quality in _QUALITIES]
    return [case for case in chosen if or_none(functools.partial(mfu, case)) is not None]


def _seconds(case: Case, utilisation: float) -> float:
    return model_flops(case) / (case.num_chips * utilisation * _peak(case.chip, case.precision))


@dataclass(frozen=True, slots=True)
class ConstantMfu:
    """Median MFU by chip and format, then by chip, then of all."""

    by_format: dict[tuple[str, str], float]
    by_chip: dict[str, float]
    overall: float

    @classmethod
    def fit(cls, cases: Sequence[Case]) -> ConstantMfu:
        """Learn from the rows of split ``fit``; a file without any teaches with all its rows."""
        by_format: dict[tuple[str, str], list[float]] = {}
        by_chip: dict[str, list[float]] = {}
        for case in _learnable(cases):
            by_format.setdefault((case.chip, case.precision), []).append(mfu(case))
            by_chip.setdefault(case.chip, []).append(mfu(case))
        everything = [value for values in by_chip.values() for value in values]
        return cls(
            {key: float(np.median(values)) for key, values in by_format.items()},
            {key: float(np.median(values)) for key, values in by_chip.items()},
            float(np.median(everything)) if everything else 0.4,
        )

    def __call__(self, case: Case) -> float | None:
        """Predicted step time [s]; None where the shape cannot be counted."""
        chip = self.by_chip.get(case.chip, self.overall)
        return or_none(lambda: _seconds(case, self.by_format.get((case.chip, case.precision), chip)))


@dataclass(frozen=True, slots=True)
class NearestNeighbours:
    """Mean MFU of the three runs nearest in the logarithms of size, work and plan."""

    features: NDArray[np.float64]  # [runs, 6]
    mfu: NDArray[np.float64]  # [runs]
    groups: tuple[str, ...]
    pools: tuple[dict[tuple[str, ...], list[int]], ...]

    @classmethod
    def fit(cls, cases: Sequence[Case]) -> NearestNeighbours:
        """Learn from the rows of split ``fit``; a file without any teaches with all its rows."""
        known = _learnable(cases)
        pools: list[dict[tuple[str, ...], list[int]]] = []
        for rule in _POOLS:
            pool: dict[tuple[str, ...], list[int]] = {}
            for index, case in enumerate(known):
                pool.setdefault(rule(case), []).append(index)
            pools.append(pool)
        features = np.array([_features(case) for case in known]).reshape(len(known), 6)
        values = np.array([mfu(case) for case in known])
        return cls(features, values, tuple(case.group for case in known), tuple(pools))

    def __call__(self, case: Case) -> float | None:
        """Predicted step time [s] without the run and its repeats; None where nothing can be learned from."""
        for rule, pool in zip(_POOLS, self.pools, strict=True):
            index = [i for i in pool.get(rule(case), ()) if self.groups[i] != case.group]
            if not index:
                continue
            distance = np.abs(self.features[index] - _features(case)).sum(axis=1)
            nearest = np.argsort(distance, kind="stable")[:NEIGHBOURS]
            utilisation = float(np.mean(self.mfu[index][nearest]))
            return or_none(functools.partial(_seconds, case, utilisation))
        return None


def _features(case: Case) -> NDArray[np.float64]:
    size = (case.layers or 1) * float(case.hidden or 1) ** 2
    values = (case.num_chips, case.tokens, size, case.tp, case.pp, case.micro_batch or 1)
    return np.log(np.array(values, dtype=np.float64))
