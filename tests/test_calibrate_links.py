"""Fits of collectives: recover known coefficients, hold the accuracy of the shipped files on the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ridgeline.calibrate import link_tables, links
from ridgeline.calibrate.scale_out import fit_shares
from ridgeline.facts import catalog
from ridgeline.timing.collectives import Kind, collective_seconds
from ridgeline.timing.topology import place

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no measurements at {DATA}")
TABLE = DATA / "kernels" / "collective.parquet"


def test_known_coefficients_come_back() -> None:
    sizes = np.tile(2.0 ** np.arange(8, 31), 3)
    ranks = np.repeat([2.0, 4.0, 8.0], 23)
    sent = sizes * (1 - 1 / ranks)
    steps = ranks - 1
    time = np.minimum(5e-6 + steps * 1e-6 + sent / 90e9, 2e-5 + steps * 2e-6 + sent / 360e9)
    fitted = links.fit(link_tables.Samples("all_gather", ranks, sizes, time, "made"), 450e9, 8)
    assert fitted.regimes[-1].share == pytest.approx(0.8, rel=0.03)
    assert fitted.provenance.median_abs_err is not None
    assert fitted.provenance.median_abs_err < 0.01


def test_too_few_rows() -> None:
    few = np.array([2.0, 4.0, 8.0])
    with pytest.raises(ValueError, match="12 are needed"):
        links.fit(link_tables.Samples("all_gather", few, few, few, "made"), 450e9, 8)


def test_held_out_keeps_equal_pairs_together() -> None:
    ranks, sizes = np.repeat([2.0, 8.0], 40), np.tile(np.repeat(np.arange(20.0), 2), 2)
    samples = link_tables.Samples("all_gather", ranks, sizes, ranks, "made")
    held = links.held_out(samples, 0).reshape(-1, 2)
    assert np.all(held[:, 0] == held[:, 1])
    assert 0.1 < held.mean() < 0.5


@needs_data
@pytest.mark.parametrize("name", sorted(set(link_tables.CHIPS.values())))
def test_shipped_files_reproduce_the_tables(name: str) -> None:
    """The whole path from placement to seconds, all rows: median 8 %, P90 25 % (PCIe: 15 %, 45 %)."""
    cluster, calibration = catalog.cluster_for(name), catalog.link_calibration(name)
    errors = []
    for samples in link_tables.read_table(TABLE)[name]:
        kind: Kind = "all_reduce" if samples.key.startswith("all_reduce") else samples.key  # type: ignore[assignment]
        in_network = samples.key.endswith("in_network")
        placed = place(samples.ranks, 1, cluster)
        time = collective_seconds(
            kind, samples.size_bytes, placed, cluster, calibration, in_network=in_network
        )
        errors.append(np.abs(time / samples.seconds - 1.0))
    error = np.concatenate(errors)
    pcie = name.startswith("rtx")
    assert np.median(error) < (0.15 if pcie else 0.08)
    assert np.quantile(error, 0.9) < (0.45 if pcie else 0.25)


@needs_data
def test_held_out_errors_of_shipped_files() -> None:
    for name in set(link_tables.CHIPS.values()) - {"rtx-pro-6000"}:
        for key, fitted in catalog.link_calibration(name).scale_up.items():
            if fitted.provenance.label == "fitted" and key in ("all_reduce", "all_gather", "reduce_scatter"):
                assert (fitted.provenance.median_abs_err or 0.0) <= 0.085, (name, key)
                assert (fitted.provenance.p90_abs_err or 0.0) <= 0.25, (name, key)


@needs_data
@pytest.mark.parametrize("name", ["nic_ratio.csv", "ata_ratio.csv"])
def test_shares_fall_with_nodes_as_ring_steps_explain(name: str) -> None:
    table = link_tables.read_shares(DATA / "network" / name)
    fitted = fit_shares(table)
    assert (fitted.provenance.median_abs_err or 1.0) < 0.06
    assert (fitted.provenance.p90_abs_err or 1.0) < 0.2


@needs_data
def test_shares_through_the_whole_path() -> None:
    table = link_tables.read_shares(DATA / "network" / "nic_ratio.csv")
    cluster, calibration = catalog.cluster_for("h100-sxm"), catalog.link_calibration("h100-sxm")
    n = table.nodes * table.ranks_per_node
    placed = place(n, np.where(table.ranks_per_node > 1, 1, 8), cluster)
    time = collective_seconds("all_gather", table.size_bytes, placed, cluster, calibration)
    share = table.size_bytes * (1 - 1 / n) / (time * table.ranks_per_node * 50e9)
    error = np.abs(share / table.share - 1.0)
    assert np.median(error) < 0.08
    assert np.quantile(error, 0.9) < 0.25


@needs_data
@pytest.mark.parametrize("name", ["allgather", "allreduce", "alltoall", "reducescatter"])
def test_log_of_another_machine(name: str) -> None:
    """8x A100 40GB, fitted nowhere: buffers that fill the links, where the launch no longer counts."""
    samples = link_tables.read_log(DATA / "logs" / f"nccl_{name}.log")
    assert float(samples.ranks[0]) == 8.0
    large = samples.take(samples.size_bytes >= 1.3e8)
    cluster, calibration = catalog.cluster_for("a100-80gb-sxm"), catalog.link_calibration("a100-80gb-sxm")
    time = collective_seconds(
        large.key, large.size_bytes, place(8, 1, cluster), cluster, calibration  # type: ignore[arg-type]
    )  # fmt: skip
    assert np.all(np.abs(time / large.seconds - 1.0) < 0.25)


@needs_data
def test_command_writes_files_the_catalog_accepts(tmp_path: Path) -> None:
    out = tmp_path / "calibrations" / "links"
    assert links.main([str(TABLE), str(DATA / "network" / "nic_ratio.csv"), "--out", str(out)]) == 0
    assert {path.stem for path in out.iterdir()} == set(link_tables.CHIPS.values())
    assert catalog.check(out / "h100-sxm.yaml", "links") == []
