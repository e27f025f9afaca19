"""Time the serving simulation: requests and iterations per second of one replica on one core.

    python benchmarks/serving.py [--azure AzureLLMInferenceTrace_conv.csv] [--mooncake mooncake_conversation.jsonl.gz]

An 8B model on one H100 as a roofline: 16 GB of weights or 16 us per token, 0.13 MB of KV cache per token at 3 TB/s.
Azure lengths arrive as a Poisson stream at ``--load`` of what a burst of them reaches; without a file lengths are
drawn log-normal with its means. Mooncake requests keep their own order and prefixes, in time compressed to that load.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import subprocess
import sys
import time

import numpy as np
from machine import Figure, show

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.simulate import simulate
from ridgeline.sim.serving.table import StepTable

#: Requests per second of one replica on one core, without and with a prefix cache.
TARGET_PLAIN, TARGET_CACHED = 100_000, 40_000
#: Requests of one long simulation, in a process of its own whose peak is read.
MANY = 10_000_000


def h100_8b() -> StepTable:
    """One H100 with an 8B model, by roofline."""
    contexts = np.array([1.0, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144])
    max_seqs, max_tokens = 256, 8192
    per_token_s = 0.131e6 / 3e12
    batch = np.arange(max_seqs + 1)[:, None]
    tokens = np.arange(max_tokens + 1)
    return StepTable(
        tokens_s=np.stack([np.maximum(5e-3, tokens * 16e-6)] * 2),
        rows_s=1e-6 * np.arange(2 * max_seqs + 1),
        windows=np.array([np.inf]),
        contexts=contexts,
        decode_s=(batch * contexts * per_token_s)[None],
        longest_s=(8 * contexts * per_token_s)[None] / 100,
        prefill_q=2.0 ** np.arange(14),
        prefill_kv=2.0 ** np.arange(19),
        prefill_s=np.full((14, 19), 1e-12),
        prefill_fixed_s=1e-4,
        host_hidden_s=(2e-3, 1e-6),
        host_s=(3e-4, 1e-6, 1e-5),
        static_w=150.0,
        tokens_j=0.01 * tokens,
        pair_j=1e-10,
        context_j=1e-6,
        block_size=16,
        num_blocks=27_000,
        max_seqs=max_seqs,
        max_tokens=max_tokens,
        kv_bytes_per_token=0.131e6,
    )


def azure(path: str | None, n: int) -> Requests:
    """Lengths of the Azure conversation trace, repeated to ``n`` requests that all arrive at once."""
    rng = np.random.default_rng(0)
    if path:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(1, 2), dtype=np.int64)
        lengths = np.maximum(rows[np.arange(n) % len(rows)], 1)
    else:
        lengths = 1 + np.stack([rng.lognormal(6.5, 1.0, n), rng.lognormal(5.0, 0.8, n)], axis=1).astype(
            np.int64
        )
    return Requests(np.zeros(n), lengths[:, 0].copy(), lengths[:, 1].copy())


def mooncake(path: str, copies: int) -> Requests:
    """The Mooncake conversation trace; every copy has prefixes of its own."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    ids = np.concatenate([row["hash_ids"] for row in rows]).astype(np.int64)
    counts = np.array([len(row["hash_ids"]) for row in rows])
    arrival = np.array([row["timestamp"] for row in rows]) / 1e3
    span, distinct = arrival[-1] + 1.0, int(ids.max()) + 1
    return Requests(
        arrival_s=np.concatenate([arrival + k * span for k in range(copies)]),
        input_tokens=np.tile([max(row["input_length"], 1) for row in rows], copies),
        output_tokens=np.tile([max(row["output_length"], 1) for row in rows], copies),
        block_tokens=512,
        block_hashes=np.concatenate([ids + k * distinct for k in range(copies)]),
        block_starts=np.concatenate(([0], np.cumsum(np.tile(counts, copies)))),
    )


