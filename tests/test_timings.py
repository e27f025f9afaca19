"""Timings that others published: what was fitted on them, and what was not, is near them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.mixed_fit import FILE, fit, read
from ridgeline.calibrate.serving.cache_sizes import cache_sizes
from ridgeline.cli.main import main
from ridgeline.facts import catalog
from ridgeline.facts.observation import Label
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Precision, Service, Speculation
from ridgeline.sim.serving.step_time import StepTimes
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.tiled import TIMED, tiled_seconds
from ridgeline.timing.topology import place


def served(chip: str = "rtx-pro-6000", model: str = "llama-3.1-8b", **changes: Any) -> Service:
    return service(model, chip, Layout(), Precision(), "vllm-2026", **changes)


def timed(name: str) -> list[dict[str, str]]:
    with (FILE.parent / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# Decodes beside a prefill


def test_every_timing_says_where_it_is_from() -> None:
    for path in sorted(FILE.parent.glob("*.csv")):
        assert all(row["source"] for row in timed(path.name)), path.name


def test_the_shipped_numbers_are_those_that_the_command_fits() -> None:
    numbers, errors = fit(read(), "rtx-pro-6000")
    assert numbers == pytest.approx(TIMED, rel=0.01)
    by_chip = {(one.chip, one.kv_heads): one for one in errors}
    assert by_chip["rtx-pro-6000", 4].median_abs_err < 0.06
    assert by_chip["rtx-pro-6000", 8].median_abs_err < 0.08
    # a chip that nothing was fitted on, all rows of it
    assert by_chip["rtx-4090", 8].rows == 88
    assert by_chip["rtx-4090", 8].median_abs_err < 0.2


def test_more_requests_and_more_keys_never_take_less() -> None:
    rates = StepTimes(served()).prefill_rates
    sizes = np.unique(np.rint(2.0 ** np.arange(0, 14, 0.25)))
    for kv_heads in (1.0, 8.0, 32.0):
        took = tiled_seconds(sizes[:, None], 32.0, kv_heads, sizes[None, :], 128.0, 128.0, rates, 128e6)
        assert np.all(np.diff(took, axis=0) >= 0.0)
        assert np.all(np.diff(took, axis=1) > 0.0)


def test_a_larger_cache_never_takes_longer() -> None:
    rates = StepTimes(served()).prefill_rates
    caches = np.array([1e6, 32e6, 128e6, 1e9])
    took = tiled_seconds(128.0, 32.0, 8.0, 4096.0, 128.0, 128.0, rates, caches)
    assert np.all(np.diff(took) < 0.0)


@pytest.mark.parametrize(
    ("chip", "engine", "expected"),
    [
        ("rtx-pro-6000", "vllm-2026", True),
        ("a100-80gb-sxm", "vllm-2026", True),
        ("h100-sxm", "vllm-2026", False),  # FlashAttention 3 packs heads in any step
        ("b200-sxm", "vllm-2026", False),  # FlashInfer has a kernel for decodes
        ("rtx-pro-6000", "trtllm-2026", False),
    ],
)
def test_which_engines_run_decodes_in_a_prefills_kernel(chip: str, engine: str, expected: bool) -> None:
    found = service("llama-3.1-8b", chip, Layout(), Precision(), engine)
    assert StepTimes(found).unpacked is expected


def test_a_narrow_cache_has_another_kernel() -> None:
    narrow = Precision(
        kv="fp8"
    )  # FlashAttention 2 reads none: vLLM takes FlashInfer, with a kernel for decodes
    assert not StepTimes(service("llama-3.1-8b", "rtx-pro-6000", Layout(), narrow, "vllm-2026")).unpacked


def test_verifying_drafts_packs_nothing_either() -> None:
    drafts = Speculation(method="draft", acceptance=(0.8, 0.6))
    plain, drafted = StepTimes(served()), StepTimes(served(speculation=drafts))
    batch, keys = np.array([64.0]), np.array([1024.0])
    assert drafted.decode_seconds(batch, keys, np.inf) == plain.mixed_seconds(batch, keys, np.inf)
    assert drafted.decode_seconds(batch, keys, np.inf) > plain.decode_seconds(batch, keys, np.inf)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chip,requests\nrtx-4090,1\n", "missing columns num_heads, num_key_value_heads"),
        ("chip,num_heads,num_key_value_heads,head_dim,requests,kv_tokens,latency_us\n", "holds no row"),
        (
            "chip,num_heads,num_key_value_heads,head_dim,requests,kv_tokens,latency_us\nrtx-4090,32\n",
            "line 2, column num_key_value_heads: empty",
        ),
        (
            "chip,num_heads,num_key_value_heads,head_dim,requests,kv_tokens,latency_us\n,32,8,128,1,16,9\n",
            "line 2, column chip: empty",
        ),
        (
            "chip,num_heads,num_key_value_heads,head_dim,requests,kv_tokens,latency_us\nrtx-4090,32,8,128,-1,16,9\n",
            "line 2, column requests: '-1': expected a number above zero",
        ),
    ],
)
def test_bad_timings_give_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "timings.csv"
    file.write_text(text)
    with pytest.raises(CaseError, match=message):
        read(file)
    assert main(["calibrate", "mixed", str(file)]) == 2
    printed = capsys.readouterr().err
    assert str(file) in printed
    assert "Traceback" not in printed


def test_calibrate_mixed_prints_what_it_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "mixed", "--chip", "rtx-pro-6000", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["numbers"]["rate"] == pytest.approx(TIMED.rate, rel=0.01)
    assert {one["chip"] for one in printed["unseen"]} == {"rtx-4090", "rtx-pro-6000"}
    assert main(["calibrate", "mixed", "--chip", "h100-sxm"]) == 2
    assert "there are rtx-4090, rtx-pro-6000" in capsys.readouterr().err


# Products, decodes and experts


def test_a_chips_own_timings_go_before_those_of_its_relative() -> None:
    kernels = served("rtx-4090").kernels
    assert kernels.decode["bf16"].provenance.label is Label.FITTED
    assert kernels.gemm["bf16"].provenance.label is Label.FITTED
    assert kernels.gemm["fp8"].provenance.label is Label.TRANSFERRED


def test_products_and_decodes_of_the_rtx_4090() -> None:
    times = StepTimes(served("rtx-4090"))
    off = []
    for row in timed("attention_decode.csv"):
        batch, keys = np.array([float(row["batch_size"])]), np.array([float(row["step"]) + 1.0])
        took = float(times.decode_seconds(batch, keys, np.inf)[0]) / 32
        off.append(took / (float(row["latency"]) * 1e-3) - 1.0)
    assert np.median(np.abs(off)) < 0.08


def test_calibrate_kernels_reads_short_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = FILE.parent / "moe.csv"
    out = tmp_path / "out"
    assert main(["calibrate", "kernels", str(table), "--chip", "rtx-pro-6000", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    name = "vllm/vllm_unquantizedfusedmoe_triton_tritonexperts"
    assert name in printed
    written = (out / "libraries" / "rtx-pro-6000.yaml").read_text(encoding="utf-8")
    assert written == (catalog.BUILT_IN / "calibrations/libraries/rtx-pro-6000.yaml").read_text(
        encoding="utf-8"
    )


# Links and memory


def test_collectives_through_the_host() -> None:
    cluster = catalog.cluster("pcie-rtx-pro-6000-acs")
    links = catalog.calibration("rtx-pro-6000").links
    off = []
    for row in timed("collective.csv"):
        size = float(row["bytes"]) * (
            1.0 if row["op_name"] == "all_reduce" else 2.0
        )  # a rank's share, of two
        took = collective_seconds(row["op_name"], size, place(2, 1, cluster), cluster, links)  # type: ignore[arg-type]
        off.append(float(np.ravel(took)[0]) / (float(row["latency_us"]) * 1e-6) - 1.0)
    assert len(off) == 33
    assert np.mean(np.abs(off)) < 0.12
    assert abs(np.mean(off)) < 0.05


def test_without_peer_access_engines_leave_the_all_reduce_to_nccl() -> None:
    here = service("llama-3.1-8b", "pcie-rtx-pro-6000-acs", Layout(tp=2), Precision(), "vllm-2026")
    nccl = here.replace(engine=here.engine.model_copy(update={"all_reduce": "nccl"}))
    rows = np.array([1.0, 128.0, 2048.0])
    took = StepTimes(here).message_seconds(rows, "token")
    assert np.array_equal(took, StepTimes(nccl).message_seconds(rows, "token"))
    direct = service("llama-3.1-8b", "pcie-rtx-pro-6000", Layout(tp=2), Precision(), "vllm-2026")
    assert np.all(took > StepTimes(direct).message_seconds(rows, "token"))


def test_the_cache_is_as_large_as_vllm_says() -> None:
    """One log informs the engine's numbers; those of other chips, models and versions test them."""
    found = cache_sizes()
    assert {row.informs for row in found} == {True, False}
    for row in found:
        assert abs(row.rel_err) < 0.06, row
