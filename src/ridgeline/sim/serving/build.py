"""A service's `StepTable`: its step times over the sizes that steps can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ridgeline.facts.architecture import Moe
from ridgeline.facts.engine import Engine
from ridgeline.facts.parameters import active_parameters
from ridgeline.facts.serving import Service, Speculation
from ridgeline.graph.cache import by_identity
from ridgeline.graph.serving.blocks import mtp_blocks
from ridgeline.graph.serving.memory import Memory, memory
from ridgeline.graph.serving.ops import Where
from ridgeline.sim.serving.operator_times import multiplied
from ridgeline.sim.serving.step_time import StepTimes
from ridgeline.sim.serving.table import StepTable
from ridgeline.timing.energy import joules_per_flop

FloatArray = NDArray[np.float64]

#: Knots of counts: every one that a small batch has, then ever wider apart.
_FINE = 16
_PER_OCTAVE = 4
#: Knots of products: every count up to here, and both sides of every edge of a tile, where their time jumps; beyond
#: many tokens those of large tiles will do.
_EVERY = 96
_EDGES = ((64, 8192), (128, 16384), (256, 65536))
#: Knots of prefill attention for each octave of new tokens and of keys.
_PREFILL_PER_OCTAVE = 4
#: Steps that only decode, and steps with prefills.
_WHERE: tuple[Where, Where] = ("decode", "prefill")


@by_identity
def step_table(service: Service, longest: int = 131072) -> StepTable:
    """The step times, limits and cache of one engine; ``longest`` [tokens] bounds the contexts that are tabulated.

    Raises:
        ValueError: the model does not fit in the memory of its chips.
    """
    if service.speculation.drafts:
        plain = service.replace(speculation=Speculation())
        return with_drafts(_plain_table(plain, longest, _max_tokens(service)), service)
    return _plain_table(service, longest, _max_tokens(service))


def with_drafts(plain: StepTable, service: Service) -> StepTable:
    """``plain``, the table of the same service without speculation, as drafts make it: much of it stays.

    ``plain`` must hold as many tokens a step as the requests with their drafts (`drafts_fit`).
    """
    times, found, drafts = StepTimes(service), memory(service), service.speculation.drafts
    knots = _tile_knots(plain.max_tokens, times.expert_edges(plain.max_tokens))
    extra = _draft_seconds(service, knots, plain.max_tokens)
    decode_s, longest_s = _decode_tables(times, plain.max_seqs, plain.contexts)
    mixed_s = _mixed_table(times, plain.max_seqs, plain.contexts)
    prefills, prefill_s = plain.tokens_s[1], plain.prefill_s
    smaller = _smaller(service)
    if smaller is not None:  # it reads prompts too, and its own cache once for each draft
        widest = int(np.argmax(times.windows))
        for reach in smaller.windows:
            seen = np.minimum(plain.contexts, reach)[None, :]
            batches = np.arange(1.0, plain.max_seqs + 1.0)[:, None]
            drafted = drafts * smaller.decode_seconds(batches, seen, reach)
            decode_s[widest, 1:] += drafted
            if mixed_s.size:
                mixed_s[widest, 1:] += drafted
        own = smaller.rows_seconds(knots, "token", prefill=True)
        prefills = prefills + np.interp(np.arange(plain.max_tokens + 1.0), np.r_[0.0, knots], np.r_[0.0, own])
        prefill_s = prefill_s + _seconds_per_pair(smaller, plain.prefill_q, plain.prefill_kv)
    _, tokens_j, _, _ = _energy(service, plain.max_tokens)
    return replace(
        plain,
        tokens_s=np.stack([plain.tokens_s[0] + extra, prefills]),
        prefill_s=prefill_s,
        rows_s=plain.rows_s * (1.0 + drafts),  # drafts are verified with logits of their own
        decode_s=decode_s,
        longest_s=longest_s,
        mixed_s=mixed_s,
        tokens_j=tokens_j,
        num_blocks=_blocks(service, found, int(plain.contexts[-1])),
        acceptance=service.speculation.acceptance,
    )


def drafts_fit(plain: StepTable, service: Service) -> bool:
    """Whether `with_drafts` may start from ``plain``."""
    return plain.max_tokens == _max_tokens(service) and plain.max_seqs == _max_seqs(service)


def _max_seqs(service: Service) -> int:
    return max(1, service.max_seqs // service.layout.pp)


def _max_tokens(service: Service) -> int:
    return max(service.max_batched_tokens, _max_seqs(service) * (1 + service.speculation.drafts))


def _blocks(service: Service, found: Memory, longest: int) -> int:
    """Blocks of the cache, filled with requests of middle length."""
    return int(max(found.tokens(min(4096, longest)), 0.0) // service.engine.block_size)


def _decode_tables(times: StepTimes, max_seqs: int, contexts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """`StepTable.decode_s` and `StepTable.longest_s`."""
    decode_s = _by_requests(times, times.decode_seconds, max_seqs, contexts)
    longest_s = np.zeros((len(times.windows), len(contexts)))
    for w, reach in enumerate(times.windows):
        seen = np.minimum(contexts, reach)
        longest_s[w] = times.decode_seconds(np.ones_like(seen), seen, reach)
    return decode_s, longest_s


def _mixed_table(times: StepTimes, max_seqs: int, contexts: FloatArray) -> FloatArray:
    """`StepTable.mixed_s`."""
    if not times.unpacked:
        return np.zeros((0, 0, 0))
    return _by_requests(times, times.mixed_seconds, max_seqs, contexts)


def _by_requests(
    times: StepTimes,
    seconds: Callable[[FloatArray, FloatArray, float], FloatArray],
    max_seqs: int,
    contexts: FloatArray,
) -> FloatArray:
    """``seconds`` of requests, contexts and reach for every count of requests ``[W, max_seqs + 1, C]``."""
    batches = np.r_[1.0, _knots(max_seqs)[1:]]
    found = np.zeros((len(times.windows), max_seqs + 1, len(contexts)))
    for w, reach in enumerate(times.windows):
        table = seconds(batches[:, None], np.minimum(contexts, reach)[None, :], reach)
        for c in range(len(contexts)):
            found[w, 1:, c] = np.interp(np.arange(1, max_seqs + 1), batches, table[:, c])
    return found


def _plain_table(service: Service, longest: int, max_tokens: int) -> StepTable:
    """The table of a service without speculation."""
    times, engine, layout = StepTimes(service), service.engine, service.layout
    found, max_seqs = memory(service), _max_seqs(service)
    knots = _tile_knots(max_tokens, times.expert_edges(max_tokens))
    every = np.maximum(np.arange(max_tokens + 1.0), 1.0)
    messages = times.message_seconds(every, "token", group=False)
    shared = times.work_seconds(knots, "token", "both", group=False)
    group = _group_tokens(times, knots, every)
    decode = _decode_tokens(times, knots, shared, messages, group)
    mixed = _mixed_tokens(times, knots, shared, messages, group)
    if layout.cp > 1:  # a prefill's tokens are shared; decodes run on every rank alike
        own = np.ceil(np.arange(max_tokens + 1.0) / layout.cp)
        mixed = mixed[own.astype(np.int64)] + times.context_seconds(own)
    rows_knots = _tile_knots(2 * max_seqs)
    rows = times.rows_seconds(rows_knots, "request", prefill=False)
    rows_s = np.interp(np.arange(2 * max_seqs + 1), np.r_[0.0, rows_knots], np.r_[0.0, rows])
    contexts = np.unique(np.rint(2.0 ** np.arange(0, np.log2(max(longest, 2)) + 0.5, 0.5)))
    windows = np.array(times.windows)
    decode_s, longest_s = _decode_tables(times, max_seqs, contexts)
    prefill_q, prefill_kv = _octaves(max_tokens), _octaves(max(longest, max_tokens))
    host = _host(times)
    energy = _energy(service, max_tokens)
    shares = [times.core_share(reach) for reach in times.windows]
    return StepTable(
        tokens_s=np.stack([decode, mixed]),
        group_s=group,
        rows_s=rows_s,
        windows=windows,
        contexts=contexts,
        decode_s=decode_s,
        longest_s=longest_s,
        prefill_q=prefill_q,
        prefill_kv=prefill_kv,
        prefill_s=_seconds_per_pair(times, prefill_q, prefill_kv),
        prefill_fixed_s=times.prefill_fixed_seconds(),
        host_hidden_s=host.hidden,
        host_s=host.exposed,
        static_w=energy[0],
        tokens_j=energy[1],
        pair_j=energy[2],
        context_j=energy[3],
        block_size=engine.block_size,
        num_blocks=_blocks(service, found, longest),
        max_seqs=max_seqs,
        max_tokens=max_tokens,
        ranks=layout.dp,
        lockstep=layout.dp > 1,
        pad_tokens=max(engine.graph_batches, default=engine.graph_batch) if engine.pad_ranks else 0,
        stages=layout.pp,
        schedule=engine.schedule,
        kv_bytes_per_token=found.token_bytes * layout.tp * layout.pp,
        chips=layout.chips,
        limit_w=service.chip.tdp * layout.chips,
        lag=1 if engine.host_overlap or engine.async_schedule else 0,
        frontend_s=engine.frontend,
        core_s=np.array([share[0] for share in shares]),
        core_items=np.array([share[1] for share in shares]),
        unsplit=times.unsplit,
        mixed_s=_mixed_table(times, max_seqs, contexts),
        host_launch_s=host.launch,
    )


@dataclass(frozen=True, slots=True)
class _Host:
    """Seconds of the host as `StepTable` has them."""

    hidden: tuple[float, float]
    exposed: tuple[float, float, float]
    launch: float


def _host(times: StepTimes) -> _Host:
    """What the host does in a step beside the device, and after it.

    Pipelines have a loop of their own that does not overlap (TensorRT-LLM, `_executor_loop_pp`; SGLang,
    `event_loop_pp`): each stage plans and answers its micro-batch before the next one.
    """
    engine, stages = times.service.engine, times.service.layout.pp
    step, request = engine.host_step * times.host, engine.host_request * times.host
    prefill = engine.host_prefill * times.host
    if not engine.host_overlap:
        return _Host((0.0, 0.0), (step, request, prefill), 0.0)
    exposed = engine.host_exposed * times.host
    if stages > 1:
        return _Host((0.0, 0.0), (exposed + stages * step, stages * request, prefill), 0.0)
    kernels = times.kernels(prefill=True, attention=True) + times.kernels(prefill=True, attention=False)
    launch = 0.0 if engine.mixed_graph else kernels * engine.host_launch * times.host
    return _Host((step, request), (exposed, 0.0, prefill), launch)


def _knots(most: int) -> FloatArray:
    """Counts from 1 to ``most``: all up to 16, then four an octave."""
    fine = np.arange(1, min(_FINE, most) + 1, dtype=np.float64)
    if most <= _FINE:
        return fine
    steps = np.arange(np.log2(_FINE), np.log2(most), 1.0 / _PER_OCTAVE)[1:]
    return np.unique(np.r_[fine, np.rint(2.0**steps), float(most)])


def _tile_knots(most: int, more: FloatArray | None = None) -> FloatArray:
    """The same with every count up to 96 and both sides of the edges of tiles, and of ``more`` edges."""
    edges, first = [np.zeros(0) if more is None else more], 0
    for tile, last in _EDGES:
        edges.append(np.arange(first + tile, min(last, most) + 1.0, tile))
        first = last
    last_before = np.concatenate(edges)
    found = np.unique(np.r_[_knots(most), np.arange(1.0, _EVERY + 1.0), last_before, last_before + 1.0])
    return found[found <= most]


def _octaves(most: float) -> FloatArray:
    """Sizes from 1 to ``most`` or just above, so many an octave."""
    return np.asarray(
        2.0 ** (np.arange(np.ceil(np.log2(most) * _PREFILL_PER_OCTAVE) + 1) / _PREFILL_PER_OCTAVE)
    )


def _seconds_per_pair(times: StepTimes, q: FloatArray, kv: FloatArray) -> FloatArray:
    """`StepTable.prefill_s`.

    A corner with fewer keys than new tokens is no chunk, but prompts without a prefix lie on the line from it to the
    corner across: it is set such that half-way on that line is exact.
    """

    def per_pair(q: FloatArray, kv: FloatArray) -> FloatArray:
        return np.asarray(times.prefill_seconds(q, kv) / (q * (kv - (q - 1.0) / 2.0)))

    found = per_pair(q[:, None], np.maximum(q[:, None], kv[None, :]))
    low = np.arange(min(len(q), len(kv)) - 1)
    half = np.sqrt(q[low] * q[low + 1])
    others = found[low, low] + found[low, low + 1] + found[low + 1, low + 1]
    found[low + 1, low] = 4.0 * per_pair(half, half) - others
    return found


def _decode_tokens(
    times: StepTimes, knots: FloatArray, shared: FloatArray, messages: FloatArray, group: FloatArray
) -> FloatArray:
    """Seconds of a step that only decodes by its tokens ``[most + 1]``: padded to a graph, or launched one by one.

    ``shared``: seconds of the operators that all steps have, at ``knots``; ``messages``: by tokens ``[most + 1]``;
    ``group``: what ranks do together ``[2, most + 1]``.
    """
    engine, most = times.service.engine, len(messages) - 1
    seconds = shared + times.work_seconds(knots, "token", "decode", group=False)
    kernels = times.kernels(prefill=False, attention=False) + times.kernels(prefill=False, attention=True)
    counts = np.arange(most + 1, dtype=np.float64)
    padded, captured = _graphs(engine, counts)
    counts = np.where(captured, np.minimum(padded, most), counts)
    device = (
        np.interp(counts, np.r_[0.0, knots], np.r_[seconds[0], seconds]) + messages[counts.astype(np.int64)]
    )
    device = device + kernels * engine.gap
    found = np.where(captured, device, _launched(device, group[0], kernels * engine.host_launch * times.host))
    found[0] = 0.0
    return found


def _graphs(engine: Engine, counts: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Sizes that decode batches are padded to, and which batches run as a graph."""
    if engine.graph_batches:
        sizes = np.array(sorted(engine.graph_batches), dtype=np.float64)
        at = np.minimum(np.searchsorted(sizes, counts), len(sizes) - 1)
        return sizes[at], counts <= sizes[-1]
    step = float(engine.graph_step)
    padded = np.where(counts <= 2, counts, np.where(counts <= 4, 4.0, np.ceil(counts / step) * step))
    return padded, counts <= engine.graph_batch


