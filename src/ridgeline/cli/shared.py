"""Shared by the verbs: common options, output files, JSON and progress."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ridgeline import files
from ridgeline.cli.streams import leave_stderr

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON, and nothing else, to stdout")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="change any field, such as chip.memory.bandwidth='4 TB/s' or stack.host='2 us'; repeatable",
    ),
]


class Mistake(ValueError):
    """The command line asks for something that does not exist; the message is complete."""


def file(text: str | Path) -> Path:
    """An argument that names a file: an empty one, as of a variable that is not set, is not the working folder.

    Raises:
        BadParameter: it is empty.
    """
    if not str(text):
        raise typer.BadParameter("is empty; name a file")
    return Path(text)


class Interrupted(Exception):
    """Ctrl-C during a long job; the message says what was done."""


def say(text: str, *, err: bool = False) -> None:
    """Print text for people: of what moves or colours a terminal, or turns what follows, only line feeds are left.

    What standard error does not take is lost: it never ends the work, nor changes its exit code.
    """
    try:
        typer.echo("\n".join(files.one_line(line) for line in text.expandtabs().split("\n")), err=err)
    except (OSError, ValueError):  # ValueError: it was closed
        if not err:
            raise
        leave_stderr()


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """A value as JSON that any reader takes: no NaN."""
    return json.dumps(value, indent=2, allow_nan=False)


def said(words: Any) -> str:
    """The command as it was typed, to be shown in results."""
    return shlex.join(["ridgeline", *words]) if isinstance(words, list) else ""


def took(seconds: float) -> None:
    """Say how long a search took, apart from its result, which is the same each time: to a person who waits."""
    if sys.stderr.isatty():
        typer.echo(f"searched in {seconds:.1f} s", err=True)


def width() -> int:
    """Columns of the terminal; a pipe counts as 120."""
    return shutil.get_terminal_size((120, 40)).columns


def columns(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Lines of a table with its head; the first ``left`` columns are words, the others numbers."""
    lines = [[files.one_line(word) for word in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in lines) for i in range(len(head))]
    return [
        "  ".join(
            word.ljust(width) if i < left else word.rjust(width)
            for i, (word, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in lines
    ]


def say_unread(unread: Sequence[str]) -> None:
    """Say on standard error how many lines of a file could not be read, and why."""
    from ridgeline.calibrate.refusals import unread_words

    if unread:
        say(unread_words(unread), err=True)


class Counter:
    """Counts what a long job has done, and shows it on standard error where that is a terminal."""

    def __init__(self, noun: str) -> None:
        self.noun, self.total, self.of = noun, 0, 0
        self._shown = sys.stderr.isatty()

    def add(self, number: int = 1) -> None:
        """Count ``number`` more."""
        self.total += number
        self._write(f"\r{self}")

    def reach(self, done: int, of: int) -> None:
        """Say that ``done`` of ``of`` are done."""
        self.of = of
        self.add(done - self.total)

    def wipe(self) -> None:
        """Take the line off the terminal."""
        self._write("\r\033[K")

    def __str__(self) -> str:
        return f"{self.total:,}{f' of {self.of:,}' if self.of else ''} {self.noun}"

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(text)
            sys.stderr.flush()
