"""Catalog: every fact by name. YAML files shipped with Ridgeline, with the user's own folders laid over them.

A file lies at ``FOLDER/<kind's folder>/<name>.yaml``; a user's file of the same name replaces the built-in
one. User folders are those in the environment variable ``RIDGELINE_CATALOG`` (separated like ``PATH``, first
one wins), then ``~/.config/ridgeline/catalog``; a folder that may not be entered is as one that is not there.
A lookup reads the one file it needs, once, until it changes.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ridgeline import files
from ridgeline.facts import document, notes, problems, transfer
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.calibration import Calibration
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.engine import Engine
from ridgeline.facts.format import Format
from ridgeline.facts.kernel_calibration import KernelCalibration, KernelLibraries, KernelSet
from ridgeline.facts.link_calibration import LinkCalibration
from ridgeline.facts.recipe import Recipe
from ridgeline.facts.spec import Spec, SpecT
from ridgeline.facts.stack import Stack
from ridgeline.facts.step_calibration import StepCalibration, neutral

BUILT_IN = Path(__file__).parent / "data"
SUFFIXES = (".yaml", ".yml", ".json")
LONGEST_NAME = 200  # characters: file systems take 255 with the ending
_SLUG = re.compile(r"^[a-z0-9]+([.-][a-z0-9]+)*$")


Stamp = tuple[int, int, int, int]


class CatalogError(ValueError):
    """An unknown name or a bad file; the message is complete and meant for the user."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact: where its files lie, what they hold and how one is called in a sentence."""

    folder: str
    spec: type[Spec]
    noun: str
    key: str = "name"  # the field that repeats the file's name


KINDS: dict[str, Kind] = {
    "chips": Kind("chips", Chip, "chip"),
    "clusters": Kind("clusters", Cluster, "cluster"),
    "formats": Kind("formats", Format, "format"),
    "recipes": Kind("recipes", Recipe, "recipe"),
    "models": Kind("models", Architecture, "model"),
    "stacks": Kind("stacks", Stack, "stack"),
    "engines": Kind("engines", Engine, "serving engine"),
    "kernels": Kind("calibrations/kernels", KernelCalibration, "kernel calibration", key="chip"),
    "libraries": Kind("calibrations/libraries", KernelLibraries, "kernel libraries", key="chip"),
    "links": Kind("calibrations/links", LinkCalibration, "link calibration", key="chip"),
    "steps": Kind("calibrations/steps", StepCalibration, "step calibration", key="chip"),
}

#: Kinds whose files may name a parent of the same kind.
_INHERITING = frozenset({"stacks", "engines"})
# A child stack is described by its own words and rows, whatever its parent's numbers are.
_NOT_INHERITED = frozenset({"name", "title", "rows"})
_REFERENCES = {
    "chips": (("relative", "chips"), ("cluster", "clusters")),
    "clusters": (("chip", "chips"),),
    "recipes": tuple((field, "formats") for field in ("linear", "linear_backward", "attention", "head")),
    "stacks": (("parent", "stacks"),),
    "engines": (("parent", "engines"),),
    "kernels": (("chip", "chips"),),
    "libraries": (("chip", "chips"),),
    "links": (("chip", "chips"),),
    "steps": (("chip", "chips"),),
}  # fmt: skip


def chip(name: str) -> Chip:
    """The chip ``name``. Raises CatalogError, as all lookups here do, if unknown or its file is bad."""
    return _lookup("chips", name, Chip)


def cluster(name: str) -> Cluster:
    """The cluster ``name``."""
    return _lookup("clusters", name, Cluster)


def number_format(name: str) -> Format:
    """The number format ``name``."""
    return _lookup("formats", name, Format)


def recipe(name: str) -> Recipe:
    """The number recipe ``name``."""
    return _lookup("recipes", name, Recipe)


def architecture(name: str) -> Architecture:
    """The model shape ``name``."""
    return _lookup("models", name, Architecture)


def stack(name: str) -> Stack:
    """The software stack ``name``, with the fields it leaves out taken from its parents."""
    return _lookup("stacks", name, Stack)


def engine(name: str) -> Engine:
    """The serving engine ``name``, with the fields it leaves out taken from its parents."""
    return _lookup("engines", name, Engine)


def kernel_calibration(chip_name: str) -> KernelCalibration:
    """The chip's own kernel calibration; `calibration` also looks at relatives."""
    return _lookup("kernels", chip_name, KernelCalibration)