def _mixed_tokens(
    times: StepTimes, knots: FloatArray, shared: FloatArray, messages: FloatArray, group: FloatArray
) -> FloatArray:
    """The same for steps with prefills, which are launched in pieces or kernel by kernel."""
    engine, most = times.service.engine, len(messages) - 1
    seconds = shared + times.work_seconds(knots, "token", "prefill", group=False)
    attention = times.kernels(prefill=True, attention=True)
    others = times.kernels(prefill=True, attention=False)
    counts = np.arange(most + 1, dtype=np.float64)
    device = np.interp(counts, np.r_[0.0, knots], np.r_[seconds[0], seconds]) + messages
    device = device + (attention + others) * engine.gap
    # a graph for each piece between attention kernels: a launch for it and some for attention itself
    pieces = attention * 4.0
    launches = np.where(engine.mixed_graph & (counts <= engine.graph_batch), pieces, attention + others)
    found = _launched(device, group[1], launches * engine.host_launch * times.host)
    found[0] = 0.0
    return found


def _launched(device: FloatArray, group: FloatArray, launches: FloatArray | float) -> FloatArray:
    """A rank's part of a step that is never shorter than its launches, those of what ranks do together included."""
    together = group if group.size else 0.0
    return np.asarray(np.maximum(device + together, launches) - together)


