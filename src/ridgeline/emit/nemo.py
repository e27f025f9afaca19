"""Recipe for NVIDIA NeMo's Megatron-Bridge: a Python file that builds the configuration and trains."""

from __future__ import annotations

from typing import Any

from ridgeline.emit import checks, mcore
from ridgeline.emit.comments import comments
from ridgeline.emit.documented import NEMO
from ridgeline.facts.scenario import Scenario

NAME = "nemo"

# What users named stands in comments below: a quote or a backslash would end a docstring, and a comment in the first
# two lines could name another encoding of the file.
_DOCSTRING = '''\
"""One plan for Megatron-Bridge: its configuration, and the run.

    {launch}
"""
'''

_IMPORTS = """\
import os

import torch
import torch.nn.functional as F
from megatron.bridge.models.{module} import {provider}
from megatron.bridge.recipes.utils.optimizer_utils import distributed_fused_adam_with_cosine_annealing
from megatron.bridge.training.comm_overlap import CommOverlapConfig
from megatron.bridge.training.config import (
    CheckpointConfig,
    ConfigContainer,
    DistributedDataParallelConfig,
    DistributedInitConfig,
    GPTDatasetConfig,
    LoggerConfig,
    RNGConfig,
    TokenizerConfig,
    TrainingConfig,
)
from megatron.bridge.training.gpt_step import forward_step
from megatron.bridge.training.mixed_precision import MixedPrecisionConfig
from megatron.bridge.training.pretrain import pretrain
"""

_MOE_IMPORT = """\
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec
"""

_REST = """\
    dataset = GPTDatasetConfig(
        random_seed=1234,
        seq_length=model.seq_length,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        dataloader_type="single",
        split="9999,8,2",
        blend=None,  # mock data; name your own: (["/path/to/data"], [1.0])
    )
    return ConfigContainer(
        model=model,
        train=train,
        optimizer=optimizer,
        scheduler=scheduler,
        ddp=ddp,
        dataset=dataset,
        logger=LoggerConfig(log_interval=1),
        tokenizer=TokenizerConfig(tokenizer_type="NullTokenizer", vocab_size=model.vocab_size),
        checkpoint=CheckpointConfig(save=None, load=None{checkpoint_format}),
        rng=RNGConfig(seed=1234),
        dist=DistributedInitConfig({dist}),
        comm_overlap=comm_overlap,
        mixed_precision=mixed_precision,
    )


if __name__ == "__main__":
    pretrain(config(), forward_step_func=forward_step)
"""


def write(scenario: Scenario) -> str:
    """A Python file to be started by torchrun; data, learning rate and run length are placed at its end."""
    found = mcore.settings(NAME, scenario)
    plan = checks.one_plan(NAME, scenario)
    fsdp = bool(found.ddp.get("use_megatron_fsdp"))
    latent = bool(found.model.get("multi_latent_attention"))
    provider = "MLAModelProvider" if latent else "GPTModelProvider"
    per_node = min(scenario.cluster.chips_per_node, scenario.num_chips)
    launch = f"torchrun --nnodes {scenario.num_chips // per_node} --nproc-per-node {per_node} THIS_FILE"
    head = checks.header(scenario, plan, NEMO.framework, NEMO.version)
    imports = _IMPORTS.format(module="mla_provider" if latent else "gpt_provider", provider=provider)
    if "num_moe_experts" in found.model:
        imports = (
            imports.replace("import os\n", "import os\nfrom functools import partial\n", 1) + _MOE_IMPORT
        )
    parts = [
        _DOCSTRING.format(launch=launch),
        "\n".join([*comments(head), ""]),
        imports,
        _environment(fsdp=fsdp),
        "def config() -> ConfigContainer:",
        _call("model", provider, "model", _model(found)),
        _call("train", "TrainingConfig", "train", _train(found)),
        _OPTIMIZER,
        *_assignments("optimizer", found.optimizer),
        _call("ddp", "DistributedDataParallelConfig", "ddp", _ddp(found)),
        _call("comm_overlap", "CommOverlapConfig", "comm_overlap", _overlap(found)),
        _call("mixed_precision", "MixedPrecisionConfig", "mixed_precision", _precision(found)),
        _REST.format(
            checkpoint_format=', ckpt_format="fsdp_dtensor"' if fsdp else "",
            dist="use_megatron_fsdp=True" if fsdp else "",
        ),
    ]
    return "\n".join(parts)


