"""Kernel timing tables to the calibration of each chip, one fit for every library and number format.

`ridgeline calibrate kernels` runs it. The calibration speaks for one library per format, the one that its shipped
file names (what training frameworks call); fits of all others are kept beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ridgeline.calibrate import tables as kernel_tables
from ridgeline.calibrate.attention_fit import fit_attention, shapes
from ridgeline.calibrate.energy import energy_fit
from ridgeline.calibrate.gemm_fit import fit_gemm
from ridgeline.calibrate.grouped_fit import fit_grouped
from ridgeline.calibrate.measured import from_measured, measured_chips
from ridgeline.calibrate.tables import Group, Table
from ridgeline.facts import catalog
from ridgeline.facts.chip import Chip
from ridgeline.facts.kernel_calibration import (
    ACCUMULATION,
    AttentionFit,
    KernelCalibration,
    KernelLibraries,
    KernelSet,
    Provenance,
    StreamFit,
)
from ridgeline.facts.observation import Label
from ridgeline.timing.attention import Kind
from ridgeline.timing.rates import resolve

#: Kind of table -> the part of a `KernelSet` it informs, and its columns of number formats.
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "gemm": ("gemm", ("gemm_dtype",)),
    "attention_prefill": ("attention", ("attn_dtype", "kv_cache_dtype")),
    "attention_decode": ("decode", ("attn_dtype", "kv_cache_dtype")),
    "mla_prefill": ("latent", ("mla_dtype", "kv_cache_dtype")),
    "mla_decode": ("latent_decode", ("mla_dtype", "kv_cache_dtype")),
    "moe": ("grouped", ("moe_dtype",)),
}
#: Backward over forward attention rate where no relative says: FlashAttention-3 on Hopper (arXiv:2407.08608).
BACKWARD = 0.78
#: Memory-bound kernels: achieved shares on H100 are 0.45 at 14 MB, 0.6 at 30 MB and 0.85 at 400 MB, which is
#: 0.9 of the bandwidth after 5 us, half of them launch and half ramp.
STREAM_SHARE, STREAM_LAUNCH_S, STREAM_RAMP_S = 0.90, 2.5e-6, 2.5e-6
STREAM_CHIP = "h100-sxm"


@dataclass(slots=True)
class Found:
    """Fits of one chip under construction: ``parts[part][library][format]``."""

    parts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    def add(self, part: str, library: str, name: str, fit: Any) -> None:
        """Keep one fit."""
        self.parts.setdefault(part, {}).setdefault(library, {})[name] = fit


@dataclass(frozen=True, slots=True)
class ChipFits:
    """What the tables say of one chip."""

    calibration: KernelCalibration
    libraries: KernelLibraries


def fit_each(
    tables: Mapping[str, Table],
    chips: Collection[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Iterator[ChipFits]:
    """Fit every chip of the tables that the catalog has, or those named, as each is finished.

    Args:
        tables: by kind, the keys of `PARTS`, columns as published by aiconfigurator with ``chip``, ``version`` and
            ``timing_mode``. Parts of a calibration without a table keep what the catalog has.
        chips: catalog names; all without them.
        progress: called with the name of each fit.

    Raises:
        ValueError: no table has a known chip.
    """
    present = sorted(
        {str(name) for table in tables.values() for name in np.unique(table["chip"].astype(str))}
    )
    known = {name: kernel_tables.CHIPS.get(name, name) for name in present}
    fitting = {
        table_name: name
        for table_name, name in known.items()
        if catalog.entry_path("chips", name) is not None and (not chips or name in chips)
    }
    if not fitting:
        wanted = ", ".join(chips) or f"{', '.join(kernel_tables.CHIPS)} or a chip of the catalog"
        raise ValueError(f"the tables have none of the chips {wanted}; they have {', '.join(present)}")
    for table_name, name in fitting.items():
        yield _fit_chip(tables, table_name, catalog.chip(name), progress or (lambda _: None))


def derived(found: Mapping[str, KernelCalibration]) -> dict[str, KernelCalibration]:
    """Chips with one measured rate, from the fits of their relatives in ``found``."""
    lent: dict[str, KernelCalibration] = {}
    for target in measured_chips(kernel_tables.CHIPS.values()):
        relative, source = target.relative or "", target.source.get("products", "its catalog entry")
        theirs = found.get(relative) or lent.get(relative)
        if theirs is not None:
            donor = catalog.chip(relative)
            lent[target.name] = from_measured(theirs, donor, target, target.products, source)
    return lent


def stream_fit(chip: Chip) -> StreamFit:
    """H100's achieved shares as a bandwidth share and a start-up time, carried over to other chips."""
    return StreamFit(
        memory=STREAM_SHARE,
        half=STREAM_RAMP_S * STREAM_SHARE * chip.memory.bandwidth,
        launch=f"{STREAM_LAUNCH_S!r} s",
        provenance=Provenance(
            label=Label.FITTED if chip.name == STREAM_CHIP else Label.TRANSFERRED,
            source="achieved shares on H100 (0.45 at 14 MB, 0.6 at 30 MB, 0.85 at 400 MB) and gpu-stream "
            "triad on a Blackwell part (0.90 at 4 GB); start-up time kept, bandwidth by data sheet",
        ),
    )