def libraries(chip_name: str) -> Mapping[str, KernelSet]:
    """Fits of the libraries on a chip that its calibration does not speak for, by ``framework/kernel``."""
    if entry_path("libraries", chip_name) is None:
        return {}
    found = _lookup("libraries", chip_name, KernelLibraries).libraries
    return {library: _named(fits, library) for library, fits in found.items()}


def served_libraries(chip_name: str) -> Mapping[str, KernelSet]:
    """Libraries that engines find on a chip: its own, over those of its line of relatives of the same maker."""
    line = [one for one in _line(chip(chip_name), "kernels") if one.vendor == chip(chip_name).vendor]
    found: dict[str, KernelSet] = {}
    for one in reversed(line):
        theirs = libraries(one.name)
        for name, fits in (theirs if one is line[0] else transfer.libraries(theirs, one)).items():
            lent = found.get(name)
            parts = {part: dict(getattr(lent, part)) if lent else {} for part in KernelSet.model_fields}
            for part, known in parts.items():
                known.update(getattr(fits, part))
            found[name] = KernelSet.model_construct(None, **parts)
    return found


def _named(fits: KernelSet, library: str) -> KernelSet:
    """``fits`` with their library in every provenance, which the file says once."""
    named = {
        part: {
            name: fit.model_copy(
                update={"provenance": fit.provenance.model_copy(update={"library": library})}
            )
            for name, fit in getattr(fits, part).items()
        }
        for part in KernelSet.model_fields
    }
    return KernelSet.model_construct(None, **named)


def link_calibration(chip_name: str) -> LinkCalibration:
    """The chip's own link calibration; `calibration` also looks at relatives."""
    return _lookup("links", chip_name, LinkCalibration)


def step_calibration(chip_name: str) -> StepCalibration:
    """The chip's own step calibration; `calibration` also looks at relatives."""
    return _lookup("steps", chip_name, StepCalibration)


def calibration(chip_name: str) -> Calibration:
    """Kernels, links and step factors of a chip: its own, else its nearest relative's, labelled transferred.

    Raises:
        CatalogError: neither the chip nor any relative has a calibration of that kind.
    """
    target = chip(chip_name)
    kernels_from, links_from = _donor(target, "kernels"), _donor(target, "links")
    kernels, links = kernel_calibration(kernels_from.name), link_calibration(links_from.name)
    if kernels_from.name != target.name:
        kernels = transfer.kernels(kernels, kernels_from, target)
    if links_from.name != target.name:
        links = transfer.links(links, links_from, target)
    return Calibration(kernels=kernels, links=links, steps=_steps(target))


def lent_kernels(chip_name: str) -> KernelCalibration:
    """Kernels of a chip as if it were known by its data sheet alone: its nearest calibrated relative's, scaled.

    Raises:
        CatalogError: the chip names no relative, or its line has no kernel calibration.
    """
    donor_chip = chip(lender(chip_name))
    return transfer.kernels(kernel_calibration(donor_chip.name), donor_chip, chip(chip_name))


def lender(chip_name: str) -> str:
    """Name of the nearest relative of a chip, other than itself, with kernels of its own. Raises as `lent_kernels`."""
    relative = chip(chip_name).relative
    if relative is None:
        raise CatalogError(f"chip '{chip_name}' names no relative that would lend it kernels")
    return _donor(chip(relative), "kernels").name


def _steps(target: Chip) -> StepCalibration:
    """Step factors of ``target`` or its relatives; neutral ones, labelled bound, where nobody measured a step."""
    try:
        source = _donor(target, "steps")
    except CatalogError:
        return neutral(target.name)
    steps = step_calibration(source.name)
    return steps if source.name == target.name else transfer.steps(steps, source, target)


def cluster_for(name: str, chips: int | None = None) -> Cluster:
    """What ``--on NAME`` means: a cluster, or a chip's default one. ``chips`` must keep within its limit."""
    if entry_path("clusters", name) is not None:
        found = cluster(name)
    elif entry_path("chips", name) is not None:
        default = chip(name).cluster
        if default is None:
            raise CatalogError(
                f"chip '{name}' names no default cluster; choose one of: {' '.join(names('clusters'))}"
            )
        found = cluster(default)
    else:
        known = sorted({*names("clusters"), *names("chips")})
        raise CatalogError(
            f"unknown cluster or chip {files.shown(name)}{_closest(name, known)}; list all with {_list('chips')}"
        )
    if chips is not None and chips < 1:
        raise CatalogError(f"chips = {chips}: at least 1 is needed")
    if chips is not None and found.max_chips is not None and chips > found.max_chips:
        raise CatalogError(f"chips = {chips}: cluster '{found.name}' has at most {found.max_chips}")
    return found


