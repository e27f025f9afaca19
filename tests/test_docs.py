"""Documentation: it builds, its commands exist, its code runs, its tables name what the code has."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ridgeline import units
from ridgeline.facts.observation import Label
from ridgeline.facts.plan import SCHEDULES
from ridgeline.graph.memory import KINDS
from ridgeline.insight.ladder import CAUSES
from ridgeline.metrics import Prediction

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FRONT = ("README.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in FRONT)])


def hook(name: str) -> ModuleType:
    """A generator beside the pages, loaded the way MkDocs loads it."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def page(path: str) -> str:
    return (DOCS / path).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # a notice of the theme about its own future
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "index.html").read_text(encoding="utf-8")
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', html)
    assert loaded == [], "the site must open without a network"


def test_links_of_the_front_page_lead_somewhere() -> None:
    for name in FRONT:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", (ROOT / name).read_text(encoding="utf-8")):
            assert (ROOT / target).exists(), f"{name}: {target}"


def shown_commands() -> list[Any]:
    found = []
    for path in PAGES:
        for block in blocks(path.read_text(encoding="utf-8"), ""):
            for line in block.splitlines():
                if line.startswith("ridgeline "):
                    where = f"{path.relative_to(ROOT)}: {line}"
                    found.append(pytest.param(shlex.split(line, comments=True)[1:], id=where))
    return found


@pytest.mark.parametrize("words", shown_commands())
def test_commands_exist_with_these_options(words: list[str]) -> None:
    generator = hook("gen_cli")
    commands = generator.commands()
    name = next((n for n in (" ".join(words[:2]), words[0]) if n in commands), None)
    assert name is not None, f"no such command; there are {sorted(commands)}"
    known = generator.options(commands[name])
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known, f"unknown options {sorted(used - known)}"


def test_python_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in blocks(page("reference/python.md"), "python"):
        exec(compile(code, "python.md", "exec"), names)
    assert "MFU" in capsys.readouterr().out
    assert names["script"].startswith("#!/usr/bin/env bash")
    assert names["architecture"].num_layers == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("concepts/ladder.md", ["model FLOPs at peak", "FLOPs beyond the model", *CAUSES.values()]),
        ("concepts/memory.md", list(KINDS)),
        ("concepts/schedules.md", [f"`{name}`" for name in SCHEDULES]),
        ("concepts/labels.md", [str(label) for label in Label]),
        (
            "reference/json.md",
            [f"`{name}`" for name in Prediction.__dataclass_fields__ if name != "scenario"],
        ),
    ],
)
def test_tables_name_everything_the_code_has(path: str, words: list[str]) -> None:
    text = page(path)
    rows = "\n".join(line for line in text.splitlines() if line.startswith("|"))
    assert [word for word in words if word not in rows] == []


def test_examples_of_units_parse() -> None:
    dimensions = dict(zip(
        ("size", "rate", "compute rate", "time", "power", "frequency", "energy", "area"),
        ("B", "B/s", "FLOP/s", "s", "W", "Hz", "J", "m2"),
        strict=True,
    ))  # fmt: skip
    rows = re.findall(
        r"^\| ([a-z ]+) \| [a-z A-Z]+ \| `([^`]+)` \|$", page("concepts/units.md"), re.MULTILINE
    )
    assert {name for name, _ in rows} == set(dimensions)
    for name, text in rows:
        assert units.parse(text, dimensions[name]) > 0
    assert units.parse("400 Gb/s", "B/s") == 50e9


def test_field_reference_says_type_unit_and_meaning() -> None:
    generated = hook("gen_fields").page()
    assert "| `tdp` | quantity such as `700 W`" in generated
    assert "| `memory` | [Memory](#memory) | required |" in generated
    assert "| `vpp` | `int` | `1` | model chunks per pipeline stage |" in generated


def test_front_page_shows_what_its_first_command_prints() -> None:
    generator = hook("gen_examples")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = next(generator.BLOCK.finditer(text))
    command = generator.COMMAND.findall(text[: shown.start()])[-1]
    printed = generator.output(command, generator.parts(shown["spec"].lstrip(";")), None)
    clock = re.compile(r"in memory, [\d.]+ s")  # of the search, which another machine does in another time
    assert clock.sub("", shown["text"].rstrip()) == clock.sub("", printed), "python docs/gen_examples.py"


@pytest.mark.parametrize("path", ["README.md", "docs/guides/serving.md"])
def test_every_output_on_a_page_comes_from_its_command(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    assert len(blocks(text, "text")) == len(hook("gen_examples").BLOCK.findall(text)) > 0
