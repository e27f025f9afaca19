"""Readers: everything that takes a file or words of a user, called as the commands call it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzzing import measured_seeds, result_seeds, sane, seeds, traffic_seeds
from fuzzing.case import Case
from fuzzing.verdict import Wrong, command

Check = Callable[[Path], Wrong]


@dataclass(frozen=True, slots=True)
class Reader:
    """One reader.

    Attributes:
        seeds: right inputs.
        check: read the input at a path, raising what the reader raises; returns what is wrong with the value, or None.
        whole: words of a command that reads the same file; every `WHOLE`-th mutant goes through it instead.
        share: mutants of it for one of the others; below 1 where a mutant costs a whole command.
        refuses: names of seeds that are right to be refused.
    """

    name: str
    seeds: Callable[[], Sequence[Case]]
    check: Check
    whole: Callable[[Path], list[str]] | None = None
    share: float = 1.0
    refuses: tuple[str, ...] = ()


#: One in so many mutants goes through the whole command.
WHOLE = 200


def _config(path: Path) -> str | None:
    from ridgeline.api.models import model

    return sane.amounts(model(path))


def _entry(path: Path, *, kind: str) -> str | None:
    from ridgeline.facts import catalog

    lines = catalog.check(path, kind)
    spec = catalog.load_file(path, kind)
    if lines:  # good by itself, but a name that it refers to is unknown
        raise catalog.CatalogError("\n  ".join([f"{path.name}: {len(lines)} problems", *lines]))
    return (sane.amounts if kind in ("chips", "clusters", "models", "formats") else sane.facts)(spec)


def _own(folder: Path) -> str | None:
    """A user's whole catalog: all of it listed, and a job predicted on it."""
    from ridgeline.api.training import train
    from ridgeline.cli.catalog import _title
    from ridgeline.facts import catalog

    os.environ["RIDGELINE_CATALOG"] = str(folder)
    try:
        for kind in ("chips", "stacks"):
            _title(kind, "own-chip" if kind == "chips" else "own-stack")
        catalog.calibration("own-chip")
        catalog.engine("own-engine")
        found = train(
            "own-model", on="own-cluster", chips=8, batch=16, seq=2048, stack="own-stack", recipe="own-recipe", tp=1,
            cp=1, pp=1, vpp=1, dp=8, micro_batch=1, zero=1, recompute="none", schedule="1f1b",
        )  # fmt: skip
    finally:
        del os.environ["RIDGELINE_CATALOG"]
    return sane.prediction(found.prediction)


def _runs(path: Path) -> str | None:
    from ridgeline.calibrate.cases import read_cases

    return sane.amounts(read_cases(path), text=False)


def _points(path: Path) -> str | None:
    from ridgeline.calibrate.serving.cases import read_serving_cases
    from ridgeline.cli.validate import _is_serving

    _is_serving(path)
    return sane.amounts(read_serving_cases(path), text=False)


def _log(path: Path) -> str | None:
    from ridgeline.calibrate.share_scores import score_log

    return sane.printable(score_log(path))


def _shares(path: Path) -> str | None:
    from ridgeline.calibrate.link_tables import is_shares
    from ridgeline.calibrate.share_scores import score_shares

    is_shares(path)
    return sane.printable(score_shares(path))


def _trace(path: Path) -> str | None:
    from ridgeline.api.serving_request import serving_request

    asked = serving_request(
        "llama-3.2-1b", on="h100-sxm", chips=1, engine="vllm", tp=1, precision="bf16", trace=path
    )
    return sane.requests(asked)


def _result(path: Path) -> str | None:
    from ridgeline.api.training import explain

    return sane.prediction(explain(path).prediction)


def _training_setting(path: Path) -> str | None:
    from ridgeline.api.overrides import override
    from ridgeline.api.training import train
    from ridgeline.facts.plan import Plan

    scenario, fixed = override(result_seeds.scenario(), [_text(path)])
    assert isinstance(scenario.plan, Plan)
    changed = scenario.replace(plan=Plan(**(scenario.plan.to_dict() | fixed)))
    return sane.prediction(train(changed).prediction)


def _serving_setting(path: Path) -> str | None:
    from ridgeline.api.serving_request import serving_request

    asked = serving_request(
        "llama-3.2-1b", on="h100-sxm", chips=1, isl=512, osl=64, concurrency=8, engine="vllm", tp=1, precision="bf16",
        settings=[_text(path)],
    )  # fmt: skip
    return sane.amounts((asked.architecture, asked.chip, asked.cluster))


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "surrogatepass")


def _replay(folder: Path) -> str | None:
    from ridgeline.calibrate.columns import CaseError
    from ridgeline.calibrate.serving.replay import is_run, replay

    if not is_run(folder):
        raise CaseError(f"{folder.name}: holds no run")
    found = replay(folder)
    found.table()
    return sane.replayed(found)


