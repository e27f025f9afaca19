"""Fit the collectives of a chip's links: measured latencies -> `LinkCalibration` files.

    python -m ridgeline.calibrate.links FILES --out DIR

FILES are parquet tables of collectives inside one scale-up domain and CSV tables of shares between nodes (see
`ridgeline.calibrate.link_tables`). Three of ten sizes are held out of each fit and give its errors.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from ridgeline.calibrate.link_tables import Samples, read_shares, read_table
from ridgeline.calibrate.scale_out import scale_out_fits
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip, Cluster, Tier
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.link_calibration import LinkCalibration, LinkFit, Regime
from ridgeline.facts.observation import Label
from ridgeline.timing.collectives import Kind, algorithms
from ridgeline.timing.dispatch import dispatch_traffic
from ridgeline.timing.tariff import Traffic
from ridgeline.timing.topology import FloatArray, place

HELD_OUT = 0.3
REGIMES = 3
FEWEST_ROWS = 12
#: In-network reduction wins only on large buffers; below, its rows are those of rings.
IN_NETWORK_BYTES = 6.4e7


@dataclass(frozen=True, slots=True)
class Moves:
    """What a fit sees of each row under one algorithm, arrays [rows]: steps, bytes sent, bytes copied."""

    steps: FloatArray
    sent: FloatArray
    kept: FloatArray


def moves(samples: Samples, domain: int) -> list[Moves]:
    """Steps and bytes under every algorithm that `ridgeline.timing` tries, inside one ``domain`` of chips."""
    cluster = _bench(domain)
    placement = place(samples.ranks, 1, cluster)
    if samples.topk is not None:
        found = [dispatch_traffic(samples.key, samples.topk, placement)]
    else:
        key = samples.key
        kind: Kind = "all_reduce" if key.startswith("all_reduce") else key  # type: ignore[assignment]
        every = algorithms(kind, placement, cluster, in_network=True, engine=True)
        found = [traffic for traffic in every if traffic.keys[0] == key]
    # One group size cannot tell a step from the launch: the base then holds both.
    several = 1.0 if np.ptp(samples.ranks) > 0 else 0.0
    return [_moves(traffic, samples.size_bytes, several) for traffic in found]


def _moves(traffic: Traffic, size: FloatArray, several: float) -> Moves:
    copied = np.zeros_like(size) if traffic.kept is None else size * traffic.kept[0]
    return Moves(several * traffic.steps[0], size * traffic.sent[0], copied)


def _bench(domain: int) -> Cluster:
    tier = Tier.model_construct(
        name="link", size=domain, bandwidth=1.0, latency=0.0, topology="switch", rail_optimised=False,
        oversubscription=1.0, in_network_reduction=True, lossy=False, torus_axes=None,
    )  # fmt: skip
    return Cluster.model_construct(
        name="bench", title="", chip="", chips_per_node=domain, tiers=(tier,), node_overhead=0.0, source={}
    )


def seconds(parameters: FloatArray, found: Sequence[Moves], bandwidth: float) -> FloatArray:
    """The model of the fit [rows]: lower envelope over algorithms and regimes.

    ``parameters`` are logarithms: copy cost, then base [s], hop [s] and share of each regime.
    """
    return np.asarray(np.min(_each(parameters, found, bandwidth), axis=0))


def _each(parameters: FloatArray, found: Sequence[Moves], bandwidth: float) -> FloatArray:
    values = np.exp(parameters)
    return np.array(
        [
            base + move.steps * hop + (move.sent + values[0] * move.kept) / (share * bandwidth)
            for base, hop, share in values[1:].reshape(-1, 3)
            for move in found
        ]
    )


#: Starts: base [s], hop [s] and share of the low-latency, the mixed and the simple regime.
_STARTS = (
    ((5e-6, 8e-7, 0.15), (8e-6, 1.2e-6, 0.45), (2.5e-5, 2.5e-6, 0.75)),
    ((4e-6, 3e-7, 0.05), (1e-5, 8e-7, 0.3), (4e-5, 4e-6, 0.8)),
    ((8e-6, 1.5e-6, 0.3), (2e-5, 2e-6, 0.6), (6e-5, 2e-6, 0.85)),
)
_LOW = np.log([1e-3] + [2e-7, 1e-9, 0.002] * REGIMES)
_HIGH = np.log([3.0] + [1e-3, 1e-4, 1.2] * REGIMES)


def fit(samples: Samples, bandwidth: float, domain: int, *, seed: int = 0) -> LinkFit:
    """Fit regimes to ``samples`` on a tier of ``bandwidth`` [B/s]; the errors are those of held-out sizes.

    Raises:
        ValueError: fewer than 12 rows.
    """
    if samples.seconds.size < FEWEST_ROWS:
        raise ValueError(f"{samples.key}: {samples.seconds.size} rows are too few, {FEWEST_ROWS} are needed")
    held = held_out(samples, seed)
    parameters = _solve(samples.take(~held), bandwidth, domain, REGIMES)
    error = errors(parameters, samples.take(held), bandwidth, domain)
    return _link_fit(parameters, samples, bandwidth, domain, error, int((~held).sum()))


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
    """Mask [rows] of the held-out (ranks, size) pairs; equal pairs stay together."""
    pairs = np.stack([samples.ranks, samples.size_bytes], axis=1)
    unique, index = np.unique(pairs, axis=0, return_inverse=True)
    chosen = np.random.default_rng(seed).random(len(unique)) < HELD_OUT
    return chosen[index.reshape(-1)]


def _solve(samples: Samples, bandwidth: float, domain: int, regimes: int) -> FloatArray:
    found = moves(samples, domain)
    target = np.log(samples.seconds)
    low, high = _LOW[: 1 + 3 * regimes], _HIGH[: 1 + 3 * regimes]

    def residual(parameters: FloatArray) -> FloatArray:
        return np.asarray(np.log(seconds(parameters, found, bandwidth)) - target)

    best: Any = None
    for start in _STARTS:
        first = np.clip(np.log([0.3, *np.ravel(start[-regimes:])]), low + 1e-6, high - 1e-6)
        result = least_squares(
            residual, first, bounds=(low, high), loss="soft_l1", f_scale=0.08, max_nfev=300
        )
        if best is None or result.cost < best.cost:
            best = result
    return np.asarray(best.x, dtype=np.float64)


def errors(parameters: FloatArray, samples: Samples, bandwidth: float, domain: int) -> FloatArray:
    """Relative errors [rows] of fitted parameters on ``samples``."""
    return np.asarray(np.abs(seconds(parameters, moves(samples, domain), bandwidth) / samples.seconds - 1.0))


def _link_fit(
    parameters: FloatArray, samples: Samples, bandwidth: float, domain: int, error: FloatArray, rows: int
) -> LinkFit:
    found = moves(samples, domain)
    winners = np.argmin(_each(parameters, found, bandwidth), axis=0) // len(found)
    values = np.exp(parameters)
    triples = values[1:].reshape(-1, 3)
    # A regime that never wins on a measured row is a leftover of the search, not a finding.
    used = sorted((triples[i] for i in set(winners.tolist())), key=lambda row: float(row[2]))
    several = np.ptp(samples.ranks) > 0
    return LinkFit(
        regimes=tuple(
            Regime.model_validate(
                {
                    "base": f"{base * 1e6:.4g} us",
                    "hop": f"{hop * 1e6 if several else 0.0:.4g} us",
                    "share": float(f"{share:.4g}"),
                }
            )
            for base, hop, share in used
        ),
        copy_cost=float(f"{values[0]:.3g}") if any(np.any(move.kept > 0) for move in found) else 0.0,
        provenance=Provenance(
            label=Label.FITTED, source=samples.source, rows=rows,
            median_abs_err=round(float(np.median(error)), 4),
            p90_abs_err=round(float(np.quantile(error, 0.9)), 4),
        ),
    )  # fmt: skip


def calibrate(chip: Chip, tables: Sequence[Samples], shares: Sequence[Path]) -> LinkCalibration:
    """Link coefficients of ``chip``: scale-up fitted to its own rows, scale-out from shares between nodes."""
    cluster = catalog.cluster_for(chip.name)
    scale_up: dict[str, LinkFit] = {}
    for samples in tables:
        if samples.seconds.size == 0:
            continue
        if samples.key == "all_reduce_in_network":
            if not cluster.tiers[0].in_network_reduction:
                continue
            scale_up[samples.key] = fit_in_network(samples, chip.scale_up.bandwidth, chip.scale_up.domain)
        else:
            scale_up[samples.key] = fit(samples, chip.scale_up.bandwidth, chip.scale_up.domain)
    outer = cluster.tiers[1] if len(cluster.tiers) > 1 else cluster.tiers[0]
    return LinkCalibration.model_construct(
        chip=chip.name,
        scale_up=scale_up,
        scale_out=scale_out_fits([read_shares(path) for path in shares]),
        scale_up_latency=cluster.tiers[0].latency,
        scale_out_latency=outer.latency,
        lossy_share=0.9,
        cross_rail_share=0.9,
    )


def borrow(own: LinkCalibration, chip: Chip, fitted: dict[str, LinkCalibration]) -> LinkCalibration:
    """``own`` with its relative's in-network reduction where switches have it and few chips were timed."""
    key = "all_reduce_in_network"
    relative = fitted.get(chip.relative or "")
    has_it = catalog.cluster_for(chip.name).tiers[0].in_network_reduction
    if key in own.scale_up or not has_it or relative is None or key not in relative.scale_up:
        return own
    donor = relative.scale_up[key]
    provenance = Provenance(
        label=Label.TRANSFERRED,
        source=f"transferred from {relative.chip}; {donor.provenance.source}",
        rows=donor.provenance.rows,
    )
    lent = donor.model_copy(update={"provenance": provenance})
    return own.model_copy(update={"scale_up": {key: lent, **own.scale_up}})


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
    regimes = []
    for regime in fitted.regimes:
        row: dict[str, Any] = {
            "base": _micros(regime.base),
            "hop": _micros(regime.hop),
            "share": regime.share,
        }
        if regime.relay:
            row["relay"] = _micros(regime.relay)
        regimes.append(row)
    found: dict[str, Any] = {"regimes": regimes}
    if fitted.copy_cost:
        found["copy_cost"] = fitted.copy_cost
    found["provenance"] = fitted.provenance.model_dump(mode="json", exclude_defaults=True)
    return found


