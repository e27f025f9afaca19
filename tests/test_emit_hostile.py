"""Emitted files never run what a name says: hostile texts in every field, each file parsed back or really run."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hostile import MADE, TEXTS, is_seen, lines_are_seen
from ridgeline.emit import FRAMEWORKS, EmitError, emit
from ridgeline.emit.comments import comments
from ridgeline.emit.serving import emit_serving, script
from ridgeline.facts.huggingface import read_config
from ridgeline.facts.plan import Plan
from ridgeline.facts.scenario import Scenario
from ridgeline.facts.serving import Deployment, Layout, Service, Speculation, model_id_of
from ridgeline.facts.spec import SpecT
from test_emit import scenario
from test_emit_serving import alone, dense, service, split
from test_text_of_users import LLAMA

ENGINES = ("vllm", "sglang", "trtllm")
TRAINING = scenario("llama-3.1-8b", Plan(tp=2, etp=2, dp=4, zero=2))
SERVING = {(engine, make.__name__): make(engine) for engine in ENGINES for make in (dense, split)}
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
SECRET = "hf_secret"

hostile = pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())


def told(spec: SpecT, text: str, *fields: str) -> SpecT:
    """A fact with a hostile text in some fields, past the check that a catalog file gets."""
    return spec.model_copy(update=dict.fromkeys(fields, text))


def training(text: str) -> Scenario:
    return TRAINING.replace(
        architecture=told(TRAINING.architecture, text, "name", "title", "family", "source"),
        chip=told(TRAINING.chip, text, "name", "title", "vendor", "process", "note"),
        cluster=told(TRAINING.cluster, text, "name", "title", "chip", "note"),
        stack=told(TRAINING.stack, text, "name", "title", "framework", "source"),
        recipe=told(TRAINING.recipe, text, "name", "title", "source"),
    )


def served(one: Service, text: str) -> Service:
    return one.replace(
        architecture=told(one.architecture, text, "title", "family"),
        chip=told(one.chip, text, "name", "title", "process", "note"),
        cluster=told(one.cluster, text, "name", "title", "chip", "note"),
        engine=told(one.engine, text, "name", "title", "versions", "source"),
    )


def serving(plain: Deployment, text: str, **changes: Any) -> Deployment:
    pools: dict[str, Any] = {
        name: None if one is None else served(one, text)
        for name, one in (("service", plain.service), ("prefill", plain.prefill), ("decode", plain.decode))
    }
    return replace(plain, **pools, **changes)


def code(text: str) -> list[str]:
    """Lines of bash that are no comment: bash ends a line at a line feed only."""
    return [line for line in text.split("\n") if not line.startswith("#")]


@hostile
def test_a_launch_file_of_training_is_that_of_the_plain_title(text: str) -> None:
    for framework in FRAMEWORKS:
        plain, made = emit(framework, TRAINING), emit(framework, training(text))
        assert lines_are_seen(made)
        assert made.count("\n") == plain.count("\n")
        if framework == "megatron":
            assert code(made) == code(plain)
        elif framework == "nemo":  # as bytes: a comment can name another encoding
            assert ast.dump(ast.parse(made.encode())) == ast.dump(ast.parse(plain.encode()))
        else:
            written, expected = tomllib.loads(made), tomllib.loads(plain)
            assert is_seen(written["job"].pop("description"))
            del expected["job"]["description"]
            assert written == expected


@hostile
def test_a_launch_file_of_serving_is_that_of_the_plain_title(text: str) -> None:
    for (engine, _), plain in SERVING.items():
        expected, made = emit_serving(engine, plain), emit_serving(engine, serving(plain, text))
        assert lines_are_seen(made)
        assert made.count("\n") == expected.count("\n")
        assert code(made) == code(expected)


@hostile
def test_a_manifest_is_that_of_the_plain_title(text: str) -> None:
    for case in (("vllm", "split"), ("sglang", "dense"), ("trtllm", "dense")):
        plain = SERVING[case]
        expected, made = emit_serving("kubernetes", plain), emit_serving("kubernetes", serving(plain, text))
        assert lines_are_seen(made)
        assert objects(made) == objects(expected)
        assert made.split("---\n")[1:] == expected.split("---\n")[1:]


def objects(manifest: str) -> list[dict[str, Any]]:
    return list(yaml.load_all(manifest, Loader=_Loader))


@pytest.mark.parametrize("name", [*TEXTS.values(), "", "通义", "3b-instruct", "true", "0x1f", "a" * 70 + "-"])
def test_names_in_a_manifest_are_those_that_kubernetes_takes(name: str) -> None:
    plain = SERVING["vllm", "dense"]
    assert plain.service is not None
    one = plain.service.replace(architecture=told(plain.service.architecture, name, "name"))
    found = objects(emit_serving("kubernetes", replace(plain, service=one)))
    assert [each["kind"] for each in found] == ["Deployment", "Service"]
    for each in found:
        label = each["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", label), label
        assert set(each["metadata"].get("labels", {}).values()) <= {label, "serve"}


# What is loaded: an argument, so it must arrive as it is or be refused


def refused(text: str) -> bool:
    return text.startswith("-") or not is_seen(text)


def loading(plain: Deployment, text: str) -> Deployment:
    """A deployment of the model ``text``, by a name that is in titles too."""
    return serving(plain, text, model_id=text)


@hostile
def test_what_is_no_model_is_refused_and_named(text: str) -> None:
    for engine in ENGINES:
        plain = SERVING[engine, "dense"]
        one = service(engine, "llama-3.1-70b", Layout(tp=8))
        draft = Speculation(
            method="draft", acceptance=(0.7,), draft=told(one.architecture, text, "name").model_copy(
                update={"source": ""}
            ),
        )  # fmt: skip
        for field, made in (
            ("model_id", loading(plain, text)),
            ("speculation.draft", alone(one.replace(speculation=draft))),
        ):
            if not refused(text):
                emit_serving(engine, made)
                continue
            with pytest.raises(EmitError, match=f"cannot express {field} = ") as caught:
                emit_serving(engine, made)
            assert is_seen(str(caught.value))
            assert len(str(caught.value)) <= 400


class Sandbox:
    """A folder in which scripts run with nothing but stubs on their path, and leave what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.tools, self.work = folder, folder / "tools", folder / "work"
        self.scripts, self.out = folder / "scripts", folder / "out"
        for each in (self.tools, self.work, self.scripts, self.out, folder / "tmp"):
            each.mkdir()
        shell = shutil.which("bash")
        assert shell is not None
        self.shell = shell
        for name in ("torchrun", "vllm", "vllm-router", "python3", "trtllm-serve"):
            stub = self.tools / name
            stub.write_text('#!/bin/sh\nprintf \'%s\\0\' "${0##*/}" "$@"\n')
            stub.chmod(0o755)
        for name in ("bash", "cat", "mktemp", "touch", "env"):
            (self.tools / name).symlink_to(shutil.which(name) or name)

    def add(self, name: str, text: str) -> None:
        (self.scripts / name).write_text(text, encoding="utf-8")

    def run(self, *roles: str) -> dict[str, list[str]]:
        """What each script called, by ``NAME ROLE``; nothing else may have come into being."""
        loop = (
            f'for file in "$1"/*; do for role in {" ".join(roles)}; do\n'
            '"$SHELL" "$file" "$role" >"$2/${file##*/} $role" 2>"$2/.errors" || true\ndone; done\n'
        )
        environment = {
            "PATH": str(self.tools), "SHELL": self.shell, "TMPDIR": str(self.folder / "tmp"), "LC_ALL": "C.UTF-8",
            "PREFILL_URLS": "http://p0:1", "DECODE_URLS": "http://d0:1", "WORKER_URLS": "http://w0:1",
        }  # fmt: skip
        subprocess.run(
            [self.shell, "-c", loop, "loop", str(self.scripts), str(self.out)],
            cwd=self.work,
            env=environment,
            check=True,
            timeout=120,
        )
        assert os.listdir(self.work) == []
        assert not list(self.folder.rglob(MADE))
        return {
            file.name: file.read_text(encoding="utf-8").split("\0")[:-1]
            for file in self.out.iterdir()
            if not file.name.startswith(".")
        }


