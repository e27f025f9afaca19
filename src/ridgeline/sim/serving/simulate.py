"""`simulate`: requests through one engine, every iteration of it, as a value.

requests = Requests(arrival_s=..., input_tokens=..., output_tokens=...)
outcome = simulate(requests, table)
"""

from __future__ import annotations

import math

import numpy as np

from ridgeline.facts.requests import Requests
from ridgeline.sim.serving.engine import Engine, Settings, new_engine
from ridgeline.sim.serving.fleet import Fleet
from ridgeline.sim.serving.outcome import REFUSED, FloatArray, IntArray, Outcome
from ridgeline.sim.serving.state import Records, lanes_of, new_requests
from ridgeline.sim.serving.table import StepTable

SAMPLES = 2048
FIRST_SAMPLE_S = 1e-3


def simulate(
    requests: Requests,
    table: StepTable,
    settings: Settings | None = None,
    *,
    seed: int = 0,
    sample_s: float | None = None,
    chunk_s: float = math.inf,
) -> Outcome:
    """Run ``requests`` through one engine until the last one is over.

    Latency is counted from `Requests.arrival_s`; a request that arrives within a step is seen at its end. The same
    arguments give the same outcome to the last bit; ``seed`` decides which draft tokens hold. ``sample_s`` is the
    interval of the time series, by default such that there are between 1,024 and 2,048; ``chunk_s`` returns to
    Python that often (so that a user can interrupt), without effect on the outcome.

    Raises ValueError for requests or settings that make no sense.
    """
    from ridgeline.sim.serving import loop

    settings = settings or Settings()
    if requests.after is not None:  # ends cause sends: the loop of fleets knows such events
        from ridgeline.sim.serving.drive import simulate_fleet

        return simulate_fleet(requests, Fleet(replicas=(table,), settings=settings), seed=seed)
    check_requests(requests)
    records = new_requests(requests)
    samples, first_s = (SAMPLES, FIRST_SAMPLE_S) if sample_s is None else (1 << 20, sample_s)
    engine = new_engine(requests, records, table, settings, seed=seed, samples=samples, sample_s=first_s)
    until = chunk_s
    while True:
        loop.run(engine.state, engine.table, until)
        if until == math.inf or next_event_s(engine) == math.inf:
            break
        until += chunk_s
    return outcome_of(requests, records, [engine])


def next_event_s(engine: Engine) -> float:
    """When something happens next on an engine that `loop.run` drives."""
    sent_s = engine.arrays["requests"]["sent_s"]
    following = int(engine.arrays["engine"]["next"][0])
    arrival = sent_s[following] if following < sent_s.size else math.inf
    return float(min(arrival, engine.arrays["units"]["end_s"].min()))


def check_requests(requests: Requests) -> None:
    """Raises ValueError naming the field."""
    n = len(requests)
    for name in ("input_tokens", "output_tokens"):
        values = getattr(requests, name)
        if values.shape != (n,):
            raise ValueError(f"requests.{name}: has shape {values.shape}, expected ({n},) as arrival_s")
        if n and int(values.min()) < 1:
            raise ValueError(f"requests.{name}: {int(values.min())} is below 1")
        if n and int(values.max()) > 1 << 30:
            raise ValueError(f"requests.{name}: {int(values.max())} is above {1 << 30}")
    if n and (not np.isfinite(requests.arrival_s).all() or requests.arrival_s[0] < 0.0):
        raise ValueError("requests.arrival_s: expected finite seconds, at least 0")
    if (np.diff(requests.arrival_s) < 0.0).any():
        raise ValueError("requests.arrival_s: is not ascending")
    if requests.users and requests.arrival_s.any():
        raise ValueError("requests.arrival_s: is not all zero, but users sends requests in a closed loop")
    if requests.warmup and not requests.users:
        raise ValueError(
            f"requests.warmup: is {requests.warmup}, but only a closed loop (users) has a warm-up"
        )
    if not 0 <= requests.warmup <= n:
        raise ValueError(f"requests.warmup: is {requests.warmup}, expected 0 to {n}, the number of requests")
    if requests.after is not None:
        if requests.users:
            raise ValueError(
                "requests.after: does not go with users; in a closed loop any answer sends the next"
            )
        if requests.pause_s is None or requests.after.shape != (n,) or requests.pause_s.shape != (n,):
            raise ValueError(f"requests.after: expected {n} entries, and as many of pause_s")
        if (requests.after >= np.arange(n)).any() or np.unique(
            requests.after[requests.after >= 0]
        ).size != np.count_nonzero(requests.after >= 0):
            raise ValueError(
                "requests.after: each request may follow one earlier request, and be followed by one"
            )
    starts = requests.block_starts
    if requests.block_hashes is not None and (starts is None or starts.shape != (n + 1,)):
        raise ValueError(f"requests.block_starts: expected {n + 1} entries beside block_hashes")


