"""``ridgeline explain``: why a step takes that long, operator by operator, and what to change first."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline import files
from ridgeline.cli import outputs, shared, train

if TYPE_CHECKING:
    from ridgeline.api.results import TrainingResult

OUTPUTS = (".html", "trace.json", ".json")
#: A model takes every option of ``train``; those are read there.
CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def explain(
    ctx: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="RESULT|MODEL",
            help="result.json or report.html of `train`; or a model with train's options",
        ),
    ],
    settings: shared.Set = None,
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write the step as a trace for Perfetto")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="write report.html, result.json or trace.json; repeatable"),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Show the ladder, the roofline of each operator, communication, memory and what to change first."""
    chosen = outputs.named(out, OUTPUTS, inputs=[what, *ctx.args], trace=trace)
    result = _result(what, list(ctx.args), settings or [], shared.said(ctx.obj))
    writers: dict[str, outputs.Writer] = {
        ".html": result.write_report,
        "trace.json": result.write_trace,
        ".json": outputs.text_of(lambda: shared.json_text(result.to_dict())),
    }
    unsaved = outputs.save(chosen, writers)
    if as_json:
        shared.echo_json(result.to_dict())
    else:
        shared.say(result.explanation())
        for number, (path, _) in enumerate(chosen):
            hint = " (open it in https://ui.perfetto.dev)" if trace and number == 0 else ""
            shared.say(f"\n{'Trace' if hint else 'Written'}: {files.shown_path(path)}{hint}")
    outputs.complain(unsaved)


def _result(what: str, extra: list[str], settings: list[str], command: str) -> TrainingResult:
    from ridgeline.api import training

    if what.startswith("-"):
        raise shared.Mistake(f"name the result or the model first, before {what}")
    if not _is_result(what, extra):
        if not extra:
            if (os.path.lexists(what) or os.sep in what) and not os.path.isdir(what):
                files.read_bytes(Path(what))  # which says what is wrong with it
            raise shared.Mistake(
                f"{files.shown(what)} is not a result file; a model needs --on, --chips, --batch and --seq"
            )
        words = [what, *extra, *(part for setting in settings for part in ("--set", setting))]
        return train.found(train.parse(words) | {"top": 1}, command).best[0]
    if extra:
        raise shared.Mistake(f"{' '.join(extra)}: a result file takes --set PATH=VALUE instead")
    return training.explain(what, settings)


def _is_result(what: str, extra: list[str]) -> bool:
    """A report is one by its ending; a JSON file is a model's config only where a machine is named."""
    ending = Path(what).suffix.lower()
    return ending in (".html", ".htm") or (
        ending == ".json" and "--on" not in {w.partition("=")[0] for w in extra}
    )
