"""Golden questions: what is asked of every model of the catalog, in training and in serving, on three chips.

Each question is a rule over the model's size alone, so that a new model of the catalog gets its own without a word.
The answers lie in `tests/golden`; `scripts/golden` writes them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ridgeline as rl
from ridgeline import files
from ridgeline.facts import catalog
from ridgeline.facts.parameters import total_parameters

FOLDER = Path(__file__).parent / "golden"
CHIPS = ("h100-sxm", "b200-sxm", "mi300x")
#: Training: tokens of a step for each chip, about what published runs have; sequence, as long as the model takes.
TOKENS_PER_CHIP, SEQ = 16_384, 4096
ISL, OSL = 2048, 256
PLANS = 3


@dataclass(frozen=True, slots=True)
class Question:
    """One model in one use on one chip."""

    model: str
    use: str  # train or serve
    chip: str

    @property
    def key(self) -> str:
        return f"{self.use} {self.chip}"


def models() -> list[str]:
    """Every model of the built-in catalog."""
    return catalog.names("models")


def questions(model: str) -> Iterator[Question]:
    """The questions of one model."""
    for use in ("train", "serve"):
        for chip in CHIPS:
            yield Question(model, use, chip)


def ask(question: Question) -> dict[str, Any]:
    """The answer as plain values: times, range, ladder, memory by part, labels, top plans; or the refusal's words."""
    try:
        return _train(question) if question.use == "train" else _serve(question)
    except ValueError as error:
        return {"refused": str(error).splitlines()[0]}


def _chips(model: str, bytes_per_parameter: float) -> int:
    """The power of two whose 80 GB chips hold twice the state of a model."""
    needed = total_parameters(catalog.architecture(model)) * bytes_per_parameter * 2.0
    return 2 ** max(0, math.ceil(math.log2(needed / 80e9)))


