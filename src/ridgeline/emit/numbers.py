"""Number recipes as Megatron-Core names them; Megatron-LM and Megatron-Bridge share these names."""

from __future__ import annotations

from typing import Any

from ridgeline.emit.errors import EmitError
from ridgeline.facts.recipe import Recipe

_SCALING = {"delayed": "delayed", "current": "tensorwise", "block": "blockwise"}
_MOMENT = {8.0: "fp32", 4.0: "bf16", 2.0: "fp8"}
_MASTER = {4.0: "fp32", 2.0: "fp16"}


def precision(framework: str, recipe: Recipe, num_layers: int) -> dict[str, Any]:
    """Fields of Megatron-Bridge's MixedPrecisionConfig; Megatron-LM has an option for each."""
    if recipe.attention not in ("bf16", "fp16"):
        raise EmitError(framework, "recipe.attention", recipe.attention, ["bf16"])
    base = "fp16" if recipe.linear == "fp16" else "bf16"
    fields: dict[str, Any] = {base: True, "grad_reduce_in_fp32": recipe.grad_reduce_bytes > 2.0}
    fields |= _low_precision(framework, recipe)
    if recipe.high_precision_share > 0:
        # One layer at each end is the least Megatron can keep; it knows no other place.
        ends = max(1, round(recipe.high_precision_share * num_layers / 2))
        fields |= {
            "first_last_layers_bf16": True,
            "num_layers_at_start_in_bf16": ends,
            "num_layers_at_end_in_bf16": ends,
        }
    return fields


def _low_precision(framework: str, recipe: Recipe) -> dict[str, Any]:
    linear = recipe.linear
    if linear in ("bf16", "fp16"):
        return {}
    if linear == "nvfp4":
        return {"fp4": "e2m1", "fp4_recipe": "nvfp4"}
    name = "mxfp8" if linear == "mxfp8" else _SCALING.get(recipe.scaling)
    if not linear.startswith(("fp8", "mxfp8")) or name is None:
        why = f"scaling {recipe.scaling}" if linear.startswith("fp8") else ""
        known = ["bf16", "fp16", "fp8 with delayed, current or block scaling", "mxfp8", "nvfp4"]
        raise EmitError(framework, "recipe.linear", linear, known, why)
    # gradients in e5m2; finer scales allow e4m3 throughout
    wide_gradients = name in ("delayed", "tensorwise")
    fields: dict[str, Any] = {"fp8": "hybrid" if wide_gradients else "e4m3", "fp8_recipe": name}
    if name == "delayed":
        fields |= {"fp8_amax_history_len": 1024, "fp8_amax_compute_algo": "max"}
    if recipe.gather_bytes < 2.0:
        fields["fp8_param_gather"] = True
        if name == "mxfp8":
            fields["reuse_grad_buf_for_mxfp8_param_ag"] = True
    return fields


def optimizer_state(framework: str, recipe: Recipe) -> dict[str, Any]:
    """Formats of master weights and moments; empty for the usual fp32."""
    if recipe.master_bytes not in _MASTER:
        raise EmitError(framework, "recipe.master_bytes", recipe.master_bytes, _MASTER)
    if recipe.moment_bytes not in _MOMENT:
        raise EmitError(framework, "recipe.moment_bytes", recipe.moment_bytes, _MOMENT)
    if recipe.master_bytes == 4.0 and recipe.moment_bytes == 8.0:
        return {}
    moment = _MOMENT[recipe.moment_bytes]
    return {
        "use_precision_aware_optimizer": True,
        "main_params_dtype": _MASTER[recipe.master_bytes],
        "exp_avg_dtype": moment,
        "exp_avg_sq_dtype": moment,
    }
