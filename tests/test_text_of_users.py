"""Text of users: refused at the catalog's door where it cannot be seen, and never raw in a terminal or a table."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

import ridgeline as rl
from hostile import TEXTS, is_seen, lines_are_seen
from ridgeline.cli.main import main
from ridgeline.facts import catalog, document
from ridgeline.facts.huggingface import read_config

UNSEEN = {key: text for key, text in TEXTS.items() if not is_seen(text)}
LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512, "intermediate_size": 1024,
    "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 4, "vocab_size": 1024,
}  # fmt: skip
PLAN = ["--tp", "1", "--pp", "1", "--micro-batch", "1", "--zero", "1", "--recompute", "none"]
JOB = ["--on", "h100-sxm", "--chips", "8", "--batch", "64", "--seq", "4096", *PLAN]


def entry(kind: str) -> dict[str, Any]:
    """A shipped file of a kind, with what its parents state."""
    name = catalog.names(kind)[0]
    path = catalog.entry_path(kind, name)
    assert path is not None
    data = document.read(path)
    return catalog._inherited(data, path, kind) if kind in ("stacks", "engines") else data


def texts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all text in plain data; of a list or a mapping of many, those of its first part."""
    if isinstance(value, str):
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in list(parts) if len(path) == 0 else list(parts)[:12]:
        yield from texts(part, (*path, key))


def with_text(data: dict[str, Any], path: tuple[Any, ...], text: str) -> dict[str, Any]:
    """A copy with another text at a path."""
    made = copy.deepcopy(data)
    here: Any = made
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = text
    return made


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_no_kind_of_file_takes_invisible_characters_in_any_text(kind: str) -> None:
    data, spec = entry(kind), catalog.KINDS[kind].spec
    spec.model_validate(data)
    paths = list(texts(data))
    assert paths
    for path in paths:
        for text in ("a\x1b[31mb", "a\u202eb", "a\u2028b", "a\rb"):
            with pytest.raises(ValidationError):
                spec.model_validate(with_text(data, path, text))


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_catalog_check_names_the_field(kind: str, tmp_path: Path) -> None:
    data = entry(kind)
    path = next(
        path
        for name in ("title", "source", "provenance", *data)
        for path in texts(data)
        if path[0] == name and ("title" in path or "source" in path)
    )
    file = tmp_path / "evil.json"
    file.write_text(json.dumps(with_text(data, path, "a\x1b]0;owned\x07")))
    lines = [line for line in catalog.check(file, kind) if "invisible" in line]
    assert lines
    assert lines[0].startswith(f"{path[0]}")
    assert "U+001B" in lines[0]
    assert is_seen(lines[0])


@pytest.mark.parametrize("text", UNSEEN.values(), ids=UNSEEN.keys())
@pytest.mark.parametrize("field", ["name", "title", "family"])
def test_no_model_takes_a_hostile_text(field: str, text: str) -> None:
    with pytest.raises(ValidationError, match="invisible character U") as caught:
        catalog.KINDS["models"].spec.model_validate({**entry("models"), field: text})
    (problem,) = caught.value.errors()
    assert problem["loc"] == (field,)
    assert is_seen(problem["msg"])


def test_notes_and_sources_may_have_lines_and_nothing_else_may() -> None:
    chip = entry("chips")
    spec = catalog.KINDS["chips"].spec
    spec.model_validate({**chip, "note": "one\n\ttwo\n", "source": {"default": "a\nb\n"}})
    for change in ({"title": "a\nb"}, {"title": "a\tb"}, {"vendor": "a\n"}, {"source": {"a\nb": "c\x1b"}}):
        with pytest.raises(ValidationError, match="invisible"):
            spec.model_validate({**chip, **change})
    engine = entry("engines")
    with pytest.raises(ValidationError, match="invisible"):
        catalog.KINDS["engines"].spec.model_validate({**engine, "libraries": {"ge\x1bmm": ["a/b"]}})
    with pytest.raises(ValidationError, match="invisible"):
        catalog.KINDS["engines"].spec.model_validate({**engine, "libraries": {"gemm": ["a/\u202eb"]}})


def test_plain_text_of_any_script_is_taken() -> None:
    for title in ("通义 α/β naïve", '"quotes" and \\ $(x) `y` # z', "Ω™"):
        assert catalog.KINDS["models"].spec.model_validate({**entry("models"), "title": title})


def test_a_model_folder_of_any_name_is_read(tmp_path: Path) -> None:
    for name in ("hf\ntouch x #", "a\x1b[31m", "a\u202eb", "n" * 200):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(LLAMA))
        model = read_config(folder)
        assert is_seen(model.name)
        assert is_seen(model.source)
        assert len(model.name) < 110
    assert read_config({**LLAMA, "_name_or_path": "org/a\nb"}).name == "a\\x0ab"


def test_settings_pass_the_same_door(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "llama-3.1-8b", *JOB, "--set", 'chip.title="a\\x1b[31m"']) == 2
    err = capsys.readouterr().err
    assert "chip.title: 'a\\x1b[31m' holds the invisible character U+001B" in err
    assert lines_are_seen(err)


