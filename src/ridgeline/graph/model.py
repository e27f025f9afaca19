"""Model: the blocks of one model, before or after the parallel axes."""

from __future__ import annotations

from dataclasses import dataclass

from ridgeline.graph.ops import Block


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Blocks of a model: one per layer kind (in the order of ``Architecture.layers``) and its ends.

    Two models are equal only if they are the same object, so that caches can hold them.
    """

    layers: tuple[Block, ...]
    embedding: Block
    head: Block
    mtp: Block | None  # projection and norms of one multi-token-prediction depth

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Layers, embedding, head and, where it is trained, the extra block of multi-token prediction."""
        ends = (self.embedding, self.head)
        return self.layers + ends + ((self.mtp,) if self.mtp else ())
