"""Space: every plan of a job on a machine, as grids of one structure each; any degree given is a constraint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ridgeline.facts.architecture import Architecture, Moe
from ridgeline.facts.plan import DEGREES, STRUCTURE, PlanGrid
from ridgeline.facts.scenario import Scenario

#: Structures that are searched unless the user fixes them. Schedules that a framework must bring along (zero-bubble,
#: DualPipe) are searched on request.
SEARCHED: dict[str, tuple[Any, ...]] = {
    "schedule": ("1f1b", "interleaved"),
    "recompute": ("none", "selective", "full"),
    "zero": (1, 3),
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "schedule": ("gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe"),
    "recompute": ("none", "selective", "full"),
    "zero": (0, 1, 2, 3),
}


@dataclass(frozen=True, slots=True)
class Space:
    """Which plans to look at: fields of `Plan` that are fixed, and the values to try of fields that are not."""

    fixed: dict[str, Any] = field(default_factory=dict)
    searched: dict[str, tuple[Any, ...]] = field(default_factory=lambda: dict(SEARCHED))

    def grids(self, scenario: Scenario) -> Iterator[PlanGrid]:
        """One grid per structure; plans are candidates, legality is checked by `ridgeline.graph.laws`."""
        arch, n = scenario.architecture, scenario.num_chips
        products: dict[tuple[tuple[int, ...], ...], dict[str, Any]] = {}  # structures share their degrees
        for structure in self._structures(scenario):
            axes = _axes(arch, scenario, structure["schedule"], structure["recompute"], self.fixed)
            if structure["zero"] == 3 and "pp" not in self.fixed:
                # with a pipeline ZeRO 3 gathers at every micro-batch or keeps whole weights: searched on request
                axes["pp"] = axes["vpp"] = np.array([1])
            key = tuple(tuple(axis.tolist()) for axis in axes.values())
            grid = products.get(key)
            if grid is None:
                grid = products[key] = _product(axes, n, self.fixed)
            if grid["tp"].size:
                yield PlanGrid(**grid, **structure)

    def _structures(self, scenario: Scenario) -> Iterator[dict[str, Any]]:
        base = {name: getattr(scenario.plan, name) for name in STRUCTURE}
        base.update({name: value for name, value in self.fixed.items() if name in STRUCTURE})
        values = {
            name: (self.fixed[name],) if name in self.fixed else self.searched.get(name, (base[name],))
            for name in ("schedule", "recompute", "zero")
        }
        vpp = self.fixed.get("vpp")
        for schedule in values["schedule"]:
            if "schedule" not in self.fixed and vpp is not None and (vpp > 1) != (schedule == "interleaved"):
                continue
            for recompute in values["recompute"]:
                for zero in values["zero"]:
                    if zero == 3 and schedule != "1f1b" and "zero" not in self.fixed:
                        continue
                    yield base | {"schedule": schedule, "recompute": recompute, "zero": zero}


def _axes(
    arch: Architecture, scenario: Scenario, schedule: str, recompute: str, fixed: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Values to combine of every degree but dp; legality is not looked at, but hopeless values are left out."""
    n, job = scenario.num_chips, scenario.job
    domain = min(scenario.cluster.tiers[0].size or n, n)
    experts = max((layer.mlp.experts for layer in arch.layers if isinstance(layer.mlp, Moe)), default=1)
    layers, interleaved = arch.num_layers, schedule == "interleaved"
    axes: dict[str, list[int]] = {
        "tp": _divisors(domain, 64),
        "cp": _powers(min(n, max(job.seq // 2048, 1)), 64),
        "pp": [d for d in _divisors(n, min(layers + 1, 1024)) if d > 1 or not interleaved],
        "vpp": list(range(2, min(layers, 32) + 1)) if interleaved else [1],
        "ep": [d for d in _divisors(experts, 512) if d <= n],
        "etp": [1],
        "micro_batch": _powers(job.batch, 32),
        "replicas": [1],
        "recompute_layers": [-1],
    }
    if recompute == "full":
        axes["recompute_layers"] = [-1, *[k for k in (1, 2, 3, 4, 6, 8, 12, 16, 24) if k < layers]]
    for name in axes:
        if name in fixed:
            axes[name] = [int(fixed[name])]
    return {name: np.array(values, dtype=np.int64) for name, values in axes.items()}


def _product(axes: dict[str, np.ndarray], n: int, fixed: dict[str, Any]) -> dict[str, np.ndarray]:
    """All combinations, with dp filling the machine; those that cannot are left out at once."""
    outer = np.meshgrid(axes["tp"], axes["cp"], axes["pp"], indexing="ij")
    tp, cp, pp = (axis.ravel() for axis in outer)
    ranks = tp * cp * pp
    possible = (ranks <= n) & (n % ranks == 0)
    if "dp" in fixed:
        possible &= ranks * int(fixed["dp"]) == n
    tp, cp, pp = tp[possible], cp[possible], pp[possible]
    names = ("vpp", "ep", "etp", "micro_batch", "replicas", "recompute_layers")
    inner = np.meshgrid(*(axes[name] for name in names), indexing="ij")
    columns = [axis.ravel() for axis in inner]
    many, few = tp.size, columns[0].size
    grid = {name: np.repeat(value, few) for name, value in (("tp", tp), ("cp", cp), ("pp", pp))}
    grid |= {name: np.tile(value, many) for name, value in zip(names, columns, strict=True)}
    grid["dp"] = n // (grid["tp"] * grid["cp"] * grid["pp"])
    return {name: grid[name] for name in DEGREES}


def _divisors(number: int, most: int) -> list[int]:
    """Divisors of ``number`` up to ``most``."""
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _powers(most: int, cap: int) -> list[int]:
    """Powers of two up to the lesser of ``most`` and ``cap``, at most 1,024."""
    return [2**i for i in range(11) if 2**i <= min(most, cap)]