def kinds() -> list[str]:
    """The kinds of facts, such as ``chips`` and ``models``."""
    return list(KINDS)


def names(kind: str) -> list[str]:
    """Every name of a kind, sorted; built-in and the user's."""
    folder = _kind(kind)[1].folder
    return sorted(
        {
            path.stem
            for root in folders()
            for path in _listing(root / folder)
            if path.suffix in SUFFIXES and not path.name.startswith(".")
        }
    )


def readable(kind: str) -> list[str]:
    """Names of a kind whose files are good, for questions that look at all of them and name none.

    A user's file with problems is left out, which a note says; one of ours is given, and its lookup fails.
    """
    key, entry = _kind(kind)
    return [name for name in names(key) if _is_readable(key, name, entry.spec)]


def _is_readable(kind: str, name: str, spec: type[Spec]) -> bool:
    path = entry_path(kind, name)
    if path is None:  # a name with capital letters, a broken link
        notes.tell(
            f"{kind}/{files.one_line(name, files.SHOWN)} is left out: no file is found under that name"
        )
        return False
    if path.is_relative_to(BUILT_IN):
        return True
    try:
        _lookup(kind, name, spec)
    except (CatalogError, OSError):
        count = _count(_examine(path, kind, look_around=False)[1])
        shown = files.shown_path(path)
        notes.tell(
            f"{kind}/{files.one_line(path.name)} is left out: {count}; `ridgeline catalog check {shown}` lists them"
        )
        return False
    return True


def is_name(text: str) -> bool:
    """Whether ``text`` may be the name of an entry: lower-case letters, digits, '-' and '.', of a file's length."""
    return _SLUG.match(text) is not None and len(text) <= LONGEST_NAME


def entry_path(kind: str, name: str) -> Path | None:
    """The file that defines ``name``, the user's before the built-in; None if there is none. Any case."""
    folder = _kind(kind)[1].folder
    lowered = name.lower()
    if not is_name(lowered):
        return None
    for root in folders():
        for suffix in SUFFIXES:
            path = root / folder / f"{lowered}{suffix}"
            if os.path.isfile(path):  # never raises, whatever may not be looked at
                return path
    return None


def schema(kind: str) -> dict[str, Any]:
    """JSON schema of a kind's files, for editors and forms."""
    return _kind(kind)[1].spec.model_json_schema()


def folders() -> tuple[Path, ...]:
    """Catalog folders, the winning one first; the built-in catalog is last."""
    listed = [
        _home("RIDGELINE_CATALOG", part)
        for part in os.environ.get("RIDGELINE_CATALOG", "").split(os.pathsep)
        if part
    ]
    config = os.environ.get("XDG_CONFIG_HOME")
    try:
        own = _home("XDG_CONFIG_HOME", config) if config else files.expanded("~/.config")
    except files.FileError:  # a user without a home has no folder there
        return (*listed, BUILT_IN)
    return (*listed, own / "ridgeline" / "catalog", BUILT_IN)


def _home(variable: str, folder: str) -> Path:
    try:
        found = files.expanded(folder)
        os.stat(found / ".")
    except files.FileError as error:
        raise CatalogError(f"{variable}: {error}") from None
    except PermissionError:
        notes.tell(f"{variable}: {files.shown_path(folder)} is passed over: no right to enter it")
    except (OSError, ValueError):  # it need not exist; ValueError: a NUL in the name
        pass
    return found


def digest() -> str:
    """Twelve hex digits that change with any catalog file: a result that quotes them is repeatable."""
    total = hashlib.sha256()
    for kind in KINDS:
        for name in names(kind):
            path = entry_path(kind, name)
            if path is not None:
                total.update(f"{kind}/{name}\0".encode() + _content(path))
    return total.hexdigest()[:12]


def _content(path: Path) -> bytes:
    """The bytes of a file; the reason where it cannot be read, which no answer without it depends on."""
    try:
        return files.read_bytes(path, document.MAX_BYTES)
    except files.FileError as error:
        return error.reason.encode()


