"""``ridgeline serve``: plan a deployment of a model, or predict one whose layout is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgeline import files
from ridgeline.cli import outputs, shared

if TYPE_CHECKING:
    from ridgeline.api.serving_result import ServingResult

OUTPUTS = (".html", ".json")
NAMES = (
    "on", "chips", "isl", "osl", "rate", "concurrency", "trace", "ttft", "tpot", "percentile",
    "precision", "experts", "kv", "chunk", "max_seqs", "disaggregated", "tp", "pp", "ep", "dp", "cp",
    "replicas", "router", "min_replicas", "scale_at", "scale_every", "cold_start", "fail", "on_failure", "timeout",
    "urgent", "kv_tier", "preemption", "prefix_cache", "draft", "adapters", "adapter_rank",
)  # fmt: skip


def serve(
    ctx: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="catalog name, config.json, its folder, or an architecture file"
        ),
    ],
    on: Annotated[str, typer.Option(metavar="NAME", help="cluster, or chip on its default cluster")],
    chips: Annotated[
        str | None,
        typer.Option(metavar="N", help="number of chips; with --rate or --trace: as many as needed"),
    ] = None,
    isl: Annotated[str | None, typer.Option(metavar="N", help="tokens of a prompt, mean")] = None,
    osl: Annotated[str | None, typer.Option(metavar="N", help="tokens of an answer, mean")] = None,
    rate: Annotated[str | None, typer.Option(metavar="N", help="requests a second, Poisson arrivals")] = None,
    concurrency: Annotated[
        str | None, typer.Option(metavar="N", help="requests under way at all times, over all replicas")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="requests of a trace (Azure, Mooncake, BurstGPT, own CSV or JSONL), or traffic in YAML",
        ),
    ] = None,
    ttft: Annotated[
        str | None, typer.Option(metavar="TIME", help="limit of the time to the first token, such as '2 s'")
    ] = None,
    tpot: Annotated[
        str | None, typer.Option(metavar="TIME", help="limit of the time between tokens, such as '50 ms'")
    ] = None,
    percentile: Annotated[str, typer.Option(metavar="P", help="share of requests within the limits")] = "95",
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="vllm, sglang, trtllm or an engine of the catalog [all are searched]"
        ),
    ] = None,
    tp: Annotated[int | None, typer.Option(help="tensor parallel; degrees left out are searched")] = None,
    pp: Annotated[int | None, typer.Option(help="pipeline parallel")] = None,
    ep: Annotated[int | None, typer.Option(help="expert parallel")] = None,
    dp: Annotated[int | None, typer.Option(help="attention data parallel inside a replica")] = None,
    cp: Annotated[
        int | None,
        typer.Option(
            help="context parallel prefill [searched for pools of prefill engines and long prompts]"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="format of linear layers [searched]")
    ] = None,
    experts: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="format of routed experts [as linear layers]")
    ] = None,
    kv: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="format of the KV cache, or auto [searched]")
    ] = None,
    chunk: Annotated[
        str | None, typer.Option(metavar="N", help="tokens of one step and attention rank [searched]")
    ] = None,
    max_seqs: Annotated[
        str | None, typer.Option(metavar="N", help="requests of one attention rank [by the load]")
    ] = None,
    disaggregated: Annotated[
        bool | None,
        typer.Option(
            "--disaggregated/--aggregated",
            help="prefill and decode engines apart, or not [both, or not where a degree is given]",
        ),
    ] = None,
    speculate: Annotated[
        bool | None,
        typer.Option(
            "--speculate/--no-speculate",
            help="search drafts by the model's own prediction layers [where it has such]",
        ),
    ] = None,
    acceptance: Annotated[
        str | None,
        typer.Option(
            metavar="P,P,..", help="chance that each draft is accepted [0.85,0.7,0.6; 0.7 each of --draft]"
        ),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="smaller model of the same vocabulary that drafts, like MODEL"),
    ] = None,
    adapters: Annotated[
        str | None, typer.Option(metavar="N", help="low-rank adapters that requests choose among [none]")
    ] = None,
    adapter_rank: Annotated[str | None, typer.Option(metavar="N", help="rank of the adapters [16]")] = None,
    simulate: Annotated[
        bool | None,
        typer.Option(help="check plans in the event simulation [where a target, rate or trace is given]"),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(metavar="N", help="engines of one pool [as many as the chips hold or a rate needs]"),
    ] = None,
    router: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="round-robin, least-loaded, prefix or session [least-loaded]"),
    ] = None,
    min_replicas: Annotated[
        str | None,
        typer.Option(metavar="N", help="replicas always up; up to --replicas follow the load [all are up]"),
    ] = None,
    scale_at: Annotated[
        str | None, typer.Option(metavar="N", help="requests on a replica that call for another [32]")
    ] = None,
    scale_every: Annotated[
        str | None, typer.Option(metavar="TIME", help="between two decisions to scale [10 s]")
    ] = None,
    cold_start: Annotated[
        str | None, typer.Option(metavar="TIME", help="until a started replica serves [60 s]")
    ] = None,
    fail: Annotated[
        list[str] | None,
        typer.Option(metavar="AT:DOWN[:REPLICA]", help="a failure, such as 60s:120s:0; repeatable"),
    ] = None,
    on_failure: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="retry or lose the requests of a failed replica [retry]"),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="a request without a token by then is dropped [never]")
    ] = None,
    urgent: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="share of requests that go first; a trace may have its own"),
    ] = None,
    kv_tier: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:SIZE:BANDWIDTH[:LATENCY]",
            help="memory of an attention rank below HBM for KV cache, such as host:200GB:50GB/s; repeatable",
        ),
    ] = None,
    preemption: Annotated[
        str | None, typer.Option(metavar="NAME", help="recompute, or swap to the first --kv-tier [recompute]")
    ] = None,
    prefix_cache: Annotated[
        bool | None, typer.Option(help="find blocks of earlier prompts again [yes, where prompts share text]")
    ] = None,
    settings: shared.Set = None,
    top: Annotated[int, typer.Option(help="plans to show")] = 5,
    emit: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="launch file for vllm, sglang, trtllm or kubernetes, on stdout"),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="write report.html, result.json, or with --emit the launch file; repeatable",
        ),
    ] = None,
    as_json: shared.Json = False,
) -> None:
    """Plan a deployment: without degrees all plans are searched; what is given is kept."""
    launchers = _launchers(emit)
    options = dict(ctx.params)
    if emit is not None and engine is None and emit != "kubernetes":
        options["engine"] = emit  # a launch file for one framework is of a plan for it
    chosen = outputs.named(out, (*OUTPUTS, *launchers), inputs=[model, trace, draft])
    result = found(options, shared.said(ctx.obj))
    shared.took(result.seconds)
    launch = result.emit(emit) if emit else ""
    writers: dict[str, outputs.Writer] = {
        ".html": result.write_report,
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
        shared.say(f"{result.table(top)}\n\n{_files(chosen)}", err=bool(launch))
    outputs.complain(unsaved)


def found(options: dict[str, Any], command: str = "") -> ServingResult:
    """Search what the options of this verb ask for."""
    from ridgeline.api.serving import serve as plan

    if options["top"] < 1:
        raise shared.Mistake(f"--top {options['top']}: expected 1 or more")
    if options["acceptance"] is not None and options["speculate"] is False:
        raise shared.Mistake(f"--acceptance {options['acceptance']} and --no-speculate: give one")
    counter = shared.Counter("plans and simulations")
    try:
        return plan(
            options["model"],
            **{name: options[name] for name in NAMES},
            engine=options["engine"],
            speculate=options["speculate"] if options["acceptance"] is None else options["acceptance"],
            simulate=options["simulate"],
            settings=options["settings"] or (),
            progress=counter.add,
            command=command,
        )
    except KeyboardInterrupt:
        raise shared.Interrupted(f"{counter}; --engine or a degree, such as --tp 8, leaves fewer") from None
    finally:
        counter.wipe()


def _launchers(emit: str | None) -> tuple[str, ...]:
    """Endings of a launch file, where one is asked for; Mistake where no framework has that name."""
    if emit is None:
        return ()
    from ridgeline.emit.serving import SERVING_SUFFIX

    if emit not in SERVING_SUFFIX:
        raise shared.Mistake(f"--emit {emit}: unknown framework; choose {', '.join(SERVING_SUFFIX)}")
    ending = SERVING_SUFFIX[emit]
    return (ending, ".yml") if ending == ".yaml" else (ending,)


def _files(chosen: list[outputs.Output]) -> str:
    nouns = {".html": "Report", ".json": "Result"}
    parts = [f"{nouns.get(ending, 'Launch file')}: {files.shown_path(path)}" for path, ending in chosen]
    if not chosen:
        parts.append("Report: --out report.html")
    parts.append("Emit: --emit vllm | sglang | trtllm | kubernetes")
    return "     ".join(parts)
