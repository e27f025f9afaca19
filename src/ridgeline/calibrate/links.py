"""Fit the collectives of a chip's links: measured latencies -> `LinkCalibration` files.

Tables of collectives inside one scale-up domain and of shares between nodes: see `ridgeline.calibrate.link_tables`.
Three of ten sizes are held out of each fit and give its errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from ridgeline.calibrate import engine_links, expert_links
from ridgeline.calibrate.engine_links import Switches
from ridgeline.calibrate.envelope import REGIMES, Moved, bench, detour, moved, seconds, solve, used_regimes
from ridgeline.calibrate.link_tables import Samples, Shares
from ridgeline.calibrate.scale_out import scale_out_fits
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import ENGINES, CoreFit, LinkCalibration, LinkFit, Regime
from ridgeline.facts.observation import Label
from ridgeline.timing.collectives import Kind, algorithms
from ridgeline.timing.dispatch import dispatch_traffic
from ridgeline.timing.topology import FloatArray, place

HELD_OUT = 0.3
FEWEST_ROWS = 12
#: In-network reduction wins only on large buffers; below, its rows are those of rings.
IN_NETWORK_BYTES = 6.4e7


def moves(samples: Samples, domain: int) -> list[Moved]:
    """Steps and bytes under every algorithm that `ridgeline.timing` tries, inside one ``domain`` of chips."""
    cluster = bench(domain)
    placement = place(samples.ranks, 1, cluster)
    key = samples.key
    kind: Kind = "all_reduce" if key.startswith("all_reduce") else key  # type: ignore[assignment]
    engine = key.removeprefix("all_reduce_")
    every = algorithms(kind, placement, cluster, in_network=True, engine=engine if engine in ENGINES else "")
    return [moved(traffic, samples.ranks, samples.size_bytes) for traffic in every if traffic.keys[0] == key]


def fit(
    samples: Samples,
    bandwidth: float,
    domain: int,
    *,
    bridged: bool = False,
    seed: int = 0,
    switches: Switches | None = None,
    in_network: bool = False,
) -> LinkFit:
    """Fit regimes to ``samples`` on a tier of ``bandwidth`` [B/s]; the errors are those of held-out sizes.

    ``bridged``: chips are joined over their host (PCIe), so large groups may pay a detour. ``switches``: sizes at
    which an engine changes its kernel; ``in_network``: whether the switches of the domain add.

    Raises:
        ValueError: fewer than 12 rows.
    """
    if samples.seconds.size < FEWEST_ROWS:
        raise ValueError(f"{samples.key}: {samples.seconds.size} rows are too few, {FEWEST_ROWS} are needed")
    held = held_out(samples, seed)
    known, unseen = samples.take(~held), samples.take(held)
    if samples.routing is not None:
        parameters = expert_links.solve(known, bandwidth, _copies(known, domain))
        time = expert_links.seconds(parameters, unseen, bandwidth, _copies(unseen, domain))
        return expert_links.link_fit(
            parameters, samples, np.abs(time / unseen.seconds - 1.0), int((~held).sum())
        )
    own = (
        engine_links.fit(known, switches, bandwidth, domain, bridged=bridged, in_network=in_network)
        if switches
        else None
    )
    if own is not None:
        error = np.abs(engine_links.seconds(own, unseen, bandwidth, domain) / unseen.seconds - 1.0)
        return own.model_copy(update={"provenance": _provenance(samples, error, int((~held).sum()))})
    parameters = _solve(known, bandwidth, domain, REGIMES, bridged)
    error = errors(parameters, unseen, bandwidth, domain)
    return _link_fit(parameters, samples, bandwidth, domain, error, int((~held).sum()))


def _copies(samples: Samples, domain: int) -> FloatArray:
    """Copies of a token that leave its rank [rows]."""
    assert samples.routing is not None
    placement = place(samples.ranks, 1, bench(domain))
    return np.asarray(dispatch_traffic(samples.key, samples.routing.topk, placement).sent[0])


def fit_in_network(samples: Samples, bandwidth: float, domain: int) -> LinkFit:
    """One regime of in-network reduction from the few large rows there are; errors by leaving one row out.

    Raises:
        ValueError: fewer than three rows above `IN_NETWORK_BYTES`.
    """
    large = samples.take(samples.size_bytes > IN_NETWORK_BYTES)
    count = large.seconds.size
    if count < 3:
        raise ValueError(f"{samples.key}: {count} rows above {IN_NETWORK_BYTES:.0f} B, 3 are needed")
    error = np.array(
        [
            errors(
                _solve(large.take(np.arange(count) != i), bandwidth, domain, 1),
                large.take([i]),
                bandwidth,
                domain,
            )[0]
            for i in range(count)
        ]
    )
    return _link_fit(_solve(large, bandwidth, domain, 1), large, bandwidth, domain, error, count)


def held_out(samples: Samples, seed: int) -> Any:
    """Mask [rows] of the held-out shapes; equal ones stay together."""
    unique, index = np.unique(samples.shapes(), axis=0, return_inverse=True)
    chosen = np.random.default_rng(seed).random(len(unique)) < HELD_OUT
    return chosen[index.reshape(-1)]


def errors(parameters: FloatArray, samples: Samples, bandwidth: float, domain: int) -> FloatArray:
    """Relative errors [rows] of fitted parameters on ``samples``."""
    return np.asarray(np.abs(seconds(parameters, moves(samples, domain), bandwidth) / samples.seconds - 1.0))


def _solve(
    samples: Samples, bandwidth: float, domain: int, regimes: int, bridged: bool = False
) -> FloatArray:
    return solve(moves(samples, domain), samples.seconds, bandwidth, regimes, bridged=bridged)[0]


def _link_fit(
    parameters: FloatArray, samples: Samples, bandwidth: float, domain: int, error: FloatArray, rows: int
) -> LinkFit:
    found = moves(samples, domain)
    copies = any(np.any(move.kept > 0) for move in found)
    return LinkFit(
        regimes=used_regimes(parameters, found, bandwidth, hops=bool(np.ptp(samples.ranks) > 0)),
        copy_cost=float(f"{np.exp(parameters[0]):.3g}") if copies else 0.0,
        detour=detour(parameters),
        provenance=_provenance(samples, error, rows),
    )


def _provenance(samples: Samples, error: FloatArray, rows: int) -> Provenance:
    return Provenance(
        label=Label.FITTED, source=samples.source, rows=rows,
        median_abs_err=round(float(np.median(error)), 4),
        p90_abs_err=round(float(np.quantile(error, 0.9)), 4),
    )  # fmt: skip


def calibrate(chip: Chip, tables: Sequence[Samples], shares: Sequence[Shares]) -> LinkCalibration:
    """Link coefficients of ``chip``: scale-up fitted to its own rows, scale-out from shares between nodes.

    What no table speaks of keeps the coefficients of the catalog, or of a relative there.
    """
    cluster = catalog.cluster_for(chip.name)
    known = _known(chip)
    scale_up: dict[str, LinkFit] = {}
    for samples in tables:
        if samples.seconds.size == 0:
            continue
        if samples.key == "all_reduce_in_network":
            if not cluster.tiers[0].in_network_reduction:
                continue
            scale_up[samples.key] = fit_in_network(samples, chip.scale_up.bandwidth, chip.scale_up.domain)
        else:
            scale_up[samples.key] = fit(
                samples, chip.scale_up.bandwidth, chip.scale_up.domain, bridged=_bridged(chip),
                switches=engine_links.switches(samples.key.removeprefix("all_reduce_"), chip.name),
                in_network=cluster.tiers[0].in_network_reduction,
            )  # fmt: skip
    outer = cluster.tiers[1] if len(cluster.tiers) > 1 else cluster.tiers[0]
    scale_out = scale_out_fits(shares)
    return LinkCalibration.model_construct(
        chip=chip.name,
        scale_up=scale_up | {key: one for key, one in known.scale_up.items() if key not in scale_up}
        if known
        else scale_up,
        scale_out=(known.scale_out | {table.key: scale_out[table.key] for table in shares})
        if known
        else scale_out,
        scale_up_latency=cluster.tiers[0].latency,
        scale_out_latency=outer.latency,
        lossy_share=0.9,
        cross_rail_share=0.9,
    )


def _known(chip: Chip) -> LinkCalibration | None:
    try:
        return catalog.calibration(chip.name).links
    except catalog.CatalogError:
        return None


def fit_each(tables: Mapping[str, Sequence[Samples]], shares: Sequence[Shares]) -> Iterator[LinkCalibration]:
    """One calibration per chip of ``tables``, as each is done."""
    for name, samples in tables.items():
        yield calibrate(catalog.chip(name), samples, shares)


def borrow(own: LinkCalibration, chip: Chip, fitted: dict[str, LinkCalibration]) -> LinkCalibration:
    """``own`` with its relative's in-network reduction where switches have it and few chips were timed."""
    key = "all_reduce_in_network"
    relative = fitted.get(chip.relative or "")
    has_it = catalog.cluster_for(chip.name).tiers[0].in_network_reduction
    fitted_here = key in own.scale_up and own.scale_up[key].provenance.label == Label.FITTED
    if fitted_here or not has_it or relative is None or key not in relative.scale_up:
        return own
    lent = _lent(relative.scale_up[key], relative.chip)
    return own.model_copy(update={"scale_up": {**own.scale_up, key: lent}})