def _busy_s(engine: Engine) -> float:
    """Seconds within steps, the mean over what steps on its own."""
    return float(engine.arrays["units"]["busy_s"].mean())


def _dynamic_j(engine: Engine) -> float:
    """Energy of the work of an engine [J], at most what its power limit leaves beside static power within steps."""
    room = max(engine.source.limit_w - engine.source.static_w, 0.0)
    busy = _busy_s(engine)
    return min(float(engine.arrays["engine"]["energy_j"][0]), room * busy) if busy > 0.0 else 0.0


def outcome_of(
    requests: Requests, records: Records, engines: list[Engine], off_s: FloatArray | None = None
) -> Outcome:
    """What became of all requests, and the engines' states over time added up; ``off_s`` each was not running."""
    status = records["status"].astype(np.int64)
    times, series = _samples(engines)
    end_s = max(float(engine.arrays["engine"]["end_s"][0]) for engine in engines)
    energy = sum(_dynamic_j(engine) for engine in engines)
    for r, engine in enumerate(engines):
        energy += engine.source.static_w * max(end_s - (0.0 if off_s is None else float(off_s[r])), 0.0)
    made = records["made"].astype(np.int64)
    made[status == REFUSED] = 0
    everyone = np.ones(len(requests), dtype=np.bool_)
    # what a front end adds to each answer: the device does not wait for it
    replica = records["replica"].astype(np.int64)
    frontend_s = np.array([engine.source.frontend_s for engine in engines])[np.maximum(replica, 0)]
    return Outcome(
        sent_s=records["sent_s"],
        scheduled_s=records["scheduled_s"],
        first_token_s=records["first_s"] + frontend_s,
        finish_s=records["finish_s"] + frontend_s,
        made_tokens=made,
        cached_tokens=records["cached"].astype(np.int64),
        preemptions=records["preemptions"].astype(np.int64),
        replica=replica,
        status=status,
        measured=everyone if requests.measured is None else requests.measured,
        itl_counts=np.sum([_part(engine, "gaps", "batches") for engine in engines], axis=0),
        times_s=times,
        running=series[:, 0],
        waiting=series[:, 1],
        kv_blocks=series[:, 2],
        batch_steps=_batch_steps(engines),
        steps=int(sum(engine.arrays["units"]["made_steps"].sum() for engine in engines)),
        busy_s=float(sum(_busy_s(engine) for engine in engines)),
        blocks=sum(lanes_of(engine.source)[3] * engine.arrays["lanes"].size for engine in engines),
        end_s=end_s,
        energy_j=energy,
        chips=sum(engine.source.chips for engine in engines),
        replica_s=len(engines) * end_s - (0.0 if off_s is None else float(off_s.sum())),
    )


def _part(engine: Engine, first: str, after: str) -> IntArray:
    """One of the arrays of an engine, from where it begins to where the next one does."""
    part: IntArray = engine.arrays["ints"][engine.table[first] : engine.table[after]]
    return part


def _batch_steps(engines: list[Engine]) -> IntArray:
    counts = [_part(engine, "batches", "samples") for engine in engines]
    steps = np.zeros(max(map(len, counts)), np.int64)
    for count in counts:
        steps[: len(count)] += count
    return steps


def _samples(engines: list[Engine]) -> tuple[FloatArray, IntArray]:
    """Times [t] and the sums of running, waiting and blocks [t, 3]; intervals differ by powers of two."""
    interval = max(float(engine.arrays["engine"]["sample_s"][0]) for engine in engines)
    kept = []
    for engine in engines:
        stride = round(interval / float(engine.arrays["engine"]["sample_s"][0]))
        samples = _part(engine, "samples", "log").reshape(-1, 3)
        kept.append(samples[: int(engine.arrays["engine"]["samples"][0])][::stride])
    series = np.zeros((max(map(len, kept)), 3), np.int64)
    for samples in kept:
        series[: len(samples)] += samples
    times: FloatArray = interval * np.arange(len(series), dtype=np.float64)
    return times, series
