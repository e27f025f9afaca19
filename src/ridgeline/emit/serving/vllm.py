"""Launch script for vLLM: ``vllm serve`` and, in front of several engines, ``vllm-router``."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ridgeline.emit.errors import EmitError
from ridgeline.emit.serving import pools as common
from ridgeline.emit.serving import script
from ridgeline.emit.serving.documented import VLLM, VLLM_ROUTER
from ridgeline.emit.serving.pools import Pool, pools_of
from ridgeline.emit.serving.script import MASTER_ADDR, NODE_RANK, Value, Word
from ridgeline.facts.serving import Deployment, Service, model_id_of

NAME = "vllm"
PORT, ROUTER_PORT, RPC_PORT = 8000, 8080, 13345
CHECKED = f"{VLLM.framework} {VLLM.version} and {VLLM_ROUTER.framework} {VLLM_ROUTER.version}"
ROUTER_PACKAGE = f"vllm-router=={VLLM_ROUTER.version}"

#: ``--quantization`` of a bf16 checkpoint, for linear layers and experts alike.
_QUANTISED = {"fp8": "fp8_per_tensor", "fp8-block": "fp8_per_block", "mxfp8": "mxfp8"}
_KV = {"bf16": "bfloat16", "fp16": "float16", "fp8": "fp8", "nvfp4": "nvfp4"}
_BLOCK = 16  # tokens of a block where none is asked for
_DEEPEP = {
    "serve": "deepep_high_throughput",
    "prefill": "deepep_high_throughput",
    "decode": "deepep_low_latency",
}


def write(deployment: Deployment) -> str:
    """A bash script with one role for each kind of process."""
    pools = pools_of(NAME, deployment)
    every: dict[str, list[str]] = {pool.role: start(deployment, pool) for pool in pools}
    usage: list[str] = []
    if deployment.disaggregated:
        usage.append(
            "Start `prefill` and `decode` on their nodes, then `router` with PREFILL_URLS and DECODE_URLS."
        )
    elif deployment.replicas > 1:
        usage.append("Start `serve` on the nodes of each replica, then `router` with WORKER_URLS.")
    if usage:
        every["router"] = router(deployment)
    usage += _nodes_note(pools)
    if any(pool.service.adapters.count for pool in pools):
        usage.append("Append --lora-modules NAME=PATH for each adapter.")
    return script.write(common.header(deployment, pools, CHECKED), every, usage)


def _nodes_note(pools: tuple[Pool, ...]) -> list[str]:
    return [
        f"One engine of `{pool.role}` runs on {pool.nodes} nodes: set NODE_RANK and MASTER_ADDR on each."
        for pool in pools
        if pool.nodes > 1
    ]


def start(deployment: Deployment, pool: Pool) -> list[str]:
    """Lines of bash that start one engine."""
    service = pool.service
    options: dict[str, Value] = {
        "--host": "0.0.0.0",
        "--port": PORT,
        **_parallel(pool),
        **_numbers(deployment, service),
        **_limits(service),
        **_speculation(service),
        **_adapters(service),
    }
    if pool.role != "serve":
        options["--kv-transfer-config"] = _json(_transfer(pool))
    lines = script.array("ARGS", script.arguments(VLLM, options))
    if pool.nodes > 1:
        lines += _follow(pool)
    return [*lines, f'exec vllm serve {shlex.quote(deployment.model_id)} "${{ARGS[@]}}" "$@"']


def router(deployment: Deployment) -> list[str]:
    """Lines of bash that start the router; URLs come from the environment."""
    base: dict[str, Value] = {"--host": "0.0.0.0", "--port": ROUTER_PORT}
    check = VLLM_ROUTER.check
    if not deployment.disaggregated:
        lines = script.array("ARGS", script.arguments(VLLM_ROUTER, base))
        urls = f"ARGS+=({check('--worker-urls')} ${{WORKER_URLS:?URLs of the engines}})"
        return [*lines, urls, 'exec vllm-router "${ARGS[@]}" "$@"']
    base |= {"--vllm-pd-disaggregation": True, "--kv-connector": "nixl"}
    return [
        *script.array("ARGS", script.arguments(VLLM_ROUTER, base)),
        f'for url in ${{PREFILL_URLS:?URLs of prefill}}; do ARGS+=({check("--prefill")} "${{url}}"); done',
        f'for url in ${{DECODE_URLS:?URLs of decode}}; do ARGS+=({check("--decode")} "${{url}}"); done',
        'exec vllm-router "${ARGS[@]}" "$@"',
    ]


def _parallel(pool: Pool) -> dict[str, Value]:
    layout, engine = pool.service.layout, pool.service.engine
    ranks = layout.tp * layout.dp
    if pool.is_moe and layout.ep not in (1, ranks):
        raise EmitError(
            NAME, "layout.ep", layout.ep, sorted({1, ranks}), "experts spread over all ranks or none"
        )
    if layout.cp > 1 and pool.is_moe:
        why = "vLLM spreads experts over the context-parallel ranks too"
        raise EmitError(NAME, "layout.cp", layout.cp, [1], why)
    if layout.cp > 1 and pool.role == "decode":
        why = "its KV connector takes context parallelism on prefill engines only"
        raise EmitError(NAME, "layout.cp", layout.cp, [1], why)
    options: dict[str, Value] = {
        "--tensor-parallel-size": layout.tp,
        "--pipeline-parallel-size": layout.pp if layout.pp > 1 else None,
        "--prefill-context-parallel-size": layout.cp if layout.cp > 1 else None,
        "--data-parallel-size": layout.dp if layout.dp > 1 else None,
        "--enable-expert-parallel": layout.ep > 1,
    }
    if layout.ep > 1 and layout.dp > 1 and engine.dispatcher != "all_reduce":
        deepep = engine.dispatcher == "deepep"
        options["--all2all-backend"] = _DEEPEP[pool.role] if deepep else "allgather_reducescatter"
    return options | _across_nodes(pool)


def _across_nodes(pool: Pool) -> dict[str, Value]:
    """One engine on several nodes: whole data-parallel ranks on each, or one rank over all of them."""
    layout = pool.service.layout
    if pool.nodes == 1:
        return {}
    if layout.dp == 1:
        return {"--nnodes": pool.nodes, "--node-rank": Word(NODE_RANK), "--master-addr": Word(MASTER_ADDR)}
    if layout.dp % pool.nodes:
        choices = [f"a multiple of the {pool.nodes} nodes"]
        raise EmitError(NAME, "layout.dp", layout.dp, choices, "each node holds whole data-parallel ranks")
    return {
        "--data-parallel-size-local": layout.dp // pool.nodes,
        "--data-parallel-address": Word(MASTER_ADDR),
        "--data-parallel-rpc-port": RPC_PORT,
    }


def _follow(pool: Pool) -> list[str]:
    """Nodes but the first serve no API."""
    follow = VLLM.check("--headless")
    layout = pool.service.layout
    if layout.dp > 1:
        local = layout.dp // pool.nodes
        follow += f' {VLLM.check("--data-parallel-start-rank")} "$((NODE_RANK * {local}))"'
    return [f"if [[ {NODE_RANK} != 0 ]]; then ARGS+=({follow}); fi"]


def _numbers(deployment: Deployment, service: Service) -> dict[str, Value]:
    engine = service.engine
    return {
        "--quantization": common.quantisation(NAME, deployment, service, _QUANTISED),
        "--kv-cache-dtype": common.one_of(NAME, "precision.kv", service.precision.kv, _KV),
        "--block-size": engine.block_size if engine.block_size != _BLOCK else None,
    }


def _limits(service: Service) -> dict[str, Value]:
    engine = service.engine
    if engine.schedule == "prefill_first":
        raise EmitError(NAME, "engine.schedule", engine.schedule, ["chunked", "whole"])
    caching = "--enable-prefix-caching" if common.prefix_cache(service) else "--no-enable-prefix-caching"
    chunked = "--enable-chunked-prefill" if engine.schedule == "chunked" else "--no-enable-chunked-prefill"
    return {
        "--gpu-memory-utilization": common.memory_fraction(NAME, service, "total"),
        "--max-model-len": service.limits.max_context,
        "--max-num-seqs": service.max_seqs,
        "--max-num-batched-tokens": service.max_batched_tokens,
        chunked: True,
        caching: True,
        "--enforce-eager": engine.graph_batch == 0,
    }


def _speculation(service: Service) -> dict[str, Value]:
    speculation = service.speculation
    if speculation.method == "none":
        return {}
    config: dict[str, Any] = {"method": "mtp", "num_speculative_tokens": speculation.drafts}
    if speculation.draft is not None and speculation.method == "draft":
        config |= {"method": "draft_model", "model": model_id_of(speculation.draft)}
    return {"--speculative-config": _json(config)}


def _adapters(service: Service) -> dict[str, Value]:
    adapters = service.adapters
    if not adapters.count:
        return {}
    return {"--enable-lora": True, "--max-loras": adapters.count, "--max-lora-rank": adapters.rank}


def _transfer(pool: Pool) -> dict[str, Any]:
    role = "kv_producer" if pool.role == "prefill" else "kv_consumer"
    return {"kv_connector": "NixlConnector", "kv_role": role}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
