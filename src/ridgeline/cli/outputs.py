"""Outputs: the files of ``--out``, checked before the work and written after it; one that fails loses nothing else."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ridgeline import files
from ridgeline.cli.shared import Mistake

Writer = Callable[[Path], object]
Output = tuple[Path, str]  # the file, and its ending, which says what is written


def named(paths: Iterable[Path] | None, known: Iterable[str]) -> list[Output]:
    """The files of ``--out``, each with its ending.

    Raises:
        Mistake: an ending is unknown, or a file cannot be written; said before a long search, not after it.
    """
    endings = tuple(known)
    expanded = dict.fromkeys(files.expanded(path) for path in paths or ())
    found = [(path, _ending(path, endings)) for path in expanded]
    for path, _ in found:
        _check(path)
    return found


def _ending(path: Path, known: tuple[str, ...]) -> str:
    for ending in known:
        if path.name.lower().endswith(ending):
            return ending
    raise Mistake(f"--out {files.shown_path(path)}: the ending says what to write; choose {', '.join(known)}")


def _check(path: Path) -> None:
    """What can be seen of a file beforehand: a folder in its place, or a folder that takes no new file."""
    where = f"--out {files.shown_path(path)}"
    try:
        if path.is_dir():
            raise Mistake(f"{where}: is a folder; name a file in it")
        folder = next(one for one in path.absolute().parents if one.exists())
    except OSError as error:  # a name that is too long
        raise Mistake(f"{where}: cannot be written: {error.strerror}") from None
    if not folder.is_dir():
        raise Mistake(f"{where}: {files.shown_path(folder)} is a file, not a folder")
    if not os.access(folder, os.W_OK):
        raise Mistake(f"{where}: no right to write in {files.shown_path(folder)}")
    if path.exists() and not os.access(path, os.W_OK):
        raise Mistake(f"{where}: no right to write this file")


def save(chosen: Iterable[Output], writers: Mapping[str, Writer]) -> list[str]:
    """Write each file by its ending -> what could not be written. The answer itself is shown all the same."""
    unsaved = []
    for path, ending in chosen:
        try:
            writers[ending](path)
        except OSError as error:
            unsaved.append(f"{files.shown_path(path)}: not written: {error.strerror or error}")
    return unsaved


def complain(unsaved: list[str]) -> None:
    """End with the files that could not be written, once everything else was given. Raises Mistake."""
    if unsaved:
        raise Mistake("\n".join(unsaved))


def write_text(path: Path, text: str) -> Path:
    """Write a file that ends with a line feed, making its folder."""
    return files.write(path, text if text.endswith("\n") else text + "\n")


def word(path: Path) -> str:
    """A file as a word of a command that is shown, to be pasted into a shell."""
    return files.one_line(shlex.quote(str(path)))


def text_of(make: Callable[[], str]) -> Writer:
    """A writer of the text that ``make`` returns."""
    return lambda path: write_text(path, make())
