"""F9: launch files of a chosen deployment for the engines that serve it, and a manifest for Kubernetes."""

from __future__ import annotations

from ridgeline.emit.errors import EmitError
from ridgeline.emit.serving import kubernetes, sglang, trtllm, vllm
from ridgeline.facts.serving import Deployment

__all__ = ["SERVING_FRAMEWORKS", "SERVING_SUFFIX", "EmitError", "emit_serving"]

SERVING_FRAMEWORKS = ("vllm", "sglang", "trtllm", "kubernetes")
#: File name ending of what each of them reads.
SERVING_SUFFIX = {"vllm": ".sh", "sglang": ".sh", "trtllm": ".sh", "kubernetes": ".yaml"}

_WRITERS = {
    "vllm": vllm.write,
    "sglang": sglang.write,
    "trtllm": trtllm.write,
    "kubernetes": kubernetes.write,
}


def emit_serving(framework: str, deployment: Deployment) -> str:
    """The text of a launch file for one deployment.

    Args:
        framework: ``vllm``, ``sglang`` or ``trtllm`` (bash), or ``kubernetes`` (YAML; each engine's own framework).
        deployment: which engines, how many of them, and what they load.

    Raises:
        EmitError: the framework is unknown, or it cannot express the deployment; says which field.
    """
    if framework not in _WRITERS:
        raise EmitError("ridgeline", "framework", framework, SERVING_FRAMEWORKS)
    return _WRITERS[framework](deployment)
