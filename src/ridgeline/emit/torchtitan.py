"""Training configuration for torchtitan: the TOML file that ``run_train.sh`` reads (0.2 series).

torchtitan takes its model by name and flavour, so the shape must be one that it ships.
"""

from __future__ import annotations

from typing import Any

from ridgeline import files
from ridgeline.emit import checks, layers
from ridgeline.emit.comments import comments
from ridgeline.emit.documented import TORCHTITAN
from ridgeline.emit.errors import EmitError
from ridgeline.facts.architecture import Architecture, Moe
from ridgeline.facts.plan import Plan
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.scenario import Scenario

NAME = "torchtitan"

Options = dict[str, Any]

#: Shapes that torchtitan 0.2.2 ships, by (hidden size, layers, heads, routed experts).
FLAVORS: dict[tuple[int, int, int, int], tuple[str, str]] = {
    (4096, 32, 32, 0): ("llama3", "8B"),
    (8192, 80, 64, 0): ("llama3", "70B"),
    (16384, 126, 128, 0): ("llama3", "405B"),
    (5120, 48, 40, 16): ("llama4", "17bx16e"),
    (5120, 48, 40, 128): ("llama4", "17bx128e"),
    (1024, 28, 16, 0): ("qwen3", "0.6B"),
    (2048, 28, 16, 0): ("qwen3", "1.7B"),
    (2560, 36, 32, 0): ("qwen3", "4B"),
    (4096, 36, 32, 0): ("qwen3", "8B"),
    (5120, 40, 40, 0): ("qwen3", "14B"),
    (5120, 64, 64, 0): ("qwen3", "32B"),
    (2048, 48, 32, 128): ("qwen3", "30B-A3B"),
    (4096, 94, 64, 128): ("qwen3", "235B-A22B"),
    (2048, 27, 16, 64): ("deepseek_v3", "16B"),
    (5120, 60, 128, 160): ("deepseek_v3", "236B"),
    (7168, 61, 128, 256): ("deepseek_v3", "671B"),
    (2880, 24, 64, 32): ("gpt_oss", "20b"),
    (2880, 36, 64, 128): ("gpt_oss", "120b"),
}  # fmt: skip

_SCHEDULES = {"gpipe": "GPipe", "1f1b": "1F1B", "interleaved": "Interleaved1F1B", "zb-v": "ZBVZeroBubble"}


def write(scenario: Scenario) -> str:
    """The TOML text. Data set, optimizer and run length stay torchtitan's defaults."""
    plan = checks.one_plan(NAME, scenario)
    overlap = checks.overlaps(scenario, plan)
    arch = scenario.architecture
    _refuse(plan, is_moe=_is_moe(arch))
    name, flavor = _flavor(arch)
    converters, quantize = _precision(scenario.recipe, arch)
    options: Options = {
        "job.description": f"{arch.title or arch.name}, {scenario.num_chips} x {scenario.chip.title}",
        "model.name": name,
        "model.flavor": flavor,
        "model.converters": converters,
        **_batch(scenario, plan),
        **_parallelism(scenario, plan),
        **_recompute(arch, plan),
    }
    if overlap.tp and plan.tp > 1:
        options["parallelism.enable_async_tensor_parallel"] = True
    # float8 and asynchronous tensor parallelism need compiled kernels; else it is the stack's habit.
    compiled = bool(converters) or (overlap.tp and plan.tp > 1) or "compile" in scenario.stack.name
    options["compile.enable"] = compiled
    options |= quantize
    head = checks.header(scenario, plan, TORCHTITAN.framework, TORCHTITAN.version)
    head.append("From 0.3 on torchtitan is configured in Python: set the same fields on its Trainer.Config.")
    head += _differences(scenario.recipe)
    return "\n".join([*comments(head), *_toml(options), ""])


def _refuse(plan: Plan, *, is_moe: bool) -> None:
    """Choices that torchtitan does not have."""
    if plan.tp > 1 and not plan.sequence_parallel:
        raise EmitError(NAME, "sequence_parallel", False, [True], "always on with tp > 1")
    if plan.zero == 1:
        raise EmitError(NAME, "zero", 1, [0, 2, 3])
    for field in ("overlap_grad", "overlap_param"):
        if getattr(plan, field) is False and plan.zero >= 2:
            raise EmitError(NAME, field, False, [True], "FSDP2 always overlaps")
    for field in ("offload_activations", "offload_optimizer"):
        if getattr(plan, field):
            raise EmitError(NAME, field, True, [False], "its CPU offload moves parameters and gradients too")
    if is_moe and plan.ep > 1 and plan.etp not in (1, plan.tp):
        raise EmitError(NAME, "etp", plan.etp, sorted({1, plan.tp}))
    if is_moe and plan.ep == 1 and plan.etp != plan.tp:
        raise EmitError(NAME, "etp", plan.etp, [plan.tp], "with ep 1 experts follow tp")


