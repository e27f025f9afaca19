"""Pools: prefill engines and decode engines apart, each in closed form, and how many of each.

A prefill pool makes first tokens and sends the cache over the cluster's links; a decode pool makes the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ridgeline.sim.serving.steady import Steady, decode_step_s, prefill_s
from ridgeline.sim.serving.table import StepTable

#: Share of time that prefill engines are kept busy: beyond it random arrivals queue for long. An assumption.
BUSY = 0.85


@dataclass(frozen=True, slots=True)
class PrefillRate:
    """One prefill engine: prompts of one kind, packed into full steps."""

    took_s: float  # from first to last chunk
    requests_per_s: float  # all lanes busy
    lanes: int  # prompts, or packs of them, under way at a time

    def ttft_s(self, busy: float, engines: int) -> float:
        """Mean from arrival to first token where ``engines`` are busy for this share of time [s].

        Queue of M/D/c by Sakasegawa's approximation (doi:10.1007/BF02888352):
        ``wait = took / 2 x busy^(sqrt(2 (c + 1)) - 1) / (c (1 - busy))``.
        """
        servers = float(engines * self.lanes)
        wait = (
            0.5
            * self.took_s
            * busy ** (np.sqrt(2.0 * (servers + 1.0)) - 1.0)
            / (servers * max(1.0 - busy, 1e-6))
        )
        return float(self.took_s + wait)


def prefill_rate(table: StepTable, isl: float) -> PrefillRate:
    """Prompts of ``isl`` tokens on an engine that does nothing else."""
    together = max(1.0, table.max_tokens / isl)
    took, added = prefill_s(table, isl, 0.0, isl, together)
    count = max(1.0, took / added) if added > 0 else 1.0
    lanes = table.ranks * table.stages
    return PrefillRate(took, lanes * count / took, lanes)


def decode_alone(table: StepTable, isl: float, osl: float, users: float) -> Steady | None:
    """Means of an engine that only decodes ``users`` requests; None where their cache does not fit.

    Requests arrive with their cache, so ``tpot = decode_step(users per lane) / tokens per step``.
    """
    made, alive = 1.0, 1.0
    for chance in table.acceptance:
        alive *= chance
        made += alive
    lanes = table.ranks * table.stages
    each = users / lanes
    stay = isl + osl / 2.0
    most_kv = table.num_blocks * table.block_size / stay / table.stages
    if each > min(float(table.max_seqs), most_kv):
        return None
    step = decode_step_s(table, max(each, 1.0), stay)
    tpot = step / made
    rate = users / (tpot * max(osl - 1.0, 1.0))
    limit = "kv" if each * 2.0 > most_kv else "users"
    return Steady(
        ttft_s=0.0, tpot_s=tpot, decode_s=step, prefill_s=0.0, running=users,
        decoding=max(each, 1.0) * lanes, waiting=0.0,
        output_tokens_per_s=rate * osl, prefill_share=0.0, limit=limit,
    )  # fmt: skip


def divide(
    chips: int, prefill_chips: int, decode_chips: int, prompts_per_s: float, requests_per_s: float
) -> tuple[int, int, float]:
    """Prefill and decode engines on ``chips`` chips that serve most requests, and how many a second.

    ``prompts_per_s`` and ``requests_per_s`` are what one engine of each pool does; prefill engines are held at `BUSY`.
    Returns (0, 0, 0.0) where there is no room for both.
    """
    most = (chips - prefill_chips) // decode_chips
    if most < 1:
        return 0, 0, 0.0

    def rates(decode: int) -> tuple[float, float]:
        """What so many decode engines answer, which rises, and what the chips left feed them with, which falls."""
        prefill = (chips - decode * decode_chips) // prefill_chips
        return decode * requests_per_s, BUSY * prefill * prompts_per_s

    # The most of the smaller one is where they cross: found by halving, as there may be a million chips.
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        answered, fed = rates(middle)
        low, high = (middle, high) if answered <= fed else (low, middle - 1)
    around = [decode for decode in (low, low + 1) if 1 <= decode <= most]
    decode = max(around, key=lambda one: min(rates(one)))  # of equals the first
    rate, prefill = min(rates(decode)), (chips - decode * decode_chips) // prefill_chips
    # engines that the other pool cannot feed stay out
    need = math.ceil(rate / (BUSY * prompts_per_s) - 1e-9)
    return max(1, min(need, prefill)), decode, rate
