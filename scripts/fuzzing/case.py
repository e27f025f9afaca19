"""Case: the files of one input of a reader, as bytes, and the one that the reader is given."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Case:
    """Files by their path below a folder; ``main`` is the path that the reader gets (``.``: the folder itself).

    ``fixed`` files are written as they are; the others are what mutations change.
    """

    files: Mapping[str, bytes]
    main: str
    fixed: frozenset[str] = field(default=frozenset())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))

    def with_file(self, name: str, content: bytes) -> Case:
        """A copy with one file replaced."""
        return replace(self, files={**self.files, name: content})

    def write(self, folder: Path) -> Path:
        """Write the files into an emptied ``folder``; the path that the reader is given."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder / self.main


def one(name: str, content: str | bytes) -> Case:
    """A case of a single file."""
    return Case({name: content.encode() if isinstance(content, str) else content}, name)
