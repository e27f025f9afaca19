"""Activity: what a whole pipeline does in one micro-batch, the power cap it meets and the energy of a step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ridgeline.facts.plan import IntArray, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.graph.block_sums import over_blocks
from ridgeline.graph.ops import FloatArray
from ridgeline.graph.parallel.pp import Stages, recomputed_share
from ridgeline.sim.layers import BlockTimes, Work
from ridgeline.timing.energy import CLOCK_POWER, chip_joules, power_stretch


class Activity(NamedTuple):
    """One micro-batch on one rank of every stage, summed ``[plans]``; nothing computed again is counted."""

    matrix_s: FloatArray  # matrix kernels alone, no power cap
    stream_s: FloatArray
    talk_s: FloatArray  # exposed messages
    flops: FloatArray  # of matrix kernels
    joules: FloatArray  # dynamic energy of these
    bytes: FloatArray  # of device memory
    link_bytes: FloatArray


def activity(blocks: BlockTimes, held: FloatArray, codes: IntArray, hides: FloatArray) -> Activity:
    """Sum the blocks that all stages hold together, ``held`` of each ``[blocks, plans]``; ``hides``: `two_at_hand`."""
    rows = (
        blocks.matrix_s.sum(axis=0),
        blocks.stream_s.sum(axis=0),
        (blocks.tp_s + blocks.cp_s + blocks.ep_s).sum(axis=0),
        blocks.work.flops,
        blocks.work.joules,
        blocks.work.bytes,
        blocks.link_bytes,
    )
    values = np.take(np.stack(rows), codes, axis=-1)
    sums = over_blocks(held, values)
    if blocks.ep_hidden_s is not None:
        hidden = np.take(blocks.ep_hidden_s.sum(axis=0), codes, axis=-1)
        sums[2] -= hides * (held * hidden).sum(axis=0)
    return Activity(*sums)


def repeated(
    blocks: BlockTimes, weights: FloatArray, stages: Stages, grid: PlanGrid, codes: IntArray
) -> Work | None:
    """Work of one micro-batch on one rank of every stage that recompute does again ``[plans]``; None without it.

    Full recompute repeats the forward pass of the chosen layers, never of embedding and head; ``weights`` are the
    blocks of each stage class ``[blocks, 4, plans]``.
    """
    if grid.recompute == "none":
        return None
    again, n = blocks.forward if grid.recompute == "full" else blocks.selective, blocks.num_layer_kinds
    share = recomputed_share(grid, stages.layers.sum(axis=0))
    held = (weights[:n] * share * stages.number).sum(axis=1)
    values = np.take(np.stack([again.flops, again.joules, again.bytes])[:, :n], codes, axis=-1)
    return Work(*over_blocks(held, values))


def stretch(scenario: Scenario, done: Activity) -> FloatArray:
    """Slow-down of matrix kernels under the chip's power cap, over the mix of all stages ``[plans]``.

    Kernel tables are timed in short runs at the boost clock; a training step holds the load and meets the cap.
    """
    fit, steps = scenario.calibration.kernels.energy, scenario.calibration.steps
    other_s = done.stream_s * steps.in_situ + done.talk_s
    other_j = fit.joules_per_byte * done.bytes + fit.joules_per_link_byte * done.link_bytes
    matrix_j = steps.boost_energy * done.joules
    return power_stretch(scenario.chip, fit, done.matrix_s * steps.in_situ, matrix_j, other_s, other_j)


def energy(
    scenario: Scenario,
    grid: PlanGrid,
    done: Activity,
    again: Work | None,
    m: IntArray,
    total_s: FloatArray,
    slower: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Joules, FLOPs without and with recompute of all chips in one step of ``m`` micro-batches ``[plans]``."""
    flops, joules, moved = done.flops, done.joules, done.bytes
    if again is not None:
        flops, joules, moved = flops + again.flops, joules + again.joules, moved + again.bytes
    dynamic = m * joules * (scenario.calibration.steps.boost_energy * slower ** (1.0 - CLOCK_POWER))
    ranks = grid.chips / grid.pp
    spent = chip_joules(
        scenario.calibration.kernels.energy, total_s * grid.pp, dynamic, m * moved, m * done.link_bytes,
        scenario.chip.tdp,
    )  # fmt: skip
    return spent * ranks, m * done.flops * ranks, m * flops * ranks
