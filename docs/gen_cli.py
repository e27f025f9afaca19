"""MkDocs hook: the command-line reference, written from the commands themselves.

This fills ``<!-- generated: cli -->`` with every verb, its arguments and its options.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.main import get_command

MARK = "<!-- generated: cli -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page."""
    return markdown.replace(MARK, page()) if MARK in markdown else markdown


def commands() -> dict[str, Any]:
    """Every command by its words, such as ``catalog check``."""
    from ridgeline.cli import main

    app = next(value for value in vars(main).values() if isinstance(value, typer.Typer))
    return dict(_walk(get_command(app), ""))


def _walk(command: Any, words: str) -> list[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(words or "ridgeline", command)]
    return [pair for name, child in inner.items() for pair in _walk(child, f"{words} {name}".strip())]


def options(command: Any) -> set[str]:
    """Every option name of a command, both forms of a switch included."""
    return {name for item in command.params for name in (*item.opts, *item.secondary_opts)}


def page() -> str:
    """The whole reference as Markdown."""
    return "\n\n".join(_section(words, command) for words, command in commands().items())


def _section(words: str, command: Any) -> str:
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    switches = [item for item in command.params if item.param_type_name == "option"]
    shown = " ".join(["ridgeline", words, *(_word(item) for item in arguments)])
    rows = [
        f"| {_spelling(item)} | {_default(item)} | {_meaning(item)} |" for item in [*arguments, *switches]
    ]
    table = "\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows])
    return "\n\n".join([f"## {words}", (command.help or "").strip(), f"```\n{shown} [OPTIONS]\n```", table])


def _meaning(item: Any) -> str:
    return (getattr(item, "help", None) or "").replace("|", "\\|")


def _word(argument: Any) -> str:
    return str(argument.metavar or argument.name).upper()


def _spelling(item: Any) -> str:
    if item.param_type_name == "argument":
        return f"`{_word(item)}`"
    return " ".join(f"`{name}`" for name in (*item.opts, *item.secondary_opts))


def _default(item: Any) -> str:
    if item.required:
        return "required"
    value = item.default
    if value is None or value is False or callable(value) or value in ((), [], ""):
        return ""
    return f"`{value}`"
