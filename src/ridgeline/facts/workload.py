"""Workload: what the machine is asked to do."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ridgeline.facts.spec import Count, Natural, Spec


class TrainingJob(Spec):
    """One training job: ``batch`` sequences of ``seq`` tokens per step."""

    batch: Count = Field(description="sequences per optimizer step (global batch)")
    seq: Count = Field(description="tokens per sequence")
    tokens: float | None = Field(None, gt=0, le=1e18, description="token budget of the whole run")
    kind: Literal["pretrain", "sft", "lora"] = "pretrain"
    lora_rank: Count = Field(16, description="rank of the adapters when kind is lora")
    packed: Count | None = Field(
        None, description="mean length of packed documents that do not attend to each other"
    )
    mtp: Natural = Field(0, description="multi-token-prediction layers that are trained")