# Terminal


def hostile_model(text: str) -> rl.Architecture:
    """A model with a hostile title, made past the door as a program could."""
    return rl.model("llama-3.1-8b").model_copy(update={"title": text, "name": text, "family": text})


ESCAPES = "\x1b]0;owned\x07\x1b[31m a\nb \u202e\x9b"


def test_tables_of_training_hold_nothing_that_moves_a_terminal() -> None:
    found = rl.train(
        hostile_model(ESCAPES), on="h100-sxm", chips=8, batch=64, seq=4096, tp=1, pp=1, micro_batch=1, zero=1
    )
    for text in (found.table(), found.explanation()):
        assert lines_are_seen(text)
        assert "\\x1b]0;owned\\x07" in text.split("\n")[0]


def test_tables_of_serving_hold_nothing_that_moves_a_terminal() -> None:
    found = rl.serve(
        hostile_model(ESCAPES), on="h100-sxm", chips=1, isl=512, osl=64, concurrency=8, engine="vllm-2026",
        precision="bf16", kv="bf16", chunk=8192, tp=1, speculate=False, disaggregated=False,
    )  # fmt: skip
    assert lines_are_seen(found.table())
    assert "\\x1b]0;owned\\x07" in found.table().split("\n")[0]


def evil_catalog(folder: Path, **changes: str) -> Path:
    """A user's catalog with a model whose file says hostile things."""
    data = entry("models") | {"name": "evil"} | changes
    path = folder / "models" / "evil.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# \x85 \u202e comment\n{yaml.safe_dump(data)}", encoding="utf-8")
    return path


def test_commands_print_nothing_that_moves_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = evil_catalog(tmp_path, title=ESCAPES)
    odd = tmp_path / "a\x1b[31m.yaml"
    odd.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setenv("RIDGELINE_CATALOG", str(tmp_path))
    for words, code in (
        (["train", "evil", *JOB], 2),
        (["serve", "evil", "--on", "h100-sxm", "--isl", "9", "--osl", "9", "--concurrency", "1"], 2),
        (["train", str(path), *JOB], 2),
        (["train", str(odd), *JOB], 2),
        (["train", "\x1b[31m\u202e", *JOB], 2),
        (["catalog", "list", "models"], 0),
        (["catalog", "show", "evil"], 0),
        (["catalog", "show", "\x1b[31m"], 2),
        (["catalog", "check", str(path)], 2),
        (["catalog", "check", str(odd)], 2),
        (["catalog", "new", "model", "a\x1b[31m"], 2),
        (["explain", str(tmp_path / "\x1b[31m.json")], 2),
        (["validate", str(tmp_path / "\x1b[31m.csv")], 2),
        (["\x1b[31m"], 2),
        (["train", "--\x1b[31m"], 2),
    ):
        assert main(words) == code, words
        done = capsys.readouterr()
        assert lines_are_seen(done.out), words
        assert lines_are_seen(done.err), words
        assert done.out + done.err


def test_a_saved_result_is_read_through_the_same_door(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a\x1b[31m result.json"
    assert main(["train", "llama-3.1-8b", *JOB, "--out", str(file)]) == 0
    assert main(["explain", str(file)]) == 0
    done = capsys.readouterr()
    assert lines_are_seen(done.out + done.err)
    result = json.loads(file.read_text())
    for part in ("architecture", "chip", "cluster", "stack", "recipe"):
        changed = copy.deepcopy(result)
        changed["scenario"][part]["title"] = ESCAPES
        file.write_text(json.dumps(changed))
        assert main(["explain", str(file)]) == 2
        done = capsys.readouterr()
        assert f"{part}.title" in done.err
        assert lines_are_seen(done.out + done.err)


# Tables of measured runs

IDS = ["[/bold] [red] :smile:", "=cmd|' /C calc'!A0", "+1", "-1", "@a", "\x1b[31mred", "a\nb"]
RUN = {
    "model": "llama-3.1-8b", "chip": "h100-sxm", "n_chips": "8", "global_batch": "128", "seq": "8192", "tp": "2",
    "micro_batch": "1", "framework": "NeMo", "date_or_version": "2024-06", "step_time_s": "12.0",
}  # fmt: skip


def test_rows_are_no_formulas_and_move_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "runs.csv", tmp_path / "rows.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *RUN])
        writer.writerows([name, *RUN.values()] for name in IDS)
    assert main(["validate", str(table), "--out", str(out)]) == 0
    done = capsys.readouterr()
    assert lines_are_seen(done.out + done.err)
    assert "[/bold] [red] :smile:" in done.out
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    found = [row["id"] for row in rows]
    assert [name.lstrip("'") for name in found] == IDS
    assert not [cell for row in rows for cell in row.values() if cell[:1] in ("=", "@", "\t", "\r")]
    assert not [name for name in found if name.startswith(("+", "-"))]