def _group_tokens(times: StepTimes, knots: FloatArray, every: FloatArray) -> FloatArray:
    """What all ranks do together by their mean tokens ``[2, most + 1]``: steps of decodes, and with prefills."""
    if times.service.layout.dp == 1:
        return np.zeros((2, 0))
    engine, counts = times.service.engine, np.arange(len(every), dtype=np.float64)
    messages = times.message_seconds(every, "token", group=True)
    found = []
    for where in _WHERE:
        seconds = times.work_seconds(knots, "token", "both", group=True)
        seconds = seconds + times.work_seconds(knots, "token", where, group=True)
        at = counts
        if engine.pad_ranks and where == "decode":  # the graph that all ranks run
            padded, captured = _graphs(engine, counts)
            at = np.where(captured, np.minimum(padded, counts[-1]), counts)
        found.append(np.interp(at, np.r_[0.0, knots], np.r_[0.0, seconds]) + messages[at.astype(np.int64)])
    together = np.stack(found)
    together[:, 0] = 0.0
    return together


def _smaller(service: Service) -> StepTimes | None:
    """The model that drafts, without drafts of its own; None where prediction layers do, or nothing."""
    if service.speculation.method != "draft" or service.speculation.draft is None:
        return None
    return StepTimes(service.replace(architecture=service.speculation.draft, speculation=Speculation()))


