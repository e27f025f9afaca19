"""Run the commands shown on the pages and write what they print under them: ``python docs/gen_examples.py [DATA]``.

A block of output follows a comment such as ``<!-- printed; until: ^labels; without: ^note -->``. Its command is the
last ``ridgeline`` line of the code block before it, or the comment names it (``printed by: ridgeline ...``). Parts of
the comment, each a regular expression over whole lines unless it says otherwise:

- ``until``: the output is shown up to the first line that matches, which is left out;
- ``without``: lines that match are left out, and of the empty lines around them all but one;
- ``fields``: the command is run with ``--json`` and these fields of the result are shown, a dot leads into a field.

Commands run in DATA, a folder with the files that they name; without it, those that name a file stay as they are.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md")))
BLOCK = re.compile(r"<!-- printed(?P<spec>[^>]*?) -->\n+```text\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^(?:\$ )?(ridgeline .*)$", re.MULTILINE)
#: Columns that a page shows without scrolling.
WIDTH = 120
#: Entries of a list that are shown of a JSON result.
SHOWN = 2


def parts(spec: str) -> dict[str, str]:
    """``by: command; until: pattern`` as a dictionary."""
    pairs = (part.partition(":") for part in spec.split("; ") if part.strip())
    return {key.strip(): value.strip() for key, _, value in pairs}


def refreshed(text: str, folder: Path | None) -> str:
    """A page with the output of its commands written anew."""

    def block(match: re.Match[str]) -> str:
        spec = parts(match["spec"].lstrip(";"))
        named = COMMAND.findall(
            text[: match.start()] if "$ ridgeline" not in match["text"] else match["text"]
        )
        command = spec.get("by") or named[-1]
        if folder is None and re.search(r"\.csv|\.parquet|RTX", command):
            return match[0]
        prompt = f"$ {command}\n" if match["text"].startswith("$ ") else ""
        head = match[0][: match.start("text") - match.start()]
        after = output(command, spec, folder)
        if after.startswith("error: ") and "\nerror: " not in f"\n{match['text']}":
            raise SystemExit(f"nothing is written, the command of an example fails: {command}\n{after}")
        return f"{head}{prompt}{after}\n```"

    return BLOCK.sub(block, text)


def output(command: str, spec: Mapping[str, str], folder: Path | None) -> str:
    """What is shown of the output of a command."""
    words = [str(Path(sys.executable).with_name("ridgeline")), *shlex.split(command)[1:]]
    if "fields" in spec:
        words.append("--json")
    with tempfile.TemporaryDirectory() as empty:
        done = subprocess.run(
            words, cwd=folder or empty, env={**os.environ, "COLUMNS": str(WIDTH), "NO_COLOR": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    if "fields" in spec:
        return chosen(json.loads(done.stdout), spec["fields"].split())
    shown = []
    for line in (done.stdout if done.returncode == 0 else done.stderr).rstrip().splitlines():
        if "until" in spec and re.search(spec["until"], line):
            break
        if "without" not in spec or not re.search(spec["without"], line):
            shown.append(line.rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(shown)).rstrip()


def chosen(result: Mapping[str, Any], fields: list[str]) -> str:
    """Some fields of a JSON result, floats in four digits."""
    kept: dict[str, Any] = {}
    for field in fields:
        name, _, inner = field.partition(".")
        value = result[name]
        if inner:
            kept.setdefault(name, {})[inner] = value[inner]
        else:
            kept[name] = value
    lines = [f"  {json.dumps(name)}: {_words(value)}," for name, value in kept.items()]
    return "\n".join(["{", *lines, "  ...", "}"])


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        more = ", ..." if len(value) > SHOWN else ""
        return f"[{', '.join(_words(one) for one in value[:SHOWN])}{more}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {_words(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


def main() -> None:
    """Write every page whose output has changed."""
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else None
    pages = {path: path.read_text(encoding="utf-8") for path in PAGES}
    found = {path: refreshed(before, folder) for path, before in pages.items()}
    for path, after in found.items():
        if after != pages[path]:
            path.write_text(after, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: written anew")


if __name__ == "__main__":
    main()
