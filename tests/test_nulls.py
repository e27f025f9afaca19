"""The two predictors without physics."""

from __future__ import annotations

import pytest

from ridgeline.calibrate.cases import Case, case_of
from ridgeline.calibrate.nulls import ConstantMfu, NearestNeighbours, achieved_flops, mfu, model_flops
from ridgeline.facts import catalog

LLAMA = {
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 14336,
    "vocab": 128256,
}


def case(name: str, seconds: float, **changes: object) -> Case:
    row = {
        **LLAMA,
        "id": name,
        "source": "a",
        "model": "llama-3.1-8b",
        "attention": "gqa",
        "chip": "h100-sxm",
        "n_chips": 8,
        "precision": "bf16",
        "micro_batch": 1,
        "global_batch": 32,
        "seq": 8192,
        "step_time_s": seconds,
        "split": "fit",
    }
    return case_of({**row, **changes}, "test")


def test_flops_are_six_per_weight_and_half_of_the_attention() -> None:
    weights = 32 * (4096 * 128 * (2 * 32 + 2 * 8) + 3 * 4096 * 14336) + 4096 * 128256
    attention = 32 * 6 * 2 * 32 * 128 * (8192 + 1) / 2
    expected = 32 * 8192 * (6 * weights + attention)
    assert model_flops(case("one", 1.0)) == pytest.approx(expected, rel=1e-9)
    lora = 32 * 8192 * (4 * weights + attention)
    assert model_flops(case("one", 1.0, training_kind="lora")) == pytest.approx(lora, rel=1e-9)


def test_a_window_bounds_the_keys() -> None:
    full = model_flops(case("one", 1.0))
    note = "1 local (window 128) : 1 global"
    windowed = model_flops(case("two", 1.0, attention="swa-mix", arch_note=note))
    assert windowed < full


def test_constant_mfu_is_the_median_of_chip_and_format() -> None:
    runs = [case("a", 10.0), case("b", 5.0), case("c", 4.0), case("d", 1.0, split="test-family")]
    null = ConstantMfu.fit(runs)
    assert null.by_format[("h100-sxm", "bf16")] == pytest.approx(mfu(runs[1]))
    assert null(runs[3]) == pytest.approx(5.0)
    assert null(case("e", 1.0, global_batch=64)) == pytest.approx(10.0)


def test_an_unseen_format_falls_back_to_the_chip() -> None:
    null = ConstantMfu.fit([case("a", 5.0)])
    rates = catalog.chip("h100-sxm").matrix
    seconds = null(case("b", 1.0, precision="fp8"))
    assert seconds == pytest.approx(5.0 * rates["bf16"] / rates["fp8"])


def test_neighbours_stay_within_source_model_chip_and_format() -> None:
    near = [case("a", 5.0), case("b", 5.0, tp=2, dp=4), case("c", 5.0, tp=4, dp=2)]
    other = [case(f"x{i}", 1.0, source="b") for i in range(5)]
    null = NearestNeighbours.fit([*near, *other])
    assert null(case("new", 1.0, split="test-config")) == pytest.approx(5.0)
    assert null(case("new", 1.0, source="b", split="test-config")) == pytest.approx(1.0)


def test_a_run_is_not_its_own_neighbour() -> None:
    null = NearestNeighbours.fit([case("a", 5.0), case("b", 10.0)])
    assert null(case("a", 5.0)) == pytest.approx(10.0)


def test_rough_rows_teach_nothing() -> None:
    null = NearestNeighbours.fit([case("a", 5.0, quality="C")])
    assert null(case("new", 1.0)) is None
    assert achieved_flops(case("a", 5.0)) > 0
