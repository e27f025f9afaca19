"""StepTable: the time of every step that one engine can make, in few sufficient numbers.

The closed form, the search and the simulation all read this one value. It knows no model and no chip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: From so many requests' heads a core on, decode kernels no longer split one over cores.
UNSPLIT = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class StepTable:
    """Seconds of one step of one attention rank, and the limits its scheduler keeps.

    A step runs ``d`` decoding requests and ``p`` chunks of prefills; it has ``n`` tokens (each decode counts
    ``1 + drafts``), of which ``r`` requests get a token (``d`` and the prefills that end)::

        device = tokens_s[m, n] + rows_s[r] + decode_s(d, contexts) + sum over chunks of prefill_s(q, kv)
                 + (prefill_fixed_s where p > 0)                    m = 0 without prefills (graphs), 1 with
        hidden = host_hidden_s[0] + host_hidden_s[1] d + (host_launch_s where p > 0)
        t      = max(device, hidden) + host_s[0] + host_s[1] r + (host_s[2] where requests enter)

    ``decode_s``: for each kind of attention layer ``w`` with window ``windows[w]`` (inf where it sees all), with
    ``c_w`` the mean over the decoding requests of ``min(context, window)``: linear in ``c_w`` between ``contexts``,
    row ``d`` of ``decode_s[w]``; never below ``longest_s[w]`` at the longest context alone, nor below what the busiest
    core of an uneven batch takes, ``core_s[w] (longest + (ceil(d core_items[w]) - 1) c_w)``, where requests are not
    split over cores (``d core_items[w]`` at least ``unsplit``). Beside prefills, where one kernel does both, row ``d``
    of ``mixed_s[w]`` instead, never below its row of one request at the longest context: every request has blocks of
    its own there.
    ``prefill_s``: of ``q`` new tokens that see ``kv`` keys in all (their own included): the table holds seconds per
    computed pair, ``pairs = q (kv - (q - 1) / 2)``, bilinear in log2 q and log2 kv, times the pairs.

    Attributes:
        tokens_s: ``[2, max_tokens + 1]`` everything that depends on the number of tokens alone, graph padding included.
        group_s: ``[2, max_tokens + 1]`` what all ranks in lockstep do together, by their mean tokens (rounded up),
            beyond the slowest of them; empty for one rank.
        rows_s: ``[max(max_seqs, 1) * 2 + 1]`` output layer and sampling by requests that get a token.
        windows: ``[W]`` tokens, inf for full attention.
        contexts: ``[C]`` ascending, from 1 to the longest request.
        decode_s: ``[W, max_seqs + 1, C]``; row 0 is zero.
        longest_s: ``[W, C]``.
        mixed_s: ``[W, max_seqs + 1, C]`` the same beside prefills; empty where decodes have a kernel of their own.
        core_s, core_items: ``[W]`` seconds of a key on one core, and cores that one request keeps busy over all cores.
        unsplit: requests' heads a core from which on decode kernels no longer split one over cores.
        prefill_q, prefill_kv: ``[Q]`` and ``[K]`` ascending from 1, evenly apart in log2 and by the same step.
        prefill_s: ``[Q, K]`` seconds per pair.
        prefill_fixed_s: once per step with prefills.
        host_hidden_s, host_s, host_launch_s: as above; one thread plans a step and launches its kernels.
        static_w, tokens_j, pair_j, context_j: energy of the whole engine: watts always, joules by tokens ``[max_tokens
            + 1]``, per prefill pair, and per decode request and token of context.
        limit_w: power limit of all chips of the engine, which no average is above.
        block_size, num_blocks: KV cache of one attention rank; inf-like counts are fine.
        max_seqs, max_tokens: limits of one attention rank, and with pipeline stages of one micro-batch.
        ranks: attention ranks of the engine (attention data parallelism).
        lockstep: ranks step together, each as long as the slowest (experts spread over all of them).
        pad_tokens: steps in which no rank has more tokens are padded: what ranks do together goes by the fullest one.
        stages: pipeline stages: so many steps are under way at a time; a step's result comes after ``stages`` times
            its share.
        schedule: chunked, prefill_first or whole (`ridgeline.facts.engine`).
        acceptance: chance that each draft token is accepted if those before it were; empty without speculation.
        kv_bytes_per_token: of one attention rank's requests over all its chips, for transfers and tiers.
        chips: of the engine.
        lag: steps planned ahead: with 1 the next step is planned while one runs, so a request that comes then, and a
            slot or block that is freed then, wait for one more step; nothing waits at an idle engine.
        frontend_s: latency of a request outside steps, before its first token; the device does not wait for it.
    """

    tokens_s: FloatArray
    rows_s: FloatArray
    windows: FloatArray
    contexts: FloatArray
    decode_s: FloatArray
    longest_s: FloatArray
    prefill_q: FloatArray
    prefill_kv: FloatArray
    prefill_s: FloatArray
    prefill_fixed_s: float
    host_hidden_s: tuple[float, float]
    host_s: tuple[float, float, float]
    static_w: float
    tokens_j: FloatArray
    pair_j: float
    context_j: float
    block_size: int
    num_blocks: int
    max_seqs: int
    max_tokens: int
    ranks: int = 1
    lockstep: bool = True
    pad_tokens: int = 0
    stages: int = 1
    schedule: str = "chunked"
    acceptance: tuple[float, ...] = ()
    kv_bytes_per_token: float = 0.0
    chips: int = 1
    limit_w: float = math.inf
    lag: int = 0
    frontend_s: float = 0.0
    host_launch_s: float = 0.0
    group_s: FloatArray = field(default_factory=lambda: np.zeros((2, 0)))
    core_s: FloatArray = field(default_factory=lambda: np.zeros(0))
    core_items: FloatArray = field(default_factory=lambda: np.zeros(0))
    unsplit: float = UNSPLIT
    mixed_s: FloatArray = field(default_factory=lambda: np.zeros((0, 0, 0)))
