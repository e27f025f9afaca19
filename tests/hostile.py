"""Hostile texts: what a title, a name or a folder could say to end a comment, a string, a document or a line."""

from __future__ import annotations

from ridgeline import files

#: A file that no emitted script may make.
MADE = "INJECTED"
RUN = f"touch {MADE}"
PYTHON = f"import os; os.system('{RUN}')"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: evil}"

TEXTS = {
    "line-feed": f"a\n{RUN} #",
    "carriage-return": f"a\r{RUN} #",
    "crlf": f"a\r\n{RUN} #",
    "vertical-tab": f"a\x0b{RUN} #",
    "form-feed": f"a\x0c{RUN} #",
    "record-separator": f"a\x1e{RUN} #",
    "next-line": f"a\x85{RUN} #",
    "line-separator": f"a\u2028{RUN} #",
    "paragraph-separator": f"a\u2029{RUN} #",
    "line-feed-first": f"\n{RUN}",
    "window-title": "\x1b]0;owned\x07",
    "colour": "\x1b[31mred",
    "c1-colour": "\x9b31mred",
    "delete": "a\x7fb",
    "nul": f"a\x00\n{RUN}",
    "tab": "a\tb",
    "bidi": f"a\u202e{RUN}\u2066b",
    "zero-width": "a\u200bb",
    "byte-order-mark": "\ufeffa",
    "noncharacter": "a\uffffb\ufffe",
    "surrogate": "a\ud800b",
    "docstring": f'x"""\n{PYTHON}\n"""',
    "docstring-on-a-line": f'x"""; {PYTHON}; """',
    "docstring-single": f"x'''\n{PYTHON}\n'''",
    "unicode-name": "\\N{no such character}",
    "hex-escape": "\\x",
    "unicode-escape": "\\u12 \\U0000000",
    "trailing-backslash": "a\\",
    "encoding": f"-*- coding: utf-7 -*- +AAo-{PYTHON} #",
    "substitution": f"$({RUN})",
    "backticks": f"`{RUN}`",
    "semicolon": f"; {RUN}",
    "and": f"a && {RUN}",
    "pipe": f"a | {RUN}",
    "redirection": f"a > {MADE}",
    "variable": "${IFS}$HOME$(HF_TOKEN)$$(HF_TOKEN)$$$",
    "history": f"!! !{RUN}",
    "glob": "* ? [a] ~ {a,b}",
    "hash": "# a # b",
    "single-quote": f"a' ; {RUN} ; '",
    "double-quote": f'a" ; {RUN} ; "',
    "heredoc": f"a\nYAML\n{RUN}",
    "heredoc-name": "YAML",
    "end-of-file": f"EOF\nEOF\n{RUN}",
    "document": f"x\n---\n{POD}\n---\n# ",
    "document-on-a-line": "--- {kind: Pod}",
    "document-end": "...",
    "directive": "%YAML 9.9",
    "mapping": "a: {b: [c",
    "anchor": "*a &b !c",
    "toml-table": 'x"\n[model]\nname = "evil',
    "percent": "%s %n %(a)s %d",
    "braces": "{0} {a!r} {{ b }} {% c %}",
    "option": "--trust-remote-code",
    "formula": "=cmd|' /C calc'!A0",
    "markup": "[bold]a[/red] :smile: <script>",
    "unicode": "通义 α/β naïve",
    "long": "a" * 100_000,
}


def is_seen(text: str) -> bool:
    """Whether a text has one line of what can be seen."""
    return not any(files.unseen(character) for character in text)


def lines_are_seen(text: str) -> bool:
    """Whether line feeds are all that cannot be seen in a text."""
    return all(is_seen(line) for line in text.split("\n"))
