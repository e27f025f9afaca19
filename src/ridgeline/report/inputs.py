"""Inputs: every fact a prediction rests on, with its source and its label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ridgeline import units
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.observation import Observation
from ridgeline.metrics import Prediction
from ridgeline.report.figures import roof_formats
from ridgeline.report.numerals import count, gigabytes, percent, signed_percent, significant
from ridgeline.report.sheet import Sheet

Line = tuple[str, str, str]


def input_sheets(prediction: Prediction) -> dict[str, Sheet]:
    """Title -> sheet, in reading order: job, model, chip, cluster, software, calibration."""
    scenario = prediction.scenario
    columns = ("input", "value", "source")
    groups = {
        "Job and model": [*_job(prediction), *_model(prediction)],
        f"Chip: {scenario.chip.title or scenario.chip.name}": list(_chip(prediction)),
        f"Cluster: {scenario.cluster.title or scenario.cluster.name}": list(_cluster(scenario.cluster)),
        "Software": list(_software(prediction)),
    }
    sheets = {title: Sheet(columns, tuple(rows), "lll") for title, rows in groups.items()}
    rows = tuple(_calibration(prediction))
    names = ("fit", "label", "rows", "median error", "P90 error", "source")
    return sheets | {"Calibration": Sheet(names, rows, "llrrrl")}


def published_sheet(prediction: Prediction, published: list[Observation]) -> Sheet:
    """Published results beside the prediction; blank where the metric is not predicted."""
    rows = []
    for row in published:
        predicted = getattr(prediction, row.metric, None)
        known = isinstance(predicted, int | float) and not isinstance(predicted, bool)
        rows.append(
            (
                row.subject,
                row.metric,
                significant(row.value),
                significant(float(predicted)) if known else "",  # type: ignore[arg-type]
                signed_percent(float(predicted) / row.value - 1.0) if known and row.value else "",  # type: ignore[arg-type]
                row.source,
            )
        )
    return Sheet(("published", "metric", "value", "predicted", "difference", "source"), tuple(rows), "llrrrl")


def _job(prediction: Prediction) -> Iterator[Line]:
    job = prediction.scenario.job
    yield "global batch", f"{job.batch:,} sequences of {job.seq:,} tokens", "given"
    if job.tokens is not None:
        yield "token budget", count(job.tokens), "given"
    if job.kind != "pretrain":
        yield "kind", f"{job.kind}, rank {job.lora_rank}" if job.kind == "lora" else job.kind, "given"
    if job.packed is not None:
        yield "packed documents", f"{job.packed:,} tokens on average", "given"


def _model(prediction: Prediction) -> Iterator[Line]:
    model = prediction.scenario.architecture
    yield "layers x hidden", f"{model.num_layers} x {model.hidden:,}", model.source
    yield "vocabulary", f"{model.vocab:,}", model.source
    if model.published is not None:
        yield "parameters", count(model.published.total), model.published.source


def _chip(prediction: Prediction) -> Iterator[Line]:
    chip = prediction.scenario.chip
    for name in roof_formats(prediction):
        yield f"{name} matrix rate", units.show(chip.matrix[name], "FLOP/s", 4), _source(chip, "matrix")
    memory, link = chip.memory, chip.scale_up
    yield "memory", f"{gigabytes(memory.capacity)} GB {memory.kind}", _source(chip, "memory")
    yield "memory bandwidth", units.show(memory.bandwidth, "B/s"), _source(chip, "memory")
    yield (
        "scale-up link",
        f"{link.link} {units.show(link.bandwidth, 'B/s')}, domain of {link.domain}, {link.topology}",
        _source(chip, "scale_up"),
    )
    yield "power limit", units.show(chip.tdp, "W"), _source(chip, "tdp")


def _cluster(cluster: Cluster) -> Iterator[Line]:
    for tier in cluster.tiers:
        reach = f"{tier.size:,} chips" if tier.size else "all chips"
        words = [
            f"{units.show(tier.bandwidth, 'B/s')} per chip",
            units.show(tier.latency, "s"),
            tier.topology,
            reach,
        ]
        if tier.rail_optimised:
            words.append("rail-optimised")
        if tier.oversubscription > 1:
            words.append(f"oversubscribed {tier.oversubscription:g}:1")
        if tier.in_network_reduction:
            words.append("reduces in the network")
        if tier.lossy:
            words.append("lossy Ethernet")
        yield f"tier {tier.name}", ", ".join(words), _source(cluster, "tiers")
    yield "node overhead", units.show(cluster.node_overhead, "W"), _source(cluster, "node_overhead")
    yield "PUE", f"{cluster.pue:g}", _source(cluster, "pue")


def _software(prediction: Prediction) -> Iterator[Line]:
    stack, recipe = prediction.scenario.stack, prediction.scenario.recipe
    yield "stack", f"{stack.name}: {stack.title}", stack.source
    yield "number recipe", f"{recipe.name}: {recipe.title}", recipe.source
    overlaps = [
        words
        for words, on in (
            ("tensor parallel", stack.overlap_tp),
            ("gradients", stack.overlap_grad),
            ("parameters", stack.overlap_param),
            ("pipeline sends", stack.overlap_p2p),
            ("experts", stack.overlap_ep),
        )
        if on
    ]
    yield "communication hidden by the stack", ", ".join(overlaps) or "none", stack.source


def _calibration(prediction: Prediction) -> Iterator[tuple[str, ...]]:
    kernels, links = prediction.scenario.calibration.kernels, prediction.scenario.calibration.links
    used = set(roof_formats(prediction))
    kinds = {op.kind for op in prediction.operators}
    for name, fits in (
        ("gemm", kernels.gemm),
        ("attention", kernels.attention),
        ("grouped", kernels.grouped),
    ):
        # Fits of formats and kernels that this run does not touch would only bury the ones it does.
        for fmt, fit in fits.items():
            if fmt in used and (not kinds or name in kinds):
                yield _fit(f"{name}, {fmt}", fit.provenance)
    yield _fit("memory-bound kernels", kernels.stream.provenance)
    yield _fit("energy", kernels.energy.provenance)
    for tier, collectives in (("scale-up", links.scale_up), ("scale-out", links.scale_out)):
        for collective, link in collectives.items():
            yield _fit(f"{collective.replace('_', ' ')}, {tier}", link.provenance)


def _fit(name: str, provenance: Provenance) -> tuple[str, ...]:
    median, p90 = provenance.median_abs_err, provenance.p90_abs_err
    return (
        name,
        str(provenance.label),
        f"{provenance.rows:,}" if provenance.rows else "",
        "" if median is None else percent(median),
        "" if p90 is None else percent(p90),
        provenance.source,
    )


def _source(spec: Chip | Cluster, field: str) -> str:
    sources: Mapping[str, str] = spec.source
    return sources.get(field) or sources.get("default", "")