def derived(fitted: Mapping[str, LinkCalibration]) -> dict[str, LinkCalibration]:
    """Chips on PCIe of which no collective was timed: their host's bridges are those of the one that was."""
    donor = next((own for name, own in fitted.items() if _bridged(catalog.chip(name))), None)
    if donor is None:
        return {}
    found = {}
    for name in catalog.readable("chips"):
        if name in fitted or catalog.entry_path("links", name) is None or not _bridged(catalog.chip(name)):
            continue
        shipped = catalog.link_calibration(name)
        lent = {key: _lent(one, f"{donor.chip}, also on PCIe") for key, one in donor.scale_up.items()}
        found[name] = shipped.model_copy(update={"scale_up": lent, "scale_out": donor.scale_out})
    return found


def _lent(donor: LinkFit, whose: str) -> LinkFit:
    """A fit on another chip: errors were measured on the donor and say nothing here."""
    source = f"transferred from {whose}; {donor.provenance.source}"
    kept = Provenance(label=Label.TRANSFERRED, source=source, rows=donor.provenance.rows)
    return donor.model_copy(update={"provenance": kept})


def _bridged(chip: Chip) -> bool:
    return chip.scale_up.link.startswith("PCIe")


def text(calibration: LinkCalibration) -> str:
    """The calibration as its YAML file has it."""
    return yaml.safe_dump(document(calibration), sort_keys=False, width=108, default_flow_style=None)