def _micros(value: float) -> str:
    return f"{value * 1e6:.4g} us"


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit every chip that the tables and the catalog share; one YAML file each."""
    parser = argparse.ArgumentParser(description="Fit collectives to measured latencies.")
    parser.add_argument("files", nargs="+", type=Path, help="parquet tables and CSV tables of shares")
    parser.add_argument("--out", type=Path, required=True, help="folder of the YAML files")
    options = parser.parse_args(arguments)
    tables: dict[str, list[Samples]] = {}
    for path in (path for path in options.files if path.suffix == ".parquet"):
        for name, samples in read_table(path).items():
            tables.setdefault(name, []).extend(samples)
    shares = [path for path in options.files if path.suffix == ".csv"]
    options.out.mkdir(parents=True, exist_ok=True)
    fitted_chips: dict[str, LinkCalibration] = {}
    for name, samples in tables.items():
        if catalog.entry_path("chips", name) is None:
            print(f"{name}: not in the catalog, skipped", file=sys.stderr)
            continue
        fitted_chips[name] = calibrate(catalog.chip(name), samples, shares)
    for name, own in fitted_chips.items():
        calibration = borrow(own, catalog.chip(name), fitted_chips)
        text = yaml.safe_dump(document(calibration), sort_keys=False, width=108, default_flow_style=None)
        (options.out / f"{name}.yaml").write_text(text)
        for key, fitted in calibration.scale_up.items():
            quality = fitted.provenance
            if quality.median_abs_err is not None and quality.p90_abs_err is not None:
                error = f"median {quality.median_abs_err:.1%}, P90 {quality.p90_abs_err:.1%} held out"
                print(f"{name} {key}: {error}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