def load_file(path: str | Path, kind: str | None = None) -> Spec:
    """Read one file outside the catalog. ``kind`` is told from its folder or, failing that, from its fields.

    Raises:
        CatalogError: with all problems of the file at once.
    """
    path = Path(path)
    spec, lines = _examine(path, kind, look_around=False)
    if spec is None or lines:
        raise _file_error(path, lines)
    return spec


def check(path: str | Path, kind: str | None = None) -> list[str]:
    """All problems of one file, ``field.path: message`` each; names it refers to must exist. None: good."""
    return _examine(Path(path), kind, look_around=True)[1]


# Reading one file


def _lookup(kind: str, name: str, spec: type[SpecT]) -> SpecT:
    path = entry_path(kind, name)
    if path is None:
        known = names(kind)
        raise CatalogError(
            f"unknown {KINDS[kind].noun} {files.shown(name)}{_beside(kind, name)}{_closest(name, known)}; "
            f"list all with {_list(kind)}"
        )
    chain = _parents(path, kind) if kind in _INHERITING else (path,)
    found = _parsed(kind, tuple((link, *_stamp(link)) for link in chain))
    assert isinstance(found, spec)
    return found


@functools.lru_cache(maxsize=4096)
def _parsed(kind: str, chain: tuple[tuple[Path, *Stamp], ...]) -> Spec:
    """The spec in the first file of ``chain``; the rest are its parents. Stamps tell an edited file."""
    path = chain[0][0]
    spec, lines = _examine(path, kind, look_around=False)
    if spec is None or lines:
        raise _file_error(path, lines)
    return spec


