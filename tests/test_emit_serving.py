"""Serving emitters: what they write parses, says what the deployment says, refuses the rest."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from ridgeline.emit.serving import SERVING_FRAMEWORKS, SERVING_SUFFIX, EmitError, emit_serving
from ridgeline.emit.serving.documented import (
    SGLANG,
    SGLANG_ROUTER,
    TRTLLM,
    TRTLLM_OPTIONS,
    VLLM,
    VLLM_ROUTER,
)
from ridgeline.facts import catalog
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.engine import Engine
from ridgeline.facts.kernel_calibration import KernelSet
from ridgeline.facts.serving import (
    Deployment,
    Layout,
    Limits,
    Precision,
    Service,
    Speculation,
    model_id_of,
)

NO_CALIBRATION = cast(Calibration, None)  # an emitter never looks at it
HABITS: dict[str, dict[str, Any]] = {
    "vllm": {"schedule": "chunked", "dispatcher": "all_gather"},
    "sglang": {"schedule": "prefill_first", "block_size": 1},
    "trtllm": {"schedule": "whole", "block_size": 32, "memory_of": "free"},
}
ENGINES = tuple(HABITS)


def engine(framework: str, **changes: Any) -> Engine:
    facts = {
        "name": f"{framework}-test",
        "title": framework,
        "framework": framework,
        "since": "2025-01",
        "versions": "0..1",
        "reserve": "1 GB",
        "host_step": "1 ms",
        "host_launch": "4 us",
        "source": "test",
    }
    return Engine(**(facts | HABITS[framework] | changes))


def stored(precision: Precision) -> Precision:
    """A service knows the format of its cache."""
    return replace(precision, kv="bf16") if precision.kv == "auto" else precision


def service(framework: str, model: str, layout: Layout, **changes: Any) -> Service:
    chip = changes.pop("chip", "h100-sxm")
    cluster = changes.pop("cluster", "dgx-h100")
    habits = changes.pop("engine", {})
    return Service(
        architecture=catalog.architecture(model),
        chip=catalog.chip(chip),
        cluster=catalog.cluster(cluster),
        layout=layout,
        precision=stored(changes.pop("precision", Precision())),
        engine=engine(framework, **habits),
        calibration=NO_CALIBRATION,
        kernels=KernelSet(),
        **changes,
    )


def alone(made: Service, **changes: Any) -> Deployment:
    return Deployment(model_id=model_id_of(made.architecture), service=made, **changes)


def dense(framework: str) -> Deployment:
    limits = Limits(max_seqs=128, max_batched_tokens=4096, max_context=32768, memory_fraction=0.85)
    return alone(service(framework, "llama-3.1-70b", Layout(tp=8), limits=limits))


def experts(framework: str) -> Deployment:
    precision = Precision(linear="fp8-block", kv="fp8")
    made = service(
        framework,
        "deepseek-v3",
        Layout(dp=16, ep=16),
        precision=precision,
        cluster="dgx-h200",
        chip="h200-sxm",
        engine={"dispatcher": "deepep"},
        speculation=Speculation(method="mtp", acceptance=(0.85,)),
        limits=Limits(prefix_cache=False),
    )
    return alone(made, replicas=2)


def split(framework: str) -> Deployment:
    prefill = service(framework, "qwen3-235b-a22b", Layout(tp=8, ep=8))
    decode = service(framework, "qwen3-235b-a22b", Layout(dp=8, ep=8))
    return Deployment(
        model_id="Qwen/Qwen3-235B-A22B",
        prefill=prefill,
        prefill_replicas=2,
        decode=decode,
        decode_replicas=3,
    )


CASES = [
    pytest.param(framework, make, id=f"{framework}-{make.__name__}")
    for framework in ENGINES
    for make in (dense, experts, split)
]
STUB = (
    'srv() { echo "CALL $*"; for a in "$@"; do printf \'%s\\n\' "$a"; done; exit 0; }\n'
    'vllm() { srv "$@"; }; python3() { srv "$@"; }; trtllm-serve() { srv "$@"; }\n'
    'vllm-router() { srv "$@"; }; trtllm-llmapi-launch() { shift; srv "$@"; }\n'
    'exec() { "$@"; }\n'
)


def bash(script: str, *arguments: str, **environment: str) -> list[str]:
    """What the server or router would receive: the script is run with its programs replaced by printf."""
    shell = shutil.which("bash")
    assert shell is not None
    path = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [shell, "-s", *arguments],
        input=STUB + script,
        text=True,
        check=True,
        capture_output=True,
        env=path | environment,
    )
    return done.stdout.split("\n")[1:-1]


NODE = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
URLS = {
    "PREFILL_URLS": "http://p0:8000 http://p1:8000",
    "DECODE_URLS": "http://d0:8000",
    "WORKER_URLS": "http://w0:8000 http://w1:8000",
}


def roles_of(text: str) -> list[str]:
    return re.findall(r"^(serve|prefill|decode|router)\)$", text, re.MULTILINE) or [""]


def received(text: str, role: str = "") -> list[str]:
    return bash(text, *([role] if role else []), **NODE, **URLS)


def value(got: list[str], option: str) -> str:
    return got[got.index(option) + 1]


def options_file(text: str, role: str = "") -> dict[str, Any]:
    body = text.split(f"{role})\n", 1)[1] if role else text
    return cast(dict[str, Any], yaml.safe_load(body.split("<<'YAML'\n", 1)[1].split("\nYAML\n", 1)[0]))


def paths(options: dict[str, Any], parent: str = "") -> set[str]:
    found = {parent + key for key in options}
    for key, inner in options.items():
        if isinstance(inner, dict):
            found |= paths(inner, f"{parent}{key}.")
    return found


@pytest.mark.parametrize(("framework", "make"), CASES)
def test_bash_reads_the_script(framework: str, make: Any) -> None:
    deployment = make(framework)
    text = emit_serving(framework, deployment)
    shell = shutil.which("bash")
    assert shell is not None
    subprocess.run([shell, "-n"], input=text, text=True, check=True)
    assert deployment.services[0][0].architecture.title in text
    assert SERVING_SUFFIX[framework] == ".sh"


@pytest.mark.parametrize(("framework", "make"), CASES)
def test_every_option_is_documented(framework: str, make: Any) -> None:
    text = emit_serving(framework, make(framework))
    engines = {"vllm": VLLM, "sglang": SGLANG, "trtllm": TRTLLM}
    routers = {"vllm": VLLM_ROUTER, "sglang": SGLANG_ROUTER, "trtllm": TRTLLM}
    for role in roles_of(text):
        got = {word for word in received(text, role) if word.startswith("--")}
        assert got
        assert got <= (routers if role == "router" else engines)[framework].options
        if framework == "trtllm" and role != "router":
            assert paths(options_file(text, role)) <= TRTLLM_OPTIONS.options


@pytest.mark.parametrize("framework", ENGINES)
def test_the_model_is_the_one_asked_for(framework: str) -> None:
    assert "meta-llama/Llama-3.1-70B" in received(emit_serving(framework, dense(framework)))


def test_vllm_says_what_the_service_says() -> None:
    got = received(emit_serving("vllm", dense("vllm")))
    assert got[:2] == ["serve", "meta-llama/Llama-3.1-70B"]
    assert value(got, "--tensor-parallel-size") == "8"
    assert value(got, "--max-num-seqs") == "128"
    assert value(got, "--max-num-batched-tokens") == "4096"
    assert value(got, "--max-model-len") == "32768"
    assert value(got, "--gpu-memory-utilization") == "0.85"
    assert value(got, "--kv-cache-dtype") == "bfloat16"
    assert "--enable-prefix-caching" in got
    assert "--enable-chunked-prefill" in got
    for absent in ("--data-parallel-size", "--enable-expert-parallel", "--nnodes", "--quantization"):
        assert absent not in got


def test_vllm_spreads_ranks_over_nodes() -> None:
    text = emit_serving("vllm", experts("vllm"))
    second = received(text, "serve")
    assert value(second, "--data-parallel-size") == "16"
    assert value(second, "--data-parallel-size-local") == "8"
    assert value(second, "--data-parallel-address") == "10.0.0.1"
    assert value(second, "--data-parallel-start-rank") == "8"
    assert "--headless" in second
    first = bash(text, "serve", NODE_RANK="0", MASTER_ADDR="10.0.0.1")
    assert "--headless" not in first
    assert "--data-parallel-start-rank" not in first
    assert "--enable-expert-parallel" in first
    assert value(first, "--all2all-backend") == "deepep_high_throughput"
    assert value(first, "--kv-cache-dtype") == "fp8"
    assert "--no-enable-prefix-caching" in first
    assert json.loads(value(first, "--speculative-config")) == {"method": "mtp", "num_speculative_tokens": 1}
    assert received(text, "router")[-2:] == ["http://w0:8000", "http://w1:8000"]


def test_vllm_names_the_two_ends_of_a_transfer() -> None:
    text = emit_serving("vllm", split("vllm"))
    for role, end in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        config = json.loads(value(received(text, role), "--kv-transfer-config"))
        assert config == {"kv_connector": "NixlConnector", "kv_role": end}
    got = received(text, "router")
    assert "--vllm-pd-disaggregation" in got
    assert got.count("--prefill") == 2
    assert value(got, "--decode") == "http://d0:8000"


def test_sglang_counts_over_all_attention_ranks() -> None:
    got = received(emit_serving("sglang", experts("sglang")), "serve")
    assert value(got, "--tp-size") == "16"
    assert value(got, "--attn-dp-size") == "16"
    assert value(got, "--ep-size") == "16"
    assert value(got, "--max-running-requests") == str(16 * 256)
    assert value(got, "--chunked-prefill-size") == str(16 * 8192)
    assert value(got, "--max-prefill-tokens") == "8192"
    assert value(got, "--kv-cache-dtype") == "fp8_e4m3"
    assert value(got, "--moe-a2a-backend") == "deepep"
    assert value(got, "--speculative-algorithm") == "NEXTN"
    assert value(got, "--speculative-num-steps") == "1"
    assert value(got, "--speculative-num-draft-tokens") == "2"
    assert value(got, "--dist-init-addr") == "10.0.0.1:20000"
    assert value(got, "--node-rank") == "1"
    assert "--disable-radix-cache" in got


def test_sglang_repeats_experts_over_context_ranks() -> None:
    made = service("sglang", "qwen3-235b-a22b", Layout(tp=4, cp=2, ep=4))
    got = received(emit_serving("sglang", alone(made)))
    assert value(got, "--tp-size") == "8"
    assert value(got, "--attn-cp-size") == "2"
    assert value(got, "--moe-dp-size") == "2"
    assert value(got, "--ep-size") == "4"
    assert "--enable-prefill-cp" in got


def test_sglang_router_is_told_the_bootstrap_port() -> None:
    text = emit_serving("sglang", split("sglang"))
    assert value(received(text, "prefill"), "--disaggregation-bootstrap-port") == "8998"
    assert value(received(text, "decode"), "--disaggregation-mode") == "decode"
    got = received(text, "router")
    at = got.index("--prefill")
    assert got[at : at + 3] == ["--prefill", "http://p0:8000", "8998"]


def test_trtllm_writes_its_options_file() -> None:
    text = emit_serving("trtllm", experts("trtllm"))
    got = received(text)
    assert got[:3] == ["serve", "deepseek-ai/DeepSeek-V3", "--host"]
    assert value(got, "--tp_size") == "16"
    assert value(got, "--ep_size") == "16"
    assert options_file(text) == {
        "moe_tensor_parallel_size": 1,
        "enable_attention_dp": True,
        "enable_chunked_prefill": False,
        "kv_cache_config": {"dtype": "fp8", "free_gpu_memory_fraction": 0.9, "enable_block_reuse": False},
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": 256},
        "speculative_config": {"decoding_type": "MTP", "max_draft_len": 1},
    }
    assert Path(value(got, "--extra_llm_api_options")).read_text(encoding="utf-8").startswith("moe_tensor")
    assert "srun -N 2 --ntasks-per-node=8" in text


def test_trtllm_front_lists_both_kinds_of_servers() -> None:
    text = emit_serving("trtllm", split("trtllm"))
    config = yaml.safe_load(
        Path(value(received(text, "router"), "--config_file")).read_text(encoding="utf-8")
    )
    assert config["context_servers"] == {"num_instances": 2, "urls": ["p0:8000", "p1:8000"]}
    assert config["generation_servers"] == {"num_instances": 3, "urls": ["d0:8000"]}
    prefill = options_file(text, "prefill")
    assert prefill["disable_overlap_scheduler"] is True
    assert prefill["cache_transceiver_config"]["backend"] == "NIXL"
    assert "disable_overlap_scheduler" not in options_file(text, "decode")


def test_a_draft_model_is_named_by_its_own_id() -> None:
    draft = Speculation(
        method="draft", acceptance=(0.7, 0.6, 0.5), draft=catalog.architecture("llama-3.2-1b")
    )
    made = {
        name: emit_serving(name, alone(service(name, "llama-3.1-70b", Layout(tp=8), speculation=draft)))
        for name in ENGINES
    }
    assert json.loads(value(received(made["vllm"]), "--speculative-config")) == {
        "method": "draft_model",
        "num_speculative_tokens": 3,
        "model": "meta-llama/Llama-3.2-1B",
    }
    got = received(made["sglang"])
    assert value(got, "--speculative-algorithm") == "STANDALONE"
    assert value(got, "--speculative-draft-model-path") == "meta-llama/Llama-3.2-1B"
    assert options_file(made["trtllm"])["speculative_config"] == {
        "decoding_type": "Draft_Target",
        "max_draft_len": 3,
        "speculative_model": "meta-llama/Llama-3.2-1B",
    }


def test_weights_are_quantised_only_where_the_checkpoint_differs() -> None:
    made = service("vllm", "llama-3.1-8b", Layout(), precision=Precision(linear="fp8"))
    assert "--quantization" not in received(emit_serving("vllm", alone(made)))
    loaded = received(emit_serving("vllm", alone(made, checkpoint="bf16")))
    assert value(loaded, "--quantization") == "fp8_per_tensor"
    made = service("sglang", "llama-3.1-8b", Layout(), precision=Precision(linear="fp8"))
    loaded = received(emit_serving("sglang", alone(made, checkpoint="bf16")))
    assert value(loaded, "--quantization") == "fp8"


def manifest(deployment: Deployment) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(emit_serving("kubernetes", deployment)))


def container_of(workload: dict[str, Any]) -> dict[str, Any]:
    spec = workload["spec"]
    template = spec.get("template") or spec["leaderWorkerTemplate"]["leaderTemplate"]
    return cast(dict[str, Any], template["spec"]["containers"][0])


def script_of(container: dict[str, Any]) -> str:
    """The script that bash gets of a container: Kubernetes makes one dollar of two."""
    return cast(str, container["args"][0]).replace("$$", "$")


@pytest.mark.parametrize("framework", ENGINES)
def test_kubernetes_one_engine(framework: str) -> None:
    workload, front = manifest(dense(framework))
    assert (workload["kind"], front["kind"]) == ("Deployment", "Service")
    container = container_of(workload)
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    assert container["startupProbe"]["httpGet"]["path"] == "/health"
    volumes = {item["name"]: item for item in workload["spec"]["template"]["spec"]["volumes"]}
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    script = emit_serving(framework, dense(framework))
    written = received(script_of(container))
    told = [word for word in received(script) if not word.startswith("/tmp/")]
    assert [word for word in written if not word.startswith("/tmp/")] == told
    assert front["spec"]["selector"] == workload["spec"]["selector"]["matchLabels"]


@pytest.mark.parametrize("framework", ENGINES)
def test_kubernetes_pools_and_their_router(framework: str) -> None:
    objects = manifest(split(framework))
    kinds = [(item["kind"], item["metadata"]["name"].rsplit("-", 1)[-1]) for item in objects]
    assert kinds == [
        ("StatefulSet", "prefill"),
        ("Service", "prefill"),
        ("StatefulSet", "decode"),
        ("Service", "decode"),
        ("Deployment", "router"),
        ("Service", "router"),
    ]
    assert [item["spec"]["replicas"] for item in objects if "replicas" in item["spec"]] == [2, 3, 1]
    router = container_of(objects[4])
    urls = {item["name"]: item["value"].split() for item in router["env"]}
    port = container_of(objects[0])["ports"][0]["containerPort"]
    name = "qwen3-235b-a22b-prefill"
    assert urls["PREFILL_URLS"] == [f"http://{name}-{index}.{name}:{port}" for index in range(2)]
    assert len(urls["DECODE_URLS"]) == 3
    assert objects[0]["spec"]["serviceName"] == objects[1]["metadata"]["name"]
    body = re.sub(r"^pip .*$", "", script_of(router), flags=re.MULTILINE)
    assert bash(body, PREFILL_URLS=" ".join(urls["PREFILL_URLS"]), DECODE_URLS="http://d0:1")


def test_kubernetes_groups_nodes_of_one_engine() -> None:
    group, front = manifest(experts("vllm"))
    assert group["kind"] == "LeaderWorkerSet"
    assert group["spec"]["replicas"] == 2
    template = group["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 2
    worker = template["workerTemplate"]["spec"]["containers"][0]
    assert "readinessProbe" not in worker
    env = {item["name"]: item.get("value") for item in worker["env"]}
    assert env["NODE_RANK"] == "$(LWS_WORKER_INDEX)"
    assert front["metadata"]["name"] != group["metadata"]["name"]  # the group makes a Service of its own name
    assert front["spec"]["selector"]["leaderworkerset.sigs.k8s.io/worker-index"] == "0"
    with pytest.raises(EmitError, match="MPI"):
        emit_serving("kubernetes", experts("trtllm"))


def test_kubernetes_asks_for_the_vendors_resource() -> None:
    made = service("vllm", "llama-3.1-8b", Layout(), chip="mi300x", cluster="mi300x-8")
    assert container_of(manifest(alone(made))[0])["resources"]["limits"] == {"amd.com/gpu": 1}
    made = service("vllm", "llama-3.1-8b", Layout(tp=4), chip="tpu-v6e", cluster="tpu-v5e-pod")
    assert container_of(manifest(alone(made))[0])["resources"]["limits"] == {"google.com/tpu": 4}
    made = service("vllm", "llama-3.1-8b", Layout(), chip="trainium2", cluster="trn3-ultra")
    with pytest.raises(EmitError, match=r"chip\.vendor = AWS"):
        emit_serving("kubernetes", alone(made))


MTP = Speculation(method="mtp", acceptance=(0.8,))
DRAFT = Speculation(method="draft", acceptance=(0.8,), draft=catalog.architecture("llama-3.2-1b"))
REFUSED: list[tuple[str, str, Layout, dict[str, Any], str]] = [
    ("vllm", "llama-3.1-8b", Layout(dp=2), {}, "layout.dp = 2"),
    ("vllm", "qwen3-30b-a3b", Layout(tp=8, ep=4), {}, r"layout.ep = 4.*choose 1 or 8"),
    ("vllm", "qwen3-30b-a3b", Layout(tp=2, cp=2), {}, "layout.cp = 2"),
    ("vllm", "llama-3.1-8b", Layout(), {"precision": Precision(kv="mxfp8")}, "precision.kv = mxfp8"),
    ("vllm", "llama-3.1-8b", Layout(), {"speculation": MTP}, "ships no such layers"),
    ("vllm", "llama-3.1-8b", Layout(), {"engine": {"schedule": "prefill_first"}}, "engine.schedule"),
    ("vllm", "llama-3.1-8b", Layout(), {"engine": {"memory_of": "free"}}, "engine.memory_of = free"),
    ("vllm", "qwen3-30b-a3b", Layout(tp=16, dp=3), {}, "layout.dp = 3"),
    ("sglang", "llama-3.1-8b", Layout(cp=2), {}, "layout.cp = 2"),
    ("sglang", "qwen3-30b-a3b", Layout(cp=2, pp=2), {}, "layout.pp = 2"),
    ("sglang", "qwen3-30b-a3b", Layout(dp=2), {"speculation": DRAFT}, "data-parallel attention"),
    ("sglang", "qwen3-30b-a3b", Layout(tp=4, ep=2), {"engine": {"dispatcher": "deepep"}}, "layout.ep = 2"),
    ("trtllm", "qwen3-30b-a3b", Layout(tp=2, dp=4), {}, "layout.tp = 2"),
    ("trtllm", "llama-3.1-8b", Layout(cp=2), {}, "layout.cp = 2"),
    ("trtllm", "llama-3.1-8b", Layout(), {"chip": "mi300x", "cluster": "mi300x-8"}, "chip.vendor = AMD"),
    ("trtllm", "llama-3.1-8b", Layout(), {"engine": {"memory_of": "total"}}, "engine.memory_of = total"),
    ("sglang", "llama-3.1-8b", Layout(tp=12), {}, "whole nodes"),
    ("sglang", "qwen3-30b-a3b", Layout(tp=4, ep=3), {}, "layout.ep = 3"),
]


@pytest.mark.parametrize(("framework", "model", "layout", "changes", "match"), REFUSED)
def test_what_cannot_be_said_is_refused(
    framework: str, model: str, layout: Layout, changes: dict[str, Any], match: str
) -> None:
    with pytest.raises(EmitError, match=match):
        emit_serving(framework, alone(service(framework, model, layout, **changes)))


def test_other_refusals() -> None:
    made = service("vllm", "llama-3.1-8b", Layout(), precision=Precision(linear="nvfp4"))
    with pytest.raises(EmitError, match=r"precision.linear = nvfp4.*choose bf16"):
        emit_serving("vllm", alone(made, checkpoint="bf16"))
    with pytest.raises(EmitError, match="checkpoint = fp8"):
        emit_serving("vllm", alone(made, checkpoint="fp8"))
    mixed = made.replace(precision=Precision(linear="fp8", attention="bf16"))
    with pytest.raises(EmitError, match=r"precision\.attention = bf16"):
        emit_serving("vllm", alone(mixed, checkpoint="bf16"))
    with pytest.raises(EmitError, match="engine = vllm-test"):
        emit_serving("sglang", alone(made))
    with pytest.raises(EmitError, match="framework = tgi"):
        emit_serving("tgi", alone(made))
    other = service("vllm", "llama-3.1-70b", Layout(tp=8))
    with pytest.raises(EmitError, match=r"decode.architecture = llama-3.1-70b"):
        emit_serving("vllm", Deployment(model_id="x", prefill=made, decode=other))
    narrow = made.replace(precision=Precision(kv="fp8"))
    with pytest.raises(EmitError, match=r"decode.precision.kv = fp8.*choose bf16"):
        emit_serving("vllm", Deployment(model_id="x", prefill=made, decode=narrow))


def test_a_deployment_has_one_shape() -> None:
    made = service("vllm", "llama-3.1-8b", Layout())
    for wrong in ({}, {"prefill": made}, {"service": made, "prefill": made, "decode": made}):
        with pytest.raises(ValueError, match="give `service`, or both"):
            Deployment(model_id="x", **wrong)
    with pytest.raises(ValueError, match="replicas is 0"):
        Deployment(model_id="x", service=made, replicas=0)
    assert alone(made, replicas=3).chips == 3
    assert set(SERVING_FRAMEWORKS) == set(SERVING_SUFFIX)


def test_model_ids_are_read_from_sources() -> None:
    assert model_id_of(catalog.architecture("llama-3.1-70b")) == "meta-llama/Llama-3.1-70B"
    assert model_id_of(catalog.architecture("bloom-176b")) == "bigscience/bloom"
    assert model_id_of(catalog.architecture("opt-1.3b")) == "facebook/opt-1.3b"
    assert model_id_of(catalog.architecture("gpt3-175b")) == "gpt3-175b"
