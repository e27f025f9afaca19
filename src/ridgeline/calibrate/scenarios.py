"""Scenarios of a case: everything a predictor needs, from one row of measured runs."""

from __future__ import annotations

import re

from ridgeline.calibrate import remarks
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.layouts import describe, plans_of
from ridgeline.calibrate.shapes import NotPredictable, architecture_of
from ridgeline.calibrate.software import month_of, recipe_of, stack_for
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.workload import TrainingJob

__all__ = ["LEEWAY", "NotPredictable", "open_fields", "scenario_of", "scenarios_of"]

#: A run that was measured did fit in memory. A candidate for it may be judged over the capacity by as much as the
#: memory model errs in the median of measured peaks.
LEEWAY = 1.02

# (chip, network as a regular expression, cluster): networks that the chip's default cluster does not have.
_CLUSTERS = (
    ("a100-80gb-sxm", "4x200G|omni-path", "hgx-a100-4x200g"),
    ("a100-80gb-sxm", "roce", "hgx-a100-roce"),
    ("a100-80gb-sxm", "200G", "dgx-a100"),
    ("a100-40gb-sxm", "roce", "hgx-a100-40gb-roce"),
    ("h100-sxm", "roce", "hgx-h100-roce"),
    ("h200-sxm", "roce", "hgx-h200-roce"),
    ("b200-sxm", "roce", "hgx-b200-roce"),
    ("b300-sxm", "roce", "hgx-b300-roce"),
)


def scenario_of(case: Case) -> Scenario:
    """The most likely scenario of ``case``; NotPredictable with the reason where there is none."""
    return scenarios_of(case)[0]


def scenarios_of(case: Case) -> list[Scenario]:
    """Every plausible scenario of ``case``, the most likely first; one where the row states everything.

    Raises:
        NotPredictable: chip, recipe, network or attention is unknown, or the degrees do not fit the batch.
    """
    if catalog.entry_path("chips", case.chip) is None:
        raise NotPredictable(f"unknown chip '{case.chip}': add it with `ridgeline catalog new chip`")
    try:
        return _scenarios(case)
    except catalog.CatalogError as error:
        raise NotPredictable(" ".join(str(error).split())) from error


def open_fields(case: Case) -> str:
    """What the row leaves open and which values are tried, in one line; empty where it states everything."""
    chip = catalog.chip(case.chip)
    architecture = architecture_of(case)
    stack = stack_for(case.framework, month_of(case), chip.vendor)
    return describe(*plans_of(case, stack, architecture.num_layers))


def _scenarios(case: Case) -> list[Scenario]:
    chip = catalog.chip(case.chip)
    mtp = remarks.prediction_depths(case)
    architecture = architecture_of(case, mtp)
    stack = stack_for(case.framework, month_of(case), chip.vendor)
    plans, _ = plans_of(case, stack, architecture.num_layers)
    first = Scenario(
        architecture=architecture,
        chip=chip,
        cluster=cluster_of(case, chip),
        num_chips=case.num_chips,
        job=TrainingJob(batch=case.batch, seq=case.seq, kind=case.kind, mtp=mtp),
        plan=plans[0],
        stack=stack,
        recipe=recipe_of(case, chip, stack),
        calibration=catalog.calibration(case.chip),
    )
    return [first, *(first.replace(plan=plan) for plan in plans[1:])]


def cluster_of(case: Case, chip: Chip) -> Cluster:
    """The cluster of a chip and network, with a stated NIC rate or RoCE laid over its outer tier."""
    name = chip.cluster or chip.name
    for chips, network, cluster in _CLUSTERS:
        if chips == chip.name and re.search(network, case.network, re.IGNORECASE):
            name = cluster
            break
    found = catalog.cluster_for(name)
    outer = found.tiers[-1]
    changes: dict[str, object] = {}
    rate = _nic_bytes_per_s(case, found)
    if rate is not None and rate < 0.95 * outer.bandwidth:
        changes["bandwidth"] = rate
    if "roce" in case.network.lower() and len(found.tiers) > 1 and not outer.lossy:
        changes |= {"lossy": True, "in_network_reduction": False}
    if not changes:
        return found
    return found.model_copy(update={"tiers": (*found.tiers[:-1], outer.model_copy(update=changes))})


def _nic_bytes_per_s(case: Case, cluster: Cluster) -> float | None:
    """Network rate of one chip [byte/s] from ``8x200G`` or ``Compute: 8x ConnectX-7 IB NDR 400Gb/s``."""
    text = re.sub(r"^.*compute:", "", case.network, flags=re.IGNORECASE)
    found = re.match(r"\s*(\d+) ?x ?(?:ConnectX-\d \w+ \w+ |MT\d+ BlueField-3 )?(\d{3}) ?G", text)
    if found is None or cluster.tiers[-1].size is not None:
        return None
    per_node = case.chips_per_node or cluster.chips_per_node
    return int(found[1]) * int(found[2]) * 1e9 / 8 / per_node