def at_load(requests: Requests, table: StepTable, load: float) -> Requests:
    """Arrivals such that the engine would need ``load`` of the time: the rate of a burst, times the load."""
    n = min(len(requests), 20_000)
    head = dataclasses.replace(
        requests,
        arrival_s=np.zeros(n),
        input_tokens=requests.input_tokens[:n],
        output_tokens=requests.output_tokens[:n],
        block_starts=None if requests.block_starts is None else requests.block_starts[: n + 1],
    )
    per_s = load * n / simulate(head, table).end_s
    if requests.arrival_s.any():
        return dataclasses.replace(
            requests, arrival_s=requests.arrival_s * (len(requests) / per_s / requests.arrival_s[-1])
        )
    gaps = np.random.default_rng(1).exponential(1 / per_s, len(requests))
    return dataclasses.replace(requests, arrival_s=np.cumsum(gaps))


def rate(name: str, requests: Requests, table: StepTable, target: float, repeats: int) -> list[Figure]:
    """Requests and iterations per second of one simulation, the best of ``repeats``."""
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        outcome = simulate(requests, table)
        best = min(best, time.perf_counter() - start)
    n = len(requests)
    batch = outcome.batch_steps @ np.arange(outcome.batch_steps.size) / outcome.steps
    cached = outcome.cached_tokens.sum() / requests.input_tokens.sum()
    return [
        Figure(
            f"serving simulation, {name}",
            f"{n / best:,.0f} requests/s",
            f"over {target:,.0f}/s",
            n / best >= target,
        ),
        Figure("  iterations", f"{outcome.steps / best:,.0f}/s"),
        Figure(
            "  requests; mean batch; prompt tokens found in the cache; time busy",
            f"{n:,}; {batch:.0f}; {cached:.0%}; {outcome.busy_s / outcome.end_s:.0%}".replace("%", " %"),
        ),
    ]


def long_run(azure_file: str | None, num_requests: int, load: float) -> None:
    """Simulate once and print the seconds, and the resident peak of this process [KiB]."""
    import resource

    table = h100_8b()
    requests = at_load(azure(azure_file, num_requests), table, load)
    start = time.perf_counter()
    simulate(requests, table)
    print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def many(azure_file: str | None, load: float) -> list[Figure]:
    """`long_run` of `MANY` requests, where a system tells the peak of a process."""
    if sys.platform == "win32":
        return []
    words = [sys.executable, __file__, "--long-run", "--requests", str(MANY), "--load", str(load)]
    words += ["--azure", azure_file] if azure_file else []
    seconds, kib = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    taken = f"{float(seconds):.0f} s, {float(kib) * 1024 / 1e9:.1f} GB resident at the peak"
    return [Figure(f"  {MANY:,} requests in one simulation", taken)]


def figures(
    azure_file: str | None = None,
    mooncake_file: str | None = None,
    num_requests: int = 200_000,
    load: float = 0.8,
    repeats: int = 3,
) -> list[Figure]:
    """One replica without a prefix cache; with one where a Mooncake trace is given."""
    table = h100_8b()
    simulate(azure(azure_file, 10), table)  # compiled code is kept on disk
    lengths = "Azure conversation lengths" if azure_file else "log-normal lengths"
    found = rate(lengths, at_load(azure(azure_file, num_requests), table, load), table, TARGET_PLAIN, repeats)
    found += many(azure_file, load)
    if mooncake_file:
        requests = at_load(mooncake(mooncake_file, 5), table, load)
        found += rate("Mooncake trace, prefix cache", requests, table, TARGET_CACHED, repeats)
    return found


def main() -> None:
    """Read the command line and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--azure", help="AzureLLMInferenceTrace_conv.csv")
    parser.add_argument("--mooncake", help="mooncake_conversation.jsonl.gz")
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long-run", action="store_true", help="one simulation: seconds, KiB at the peak")
    given = parser.parse_args()
    if given.long_run:
        long_run(given.azure, given.requests, given.load)
        return
    show(figures(given.azure, given.mooncake, given.requests, given.load, given.repeats))


if __name__ == "__main__":
    main()
