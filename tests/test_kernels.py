"""Kernel timing: bounds hold, more work takes more time, arrays equal scalars, formats fall back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.facts import catalog
from ridgeline.facts.engine_kernels import engine_kernels
from ridgeline.facts.kernel_calibration import KernelSet
from ridgeline.facts.observation import Label
from ridgeline.timing import attention, expert_layer, gemm, grouped, rates, stream

CHIP = catalog.chip("h100-sxm")
KERNELS = catalog.kernel_calibration("h100-sxm")
GEMM = gemm.gemm_rates(CHIP, KERNELS, ["bf16"])
ATTENTION = attention.attention_rates(CHIP, KERNELS, ["bf16"])
GROUPED = grouped.grouped_rates(CHIP, KERNELS, ["bf16"])
STREAM = stream.stream_rates(CHIP, KERNELS)

#: Between two nodes of a correction the law gives way by some per cent where a kernel changes its tile.
BETWEEN_NODES = 0.9

side = st.integers(32, 65536)
few = st.integers(1, 256)
more = st.floats(1.0, 8.0)


def one(array: np.ndarray) -> float:
    return float(np.asarray(array).reshape(-1)[0])


@given(side, side, side, few, st.integers(0, 3), more)
def test_gemm_is_above_its_bound_and_grows_with_every_side(
    m: int, n: int, k: int, batch: int, axis: int, factor: float
) -> None:
    size = [m, n, k, batch]
    larger = [value * (factor if index == axis else 1.0) for index, value in enumerate(size)]
    seconds = one(gemm.gemm_seconds(*size, GEMM))
    assert seconds >= one(gemm.gemm_bound_seconds(*size, GEMM))
    assert one(gemm.gemm_seconds(*larger, GEMM)) >= seconds * BETWEEN_NODES


def test_accumulating_reads_and_writes_every_value_once() -> None:
    seconds = gemm.accumulation_seconds(
        4096.0, 1024.0, 8.0, value_bytes=4.0, exposed=0.5, bandwidth_bytes_per_s=2e12
    )
    assert one(seconds) == pytest.approx(0.5 * 2 * 4 * 4096 * 1024 * 8 / 2e12)


@given(few, st.integers(1, 128), st.integers(1, 32768), st.integers(0, 2), more, st.booleans())
def test_attention_is_above_its_bound_and_grows(
    batch: int, heads: int, tokens: int, axis: int, factor: float, backward: bool
) -> None:
    def seconds(size: list[float], function: object = attention.attention_seconds) -> float:
        b, h, s = size
        return one(
            function(b, h, h, s, s, 128.0, 128.0, ATTENTION, causal_share=0.5, backward=backward)  # type: ignore[operator]
        )

    size = [float(batch), float(heads), float(tokens)]
    larger = [value * (factor if index == axis else 1.0) for index, value in enumerate(size)]
    assert seconds(size) >= seconds(size, attention.attention_bound_seconds)
    assert seconds(larger) >= seconds(size) * BETWEEN_NODES


@given(st.integers(1, 1 << 20), few, st.integers(128, 16384), st.integers(128, 16384), more)
def test_grouped_is_above_its_bound_and_grows_with_rows(
    rows: int, experts: int, n: int, k: int, factor: float
) -> None:
    seconds = one(grouped.grouped_seconds(rows, experts, n, k, GROUPED))
    assert seconds >= one(grouped.grouped_bound_seconds(rows, experts, n, k, GROUPED))
    assert one(grouped.grouped_seconds(rows * factor, experts, n, k, GROUPED)) >= seconds * BETWEEN_NODES
    assert one(grouped.grouped_seconds(rows, experts, n, k, GROUPED, imbalance=factor)) == pytest.approx(
        one(grouped.grouped_seconds(rows * factor, experts, n, k, GROUPED))
    )


@given(st.floats(0, 1e12), more)
def test_stream_is_above_its_bound_and_grows(moved: float, factor: float) -> None:
    seconds = stream.stream_seconds(moved, STREAM)
    assert seconds >= stream.stream_bound_seconds(moved, STREAM)
    assert stream.stream_seconds(moved * factor, STREAM) >= seconds
    assert stream.stream_seconds(0.0, STREAM, kernels=0.0) == 0.0


def test_an_array_is_its_elements_whether_tiles_are_stacked_or_not() -> None:
    random = np.random.default_rng(1)
    m, n, k = random.integers(1, 20000, (3, 1, 2000)).astype(float)
    whole = gemm.gemm_seconds(m, n, k, 1.0, GEMM)
    assert whole.shape == (1, 2000)
    for index in range(0, 2000, 97):
        alone = gemm.gemm_seconds(m[0, index], n[0, index], k[0, index], 1.0, GEMM)
        assert one(alone) == pytest.approx(whole[0, index], rel=1e-12)


def test_operators_of_different_formats_share_one_call() -> None:
    both = gemm.gemm_rates(CHIP, KERNELS, ["bf16", "fp8"])
    m = np.array([[4096.0, 8192.0], [4096.0, 8192.0]])
    seconds = gemm.gemm_seconds(m, 8192.0, 8192.0, 1.0, both)
    assert seconds.shape == (2, 2)
    for row, name in enumerate(("bf16", "fp8")):
        alone = gemm.gemm_seconds(m[:1], 8192.0, 8192.0, 1.0, gemm.gemm_rates(CHIP, KERNELS, [name]))
        np.testing.assert_allclose(seconds[row], alone[0])
    assert (seconds[1] < seconds[0]).all()


def test_a_missing_format_follows_its_relatives_and_says_so() -> None:
    found = gemm.gemm_rates(CHIP, KERNELS, ["bf16", "fp16", "mxfp8", "nvfp4"])
    assert found.labels == (Label.FITTED, Label.TRANSFERRED, Label.TRANSFERRED, Label.TRANSFERRED)
    assert rates.peak_flops_per_s(CHIP, "mxfp8") == CHIP.matrix["fp8"]
    with pytest.raises(ValueError, match=r"fp9.*choices: bf16"):
        gemm.gemm_rates(CHIP, KERNELS, ["fp9"])


def test_a_chip_without_a_rate_is_an_error() -> None:
    bare = CHIP.model_copy(update={"matrix": {"fp64": 1e12}})
    with pytest.raises(ValueError, match="no matrix rate for 'bf16'"):
        rates.peak_flops_per_s(bare, "bf16")
    with pytest.raises(ValueError, match="no kernel fit"):
        rates.resolve({}, "bf16")  # type: ignore[type-var]


#: At 2048 tokens vLLM's FlashAttention 3 is timed at 436 TFLOP/s with 4 sequences and 428 with 16.
@pytest.mark.parametrize(("tokens", "expected"), [(2048, 432e12), (8192, 570e12), (16384, 600e12)])
def test_h100_attention_rate_by_length(tokens: int, expected: float) -> None:
    shape = (8.0, 32.0, 8.0, tokens, tokens, 128.0, 128.0)
    flops = attention.attention_flops(8.0, 32.0, tokens, tokens, 128.0, 128.0, 0.5)
    assert one(flops / attention.attention_seconds(*shape, ATTENTION, causal_share=0.5)) == pytest.approx(
        expected, rel=0.085
    )
    backward = attention.attention_seconds(*shape, ATTENTION, causal_share=0.5, backward=True)
    forward = attention.attention_seconds(*shape, ATTENTION, causal_share=0.5)
    assert 2.5 < one(backward / forward) < 3.5


@pytest.mark.parametrize(("megabytes", "share"), [(14, 0.45), (30, 0.60), (400, 0.85)])
def test_h100_stream_share_by_size(megabytes: int, share: float) -> None:
    moved = megabytes * 1e6
    achieved = moved / one(stream.stream_seconds(moved, STREAM)) / CHIP.memory.bandwidth
    assert achieved == pytest.approx(share, rel=0.08)


def test_experts_without_rows_are_not_read() -> None:
    assert one(grouped.active_experts(1, 256)) == 1.0
    assert one(grouped.active_experts(1e6, 256)) == pytest.approx(256)
    few_rows = one(grouped.grouped_seconds(8, 256, 4096, 7168, GROUPED))
    assert few_rows < one(grouped.grouped_seconds(4096, 256, 4096, 7168, GROUPED)) / 5


@pytest.mark.parametrize("name", catalog.names("kernels"))
@pytest.mark.parametrize("fmt", ["bf16", "fp8", "mxfp8", "nvfp4"])
def test_more_work_takes_more_time_but_for_tiles(name: str, fmt: str) -> None:
    chip, fits = catalog.chip(name), catalog.kernel_calibration(name)
    if not any(one in chip.matrix for one in (fmt, *rates.operand(fmt).relatives)):
        pytest.skip(f"{name} has no {fmt}")
    random = np.random.default_rng(4)
    m = 2 ** random.uniform(0, 15, 4000)
    n, k = 2 ** random.uniform(5, 16, (2, 4000))
    kernels = gemm.gemm_rates(chip, fits, [fmt])
    before = gemm.gemm_seconds(m, n, k, 1.0, kernels)
    for twice in ((2 * m, n, k), (m, 2 * n, k), (m, n, 2 * k)):
        ratio = gemm.gemm_seconds(*twice, 1.0, kernels) / before
        assert np.quantile(ratio, 0.01) > 0.95
        assert ratio.min() > 0.85


@pytest.mark.parametrize("name", catalog.names("libraries"))
@pytest.mark.parametrize("kind", ["attention", "decode", "latent", "latent_decode"])
@pytest.mark.parametrize("engine", ["", "vllm-2026"])
def test_more_attention_takes_more_time_and_no_edge_jumps(
    name: str, kind: attention.Kind, engine: str
) -> None:
    random = np.random.default_rng(4)
    chip, known = catalog.chip(name), catalog.calibration(name)
    fits: KernelSet = known.kernels
    if engine:
        fits = engine_kernels(known, catalog.served_libraries(name), catalog.engine(engine).libraries)
    one_query, latent = kind in ("decode", "latent_decode"), kind in ("latent", "latent_decode")
    batch, kv = 2 ** random.uniform(0, 9, 4000), 2 ** random.uniform(3, 16, 4000)
    kv_heads = np.ones(4000) if kind == "latent_decode" else 2.0 ** random.integers(0, 5, 4000)
    group = np.ones(4000) if kind == "latent" else 2.0 ** random.integers(0, 5, 4000)
    head, value = {"latent": (192.0, 128.0), "latent_decode": (576.0, 512.0)}.get(kind, (128.0, 128.0))
    rates = attention.attention_rates(chip, fits, ["bf16"], kind=kind)

    def seconds(batch: np.ndarray, kv_heads: np.ndarray, kv: np.ndarray) -> np.ndarray:
        q = 1.0 if one_query else kv
        return attention.attention_seconds(
            batch,
            kv_heads * group,
            kv_heads,
            q,
            kv,
            head,
            value,
            rates,
            causal_share=1.0 if one_query else 0.5,
        )

    before = seconds(batch, kv_heads, kv)
    more = [(2 * batch, kv_heads, kv), (batch, kv_heads, 2 * kv)]
    for size in more if latent else [*more, (batch, 2 * kv_heads, kv)]:
        ratio = seconds(*size) / before
        assert np.quantile(ratio, 0.01) > 0.95
        assert ratio.min() > 0.8
    for edge in (2.0**14, 2.0**17):
        low, high = (seconds(batch, kv_heads, np.full(4000, edge * (1 + sign * 1e-6))) for sign in (-1, 1))
        np.testing.assert_allclose(high / low, 1.0, atol=1e-3)


def test_nothing_jumps_at_the_edge_of_the_fitted_range() -> None:
    for axis, edge in ((0, 2.0**15), (1, 2.0**16), (2, 2.0**16)):
        size = [4096.0, 4096.0, 4096.0]
        for step, most in ((1e-6, 1e-3), (0.01, 0.05)):
            low, high = ([*size[:axis], edge * (1 + sign * step), *size[axis + 1 :]] for sign in (-1, 1))
            assert one(
                gemm.gemm_seconds(*high, 1.0, GEMM) / gemm.gemm_seconds(*low, 1.0, GEMM)
            ) == pytest.approx(1.0, abs=most)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16, 32, 64, 256])
@pytest.mark.parametrize("mean", [1, 4, 16, 256])
def test_the_busiest_rank_is_that_of_random_draws(ranks: int, mean: int) -> None:
    draws = np.random.default_rng(1).multinomial(mean * ranks, np.full(ranks, 1.0 / ranks), 4000)
    drawn = float(draws.max(axis=1).mean()) / mean
    assert float(expert_layer.busiest_share(mean * ranks, ranks)) == pytest.approx(drawn, rel=0.05)


def test_one_rank_has_all_rows_and_few_rows_no_more_than_all_ranks() -> None:
    assert float(expert_layer.busiest_share(100, 1)) == 1.0
    assert np.all(expert_layer.busiest_share(np.array([1e-6, 0.1, 1.0]), 8.0) <= 8.0)
