"""Fit the all-reduce of serving engines: kernels that change at sizes which the engine itself sets.

The sizes are facts of `facts/data/all_reduce_kernels.yaml`; latencies and rates of each kernel are fitted.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.envelope import REGIMES, Moved, bench, detour, moved, solve, used_regimes
from ridgeline.calibrate.link_tables import Samples
from ridgeline.facts import catalog, document
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import Kernel, LinkCalibration, LinkFit, Moves, Regime
from ridgeline.facts.observation import Label
from ridgeline.facts.spec import Bytes, Prose, Spec
from ridgeline.timing.collectives import collective_seconds, engine_traffic
from ridgeline.timing.topology import FloatArray, place

FILE = catalog.BUILT_IN / "all_reduce_kernels.yaml"
#: A regime has three numbers: it needs more rows than that to say anything about rows that it did not see.
ROWS_PER_REGIME = 6
#: Fewer rows than this, and a kernel takes the regimes of its like.
FEWEST_ROWS = 3
FEWEST_PAIRS = 2
#: NCCL adds in the switch for more than two ranks only (`ncclNvlsInit`, src/transport/nvls.cc): pairs have a rate of
#: their own, for what the engine's kernels leave, whatever its size.
_PAIR = 2
_NO_LIMIT = 1e18


class Switch(Spec):
    """One kernel: what it moves, and by group size the bytes at which the next one takes over."""

    moves: Moves
    below: dict[int, Bytes]


class Switches(Spec):
    """Kernels of an engine on some chips, in the order in which it asks them."""

    engine: str
    chips: tuple[str, ...]
    kernels: tuple[Switch, ...]
    source: Prose


@functools.cache
def _table() -> tuple[Switches, ...]:
    return tuple(Switches.model_validate(row) for row in document.read(FILE)["engines"])


def switches(engine: str, chip: str) -> Switches | None:
    """The row of an engine on a chip; None where the sizes of its kernels are not known."""
    return next((row for row in _table() if row.engine == engine and chip in row.chips), None)


def fit(
    samples: Samples, known: Switches, bandwidth: float, domain: int, *, bridged: bool, in_network: bool
) -> LinkFit | None:
    """Latency and rate of each kernel, fitted to the rows that it ran, and of the library for the rest.

    Args:
        samples: all-reduce of one engine.
        known: its kernels.
        bandwidth: [B/s] of the scale-up tier.
        domain: chips of the scale-up domain.
        bridged: chips are joined over their host.
        in_network: switches of the domain add, for groups of more than two ranks.

    Returns:
        The fit; its provenance is the caller's to fill. None where too few rows are longer than the kernels take.
    """
    ran = _ran(known.kernels, samples)
    left = ran == len(known.kernels)
    pairs = left & (samples.ranks == _PAIR) & in_network
    apart = pairs.sum() >= FEWEST_PAIRS
    kernels = [
        _kernel(switch, samples, rows, known.kernels, ran, bandwidth, domain)
        for number, switch in enumerate(known.kernels)
        if (rows := _rows(known.kernels, ran, number)) is not None
    ]
    rest = samples.take(left & ~pairs if apart else left)
    if rest.seconds.size < FEWEST_ROWS:
        return None
    # which of the two NCCL runs is seen from how time grows with ranks
    ways: tuple[Moves, ...] = ("two_shot", "in_switch") if in_network else ("two_shot",)
    solved = {way: _solve(rest, [way] * rest.ranks.size, bandwidth, domain, bridged=bridged) for way in ways}
    way = min(ways, key=lambda one: solved[one][2])
    if apart:
        kernels.append(_pair(samples.take(pairs), solved[way][0][-1], bandwidth))
    return LinkFit(
        regimes=solved[way][0],
        detour=solved[way][1],
        kernels=tuple(kernels),
        rest=way,
        provenance=Provenance(label=Label.FITTED, source=samples.source),
    )


def _kernel(
    switch: Switch,
    samples: Samples,
    rows: NDArray[np.bool_],
    kernels: Sequence[Switch],
    ran: NDArray[np.int64],
    bandwidth: float,
    domain: int,
) -> Kernel:
    moves = [kernels[i].moves for i in ran[rows]]
    regimes, _, _ = _solve(samples.take(rows), moves, bandwidth, domain)
    return Kernel.model_construct(moves=switch.moves, below=switch.below, regimes=regimes)


def _pair(samples: Samples, large: Regime, bandwidth: float) -> Kernel:
    """NCCL between two ranks: launched like that of more, at a rate of its own (two steps, every byte sent once)."""
    base = large.base + 2.0 * large.hop
    rates = samples.size_bytes / np.maximum(samples.seconds - base, 0.1 * samples.seconds)
    share = float(np.median(rates)) / bandwidth
    regime = Regime.model_construct(base=base, hop=0.0, relay=0.0, share=float(f"{share:.4g}"))
    return Kernel.model_construct(moves="two_shot", below={_PAIR: _NO_LIMIT}, regimes=(regime,))


def _ran(kernels: Sequence[Switch], samples: Samples) -> NDArray[np.int64]:
    """Which kernel each row ran; ``len(kernels)`` for the library [rows]."""
    ran = np.full(samples.ranks.shape, len(kernels))
    for number in reversed(range(len(kernels))):
        for ranks, below in kernels[number].below.items():
            ran[(samples.ranks == ranks) & (samples.size_bytes < below)] = number
    return ran


def _rows(kernels: Sequence[Switch], ran: NDArray[np.int64], number: int) -> NDArray[np.bool_] | None:
    """Rows that inform a kernel: its own, else those of kernels that move alike, else of any; None without any."""
    alike = [i for i, kernel in enumerate(kernels) if kernel.moves == kernels[number].moves]
    for chosen in ([number], alike, list(range(len(kernels)))):
        rows = np.isin(ran, chosen)
        if rows.sum() >= FEWEST_ROWS:
            return rows
    return None


def _solve(
    samples: Samples, moves: list[Moves], bandwidth: float, domain: int, *, bridged: bool = False
) -> tuple[tuple[Regime, ...], float, float]:
    """Regimes, detour and the cost that is left, of rows of which each moves in its own way."""
    found = [_moved(samples, moves, domain)]
    regimes = int(np.clip(samples.ranks.size // ROWS_PER_REGIME, 1, REGIMES))
    parameters, cost = solve(found, samples.seconds, bandwidth, regimes, bridged=bridged)
    hops = bool(np.ptp(samples.ranks) > 0)
    return used_regimes(parameters, found, bandwidth, hops=hops), detour(parameters), cost


def _moved(samples: Samples, moves: list[Moves], domain: int) -> Moved:
    placement = place(samples.ranks, 1, bench(domain))
    each = {
        way: moved(engine_traffic("", way, placement), samples.ranks, samples.size_bytes)
        for way in set(moves)
    }
    rows = range(len(moves))
    return Moved(
        steps=np.array([each[moves[i]].steps[i] for i in rows]),
        sent=np.array([each[moves[i]].sent[i] for i in rows]),
        kept=np.zeros_like(samples.size_bytes),
        beyond=next(iter(each.values())).beyond,
    )


def seconds(fitted: LinkFit, samples: Samples, bandwidth: float, domain: int) -> FloatArray:
    """What `ridgeline.timing` makes of the fit [rows]."""
    cluster = bench(domain, bandwidth)
    key = samples.key
    links = LinkCalibration.model_construct(
        chip="bench", scale_up={key: fitted, "all_reduce": fitted}, scale_out={}, scale_up_latency=0.0,
        scale_out_latency=0.0, lossy_share=1.0, cross_rail_share=1.0,
    )  # fmt: skip
    placement = place(samples.ranks, 1, cluster)
    engine = key.removeprefix("all_reduce_")
    return collective_seconds("all_reduce", samples.size_bytes, placement, cluster, links, engine=engine)
