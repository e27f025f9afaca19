"""Rows of the busiest rank where routing follows a power law, as the makers of expert tables draw it."""

from __future__ import annotations

import numpy as np

from ridgeline.timing.rates import Array

#: Draws that are averaged, always the same.
DRAWS, SEED = 16, 0
#: Experts of a sample when there are more routed rows than experts, over the most tokens one can get.
MOST_SHARE = 0.8
#: Bounds of the sample when rows are few.
FEW = (0.01, 2.0)


def busiest(tokens: Array, topk: Array, experts: Array, ranks: Array, exponent: float) -> tuple[Array, Array]:
    """Rows and active experts of the busiest of ``ranks`` ``[rows]``, mean over draws.

    Loads of experts are drawn from a density ~ x^-exponent between one row and 0.8 of the tokens, scaled to the
    routed rows (``power_law_logits`` of ai-dynamo/aiconfigurator, Apache-2.0); each rank holds neighbours.
    """
    keys = np.stack([tokens, topk, experts, ranks], axis=1).astype(np.float64)
    unique, index = np.unique(keys, axis=0, return_inverse=True)
    found = np.array([_busiest(int(t), int(k), int(e), int(r), exponent) for t, k, e, r in unique])
    rows, active = found[index.reshape(-1)].T
    return np.maximum(rows, 1.0), np.maximum(active, 1.0)


def _busiest(tokens: int, topk: int, experts: int, ranks: int, exponent: float) -> tuple[float, float]:
    low, high = (1.0, tokens * MOST_SHARE) if tokens * topk > experts else FEW
    power = 1.0 - exponent
    uniform = np.random.default_rng(SEED).random((DRAWS, experts))
    drawn = ((max(high, low) ** power - low**power) * uniform + low**power) ** (1.0 / power)
    loads = np.minimum(np.rint(drawn / drawn.sum(axis=1, keepdims=True) * tokens * topk), tokens)
    _complete(loads, drawn, tokens * topk, tokens)
    groups = loads.reshape(DRAWS, ranks, experts // ranks)
    first = groups[np.arange(DRAWS), groups.sum(axis=2).argmax(axis=1)]
    return float(first.sum(axis=1).mean()), float((first > 0).sum(axis=1).mean())


def _complete(loads: Array, drawn: Array, wanted: float, most: float) -> None:
    """Give each draw all of its ``wanted`` rows: what rounding lost goes, one each, to the most loaded experts.

    Of a few tokens every load rounds to nothing, though each token goes to its experts.
    """
    order = np.argsort(-drawn, axis=1, kind="stable")
    for load, experts in zip(loads, order, strict=True):
        while (missing := int(wanted - load.sum())) > 0:
            free = experts[load[experts] < most][:missing]
            if not len(free):
                break
            load[free] += 1.0
