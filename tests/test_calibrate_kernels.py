"""Calibration of kernels: fits recover known numbers, shipped files are plausible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ridgeline.calibrate import correction, kernel_errors, kernels, tables
from ridgeline.calibrate.energy import energy_fit, sustained_flops_per_s
from ridgeline.calibrate.gemm_fit import fit_gemm, gemm_rates_of, gemm_rows_seconds
from ridgeline.calibrate.grouped_fit import fit_grouped
from ridgeline.calibrate.kernel_errors import shipped
from ridgeline.calibrate.measured import from_measured, measured_chips
from ridgeline.calibrate.routing import busiest
from ridgeline.calibrate.tables import CHIPS
from ridgeline.calibrate.write import calibration_yaml
from ridgeline.facts import catalog, document
from ridgeline.facts.kernel_calibration import KernelCalibration, KernelSet
from ridgeline.facts.observation import Label
from ridgeline.facts.surface import Surface, surface
from ridgeline.timing.gemm import formula_seconds
from ridgeline.timing.surface import knots

DATA = Path(__file__).parents[2] / "shared" / "data" / "kernels"
H100 = catalog.chip("h100-sxm")


def gemm_table(chip: str = "h100_sxm") -> dict[str, np.ndarray]:
    """Rows made by the formula itself with the shipped H100 numbers and 2 % noise."""
    random = np.random.default_rng(3)
    sides = 2 ** random.integers(7, 15, (3, 1500))
    rates = gemm_rates_of(catalog.kernel_calibration("h100-sxm").gemm["bf16"], H100, "bf16")
    seconds = formula_seconds(*sides, 1.0, rates) * np.exp(random.normal(0, 0.02, 1500))
    return {"m": sides[0], "n": sides[1], "k": sides[2], "seconds": seconds}


def test_a_fit_recovers_the_numbers_that_made_its_rows() -> None:
    fit = fit_gemm(gemm_table(), H100, "bf16", "made up")
    known = catalog.kernel_calibration("h100-sxm").gemm["bf16"]
    assert fit.provenance.median_abs_err is not None
    assert fit.provenance.median_abs_err < 0.02
    assert sustained_flops_per_s(H100, fit, "bf16") == pytest.approx(
        sustained_flops_per_s(H100, known.model_copy(update={"surface": None}), "bf16"), rel=0.03
    )
    assert fit.memory == pytest.approx(known.memory, rel=0.02)


def test_quantisation_in_the_rows_stays_out_of_the_fit() -> None:
    rows = gemm_table()
    quantise = 8e-6 + 2.0 * 4.0 * rows["m"] * rows["k"] / H100.memory.bandwidth
    fit = fit_gemm({**rows, "seconds": rows["seconds"] + quantise}, H100, "bf16", "made up", quantises=True)
    known = catalog.kernel_calibration("h100-sxm").gemm["bf16"]
    assert sustained_flops_per_s(H100, fit, "bf16") == pytest.approx(
        sustained_flops_per_s(H100, known, "bf16"), rel=0.03
    )


def test_the_split_is_by_shape_and_the_same_every_time() -> None:
    rows = gemm_table()
    twice = {name: np.concatenate([values, values]) for name, values in rows.items()}
    mask = tables.held_out(twice, ("m", "n", "k"))
    np.testing.assert_array_equal(mask[:1500], mask[1500:])
    assert 0.2 < mask.mean() < 0.4
    assert tables.thin(~mask, 100).sum() == 100


def test_suspect_rows_and_rare_libraries_are_never_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "LEAST_ROWS", 2)
    table = {
        "chip": np.array(["h100_sxm"] * 6),
        "gemm_dtype": np.array(["bfloat16"] * 5 + ["int4_wo"]),
        "framework": np.array(["a"] * 4 + ["rare"] * 2),
        "kernel_source": np.array(["k"] * 6),
        "version": np.array(["1"] * 6),
        "timing_mode": np.array(["device", "suspect", "device", "graph", "device", "device"]),
        "latency": np.array([2.0, 3.0, 0.0, 4.0, 5.0, 6.0]),
    }
    found = list(tables.groups(table, "h100_sxm", ("gemm_dtype",)))
    assert [(one.library, one.formats) for one in found] == [("a/k", ("bf16",))]
    np.testing.assert_allclose(found[0].rows["seconds"], [2e-3, 4e-3])


def test_tables_of_unknown_chips_are_named() -> None:
    with pytest.raises(ValueError, match="they have my_chip"):
        list(kernels.fit_each({"gemm": {"chip": np.array(["my_chip"])}}))


def test_a_surface_follows_what_the_formula_misses_and_keeps_the_law() -> None:
    grid = knots((0, 4, 8), (0, 4, 8))
    random = np.random.default_rng(2)
    a, b = random.uniform(0, 8, (2, 4000))
    # the formula does not grow below 16; the rows fall there, which no work should make them do
    missed = 0.1 + 0.02 * b - 0.05 * np.minimum(a, 4.0)

    def formula(sizes: tuple[np.ndarray, ...]) -> np.ndarray:
        return np.maximum(sizes[0], 16.0)

    free = correction.fit_surface(grid, correction.weights(grid, [a, b]), missed, formula, rising=(1,))
    np.testing.assert_allclose(free[:, 0], [0.1, -0.1, -0.1], atol=0.01)
    held = correction.fit_surface(grid, correction.weights(grid, [a, b]), missed, formula)
    assert (np.diff(held, axis=0)[0] >= -0.01).all()


def test_a_surface_is_written_and_read_to_half_a_level() -> None:
    nodes = np.random.default_rng(1).uniform(-0.3, 0.2, (3, 4, 5))
    written = surface(nodes, 0.01)
    assert written.shape == nodes.shape
    np.testing.assert_allclose(written.nodes, nodes.ravel(), atol=0.00501)
    assert Surface.model_validate(written.model_dump()).packed == written.packed
    wide = surface(8.0 * nodes, 0.01)  # more levels than a byte has: coarser ones
    assert wide.step > 0.01
    np.testing.assert_allclose(wide.nodes, 8.0 * nodes.ravel(), atol=0.501 * wide.step)
    with pytest.raises(ValueError, match="60 packed levels; shape"):
        Surface(step=0.01, shape=(3, 4, 6), packed=written.packed).nodes  # noqa: B018
    with pytest.raises(ValueError, match="cannot be read"):
        Surface(step=0.01, shape=(3, 4, 5), packed="~~~ no levels").nodes  # noqa: B018
    with pytest.raises(ValueError, match="needs a shape and packed levels"):
        Surface(step=0.01, shape=(), packed="")


def test_few_tokens_all_go_to_experts() -> None:
    for tokens in (1.0, 2.0, 4.0):
        rows, active = busiest(np.array([tokens]), np.array([8]), np.array([128]), np.array([1]), 1.2)
        assert rows[0] == pytest.approx(8 * tokens, abs=0.01)
        assert 1 <= active[0] <= 8 * tokens


def test_the_busiest_rank_has_more_than_its_share() -> None:
    one = np.array([1024.0])
    for exponent in (1.01, 1.2):
        rows, active = busiest(one, np.array([8]), np.array([128]), np.array([8]), exponent)
        assert 1024 < rows[0] < 1024 * 8
        assert 1 <= active[0] <= 16
    rows, active = busiest(one, np.array([8]), np.array([128]), np.array([1]), 1.2)
    assert rows[0] == pytest.approx(8 * 1024, rel=0.01), "one rank has everything"


@pytest.mark.parametrize("name", catalog.names("kernels"))
def test_shipped_files_are_within_physics(name: str) -> None:
    chip, found = catalog.chip(name), catalog.kernel_calibration(name)
    for format_name, fit in found.gemm.items():
        assert fit.rate <= 1.0
        sustained = sustained_flops_per_s(chip, fit, format_name)
        assert 0.3 * chip.matrix["bf16"] < sustained
        assert fit.provenance.source
        if fit.provenance.label is Label.FITTED:
            assert fit.provenance.median_abs_err is not None
            assert fit.provenance.median_abs_err < 0.16
    for attention in found.attention.values():
        assert 0.2 < attention.rate <= 1.0
    for grouped in found.grouped.values():
        assert 0.2 < grouped.rate <= 1.0


@pytest.mark.parametrize("name", catalog.names("kernels"))
def test_a_large_product_draws_the_power_limit(name: str) -> None:
    chip, found = catalog.chip(name), catalog.kernel_calibration(name)
    rate = sustained_flops_per_s(chip, found.gemm["bf16"], "bf16")
    energy = found.energy
    power = energy.static + energy.joules_per_flop["bf16"] * rate
    power += energy.joules_per_byte * 0.25 * chip.memory.bandwidth
    assert power == pytest.approx(chip.tdp, rel=0.02)


@pytest.mark.parametrize("name", [name for name in CHIPS.values() if catalog.chip(name).products])
def test_fits_agree_with_measured_products(name: str) -> None:
    chip, fit = catalog.chip(name), catalog.kernel_calibration(name).gemm["bf16"]
    assert sustained_flops_per_s(chip, fit, "bf16") == pytest.approx(chip.products["bf16"], rel=0.13)


def test_chips_with_one_measured_rate_meet_it() -> None:
    measured = measured_chips(CHIPS.values())
    assert {chip.relative for chip in measured} & {chip.name for chip in measured}
    for chip in measured:
        found = catalog.kernel_calibration(chip.name)
        for format_name, rate in chip.products.items():
            assert sustained_flops_per_s(chip, found.gemm[format_name], format_name) == pytest.approx(
                rate, rel=0.01
            )
            assert found.gemm[format_name].provenance.label is Label.TRANSFERRED


def test_a_measured_rate_above_the_data_sheet_is_refused() -> None:
    donor = catalog.kernel_calibration("h100-sxm")
    chip = catalog.chip("mi300x")
    with pytest.raises(ValueError, match="not within the data sheet"):
        from_measured(donor, H100, chip, {"bf16": 9e15}, "made up")
    with pytest.raises(ValueError, match="bf16 rate must be"):
        from_measured(donor, H100, chip, {"fp8": 1e15}, "made up")


def test_energy_knows_every_rate_of_the_data_sheet() -> None:
    found = energy_fit(H100, catalog.kernel_calibration("h100-sxm").gemm)
    assert {"bf16", "fp16", "fp8", "tf32"} <= set(found.joules_per_flop)
    assert found.joules_per_flop["fp8"] < found.joules_per_flop["bf16"]


def test_yaml_reads_back(tmp_path: Path) -> None:
    found = catalog.kernel_calibration("b200-sxm")
    path = tmp_path / "b200-sxm.yaml"
    path.write_text(calibration_yaml(found), encoding="utf-8")
    again = KernelCalibration.model_validate(document.read(path))
    assert again.gemm["bf16"].launch == pytest.approx(found.gemm["bf16"].launch, rel=1e-3)
    assert again.attention.keys() == found.attention.keys()
    assert again.energy.static == pytest.approx(found.energy.static, rel=1e-3)


@pytest.mark.skipif(not DATA.is_dir(), reason="kernel tables are not beside the project")
def test_held_out_rows_of_the_h100_table() -> None:
    pytest.importorskip("pyarrow")
    table = tables.read(DATA / "gemm.parquet")
    fit = catalog.kernel_calibration("h100-sxm").gemm["bf16"]
    groups = tables.groups(table, "h100_sxm", ("gemm_dtype",))
    rows = next(g.rows for g in groups if (g.library, g.formats) == (fit.provenance.library, ("bf16",)))
    unseen = tables.select(rows, tables.held_out(rows, ("m", "n", "k")))
    error = np.abs(gemm_rows_seconds(fit, unseen, H100, "bf16") / unseen["seconds"] - 1)
    assert np.median(error) < 0.03
    assert np.quantile(error, 0.9) < 0.12


@pytest.mark.parametrize("name", catalog.names("libraries"))
def test_the_kernels_of_a_chip_take_a_hundred_kilobytes_at_most(name: str) -> None:
    paths = [catalog.entry_path(kind, name) for kind in ("kernels", "libraries")]
    assert sum(path.stat().st_size for path in paths if path is not None) <= 100 * 1024


#: Median over the fits of one operator of their median errors on held-out shapes, and of fits that keep their target.
REACHED = {
    "gemm": (0.045, 0.92), "attention_prefill": (0.041, 0.54), "attention_decode": (0.032, 0.72),
    "mla_prefill": (0.034, 0.78), "mla_decode": (0.024, 0.94), "moe": (0.055, 0.52), "moe_skewed": (0.055, 0.7),
}  # fmt: skip


@pytest.mark.parametrize("op", REACHED)
def test_fits_are_as_good_as_the_accuracy_page_says(op: str) -> None:
    fits = [one for chip in catalog.names("libraries") for one in shipped(chip) if one.op == op]
    errors = [error for one in fits if (error := one.provenance.median_abs_err) is not None]
    middle, kept = REACHED[op]
    assert np.median(errors) <= middle
    assert sum(not one.misses for one in fits) >= kept * len(fits)


def test_a_fit_of_skewed_rows_alone_claims_no_balanced_error() -> None:
    random = np.random.default_rng(7)
    count = 400
    chosen = {"num_tokens": [64, 256, 1024, 4096], "moe_ep_size": [1, 2, 4], "topk": [2, 8]}
    rows: dict[str, np.ndarray] = {name: random.choice(values, count) for name, values in chosen.items()}
    rows |= {"hidden_size": np.full(count, 4096), "inter_size": random.choice([1024, 2048], count)}
    rows |= {"num_experts": np.full(count, 64), "moe_tp_size": np.ones(count, dtype=int)}
    rows["seconds"] = 1e-5 + 1e-8 * rows["num_tokens"] * rows["topk"] / rows["moe_ep_size"]
    own = catalog.kernel_calibration("h100-sxm")
    fit = fit_grouped({"power_law_1.2": rows}, H100, "bf16", own.gemm, own.stream, "made up", "mine/kernel")
    assert fit.surface is None
    assert fit.skewed_provenance is not None
    assert fit.provenance.median_abs_err == fit.skewed_provenance.median_abs_err
    assert fit.provenance.median_abs_err > 0
    one = KernelSet(grouped={"bf16": fit})
    assert [held.op for held in kernel_errors.held("h100-sxm", one, {})] == ["moe_skewed"]
