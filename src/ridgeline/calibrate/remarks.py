"""Remarks: what case files say of a run in free text only. Every phrase that is read stands here.

The columns of a case file have no place for these facts, so their sources' readers put them into ``notes`` in fixed
words. Each function is one fact; a run whose notes are silent gets what its source or framework does by default.
"""

from __future__ import annotations

import re

from ridgeline.calibrate.cases import Case

#: Copies of the sharded group, as in ``dp 2 x FSDP 128``, ``FSDP=16 x DP=8`` or ``FSDP 16 per slice, 8 slices``.
_REPLICAS = (r"\bdp (\d+) x FSDP \d+", r"FSDP=\d+ x DP=(\d+)", r"FSDP \d+ per slice, (\d+) slices")


def prediction_depths(case: Case) -> int:
    """Multi-token prediction layers that train along: of DeepSeek-V3 rows one where the published FLOPs hold it."""
    return int("MTP layer on" in case.notes)


def fp8_attention(case: Case) -> bool:
    """Whether the attention core multiplies in fp8 too; recipes leave it in bf16 unless told."""
    return "fp8 attention" in case.notes


def fp8_scaling(case: Case) -> str | None:
    """How per-tensor fp8 is scaled, ``delayed`` or ``current`` (tensorwise and rowwise are current); None: unsaid."""
    if "delayed" in case.notes:
        return "delayed"
    return "current" if re.search("tensorwise|rowwise|current", case.notes) else None


def pure_low_precision(case: Case) -> bool:
    """Whether FSDP reduces gradients in bf16 as well (llm-foundry's mixed precision ``PURE``)."""
    return "autocast mode PURE" in case.notes


def keeps_gathered(case: Case) -> bool:
    """Whether parameters stay gathered from forward to backward (PyTorch's SHARD_GRAD_OP)."""
    return "SHARD_GRAD_OP" in case.notes


def interleaved(case: Case) -> bool:
    """Whether the pipeline is interleaved, with the number of chunks unsaid."""
    return "interleaved" in case.notes.lower()


def replicas(case: Case) -> int:
    """Copies of the sharded group (HSDP); 1 where nothing is said or the number does not divide the ranks."""
    for pattern in _REPLICAS:
        found = re.search(pattern, case.notes)
        if found and case.data_parallel % int(found[1]) == 0:
            return int(found[1])
    return 1