def _stamp(path: Path) -> Stamp:
    """What changes with a file's content: also the inode and the time of its change, which nobody sets back."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size


def _examine(path: Path, kind: str | None, *, look_around: bool) -> tuple[Spec | None, list[str]]:
    """The spec in ``path`` if its own fields are right, and every problem found."""
    try:
        written = document.read(path)
        key = _kind(kind)[0] if kind else _guess_kind(path, written)
        data = _inherited(written, path, key) if key in _INHERITING else written
    except (document.DocumentError, CatalogError) as error:
        return None, [str(error)]
    entry = KINDS[key]
    lines = [] if _at_home(path, entry) is None else _name_problems(path, written, entry)
    spec: Spec | None = None
    try:
        spec = entry.spec.model_validate(data)
    except ValidationError as error:
        lines += problems.validation_problems(error, entry.spec, data)
    lines += problems.source_problems(entry.spec, data)
    if look_around:
        lines += _reference_problems(key, data)
    return spec, lines


def _guess_kind(path: Path, data: Mapping[str, Any]) -> str:
    for key, entry in KINDS.items():
        if _at_home(path, entry) is not None:
            return key
    overlap = {key: len(data.keys() & entry.spec.model_fields.keys()) for key, entry in KINDS.items()}
    # Shared fields such as name, title and source tell nothing: the best kind must fit better than any other.
    best = sorted(overlap, key=lambda key: overlap[key], reverse=True)
    if overlap[best[0]] == overlap[best[1]]:
        raise CatalogError(
            f"cannot tell what it describes; put it in a folder named after one of: {' '.join(KINDS)}"
        )
    return best[0]


def _at_home(path: Path, entry: Kind) -> Path | None:
    """The catalog folder that ``path`` lies in, or None where its parent folder is not one of this kind."""
    parts = Path(entry.folder).parts
    parents = path.absolute().parent
    return parents if parents.parts[-len(parts) :] == parts else None


def _name_problems(path: Path, data: Mapping[str, Any], entry: Kind) -> list[str]:
    name = data.get(entry.key)
    if not isinstance(name, str):
        return []
    if not _SLUG.match(name):
        return [f"{entry.key}: {files.shown(name)} may hold only lower-case letters, digits, '-' and '.'"]
    if name != path.stem:
        return [
            f"{entry.key}: {files.shown(name)} differs from the file name '{path.name}'; make them the same"
        ]
    return []


def _reference_problems(kind: str, data: Mapping[str, Any]) -> list[str]:
    lines = []
    for field, other in _REFERENCES.get(kind, ()):
        name = data.get(field)
        if isinstance(name, str) and entry_path(other, name) is None:
            lines.append(
                f"{field}: unknown {KINDS[other].noun} {files.shown(name)}{_closest(name, names(other))}"
            )
    return lines


def _file_error(path: Path, lines: list[str]) -> CatalogError:
    rest = f": `ridgeline catalog check {files.shown_path(path)}` lists all"
    name = files.shown_path(path.name or path)
    return CatalogError(files.listed(f"{name}: {_count(lines)}", lines, rest))


def _count(lines: list[str]) -> str:
    return f"{len(lines)} problem{'s' if len(lines) != 1 else ''}"


# Inheritance of stacks and engines


def _parents(path: Path, kind: str) -> tuple[Path, ...]:
    """``path`` and the files of its parents; a broken one ends the chain and is reported by `_inherited`."""
    chain = [path]
    while True:
        try:
            parent = _raw(chain[-1], *_stamp(chain[-1])).get("parent")
        except (document.DocumentError, OSError):
            return tuple(chain)
        found = entry_path(kind, parent) if isinstance(parent, str) else None
        if found is None or found in chain:
            return tuple(chain)
        chain.append(found)


@functools.lru_cache(maxsize=512)
def _raw(path: Path, *stamp: int) -> dict[str, Any]:
    return document.read(path)


def _inherited(data: Mapping[str, Any], path: Path, kind: str) -> dict[str, Any]:
    """Fields of a stack or engine over those of its parents. Raises CatalogError on an unknown parent or a circle."""
    merged = dict(data)
    seen = [str(data.get("name") or path.stem)]
    parent = data.get("parent")
    while isinstance(parent, str):
        if parent in seen:
            raise CatalogError(f"parent: {' -> '.join([*seen, parent])} is a circle")
        found = entry_path(kind, parent)
        if found is None:
            raise CatalogError(
                f"parent: unknown {KINDS[kind].noun} {files.shown(parent)}{_closest(parent, names(kind))}"
            )
        try:
            inherited = _raw(found, *_stamp(found))
        except document.DocumentError as error:
            raise CatalogError(f"parent: {found.name}: {error}") from None
        merged = {**{key: value for key, value in inherited.items() if key not in _NOT_INHERITED}, **merged}
        seen.append(parent)
        parent = inherited.get("parent")
    if len(seen) > 1:
        merged.setdefault("title", merged.get("name"))
    return merged


# Relatives


def donor(chip_name: str, kind: str) -> str:
    """Name of the chip whose calibration of ``kind`` serves ``chip_name``: itself or its nearest relative."""
    return _donor(chip(chip_name), kind).name


def stating(kind: str, name: str, field: str) -> str:
    """Name of the entry whose file states ``field``: ``name`` itself, or the first of its parents that does."""
    path = entry_path(kind, name)
    if path is None:
        raise CatalogError(f"unknown {KINDS[kind].noun} {files.shown(name)}; list all with {_list(kind)}")
    return next((link.stem for link in _parents(path, kind) if field in document.read(link)), name)


def _donor(target: Chip, kind: str) -> Chip:
    """The chip whose calibration serves ``target``: itself, or the first one along its line of relatives."""
    return _line(target, kind)[-1]


def _line(target: Chip, kind: str) -> list[Chip]:
    """``target`` and its relatives, as far as the first one that has a calibration of that kind."""
    line = [target]
    while entry_path(kind, line[-1].name) is None:
        relative = line[-1].relative
        if relative is None or relative in [one.name for one in line]:
            tried = " -> ".join(one.name for one in line)
            raise CatalogError(
                f"no {KINDS[kind].noun} for chip '{target.name}' (tried {tried}); run `ridgeline calibrate` "
                f"on its measurements, or set its 'relative' to one of: {' '.join(names(kind)) or 'none'}"
            )
        line.append(chip(relative))
    return line


# Words


def _kind(kind: str) -> tuple[str, Kind]:
    for key, entry in KINDS.items():
        if kind in (key, entry.noun):
            return key, entry
    raise CatalogError(f"unknown kind {files.shown(kind)}; known: {' '.join(KINDS)}")


def _closest(name: str, known: list[str]) -> str:
    lowered = name.lower()
    inside = [candidate for candidate in known if lowered and lowered in candidate]
    close = difflib.get_close_matches(lowered, known, n=5, cutoff=0.5)
    found = list(dict.fromkeys([*inside, *close]))[:5]
    return f"; close: {' '.join(found)}" if found else ""


def _beside(kind: str, name: str) -> str:
    """A folder of a model that is named like one of the catalog."""
    is_model = kind == "models" and os.path.isfile(os.path.join(name, "config.json"))
    return f"; the folder of that name is ./{files.shown_path(name)}" if is_model else ""


def _list(kind: str) -> str:
    return f"`ridgeline catalog list {kind}`"


def _listing(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []  # a user folder need not have every kind, or exist at all
