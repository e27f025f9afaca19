"""Comments of emitted files: the one place where the words of users become lines that nothing runs."""

from __future__ import annotations

from collections.abc import Iterable

from ridgeline import files


def comments(lines: Iterable[str]) -> list[str]:
    """Comment lines of bash, Python, TOML or YAML, each on one line whatever it says.

    A line feed, or what else a parser takes for the end of a line, would end the comment and run its rest.
    """
    return [f"# {files.one_line(line)}" for line in lines]