def _fit_chip(
    tables: Mapping[str, Table], table_name: str, chip: Chip, progress: Callable[[str], None]
) -> ChipFits:
    try:
        base: KernelCalibration | None = catalog.calibration(chip.name).kernels
    except catalog.CatalogError:
        base = None
    found = Found()

    def each(kind: str) -> Iterator[tuple[str, Group, str]]:
        """Groups of one table, with the part they inform and their source."""
        if kind in tables:
            part, columns = PARTS[kind]
            for group in kernel_tables.groups(tables[kind], table_name, columns):
                progress(f"{chip.name} {part} {'/'.join(group.formats)} {group.library}")
                yield part, group, group.source(kind)

    for part, group, source in each("gemm"):
        name = group.formats[0]
        quantises = name in kernel_tables.QUANTISED
        found.add(
            part, group.library, name, fit_gemm(group.rows, chip, name, source, group.library, quantises)
        )
    gemm = _reference(base, found, "gemm")
    for kind in ("attention_prefill", "attention_decode", "mla_prefill", "mla_decode"):
        for part, group, source in each(kind):
            name, stored = group.formats
            key = name if name == stored else f"{name}/{stored}"
            fit = _attention(group, chip, part, base, source)  # type: ignore[arg-type]
            found.add(part, group.library, key, fit)
    stream = base.stream if base is not None else stream_fit(chip)
    for part, group, source in each("moe"):
        name = group.formats[0]
        dense = {name: resolve(gemm, name)[0]}
        parts = _by_distribution(group.rows)
        found.add(
            part, group.library, name, fit_grouped(parts, chip, name, dense, stream, source, group.library)
        )
    references = {part: _reference(base, found, part) for part in KernelSet.model_fields}
    references["decode"] = _alike(references["attention"], references["decode"], found)
    calibration = KernelCalibration(
        chip=chip.name,
        stream=stream,
        accumulation=base.accumulation if base is not None else ACCUMULATION,
        energy=energy_fit(chip, references["gemm"]),
        **references,
    )
    others = _others(found, calibration, catalog.libraries(chip.name))
    return ChipFits(calibration, KernelLibraries(chip=chip.name, libraries=others))


def _attention(
    group: Group, chip: Chip, kind: Kind, base: KernelCalibration | None, source: str
) -> AttentionFit:
    name, stored = group.formats
    sizes = {**shapes(group.rows, kind), "seconds": group.rows["seconds"]}
    known = base.attention if base is not None else {}
    backward = resolve(known, name)[0].backward if known else BACKWARD
    return fit_attention(sizes, chip, kind, name, stored, source, group.library, backward)


def _by_distribution(rows: Table) -> dict[str, Table]:
    """Rows by distribution of routing, those alone where every rank has an expert and a routed row."""
    good = (rows["moe_ep_size"] >= 1) & (rows["moe_tp_size"] >= 1)
    good &= (rows["num_experts"] >= rows["moe_ep_size"]) & (
        rows["num_tokens"] * rows["topk"] >= rows["moe_ep_size"]
    )
    names = np.unique(rows["distribution"][good].astype(str))
    return {
        str(name): kernel_tables.select(rows, np.flatnonzero(good & (rows["distribution"] == name)))
        for name in names
    }


def _reference(base: KernelCalibration | None, found: Found, part: str) -> dict[str, Any]:
    """The fit that speaks for each format: of the library that the catalog names for it.

    A format whose library the tables lack keeps the catalog's fit. Where the catalog names none at all, the one with
    most rows speaks; a format that it leaves out, having others, goes by its relatives: an engine's kernel alone is
    no reason to change what training is predicted with.
    """
    kept: dict[str, Any] = dict(getattr(base, part)) if base is not None else {}
    own_choice = any(fit.provenance.library for fit in kept.values())
    libraries = found.parts.get(part, {})
    for name in sorted({name for fits in libraries.values() for name in fits}):
        own = {library: fits[name] for library, fits in libraries.items() if name in fits}
        wanted = kept[name].provenance.library if name in kept else None
        if wanted is None and not own_choice:
            kept[name] = max(own.values(), key=lambda fit: fit.provenance.rows)
        elif wanted in own:
            kept[name] = own[wanted]
    return kept


def _alike(attention: Mapping[str, Any], decode: dict[str, Any], found: Found) -> dict[str, Any]:
    """``decode`` by the library that speaks for prefill in the same formats, where it was timed."""
    libraries = found.parts.get("decode", {})
    for name, fit in attention.items():
        own = libraries.get(fit.provenance.library or "", {})
        if name in own:
            decode[name] = own[name]
    return decode


def _others(
    found: Found, calibration: KernelCalibration, known: Mapping[str, KernelSet]
) -> dict[str, KernelSet]:
    """Fits that the calibration itself does not hold, by library; those ``known`` stay where none is newer."""
    sets = {
        library: {part: dict(getattr(fits, part)) for part in KernelSet.model_fields}
        for library, fits in known.items()
    }
    for part, libraries in found.parts.items():
        for library, fits in libraries.items():
            sets.setdefault(library, {}).setdefault(part, {}).update(fits)
    for library, parts in sets.items():
        for part, fits in parts.items():
            spoken = {name: fit.provenance.library for name, fit in getattr(calibration, part).items()}
            parts[part] = {name: fit for name, fit in fits.items() if spoken.get(name) != library}
    return {library: KernelSet(**parts) for library, parts in sorted(sets.items()) if any(parts.values())}
