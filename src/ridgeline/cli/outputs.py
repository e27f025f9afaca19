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

#: Files that are read where their folder is given: a model's, and those of a measured run of a server.
FOLDER_FILES = (
    "config.json",
    "meta.json",
    "requests.jsonl",
    "timeseries.csv",
    "simulator_cluster_config.json",
)


def named(
    paths: Iterable[Path] | None,
    known: Iterable[str],
    inputs: Iterable[str | Path | None] = (),
    trace: Path | None = None,
) -> list[Output]:
    """The files of ``--out``, each with its ending, after that of ``--trace``, where an option has that name.

    ``inputs`` are files, folders or names that the question reads: none may be written over.

    Raises:
        Mistake: an ending is unknown, a file cannot be written, is read too, or is given twice; said before a long
            search, not after it.
    """
    endings = tuple(known)
    found = [(files.expanded(path), _ending(path, endings)) for path in paths or ()]
    options = [("--out", path) for path, _ in found]
    if trace is not None:
        found.insert(0, (files.expanded(trace), "trace.json"))
        options.insert(0, ("--trace", found[0][0]))
    read = [files.expanded(path) for path in inputs if path is not None and "\0" not in str(path)]
    for number, (option, path) in enumerate(options):
        where = f"{option} {files.shown_path(path)}"
        _check(path, where)
        keep_apart(path, where, read)
        for other, before in options[:number]:
            if _same(path, before):
                raise Mistake(
                    f"{where}: is also the file of {other} {files.shown_path(before)}; name another"
                )
    return found


def keep_apart(path: Path, where: str, inputs: Iterable[Path]) -> None:
    """Raise Mistake where an output is one of the files, or in one of the folders, that are read."""
    if any(_same(path, one) or (_same(path.parent, one) and _is_read(path)) for one in inputs):
        raise Mistake(f"{where}: is read for this answer, which would replace it; name another file")


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder, which need not be there yet."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def _is_read(path: Path) -> bool:
    """Whether a file of a folder that is asked about may be one of those read: what we wrote there may be replaced."""
    return path.name.lower() in FOLDER_FILES and path.exists()


def _ending(path: Path, known: tuple[str, ...]) -> str:
    for ending in known:
        if path.name.lower().endswith(ending):
            return ending
    raise Mistake(f"--out {files.shown_path(path)}: the ending says what to write; choose {', '.join(known)}")


def _check(path: Path, where: str) -> None:
    """What can be seen of a file beforehand: a folder in its place, or a folder that takes no new file."""
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
