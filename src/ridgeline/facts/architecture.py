"""Architecture: a model's shape, free of machines and of any parallel layout.

A model is a sequence of layers; a layer is a *mixer* (attention, latent attention, state space or linear
attention) followed by an *mlp* (dense or mixture of experts). Every dimension is the full, unsharded one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ridgeline.facts.spec import Count, Natural, Prose, Spec

#: No published model comes near; a larger number is a mistake, and would only be slow to refuse later.
MOST_LAYERS = 10_000


class Attention(Spec):
    """Multi-head, grouped-query or multi-query softmax attention."""

    kind: Literal["attention"] = "attention"
    heads: Count = Field(description="query heads")
    kv_heads: Count = Field(description="key and value heads (= heads for MHA, 1 for MQA)")
    head_dim: Count = Field(description="dimension of one head")
    window: Count | None = Field(None, description="sliding window in tokens; none = full attention")
    chunked: bool = Field(False, description="window is a fixed chunk (Llama 4), not a sliding one")
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = Field(False, description="normalise each query and key head (Qwen3, Gemma 3)")
    sinks: bool = Field(False, description="one learned sink logit per head (gpt-oss)")
    output_gate: bool = Field(False, description="query projection also makes an output gate (Qwen3-Next)")

    @model_validator(mode="after")
    def _grouped(self) -> Attention:
        """Each key and value head serves the same number of query heads."""
        if self.heads % self.kv_heads:
            raise ValueError(
                f"kv_heads = {self.kv_heads} does not divide heads = {self.heads}; expected a divisor of it"
            )
        return self


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434)."""

    kind: Literal["mla"] = "mla"
    heads: Count
    q_lora: Count | None = Field(None, description="rank of the query compression; none = plain projection")
    kv_lora: Count = Field(description="rank of the key-value compression")
    nope_dim: Count = Field(description="query/key dimension without position")
    rope_dim: Count = Field(
        description="query/key dimension with rotary position, shared by all heads for keys"
    )
    v_dim: Count = Field(description="value dimension of one head")
    index_heads: Natural = Field(0, description="heads of the sparse-attention indexer, 0 = full attention")
    index_dim: Natural = Field(0, description="dimension of one indexer head")
    index_topk: Natural = Field(0, description="tokens the indexer selects for each query, 0 = all")


class StateSpace(Spec):
    """Mamba-2 state-space mixer (arXiv:2405.21060); Mamba-1 sets ``dt_rank`` and one group."""

    kind: Literal["ssm"] = "ssm"
    heads: Count = Field(description="heads of the inner dimension (Mamba-1: inner dimension / 1)")
    head_dim: Count
    state: Count = Field(description="state size per channel")
    groups: Count = 1
    conv: Count = 4
    dt_rank: Count | None = Field(None, description="set for Mamba-1: rank of the step-size projection")


class LinearAttention(Spec):
    """Gated linear attention with a matrix state per head (gated DeltaNet, Lightning attention)."""

    kind: Literal["linear"] = "linear"
    k_heads: Count
    v_heads: Count
    k_dim: Count
    v_dim: Count
    conv: Natural = Field(4, description="kernel of the short convolution, 0 = none")
    output_gate: bool = True
    decay_gates: bool = Field(True, description="per-head decay and update gates (two rows per value head)")


Mixer = Annotated[Attention | LatentAttention | StateSpace | LinearAttention, Field(discriminator="kind")]


class Dense(Spec):
    """Plain (two matrices) or gated (three matrices) feed-forward block."""

    kind: Literal["dense"] = "dense"
    ffn: Count = Field(description="inner dimension")
    gated: bool = Field(True, description="SwiGLU-like: gate and up projections")
    bias: bool = False


class Moe(Spec):
    """Routed experts with optional shared experts."""

    kind: Literal["moe"] = "moe"
    experts: Count = Field(description="routed experts")
    topk: Count = Field(description="routed experts per token")
    ffn: Count = Field(description="inner dimension of one routed expert")
    gated: bool = True
    bias: bool = False
    shared_ffn: Natural = Field(0, description="inner dimension of all shared experts together, 0 = none")
    shared_gate: bool = Field(False, description="sigmoid gate on the shared expert (Qwen2-MoE, Qwen3-Next)")
    router_bias: bool = Field(False, description="a learned or load-balancing bias per expert")
    node_limit: Count | None = Field(
        None, description="a token may go to at most this many nodes (DeepSeek-V3: 4)"
    )


Mlp = Annotated[Dense | Moe, Field(discriminator="kind")]


class Layer(Spec):
    """``count`` equal layers; ``mixer`` or ``mlp`` may be absent (Nemotron-H)."""

    count: Count = Field(le=MOST_LAYERS)
    mixer: Mixer | None = None
    mlp: Mlp | None = None
    parallel: bool = Field(False, description="attention and mlp read the same norm (Falcon, GPT-J)")


class Published(Spec):
    """Parameter counts as published, to test our own count against."""

    total: float = Field(gt=0, description="all parameters")
    active: float | None = Field(None, gt=0, description="parameters that touch one token")
    source: Prose
    tolerance: float = Field(
        0.005, gt=0, description="relative tolerance of the total; above 0.005 only with a reason in the note"
    )
    active_tolerance: float = Field(
        0.005,
        gt=0,
        description="relative tolerance of the active count; above 0.005 only with a reason in the note",
    )
    active_counts: Literal["all", "head", "layers"] = Field(
        "all",
        description="the published active count is of all parts, all but the input embedding, or layers only",
    )
    note: Prose = ""


class Architecture(Spec):
    """A whole model. ``layers`` are listed from input to output unless ``order`` says they interleave."""

    name: str
    title: str = ""
    family: str = ""
    hidden: Count
    vocab: Count
    layers: tuple[Layer, ...] = Field(min_length=1)
    order: Literal["listed", "interleaved"] = Field(
        "listed", description="interleaved: the groups are spread evenly over the depth"
    )
    tied: bool = Field(False, description="the output layer shares the embedding matrix")
    norm: Literal["rms", "layer"] = "rms"
    norms_per_layer: Count = Field(2, description="4 for Gemma 2/3 (before and after both parts)")
    positions: Natural = Field(0, description="learned position embeddings (GPT-2/3, OPT, MPT), 0 = none")
    embedding_norm: bool = Field(False, description="a norm right after the embedding (BLOOM)")
    head_bias: bool = False
    mtp: Natural = Field(0, description="multi-token-prediction layers shipped with the model")
    context: Count | None = Field(None, description="longest context the model was trained for, tokens")
    source: Prose = ""
    published: Published | None = None

    @property
    def num_layers(self) -> int:
        return sum(layer.count for layer in self.layers)
