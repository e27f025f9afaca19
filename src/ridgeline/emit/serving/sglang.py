"""Launch script for SGLang: ``sglang.launch_server`` and, in front of several engines, its router."""

from __future__ import annotations

from ridgeline.emit.errors import EmitError
from ridgeline.emit.serving import pools as common
from ridgeline.emit.serving import script
from ridgeline.emit.serving.documented import SGLANG, SGLANG_ROUTER
from ridgeline.emit.serving.pools import Pool, pools_of
from ridgeline.emit.serving.script import NODE_RANK, Value, Word
from ridgeline.facts.serving import Deployment, Service, model_id_of

NAME = "sglang"
PORT, ROUTER_PORT, BOOTSTRAP_PORT, RENDEZVOUS_PORT = 30000, 8080, 8998, 20000
CHECKED = f"{SGLANG.framework} {SGLANG.version} and {SGLANG_ROUTER.framework} {SGLANG_ROUTER.version}"
ROUTER_PACKAGE = f"sglang-router=={SGLANG_ROUTER.version}"

_VENDORS = ("NVIDIA", "AMD")
#: ``--quantization`` of a bf16 checkpoint, for linear layers and experts alike.
_QUANTISED = {"fp8": "fp8", "mxfp8": "mxfp8"}
_KV = {"bf16": "bf16", "fp8": "fp8_e4m3", "mxfp8": "mxfp8", "nvfp4": "nvfp4"}
_DEEPEP = {"serve": "auto", "prefill": "normal", "decode": "low_latency"}


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
    usage += [
        f"One engine of `{pool.role}` runs on {pool.nodes} nodes: set NODE_RANK and MASTER_ADDR on each."
        for pool in pools
        if pool.nodes > 1
    ]
    if any(pool.service.layout.dp > 1 for pool in pools):
        usage.append("Older releases spell --attn-dp-size N as --dp-size N --enable-dp-attention.")
    if any(pool.service.adapters.count for pool in pools):
        usage.append("Append --lora-paths NAME=PATH for each adapter.")
    return script.write(common.header(deployment, pools, CHECKED), every, usage)


def start(deployment: Deployment, pool: Pool) -> list[str]:
    """Lines of bash that start one engine."""
    service = pool.service
    if service.chip.vendor not in _VENDORS:
        raise EmitError(NAME, "chip.vendor", service.chip.vendor, _VENDORS)
    options: dict[str, Value] = {
        "--model-path": deployment.model_id,
        "--host": "0.0.0.0",
        "--port": PORT,
        **_parallel(pool),
        **_numbers(deployment, service),
        **_limits(service),
        **_speculation(service),
        **_adapters(service),
    }
    if pool.role != "serve":
        options |= {"--disaggregation-mode": pool.role, "--disaggregation-transfer-backend": "mooncake"}
    if pool.role == "prefill":
        options["--disaggregation-bootstrap-port"] = BOOTSTRAP_PORT
    lines = script.array("ARGS", script.arguments(SGLANG, options))
    return [*lines, 'exec python3 -m sglang.launch_server "${ARGS[@]}" "$@"']


def router(deployment: Deployment) -> list[str]:
    """Lines of bash that start the router; URLs come from the environment."""
    base: dict[str, Value] = {"--host": "0.0.0.0", "--port": ROUTER_PORT}
    check = SGLANG_ROUTER.check
    launch = 'exec python3 -m sglang_router.launch_router "${ARGS[@]}" "$@"'
    if not deployment.disaggregated:
        lines = script.array("ARGS", script.arguments(SGLANG_ROUTER, base))
        return [*lines, f"ARGS+=({check('--worker-urls')} ${{WORKER_URLS:?URLs of the engines}})", launch]
    prefill = f'{check("--prefill")} "${{url}}" {BOOTSTRAP_PORT}'
    return [
        *script.array("ARGS", script.arguments(SGLANG_ROUTER, base | {"--pd-disaggregation": True})),
        f"for url in ${{PREFILL_URLS:?URLs of prefill}}; do ARGS+=({prefill}); done",
        f'for url in ${{DECODE_URLS:?URLs of decode}}; do ARGS+=({check("--decode")} "${{url}}"); done',
        launch,
    ]


