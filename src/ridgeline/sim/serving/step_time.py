"""Seconds of the parts of a serving step on one rank: what depends on tokens, on requests, and on contexts.

Every function takes arrays. `ridgeline.sim.serving.build` tabulates them for the closed form, the search and the
simulation, so that there is one step time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.serving import Service
from ridgeline.graph.serving.blocks import step_blocks
from ridgeline.graph.serving.ops import Adapted, Block, Core, Experts, Message, Part, Pass, Product, Where
from ridgeline.sim.serving import operator_times as operators
from ridgeline.sim.serving.table import UNSPLIT
from ridgeline.timing.adapters import ADAPTER_KERNELS, adapter_seconds
from ridgeline.timing.attention import AttentionRates, fit_of
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.dispatch import dispatch_seconds
from ridgeline.timing.gemm import TILES
from ridgeline.timing.rates import operand, peak_flops_per_s, resolve
from ridgeline.timing.stream import StreamRates, stream_rates
from ridgeline.timing.tiled import UNSPLIT as UNPACKED_UNSPLIT
from ridgeline.timing.tiled import tiled_seconds
from ridgeline.timing.topology import Placement, place

FloatArray = NDArray[np.float64]

#: Rows of the smallest tile of a product.
TILE_ROWS = float(TILES[:, 0].min())
#: Most tokens of a rank that the low-latency kernels of an expert exchange take.
LOW_LATENCY_TOKENS = 256.0


@dataclass(frozen=True, slots=True)
class _Counted:
    """A part and how many layers have it."""

    part: Part
    count: float


class StepTimes:
    """The step of one `Service`; ``blocks`` defaults to the whole model of the service."""

    def __init__(self, service: Service, blocks: tuple[Block, ...] | None = None) -> None:
        self.service = service
        self.blocks = blocks or step_blocks(
            service.architecture, service.layout, service.precision,
            dispatcher=service.engine.dispatcher, fused_sum=service.engine.fused_sum, adapters=service.adapters,
        )  # fmt: skip
        self.parts = tuple(_Counted(part, block.count) for block in self.blocks for part in block.parts)

    @property
    def host(self) -> float:
        """Host time of this machine over that of the servers that engines were fitted on."""
        return self.service.cluster.host

    # Rates

    @cached_property
    def _stream(self) -> StreamRates:
        return stream_rates(self.service.chip, self.service.calibration.kernels)

    @cached_property
    def _stream_bytes_per_s(self) -> float:
        return float(self._stream.memory) * self.service.chip.memory.bandwidth

    @cached_property
    def _tp(self) -> Placement:
        return place(self.service.layout.tp, 1, self.service.cluster)

    @cached_property
    def _experts_group(self) -> Placement:
        return place(self.service.layout.tp * self.service.layout.dp, 1, self.service.cluster)

    @cached_property
    def _cp(self) -> Placement:
        return place(self.service.layout.cp, self.service.layout.tp, self.service.cluster)

    def _cast(self, formats: tuple[str, ...]) -> tuple[FloatArray, FloatArray]:
        """Quantisation of products' inputs in kernels of their own: seconds, seconds a value ``[formats, 1]``."""
        fixed, each = np.zeros((len(formats), 1)), np.zeros((len(formats), 1))
        for i, name in enumerate(formats):
            if name.endswith(operators.WEIGHT_ONLY):
                continue
            fit, _ = resolve(self.service.kernels.gemm, name)
            apart = self.service.engine.casts_apart
            fixed[i, 0] = min(fit.cast, 2.0 * self.service.engine.pass_launch) * apart
            each[i, 0] = (
                apart * fit.cast_passes * (2.0 + operand(name).bytes) / self.service.chip.memory.bandwidth
            )
        return fixed, each

    # By tokens or requests

    def rows_seconds(
        self, rows: FloatArray, per: str, *, prefill: bool, group: bool | None = None
    ) -> FloatArray:
        """Products, passes, experts and messages that go by ``per`` (token or request), for ``rows`` of them [s].

        ``group``: only what all ranks of attention data parallelism do together (True; ``rows`` is then their mean), or
        only what each does for itself (False).
        """
        rows = np.asarray(rows, dtype=np.float64)
        own = self.work_seconds(rows, per, "prefill" if prefill else "decode", group)
        return self.work_seconds(rows, per, "both", group) + own + self.message_seconds(rows, per, group)

    def message_seconds(self, rows: FloatArray, per: str, group: bool | None = None) -> FloatArray:
        """The messages of `rows_seconds` [s], which jump where a library changes its algorithm."""
        rows = np.asarray(rows, dtype=np.float64)
        counts: dict[Message, float] = {}
        for counted in self.parts:
            if not isinstance(counted.part, Message) or counted.part.per != per or counted.part.group == "cp":
                continue
            if group is None or self._together(counted.part) == group:
                alike = replace(counted.part, name="")
                counts[alike] = counts.get(alike, 0.0) + counted.count
        total = np.zeros_like(rows)
        for part, count in counts.items():
            total += count * self._message(part, rows)
        return total

    def context_seconds(self, rows: FloatArray) -> FloatArray:
        """Gathering keys and values over context-parallel ranks, for ``rows`` tokens of each in a prefill [s]."""
        total = np.zeros_like(rows)
        for counted in self.parts:
            if isinstance(counted.part, Message) and counted.part.group == "cp":
                total += counted.count * self._message(counted.part, rows)
        return total

    def work_seconds(self, rows: FloatArray, per: str, where: Where, group: bool | None = None) -> FloatArray:
        """What `rows_seconds` has beside messages [s]: operators of these steps, smooth between edges of tiles."""
        rows = np.asarray(rows, dtype=np.float64)
        products: list[tuple[Product, float]] = []
        total = np.zeros_like(rows)
        for counted in self.parts:
            part = counted.part
            if group is not None and self._together(part) != group:
                continue
            match part:
                case Product() if part.per == per and part.where == where:
                    products.append((part, counted.count))
                case Pass() if part.per == per and part.where == where:
                    passes = self.service.engine.elementwise_passes
                    moved = rows * part.row_bytes * passes
                    total += counted.count * (
                        part.kernels * self.service.engine.pass_launch + moved / self._stream_bytes_per_s
                    )
                case Adapted() if part.per == per and part.where == where:
                    total += counted.count * self._adapted(part, rows)
                case Experts() if per == "token" and where == "both":
                    total += counted.count * self._experts(part, rows)
        graph = where == "decode" or (where == "prefill" and self.service.engine.mixed_graph)
        if per == "token" and graph and not group:
            total -= self._beside(rows)
        return total + self._products(products, rows)

    def _beside(self, rows: FloatArray) -> FloatArray:
        """Seconds of shared experts that pass beside the routed ones; the two share the memory and the matrix units.

        ::

            together = max(routed, shared, (bound(routed) + bound(shared)) / (share of the bandwidth reached))
            beside   = routed + shared - together
        """
        engine, total = self.service.engine, np.zeros_like(rows)
        few = rows <= min(engine.beside_tokens, max(engine.graph_batches, default=engine.graph_batch))
        if not few.any():
            return total
        rows = rows[few]
        for block in self.blocks:
            apart = tuple(part for part in block.parts if isinstance(part, Product | Pass) and part.beside)
            experts = next((part for part in block.parts if isinstance(part, Experts)), None)
            if experts is None or not apart:
                continue
            routed = self._experts(experts, rows)
            shared = StepTimes(self.service, (Block(block.name, 1.0, apart),)).work_seconds(
                rows, "token", "both"
            )
            products = tuple(part for part in apart if isinstance(part, Product))
            service = self.service
            bound = operators.products_bound_seconds(service.chip, service.kernels, products, rows)
            bound = bound + operators.experts_bound_seconds(
                service.chip, service.kernels, service.calibration.kernels, experts, rows
            )
            together = np.maximum(np.maximum(routed, shared), bound / float(self._stream.memory))
            total[few] += block.count * np.maximum(routed + shared - together, 0.0)
        return total

    def _together(self, part: Part) -> bool:
        """Whether ranks of attention data parallelism do a part together: experts, and the way to them and back."""
        return self.service.layout.dp > 1 and (
            isinstance(part, Experts) or (isinstance(part, Message) and part.group == "experts")
        )

    def _products(self, products: list[tuple[Product, float]], rows: FloatArray) -> FloatArray:
        if not products:
            return np.zeros_like(rows)
        service = self.service
        seconds = operators.products_seconds(service.chip, service.kernels, tuple(products), rows.tobytes())
        k, counts = (
            np.array([values]).T
            for values in ([part.k for part, _ in products], [count for _, count in products])
        )
        fixed, each = self._cast(tuple(part.format for part, _ in products))
        return np.asarray(seconds + (counts * (fixed + each * rows[None, :] * k)).sum(axis=0))

    def _adapted(self, part: Adapted, rows: FloatArray) -> FloatArray:
        """Adapters of ``rows`` tokens of as many requests as may run: the most that prefills, of few requests, pay."""
        service = self.service
        requests = np.minimum(rows / (1.0 + service.speculation.drafts), float(service.max_seqs))
        return adapter_seconds(
            rows, service.adapters.in_use(requests), part.n, part.k, part.rank, part.slices,
            self._stream_bytes_per_s, peak_flops_per_s(service.chip, "bf16"), service.engine.pass_launch,
        )  # fmt: skip

    def _message(self, part: Message, rows: FloatArray) -> FloatArray:
        service = self.service
        group = {"tp": self._tp, "experts": self._experts_group, "cp": self._cp}[part.group]
        size = rows * part.row_bytes
        if part.kind == "dispatch" or part.kind == "combine":
            slow, quick = (
                dispatch_seconds(
                    rows, part.row_bytes, part.topk, group, service.cluster, service.calibration.links,
                    combine=part.kind == "combine", low_latency=low_latency, experts=part.experts,
                )
                for low_latency in (False, True)
            )  # fmt: skip
            return np.where(rows <= LOW_LATENCY_TOKENS, quick, slow)
        # engines copy into each other's memory; where chips cannot, they leave it to NCCL
        own = part.kind == "all_reduce" and service.cluster.tiers[0].peer_access
        engine = service.engine.all_reduce if own and service.engine.all_reduce != "nccl" else ""
        return collective_seconds(
            part.kind, size, group, service.cluster, service.calibration.links, engine=engine
        )

    def _experts(self, part: Experts, rows: FloatArray) -> FloatArray:
        service = self.service
        return operators.experts_seconds(
            service.chip, service.kernels, service.calibration.kernels, (part,), rows.tobytes()
        )

    def expert_edges(self, most: int) -> FloatArray:
        """Tokens, up to ``most``, after which an expert's mean rows fill one tile more: its time jumps there."""
        rows = np.arange(1.0, most + 1.0)
        found = [np.zeros(0)]
        for part in {replace(each.part, name="") for each in self.parts if isinstance(each.part, Experts)}:
            service = self.service
            fit, _ = operators.expert_rates(
                service.chip, service.kernels, service.calibration.kernels, part.format
            )
            _, routed, active = operators.routing(part, rows)
            tiles = np.ceil((routed / active + fit.padding) / TILE_ROWS)
            found.append(rows[:-1][np.diff(tiles) > 0.0])
        return np.concatenate(found)

    def kernels(self, *, prefill: bool, attention: bool) -> float:
        """Kernels of a step: of attention alone, or all others."""
        skipped = "decode" if prefill else "prefill"
        total = 0.0
        for counted in self.parts:
            part = counted.part
            if isinstance(part, Message) and part.group == "cp" and not prefill:
                continue
            if isinstance(part, Core) == attention and getattr(part, "where", "both") != skipped:
                total += counted.count * _kernels_of(part)
        return total

    # By contexts

    @cached_property
    def windows(self) -> tuple[float, ...]:
        """Reaches of the attention layers, ascending; inf for full attention."""
        found = {counted.part.reach for counted in self.parts if isinstance(counted.part, Core)}
        return tuple(sorted(found)) or (float("inf"),)

    def _cores(self, reach: float | None = None) -> operators.Cores:
        return tuple(
            (counted.part, counted.count)
            for counted in self.parts
            if isinstance(counted.part, Core) and (reach is None or counted.part.reach == reach)
        )

    @property
    def _stored(self) -> str:
        """The format of the cache as kernels are timed with."""
        stored = self.service.precision.kv
        return "fp8" if stored.startswith("fp8") else stored

    def _core_rates(self, kind: str) -> AttentionRates:
        return operators.core_rates(self.service.chip, self.service.kernels, kind, self._stored)

    @cached_property
    def unpacked(self) -> bool:
        """Whether decodes beside a prefill are blocks of its kernel (`ridgeline.timing.tiled`)."""
        fit, _ = fit_of(self.service.kernels, "attention", "bf16", self._stored)
        library = fit.provenance.library or ""
        return any(core.kind == "attention" for core, _ in self._cores()) and any(
            fnmatchcase(library, pattern) for pattern in self.service.engine.unpacked
        )

    @property
    def unsplit(self) -> float:
        """Requests' heads a core from which on decode kernels no longer split one over cores."""
        return UNPACKED_UNSPLIT if self.unpacked else UNSPLIT

    def mixed_seconds(self, batch: FloatArray, context: FloatArray, reach: float) -> FloatArray:
        """`decode_seconds` beside prefills, where their kernel does the decodes as well [s]."""
        batch, context = np.broadcast_arrays(np.asarray(batch, np.float64), np.asarray(context, np.float64))
        requests, keys = np.maximum(batch, 1.0), np.maximum(context, 1.0)
        total = np.zeros(batch.shape)
        for core, count in self._cores(reach):
            if core.kind == "attention":
                total += count * tiled_seconds(
                    requests, core.heads, core.kv_heads, keys, core.head_dim, core.v_dim,
                    self.prefill_rates, self.service.chip.l2,
                )  # fmt: skip
        return np.where(batch > 0, total, 0.0)

    @property
    def prefill_rates(self) -> AttentionRates:
        """Rates of attention over prompts."""
        return self._core_rates("attention")

    def decode_seconds(self, batch: FloatArray, context: FloatArray, reach: float) -> FloatArray:
        """Attention of ``batch`` requests that see ``context`` keys each, in the layers of one reach [s]."""
        batch, context = np.broadcast_arrays(np.asarray(batch, np.float64), np.asarray(context, np.float64))
        queries = 1.0 + self.service.speculation.drafts
        if queries > 1.0 and self.unpacked:  # several queries each: the kernel packs nothing
            return self.mixed_seconds(batch, context, reach)
        service = self.service
        total = operators.decode_seconds(
            service.chip, service.kernels, service.calibration.kernels, self._cores(reach), self._stored, queries,
            np.maximum(batch, 1.0).tobytes(), np.maximum(context, 1.0).tobytes(),
        )  # fmt: skip
        return np.where(batch > 0, total.reshape(batch.shape), 0.0)

    def core_share(self, reach: float) -> tuple[float, float]:
        """Seconds that one core takes for a key of all layers of one reach, and cores a request keeps busy over all.

        A core streams at most ``core_stream`` times its share of the memory bandwidth (`KernelCalibration`).
        """
        chip = self.service.chip
        seconds = items = 0.0
        stream = self.service.calibration.kernels.core_stream
        for core, count in self._cores(reach):
            if core.kind != "attention":
                continue
            key = core.head_dim + core.v_dim
            kv_bytes = float(np.ravel(self._core_rates("decode").kv_bytes)[0])
            seconds += count * key * kv_bytes * chip.cores / (stream * chip.memory.bandwidth)
            items = core.kv_heads / chip.cores
        return seconds, items

    def prefill_seconds(self, q: FloatArray, kv: FloatArray) -> FloatArray:
        """Attention of a chunk of ``q`` new tokens that see ``kv`` keys, its own included, without launch [s]."""
        q, kv = np.broadcast_arrays(np.asarray(q, np.float64), np.asarray(kv, np.float64))
        service = self.service
        total = operators.prefill_seconds(
            service.chip, service.kernels, self._cores(), service.layout.cp, self._stored,
            service.precision.of_attention, q.tobytes(), np.maximum(kv, q).tobytes(),
        )  # fmt: skip
        return total.reshape(q.shape)

    def prefill_fixed_seconds(self) -> float:
        """Launches of the attention kernels of a step with prefills [s]."""
        total = 0.0
        for core, count in self._cores():
            if core.kind != "index":
                rates = self._core_rates("latent" if core.kind == "latent" else "attention")
                total += count * float(np.ravel(rates.launch)[0])
        return total


def _kernels_of(part: Part) -> float:
    match part:
        case Pass():
            return part.kernels
        case Experts():
            return 6.0
        case Adapted():
            return ADAPTER_KERNELS
        case _:
            return 1.0