def document(calibration: LinkCalibration) -> dict[str, Any]:
    """The calibration as its YAML file has it: quantities as text with a unit."""
    return {
        "chip": calibration.chip,
        "scale_up_latency": _micros(calibration.scale_up_latency),
        "scale_out_latency": _micros(calibration.scale_out_latency),
        "lossy_share": calibration.lossy_share,
        "cross_rail_share": calibration.cross_rail_share,
        "scale_up": {key: _fit_document(fitted) for key, fitted in calibration.scale_up.items()},
        "scale_out": {key: _fit_document(fitted) for key, fitted in calibration.scale_out.items()},
    }


def _fit_document(fitted: LinkFit) -> dict[str, Any]:
    found: dict[str, Any] = {"regimes": _regime_documents(fitted.regimes)}
    if fitted.kernels:
        found["rest"] = fitted.rest
        found["kernels"] = [
            {
                "moves": kernel.moves,
                "below": {ranks: f"{size:.0f} B" for ranks, size in kernel.below.items()},
                "regimes": _regime_documents(kernel.regimes),
            }
            for kernel in fitted.kernels
        ]
    if fitted.copy_cost:
        found["copy_cost"] = fitted.copy_cost
    if fitted.detour:
        found["detour"] = fitted.detour
    if fitted.cores is not None:
        found["cores"] = _core_document(fitted.cores)
    found["provenance"] = fitted.provenance.model_dump(mode="json", exclude_defaults=True)
    return found


def _regime_documents(fitted: Sequence[Regime]) -> list[dict[str, Any]]:
    regimes = []
    for regime in fitted:
        row: dict[str, Any] = {
            "base": _micros(regime.base),
            "hop": _micros(regime.hop),
            "share": regime.share,
        }
        if regime.relay:
            row["relay"] = _micros(regime.relay)
        regimes.append(row)
    return regimes


def _core_document(cores: CoreFit) -> dict[str, str]:
    times = {name: getattr(cores, name) for name in ("token", "message", "signal")}
    rates = {name: getattr(cores, name) for name in ("read", "send", "first")}
    return {name: _micros(value) for name, value in times.items() if value} | {
        name: f"{value / 1e9:.4g} GB/s" for name, value in rates.items() if value is not None
    }


def _micros(value: float) -> str:
    return f"{value * 1e6:.4g} us"
