"""Replay: a measured run of a server, simulated from its arrivals and lengths, request by request.

A run is a folder: ``meta.json`` (model, engine, its arguments), ``requests.jsonl`` (arrival, queued, scheduled, first
and last token of each request) and, where there are such, ``timeseries.csv`` (running and waiting requests by the
second) and ``simulator_cluster_config.json`` (what its author says of the machine, of which the bandwidth between its
chips is used).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.scores import spearman
from ridgeline.calibrate.serving import run_files
from ridgeline.facts import catalog
from ridgeline.facts.chip import Cluster
from ridgeline.facts.engine import MOST_CHUNK, MOST_SEQS
from ridgeline.facts.requests import Requests
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.outcome import DONE, ITL_EDGES_S, Outcome
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.topology import place

FloatArray = NDArray[np.float64]
SAMPLE_S = 1.0
#: Message that a link's bandwidth is read at.
LINK_BYTES = 16e6


@dataclass(frozen=True, slots=True)
class Compared:
    """One latency of all requests, measured and predicted ``[n]`` seconds."""

    name: str
    measured_s: FloatArray
    predicted_s: FloatArray

    @property
    def rel_err(self) -> float:
        """Of the means."""
        return float(self.predicted_s.mean() / self.measured_s.mean() - 1.0)

    @property
    def spearman(self) -> float | None:
        return spearman(self.measured_s, self.predicted_s)


@dataclass(frozen=True, slots=True)
class Counts:
    """A count of requests over time ``[t]``, measured and predicted."""

    name: str
    times_s: FloatArray
    measured: FloatArray
    predicted: FloatArray

    @property
    def rms(self) -> float:
        """Root of the mean squared difference over the measured peak [1]."""
        return float(np.sqrt(np.mean((self.predicted - self.measured) ** 2)) / max(self.measured.max(), 1.0))


@dataclass(frozen=True, slots=True)
class Replay:
    """A run beside its simulation."""

    name: str
    engine: str
    latencies: tuple[Compared, ...]
    counts: tuple[Counts, ...]
    itl_p99_s: tuple[float, float]  # of the mean gaps of requests where measured; of all gaps where predicted
    outcome: Outcome
    skipped: int = 0  # blank lines of the requests

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "replay",
            "name": self.name,
            "engine": self.engine,
            "requests": int(self.latencies[0].measured_s.size),
            "blank_lines_skipped": self.skipped,
            "latencies": [
                {
                    "name": one.name,
                    "measured_mean_s": float(one.measured_s.mean()),
                    "predicted_mean_s": float(one.predicted_s.mean()),
                    "rel_err": one.rel_err,
                    "spearman": one.spearman,
                }
                for one in self.latencies
            ],
            "counts": [{"name": one.name, "rms_of_peak": one.rms} for one in self.counts],
            "itl_p99_s": {"measured_request_means": self.itl_p99_s[0], "predicted": self.itl_p99_s[1]},
        }

    def table(self) -> str:
        """The comparison as text."""
        lines = [
            f"{self.name}: {self.latencies[0].measured_s.size} requests replayed on {self.engine}, nothing fitted"
        ]
        lines.append(f"{'':<26}{'measured':>10}{'predicted':>11}{'error':>9}{'Spearman':>10}")
        for one in self.latencies:
            rank = "" if one.spearman is None else f"{one.spearman:.3f}"
            lines.append(
                f"{one.name:<26}{one.measured_s.mean():>8.3f} s{one.predicted_s.mean():>9.3f} s"
                f"{one.rel_err:>+9.1%}{rank:>10}"
            )
        lines += [
            f"{one.name:<26}differs by {one.rms:.1%} of its peak (RMS over time)" for one in self.counts
        ]
        if self.skipped:
            lines.append(f"{self.skipped:,} blank lines of requests.jsonl skipped")
        return "\n".join(lines)


def is_run(path: Path) -> bool:
    """Whether a folder holds a measured run."""
    return (path / "meta.json").is_file() and (path / "requests.jsonl").is_file()


def replay(path: str | Path, engine: str | None = None, chip: str | None = None) -> Replay:
    """Simulate a measured run with the default settings of its engine.

    ``engine`` and ``chip`` name them in the catalog where the run does not (a chip is read from the folder's name).

    Raises:
        CaseError: a file is missing or a value is not what it should be.
    """
    from ridgeline.sim.serving.simulate import simulate

    path = Path(path)
    meta, (columns, skipped) = run_files.meta(path), run_files.requests(path)
    served = _service(path, meta, engine, chip)
    order = np.argsort(columns["arrival_time"], kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    arrival = columns["arrival_time"] - columns["arrival_time"].min()
    # two clocks: the client's arrivals and the engine's, which are as near as the quickest hand-over
    shift = (columns["queued_ts"] - columns["arrival_time"]).min()
    requests = Requests(
        arrival_s=arrival,
        input_tokens=columns["input_toks"].astype(np.int64),
        output_tokens=columns["output_toks"].astype(np.int64),
    )
    longest = int((columns["input_toks"] + columns["output_toks"]).max())
    # the run was started in one process beside its engine: no front end between them
    table = step_table(served.replace(engine=served.engine.model_copy(update={"frontend": 0.0})), longest)
    outcome = simulate(requests, table, sample_s=SAMPLE_S)
    _check_served(path, requests, outcome)
    sent = columns["arrival_time"] + shift
    first, last = columns["first_token_ts"], columns["last_token_ts"]
    gaps = np.maximum(columns["output_toks"] - 1.0, 1.0)
    latencies: tuple[Compared, ...] = (
        Compared("end to end", last - sent, outcome.finish_s - outcome.sent_s),
        Compared("TTFT", first - sent, outcome.first_token_s - outcome.sent_s),
        Compared(
            "scheduled to first token", first - columns["scheduled_ts"], outcome.first_token_s - outcome.scheduled_s
        ),
        Compared("TPOT", (last - first) / gaps, (outcome.finish_s - outcome.first_token_s) / gaps),
    )  # fmt: skip
    total = np.cumsum(outcome.itl_counts)
    predicted_p99 = float(
        ITL_EDGES_S[min(int(np.searchsorted(total, 0.99 * total[-1])), ITL_EDGES_S.size - 1)]
    )
    measured_p99 = float(np.quantile((last - first) / gaps, 0.99))
    # answers of one token have no time between tokens
    latencies = tuple(one for one in latencies if one.measured_s.mean() > 0.0)
    if not latencies:
        raise CaseError(f"{files.shown_path(path / 'requests.jsonl')}: no request took any time")
    return Replay(
        path.name,
        served.engine.title,
        latencies,
        _counts(path, outcome),
        (measured_p99, predicted_p99),
        outcome,
        skipped,
    )


def _check_served(path: Path, requests: Requests, outcome: Outcome) -> None:
    """Raise CaseError where the simulated engine does not take a request: it has no latency to compare."""
    lost = np.flatnonzero(outcome.status != DONE)
    if lost.size:
        first = int(lost[0])
        raise CaseError(
            f"{files.shown_path(path / 'requests.jsonl')}: {lost.size:,} of {len(requests):,} requests are not served "
            f"in the simulation, such as one of {requests.input_tokens[first]:,} + "
            f"{requests.output_tokens[first]:,} tokens; do they fit the engine's cache and context?"
        )


def _service(path: Path, meta: dict[str, Any], engine: str | None, chip: str | None) -> Service:
    """The service of a run: its model by the catalog's slug, its chip by the folder's name."""
    arguments = meta["engine_kwargs"]
    model = _slug(str(meta["model"]))
    found = chip or _chip(path.name)
    if found is None:
        raise CaseError(
            f"{files.shown_path(path)}: no chip of the catalog is in the folder's name; name it with --chip"
        )
    dp, tp = (run_files.setting(path, arguments, f"{name}_parallel_size") or 1 for name in ("data", "tensor"))
    ep = dp * tp if arguments.get("enable_expert_parallel") else 1
    limits = Limits(
        max_seqs=run_files.setting(path, arguments, "max_num_seqs", MOST_SEQS),
        max_batched_tokens=run_files.setting(path, arguments, "max_num_batched_tokens", MOST_CHUNK),
    )
    software = engine or _newest("vllm" if "vllm_version" in meta else str(meta.get("engine", "vllm")))
    machine = run_machine(path, found)
    return service(model, machine, Layout(tp=tp, dp=dp, ep=ep), Precision(), software, limits=limits)


def run_machine(path: Path, chip: str) -> Cluster:
    """The catalog's cluster of ``chip`` whose all-reduce between two chips comes nearest to the run's ``link_bw``."""
    stated = run_files.link_bytes_per_s(path)
    if stated is None:
        return catalog.cluster_for(chip)
    links = catalog.calibration(chip).links

    def off(cluster: Cluster) -> float:
        """How far its bandwidth is off, as a logarithm."""
        took = collective_seconds("all_reduce", LINK_BYTES, place(2, 1, cluster), cluster, links)
        return abs(math.log(LINK_BYTES / float(np.ravel(took)[0]) / stated))

    known = [catalog.cluster_for(chip), *map(catalog.cluster, catalog.readable("clusters"))]
    return min((one for one in known if one.chip == chip), key=off)


def _slug(model: str) -> str:
    """``meta-llama/Llama-3.1-8B`` -> ``llama-3.1-8b``, the longest name of the catalog that it begins with."""
    name = model.rpartition("/")[2].lower()
    fits = [known for known in catalog.names("models") if name == known or name.startswith(f"{known}-")]
    return max(fits, key=len) if fits else name


def _chip(folder: str) -> str | None:
    """The chip whose name, without dashes, a folder's name begins with."""
    said = folder.lower().replace("-", "").replace("_", "")
    fits = [name for name in catalog.names("chips") if said.startswith(name.replace("-", ""))]
    return max(fits, key=len) if fits else None


def _newest(framework: str) -> str:
    found = [catalog.engine(name) for name in catalog.readable("engines")]
    same = [one for one in found if one.framework == framework and not one.vendor]
    if not same:
        raise CaseError(f"engine {files.shown(framework)} is not in the catalog")
    return max(same, key=lambda one: one.since).name


def _counts(path: Path, outcome: Outcome) -> tuple[Counts, ...]:
    """Running and waiting requests over time, where the run has a time series."""
    found = run_files.series(path)
    if found is None:
        return ()
    times, predicted = found["t"], {"running": outcome.running, "waiting": outcome.waiting}
    return tuple(
        Counts(f"{name} requests", times, found[name], np.interp(times, outcome.times_s, seen))
        for name, seen in predicted.items()
    )
