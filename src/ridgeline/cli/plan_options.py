"""Options that fix a field of a plan, one type for each; what is left out is searched."""

from __future__ import annotations

from typing import Annotated

import typer

Tp = Annotated[int | None, typer.Option(help="tensor parallel; degrees left out are searched")]
Cp = Annotated[int | None, typer.Option(help="context parallel")]
Pp = Annotated[int | None, typer.Option(help="pipeline parallel")]
Vpp = Annotated[int | None, typer.Option(help="model chunks per pipeline stage")]
Ep = Annotated[int | None, typer.Option(help="expert parallel")]
Etp = Annotated[int | None, typer.Option(help="tensor parallel inside an expert")]
Dp = Annotated[int | None, typer.Option(help="data parallel")]
MicroBatch = Annotated[int | None, typer.Option(help="sequences per pass and data-parallel rank")]
Zero = Annotated[int | None, typer.Option(help="0 none, 1 optimizer, 2 + gradients, 3 + parameters (FSDP)")]
Replicas = Annotated[int | None, typer.Option(help="copies of the sharded group (HSDP)")]
Recompute = Annotated[str | None, typer.Option(help="none, selective or full")]
RecomputeLayers = Annotated[
    int | None, typer.Option(help="full recompute of this many layers per stage, -1 = all")
]
Schedule = Annotated[
    str | None, typer.Option(help="gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-v or dualpipe")
]
SequenceParallel = Annotated[bool | None, typer.Option(help="split activations between tp regions")]
FsdpReshard = Annotated[bool | None, typer.Option(help="ZeRO 3: free parameters after forward")]
OffloadActivations = Annotated[bool | None, typer.Option(help="keep activations in host memory")]
OffloadOptimizer = Annotated[bool | None, typer.Option(help="keep the optimizer in host memory")]
OverlapTp = Annotated[bool | None, typer.Option(help="hide tensor-parallel communication [as the stack]")]
OverlapGrad = Annotated[bool | None, typer.Option(help="reduce gradients under backward [as the stack]")]
OverlapParam = Annotated[bool | None, typer.Option(help="gather parameters under forward [as the stack]")]
OverlapP2p = Annotated[bool | None, typer.Option(help="hide pipeline sends [as the stack]")]
OverlapEp = Annotated[bool | None, typer.Option(help="hide expert communication [as the stack]")]

#: Their names.
NAMES = (
    "tp", "cp", "pp", "vpp", "ep", "etp", "dp", "micro_batch", "zero", "replicas",
    "recompute", "recompute_layers", "schedule", "sequence_parallel",
    "fsdp_reshard", "offload_activations", "offload_optimizer",
    "overlap_tp", "overlap_grad", "overlap_param", "overlap_p2p", "overlap_ep",
)  # fmt: skip
