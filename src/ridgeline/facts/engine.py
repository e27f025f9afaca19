"""Engine: the software that serves a model. Each number has a physical meaning and a range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ridgeline.facts.chip import Chip
from ridgeline.facts.spec import Bytes, Count, Fraction, Prose, Seconds, Spec

Framework = Literal["vllm", "sglang", "trtllm"]
#: How prefills and decodes share steps: chunks of prefills beside decodes (vLLM V1); prefills in steps of their own
#: that go before decodes (SGLang); whole prompts beside decodes (TensorRT-LLM in-flight batching).
Schedule = Literal["chunked", "prefill_first", "whole"]

#: Requests that one attention rank decodes at a time (memory of the simulation goes with them), and tokens of a step.
MOST_SEQS, MOST_CHUNK = 2**20, 2**24


class Engine(Spec):
    """One generation of a serving engine; a user's own engine inherits by naming a ``parent``."""

    name: str
    title: str
    framework: Framework
    since: str = Field(description="first month it describes", pattern=r"^\d{4}-\d{2}$")
    versions: str = Field(description="release numbers it stands for, as ``low..high``")
    parent: str | None = None
    schedule: Schedule = Field("chunked", description="how prefills and decodes share steps")
    max_batched_tokens: Count = Field(
        8192, le=MOST_CHUNK, description="tokens of one step and attention rank"
    )
    max_seqs: Count = Field(
        256, le=MOST_SEQS, description="requests of one attention rank that decode at a time"
    )
    block_size: Count = Field(16, description="tokens of one block of KV cache")
    prefix_cache: bool = Field(True, description="blocks of earlier requests are found again by hash")
    memory_fraction: Fraction = Field(0.9, description="share of the chip's memory that the engine may fill")
    memory_of: Literal["total", "free"] = Field(
        "total", description="that share is of all memory, or of what is free once weights are loaded"
    )
    reserve: Bytes = Field(description="driver context, libraries and communication buffers of a chip")
    group_reserve: Bytes = Field(
        0.0,
        validate_default=False,
        description="what comes on top where ranks of one engine exchange through each other's memory",
    )
    logit_bytes: float = Field(
        8.0,
        gt=0,
        description="bytes for each logit of as many requests as may run, at the peak that sizes the cache: copies in "
        "fp32, and what sampling sorts",
    )
    graph_bytes: Bytes = Field(0.0, validate_default=False, description="memory of captured graphs")
    graph_batch: int = Field(512, ge=0, description="largest decode batch that is captured as a graph")
    graph_step: Count = Field(8, description="batches are padded to a multiple of this in graphs, beyond 8")
    graph_batches: tuple[int, ...] = Field(
        (),
        description="decode batches that are captured, where they are listed; others are padded to the next",
    )
    mixed_graph: bool = Field(
        True, description="steps with prefills replay pieces of graphs between their attention kernels"
    )
    kv_narrow: Literal["", "nvfp4", "narrow"] = Field(
        "",
        description="checkpoints whose cache is in fp8 unless told otherwise: none, nvfp4 (those of NVIDIA's quantiser "
        "say so themselves), or all with weights of 8 bits or fewer",
    )
    libraries: dict[str, tuple[str, ...]] = Field(
        {},
        description="kernel libraries by part (gemm, attention, decode, latent, latent_decode, grouped), best first; "
        "the first that the chip has timed for a format is used",
    )
    unpacked: tuple[str, ...] = Field(
        (),
        description="attention libraries of that list whose one kernel does prefills and decodes of a step, and packs "
        "query heads and splits keys only where all requests have one query (FlashAttention 2)",
    )
    beside_tokens: int = Field(
        0,
        ge=0,
        description="most tokens of a step that runs as a graph whose shared experts cost no turn of their own: they "
        "run beside the routed ones on a second stream, or as one more expert of the same kernel",
    )
    all_reduce: str = Field("nccl", description="kernels of the all-reduce: vllm, sglang, trtllm or nccl")
    fused_sum: bool = Field(
        False, description="the all-reduce of tensor parallelism adds the residual and normalises too"
    )
    dispatcher: Literal["all_reduce", "all_gather", "deepep"] = Field(
        "all_reduce", description="how tokens reach experts of other ranks where attention is data parallel"
    )
    pad_ranks: bool = Field(
        False,
        description="with attention data parallelism steps that run as graphs are padded to the fullest rank",
    )
    host_overlap: bool = Field(
        False, description="the host prepares the next step while the device runs this one"
    )
    async_schedule: bool = Field(
        False, description="the next step is planned while this one runs: a request waits for one more step"
    )
    host_step: Seconds = Field(
        description="host time of one step: scheduling, input tensors, sampling, streaming"
    )
    host_request: Seconds = Field(
        0.0, validate_default=False, description="the same for each decoding request of the step"
    )
    host_exposed: Seconds = Field(
        0.0,
        validate_default=False,
        description="what the device waits for in each step although the host overlaps",
    )
    host_prefill: Seconds = Field(
        0.0,
        validate_default=False,
        description="the same once for a step in which requests enter: block tables, copies",
    )
    frontend: Seconds = Field(
        0.0,
        validate_default=False,
        description="latency of a request outside steps: HTTP, tokenising, hand-over between processes, first answer",
    )
    vendor: str = Field("", description="only for chips of this vendor; empty = all others")
    supports: dict[str, Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")]] = Field(
        {},
        description="vendors whose chips it runs on, each with the launch month of the oldest generation; none = any",
    )
    context_parallel: Literal["", "dense", "experts"] = Field(
        "",
        description="models whose prompts it divides over ranks of context parallelism: none, without, with experts",
    )
    host_launch: Seconds = Field(
        description="host time to launch one kernel outside graphs; a step is never shorter than its launches"
    )
    gap: Seconds = Field(
        0.0, validate_default=False, description="idle time between two kernels of a graph on the device"
    )
    pass_launch: Seconds = Field(
        2e-6, validate_default=False, description="start and end of one memory-bound kernel inside a graph"
    )
    casts_apart: Fraction = Field(
        0.5, description="share of quantisation that runs in kernels of its own rather than in the one before"
    )
    elementwise_passes: float = Field(
        1.0,
        ge=0.5,
        le=4.0,
        description="memory passes of norms, activations and residuals over fused kernels",
    )
    spread: float = Field(
        0.25, ge=0, description="relative half-width that held 80 % of the rows its numbers were fitted on"
    )
    rows: int = Field(0, ge=0, description="measured rows that inform its numbers")
    source: Prose

    def runs_on(self, chip: Chip) -> bool:
        """Whether the software is made for a chip."""
        if self.vendor and self.vendor.lower() != chip.vendor.lower():
            return False
        if not self.supports:
            return True
        since = {name.lower(): month for name, month in self.supports.items()}.get(chip.vendor.lower())
        return since is not None and chip.launch >= since[: len(chip.launch)]
