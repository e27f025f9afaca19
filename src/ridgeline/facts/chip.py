"""Chip, its memories and its links; Cluster: nodes, tiers and facility. All from YAML files with sources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from ridgeline.facts.format import matrix_key
from ridgeline.facts.spec import (
    Bytes,
    BytesPerSecond,
    Count,
    FlopsPerSecond,
    Hertz,
    Positive,
    Prose,
    Proses,
    Seconds,
    Spec,
    SquareMetres,
    Watts,
)

Size = Annotated[Bytes, Field(gt=0)]
Bandwidth = Annotated[BytesPerSecond, Field(gt=0)]
Rate = Annotated[FlopsPerSecond, Field(gt=0)]


class Memory(Spec):
    """Device memory."""

    kind: str = Field(description="technology, such as HBM3e")
    capacity: Size = Field(description="bytes a program can allocate in principle (1 GB = 1e9 B)")
    bandwidth: Bandwidth = Field(description="data-sheet bandwidth")


class ScaleUp(Spec):
    """The link that joins the chips of one scale-up domain."""

    link: str = Field(description="name of the link technology")
    bandwidth: Bandwidth = Field(description="per chip and direction")
    domain: Count = Field(description="chips of one domain")
    topology: Literal["switch", "mesh", "torus", "none"] = "switch"


class Chip(Spec):
    """One accelerator package. Rates are dense (no sparsity)."""

    name: str
    title: str
    vendor: str
    launch: str = Field(description="year and month, 2022-03", pattern=r"^\d{4}(-\d{2})?$")
    matrix: dict[Annotated[str, AfterValidator(matrix_key)], Rate] = Field(
        min_length=1, description="dense matrix rate by format name"
    )
    products: dict[Annotated[str, AfterValidator(matrix_key)], Rate] = Field(
        default_factory=dict, description="best measured rate of a large dense product by format name"
    )
    vector: Rate = Field(description="fp32 rate of the vector units")
    memory: Memory
    l2: Size = Field(description="last-level cache or on-chip SRAM")
    cores: Count = Field(description="SMs, CUs, TensorCores or equivalents that a kernel is tiled over")
    clock: Annotated[Hertz, Field(gt=0)] = Field(description="clock at which the matrix rates hold")
    max_clock: Hertz | None = Field(
        None, description="highest clock; a physical bound uses it, where given, instead of `clock`"
    )
    scale_up: ScaleUp
    host_bandwidth: Bandwidth = Field(description="host link (PCIe, C2C), per direction")
    tdp: Annotated[Watts, Field(gt=0)] = Field(description="power limit of the chip or module, as shipped")
    idle_power: Watts | None = None
    die_area: SquareMetres | None = None
    process: str = ""
    relative: str | None = Field(
        None,
        description="chip whose calibration is used, scaled by the data sheets, where none is measured",
    )
    cluster: str | None = Field(None, description="default cluster for --on CHIP")
    note: Prose = ""
    source: Proses = Field(
        min_length=1, description="source by top-level field; key 'default' covers the rest"
    )

    @property
    def best_clock(self) -> float:
        """Highest clock [Hz]: `max_clock`, or the clock of the data sheet where it is not known."""
        return max(self.max_clock or 0.0, self.clock)


class Tier(Spec):
    """One level of the network, from the inside out; a tier joins groups of the tier inside it.

    ``bandwidth`` is what one chip can send at this tier, per direction, when all chips send at once and
    nothing is oversubscribed (NICs per node x rate / chips per node).
    """

    name: str
    size: Count | None = Field(description="chips joined at this level; null = the whole cluster")
    bandwidth: Bandwidth
    latency: Seconds = Field(description="one hop of a small message, software included")
    topology: Literal["switch", "mesh", "torus", "fat-tree", "dragonfly"] = "switch"
    peer_access: bool = Field(
        True, description="chips reach each other's memory, which the all-reduce kernels of engines need"
    )
    rail_optimised: bool = Field(False, description="chip i of every node meets on the same leaf")
    oversubscription: Positive = Field(1.0, description="down-links over up-links above the leaf (1 = none)")
    in_network_reduction: bool = Field(False, description="switches reduce (NVLS, SHARP)")
    lossy: bool = Field(False, description="Ethernet with ECMP hashing (RoCE): flows collide")
    torus_axes: Count | None = Field(None, description="torus: number of axes the bandwidth is spread over")


class Cluster(Spec):
    """Chips joined by tiers, in nodes, in a building."""

    name: str
    title: str
    chip: str = Field(description="catalog name of the chip")
    chips_per_node: Count
    tiers: tuple[Tier, ...] = Field(min_length=1)
    node_overhead: Watts = Field(description="power of a node besides its chips at load (CPU, NIC, fans)")
    host: Positive = Field(
        1.0,
        description="time that a serving engine's host thread takes, over that on x86 servers of 2023 to 2025",
    )
    pue: float = Field(1.25, ge=1.0, description="facility power over IT power")
    max_chips: Count | None = None
    note: Prose = ""
    source: Proses = Field(min_length=1)

    @field_validator("tiers")
    @classmethod
    def _inside_out(cls, tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        """Each tier joins several whole groups of the tier inside it; only the last may be open-ended."""
        inner = 1
        for index, tier in enumerate(tiers):
            if tier.size is None:
                if index < len(tiers) - 1:
                    raise ValueError(f"tier '{tier.name}' has no size but is not the last")
            elif (tier.size <= inner and index) or tier.size % inner:
                raise ValueError(
                    f"tier '{tier.name}' joins {tier.size} chips, expected a multiple of {inner}"
                )
            else:
                inner = tier.size
        return tiers
