"""Seeds of what Ridgeline writes and takes: results and reports read back, words of commands, changed fields."""

from __future__ import annotations

import functools
import json
import shlex
from dataclasses import replace
from typing import Any

from fuzzing.case import Case, one
from fuzzing.measured_seeds import shares as measured_shares
from fuzzing.seeds import entries, settings

#: A chip with a short calibration: a saved result holds the whole of it.
_JOB: dict[str, Any] = {
    "on": "tpu-v7", "chips": 8, "batch": 16, "seq": 2048, "tp": 2, "cp": 1, "pp": 1, "vpp": 1, "dp": 4,
    "micro_batch": 1, "zero": 1, "recompute": "none", "schedule": "1f1b",
}  # fmt: skip
TRAIN = (
    "train llama-3.2-1b --on h100-sxm --chips 8 --batch 16 --seq 2048 --tp 2 --cp 1 --pp 1 --vpp 1 --dp 4 "
    "--micro-batch 1 --zero 1 --recompute none --schedule 1f1b --top 1"
)  # fmt: skip
SERVE = (
    "serve llama-3.2-1b --on h100-sxm --chips 1 --isl 512 --osl 64 --concurrency 8 --engine vllm --tp 1 --pp 1 --dp 1 "
    "--precision bf16 --kv bf16 --chunk 2048 --no-speculate --aggregated --no-simulate --top 1"
)  # fmt: skip
_TRAIN_MORE = (
    "", " --tokens 1T --json", " --emit megatron", " --emit nemo",
    " --stack nemo-2025 --recipe bf16",
    " --kind lora", " --recompute full --recompute-layers 2", " --set chip.memory.bandwidth='4 TB/s'", " --replicas 2",
    " --ep 1 --etp 1",
    " --sequence-parallel --no-overlap-tp", " --offload-optimizer",
)  # fmt: skip
_SERVE_MORE = (
    "", " --json", " --emit vllm", " --engine sglang --emit sglang", " --emit kubernetes",
    " --ttft 2s --tpot 50ms",
    " --max-seqs 64", " --adapters 4 --adapter-rank 16", " --set engine.frontend='2 us'",
    " --replicas 1", " --cp 1 --ep 1",
    " --simulate --router prefix --urgent 0.2 --kv-tier host:200GB:50GB/s --preemption swap",
)  # fmt: skip
_OTHERS = (
    "catalog list", "catalog list chips --json", "catalog show h100-sxm --kind chips", "catalog schema chips",
    "catalog new chip my-chip", "catalog check my.yaml --kind links", "validate ata.csv --limit 3", "--version",
    "explain llama-3.2-1b --on h100-sxm --chips 8 --batch 16 --seq 2048 --tp 8 --json",
)  # fmt: skip
#: Their files are not there: the words are looked at, and the file is missed.
_ABSENT = (
    "explain r.json --set stack.host='2us'", "validate table.parquet --lent", "calibrate links a.parquet",
    "calibrate kernels a.parquet --chip h100-sxm --report", "calibrate steps runs.csv --json",
    "calibrate mixed t.csv --chip h100-sxm", "calibrate serving p.csv --rounds 1", "calibrate ranges p.csv",
)  # fmt: skip
ABSENT = "absent.words"


def _words(commands: tuple[str, ...], name: str = "a.words") -> list[Case]:
    return [one(name, json.dumps(shlex.split(command))) for command in commands]


def train_words() -> list[Case]:
    """Words of `train`: one small plan, with one more option each."""
    shipped = TRAIN.replace("llama-3.2-1b", "llama-3.1-8b")  # a shape that torchtitan has
    return _words((*(TRAIN + more for more in _TRAIN_MORE), f"{shipped} --zero 3 --emit torchtitan"))


def serve_words() -> list[Case]:
    """Words of `serve`: one small service, with one more option each."""
    return _words(tuple(SERVE + more for more in _SERVE_MORE))


def other_words() -> list[Case]:
    """Words of the other verbs, with files beside them or without."""
    (links, *_), (shares, *_) = entries("links"), measured_shares()
    beside = {"my.yaml": next(iter(links.files.values())), "ata.csv": next(iter(shares.files.values()))}
    known = [
        replace(case, files={**case.files, **beside}, fixed=frozenset(beside)) for case in _words(_OTHERS)
    ]
    return known + _words(_ABSENT, ABSENT)


@functools.cache
def scenario() -> Any:
    """A small job on a chip with a short calibration."""
    from ridgeline.api.training import train

    return train("llama-3.2-1b", **_JOB).prediction.scenario


def results() -> list[Case]:
    """A training result and its report, and a result of serving; a report has its data and little else here."""
    from ridgeline.api import saved
    from ridgeline.api.serving import serve
    from ridgeline.api.training import train

    trained = json.dumps(train("llama-3.2-1b", **_JOB).to_dict())
    served = serve(
        "llama-3.2-1b", on="h100-sxm", chips=1, isl=512, osl=64, concurrency=8, engine="vllm", tp=1, pp=1, dp=1,
        precision="bf16", kv="bf16", chunk=2048, speculate=False, disaggregated=False, simulate=False,
    ).to_dict()  # fmt: skip
    page = "<!doctype html>\n<html><head></head><body></body></html>\n"
    return [
        one("result.json", trained),
        one("report.html", saved.embed(page, json.loads(trained))),
        one("served.json", json.dumps(served)),
        one("served.html", saved.embed(page, served)),
    ]


def training_settings() -> list[Case]:
    """``--set`` for every field of a training scenario."""
    found = scenario()
    parts = {
        "model": found.architecture, "chip": found.chip, "cluster": found.cluster, "job": found.job,
        "stack": found.stack, "recipe": found.recipe,
    }  # fmt: skip
    plan = {name: value for name, value in found.plan.to_dict().items() if value is not None}
    return [*settings(_written(parts) | {"plan": plan}), one("a.setting", "chips=8")]


def serving_settings() -> list[Case]:
    """``--set`` for every field of a service."""
    from ridgeline.facts import catalog

    found = scenario()
    parts = {
        "model": found.architecture,
        "chip": found.chip,
        "cluster": found.cluster,
        "engine": catalog.engine("vllm-2026"),
    }
    return settings(_written(parts))


def _written(parts: dict[str, Any]) -> dict[str, Any]:
    from ridgeline.api.written import written

    return {name: written(part) for name, part in parts.items()}