def _is_moe(arch: Architecture) -> bool:
    return any(isinstance(layer.mlp, Moe) for layer in arch.layers)


def _flavor(arch: Architecture) -> tuple[str, str]:
    mixer = next((layer.mixer for layer in arch.layers if layer.mixer is not None), None)
    heads = getattr(mixer, "heads", 0)
    experts = max((layer.mlp.experts for layer in arch.layers if isinstance(layer.mlp, Moe)), default=0)
    found = FLAVORS.get((arch.hidden, arch.num_layers, heads, experts))
    if found is None:
        shipped = [f"{name} {flavor}" for name, flavor in FLAVORS.values()]
        raise EmitError(NAME, "model", arch.name, shipped, "not a shape it ships")
    return found


def _batch(scenario: Scenario, plan: Plan) -> Options:
    job = scenario.job
    # A pipeline cuts the local batch into micro-batches; else gradients accumulate to the global batch.
    local = job.batch // plan.dp if plan.pp > 1 else plan.micro_batch
    return {
        "training.local_batch_size": local,
        "training.global_batch_size": job.batch,
        "training.seq_len": job.seq,
        "training.dtype": _dtype(scenario.recipe),
        "training.mixed_precision_param": "bfloat16",
        "training.mixed_precision_reduce": "float32",
    }


def _dtype(recipe: Recipe) -> str:
    """Format of stored parameters and Adam moments: torchtitan has one word for all of them."""
    pure = recipe.weight_bytes == 2.0 and recipe.master_bytes == 0.0
    if recipe.moment_bytes != (4.0 if pure else 8.0):
        choices = [4.0] if pure else [8.0]
        raise EmitError(NAME, "recipe.moment_bytes", recipe.moment_bytes, choices)
    return "bfloat16" if pure else "float32"


def _parallelism(scenario: Scenario, plan: Plan) -> Options:
    out: Options = {
        **_data_parallel(plan),
        "parallelism.tensor_parallel_degree": plan.tp,
        "parallelism.context_parallel_degree": plan.cp,
    }
    if _is_moe(scenario.architecture):
        out["parallelism.expert_parallel_degree"] = plan.ep
        if plan.ep > 1:
            out["parallelism.expert_tensor_parallel_degree"] = plan.etp
    out["parallelism.pipeline_parallel_degree"] = plan.pp
    return out | (_pipeline(scenario, plan) if plan.pp > 1 else {})


def _data_parallel(plan: Plan) -> Options:
    if plan.zero == 0:
        if plan.chips != plan.dp:
            raise EmitError(NAME, "zero", 0, [2, 3], "replicated data parallelism goes with no other axis")
        return {
            "parallelism.data_parallel_replicate_degree": plan.dp,
            "parallelism.data_parallel_shard_degree": 1,
        }
    freed = plan.zero == 3 and plan.fsdp_reshard
    return {
        "parallelism.data_parallel_replicate_degree": plan.replicas,
        "parallelism.data_parallel_shard_degree": plan.dp // plan.replicas,
        "parallelism.fsdp_reshard_after_forward": "always" if freed else "never",
    }


