"""Training and serving ask the same of the same model: FLOPs of weight products and parameters, on every model.

A third witness counts neither operators nor ranks: `facts.parameters`, from the shape alone.
"""

from __future__ import annotations

import pytest

from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.parameters import matmul_parameters_per_token, total_parameters
from ridgeline.facts.serving import Layout, Precision
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.build import build
from ridgeline.graph.ops import Block, Gemm
from ridgeline.graph.serving.blocks import step_blocks
from ridgeline.graph.serving.memory import format_bytes, weight_bytes
from ridgeline.graph.serving.ops import Experts, Part, Product

MODELS = catalog.names("models")
SEQ = 4096
#: What the two lowerings may differ by: biases, norms and vectors of gates that one of them leaves out.
FLOPS, WEIGHTS = 1e-3, 2e-3
#: Products without a weight of their own: scores within a chunk of linear attention.
_SCORES = ("chunk",)


def trained_flops(arch: Architecture) -> float:
    """Forward FLOPs of one token in products with weights, as a training step has them."""
    model = build(
        arch,
        TrainingJob(batch=1, seq=SEQ),
        catalog.stack("megatron-core-plain"),
        catalog.recipe("bf16"),
    )

    def weighted(block: Block) -> float:
        return sum(float(op.flops) for op in block.ops if isinstance(op, Gemm) and op.weight)

    layers = sum(
        layer.count * weighted(block) for layer, block in zip(arch.layers, model.layers, strict=True)
    )
    return (layers + weighted(model.head)) / SEQ


def served_flops(arch: Architecture) -> float:
    """The same, of a token of a prompt whose answer begins, as a serving step has them."""

    def flops(part: Part) -> float:
        if isinstance(part, Product) and part.where != "decode" and part.name not in _SCORES:
            return 2.0 * part.n * part.k * part.copies
        if isinstance(part, Experts):
            return 2.0 * part.topk * (part.arms + 1.0) * part.hidden * part.inner
        return 0.0

    return sum(
        block.count * sum(map(flops, block.parts)) for block in step_blocks(arch, Layout(), Precision())
    )


@pytest.mark.parametrize("name", MODELS)
def test_products_with_weights_are_the_same_work(name: str) -> None:
    arch = catalog.architecture(name)
    trained, served = trained_flops(arch), served_flops(arch)
    assert served == pytest.approx(trained, rel=FLOPS)
    assert trained == pytest.approx(2.0 * matmul_parameters_per_token(arch), rel=FLOPS)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_the_same_parameters(name: str) -> None:
    arch = catalog.architecture(name)
    model = build(
        arch, TrainingJob(batch=1, seq=SEQ), catalog.stack("megatron-core-plain"), catalog.recipe("bf16")
    )
    trained = sum(
        layer.count * float(block.weights.total)
        for layer, block in zip(arch.layers, model.layers, strict=True)
    )
    trained += float(model.embedding.weights.total) + (0.0 if arch.tied else float(model.head.weights.total))
    served = weight_bytes(arch, Layout(), Precision()) / format_bytes("bf16")
    known = total_parameters(arch)
    assert trained == pytest.approx(known, rel=WEIGHTS)
    assert served == pytest.approx(known, rel=WEIGHTS)
