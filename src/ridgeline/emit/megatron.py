"""Launch script for Megatron-LM's ``pretrain_gpt.py``: torchrun and one array of arguments."""

from __future__ import annotations

import shlex
from typing import Any

from ridgeline.emit import checks, mcore
from ridgeline.emit.comments import comments
from ridgeline.emit.documented import MEGATRON
from ridgeline.emit.errors import EmitError
from ridgeline.facts.scenario import Scenario

NAME = "megatron"

#: Options whose name is not the field's own with dashes.
_RENAMED = {
    "virtual_pipeline_model_parallel_size": "num-virtual-stages-per-pipeline-rank",
    "num_moe_experts": "num-experts",
    "gated_linear_unit": "swiglu",
    "qk_layernorm": "qk-layernorm",
    "fp8": "fp8-format",
    "fp4": "fp4-format",
}
#: Booleans that Megatron-LM spells by their opposite: the option is written where the field is False.
_INVERTED = {
    "add_bias_linear": "disable-bias-linear",
    "share_embeddings_and_output_weights": "untie-embeddings-and-output-weights",
    "overlap_p2p_comm": "no-overlap-p2p-communication",
}


def write(scenario: Scenario) -> str:
    """A bash script; data, learning rate and run length come from its environment and its own arguments."""
    found = mcore.settings(NAME, scenario)
    plan = checks.one_plan(NAME, scenario)
    positions = scenario.architecture.positions or scenario.job.seq
    groups = {
        "PARALLEL": _options(found.parallel | found.overlap),
        "MODEL": _options(found.model | {"max_position_embeddings": positions}),
        "MEMORY": _options(found.memory),
        "DATA_PARALLEL": _options(_ddp(found.ddp)) + _options(found.optimizer),
        "NUMBERS": _options(_precision(found.precision)),
        "BATCH": _options(found.batch),
    }
    head = checks.header(scenario, plan, MEGATRON.framework, MEGATRON.version)
    per_node = min(scenario.cluster.chips_per_node, scenario.num_chips)
    lines = ["#!/usr/bin/env bash", *comments(head), "set -euo pipefail", ""]
    lines += _launch(scenario.num_chips // per_node, per_node, fsdp=plan.zero >= 2)
    for name, options in groups.items():
        if options:
            lines += [f"{name}=(", *(f"  {option}" for option in options), ")"]
    arguments = " ".join(f'"${{{name}[@]}}"' for name, options in groups.items() if options)
    lines += _run_length()
    lines += [
        "",
        'torchrun "${LAUNCH[@]}" "${PRETRAIN_GPT:-pretrain_gpt.py}" \\',
        f'  {arguments} "${{RUN[@]}}" "$@"',
        "",
    ]
    return "\n".join(lines)


def _launch(num_nodes: int, per_node: int, *, fsdp: bool) -> list[str]:
    # One hardware queue keeps communication behind the compute it follows (up to Hopper); FSDP forbids it.
    queues = "unset CUDA_DEVICE_MAX_CONNECTIONS" if fsdp else "export CUDA_DEVICE_MAX_CONNECTIONS=1"
    return [
        queues,
        "LAUNCH=(",
        f'  --nnodes "${{NNODES:-{num_nodes}}}"',
        f'  --nproc-per-node "${{GPUS_PER_NODE:-{per_node}}}"',
        '  --node-rank "${NODE_RANK:-0}"',
        '  --master-addr "${MASTER_ADDR:-localhost}"',
        '  --master-port "${MASTER_PORT:-29500}"',
        ")",
    ]


def _run_length() -> list[str]:
    """What Ridgeline does not decide, as defaults that run a short benchmark on mock data."""
    for option in (
        "--mock-data",
        "--train-iters",
        "--lr",
        "--eval-iters",
        "--log-interval",
        "--log-throughput",
    ):
        MEGATRON.check(option)
    return [
        "# Not part of the plan: replace --mock-data by your data set in DATA_ARGS.",
        'read -r -a DATA <<<"${DATA_ARGS:---mock-data}"',
        "RUN=(",
        '  "${DATA[@]}"',
        '  --train-iters "${TRAIN_ITERS:-50}"',
        '  --lr "${LR:-1.0e-4}"',
        "  --eval-iters 0",
        "  --log-interval 1",
        "  --log-throughput",
        ")",
    ]


def _options(fields: dict[str, Any]) -> list[str]:
    return [line for field, value in _spelled(fields).items() for line in _option(field, value)]


def _spelled(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as Megatron-LM's parser wants them: what it derives is left out, what it also needs is added."""
    out: dict[str, Any] = {}
    for field, value in fields.items():
        if field == "virtual_pipeline_model_parallel_size" and "pipeline_model_parallel_layout" in fields:
            continue  # the layout says it
        if field == "cpu_offloading":
            continue  # follows from the number of layers
        if field == "moe_shared_expert_gate":
            raise EmitError(NAME, "model.layers.mlp.shared_gate", value, [False])
        if field == "num_query_groups":
            out["group_query_attention"] = value != fields["num_attention_heads"]
            if out["group_query_attention"]:
                out[field] = value
            continue
        if field == "vocab_size":
            # NullTokenizer adds the end-of-document token to the size it is given.
            out |= {"tokenizer_type": "NullTokenizer", field: value - 1}
            continue
        out[field] = value
    return out


def _option(field: str, value: Any) -> list[str]:
    if field in _INVERTED:
        return [] if value else [MEGATRON.check(f"--{_INVERTED[field]}")]
    name = MEGATRON.check("--" + _RENAMED.get(field, field.replace("_", "-")))
    if isinstance(value, bool):
        return [name] if value else []
    if isinstance(value, tuple):
        text = ",".join(str(part) for part in value)
    elif isinstance(value, list):
        text = _pattern(value)
    else:
        text = str(value)
    return [f"{name} {shlex.quote(text)}"]


def _pattern(values: list[int]) -> str:
    """A list as the expression Megatron-LM evaluates: ``([0]*3+[1]*58)``; its alphabet has no blank."""
    runs: list[list[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return "(" + "+".join(f"[{value}]*{count}" for value, count in runs) + ")"


def _ddp(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("use_megatron_fsdp"):
        # Megatron's FSDP writes its own checkpoint format and cannot add to gradients it has sharded away.
        return {**fields, "ckpt_format": "fsdp_dtensor", "no_gradient_accumulation_fusion": True}
    return fields


def _precision(fields: dict[str, Any]) -> dict[str, Any]:
    out = dict(fields)
    wide = out.pop("grad_reduce_in_fp32")
    # Megatron-LM's bf16 reduction also accumulates in bf16; there is no option for one without the other.
    out["accumulate_allreduce_grads_in_fp32" if wide else "grad_reduce_in_bf16"] = True
    return out
