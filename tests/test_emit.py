"""Emitters: what they write parses, says what the plan says, uses documented options, refuses the rest."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from typing import Any, cast

import numpy as np
import pytest

from ridgeline.emit import SUFFIX, EmitError, emit, layers
from ridgeline.emit.documented import MEGATRON, NEMO, TORCHTITAN
from ridgeline.facts import catalog
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.plan import Plan, PlanGrid
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.workload import TrainingJob
from ridgeline.graph.parallel import pp as pipeline_axis

NO_CALIBRATION = cast(Calibration, None)  # an emitter never looks at it


def scenario(
    model: str,
    plan: Plan,
    *,
    batch: int = 2048,
    seq: int = 2048,
    recipe: str = "bf16",
    stack: str = "",
    **job: Any,
) -> Scenario:
    return Scenario(
        architecture=catalog.architecture(model),
        chip=catalog.chip("h100-sxm"),
        cluster=catalog.cluster("dgx-h100"),
        num_chips=plan.chips,
        job=TrainingJob(batch=batch, seq=seq, tokens=15.6e12, **job),
        plan=plan,
        stack=catalog.stack(stack or "nemo-2025"),
        recipe=catalog.recipe(recipe),
        calibration=NO_CALIBRATION,
    )


META = Plan(tp=8, pp=16, vpp=4, dp=128, etp=8, schedule="interleaved")
FSDP = Plan(tp=8, etp=8, dp=32, zero=3, schedule="1f1b", recompute="full")
DEEPSEEK = Plan(
    tp=1,
    pp=16,
    vpp=1,
    ep=64,
    dp=128,
    recompute="full",
    recompute_layers=2,
    overlap_ep=False,
    overlap_tp=False,
)
GPT3 = Plan(tp=4, etp=4, pp=8, vpp=6, dp=4, schedule="interleaved")
MIXTRAL = Plan(tp=2, etp=1, pp=4, vpp=4, ep=8, dp=8, schedule="interleaved")

EXPRESSIBLE = [
    ("llama-3.1-405b", META, "bf16", ("megatron", "nemo")),
    ("llama-3.1-70b", FSDP, "bf16", ("torchtitan", "megatron", "nemo")),
    ("deepseek-v3", DEEPSEEK, "fp8-block", ("megatron", "nemo")),
    ("qwen3-30b-a3b", Plan(ep=8, dp=32, zero=3), "fp8-current", ("torchtitan", "megatron", "nemo")),
    ("gpt3-175b", GPT3, "fp8-delayed", ("megatron", "nemo")),
    ("mixtral-8x7b", MIXTRAL, "mxfp8", ("megatron", "nemo")),
    ("gpt-oss-20b", Plan(ep=8, dp=8), "bf16", ("megatron", "nemo")),
    ("llama-3.1-8b", Plan(tp=2, etp=2, cp=4, dp=8, zero=2), "nvfp4", ("megatron", "nemo")),
]
CASES = [
    pytest.param(model, plan, recipe, framework, id=f"{model}-{framework}")
    for model, plan, recipe, frameworks in EXPRESSIBLE
    for framework in frameworks
]


def options_of(framework: str, text: str) -> set[str]:
    """Every option an emitted file sets, in the spelling of the documented table."""
    if framework == "megatron":
        arguments = text.split("PARALLEL=(", 1)[1].split('torchrun "')[0]
        return set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]+", arguments))
    if framework == "torchtitan":
        found: set[str] = set()

        def walk(table: dict[str, Any], prefix: str) -> None:
            for key, value in table.items():
                if isinstance(value, dict):
                    walk(value, f"{prefix}{key}.")
                else:
                    found.add(prefix + key)

        walk(tomllib.loads(text), "")
        return found
    owners = {
        "GPTModelProvider": "model",
        "MLAModelProvider": "model",
        "TrainingConfig": "train",
        "DistributedDataParallelConfig": "ddp",
        "CommOverlapConfig": "comm_overlap",
        "MixedPrecisionConfig": "mixed_precision",
    }
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in owners:
            found |= {f"{owners[node.func.id]}.{keyword.arg}" for keyword in node.keywords}
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            found.add(ast.unparse(node.targets[0]))
    return found


DOCUMENTED = {"megatron": MEGATRON, "torchtitan": TORCHTITAN, "nemo": NEMO}


@pytest.mark.parametrize(("model", "plan", "recipe", "framework"), CASES)
def test_every_option_is_documented(model: str, plan: Plan, recipe: str, framework: str) -> None:
    options = options_of(framework, emit(framework, scenario(model, plan, recipe=recipe)))
    assert len(options) > 15
    assert options <= DOCUMENTED[framework].options


@pytest.mark.parametrize(("model", "plan", "recipe", "framework"), CASES)
def test_the_file_parses(model: str, plan: Plan, recipe: str, framework: str) -> None:
    text = emit(framework, scenario(model, plan, recipe=recipe))
    if framework == "megatron":
        bash = shutil.which("bash")
        assert bash is not None
        subprocess.run([bash, "-n"], input=text, text=True, check=True)
    elif framework == "nemo":
        compile(text, f"plan{SUFFIX[framework]}", "exec")
    assert catalog.architecture(model).title in text


def megatron_arguments(text: str) -> list[str]:
    """What ``pretrain_gpt.py`` would receive: the script is run by bash with torchrun replaced by printf."""
    bash = shutil.which("bash")
    assert bash is not None
    script = "torchrun() { printf '%s\\n' \"$@\"; }\n" + text
    done = subprocess.run([bash], input=script, text=True, check=True, capture_output=True)
    return done.stdout.split("\n")


def test_megatron_says_what_the_plan_says() -> None:
    got = megatron_arguments(emit("megatron", scenario("llama-3.1-405b", META)))

    def value(option: str) -> str:
        return got[got.index(option) + 1]

    assert value("--nnodes") == "2048"
    assert value("--tensor-model-parallel-size") == "8"
    assert value("--pipeline-model-parallel-size") == "16"
    assert value("--num-virtual-stages-per-pipeline-rank") == "4"
    assert value("--global-batch-size") == "2048"
    assert value("--num-layers") == "126"
    assert value("--num-query-groups") == "8"
    assert value("--vocab-size") == "128255"  # NullTokenizer adds one
    # 126 layers over 64 chunks: both ends count as a layer, as in the prediction.
    assert "--account-for-embedding-in-pipeline-split" in got
    assert "--account-for-loss-in-pipeline-split" in got
    assert "--swiglu" in got
    assert "--untie-embeddings-and-output-weights" in got
    assert "--use-distributed-optimizer" in got


def test_uneven_pipeline_becomes_a_layout() -> None:
    got = megatron_arguments(emit("megatron", scenario("deepseek-v3", DEEPSEEK, recipe="fp8-block", mtp=1)))
    layout = got[got.index("--pipeline-model-parallel-layout") + 1]
    stages = layout.split("|")
    assert len(stages) == 16
    assert stages[0].startswith("E")
    assert stages[-1].endswith("mL")
    assert layout.count("t") == 61
    assert got[got.index("--moe-layer-freq") + 1] == "([0]*3+[1]*58)"
    assert got[got.index("--fp8-recipe") + 1] == "blockwise"
    assert got[got.index("--recompute-num-layers") + 1] == "2"


def test_torchtitan_says_what_the_plan_says() -> None:
    plan = Plan(tp=8, etp=8, pp=16, vpp=4, dp=128, zero=3, fsdp_reshard=False, schedule="interleaved")
    made = scenario("llama-3.1-405b", plan, recipe="bf16-fsdp", stack="torchtitan-2025")
    config = tomllib.loads(emit("torchtitan", made))
    assert config["model"] == {"name": "llama3", "flavor": "405B", "converters": []}
    parallel = config["parallelism"]
    assert parallel["data_parallel_shard_degree"] == 128
    assert parallel["pipeline_parallel_schedule"] == "Interleaved1F1B"
    # torchtitan derives the number of chunks from layers per stage, counting both ends as in its own source.
    ends = (
        parallel["pipeline_parallel_first_stage_less_layers"]
        + parallel["pipeline_parallel_last_stage_less_layers"]
    )
    assert -(-(126 + ends) // parallel["pipeline_parallel_layers_per_stage"]) == 64
    assert config["training"]["local_batch_size"] == 16
    assert config["training"]["global_batch_size"] == 2048


def test_torchtitan_zero_bubble_holds_two_chunks() -> None:
    plan = Plan(pp=8, dp=8, zero=3, schedule="zb-v")
    made = scenario("llama-3.1-8b", plan, recipe="bf16-fsdp", stack="torchtitan-2025")
    parallel = tomllib.loads(emit("torchtitan", made))["parallelism"]
    assert parallel["pipeline_parallel_schedule"] == "ZBVZeroBubble"
    assert parallel["pipeline_parallel_layers_per_stage"] == 2


def test_torchtitan_float8() -> None:
    plan = Plan(ep=8, dp=32, zero=3)
    made = scenario("qwen3-30b-a3b", plan, recipe="fp8-current", stack="torchtitan-2025")
    config = tomllib.loads(emit("torchtitan", made))
    assert config["model"]["converters"] == ["quantize.linear.float8", "quantize.grouped_mm.float8"]
    assert config["quantize"]["grouped_mm"]["float8"]["fqns"] == ["experts"]
    assert config["compile"]["enable"] is True


def test_nemo_says_what_the_plan_says() -> None:
    text = emit("nemo", scenario("deepseek-v3", DEEPSEEK, recipe="fp8-block"))
    assert "MLAModelProvider(" in text
    assert "expert_model_parallel_size=64" in text
    assert "moe_layer_freq=[0] * 3 + [1] * 58" in text
    assert "fp8_recipe='blockwise'" in text
    assert "exp_avg_dtype = torch.bfloat16" in text


REFUSED = [
    ("megatron", META, {"schedule": "dualpipe"}, "schedule", "1f1b"),
    ("nemo", META, {"schedule": "zb-h1"}, "schedule", "interleaved"),
    ("megatron", META, {"schedule": "1f1b"}, "schedule", "interleaved or vpp = 1"),
    ("megatron", META, {"offload_activations": True}, "offload_activations", "False"),
    ("megatron", META, {"overlap_param": True, "overlap_grad": False}, "overlap_param", "False"),
    ("megatron", META, {"recompute": "full", "recompute_layers": 3}, "recompute_layers", "vpp"),
    ("megatron", FSDP, {"fsdp_reshard": False}, "fsdp_reshard", "True"),
    ("torchtitan", META, {}, "zero", "3"),
    ("torchtitan", META, {"zero": 3, "schedule": "dualpipe"}, "schedule", "gpipe"),
    ("torchtitan", FSDP, {"sequence_parallel": False}, "sequence_parallel", "True"),
    ("torchtitan", FSDP, {"offload_optimizer": True}, "offload_optimizer", "False"),
]


@pytest.mark.parametrize(("framework", "plan", "change", "field", "choice"), REFUSED)
def test_what_a_framework_cannot_say_is_refused(
    framework: str, plan: Plan, change: dict[str, Any], field: str, choice: str
) -> None:
    changed = Plan(**{**plan.to_dict(), **change})
    with pytest.raises(EmitError, match=f"{framework} cannot express {field} = ") as caught:
        emit(framework, scenario("llama-3.1-405b", changed))
    assert choice in str(caught.value)


def test_refusals_that_do_not_come_from_the_plan() -> None:
    with pytest.raises(EmitError, match=r"framework = jax; choose megatron or torchtitan or nemo"):
        emit("jax", scenario("llama-3.1-405b", META))
    with pytest.raises(EmitError, match=r"batch = 100; choose a multiple of dp x micro_batch = 128"):
        emit("megatron", scenario("llama-3.1-405b", META, batch=100))
    with pytest.raises(EmitError, match=r"recipe.linear = fp8 with delayed scaling"):
        emit("torchtitan", scenario("llama-3.1-405b", FSDP, recipe="fp8-delayed"))
    with pytest.raises(EmitError, match=r"seq = 8192.*at most 2048"):
        emit("megatron", scenario("gpt3-175b", GPT3, seq=8192))
    with pytest.raises(EmitError, match=r"etp = 2; choose 1 or 8"):
        emit("torchtitan", scenario("qwen3-30b-a3b", Plan(**{**FSDP.to_dict(), "ep": 4, "etp": 2})))
    with pytest.raises(EmitError, match="not a shape it ships"):
        emit("torchtitan", scenario("gpt3-175b", FSDP))
    with pytest.raises(EmitError, match="kind = lora"):
        emit("nemo", scenario("llama-3.1-405b", META, kind="lora"))
    with pytest.raises(EmitError, match="chips = 8"):
        emit("nemo", scenario("llama-3.1-405b", META).replace(num_chips=8))
    with pytest.raises(EmitError, match="a grid of 1 plans"):
        emit("nemo", scenario("llama-3.1-405b", META).replace(plan=PlanGrid.of([META])))


@pytest.mark.parametrize("name", ["gemma-2-9b", "falcon-40b", "bloom-176b", "mamba2-2.7b", "llama-4-scout"])
def test_shapes_that_megatron_does_not_have(name: str) -> None:
    with pytest.raises(EmitError, match=r"megatron cannot express model\."):
        emit("megatron", scenario(name, Plan(dp=8)))


@pytest.mark.parametrize("pp", [1, 2, 3, 4, 6, 8, 16])
@pytest.mark.parametrize("vpp", [1, 2, 3])
@pytest.mark.parametrize("name", ["llama-3.1-405b", "deepseek-v3", "llama-3.1-70b"])
def test_chunks_are_those_of_the_prediction(name: str, pp: int, vpp: int) -> None:
    arch = catalog.architecture(name)
    vpp = vpp if pp > 1 else 1
    held = layers.chunks(arch.num_layers, pp, vpp)
    assert sum(held) == arch.num_layers
    per_stage = [sum(held[stage::pp]) for stage in range(pp)]
    stages = pipeline_axis.assign(arch, np.array([pp]), np.array([vpp])).layers.sum(axis=0)[:, 0]
    assert per_stage[0] == stages[pipeline_axis.FIRST]
    if pp > 1:
        assert per_stage[-1] == stages[pipeline_axis.LAST]
    if pp > 2:
        assert np.mean(per_stage[1:-1]) == pytest.approx(stages[pipeline_axis.MIDDLE])


def test_interleaved_layers_alternate() -> None:
    order = layers.in_order(catalog.architecture("gpt-oss-20b"))
    windows = [getattr(layer.mixer, "window", None) is not None for layer in order]
    assert windows[:4] == [True, False, True, False]