def _draft_seconds(service: Service, knots: FloatArray, most: int) -> FloatArray:
    """Seconds that drafting adds to a decode step ``[most + 1]`` by its tokens (each request has 1 + drafts)."""
    drafts, smaller = service.speculation.drafts, _smaller(service)
    if smaller is not None:
        times = smaller
    else:
        layers = mtp_blocks(
            service.architecture, service.layout, service.precision,
            dispatcher=service.engine.dispatcher, fused_sum=service.engine.fused_sum,
        )  # fmt: skip
        times = StepTimes(service, layers)
    requests = np.maximum(knots / (1.0 + drafts), 1.0)
    each = times.rows_seconds(requests, "token", prefill=False) + times.rows_seconds(
        requests, "request", prefill=False
    )
    kernels = times.kernels(prefill=False, attention=False) * service.engine.gap
    return np.asarray(np.interp(np.arange(most + 1.0), knots, drafts * (each + kernels)))


def _energy(service: Service, most: int) -> tuple[float, FloatArray, float, float]:
    """Watts of the engine's chips, joules by tokens ``[most + 1]``, of a prefill pair, and of a token of context."""
    fit, arch, layout = service.calibration.kernels.energy, service.architecture, service.layout
    found = memory(service)
    flop = joules_per_flop(fit, multiplied(service.precision.linear))
    tokens = np.arange(most + 1, dtype=np.float64)
    mlp = arch.layers[-1].mlp
    share = np.minimum(1.0, tokens / 256.0) if isinstance(mlp, Moe) else np.ones_like(tokens)
    weights = found.weights * layout.chips * (0.1 + 0.9 * share)
    tokens_j = tokens * 2.0 * active_parameters(arch) * flop * layout.dp + weights * fit.joules_per_byte
    tokens_j[0] = 0.0
    context = found.token_bytes * layout.tp * layout.pp * fit.joules_per_byte
    pair = 4.0 * arch.hidden * arch.num_layers * flop
    return fit.static * layout.chips, tokens_j / layout.dp, pair, context
