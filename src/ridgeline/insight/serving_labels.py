"""Labels of a serving prediction: how far each part of a step can be trusted."""

from __future__ import annotations

from ridgeline.facts.architecture import Attention, LatentAttention, Moe
from ridgeline.facts.observation import Label
from ridgeline.facts.serving import Service
from ridgeline.sim.serving.operator_times import multiplied
from ridgeline.timing.attention import fit_of
from ridgeline.timing.rates import resolve, worst


def labels_of(service: Service) -> dict[str, str]:
    """Label of products, attention, experts, memory-bound operators, collectives and the engine's own time."""
    kernels, links, precision = service.kernels, service.calibration.links, service.precision
    layers, layout = service.architecture.layers, service.layout
    labels: dict[str, Label] = {
        "linear layers": resolve(kernels.gemm, multiplied(precision.linear))[1],
        "memory-bound operators": service.calibration.kernels.stream.provenance.label,
    }
    if any(isinstance(layer.mixer, Attention) for layer in layers):
        labels["attention"] = worst(
            fit_of(kernels, "decode", "bf16", "bf16")[1], fit_of(kernels, "attention", "bf16", "bf16")[1]
        )
    if any(isinstance(layer.mixer, LatentAttention) for layer in layers):
        labels["latent attention"] = worst(
            fit_of(kernels, "latent_decode", "bf16", "bf16")[1], fit_of(kernels, "latent", "bf16", "bf16")[1]
        )
    if any(isinstance(layer.mlp, Moe) for layer in layers):
        labels["experts"] = resolve(kernels.grouped, multiplied(precision.of_experts))[1]
    if service.adapters.count:
        labels["adapters"] = Label.BOUND
    if layout.chips > 1:
        labels["collectives inside a domain"] = worst(
            *(fit.provenance.label for fit in links.scale_up.values())
        )
        domain = service.cluster.tiers[0].size
        if domain is not None and layout.chips > domain:
            labels["collectives across domains"] = worst(
                *(fit.provenance.label for fit in links.scale_out.values())
            )
    # an engine's host time is read from its code and from other chips' runs, unless rows inform it
    labels["engine host"] = Label.FITTED if service.engine.rows else Label.TRANSFERRED
    return {part: str(label) for part, label in labels.items()}
