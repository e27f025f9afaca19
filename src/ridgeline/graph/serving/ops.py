"""Operators of a serving step on one rank, by the token: a step's size comes later, as an array.

``where`` says which steps run an operator: every one, those that only decode (``decode``), or those with prefills.
``per`` says what its rows are: tokens of the step, or requests that get a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Where = Literal["both", "decode", "prefill"]
Per = Literal["token", "request"]


@dataclass(frozen=True, slots=True)
class Product:
    """Rows times a matrix ``[n, k]``, ``copies`` of them (heads of a batched product)."""

    name: str
    n: float
    k: float
    format: str
    copies: float = 1.0
    per: Per = "token"
    where: Where = "both"
    adapted: int = 0  # of the matrices that an engine joins in it, those that adapters change
    beside: bool = False  # of a shared expert: may run beside the routed ones, on a stream of its own


@dataclass(frozen=True, slots=True)
class Adapted:
    """What adapters add to a product ``[n, k]``: rows times ``slices`` of ``[rank, k]``, then times ``[n, rank]``.

    Products that engines join (query, key and value; both arms of a gate) keep one slice for each.
    """

    name: str
    n: float
    k: float
    rank: float
    slices: float
    per: Per = "token"
    where: Where = "both"

    @property
    def parameters(self) -> float:
        """Of one adapter, on this rank."""
        return self.rank * (self.slices * self.k + self.n)


@dataclass(frozen=True, slots=True)
class Pass:
    """A memory-bound operator: bytes of a row and kernels of a step."""

    name: str
    row_bytes: float
    per: Per = "token"
    where: Where = "both"
    kernels: float = 1.0
    beside: bool = False  # as of `Product`


@dataclass(frozen=True, slots=True)
class Experts:
    """All routed experts of a layer on one rank; rows are tokens of the whole expert group, ``tokens`` per row here."""

    name: str
    hidden: float
    inner: float  # of one expert on this rank
    experts: float  # of the layer
    topk: float
    ranks: float  # expert-parallel ranks
    arms: float  # matrices of the first product: 2 with a gate
    format: str
    group_tokens: (
        float  # tokens that meet in the expert group per token of this rank: attention data parallelism
    )


@dataclass(frozen=True, slots=True)
class Message:
    """Bytes of a row that a rank exchanges: of the buffer, by the convention of `timing.collectives`.

    Messages of group ``cp`` are part of prefills alone.
    """

    name: str
    kind: Literal["all_reduce", "all_gather", "reduce_scatter", "dispatch", "combine"]
    row_bytes: float
    group: Literal["tp", "experts", "cp"]
    per: Per = "token"
    topk: float = 0.0
    experts: float = 0.0


@dataclass(frozen=True, slots=True)
class Core:
    """Attention of new tokens to the cache: ``reach`` newest keys (inf = all), or fixed chunks of that length."""

    name: str
    kind: Literal["attention", "latent", "index"]
    heads: float
    kv_heads: float
    head_dim: float
    v_dim: float
    reach: float = float("inf")
    chunked: bool = False
    latent_dim: float = 0.0  # latent: dimension of a cached key, which decode works on
    latent_v: float = 0.0
    expand_n: float = 0.0  # latent: prefill expands cached keys by a product [n, latent_v]


Part: TypeAlias = Product | Adapted | Pass | Experts | Message | Core


@dataclass(frozen=True, slots=True)
class Block:
    """``count`` equal layers, or an end of the model."""

    name: str
    count: float
    parts: tuple[Part, ...]