def _pipeline(scenario: Scenario, plan: Plan) -> Options:
    if plan.schedule not in _SCHEDULES:
        raise EmitError(NAME, "schedule", plan.schedule, _SCHEDULES)
    looped = plan.schedule == "interleaved" and plan.vpp > 1
    # A V-shaped schedule holds two chunks per stage whatever vpp says; the others know no chunks.
    virtual = 2 if plan.schedule == "zb-v" else plan.vpp
    if plan.schedule in ("gpipe", "1f1b") and plan.vpp != 1:
        raise EmitError(NAME, "vpp", plan.vpp, [1], plan.schedule)
    num_layers = scenario.architecture.num_layers
    full, first, last = layers.shortened(num_layers, plan.pp, virtual)
    missing = plan.pp * virtual * full - num_layers
    if missing != first + last or max(first, last) > full:
        choices = [f"chunks of {num_layers} layers that differ at the two ends only"]
        raise EmitError(NAME, "pp x vpp", plan.pp * virtual, choices)
    name = "1F1B" if plan.schedule == "interleaved" and not looped else _SCHEDULES[plan.schedule]
    return {
        "parallelism.pipeline_parallel_schedule": name,
        "parallelism.pipeline_parallel_microbatch_size": plan.micro_batch,
        "parallelism.pipeline_parallel_layers_per_stage": full,
        "parallelism.pipeline_parallel_first_stage_less_layers": first,
        "parallelism.pipeline_parallel_last_stage_less_layers": last,
    }


def _recompute(arch: Architecture, plan: Plan) -> Options:
    if plan.recompute == "selective":
        return {"activation_checkpoint.mode": "selective", "activation_checkpoint.selective_ac_option": "op"}
    if plan.recompute == "none" or plan.recompute_layers == 0:
        return {"activation_checkpoint.mode": "none"}
    per_stage = -(-arch.num_layers // plan.pp)
    if plan.recompute_layers < 0 or plan.recompute_layers >= per_stage:
        return {"activation_checkpoint.mode": "full"}
    every, left = divmod(per_stage, plan.recompute_layers)
    if left:
        choices = [count for count in range(1, per_stage + 1) if per_stage % count == 0]
        raise EmitError(NAME, "recompute_layers", plan.recompute_layers, choices, "every n-th layer only")
    return {
        "activation_checkpoint.mode": "selective",
        "activation_checkpoint.selective_ac_option": str(every),
    }


def _differences(recipe: Recipe) -> list[str]:
    """Bytes that torchtitan has fixed and the recipe counts otherwise: they move memory or time."""
    lines = []
    if recipe.grad_reduce_bytes != 4.0:
        sent = f"{recipe.grad_reduce_bytes:g}"
        lines.append(
            f"torchtitan reduces gradients in float32; the plan was predicted with {sent} bytes each."
        )
    if recipe.master_bytes:
        kept = f"{recipe.weight_bytes + recipe.master_bytes:g}"
        lines.append(f"torchtitan keeps 4 bytes per parameter; the plan was predicted with {kept} of them.")
    return lines


def _precision(recipe: Recipe, arch: Architecture) -> tuple[list[str], Options]:
    """Converters and their options."""
    is_moe = _is_moe(arch)
    if recipe.linear == "bf16":
        return [], {}
    if recipe.linear == "mxfp8":
        converters = ["quantize.linear.mx"]
        options: Options = {
            "quantize.linear.mx.recipe_name": "mxfp8_cublas",
            "quantize.linear.mx.filter_fqns": ["output"],
        }
        if is_moe:
            converters.append("quantize.grouped_mm.mx")
            options |= {
                "quantize.grouped_mm.mx.recipe_name": "mxfp8",
                "quantize.grouped_mm.mx.fqns": ["experts"],
            }
        return converters, options
    if recipe.linear != "fp8" or recipe.scaling != "current":
        name = f"{recipe.linear} with {recipe.scaling} scaling"
        raise EmitError(NAME, "recipe.linear", name, ["bf16", "fp8 with current scaling", "mxfp8"])
    gathered = recipe.gather_bytes < 2.0
    converters = ["quantize.linear.float8"]
    options = {
        "quantize.linear.float8.enable_fsdp_float8_all_gather": gathered,
        "quantize.linear.float8.precompute_float8_dynamic_scale_for_fsdp": gathered,
        "quantize.linear.float8.filter_fqns": ["output"],
    }
    if is_moe:
        converters.append("quantize.grouped_mm.float8")
        options["quantize.grouped_mm.float8.fqns"] = ["experts"]
    return converters, options


def _toml(options: Options) -> list[str]:
    """Tables in the order their first option appears."""
    tables: dict[str, list[str]] = {}
    for path, value in options.items():
        table, _, key = TORCHTITAN.check(path).rpartition(".")
        tables.setdefault(table, []).append(f"{key} = {_value(value)}")
    return [line for table, rows in tables.items() for line in ("", f"[{table}]", *rows)]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A TOML string of one line takes no control characters.
        escaped = files.one_line(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
