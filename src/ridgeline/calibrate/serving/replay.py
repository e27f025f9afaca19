"""Replay: a measured run of a server, simulated from its arrivals and lengths, request by request.

A run is a folder: ``meta.json`` (model, engine, its arguments), ``requests.jsonl`` (arrival, queued, scheduled, first
and last token of each request) and, where there are such, ``timeseries.csv`` (running and waiting requests by the
second) and ``simulator_cluster_config.json`` (what its author says of the machine, of which the bandwidth between its
chips chooses the catalog's cluster; that one's own links are simulated).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files
from ridgeline.calibrate.columns import CaseError
from ridgeline.calibrate.refusals import first_words, unread_words
from ridgeline.calibrate.scores import spearman
from ridgeline.calibrate.serving import run_files
from ridgeline.calibrate.serving.cases import MOST_CHIPS
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture, Moe
from ridgeline.facts.chip import Cluster
from ridgeline.facts.engine import MOST_CHUNK, MOST_SEQS
from ridgeline.facts.requests import Requests
from ridgeline.facts.services import service
from ridgeline.facts.serving import Layout, Limits, Precision, Service
from ridgeline.graph.serving.heads import unshared_heads
from ridgeline.metrics.finite import finite
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
    def means_s(self) -> tuple[float, float] | None:
        """Measured and predicted; None where no request has this time, such as one between tokens."""
        if not self.measured_s.size or self.measured_s.mean() <= 0.0:
            return None
        return float(self.measured_s.mean()), float(self.predicted_s.mean())

    @property
    def rel_err(self) -> float:
        """Of the means; NaN where there are none."""
        return math.nan if self.means_s is None else self.means_s[1] / self.means_s[0] - 1.0

    @property
    def spearman(self) -> float | None:
        return None if self.means_s is None else spearman(self.measured_s, self.predicted_s)

    @property
    def line(self) -> str:
        """A row of the comparison as text."""
        if self.means_s is None:
            return f"{self.name:<26}{'-':>10}{'-':>11}{'-':>9}"
        rank = "" if self.spearman is None else f"{self.spearman:.3f}"
        measured, predicted = self.means_s
        return f"{self.name:<26}{measured:>8.3f} s{predicted:>9.3f} s{self.rel_err:>+9.1%}{rank:>10}"


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
    left_out: tuple[str, ...] = ()  # requests that could not be read, each with its reason
    notes: tuple[str, ...] = ()

    @property
    def requests(self) -> int:
        """Those that were replayed."""
        return int(self.outcome.sent_s.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None where no request has a time."""
        return dict(finite(self._values()))

    def _values(self) -> dict[str, Any]:
        return {
            "kind": "replay",
            "name": self.name,
            "engine": self.engine,
            "requests": self.requests,
            "blank_lines_skipped": self.skipped,
            "requests_left_out": list(self.left_out),
            "notes": list(self.notes),
            "latencies": [
                {
                    "name": one.name,
                    "measured_mean_s": None if one.means_s is None else one.means_s[0],
                    "predicted_mean_s": None if one.means_s is None else one.means_s[1],
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
        lines = [f"{self.name}: {self.requests} requests replayed on {self.engine}, nothing fitted"]
        if self.left_out:
            count, of = len(self.left_out), len(self.left_out) + self.requests
            lines.append(
                f"{count:,} of {of:,} requests left out, so that the load is lighter than the measured one: "
                f"{first_words(self.left_out)}"
            )
        lines.append(f"{'':<26}{'measured':>10}{'predicted':>11}{'error':>9}{'Spearman':>10}")
        lines += [one.line for one in self.latencies]
        lines += [
            f"{one.name:<26}differs by {one.rms:.1%} of its peak (RMS over time)" for one in self.counts
        ]
        if self.skipped:
            lines.append(f"{self.skipped:,} blank lines of requests.jsonl skipped")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(files.one_line(line) for line in lines)


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
    meta, read = run_files.meta(path), run_files.requests(path)
    columns = read.columns
    served = _service(path, meta, engine, chip)
    counted = run_files.series(path)
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
    # answers of one token have no time between tokens
    several = columns["output_toks"] > 1.0
    gaps = columns["output_toks"][several] - 1.0
    between = (last - first)[several] / gaps
    latencies: tuple[Compared, ...] = (
        Compared("end to end", last - sent, outcome.finish_s - outcome.sent_s),
        Compared("TTFT", first - sent, outcome.first_token_s - outcome.sent_s),
        Compared(
            "scheduled to first token", first - columns["scheduled_ts"], outcome.first_token_s - outcome.scheduled_s
        ),
        Compared("TPOT", between, (outcome.finish_s - outcome.first_token_s)[several] / gaps),
    )  # fmt: skip
    if all(one.means_s is None for one in latencies):
        raise CaseError(f"{files.shown_path(path / 'requests.jsonl')}: no request took any time")
    return Replay(
        path.name,
        served.engine.title,
        latencies,
        () if counted is None else _counts(counted[0], outcome),
        (float(np.quantile(between, 0.99)) if between.size else math.nan, _p99_gap_s(outcome)),
        outcome,
        read.blank,
        read.left_out,
        tuple(_notes(path, served, () if counted is None else counted[1])),
    )


def _p99_gap_s(outcome: Outcome) -> float:
    """The gap between tokens that one of a hundred is longer than; NaN where there is none."""
    total = np.cumsum(outcome.itl_counts)
    if not total[-1]:
        return math.nan
    return float(ITL_EDGES_S[min(int(np.searchsorted(total, 0.99 * total[-1])), ITL_EDGES_S.size - 1)])


def _notes(path: Path, served: Service, unread: tuple[str, ...]) -> Iterator[str]:
    """What of the folder was not taken, or not as it stands."""
    if unread:
        yield f"timeseries.csv: {unread_words(unread)}"
    stated = run_files.link_bytes_per_s(path)
    if stated is not None:
        yield (
            f"link_bw {stated / 1e9:g} GB/s only chose the machine, {served.cluster.name}; the links of that one are "
            "simulated" + ("" if served.layout.chips > 1 else ", of which one chip uses none")
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
    layout = _layout(path, arguments, catalog.architecture(model))
    limits = Limits(
        max_seqs=run_files.setting(path, arguments, "max_num_seqs", MOST_SEQS),
        max_batched_tokens=run_files.setting(path, arguments, "max_num_batched_tokens", MOST_CHUNK),
    )
    software = engine or _newest("vllm" if "vllm_version" in meta else str(meta.get("engine", "vllm")))
    machine = run_machine(path, found)
    return service(model, machine, layout, Precision(), software, limits=limits)


def _layout(path: Path, arguments: dict[str, Any], architecture: Architecture) -> Layout:
    """The layout of a run. Raises CaseError where no machine has its chips, or the model cannot be laid out so."""
    where = f"{files.shown_path(path / 'meta.json')}, field engine_kwargs."
    sizes = {
        name: run_files.setting(path, arguments, f"{name}_parallel_size", MOST_CHIPS) or 1
        for name in ("tensor", "pipeline", "data")
    }
    tp, pp, dp = sizes.values()
    if tp * pp * dp > MOST_CHIPS:
        name = max(sizes, key=lambda one: sizes[one])
        raise CaseError(
            f"{where}{name}_parallel_size: {sizes[name]:,}: {tp:,} x {pp:,} x {dp:,} chips; expected at most "
            f"{MOST_CHIPS:,}"
        )
    if pp > architecture.num_layers:
        raise CaseError(
            f"{where}pipeline_parallel_size: {pp:,}: {architecture.name} has {architecture.num_layers} layers"
        )
    ep = dp * tp if arguments.get("enable_expert_parallel") else 1
    for layer in architecture.layers:
        bad = unshared_heads(layer.mixer, tp)
        if bad:
            raise CaseError(
                f"{where}tensor_parallel_size: {tp:,}: does not divide the {bad} of {architecture.name}"
            )
        if isinstance(layer.mlp, Moe) and layer.mlp.experts % ep:
            raise CaseError(
                f"{where}enable_expert_parallel: {tp:,} x {dp:,} chips do not divide the {layer.mlp.experts} experts "
                f"of {architecture.name}"
            )
    return Layout(tp=tp, pp=pp, dp=dp, ep=ep)


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


def _counts(found: dict[str, FloatArray], outcome: Outcome) -> tuple[Counts, ...]:
    """Running and waiting requests over time."""
    times, predicted = found["t"], {"running": outcome.running, "waiting": outcome.waiting}
    return tuple(
        Counts(f"{name} requests", times, found[name], np.interp(times, outcome.times_s, seen))
        for name, seen in predicted.items()
    )
