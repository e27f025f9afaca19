"""Software of a case: its month, its stack and its number recipe.

The stack is chosen by framework, date and chip vendor only. Neither the model nor the size of a run may
enter: numbers fitted for a stack must hold for runs that nobody has seen.
"""

from __future__ import annotations

import re

from ridgeline.calibrate import remarks
from ridgeline.calibrate.cases import Case
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.stack import Stack

# MLPerf Training rounds, by the month of publication.
_MLPERF = {
    "2.0": "2022-06",
    "2.1": "2022-11",
    "3.0": "2023-06",
    "3.1": "2023-11",
    "4.0": "2024-06",
    "4.1": "2024-11",
    "5.0": "2025-06",
    "5.1": "2025-11",
    "6.0": "2026-06",
}
# Megatron-Core releases, by month.
_CORE = {
    "0.5": "2024-01",
    "0.6": "2024-04",
    "0.7": "2024-06",
    "0.8": "2024-07",
    "0.9": "2024-10",
    "0.10": "2024-12",
    "0.11": "2025-03",
    "0.12": "2025-05",
    "0.13": "2025-08",
}

# What a recipe says about storage and traffic, apart from how it multiplies.
_STORED = ("weight_bytes", "gather_bytes", "grad_bytes", "grad_reduce_bytes", "master_bytes", "moment_bytes")

#: (framework as a regular expression, vendor or "", first month or "", stack). The first row that matches
#: framework and vendor opens a block of the same two; in it the last row not after the run's month is taken.
STACKS: tuple[tuple[str, str, str, str], ...] = (
    ("habana|gaudi", "", "", "gaudi-2023"),
    ("peft|hf trainer|hugging", "", "", "hf-deepspeed-2024"),
    ("megatron-deepspeed", "intel", "", "gaudi-2023"),
    ("megatron-deepspeed", "", "", "megatron-deepspeed-2021"),
    ("deepspeed", "", "", "deepspeed-zero3-2021"),
    ("deepspeed", "", "2023-01", "hf-deepspeed-2024"),
    ("megascale", "", "", "megascale-2024"),
    ("hai-llm", "", "", "hai-llm-2024"),
    ("foundry|mosaic|composer", "", "", "llm-foundry-2023"),
    ("torchtitan.*compile", "", "", "torchtitan-compile-2024"),
    ("torchtitan.*compile", "", "2025-01", "torchtitan-compile-2025"),
    ("torchtitan", "", "", "torchtitan-2025"),
    ("maxtext|jax", "", "", "maxtext-2024"),
    ("maxtext|jax", "", "2025-01", "maxtext-2025"),
    ("fsdp \\+ megatron", "", "", "megatron-lm-2021"),
    ("fsdp|pytorch", "", "", "torchtitan-2025"),
    ("nemo|megatron|primus", "amd", "", "amd-nemo-2025"),
    ("bridge", "", "", "nemo-2025"),
    ("bridge", "", "2025-11", "megatron-bridge-2025-11"),
    ("bridge", "", "2026-01", "megatron-bridge-2026"),
    ("bridge", "", "2026-06", "megatron-bridge-2026-06"),
    ("nemo", "", "", "nemo-2023"),
    ("nemo", "", "2024-04", "nemo-2024"),
    ("nemo", "", "2024-11", "nemo-2024-11"),
    ("nemo", "", "2025-03", "nemo-2025"),
    ("nemo", "", "2025-11", "nemo-2025-11"),
    ("nemo", "", "2026-01", "megatron-bridge-2026"),
    ("nemo", "", "2026-06", "megatron-bridge-2026-06"),
    ("megatron", "", "", "megatron-lm-2021"),
    ("megatron", "", "2022-02", "megatron-lm-2022"),
    ("megatron", "", "2023-06", "megatron-lm-2024"),
    ("megatron", "", "2025-01", "megatron-core-plain"),
    ("meta", "", "", "megatron-lm-2024"),
    ("", "amd", "", "amd-nemo-2025"),
    ("", "google", "", "maxtext-2024"),
    ("", "google", "2025-01", "maxtext-2025"),
    ("", "intel", "", "gaudi-2023"),
    ("", "", "", "nemo-2023"),
    ("", "", "2024-04", "nemo-2024"),
    ("", "", "2024-11", "nemo-2024-11"),
    ("", "", "2025-03", "nemo-2025"),
    ("", "", "2025-11", "nemo-2025-11"),
    ("", "", "2026-01", "megatron-bridge-2026"),
    ("", "", "2026-06", "megatron-bridge-2026-06"),
)

