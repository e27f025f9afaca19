"""``ridgeline train``: plan a training run, or predict one whose plan is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline import files
from ridgeline.cli import outputs, plan_options, shared

if TYPE_CHECKING:
    from ridgeline.api.request import Request
    from ridgeline.api.results import PlanResult
    from ridgeline.facts.stack import Stack

OUTPUTS = (".html", "trace.json", ".json")


def train(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="catalog name, config.json, its folder, or an architecture file"
        ),
    ],
    on: Annotated[str, typer.Option(metavar="NAME", help="cluster, or chip on its default cluster")],
    chips: Annotated[str, typer.Option(metavar="N", help="number of chips")],
    batch: Annotated[str, typer.Option(metavar="N", help="sequences per step")],
    seq: Annotated[str, typer.Option(metavar="N", help="tokens per sequence")],
    tokens: Annotated[
        str | None, typer.Option(metavar="N", help="token budget, such as 15.6T: adds days and energy")
    ] = None,
    kind: Annotated[str, typer.Option(help="pretrain, sft or lora")] = "pretrain",
    stack: Annotated[
        str | None, typer.Option(metavar="NAME", help="training stack [newest of the chip's vendor]")
    ] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="number recipe [bf16]")] = None,
    tp: plan_options.Tp = None,
    cp: plan_options.Cp = None,
    pp: plan_options.Pp = None,
    vpp: plan_options.Vpp = None,
    ep: plan_options.Ep = None,
    etp: plan_options.Etp = None,
    dp: plan_options.Dp = None,
    micro_batch: plan_options.MicroBatch = None,
    zero: plan_options.Zero = None,
    replicas: plan_options.Replicas = None,
    recompute: plan_options.Recompute = None,
    recompute_layers: plan_options.RecomputeLayers = None,
    schedule: plan_options.Schedule = None,
    sequence_parallel: plan_options.SequenceParallel = None,
    fsdp_reshard: plan_options.FsdpReshard = None,
    offload_activations: plan_options.OffloadActivations = None,
    offload_optimizer: plan_options.OffloadOptimizer = None,
    overlap_tp: plan_options.OverlapTp = None,
    overlap_grad: plan_options.OverlapGrad = None,
    overlap_param: plan_options.OverlapParam = None,
    overlap_p2p: plan_options.OverlapP2p = None,
    overlap_ep: plan_options.OverlapEp = None,
    allow_cross_domain_tp: Annotated[
        bool, typer.Option("--allow-cross-domain-tp", help="tp may span scale-up domains")
    ] = False,
    every: Annotated[
        bool, typer.Option("--every", help="search every schedule and ZeRO stage, also rarely shipped ones")
    ] = False,
    settings: shared.Set = None,
    top: Annotated[int, typer.Option(help="plans to show")] = 5,
    emit: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="launch file for megatron, torchtitan or nemo, on stdout"),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="write report.html, result.json, trace.json, or with --emit the launch file; repeatable",
        ),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Plan a training run: without degrees all plans are searched; degrees that are given are kept."""
    launchers = _launchers(emit)
    chosen = outputs.named(out, (*OUTPUTS, *launchers), inputs=[model])
    result = found(ctx.params, command=shared.said(ctx.obj))
    shared.took(result.seconds)
    launch = result.best[0].emit(emit) if emit else ""
    writers: dict[str, outputs.Writer] = {
        ".html": result.write_report,
        "trace.json": lambda path: result.best[0].write_trace(path),
        ".json": outputs.text_of(lambda: shared.json_text(result.to_dict())),
        **dict.fromkeys(launchers, outputs.text_of(lambda: launch)),
    }
    unsaved = outputs.save(chosen, writers)
    if as_json:
        shared.echo_json(result.to_dict() | ({"launch": launch} if emit else {}))
    else:
        # A launch file alone on stdout can be piped; people still read the rest on stderr.
        if launch and not any(ending in launchers for _, ending in chosen):
            typer.echo(launch, nl=not launch.endswith("\n"))
        shared.say(f"{result.table(shared.width())}\n\n{_files(chosen)}", err=bool(launch))
    outputs.complain(unsaved)


def found(options: dict[str, Any], command: str = "") -> PlanResult:
    """Search what the options of this verb ask for."""
    from ridgeline.api.training import answer

    counter = shared.Counter("plans timed")
    try:
        return answer(asked(options), top=options["top"], progress=counter.add, command=command)
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; giving a degree, such as --tp 8, leaves fewer") from None
    finally:
        counter.wipe()


def asked(options: dict[str, Any]) -> Request:
    """The request in the options of this verb."""
    from ridgeline.api.request import request

    names = ("on", "chips", "batch", "seq", "tokens", "kind", "recipe")
    return request(
        options["model"],
        **{name: options[name] for name in names},
        stack=options["stack"] or _stack(options["emit"]),
        settings=options["settings"] or (),
        cross_domain_tp=options["allow_cross_domain_tp"],
        every=options["every"],
        **{name: options[name] for name in plan_options.NAMES},
    )


def parse(words: list[str]) -> dict[str, Any]:
    """Options of this verb as another verb takes them over."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(train)
    return dict(typer.main.get_command(app).make_context("ridgeline train", words).params)


def _launchers(emit: str | None) -> tuple[str, ...]:
    """The ending of a launch file, where one is asked for; Mistake where no framework has that name."""
    if emit is None:
        return ()
    from ridgeline.emit import SUFFIX

    if emit not in SUFFIX:
        raise shared.Mistake(f"--emit {emit}: unknown framework; choose {', '.join(SUFFIX)}")
    return (SUFFIX[emit],)


def _stack(emit: str | None) -> Stack | None:
    """A launch file for torchtitan is of a plan for torchtitan; the others run on the default stack."""
    from ridgeline.calibrate.software import stack_for

    return stack_for(emit, None, "") if emit == "torchtitan" else None


def _files(chosen: list[outputs.Output]) -> str:
    nouns = {".html": "Report", ".json": "Result", "trace.json": "Trace"}
    parts = [f"{nouns.get(ending, 'Launch file')}: {files.shown_path(path)}" for path, ending in chosen]
    results = [path for path, ending in chosen if ending in (".json", ".html")]
    if not chosen:
        parts.append("Report: --out report.html")
    parts.append("Emit: --emit megatron | torchtitan | nemo")
    result = outputs.word(results[0]) if results else ""
    parts.append(f"Explain: ridgeline explain {result}" if result else "Explain: --out result.json")
    return "     ".join(parts)
