"""Plans of a case: as stated, and every plausible one where a field is unknown. The first is the default."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any

from ridgeline.calibrate import remarks
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.shapes import NotPredictable
from ridgeline.facts.plan import Plan
from ridgeline.facts.stack import Stack

_SWITCHES = {
    "tp_comm": "overlap_tp",
    "grad_reduce": "overlap_grad",
    "param_gather": "overlap_param",
    "p2p": "overlap_p2p",
}


def plans_of(case: Case, stack: Stack, num_layers: int) -> tuple[list[Plan], tuple[str, ...]]:
    """Candidate plans, the most likely first, and the names of the fields that the row leaves open.

    Raises:
        NotPredictable: the batch does not divide over the data-parallel ranks and micro-batches.
    """
    micro_batches = _micro_batches(case)
    recomputes = _recomputes(case, num_layers)
    plans = []
    chunked = False
    for (recompute, layers), micro_batch in itertools.product(recomputes, micro_batches):
        chunks = _chunks(case, stack, num_layers, micro_batch)
        chunked = chunked or len(chunks) > 1
        plans += [_plan(case, stack, micro_batch, vpp, recompute, layers) for vpp in chunks]
    offloads = _may_offload(case, plans[0])
    if offloads:
        plans += [
            dataclasses.replace(plan, offload_activations=True) for plan in plans if plan.recompute == "none"
        ]
    opened = {
        "recompute": len(recomputes) > 1,
        "micro_batch": len(micro_batches) > 1,
        "vpp": chunked,
        "offload_activations": offloads,
    }
    return plans, tuple(name for name, is_open in opened.items() if is_open)


def _may_offload(case: Case, plan: Plan) -> bool:
    """Whether activations may wait in host memory: unstated, and a whole model per chip, as where recipes do so.

    Megatron-Bridge sets ``cpu_offloading_num_layers`` beside ``use_megatron_fsdp`` only.
    """
    return case.offload.lower().startswith("unknown") and plan.zero == 3 and plan.pp == 1


def _plan(case: Case, stack: Stack, micro_batch: int, vpp: int, recompute: str, layers: int) -> Plan:
    zero = stack.zero if case.zero is None else case.zero
    # SHARD_GRAD_OP shards the parameters too, and keeps them gathered from forward to backward.
    keep_gathered = remarks.keeps_gathered(case)
    schedule = "interleaved" if vpp > 1 else "1f1b"
    if "dualpipe" in case.overlap.lower() and case.pp > 1:  # of one stage there is no other schedule
        schedule = "dualpipe"
    sequence_parallel = case.sequence_parallel
    if sequence_parallel is None:
        sequence_parallel = case.tp > 1 and stack.since >= "2022-02"  # the month of sequence parallelism
    return Plan(
        tp=case.tp,
        cp=case.cp,
        pp=case.pp,
        vpp=vpp,
        ep=case.ep,
        etp=case.etp,
        dp=case.data_parallel,
        micro_batch=micro_batch,
        zero=3 if keep_gathered else zero,
        replicas=remarks.replicas(case),
        # under a pipeline parameters stay gathered: a gather per micro-batch would cost too much
        fsdp_reshard=not keep_gathered and case.pp == 1,
        sequence_parallel=sequence_parallel,
        recompute=recompute,
        recompute_layers=layers,
        schedule=schedule,
        offload_activations="activations" in case.offload.lower(),
        **_overlaps(case.overlap),
    )


def _micro_batches(case: Case) -> list[int]:
    per_rank, rest = divmod(case.batch, case.data_parallel)
    if rest:
        raise NotPredictable(f"global_batch {case.batch} does not divide over dp {case.data_parallel}")
    if case.micro_batch is None and "torchtitan" in case.framework.lower() and case.pp > 1:
        # torchtitan splits the local batch into as many micro-batches as there are stages unless told
        return [max(per_rank // case.pp, 1)]
    if case.micro_batch is None:
        return [size for size in (1, 2) if per_rank % size == 0]
    if per_rank % case.micro_batch:
        raise NotPredictable(
            f"{per_rank} sequences per dp rank do not divide into micro-batches of {case.micro_batch}"
        )
    return [case.micro_batch]


def _chunks(case: Case, stack: Stack, num_layers: int, micro_batch: int) -> list[int]:
    """Model chunks per stage. Unknown ones: chunks of two layers, as most recipes have, then plain 1F1B.

    Layers that do not divide count with the embedding and the head as one layer each where that evens them out, as
    for Llama-3.1-405B (arXiv:2407.21783 section 3.3.2: one layer less on the first and on the last stage).
    """
    if case.pp == 1:
        return [1]
    if case.vpp is not None:
        return [case.vpp]
    if "DeepSpeed" in case.framework or "dualpipe" in case.overlap.lower():
        return [1]  # the DeepSpeed pipeline engine has plain 1F1B only
    interleaved = remarks.interleaved(case)
    if stack.framework != "megatron" and not interleaved:
        return [1]
    num_micro = case.batch // (case.data_parallel * micro_batch)
    if num_layers % case.pp and (num_layers + 2) % case.pp == 0:
        num_layers += 2
    per_stage = num_layers // case.pp
    if num_micro % case.pp or per_stage < 2:
        return [1]
    if num_layers % case.pp:
        return [2, 1]
    two_layers = [v for v in range(per_stage // 2, 1, -1) if per_stage % v == 0]
    options = [two_layers[0] if two_layers else per_stage]
    return options if interleaved else [*options, 1]


def _recomputes(case: Case, num_layers: int) -> list[tuple[str, int]]:
    """(recompute, layers per stage with -1 for all), lightest first where unknown."""
    text = case.recompute.lower()
    per_stage = max(1, num_layers // case.pp)
    if not text or text.startswith("unknown"):
        return [("none", -1), ("selective", -1), ("full", -1)]
    if found := re.search(r"full \((\d+) of \d+ layers\)", text):
        return [("full", max(1, round(int(found[1]) / case.pp)))]
    if "selective" in text and "torchtitan" in case.framework.lower():
        # torchtitan's selective checkpointing recomputes every second matmul or layer: half the work
        return [("full", max(1, per_stage // 2))]
    if "save_dot_except" in text:
        return [("full", max(1, per_stage // 3))]  # one of the three large matmuls of a block is recomputed
    if "minimal" in text or "up-projection" in text:
        return [("selective", -1)]
    if "remat" in text:
        return [("full", -1)]  # custom policies keep the layer input and a few projections
    if text.split("(")[0].strip() in ("none", "selective", "full"):
        return [(text.split("(")[0].strip(), -1)]
    raise NotPredictable(f"unknown recompute '{case.recompute}'; expected none, selective, full or unknown")


def _overlaps(text: str) -> dict[str, Any]:
    """Overlap switches that the row states; None leaves the choice to the stack."""
    switches: dict[str, Any] = dict.fromkeys([*_SWITCHES.values(), "overlap_ep"])
    for name, value in re.findall(r"(\w+)=([01])", text):
        if name in _SWITCHES:
            switches[_SWITCHES[name]] = value == "1"
    lowered = text.lower()
    if lowered in ("none", "none (all overlap off)"):
        return dict.fromkeys(switches, False)
    if lowered.startswith("none"):  # "none for DP", "none (all-reduce after backward)"
        switches.update(overlap_grad=False, overlap_param=False)
    elif lowered == "on" or lowered.startswith(("full tp/pp/dp", "dp, tp, pp", "nemo defaults (on)")):
        switches.update(overlap_tp=True, overlap_grad=True, overlap_param=True, overlap_p2p=True)
    elif "dp and tp overlap on" in lowered:
        switches.update(overlap_tp=True, overlap_grad=True, overlap_param=True)
    elif "async tp" in lowered:
        switches.update(overlap_tp=True)
    elif "overlap_comm=true" in lowered:
        switches.update(overlap_grad=True)
    elif "dualpipe" in lowered:
        switches.update(overlap_ep=True, overlap_p2p=True, overlap_grad=True)
    return switches


def describe(plans: Sequence[Plan], opened: Sequence[str]) -> str:
    """One line on what was tried: ``recompute not stated: tried none, selective, full``."""
    parts = []
    for name in opened:
        tried = dict.fromkeys(str(getattr(plan, name)) for plan in plans)
        parts.append(f"{name} not stated: tried {', '.join(tried)}")
    return "; ".join(parts)
