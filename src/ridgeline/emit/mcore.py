"""A scenario in Megatron-Core's own field names; Megatron-LM and Megatron-Bridge only spell them differently.

`settings` raises `EmitError` for anything Megatron-Core cannot do, so both writers hold the same line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ridgeline.emit import checks, layers, mcore_model, numbers
from ridgeline.emit.errors import EmitError
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """Field values by the configuration object they belong to, in reading order."""

    parallel: Fields
    model: Fields
    memory: Fields
    ddp: Fields
    optimizer: Fields
    overlap: Fields
    precision: Fields
    batch: Fields


def settings(framework: str, scenario: Scenario) -> Settings:
    """All Megatron-Core fields that the scenario decides."""
    plan = checks.one_plan(framework, scenario)
    overlap = checks.overlaps(scenario, plan)
    arch = scenario.architecture
    return Settings(
        parallel=_parallel(framework, scenario, plan),
        model=mcore_model.fields(framework, scenario, plan),
        memory=_memory(framework, plan, arch.num_layers),
        ddp=_ddp(framework, plan, overlap),
        optimizer=_optimizer(framework, scenario, plan),
        overlap=_overlap(framework, plan, overlap),
        precision=numbers.precision(framework, scenario.recipe, arch.num_layers),
        batch={"micro_batch_size": plan.micro_batch, "global_batch_size": scenario.job.batch},
    )


def _parallel(framework: str, scenario: Scenario, plan: Plan) -> Fields:
    _check_schedule(framework, scenario, plan)
    fields: Fields = {
        "tensor_model_parallel_size": plan.tp,
        "context_parallel_size": plan.cp,
        "pipeline_model_parallel_size": plan.pp,
        **_split(scenario.architecture.num_layers, scenario.job.mtp, plan),
        "sequence_parallel": plan.sequence_parallel and plan.tp > 1,
    }
    is_moe = any(layer.mlp is not None and layer.mlp.kind == "moe" for layer in scenario.architecture.layers)
    if is_moe:
        if plan.tp > 1 and not plan.sequence_parallel:
            raise EmitError(framework, "sequence_parallel", False, [True], "experts with tp > 1 need it")
        fields["expert_model_parallel_size"] = plan.ep
        fields["expert_tensor_parallel_size"] = plan.etp
    return fields


def _check_schedule(framework: str, scenario: Scenario, plan: Plan) -> None:
    if plan.pp == 1:
        if plan.vpp > 1:
            raise EmitError(framework, "vpp", plan.vpp, [1], "pp is 1")
        return
    if plan.schedule not in ("1f1b", "interleaved"):
        raise EmitError(framework, "schedule", plan.schedule, ["1f1b", "interleaved"])
    if plan.vpp > 1 and plan.schedule == "1f1b":
        raise EmitError(framework, "schedule", "1f1b", ["interleaved", "vpp = 1"], f"vpp is {plan.vpp}")
    passes = checks.micro_batches(scenario, plan)
    if plan.vpp > 1 and passes % plan.pp:
        why = f"{passes} micro-batches per step"
        raise EmitError(
            framework, "schedule", "interleaved", ["1f1b", "micro-batches in a multiple of pp"], why
        )


def _split(num_layers: int, mtp: int, plan: Plan) -> Fields:
    """Pipeline split: by count where Megatron's own rule gives ours, else as an explicit layout."""
    if plan.pp == 1:
        return {}
    full, first, last = layers.shortened(num_layers, plan.pp, plan.vpp)
    virtual = {"virtual_pipeline_model_parallel_size": plan.vpp} if plan.vpp > 1 else {}
    missing = plan.pp * plan.vpp * full - num_layers
    if missing == first + last and first <= 1 and last <= 1:
        return {
            **virtual,
            "account_for_embedding_in_pipeline_split": first == 1,
            "account_for_loss_in_pipeline_split": last == 1,
        }
    held = ["t" * count for count in layers.chunks(num_layers, plan.pp, plan.vpp)]
    held[0] = "E" + held[0]
    held[-1] += "m" * mtp + "L"
    return {**virtual, "pipeline_model_parallel_layout": "|".join(held)}


