"""Replay: a measured run of a server, simulated from its arrivals and lengths, request by request.

A run is a folder: ``meta.json`` (model, engine, its arguments), ``requests.jsonl`` (arrival, queued, scheduled, first
and last token of each request) and, where there are such, ``timeseries.csv`` (running and waiting requests by the
second) and ``simulator_cluster_config.json`` (what its author says of the machine, of which the bandwidth between its
chips is used).
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.scores import spearman
from ridgeline.facts import catalog
from ridgeline.facts.chip import Cluster
from ridgeline.facts.requests import Requests
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.sim.serving.build import step_table
from ridgeline.sim.serving.outcome import ITL_EDGES_S, Outcome
from ridgeline.timing.collectives import collective_seconds
from ridgeline.timing.topology import place

FloatArray = NDArray[np.float64]
_TIMES = ("arrival_time", "queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
_COUNTS = ("input_toks", "output_toks")
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

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": "replay",
            "name": self.name,
            "engine": self.engine,
            "requests": int(self.latencies[0].measured_s.size),
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
    meta, columns = _meta(path), _columns(path)
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
    sent = columns["arrival_time"] + shift
    first, last = columns["first_token_ts"], columns["last_token_ts"]
    gaps = np.maximum(columns["output_toks"] - 1.0, 1.0)
    latencies = (
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
    return Replay(
        path.name,
        served.engine.title,
        latencies,
        _counts(path, outcome),
        (measured_p99, predicted_p99),
        outcome,
    )


def _meta(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / "meta.json").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CaseError(f"{path / 'meta.json'}: cannot be read: {error}") from None
    if (
        not isinstance(found, dict)
        or not isinstance(found.get("engine_kwargs"), dict)
        or "model" not in found
    ):
        raise CaseError(f"{path / 'meta.json'}: expected an object with model and engine_kwargs")
    return found


def _columns(path: Path) -> dict[str, FloatArray]:
    """Columns of ``requests.jsonl`` ``[n]``."""
    file = path / "requests.jsonl"
    rows: list[list[float]] = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                rows.append([float(row[name]) for name in (*_TIMES, *_COUNTS)])
            except (ValueError, TypeError, KeyError) as error:
                raise CaseError(
                    f"{file}, line {number}: expected {', '.join((*_TIMES, *_COUNTS))}: {error!r}"
                ) from None
    if not rows:
        raise CaseError(f"{file}: holds no request")
    table = np.array(rows)
    return {name: table[:, i] for i, name in enumerate((*_TIMES, *_COUNTS))}


def _service(path: Path, meta: dict[str, Any], engine: str | None, chip: str | None) -> Service:
    """The service of a run: its model by the catalog's slug, its chip by the folder's name."""
    arguments = meta["engine_kwargs"]
    model = _slug(str(meta["model"]))
    found = chip or _chip(path.name)
    if found is None:
        raise CaseError(f"{path}: no chip of the catalog is in the folder's name; name it with --chip")
    dp, tp = int(arguments.get("data_parallel_size", 1)), int(arguments.get("tensor_parallel_size", 1))
    ep = dp * tp if arguments.get("enable_expert_parallel") else 1
    limits = Limits(
        max_seqs=arguments.get("max_num_seqs"),
        max_batched_tokens=arguments.get("max_num_batched_tokens"),
    )
    software = engine or _newest("vllm" if "vllm_version" in meta else str(meta.get("engine", "vllm")))
    machine = run_machine(path, found)
    return service(model, machine, Layout(tp=tp, dp=dp, ep=ep), Precision(), software, limits=limits)


def run_machine(path: Path, chip: str) -> Cluster:
    """The catalog's cluster of ``chip`` whose all-reduce between two chips comes nearest to the run's ``link_bw``."""
    file = path / "simulator_cluster_config.json"
    if not file.is_file():
        return catalog.cluster_for(chip)
    try:
        stated = float(json.loads(file.read_text(encoding="utf-8"))["link_bw"]) * 1e9
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CaseError(f"{file}: expected an object with link_bw [GB/s]: {error!r}") from None
    if not stated > 0.0:
        raise CaseError(f"{file}: link_bw = {stated / 1e9:g}: must be above 0 GB/s")
    links = catalog.calibration(chip).links

    def off(cluster: Cluster) -> float:
        """How far its bandwidth is off, as a logarithm."""
        took = collective_seconds("all_reduce", LINK_BYTES, place(2, 1, cluster), cluster, links)
        return abs(math.log(LINK_BYTES / float(np.ravel(took)[0]) / stated))

    known = [catalog.cluster_for(chip), *map(catalog.cluster, catalog.names("clusters"))]
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
    found = [catalog.engine(name) for name in catalog.names("engines")]
    same = [one for one in found if one.framework == framework and not one.vendor]
    if not same:
        raise CaseError(f"engine '{framework}' is not in the catalog")
    return max(same, key=lambda one: one.since).name


def _counts(path: Path, outcome: Outcome) -> tuple[Counts, ...]:
    """Running and waiting requests over time, where the run has a time series."""
    file = path / "timeseries.csv"
    if not file.is_file():
        return ()
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    try:
        times = np.array([float(row["t"]) for row in rows])
        measured = {name: np.array([float(row[name]) for row in rows]) for name in ("running", "waiting")}
    except (KeyError, ValueError) as error:
        raise CaseError(f"{file}: expected columns t, running, waiting: {error!r}") from None
    predicted = {"running": outcome.running, "waiting": outcome.waiting}
    return tuple(
        Counts(f"{name} requests", times, measured[name], np.interp(times, outcome.times_s, predicted[name]))
        for name in measured
    )
