"""Parameters on one chip of each pipeline stage, and over how many chips the data axes shard them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ridgeline.facts.plan import IntArray, Plan, PlanGrid
from ridgeline.graph.block_sums import over_blocks
from ridgeline.graph.model import Model
from ridgeline.graph.ops import Block, FloatArray, Size
from ridgeline.graph.parallel.pp import Stages
from ridgeline.graph.shape import Shape


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters on one chip: dense ones are sharded over the data axis, experts over what is left of it."""

    dense: FloatArray  # [4, plans]
    expert: FloatArray
    trained: FloatArray  # share of the dense ones that has gradients
    trained_expert: FloatArray
    largest_layer: FloatArray  # [plans], dense and expert parameters of the largest layer, before sharding
    ends: FloatArray  # [4, plans], of ``dense``: embedding and head
    dense_shards: FloatArray  # [plans]
    expert_shards: FloatArray


def parameters(
    model: Model, shape: Shape, codes: IntArray, stages: Stages, plan: Plan | PlanGrid, tied: bool
) -> Parameters:
    """Parameters per chip of each stage class; ``model`` is sharded for ``shape``."""
    count = shape.tp.size

    def per_plan(values: list[Size]) -> FloatArray:
        """Sizes of several blocks, floats or ``[shapes]``, as ``[blocks, plans]``."""
        table = np.empty((len(values), count))
        for row, value in enumerate(values):
            table[row] = value
        return table[:, codes]

    blocks: list[Block] = list(model.layers)
    held = stages.layers
    if model.mtp:  # one prediction depth: its own block and one more layer of the last kind
        blocks.append(model.mtp)
        last = held[-1] + stages.head
        held = np.concatenate([held[:-1], last[None], stages.head[None]])
    dense = per_plan([block.weights.dense for block in blocks])
    expert = per_plan([block.weights.expert for block in blocks])
    table, head = per_plan([model.embedding.weights.dense, model.head.weights.dense])
    ends = stages.embedding * table + stages.head * head
    if tied:  # the last of several stages keeps a copy of the embedding
        ends = ends + stages.head * (1.0 - stages.embedding) * table
    shares = np.array([block.weights.trained for block in blocks])[:, None]
    layers, n_expert, learned = over_blocks(held, np.stack([dense, expert, dense * shares]))
    n_dense = layers + ends
    learned = learned + ends * model.head.weights.trained
    # low-rank training leaves routed experts frozen
    experts_learn = 1.0 if model.head.weights.trained else 0.0
    ones = np.ones_like(n_dense)
    shards = np.asarray(plan.dp * plan.cp / plan.replicas, dtype=np.float64)
    spread = np.asarray(plan.tp * plan.cp * plan.dp / (plan.ep * plan.etp * plan.replicas), dtype=np.float64)
    return Parameters(
        dense=n_dense,
        expert=n_expert,
        trained=learned / np.maximum(n_dense, 1.0),
        trained_expert=experts_learn * ones,
        largest_layer=(dense + expert)[: len(model.layers)].max(axis=0),
        ends=ends,
        dense_shards=np.maximum(shards, 1.0) * ones[0],
        expert_shards=np.maximum(spread, 1.0) * ones[0],
    )
