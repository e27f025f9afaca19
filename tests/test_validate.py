"""Reading measured runs, turning them into scenarios, and the arithmetic of the scoreboard."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ridgeline.calibrate import checks, layouts, scores, shapes, software
from ridgeline.calibrate import scoreboard as boards
from ridgeline.calibrate.cases import Case, CaseError, case_of, read_cases
from ridgeline.calibrate.scenarios import NotPredictable, scenarios_of
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Attention, LatentAttention, Moe
from ridgeline.facts.scenario import Scenario

ROW = {
    "id": "one",
    "framework": "Megatron-LM",
    "date_or_version": "2024-07",
    "model": "llama-3.1-8b",
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "kv_heads": 8,
    "head_dim": 128,
    "ffn": 14336,
    "vocab": 128256,
    "attention": "gqa",
    "chip": "h100-sxm",
    "n_chips": 16,
    "precision": "bf16",
    "tp": 2,
    "pp": 2,
    "vpp": 1,
    "dp": 4,
    "micro_batch": 1,
    "global_batch": 32,
    "seq": 8192,
    "recompute": "none",
    "step_time_s": 2.0,
}
MLA = "MLA q_lora 1536, kv_lora 512, qk 128 nope + 64 rope, v 128; first 3 layers dense with ffn 18432"


def case(**changes: Any) -> Case:
    return case_of({**ROW, **changes}, "test")


def write(path: Path, rows: list[dict[str, Any]], drop: tuple[str, ...] = ()) -> Path:
    names = [name for name in rows[0] if name not in drop]
    lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


# Reading


def test_reads_a_row_and_derives_the_rate(tmp_path: Path) -> None:
    (one,) = read_cases(write(tmp_path / "runs.csv", [{**ROW, "unknown_column": "ignored"}]))
    assert (one.num_chips, one.data_parallel, one.tokens) == (16, 4, 32 * 8192)
    assert one.tokens_per_s_per_chip == pytest.approx(32 * 8192 / 2.0 / 16)
    assert one.peak_memory_bytes is None


def test_step_time_follows_from_the_rate(tmp_path: Path) -> None:
    row = {**ROW, "tokens_per_s_per_chip": 8192.0}
    (one,) = read_cases(write(tmp_path / "runs.csv", [row], drop=("step_time_s",)))
    assert one.step_time_s == pytest.approx(2.0)


def test_few_columns_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("model,chip,n_chips,global_batch,seq,step_time_s\nllama-3.1-8b,h100-sxm,8,8,4096,1.5\n")
    (one,) = read_cases(path)
    assert (one.tp, one.pp, one.data_parallel, one.quality, one.id) == (1, 1, 8, "A", "line-2")
    assert shapes.architecture_of(one).num_layers == 32


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("step_time_s", "-1", "above zero"),
        ("step_time_s", "nan", "finite"),
        ("step_time_s", "fast", "a number"),
        ("step_time_s", "", "needed"),
        ("n_chips", "", "needed"),
        ("n_chips", "0", "1 or more"),
        ("seq", "4096.5", "whole number"),
        ("zero_stage", "4", "0, 1, 2 or 3"),
        ("dp", "3", "product of"),
        ("training_kind", "rlhf", "pretrain, sft, lora"),
        ("sequence_parallel", "maybe", "true or false"),
    ],
)
def test_errors_name_file_line_column_and_value(
    tmp_path: Path, column: str, value: str, message: str
) -> None:
    row = {"training_kind": "pretrain", "sequence_parallel": "true", "zero_stage": "1", **ROW, column: value}
    path = write(tmp_path / "bad.csv", [row])
    with pytest.raises(CaseError, match="line 2") as error:
        read_cases(path)
    text = str(error.value)
    assert str(path) in text
    assert message in text
    assert (column if column != "dp" else "n_chips") in text


def test_missing_columns_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"line 1: missing columns chip, step_time_s"):
        read_cases(write(tmp_path / "bad.csv", [ROW], drop=("chip", "step_time_s")))
    with pytest.raises(CaseError, match=r"no such file"):
        read_cases(tmp_path / "none.csv")
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(CaseError, match="empty file"):
        read_cases(tmp_path / "empty.csv")


# Shapes


def test_gpt_has_biases_and_positions_and_mpt_has_no_biases() -> None:
    gpt = shapes.architecture_of(
        case(gated="false", arch_note="GPT-style: GELU, learned positions, biases", kv_heads=32)
    )
    mpt = shapes.architecture_of(
        case(gated="false", arch_note="MPT: GELU, no biases, learned positions", kv_heads=32)
    )
    for one, biased in ((gpt, True), (mpt, False)):
        mixer = one.layers[0].mixer
        assert isinstance(mixer, Attention)
        assert (one.norm, one.positions, mixer.qkv_bias) == ("layer", 8192, biased)


def test_latent_attention_and_leading_dense_layers_come_from_the_note() -> None:
    one = shapes.architecture_of(
        case(
            attention="mla",
            arch_note=MLA,
            layers=61,
            moe_layers=58,
            experts=256,
            topk=8,
            shared_experts=1,
            ffn=2048,
        )
    )
    leading, experts = one.layers
    assert (leading.count, experts.count) == (3, 58)
    assert leading.mlp is not None
    assert leading.mlp.ffn == 18432
    assert isinstance(experts.mlp, Moe)
    assert experts.mlp.shared_ffn == 2048
    assert isinstance(experts.mixer, LatentAttention)
    assert (experts.mixer.q_lora, experts.mixer.kv_lora, experts.mixer.v_dim) == (1536, 512, 128)


@pytest.mark.parametrize(
    ("note", "layers", "window", "local"),
    [
        ("5 local (window 1024) : 1 global", 48, 1024, 40),
        ("alternating sliding window 128 and full attention, attention sinks", 36, 128, 18),
    ],
)
def test_windows_are_spread_over_the_depth(note: str, layers: int, window: int, local: int) -> None:
    one = shapes.architecture_of(case(attention="swa-mix", arch_note=note, layers=layers))
    assert one.order == "interleaved"
    assert one.layers[0].count == local
    assert isinstance(one.layers[0].mixer, Attention)
    assert one.layers[0].mixer.window == window
    assert one.num_layers == layers


def test_what_cannot_be_expressed_says_so() -> None:
    with pytest.raises(NotPredictable, match="compressed attention"):
        shapes.architecture_of(case(attention="hybrid", arch_note="compressed sparse attention"))
    with pytest.raises(NotPredictable, match="not in the catalog"):
        shapes.architecture_of(replace(case(), layers=None, model="no-such-model"))
    with pytest.raises(NotPredictable, match="unknown chip 'mtt-s4000'"):
        scenarios_of(case(chip="mtt-s4000"))


# Software


@pytest.mark.parametrize(
    ("framework", "month", "vendor", "expected"),
    [
        ("Megatron-LM", "2021-06", "nvidia", "megatron-lm-2021"),
        ("Megatron-LM", "2022-06", "NVIDIA", "megatron-lm-2022"),
        ("Megatron-LM", "2024-07", "NVIDIA", "megatron-lm-2024"),
        ("Megatron-LM", None, "NVIDIA", "megatron-core-plain"),
        ("Megatron-DeepSpeed", "2024-06", "NVIDIA", "megatron-deepspeed-2021"),
        ("Megatron-DeepSpeed (Habana)", "2023-11", "Intel", "gaudi-2023"),
        ("DeepSpeed ZeRO-3", "2021-06", "NVIDIA", "deepspeed-zero3-2021"),
        ("HF Trainer + PEFT + DeepSpeed ZeRO-3", "2024-06", "NVIDIA", "hf-deepspeed-2024"),
        ("NeMo / Megatron-Core", "2023-11", "NVIDIA", "nemo-2023"),
        ("NeMo / Megatron-Core", "2024-06", "NVIDIA", "nemo-2024"),
        ("NeMo / Megatron-Core", "2024-11", "NVIDIA", "nemo-2024-11"),
        ("NeMo / Megatron-Core", "2025-06", "NVIDIA", "nemo-2025"),
        ("NeMo / Megatron-Core", "2025-11", "NVIDIA", "nemo-2025-11"),
        ("NeMo / Megatron-Core", "2025-06", "AMD", "amd-nemo-2025"),
        ("Megatron-Bridge (NeMo)", "2025-09", "NVIDIA", "nemo-2025"),
        ("Megatron-Bridge (NeMo)", "2025-11", "NVIDIA", "megatron-bridge-2025-11"),
        ("Megatron-Bridge (NeMo)", "2026-04", "NVIDIA", "megatron-bridge-2026"),
        ("Megatron-Bridge (NeMo)", "2026-06", "NVIDIA", "megatron-bridge-2026-06"),
        ("torchtitan (torch.compile)", "2024-12", "NVIDIA", "torchtitan-compile-2024"),
        ("torchtitan (torch.compile)", "2025-06", "NVIDIA", "torchtitan-compile-2025"),
        ("torchtitan", "2024-12", "NVIDIA", "torchtitan-2025"),
        ("MaxText (JAX)", "2024-06", "Google", "maxtext-2024"),
        ("my own", None, "NVIDIA", "megatron-bridge-2026-06"),
        ("", None, "Google", "maxtext-2025"),
    ],
)
def test_stack_follows_framework_date_and_vendor(
    framework: str, month: str | None, vendor: str, expected: str
) -> None:
    assert software.stack_for(framework, month, vendor).name == expected


def test_every_stack_of_the_table_is_in_the_catalog() -> None:
    for name in {row[3] for row in software.STACKS}:
        assert catalog.stack(name).name == name


@pytest.mark.parametrize(
    ("source", "date", "month"),
    [
        ("mlcommons/training_results_v5.1", "v5.1", "2025-11"),
        ("", "26.04.01", "2026-04"),
        ("", "24.07", "2024-07"),
        ("", "202412", "2024-12"),
        ("", "2025-09-30", "2025-09"),
        ("", "2021", "2021-06"),
        ("", "core r0.8.0", "2024-07"),
        ("", "8c8dd48f", None),
        ("", "v1.2", None),
    ],
)
def test_months(source: str, date: str, month: str | None) -> None:
    assert software.month_of(case(source=source, date_or_version=date)) == month


# Plans


def plans(one: Case) -> tuple[list[Any], tuple[str, ...]]:
    return layouts.plans_of(one, catalog.stack("megatron-lm-2024"), one.layers or 0)


def test_a_row_of_one_stage_keeps_no_schedule_that_needs_more() -> None:
    one = case(overlap="DualPipe", pp=1, dp=8)
    assert {scenario.plan.schedule for scenario in scenarios_of(one)} == {"1f1b"}
    plans, _ = layouts.plans_of(case(overlap="DualPipe"), catalog.stack("megatron-lm-2024"), 32)
    assert {plan.schedule for plan in plans} == {"dualpipe"}


def test_a_complete_row_has_one_plan() -> None:
    found, opened = plans(case())
    assert len(found) == 1
    assert opened == ()
    assert found[0].chips == 16


def test_open_fields_are_tried_lightest_recompute_first() -> None:
    found, opened = plans(case(recompute="unknown", micro_batch="", vpp=""))
    assert opened == ("recompute", "micro_batch", "vpp")
    assert found[0].recompute == "none"
    assert {plan.recompute for plan in found} == {"none", "selective", "full"}
    assert found[0].schedule == "interleaved"
    assert all((32 // 4 // plan.micro_batch) % plan.pp == 0 for plan in found if plan.vpp > 1)
    assert "recompute not stated: tried none, selective, full" in layouts.describe(found, opened)


@pytest.mark.parametrize(
    ("stated", "zero", "tried"),
    [("unknown", 3, {False, True}), ("unknown", 1, {False}), ("none", 3, {False})],
)
def test_unstated_offload_is_tried_where_parameters_are_sharded(
    stated: str, zero: int, tried: set[bool]
) -> None:
    found, opened = plans(case(recompute="unknown", offload=stated, zero_stage=zero, pp=1, vpp="", dp=8))
    assert {plan.offload_activations for plan in found} == tried
    assert not found[0].offload_activations
    assert all(plan.recompute == "none" for plan in found if plan.offload_activations)
    assert ("offload_activations" in opened) == (len(tried) > 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full", ("full", -1)),
        ("full (21 of 32 layers)", ("full", 10)),
        ("selective(per-op)", ("selective", -1)),
        ("remat custom, qkv/out projections offloaded to host", ("full", -1)),
    ],
)
def test_recompute_words(text: str, expected: tuple[str, int]) -> None:
    (plan,), _ = plans(case(recompute=text))
    assert (plan.recompute, plan.recompute_layers) == expected


def test_overlap_words() -> None:
    (plan,), _ = plans(case(overlap="tp_comm=0;grad_reduce=1*;param_gather=?;p2p=n/a"))
    assert (plan.overlap_tp, plan.overlap_grad, plan.overlap_param, plan.overlap_p2p) == (
        False,
        True,
        None,
        None,
    )
    (plan,), _ = plans(case(overlap="none (all overlap off)"))
    assert plan.overlap_p2p is False
    (plan,), _ = plans(case(overlap="none for DP"))
    assert (plan.overlap_grad, plan.overlap_tp) == (False, None)


def test_batches_that_do_not_divide_are_refused() -> None:
    with pytest.raises(NotPredictable, match="does not divide over dp 4"):
        plans(case(global_batch=30))
    with pytest.raises(NotPredictable, match="micro-batches of 3"):
        plans(case(micro_batch=3))


def test_shared_parameters_and_copies_come_from_the_notes() -> None:
    (plan,), _ = plans(case(notes="FSDP SHARD_GRAD_OP"))
    assert (plan.zero, plan.fsdp_reshard) == (3, False)
    (plan,), _ = plans(case(notes="optimizer: GSPMD FSDP=2 x DP=2"))
    assert plan.replicas == 2


# Scores


def test_score_arithmetic() -> None:
    found = scores.score(
        [1.0, 2.0, 4.0, 5.0],
        [1.1, 1.8, 4.4, float("nan")],
        low=[1.0, 1.9, 4.0, 0.0],
        high=[1.2, 2.1, 4.2, 0.0],
        families=["a", "a", "b", "b"],
    )
    assert (found.n, found.covered) == (4, 3)
    assert found.median_abs_err == pytest.approx(0.1)
    assert found.bias == pytest.approx(0.1)
    assert found.interval_coverage == pytest.approx(1.0)
    assert found.macro_abs_err == pytest.approx(0.1)
    assert found.spearman == pytest.approx(1.0)


def test_macro_counts_families_once() -> None:
    assert scores.macro_median([0.1] * 98 + [0.5, 0.7], ["big"] * 98 + ["b", "c"]) == pytest.approx(0.5)


def test_ranks_share_ties_and_spearman_is_invariant() -> None:
    assert scores.ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [2.5, 0.0, 2.5, 1.0]
    rng = np.random.default_rng(0)
    x, y = rng.random(50), rng.random(50)
    assert scores.spearman(x, y) == pytest.approx(scores.spearman(np.exp(x), y**3))
    assert scores.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_regret_is_what_our_pick_costs() -> None:
    assert scores.regret([10.0, 12.0, 11.0], [5.0, 4.0, 6.0]) == pytest.approx(0.2)


def test_line_recovers_slope_and_intercept() -> None:
    x = np.array([8.0, 16.0, 64.0])
    found = scores.line(x, 0.15 * x + 0.2)
    assert found.slope == pytest.approx(0.15)
    assert found.intercept == pytest.approx(0.2)
    assert found.residual < 1e-9


def test_standard_errors_of_a_line_are_the_scatter_of_noisy_ones() -> None:
    x = np.array([24.0, 56.0, 288.0])
    exact = 0.19 * x + 0.47
    noisy = exact * (1.0 + scores.NOISE * np.random.default_rng(3).standard_normal((4000, 3)))
    found = [scores.line(x, times) for times in noisy]
    expected = scores.line(x, exact)
    assert np.std([one.slope for one in found]) == pytest.approx(expected.slope_error, rel=0.05)
    assert np.std([one.intercept for one in found]) == pytest.approx(expected.intercept_error, rel=0.05)


# The scoreboard, with a predictor that is wrong in a known way


@dataclass
class Fake:
    """Predicts ``factor`` times two seconds; recomputation slows it down and frees memory."""

    factor: float = 1.1
    capacity: float = 80e9

    def __call__(self, scenario: Scenario) -> Any:
        recompute = scenario.plan.recompute
        time = 2.0 * self.factor * {"none": 1.0, "selective": 1.05, "full": 1.3}[str(recompute)]
        memory = {"none": 90e9, "selective": 70e9, "full": 40e9}[str(recompute)]
        return FakePrediction(scenario, time, time * 0.9, time * 1.1, memory, self.capacity)


@dataclass
class FakePrediction:
    scenario: Scenario
    step_time_s: float
    step_time_low_s: float
    step_time_high_s: float
    peak_memory_bytes: float
    memory_capacity_bytes: float

    @property
    def memory(self) -> dict[str, list[float]]:
        return {"weights": [self.peak_memory_bytes], "reserve": [4e9]}  # the reserve does not count

    @property
    def fits(self) -> bool:
        return self.peak_memory_bytes <= self.memory_capacity_bytes


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scenarios without a calibration: the fake predictor needs none."""
    monkeypatch.setattr(catalog, "calibration", lambda chip: None)