_FORMATS = {
    "fp8-blockwise": "fp8-block",
    "mx8": "mxfp8",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "fp8-mx": "mxfp8",
}


def month_of(case: Case) -> str | None:
    """Month ``2025-09`` that the row's version stands for; None where it cannot be told (a commit, a tag)."""
    mlperf = re.search(r"training_results_v(\d+\.\d+)", case.source)
    if mlperf:
        return _MLPERF.get(mlperf[1])
    text = case.date.strip()
    if found := re.fullmatch(r"(20\d\d)(?:[-.]?(0[1-9]|1[0-2]))?(?:[-.]\d\d)?", text):
        return f"{found[1]}-{found[2] or '06'}"
    if found := re.fullmatch(r"(2\d)\.(0[1-9]|1[0-2])(?:\.\d+)?", text):  # container of a month
        return f"20{found[1]}-{found[2]}"
    if found := re.search(r"core[ _]r?(\d+\.\d+)", text):
        return _CORE.get(found[1])
    return None


def stack_for(framework: str, month: str | None, vendor: str) -> Stack:
    """The catalog stack of a framework in a month on a vendor's chips; an unknown month means the newest."""
    framework, vendor = framework.lower(), vendor.lower()
    chosen: tuple[str, str, str, str] | None = None
    for row in STACKS:
        pattern, makers, since, _ = row
        if chosen is None:
            if re.search(pattern, framework) and makers in vendor:
                chosen = row
        elif row[:2] == chosen[:2] and (month is None or since <= month):
            chosen = row
    assert chosen is not None  # the last rows match everything
    return catalog.stack(chosen[3])


def recipe_of(case: Case, chip: Chip, stack: Stack) -> Recipe:
    """Number recipe from the precision column, what the notes say about it, and how the stack stores weights.

    Raises:
        CatalogError: no recipe of that name.
    """
    recipe = catalog.recipe(_recipe_name(case))
    if catalog.number_format(recipe.linear).matrix_as not in chip.matrix:
        # A chip without the format multiplies the stored values in bf16 (fp8 on TPU v6e).
        recipe = catalog.recipe("bf16")
    storage = _storage_name(case, recipe, stack)
    if storage is not None:
        kept = catalog.recipe(storage)
        recipe = recipe.model_copy(update={name: getattr(kept, name) for name in _STORED})
    if remarks.fp8_attention(case):
        recipe = recipe.model_copy(update={"attention": "fp8"})
    return recipe.on(chip)


def _recipe_name(case: Case) -> str:
    precision = case.precision.lower()
    if precision != "fp8":
        return precision
    scaling = remarks.fp8_scaling(case)
    if scaling is None:
        # Megatron-Bridge tables mean current scaling and torchtitan scales dynamically; Transformer Engine was
        # delayed by default before.
        scaling = "current" if re.search("bridge|torchtitan", case.framework.lower()) else "delayed"
    return f"fp8-{scaling}"


def _storage_name(case: Case, recipe: Recipe, stack: Stack) -> str | None:
    """Recipe whose stored and sent bytes replace those of ``recipe``; None leaves them."""
    if stack.framework in ("fsdp", "maxtext"):  # one fp32 copy, gathered as bf16
        return "bf16-fsdp-pure" if remarks.pure_low_precision(case) else "bf16-fsdp"
    if stack.name.startswith(("nemo-", "megatron-bridge-")):
        # NVIDIA's performance recipes keep the parameters in the low format and reduce gradients in bf16.
        if recipe.linear == "mxfp8":
            return "mxfp8-param-gather"
        if recipe.linear == "fp8":
            return "fp8-param-gather"
        return "bf16-grad-bf16" if recipe.linear == "bf16" else None
    return None