def without_files(words: list[str], folder: Path) -> list[str]:
    """Words of a command, with what a temporary file holds in place of its name."""
    return [
        Path(word).read_text(encoding="utf-8") if word.startswith(f"{folder}/tmp/") else word
        for word in words
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape", ["dense", "split"])
def test_scripts_that_run_call_what_the_plain_ones_call(engine: str, shape: str, tmp_path: Path) -> None:
    """Hostile texts in titles change nothing; as the model they arrive as one word, whole."""
    plain, sandbox = SERVING[engine, shape], Sandbox(tmp_path)
    sandbox.add("plain", emit_serving(engine, replace(plain, model_id="MODEL")))
    for key, text in TEXTS.items():
        if not refused(text):
            sandbox.add(f"model-{key}", emit_serving(engine, loading(plain, text)))
        elif key in ("line-feed", "document", "heredoc", "nul"):
            sandbox.add(f"title-{key}", emit_serving(engine, serving(plain, text, model_id="MODEL")))
    roles = ("serve",) if shape == "dense" else ("prefill", "decode", "router")
    calls = sandbox.run(*roles)
    compared = 0
    for role in roles:
        expected = without_files(calls[f"plain {role}"], tmp_path)
        assert len(expected) >= 4
        for key, text in TEXTS.items():
            for name, model in ((f"model-{key} {role}", text), (f"title-{key} {role}", "MODEL")):
                if name in calls:
                    words = [model if word == "MODEL" else word for word in expected]
                    assert without_files(calls[name], tmp_path) == words, name
                    compared += 1
    assert compared >= 30 * len(roles)


def test_scripts_of_training_call_what_the_plain_ones_call(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path)
    sandbox.add("plain", emit("megatron", TRAINING))
    for key, text in TEXTS.items():
        sandbox.add(key, emit("megatron", training(text)))
    calls = sandbox.run("serve")
    assert calls["plain serve"][0] == "torchrun"
    assert {tuple(words) for name, words in calls.items() if name.endswith(" serve")} == {
        tuple(calls["plain serve"])
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_containers_that_run_call_what_the_plain_ones_call(engine: str, tmp_path: Path) -> None:
    plain, sandbox = SERVING[engine, "dense"], Sandbox(tmp_path)
    texts = {key: text for key, text in TEXTS.items() if not refused(text)} | {"plain": "MODEL"}
    for key, text in texts.items():
        workload = objects(emit_serving("kubernetes", loading(plain, text)))[0]
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["/bin/bash", "-c"]
        sandbox.add(key, expanded(container["args"][0], {"HF_TOKEN": SECRET}))
    calls = sandbox.run("serve")
    expected = without_files(calls["plain serve"], tmp_path)
    assert "MODEL" in expected
    for key, text in texts.items():
        words = [text if word == "MODEL" else word for word in expected]
        assert without_files(calls[f"{key} serve"], tmp_path) == words, key


def expanded(text: str, values: dict[str, str]) -> str:
    """What Kubernetes makes of an argument: ``$$`` is a dollar, ``$(NAME)`` a value where there is such a name."""

    def put(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else values.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", put, text)


@pytest.mark.parametrize("framework", [*ENGINES, "kubernetes"])
@pytest.mark.parametrize("name", ["hf\ntouch x #", "hfd\udcff", "a\u202eb", "a\U000e0001b", "n" * 200])
def test_a_folder_whose_name_cannot_be_written_is_refused(framework: str, name: str, tmp_path: Path) -> None:
    """Its architecture carries the name as it can be seen, which no engine finds."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    model = model_id_of(read_config(folder))
    engine = "vllm" if framework == "kubernetes" else framework
    plain = SERVING[engine, "dense"]
    with pytest.raises(EmitError, match=r"model_id = .*rename the folder") as caught:
        emit_serving(framework, replace(plain, model_id=model))
    assert is_seen(str(caught.value))
    one = plain.service
    assert one is not None
    drafts = Speculation(method="draft", acceptance=(0.7,), draft=read_config(folder))
    with pytest.raises(EmitError, match=r"speculation\.draft = .*rename the folder"):
        emit_serving(framework, replace(plain, service=one.replace(speculation=drafts)))


def test_a_folder_of_a_plain_name_is_written(tmp_path: Path) -> None:
    for name in ("llama-8b", "通义", "a...", "it's"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(LLAMA))
        made = emit_serving(
            "vllm", replace(SERVING["vllm", "dense"], model_id=model_id_of(read_config(folder)))
        )
        assert f"vllm serve {shlex.quote(name)}" in made


# The places by themselves


def test_a_draft_of_any_name_stays_one_value_of_the_options_file() -> None:
    one = service("trtllm", "llama-3.1-70b", Layout(tp=8))
    for text in (text for text in TEXTS.values() if not refused(text)):
        architecture = one.architecture.model_copy(update={"name": text, "source": ""})
        draft = Speculation(method="draft", acceptance=(0.7,), draft=architecture)
        made = emit_serving("trtllm", alone(one.replace(speculation=draft)))
        body = made.split("<<'YAML'\n", 1)[1].split("\nYAML\n", 1)[0]
        assert yaml.load(body, Loader=_Loader)["speculative_config"]["speculative_model"] == text


@pytest.mark.parametrize("text", ["YAML", "a\nYAML\ntouch x", "YAML\nYAML_\nYAML__"])
def test_a_heredoc_ends_at_a_line_that_its_text_has_not(text: str) -> None:
    lines = script.temporary("FILE", text)
    end = lines[-1]
    assert lines[1].endswith(f"<<'{end}'")
    assert lines.index(end) == len(lines) - 1
    assert lines[2:-1] == text.split("\n")


@hostile
def test_a_comment_is_one_line(text: str) -> None:
    (line,) = comments([text])
    assert line.startswith("# ")
    assert is_seen(line)
    assert line.splitlines() == [line]
