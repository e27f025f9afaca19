"""The bash that every writer shares: an array of arguments, roles of one script, placeholders of a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from ridgeline.emit.comments import comments
from ridgeline.emit.documented import Documented

#: Filled in by whoever starts the copies of one engine on several nodes.
NODE_RANK, MASTER_ADDR = '"${NODE_RANK:?rank of this node}"', '"${MASTER_ADDR:?address of node 0}"'

Value = str | int | float | bool | None


class Word(str):
    """Text that stands in the script as it is: it is quoted already."""


def arguments(table: Documented, options: Mapping[str, Value]) -> list[str]:
    """One line for each option; True stands for a bare flag, None and False leave the option out."""
    lines = []
    for option, value in options.items():
        if value is None or value is False:
            continue
        flag = table.check(option)
        lines.append(f"  {flag}" if value is True else f"  {flag} {_quoted(value)}")
    return lines


def array(name: str, lines: Sequence[str]) -> list[str]:
    """Lines of a bash array."""
    return [f"{name}=(", *lines, ")"]


def temporary(variable: str, text: str) -> list[str]:
    """Lines of bash that write ``text`` to a new file, whose name is then in ``variable``."""
    lines = text.rstrip("\n").split("\n")
    end = "YAML"
    while end in lines:
        end += "_"
    return [f'{variable}="$(mktemp)"', f"cat >\"${{{variable}}}\" <<'{end}'", *lines, end]


def write(header: Sequence[str], roles: Mapping[str, Sequence[str]], usage: Sequence[str] = ()) -> str:
    """A bash script; with several roles its first argument says which of them to start."""
    lines = ["#!/usr/bin/env bash", *comments([*header, *usage]), "set -euo pipefail", ""]
    if len(roles) == 1:
        lines += next(iter(roles.values()))
    else:
        known = "|".join(roles)
        lines += [f'ROLE="${{1:?{known}}}"', "shift", 'case "${ROLE}" in']
        for name, body in roles.items():
            lines += [f"{name})", *body, ";;"]
        lines += ["*)", f'echo "unknown role ${{ROLE}}: choose {known}" >&2', "exit 2", ";;", "esac"]
    return "\n".join([*lines, ""])


def _quoted(value: str | int | float) -> str:
    if isinstance(value, Word):
        return value
    return shlex.quote(
        value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )
