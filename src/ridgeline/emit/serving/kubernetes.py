"""Kubernetes manifest: one engine behind a Service, or pools of prefill and decode engines behind a router.

An engine that fits a node is a pod of a Deployment (or of a StatefulSet, whose pods have names that the router can
be given); one that does not is a group of a LeaderWorkerSet.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from ridgeline.emit.comments import comments
from ridgeline.emit.errors import EmitError
from ridgeline.emit.serving import pools as common
from ridgeline.emit.serving import sglang, trtllm, vllm
from ridgeline.emit.serving.documented import SGLANG, VLLM
from ridgeline.emit.serving.pools import Pool, pools_of
from ridgeline.facts.serving import Deployment

NAME = "kubernetes"

#: Extended resource of one chip, by the vendor whose device plugin gives it.
RESOURCES = {"NVIDIA": "nvidia.com/gpu", "AMD": "amd.com/gpu", "Google": "google.com/tpu"}
_MODULES = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}
_PORTS = {"vllm": vllm.PORT, "sglang": sglang.PORT, "trtllm": trtllm.PORT}
_IMAGES = {
    ("vllm", "NVIDIA"): f"vllm/vllm-openai:v{VLLM.version}",
    ("sglang", "NVIDIA"): f"lmsysorg/sglang:v{SGLANG.version}",
    ("trtllm", "NVIDIA"): "nvcr.io/nvidia/tensorrt-llm/release:REPLACE",
}
_ROUTER_IMAGE = "python:3.12-slim"
_SHARED_MEMORY = "32Gi"
_LOAD_MINUTES = 60  # that an engine may take to load its weights

Manifest = dict[str, Any]


def write(deployment: Deployment) -> str:
    """The manifest; objects are separated by ``---``."""
    framework = deployment.services[0][0].engine.framework
    pools = pools_of(framework, deployment)
    name = _dns(pools[0].service.architecture.name)
    objects: list[Manifest] = []
    for pool in pools:
        objects += _pool(deployment, pool, name if pool.role == "serve" else f"{name}-{pool.role}")
    if deployment.disaggregated:
        objects += _router(deployment, pools, name)
    checked = _MODULES[framework].CHECKED
    notes = [
        "The cache of weights is lost with its pod: put a persistent volume in its place.",
        "A secret `hf-token` with a key `token` is read where it exists.",
    ]
    if any(pool.nodes > 1 for pool in pools):
        notes.append("LeaderWorkerSet (leaderworkerset.x-k8s.io) must be installed.")
    if deployment.disaggregated or any(pool.nodes > 1 for pool in pools):
        notes.append("Add the resources and networks by which your pods reach RDMA.")
    if "REPLACE" in str(objects):
        notes.append("Replace each image whose tag says REPLACE with the one you run.")
    if any(pool.service.chip.vendor == "Google" for pool in pools):
        notes.append("Add node selectors of your TPU slice: accelerator and topology.")
    head = [*common.header(deployment, pools, checked), *notes]
    return "\n".join(comments(head)) + "\n" + "---\n".join(_dump(item) for item in objects)


def _pool(deployment: Deployment, pool: Pool, name: str) -> list[Manifest]:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": pool.role}
    template = {"metadata": {"labels": labels}, "spec": _pod(deployment, pool)}
    if pool.nodes > 1:
        # LeaderWorkerSet makes a headless Service of its own name for its pods.
        front = [_service(f"{name}-api", _leaders(labels), _port(pool))] if pool.role == "serve" else []
        return [_group(pool, name, template, worker=_pod(deployment, pool, leader=False)), *front]
    kind = "Deployment" if pool.role == "serve" else "StatefulSet"
    spec: Manifest = {"replicas": pool.copies, "selector": {"matchLabels": labels}, "template": template}
    headless = kind == "StatefulSet"
    if headless:
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    workload = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }
    return [workload, _service(name, labels, _port(pool), headless=headless)]


def _group(pool: Pool, name: str, template: Manifest, *, worker: Manifest) -> Manifest:
    """One engine on several nodes. Only its leader serves an API, so only the leader has probes."""
    if pool.service.engine.framework == "trtllm":
        choices = [f"at most {pool.service.cluster.chips_per_node} chips, which share a node"]
        raise EmitError(
            NAME, "layout", f"{pool.service.layout}", choices, "TensorRT-LLM joins nodes with MPI"
        )
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name, "labels": template["metadata"]["labels"]},
        "spec": {
            "replicas": pool.copies,
            "leaderWorkerTemplate": {
                "size": pool.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": template,
                "workerTemplate": {"metadata": template["metadata"], "spec": worker},
            },
        },
    }


def _leaders(labels: dict[str, str]) -> dict[str, str]:
    return labels | {"leaderworkerset.sigs.k8s.io/worker-index": "0"}


def _pod(deployment: Deployment, pool: Pool, *, leader: bool = True) -> Manifest:
    service = pool.service
    vendor, framework = service.chip.vendor, service.engine.framework
    if vendor not in RESOURCES:
        raise EmitError(NAME, "chip.vendor", vendor, RESOURCES)
    if pool.role != "serve" and vendor == "Google":
        raise EmitError(NAME, "chip.vendor", vendor, ["NVIDIA", "AMD"], "KV transfer between engines")
    body = _MODULES[framework].start(deployment, pool)
    image = _IMAGES.get((framework, vendor), f"{framework}-{vendor.lower()}:REPLACE")
    container: Manifest = {
        "name": framework,
        "image": image,
        "command": ["/bin/bash", "-c"],
        "args": [_script(["set -euo pipefail", *body])],
        "env": _environment(pool),
        "ports": [{"name": "http", "containerPort": _port(pool)}],
        "resources": {"limits": {RESOURCES[vendor]: pool.chips_per_node}},
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "weights", "mountPath": "/root/.cache/huggingface"},
        ],
    }
    if leader:
        health = {"httpGet": {"path": "/health", "port": "http"}}
        container |= {
            "startupProbe": health | {"periodSeconds": 10, "failureThreshold": 6 * _LOAD_MINUTES},
            "readinessProbe": health | {"periodSeconds": 5, "failureThreshold": 3},
            "livenessProbe": health | {"periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        }
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHARED_MEMORY}},
        {"name": "weights", "emptyDir": {}},
    ]
    # without links no Service becomes an environment variable that an engine takes for its own
    return {"enableServiceLinks": False, "containers": [container], "volumes": volumes}


def _environment(pool: Pool) -> list[Manifest]:
    token = {"secretKeyRef": {"name": "hf-token", "key": "token", "optional": True}}
    env: list[Manifest] = [{"name": "HF_TOKEN", "valueFrom": token}]
    if pool.role != "serve" and pool.service.engine.framework == "vllm":
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        env.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": address})
    if pool.nodes > 1:
        env += [
            {"name": "NODE_RANK", "value": "$(LWS_WORKER_INDEX)"},
            {"name": "MASTER_ADDR", "value": "$(LWS_LEADER_ADDRESS)"},
        ]
    return env


def _router(deployment: Deployment, pools: tuple[Pool, ...], name: str) -> list[Manifest]:
    """The router knows each engine by the name of its pod."""
    pool = pools[0]
    framework = pool.service.engine.framework
    module = _MODULES[framework]
    image, body = _ROUTER_IMAGE, ["set -euo pipefail"]
    package = getattr(module, "ROUTER_PACKAGE", "")
    if package:
        body.append(f"pip install --quiet {package}")
    else:  # TensorRT-LLM has its router inside
        image = _IMAGES[framework, pool.service.chip.vendor]
    body += module.router(deployment)
    labels = {"app.kubernetes.io/name": f"{name}-router", "app.kubernetes.io/component": "router"}
    env = [
        {"name": f"{each.role.upper()}_URLS", "value": " ".join(_urls(each, f"{name}-{each.role}"))}
        for each in pools
    ]
    port = module.ROUTER_PORT
    container = {
        "name": "router",
        "image": image,
        "command": ["/bin/bash", "-c"],
        "args": [_script(body)],
        "env": env,
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 5},
    }
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
    }
    metadata = {"name": f"{name}-router", "labels": labels}
    return [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec},
        _service(f"{name}-router", labels, port),
    ]


def _urls(pool: Pool, name: str) -> list[str]:
    """Pods of a StatefulSet and leaders of a LeaderWorkerSet are named alike, under a Service of the same name."""
    return [f"http://{name}-{index}.{name}:{_port(pool)}" for index in range(pool.copies)]


def _service(name: str, selector: dict[str, str], port: int, *, headless: bool = False) -> Manifest:
    spec: Manifest = {"selector": selector, "ports": [{"name": "http", "port": port, "targetPort": "http"}]}
    if headless:
        spec |= {"clusterIP": "None", "publishNotReadyAddresses": True}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _port(pool: Pool) -> int:
    return _PORTS[pool.service.engine.framework]


def _script(body: list[str]) -> str:
    """Bash as an argument of a container: Kubernetes puts values in place of ``$(NAME)`` before bash sees it."""
    return re.sub(r"\$(?=[$(])", "$$", "\n".join([*body, ""]))


def _dns(name: str) -> str:
    """A name that Kubernetes takes: a Service's begins with a letter."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not found[:1].isalpha():
        found = f"model-{found}"
    return found[:40].strip("-")


class _Dumper(yaml.SafeDumper):
    """Scripts as blocks, and no anchors for what is said twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _dump(item: Manifest) -> str:
    return yaml.dump(item, Dumper=_Dumper, sort_keys=False, width=1000)
