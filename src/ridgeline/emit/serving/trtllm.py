"""Launch script for TensorRT-LLM: ``trtllm-serve`` and the YAML file of options that its command line lacks."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from ridgeline.emit.errors import EmitError
from ridgeline.emit.serving import pools as common
from ridgeline.emit.serving import script
from ridgeline.emit.serving.documented import TRTLLM, TRTLLM_OPTIONS
from ridgeline.emit.serving.pools import Pool, pools_of
from ridgeline.emit.serving.script import Value, Word
from ridgeline.facts.serving import Deployment, Service, model_id_of

NAME = "trtllm"
PORT, ROUTER_PORT = 8000, 8080
CHECKED = f"{TRTLLM.framework} at {TRTLLM.version} and {TRTLLM_OPTIONS.framework} at {TRTLLM_OPTIONS.version}"

_KV = {"bf16": "auto", "fp8": "fp8", "nvfp4": "nvfp4"}
_BLOCK = 32  # tokens of a block where none is asked for

Options = dict[str, Any]


def write(deployment: Deployment) -> str:
    """A bash script that writes the YAML file and starts the server, with one role for each kind of process."""
    pools = pools_of(NAME, deployment)
    every: dict[str, list[str]] = {pool.role: start(deployment, pool) for pool in pools}
    usage: list[str] = []
    if deployment.disaggregated:
        every["router"] = router(deployment)
        usage.append(
            "Start `prefill` and `decode` on their nodes, then `router` with PREFILL_URLS and DECODE_URLS."
        )
    elif deployment.replicas > 1:
        usage.append(f"Start it {deployment.replicas} times behind a load balancer of your own.")
    usage += [
        f"One engine of `{pool.role}` runs on {pool.nodes} nodes: start it with "
        f"srun -N {pool.nodes} --ntasks-per-node={pool.chips_per_node} --mpi=pmix"
        for pool in pools
        if pool.nodes > 1
    ]
    return script.write(common.header(deployment, pools, CHECKED), every, usage)


def start(deployment: Deployment, pool: Pool) -> list[str]:
    """Lines of bash that start one engine."""
    service, layout = pool.service, pool.service.layout
    if service.chip.vendor != "NVIDIA":
        raise EmitError(NAME, "chip.vendor", service.chip.vendor, ["NVIDIA"])
    options: dict[str, Value] = {
        "--host": "0.0.0.0",
        "--port": PORT,
        "--tp_size": layout.tp * layout.dp,
        "--pp_size": layout.pp if layout.pp > 1 else None,
        "--ep_size": layout.ep if pool.is_moe else None,
        "--max_batch_size": service.max_seqs,
        "--max_num_tokens": service.max_batched_tokens,
        "--max_seq_len": service.limits.max_context,
        "--extra_llm_api_options": Word('"${OPTIONS}"'),
    }
    text = yaml.safe_dump(extra_options(deployment, pool), sort_keys=False)
    launcher = "trtllm-llmapi-launch " if pool.nodes > 1 else ""
    model = shlex.quote(deployment.model_id)
    return [
        *script.temporary("OPTIONS", text),
        *script.array("ARGS", script.arguments(TRTLLM, options)),
        f'exec {launcher}trtllm-serve serve {model} "${{ARGS[@]}}" "$@"',
    ]


def router(deployment: Deployment) -> list[str]:
    """Lines of bash that start the disaggregated front; URLs come from the environment."""
    lines = [
        'CONFIG="$(mktemp)"',
        "{",
        f"printf '%s\\n' 'hostname: 0.0.0.0' 'port: {ROUTER_PORT}' 'backend: pytorch'",
    ]
    for servers, variable, copies in (
        ("context_servers", "PREFILL_URLS", deployment.prefill_replicas),
        ("generation_servers", "DECODE_URLS", deployment.decode_replicas),
    ):
        lines += [
            f"printf '%s\\n' '{servers}:' '  num_instances: {copies}' '  urls:'",
            f'for url in ${{{variable}:?URLs}}; do printf \'  - "%s"\\n\' "${{url#http://}}"; done',
        ]
    config = TRTLLM.check("--config_file")
    return [*lines, '} >"${CONFIG}"', f'exec trtllm-serve disaggregated {config} "${{CONFIG}}" "$@"']


def extra_options(deployment: Deployment, pool: Pool) -> Options:
    """The YAML file's content."""
    service, engine, layout = pool.service, pool.service.engine, pool.service.layout
    _refuse(deployment, pool)
    options: Options = {}
    if pool.is_moe:
        options["moe_tensor_parallel_size"] = layout.moe_tp
    if layout.dp > 1:
        options["enable_attention_dp"] = True
    options["enable_chunked_prefill"] = engine.schedule == "chunked"
    options["kv_cache_config"] = _kv(service)
    if engine.graph_batch:
        largest = min(engine.graph_batch, service.max_seqs)
        options["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": largest}
    options |= _speculation(service)
    if service.adapters.count:
        count = service.adapters.count
        rank = service.adapters.rank
        options["lora_config"] = {"max_loras": count, "max_cpu_loras": count, "max_lora_rank": rank}
    if pool.role != "serve":
        options["cache_transceiver_config"] = _transfer(service)
    if pool.role == "prefill":
        options["disable_overlap_scheduler"] = True
    _checked(options)
    return options


def _refuse(deployment: Deployment, pool: Pool) -> None:
    service, layout = pool.service, pool.service.layout
    if layout.dp > 1 and layout.tp > 1:
        why = "with data-parallel attention each rank is one repetition of its own"
        raise EmitError(NAME, "layout.tp", layout.tp, [1], why)
    if layout.cp > 1:
        raise EmitError(NAME, "layout.cp", layout.cp, [1])
    if service.engine.schedule == "prefill_first":
        raise EmitError(NAME, "engine.schedule", service.engine.schedule, ["whole", "chunked"])
    common.quantisation(NAME, deployment, service, {})


def _kv(service: Service) -> Options:
    options: Options = {
        "dtype": common.one_of(NAME, "precision.kv", service.precision.kv, _KV),
        "free_gpu_memory_fraction": common.memory_fraction(NAME, service, "free"),
        "enable_block_reuse": common.prefix_cache(service),
    }
    if service.engine.block_size != _BLOCK:
        options["tokens_per_block"] = service.engine.block_size
    return options


def _speculation(service: Service) -> Options:
    speculation = service.speculation
    if speculation.method == "none":
        return {}
    config: Options = {"decoding_type": "MTP", "max_draft_len": speculation.drafts}
    if speculation.draft is not None and speculation.method == "draft":
        config |= {"decoding_type": "Draft_Target", "speculative_model": model_id_of(speculation.draft)}
    return {"speculative_config": config}


def _transfer(service: Service) -> Options:
    """The buffer holds the longest prompt, where its length is known."""
    longest = service.limits.max_context or service.architecture.context
    return {"backend": "NIXL"} | ({"max_tokens_in_buffer": longest} if longest else {})


def _checked(options: Options, parent: str = "") -> None:
    for key, value in options.items():
        TRTLLM_OPTIONS.check(parent + key)
        if isinstance(value, dict):
            _checked(value, f"{parent}{key}.")