@pytest.mark.usefixtures("plain")
def test_validate_keeps_failures_and_picks_what_fits() -> None:
    cases = [
        case(id="open", recompute="unknown", split="test-family"),
        case(id="odd", chip="mtt-s4000", split="test-family"),
        case(id="stated", recompute="full", split="fit", peak_memory_gib=40.0),
        case(id="rough", recompute="full", split="fit", quality="C", step_time_s=20.0),
    ]
    seen: list[tuple[int, int]] = []
    board = boards.validate(cases, Fake(), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (4, 4)
    opened, odd, stated, rough = board.rows
    assert opened.predicted_s == pytest.approx(2.0 * 1.1 * 1.05)  # none does not fit, selective does
    assert opened.high_s == pytest.approx(2.0 * 1.1 * 1.05 * 1.1)  # full fits too, but nobody would choose it
    assert odd.status.startswith("not predicted: unknown chip 'mtt-s4000'")
    assert board.rough == (rough,)
    assert stated.rel_err == pytest.approx(0.43)
    memory = board.memory()
    assert memory.n == 1
    assert memory.median_abs_err == pytest.approx(abs(40e9 / (40 * 2**30) - 1))
    data = json.loads(json.dumps(board.to_dict(), allow_nan=False))
    assert (data["n"], data["covered"]) == (4, 3)
    assert {"id", "measured", "predicted", "rel_err", "status"} <= data["rows"][0].keys()
    assert data["rows"][1]["predicted"] is None
    assert data["by_split"]["test-family"]["n"] == 2
    text = board.table()
    assert "4 rows: 3 predicted, 1 not" in text
    assert "unseen families" in text
    assert "worst: stated" in text


@pytest.mark.usefixtures("plain")
def test_when_nothing_fits_the_smallest_plan_is_taken() -> None:
    (row,) = boards.validate([case(recompute="unknown")], Fake(capacity=1e9)).rows
    assert row.predicted_s == pytest.approx(2.0 * 1.1 * 1.3)
    assert not row.fits


@pytest.mark.usefixtures("plain")
def test_a_predictor_that_refuses_is_a_reason_and_limit_spreads() -> None:
    def refuse(scenario: Scenario) -> Any:
        raise ValueError("tp = 2 is too much\nand more")

    cases = [case(id=str(i)) for i in range(10)]
    board = boards.validate(cases, refuse, limit=3)
    assert [row.case.id for row in board.rows] == ["0", "4", "9"]
    assert {row.status for row in board.rows} == {"not predicted: tp = 2 is too much"}
    assert board.to_dict()["median_abs_err"] is None
    assert "0 predicted" in board.table()


def test_rankings_need_five_plans_and_count_repeats_once() -> None:
    runs = [case(tp=tp, dp=8 // tp, pp=2, step_time_s=time) for tp, time in ((1, 4.0), (2, 2.0), (4, 3.0))]
    runs += [
        case(tp=tp, dp=16 // tp, pp=1, vpp=1, step_time_s=time) for tp, time in ((1, 5.0), (2, 2.5), (2, 2.7))
    ]
    (found,) = checks.rankings(runs, [3.0, 2.0, 2.5, 4.0, 1.9, 1.9])
    assert found.plans == 5
    assert found.regret == pytest.approx(2.6 / 2.0 - 1.0)
    assert checks.rankings(runs[:4], [1.0] * 4) == []


def test_laws_are_found_where_the_measurement_keeps_them() -> None:
    batches = (16, 64, 256)
    runs = [case(global_batch=b, step_time_s=0.1 * (b / 4 + 1) + 0.3) for b in batches]
    (found,) = checks.laws(runs, [0.2 * (b / 4 + 1) for b in batches])
    assert found.measured.intercept == pytest.approx(0.3)
    assert found.predicted.slope == pytest.approx(0.2)
    assert found.predicted.intercept == pytest.approx(0.0, abs=1e-9)
