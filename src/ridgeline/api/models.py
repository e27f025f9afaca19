"""Models by name or by file: a catalog name, a Hugging Face ``config.json``, or an architecture file."""

from __future__ import annotations

import os
from pathlib import Path

from ridgeline import files
from ridgeline.api import arguments
from ridgeline.facts import catalog, document
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.huggingface import HuggingFaceError, read_config

_SUFFIXES = (".json", ".yaml", ".yml")


def model(name: str | Path | Architecture) -> Architecture:
    """The shape of a model.

    Raises:
        CatalogError: unknown name (with the closest ones), or a bad architecture file.
        HuggingFaceError: a ``config.json`` that cannot be read.
        InputError: neither a name nor a path.
    """
    if isinstance(name, Architecture):
        return name
    arguments.path("model", name, "a name of the catalog, the path of a model, or an Architecture")
    path = files.expanded(name)
    if not _is_path(str(name), path):
        return catalog.architecture(str(name))
    if path.is_dir() or path.name == "config.json" or (path.suffix == ".json" and not _is_ours(path)):
        return read_config(path)
    found = catalog.load_file(path, "models")
    assert isinstance(found, Architecture)
    return found


def _is_path(text: str, path: Path) -> bool:
    """A separator or a file ending means a file; a bare word is a name, even where a folder is called so."""
    separators = [sep for sep in (os.sep, os.altsep) if sep]
    return any(sep in text for sep in separators) or path.suffix in _SUFFIXES or text in (".", "..")


def _is_ours(path: Path) -> bool:
    """Whether a JSON file is an architecture file; one that cannot be read is left to the other reader."""
    try:
        return "layers" in document.read(path)
    except document.DocumentError:
        return False


__all__ = ["HuggingFaceError", "model"]