_OPTIMIZER = """\
    optimizer, scheduler = distributed_fused_adam_with_cosine_annealing(
        lr_warmup_iters=10, lr_decay_iters=None, max_lr=float(os.environ.get("LR", "1.0e-4")), min_lr=0.0
    )"""


class _Code(str):
    """Text that stands for itself in the emitted file, such as ``torch.bfloat16``."""

    __slots__ = ()


def _model(found: mcore.Settings) -> dict[str, Any]:
    model = found.parallel | found.model | found.memory
    model.pop("multi_latent_attention", None)  # said by the provider's class
    if model["gated_linear_unit"]:
        model["activation_func"] = _Code("F.silu")
    model["pipeline_dtype"] = _Code("torch.float16" if "fp16" in found.precision else "torch.bfloat16")
    model["should_pad_vocab"] = True
    if "num_moe_experts" in model:
        # The default specification knows one kind of layer only.
        model["transformer_layer_spec"] = _Code(
            "partial(get_gpt_decoder_block_spec, use_transformer_engine=True)"
        )
    return model


def _train(found: mcore.Settings) -> dict[str, Any]:
    return found.batch | {"train_iters": _Code('int(os.environ.get("TRAIN_ITERS", "50"))'), "eval_iters": 0}


def _ddp(found: mcore.Settings) -> dict[str, Any]:
    return found.ddp | {"grad_reduce_in_fp32": found.precision["grad_reduce_in_fp32"]}


def _overlap(found: mcore.Settings) -> dict[str, Any]:
    # CommOverlapConfig turns overlaps on by itself unless each is named.
    sends = found.overlap.get("overlap_p2p_comm", False)
    pipelined = found.parallel["pipeline_model_parallel_size"] > 1
    return {
        **found.overlap,
        "overlap_p2p_comm": sends,
        "batch_p2p_comm": pipelined and not sends,
        "overlap_grad_reduce": found.ddp["overlap_grad_reduce"],
        "overlap_param_gather": found.ddp["overlap_param_gather"],
    }


def _precision(found: mcore.Settings) -> dict[str, Any]:
    kind = _Code("torch.float16" if "fp16" in found.precision else "torch.bfloat16")
    return found.precision | {"params_dtype": kind, "pipeline_dtype": kind}


def _environment(*, fsdp: bool) -> str:
    if fsdp:
        return (
            'os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)  # FSDP must not have one hardware queue\n\n'
        )
    return 'os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # Hopper and older\n\n'


def _call(variable: str, constructor: str, owner: str, fields: dict[str, Any]) -> str:
    lines = [
        f"        {NEMO.check(f'{owner}.{name}').split('.', 1)[1]}={_value(name, fields[name])},"
        for name in fields
    ]
    return "\n".join([f"    {variable} = {constructor}(", *lines, "    )"])


def _assignments(owner: str, fields: dict[str, Any]) -> list[str]:
    return [f"    {NEMO.check(f'{owner}.{name}')} = {_value(name, value)}" for name, value in fields.items()]


_DTYPES = {"fp32": "torch.float32", "fp16": "torch.float16", "bf16": "torch.bfloat16", "fp8": "torch.uint8"}


def _value(name: str, value: Any) -> str:
    if isinstance(value, _Code):
        return str(value)
    if name.endswith("_dtype"):
        return _DTYPES[value]
    if isinstance(value, list):
        return _runs(value)
    return repr(value)


def _runs(values: list[int]) -> str:
    """``[0] * 3 + [1] * 58`` instead of sixty numbers."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][0] == value:
            parts[-1][1] += 1
        else:
            parts.append([value, 1])
    return " + ".join(f"[{value}] * {count}" for value, count in parts)
