"""Labels: how far each part of a prediction can be trusted."""

from __future__ import annotations

from ridgeline.facts.architecture import Moe
from ridgeline.facts.observation import Label
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.insight.extent import beyond_tables
from ridgeline.sim.step import Step
from ridgeline.timing.rates import resolve, worst

#: Share of a part's kernel time at sizes that no table reaches, above which its rates count as transferred.
MOSTLY = 0.5


def labels_of(scenario: Scenario, result: Step) -> dict[str, str]:
    """Label of kernels, memory-bound operators, collectives and energy of a scenario with one plan.

    ``result`` is its step: kernels that run mostly at sizes beyond the fitted range are labelled transferred, even
    where others of their format were timed on this chip.
    """
    kernels, links = scenario.calibration.kernels, scenario.calibration.links
    recipe, plan = scenario.recipe, scenario.plan
    assert isinstance(plan, Plan)
    linear = worst(resolve(kernels.gemm, recipe.linear)[1], resolve(kernels.gemm, recipe.linear_backward)[1])
    labels = {"linear layers": linear, "memory-bound operators": kernels.stream.provenance.label}
    if scenario.stack.attention == "flash":
        # the backward pass of attention has no measured table: its share is taken from papers
        labels["attention"] = worst(resolve(kernels.attention, recipe.attention)[1], Label.TRANSFERRED)
    if any(isinstance(layer.mlp, Moe) for layer in scenario.architecture.layers):
        labels["experts"] = worst(resolve(kernels.grouped, recipe.linear)[1], Label.BOUND)
    for part, share in beyond_tables(scenario, result).items():
        if part in labels and share > MOSTLY:
            labels[part] = worst(labels[part], Label.TRANSFERRED)
    if plan.chips > 1:
        inside = [fit.provenance.label for fit in links.scale_up.values()]
        labels["collectives inside a domain"] = worst(*inside)
        domain = scenario.cluster.tiers[0].size
        if domain is not None and plan.chips > domain:
            labels["collectives across domains"] = worst(
                *(fit.provenance.label for fit in links.scale_out.values())
            )
    labels["energy"] = kernels.energy.provenance.label
    return {part: str(label) for part, label in labels.items()}
