"""Shared by the verbs: common options, output files, JSON and progress."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON, and nothing else, to stdout")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="change any field, such as chip.memory.bandwidth='4 TB/s' or stack.host='2 us'; repeatable",
    ),
]


class Interrupted(Exception):
    """Ctrl-C during a long job; the message says what was done."""


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """A value as JSON that any reader takes: no NaN."""
    return json.dumps(value, indent=2, allow_nan=False)


def write_text(path: Path, text: str) -> None:
    """Write a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def suffix_of(path: Path, known: Iterable[str]) -> str:
    """The ending of an output file, which says what is written. Raises BadParameter for an unknown one."""
    for ending in known:
        if path.name.lower().endswith(ending):
            return ending
    raise typer.BadParameter(f"cannot tell what to write to '{path}'; end it in {', '.join(known)}")


def said(words: Any) -> str:
    """The command as it was typed, to be shown in results."""
    return shlex.join(["ridgeline", *words]) if isinstance(words, list) else ""


def width() -> int:
    """Columns of the terminal; a pipe counts as 120."""
    return shutil.get_terminal_size((120, 40)).columns


def counter(noun: str) -> tuple[Callable[[int], None], Callable[[], None]]:
    """A function that adds to a count on standard error, and one that wipes it; silent without a terminal."""
    total = 0
    shown = sys.stderr.isatty()

    def add(number: int) -> None:
        nonlocal total
        total += number
        if shown:
            sys.stderr.write(f"\r{total:,} {noun}")
            sys.stderr.flush()

    def wipe() -> None:
        if shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()

    return add, wipe