def _train(question: Question) -> dict[str, Any]:
    chips = max(8, _chips(question.model, 18.0))
    context = catalog.architecture(question.model).context or SEQ
    seq = min(SEQ, context)
    batch = max(1, chips * TOKENS_PER_CHIP // seq)
    found = rl.plan(question.model, on=question.chip, chips=chips, batch=batch, seq=seq, top=PLANS)
    best = found.best[0].prediction.to_dict()
    names = (
        "step_time_s", "step_time_low_s", "step_time_high_s", "bound_s", "mfu", "hfu", "peak_memory_bytes", "fits",
        "memory", "ladder", "exposed_s", "bubble_share", "energy_j_per_step", "labels",
    )  # fmt: skip
    return {
        "chips": chips,
        "batch": batch,
        "seq": seq,
        **{name: best[name] for name in names},
        "plans": [
            {"plan": one.prediction.scenario.plan.to_dict(), "step_time_s": one.prediction.step_time_s}
            for one in found.best
        ],
        "search": {name: getattr(found.search, name) for name in ("considered", "legal", "fit")},
    }


def _serve(question: Question) -> dict[str, Any]:
    chips = max(1, _chips(question.model, 2.0))
    found = rl.serve(
        question.model,
        on=question.chip,
        chips=chips,
        isl=ISL,
        osl=OSL,
        concurrency=16 * chips,
        simulate=False,
    ).to_dict()
    names = (
        "ttft_s", "tpot_s", "tpot_low_s", "tpot_high_s", "tokens_per_s_user", "tokens_per_s_chip", "ladder", "memory",
        "labels",
    )  # fmt: skip
    return {
        "chips": chips,
        **{name: found[name] for name in names},
        "plans": found["plans"][:PLANS],
        "search": {name: value for name, value in found["search"].items() if name != "seconds"},
    }


# Launch files and simulations: few, chosen to pass through every emitter, schedule, engine and policy.

TRAIN_LAUNCHES: dict[str, dict[str, Any]] = {
    "dense-megatron": {"model": "llama-3.1-405b", "on": "h100-sxm", "chips": 1024, "batch": 512, "seq": 8192},
    "experts-nemo": {"model": "deepseek-v3", "on": "h100-sxm", "chips": 512, "batch": 1024, "seq": 4096},
    "dense-torchtitan": {
        "model": "llama-3.1-8b", "on": "h100-sxm", "chips": 64, "batch": 128, "seq": 8192, "stack": "torchtitan-2025",
    },
}  # fmt: skip
SERVE_LAUNCHES: dict[str, dict[str, Any]] = {
    "dense-vllm": {"model": "llama-3.1-70b", "on": "h100-sxm", "chips": 8, "engine": "vllm"},
    "experts-sglang": {"model": "deepseek-v3", "on": "h200-sxm", "chips": 16, "engine": "sglang"},
    "pools-trtllm": {"model": "llama-3.1-70b", "on": "h100-sxm", "chips": 16, "engine": "trtllm", "disaggregated": True},  # noqa: E501
    "pools-vllm": {"model": "qwen3-30b-a3b", "on": "h100-sxm", "chips": 8, "engine": "vllm", "disaggregated": True},
}  # fmt: skip
SIMULATIONS: dict[str, dict[str, Any]] = {
    "users": {"model": "llama-3.1-8b", "chips": 1, "concurrency": 32, "engine": "vllm", "tp": 1},
    "poisson": {"model": "llama-3.1-8b", "chips": 2, "rate": 4, "ttft": "2 s", "tpot": "50 ms", "engine": "sglang"},
    "experts": {"model": "qwen3-30b-a3b", "chips": 4, "concurrency": 128, "engine": "vllm", "tp": 4},
    "pools": {"model": "llama-3.1-70b", "chips": 8, "concurrency": 64, "engine": "trtllm", "disaggregated": True},
    "small cache": {"model": "llama-3.1-70b", "chips": 2, "concurrency": 256, "engine": "vllm", "precision": "fp8"},
}  # fmt: skip


def launches() -> dict[str, str]:
    """Launch files by name: every framework that can express the best plan of a question."""
    from ridgeline.emit import FRAMEWORKS
    from ridgeline.emit.serving import SERVING_FRAMEWORKS

    written = {}
    for name, asked in TRAIN_LAUNCHES.items():
        asked = dict(asked)
        best = rl.train(asked.pop("model"), **asked)
        for framework in FRAMEWORKS:
            written[f"{name}.{framework}.txt"] = _or_words(lambda f=framework, b=best: b.emit(f))
    for name, asked in SERVE_LAUNCHES.items():
        asked = dict(asked)
        found = rl.serve(asked.pop("model"), **asked, isl=ISL, osl=OSL, concurrency=64, simulate=False)
        for framework in SERVING_FRAMEWORKS:
            text = _or_words(lambda f=framework, r=found: r.emit(f))
            written[f"{name}.{framework}.txt"] = text
    return written


def _or_words(make: Callable[[], str]) -> str:
    try:
        return make()
    except ValueError as error:
        return f"refused: {error}\n"


def simulations() -> dict[str, Any]:
    """Percentiles and rates of a few simulated services."""
    found = {}
    for name, asked in SIMULATIONS.items():
        asked = dict(asked)
        result = rl.serve(
            asked.pop("model"), on="h100-sxm", **asked, isl=ISL, osl=OSL, simulate=True
        ).to_dict()
        found[name] = {"check": result["check"], "max_rate": result["max_rate"]}
    return found


def main(names: list[str]) -> None:
    """Write the answers of all models, or of those named, and of launches and simulations where none is named."""
    for model in names or models():
        answers = ",\n".join(f"{json.dumps(one.key)}: {json.dumps(ask(one))}" for one in questions(model))
        files.write(FOLDER / "models" / f"{model}.json", f"{{\n{answers}\n}}\n")
        print(model, flush=True)
    if not names:
        files.write(FOLDER / "simulations.json", json.dumps(simulations(), indent=1) + "\n")
        for name, text in launches().items():
            files.write(FOLDER / "launches" / name, text)


if __name__ == "__main__":
    main(sys.argv[1:])