def _parallel(pool: Pool) -> dict[str, Value]:
    """SGLang's tp counts all ranks of a stage; attention is divided over what dp and cp leave of them."""
    layout, engine = pool.service.layout, pool.service.engine
    ranks = layout.tp * layout.dp
    options: dict[str, Value] = {
        "--tp-size": ranks * layout.cp,
        "--pp-size": layout.pp if layout.pp > 1 else None,
        "--attn-dp-size": layout.dp if layout.dp > 1 else None,
        "--ep-size": layout.ep if layout.ep > 1 else None,
    }
    if layout.cp > 1:
        options |= _context(pool)
    if layout.ep > 1 and engine.dispatcher == "deepep":
        if layout.ep != ranks:
            raise EmitError(NAME, "layout.ep", layout.ep, [ranks], "DeepEP spreads experts over all ranks")
        options |= {"--moe-a2a-backend": "deepep", "--deepep-mode": _DEEPEP[pool.role]}
    if pool.nodes > 1:
        address = '"${MASTER_ADDR:?address of node 0}":' + str(RENDEZVOUS_PORT)
        options |= {
            "--nnodes": pool.nodes,
            "--node-rank": Word(NODE_RANK),
            "--dist-init-addr": Word(address),
        }
    return options


def _context(pool: Pool) -> dict[str, Value]:
    """Prefill context parallelism: experts are repeated on each of its ranks, as attention is."""
    layout = pool.service.layout
    if layout.pp > 1:
        raise EmitError(NAME, "layout.pp", layout.pp, [1], f"with cp {layout.cp}")
    if not pool.is_moe:
        raise EmitError(NAME, "layout.cp", layout.cp, [1], "documented for mixture-of-experts models only")
    if layout.ep not in (1, layout.tp * layout.dp):
        choices = sorted({1, layout.tp * layout.dp})
        raise EmitError(NAME, "layout.ep", layout.ep, choices, f"with cp {layout.cp}")
    return {
        "--attn-cp-size": layout.cp,
        "--enable-prefill-cp": True,
        "--cp-strategy": "zigzag",
        "--moe-dp-size": layout.cp,
    }


def _numbers(deployment: Deployment, service: Service) -> dict[str, Value]:
    page = service.engine.block_size
    return {
        "--quantization": common.quantisation(NAME, deployment, service, _QUANTISED),
        "--kv-cache-dtype": common.one_of(NAME, "precision.kv", service.precision.kv, _KV),
        "--page-size": page if page > 1 else None,
    }


def _limits(service: Service) -> dict[str, Value]:
    """Requests and chunk are counted over all attention ranks: SGLang divides them."""
    engine, dp = service.engine, service.layout.dp
    whole = engine.schedule == "whole"
    return {
        "--mem-fraction-static": common.memory_fraction(NAME, service, "total"),
        "--context-length": service.limits.max_context,
        "--max-running-requests": service.max_seqs * dp,
        "--chunked-prefill-size": -1 if whole else service.max_batched_tokens * dp,
        "--max-prefill-tokens": service.max_batched_tokens,
        "--enable-mixed-chunk": engine.schedule == "chunked",
        "--disable-radix-cache": not common.prefix_cache(service),
        "--disable-decode-cuda-graph": engine.graph_batch == 0,
    }


def _speculation(service: Service) -> dict[str, Value]:
    speculation = service.speculation
    if speculation.method == "none":
        return {}
    options: dict[str, Value] = {"--speculative-algorithm": "NEXTN"}
    if speculation.draft is not None and speculation.method == "draft":
        if service.layout.dp > 1:
            why = "a draft model does not go with data-parallel attention"
            raise EmitError(NAME, "speculation.method", "draft", ["none", "mtp"], why)
        options = {
            "--speculative-algorithm": "STANDALONE",
            "--speculative-draft-model-path": model_id_of(speculation.draft),
        }
    return options | {
        "--speculative-num-steps": speculation.drafts,
        "--speculative-eagle-topk": 1,
        "--speculative-num-draft-tokens": speculation.drafts + 1,  # the drafts and the token they follow
    }


def _adapters(service: Service) -> dict[str, Value]:
    adapters = service.adapters
    if not adapters.count:
        return {}
    return {
        "--enable-lora": True,
        "--max-loras-per-batch": adapters.count,
        "--max-lora-rank": adapters.rank,
        "--lora-target-modules": "all",
    }