def _scored(path: Path) -> str | None:
    from ridgeline.calibrate.kernel_scores import score_table

    return sane.printable(score_table(path))


def _kernel_tables(path: Path) -> str | None:
    from ridgeline.cli.calibrate import _tables

    _tables([path])
    return None


def _link_tables(path: Path) -> str | None:
    from ridgeline.cli.calibrate_links import _tables

    tables, shares = _tables([path])
    return sane.amounts((tables, shares), text=False)


def _mixed(path: Path) -> str | None:
    from ridgeline.calibrate.mixed_fit import read

    return sane.amounts(read(path), text=False)


def _words(path: Path) -> Wrong:
    home = Path.cwd()
    os.chdir(path.parent)  # what the command may write goes there
    try:
        return command(json.loads(path.read_bytes()))
    finally:
        os.chdir(home)


def _train(path: Path) -> list[str]:
    verb, _, *job = result_seeds.TRAIN.split()
    return [verb, str(path), *job]


def _serve(path: Path) -> list[str]:
    words = "serve llama-3.2-1b --on h100-sxm --chips 1 --engine vllm --tp 1 --pp 1 --dp 1 --precision bf16 --kv bf16"
    return [*words.split(), "--chunk", "2048", "--no-simulate", "--trace", str(path)]


def _verb(*words: str) -> Callable[[Path], list[str]]:
    return lambda path: [*words, str(path)]


def _with_set(base: str) -> Callable[[Path], list[str]]:
    return lambda path: [*base.split(), "--set", _text(path).replace("\0", "")]


def _catalog_readers() -> list[Reader]:
    from ridgeline.facts.catalog import KINDS

    return [
        Reader(
            f"catalog {kind}", functools.partial(seeds.entries, kind), functools.partial(_entry, kind=kind),
            _verb("catalog", "check", "--kind", kind),
        )
        for kind in KINDS
    ]  # fmt: skip


def _trace_readers() -> list[Reader]:
    kinds: dict[str, tuple[str, str]] = {
        "azure": (traffic_seeds.AZURE, "csv"), "burstgpt": (traffic_seeds.BURST, "csv"),
        "mooncake": (traffic_seeds.MOONCAKE, "jsonl"), "measured run": (traffic_seeds.RUN, "jsonl"),
        "own csv": (traffic_seeds.OWN, "csv"), "own jsonl": (traffic_seeds.OWN_LINES, "jsonl"),
    }  # fmt: skip
    return [
        Reader(f"trace {name}", functools.partial(traffic_seeds.traces, text, ending=ending), _trace, _serve)
        for name, (text, ending) in kinds.items()
    ]


@functools.cache
def readers() -> dict[str, Reader]:
    """All readers by name."""
    measured, results = measured_seeds, result_seeds
    listed: list[Reader] = [
        Reader("config.json", seeds.configs, _config, _train),
        *_catalog_readers(),
        Reader("own catalog", seeds.own_catalog, _own, share=0.3),
        Reader("training runs", measured.runs, _runs, _verb("validate", "--limit", "2")),
        Reader("serving points", measured.points, _points, _verb("validate", "--limit", "2")),
        Reader("nccl-tests log", measured.logs, _log, _verb("validate")),
        Reader("link shares", measured.shares, _shares, _verb("validate")),
        *_trace_readers(),
        Reader("traffic", traffic_seeds.traffic, _trace, _serve),
        Reader(
            "saved result", results.results, _result, _verb("explain"), refuses=("served.json", "served.html")
        ),
        Reader("train --set", results.training_settings, _training_setting, _with_set(result_seeds.TRAIN)),
        Reader("serve --set", results.serving_settings, _serving_setting, _with_set(result_seeds.SERVE)),
        Reader("replay", measured.replays, _replay, _verb("validate")),
        Reader("parquet of kernels", measured.kernel_tables, _scored, _verb("validate")),
        Reader("parquet of links", measured.link_tables, _scored, _verb("validate")),
        Reader("calibrate kernels", measured.kernel_tables, _kernel_tables),
        Reader("calibrate links", measured.link_tables, _link_tables, _verb("calibrate", "links")),
        Reader("calibrate mixed", measured.mixed, _mixed, _verb("calibrate", "mixed")),
        Reader("calibrate steps", measured.runs, _runs, _verb("calibrate", "steps")),
        Reader("words of train", results.train_words, _words, share=0.2),
        Reader("words of serve", results.serve_words, _words, share=0.1),
        Reader("words of others", results.other_words, _words, share=0.2, refuses=(results.ABSENT,)),
    ]
    return {reader.name: reader for reader in listed}