def _memory(framework: str, plan: Plan, num_layers: int) -> Fields:
    fields: Fields = {}
    if plan.recompute == "selective":
        fields["recompute_granularity"] = "selective"  # the attention core, Megatron's default module
    elif plan.recompute == "full":
        fields |= {"recompute_granularity": "full", **_full_recompute(framework, plan)}
    if plan.offload_activations:
        if plan.pp > 1 or plan.recompute != "none":
            why = "needs pp 1 and no recompute"
            raise EmitError(framework, "offload_activations", True, [False], why)
        # Megatron keeps at least one layer on the device.
        fields |= {"cpu_offloading": True, "cpu_offloading_num_layers": num_layers - 1}
    return fields


def _full_recompute(framework: str, plan: Plan) -> Fields:
    if plan.recompute_layers < 0:
        return {"recompute_method": "uniform", "recompute_num_layers": 1}
    if plan.recompute_layers % plan.vpp:
        # Megatron counts per model chunk, the plan per stage.
        choices = [f"a multiple of vpp = {plan.vpp}", -1]
        raise EmitError(framework, "recompute_layers", plan.recompute_layers, choices)
    return {"recompute_method": "block", "recompute_num_layers": plan.recompute_layers // plan.vpp}


def _ddp(framework: str, plan: Plan, overlap: checks.Overlaps) -> Fields:
    if overlap.param and plan.zero == 0 and plan.overlap_param:
        raise EmitError(framework, "overlap_param", True, [False], "zero 0 gathers no parameters")
    gathers = overlap.param and plan.zero > 0
    if gathers and not overlap.grad:
        raise EmitError(framework, "overlap_param", True, [False], "needs overlap_grad")
    fields: Fields = {"use_distributed_optimizer": plan.zero > 0}
    if plan.zero >= 2:
        if plan.zero == 3 and not plan.fsdp_reshard:
            raise EmitError(framework, "fsdp_reshard", False, [True], "zero 3")
        sharding = "optim_grads" if plan.zero == 2 else "optim_grads_params"
        fields |= {"use_megatron_fsdp": True, "data_parallel_sharding_strategy": sharding}
    if plan.zero > 0 and plan.replicas > 1:
        fields["num_distributed_optimizer_instances"] = plan.replicas
    return {**fields, "overlap_grad_reduce": overlap.grad, "overlap_param_gather": gathers}


def _optimizer(framework: str, scenario: Scenario, plan: Plan) -> Fields:
    fields = numbers.optimizer_state(framework, scenario.recipe)
    if plan.offload_optimizer:
        fields |= {
            "optimizer_cpu_offload": True,
            "optimizer_offload_fraction": 1.0,
            "overlap_cpu_optimizer_d2h_h2d": True,
            "use_precision_aware_optimizer": True,
        }
    return fields


def _overlap(framework: str, plan: Plan, overlap: checks.Overlaps) -> Fields:
    if plan.overlap_tp and (plan.tp == 1 or not plan.sequence_parallel):
        raise EmitError(framework, "overlap_tp", True, [False], "needs tp > 1 and sequence_parallel")
    if plan.overlap_p2p and plan.pp > 1 and plan.vpp == 1:
        raise EmitError(
            framework, "overlap_p2p", True, [False], "only the interleaved schedule overlaps sends"
        )
    if overlap.ep and plan.ep > 1 and plan.recompute == "full":
        raise EmitError(framework, "overlap_ep", True, [False], "recompute is full")
    if overlap.ep and plan.ep > 1 and plan.pp > 1 and plan.vpp == 1:
        raise EmitError(framework, "overlap_ep", True, [False], "with pp > 1 it needs vpp > 1")
    fields: Fields = {
        "tp_comm_overlap": overlap.tp and plan.tp > 1 and plan.sequence_parallel,
        "overlap_moe_expert_parallel_comm": overlap.ep and plan.ep > 1,
    }
    if plan.pp > 1 and plan.vpp > 1:
        if plan.pp == 2 and not overlap.p2p:
            raise EmitError(framework, "overlap_p2p", False, [True], "interleaved over two stages")
        fields["overlap_p2p_comm"] = overlap.p2p
    return fields
