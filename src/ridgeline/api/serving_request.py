"""ServingRequest: one question about serving: from words to a machine, a load, a target and what is fixed."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline import files
from ridgeline.api import arguments, overrides
from ridgeline.api.degrees import check_machine
from ridgeline.api.errors import InputError
from ridgeline.api.models import model as find_model
from ridgeline.api.request import Machine, machine_of, settings_of, whole
from ridgeline.api.serving_operation import operation, seconds
from ridgeline.explore.serving_plan import Load, Target
from ridgeline.explore.serving_space import ServingSpace, engines_of, is_moe, layouts, wrong
from ridgeline.facts import catalog
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.chip import Chip, Cluster
from ridgeline.facts.engine import MOST_CHUNK, MOST_SEQS, Engine
from ridgeline.facts.request_files import RequestFile, read_requests
from ridgeline.facts.requests import LONGEST_REQUEST, Requests
from ridgeline.facts.serving import ACCEPTANCE, DRAFT_ACCEPTANCE, Adapters, Layout, Precision
from ridgeline.facts.traffic import FASTEST, SLOWEST
from ridgeline.facts.traffic_files import ENDINGS, read_traffic
from ridgeline.sim.serving.fleet import Operation
from ridgeline.sim.serving.traffic import requests_of
from ridgeline.timing.rates import OPERANDS

OPERATION = (
    "router", "min_replicas", "scale_at", "scale_every", "cold_start", "fail", "on_failure", "timeout", "urgent",
    "kv_tier", "preemption", "prefix_cache",
)  # fmt: skip
DEGREES = ("tp", "pp", "ep", "dp", "cp")
ROOTS = ("model", "chip", "cluster", "engine")
CACHES = ("auto", "bf16", "fp16", "fp8", "nvfp4")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, which pads others up to these


@dataclass(frozen=True, slots=True)
class ServingRequest:
    """What is asked, checked. ``trace`` holds the requests of a file, whose means are in ``load``."""

    architecture: Architecture
    chip: Chip
    cluster: Cluster
    chips: int | None
    load: Load
    target: Target
    space: ServingSpace
    trace: RequestFile | None = None
    divided: bool | None = None
    operation: Operation = field(default_factory=Operation)
    notes: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    #: The same question with other settings; None where it was not asked in words.
    again: Callable[..., ServingRequest] | None = field(default=None, repr=False, compare=False)


def serving_request(
    model: str | Path | Architecture,
    *,
    on: str | Cluster | Machine,
    chips: int | str | None = None,
    isl: int | str | None = None,
    osl: int | str | None = None,
    rate: float | str | None = None,
    concurrency: int | str | None = None,
    trace: str | Path | RequestFile | None = None,
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    percentile: float | str = 95.0,
    engine: str | Engine | Sequence[str | Engine] | None = None,
    precision: str | None = None,
    experts: str | None = None,
    kv: str | None = None,
    chunk: int | str | None = None,
    max_seqs: int | str | None = None,
    disaggregated: bool | None = None,
    speculate: bool | Sequence[float] | str | None = None,
    settings: Iterable[str] = (),
    replicas: int | str | None = None,
    draft: str | Path | Architecture | None = None,
    adapters: int | str | None = None,
    adapter_rank: int | str | None = None,
    **degrees: Any,
) -> ServingRequest:
    """Build a request. Counts may be text such as ``4k``, times text such as ``50 ms``.

    Args:
        model: catalog name, path to a ``config.json``, its folder or an architecture file, or a value.
        on: cluster, or chip (its default cluster), or a `Machine`.
        chips: all chips; may be left out where a rate or a trace says how many are needed.
        isl, osl: mean tokens of prompts and answers. rate: requests a second. concurrency: requests under way.
        trace: a file of requests instead of these (`ridgeline.facts.request_files`), or one that describes traffic
            (`ridgeline.facts.traffic_files`).
        ttft, tpot, percentile: the latency that so many percent of requests must keep.
        engine: name of the catalog, or several; those of the chip's vendor when left out.
        precision, experts, kv: number formats of linear layers, routed experts and the cache.
        chunk, max_seqs: tokens of one step and requests of one attention rank.
        disaggregated: prefill and decode engines apart, or not; both are searched where no degree is given.
        speculate: the chance that each draft of the model's own prediction layers is accepted; drafts are searched
            where the model has such layers, unless this is False.
        settings: ``path=value`` changes of any field of model, chip, cluster or engine.
        replicas: of one pool; as many as the chips hold, or as a rate needs, when left out.
        draft: a smaller model of the same vocabulary that drafts instead, as ``model``.
        adapters, adapter_rank: low-rank adapters that all stay on the chips, and their rank [16].
        degrees: ``tp, pp, ep, dp, cp``; those left out are searched. Also what `serving_operation.operation` takes.

    Raises:
        ValueError: a name, a value or a combination is wrong; the message says which and the choices.
    """
    machine = machine_of(on, chips)
    num_chips = machine.chips
    file = None if trace is None else _trace(trace, isl, osl, rate, concurrency)
    load = _load(isl, osl, rate, concurrency) if file is None else _load_of(file)
    if num_chips is None and load.rate is None and replicas is None:
        raise InputError("chips: missing; how many chips serve? (or a rate that says how many are needed)")
    again = functools.partial(
        serving_request, find_model(model), on=machine, isl=isl, osl=osl, rate=rate, concurrency=concurrency,
        trace=file, ttft=ttft, tpot=tpot, percentile=percentile, engine=engine, precision=precision, experts=experts,
        kv=kv, chunk=chunk, max_seqs=max_seqs, disaggregated=disaggregated, speculate=speculate, replicas=replicas,
        draft=draft, adapters=adapters, adapter_rank=adapter_rank, **degrees,
    )  # fmt: skip
    disaggregated = None if disaggregated is None else arguments.switch("disaggregated", disaggregated)
    run = {name: degrees.pop(name) for name in OPERATION if name in degrees}
    changes = settings_of(settings)
    architecture, chip, network, engines = _changed(
        find_model(model), machine.chip, machine.cluster, _engines(engine, machine.chip), changes
    )
    check_machine(network, num_chips)
    fixed = _fixed(degrees, precision, experts, kv, chunk, max_seqs)
    if replicas is not None:
        fixed["replicas"] = whole("replicas", replicas)
        if disaggregated:
            raise InputError(
                f"replicas = {arguments.said(replicas)}: goes with one pool of engines; leave it out with disaggregated"
            )
    if draft is not None and (speculate is False or speculate == ""):
        raise InputError(f"draft = {_words(draft)}: has no effect without speculation; leave one of them out")
    smaller = None if draft is None else _draft(draft, architecture)
    space = ServingSpace(
        fixed=fixed,
        engines=engines,
        acceptance=_acceptance(speculate, architecture, smaller),
        draft=smaller,
        adapters=_adapters(adapters, adapter_rank),
    )
    _check_effect(fixed, architecture, file, run)
    _check_formats(fixed, chip)
    _check_layout(fixed, architecture, network, num_chips)
    divided = disaggregated
    if divided is None and any(name in fixed for name in (*DEGREES, "replicas")):
        divided = False  # who gives a layout means one kind of engine
    notes = (*(_notes(architecture, load, file)), *(file.notes if file else ()))
    target = Target(
        ttft_s=_time("ttft", ttft), tpot_s=_time("tpot", tpot), percentile=_percentile(percentile)
    )
    how = operation(replicas=fixed.get("replicas"), **run)
    return ServingRequest(
        architecture, chip, network, num_chips, load, target, space, file, divided, how, notes, changes, again
    )


def _load(isl: Any, osl: Any, rate: Any, concurrency: Any) -> Load:
    for name, value in (("isl", isl), ("osl", osl)):
        if value is None:
            raise InputError(f"{name}: missing; give isl and osl (mean tokens), or a trace")
    if rate is not None and concurrency is not None:
        raise InputError(
            f"rate = {arguments.said(rate)} and concurrency = {arguments.said(concurrency)}: give one; requests "
            "arrive by a rate, or users wait for answers"
        )
    users = None if concurrency is None else whole("concurrency", concurrency)
    lengths = {name: _length(name, value) for name, value in (("isl", isl), ("osl", osl))}
    return Load(**lengths, users=users, rate=None if rate is None else _rate(rate))


def _length(name: str, value: Any) -> float:
    return float(whole(name, value, LONGEST_REQUEST))


def _rate(value: Any) -> float:
    rate = arguments.number(value)
    if not SLOWEST <= rate <= FASTEST:
        raise InputError(
            f"rate = {arguments.said(value)}: expected requests a second from 1e-9 to 1e9, such as 12.5"
        )
    return rate


def _trace(path: Any, isl: Any, osl: Any, rate: Any, concurrency: Any) -> RequestFile:
    given = {"isl": isl, "osl": osl, "rate": rate, "concurrency": concurrency}
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"{name} = {arguments.said(value)}: a trace has its own lengths and arrivals; leave it out"
            )
    if isinstance(path, RequestFile):
        return path
    arguments.path("trace", path)
    file = _synthetic(path) if Path(path).suffix.lower() in ENDINGS else read_requests(path)
    if len(file.requests) < 2:
        raise InputError(f"{path}: holds {len(file.requests)} requests; at least 2 are needed")
    if float(file.requests.arrival_s[-1]) <= 0.0 and not file.requests.users:
        raise InputError(f"{path}: all requests arrive at once; use --concurrency for a closed loop")
    if not file.requests.users and not SLOWEST <= _mean_rate(file.requests) <= FASTEST:
        raise InputError(
            f"{files.shown_path(Path(path))}: {_mean_rate(file.requests):.3g} requests a second arrive; expected "
            f"{SLOWEST:g} to {FASTEST:g}"
        )
    return file


def _mean_rate(requests: Requests) -> float:
    """Requests a second of a trace."""
    return (len(requests) - 1) / float(requests.arrival_s[-1] - requests.arrival_s[0])


def _synthetic(path: str | Path) -> RequestFile:
    """The requests of a traffic file."""
    traffic = read_traffic(path)
    try:
        requests = requests_of(traffic)
    except ValueError as error:
        raise InputError(f"{files.shown_path(path)}: {error}") from None
    return RequestFile(str(path), "synthetic", requests, (f"traffic: {traffic}",))


def _load_of(file: RequestFile) -> Load:
    """Means of a trace."""
    requests = file.requests
    return Load(
        isl=float(np.mean(requests.input_tokens)),
        osl=max(float(np.mean(requests.output_tokens)), 1.0),
        longest=float(np.max(requests.input_tokens)),
        users=requests.users or None,
        rate=None if requests.users else _mean_rate(requests),
    )


def _time(name: str, value: Any) -> float | None:
    """Seconds, from a number or from text such as ``50 ms``."""
    return None if value is None else seconds(name, value)


def _percentile(value: Any) -> float:
    share = arguments.number(value.lower().removeprefix("p") if isinstance(value, str) else value)
    if not 0.0 < share < 100.0:
        raise InputError(
            f"percentile = {arguments.said(value)}: expected a number between 0 and 100, such as 95"
        )
    return share


def _engines(given: Any, chip: Chip) -> tuple[Engine | str, ...]:
    """Engines by name; a framework's name stands for its newest that runs on the chip."""
    if given is None:
        if not engines_of(chip):
            raise InputError(f"on = {chip.name}: no engine of the catalog runs on it")
        return ()
    several = [given] if isinstance(given, str | Engine) else given
    known = "the name of an engine, an Engine, or several"
    if not isinstance(several, Iterable) or isinstance(several, bytes) or not (several := list(several)):
        raise InputError(f"engine = {files.shown(given)}: expected {known}")
    for one in several:
        arguments.named("engine", one, Engine, known)
    return tuple(_engine(one, chip) for one in several)


def _engine(given: str | Engine, chip: Chip) -> Engine:
    fitting: dict[str, Engine] = {one.framework: one for one in engines_of(chip)}
    known = [catalog.engine(name) for name in catalog.readable("engines")]
    same = [one for one in known if one.framework == given]
    if isinstance(given, Engine):
        found = given
    elif same:
        found = fitting.get(str(given)) or max(same, key=lambda one: one.since)
    else:
        found = catalog.engine(given)
    if not found.runs_on(chip):
        own = {vendor: month for vendor, month in found.supports.items() if vendor == chip.vendor}
        since = (own or found.supports).items()
        runs = " or ".join(f"{vendor} chips launched since {month}" for vendor, month in since)
        choices = [one.name for one in fitting.values()]
        raise InputError(
            f"engine = {found.name}: runs on {runs or f'{found.vendor} chips'}, not on {chip.name} "
            f"({chip.vendor}, {chip.launch}); "
            + (f"choose {overrides.one_of(choices)}" if choices else "no engine of the catalog does")
        )
    return found


def _words(given: object) -> str:
    """What was given, as a message repeats it."""
    return files.one_line(str(given.name if isinstance(given, Architecture) else given), files.SHOWN)


def _draft(given: str | Path | Architecture, architecture: Architecture) -> Architecture:
    arguments.named(
        "draft", given, (Path, Architecture), "a name of the catalog, the path of a model, or an Architecture"
    )
    found = find_model(given)
    if found.vocab != architecture.vocab:
        raise InputError(
            f"draft = {found.name}: its vocabulary has {found.vocab:,} entries, that of {architecture.name} "
            f"{architecture.vocab:,}; a draft model shares the vocabulary"
        )
    return found


def _acceptance(speculate: Any, architecture: Architecture, draft: Architecture | None) -> tuple[float, ...]:
    if speculate is False or speculate == "":
        return ()
    if draft is not None and (speculate is None or speculate is True):
        return DRAFT_ACCEPTANCE
    if not architecture.mtp and draft is None:
        if speculate is None:
            return ()
        raise InputError(
            f"speculate: {architecture.name} ships no prediction layers (mtp) to draft with; leave it out, or name a "
            "draft model"
        )
    if speculate is True or speculate is None:
        return ACCEPTANCE
    words = speculate.split(",") if isinstance(speculate, str) else speculate
    several = list(words) if isinstance(words, Iterable) and not isinstance(words, bytes) else []
    chances = tuple(arguments.number(word) for word in several)
    if not chances or not all(0.0 < chance <= 1.0 for chance in chances):
        raise InputError(
            f"speculate = {arguments.said(speculate)}: expected chances of each draft, such as 0.85,0.7"
        )
    return chances


def _adapters(count: Any, rank: Any) -> Adapters:
    if count is None:
        if rank is not None:
            raise InputError(f"adapter_rank = {arguments.said(rank)}: goes with adapters; say how many")
        return Adapters()
    found = Adapters() if rank is None else Adapters(rank=whole("adapter_rank", rank))
    if found.rank not in RANKS:
        raise InputError(f"adapter_rank = {found.rank}: engines take {overrides.one_of(RANKS)}")
    return replace(found, count=whole("adapters", count))


def _fixed(degrees: dict[str, Any], *formats: Any) -> dict[str, Any]:
    """What the user fixed, by the names of `ServingSpace.fixed`."""
    unknown = [name for name in degrees if name not in DEGREES]
    if unknown:
        close = difflib.get_close_matches(unknown[0], DEGREES, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise InputError(f"unknown degree '{unknown[0]}'; {hint}choices: {' '.join(DEGREES)}")
    fixed: dict[str, Any] = {n: whole(n, v) for n, v in degrees.items() if v is not None}
    names = ("precision", "experts", "kv", "chunk", "max_seqs")
    for name, value in zip(names, formats, strict=True):
        if value is None:
            continue
        most = {"chunk": MOST_CHUNK, "max_seqs": MOST_SEQS}.get(name)
        if most is not None:
            fixed[name] = whole(name, value, most)
        elif (form := arguments.text(name, value, "the name of a number format")) != "auto" or name != "kv":
            fixed[name] = form
    return fixed


def _check_effect(
    fixed: dict[str, Any], architecture: Architecture, file: RequestFile | None, run: dict[str, Any]
) -> None:
    """Raise InputError for what this model and these requests take the effect of."""
    if "experts" in fixed and not is_moe(architecture):
        raise InputError(f"experts = {fixed['experts']}: has no effect: {architecture.name} has no experts")
    if run.get("urgent") is not None and file is not None and file.requests.priority is not None:
        raise InputError(f"urgent = {run['urgent']}: has no effect: the trace has priorities of its own")
    shares = file is not None and file.requests.block_hashes is not None
    if run.get("kv_tier") and not shares and run.get("preemption") != "swap":
        raise InputError(
            "kv_tier: has no effect: no request finds text of an earlier one again; give a trace whose prompts share "
            "text, or preemption = swap"
        )


def _check_formats(fixed: dict[str, Any], chip: Chip) -> None:
    for name in ("precision", "experts"):
        if name not in fixed:
            continue
        form = catalog.number_format(fixed[name])
        if form.matrix_as not in chip.matrix:
            known = [each for each in catalog.readable("formats") if _multiplies(each, chip)]
            raise InputError(
                f"{name} = {form.name}: {chip.name} does not multiply {form.matrix_as}; "
                f"choose {overrides.one_of(known)}"
            )
    if fixed.get("kv", "auto") not in CACHES:
        raise InputError(f"kv = {fixed['kv']} is unknown; choose {overrides.one_of(CACHES)}")


def _multiplies(name: str, chip: Chip) -> bool:
    form = catalog.number_format(name)
    served = name in OPERANDS or name.endswith("-wo")
    return served and form.matrix_as in chip.matrix and name not in ("fp64", "fp32", "tf32")


def _check_layout(
    fixed: dict[str, Any], architecture: Architecture, network: Cluster, chips: int | None
) -> None:
    """Raise InputError if the given degrees cannot be right, whatever the open ones are."""
    given = {name: fixed[name] for name in ("tp", "pp", "dp", "cp") if name in fixed}
    product = math.prod(given.values())
    words = " x ".join(f"{name} {value}" for name, value in given.items())
    domain = network.tiers[0].size
    if domain is not None and fixed.get("tp", 1) > domain:
        choices = overrides.one_of([2**i for i in range(12) if 2**i <= domain])
        raise InputError(f"tp = {fixed['tp']} spans scale-up domains of {domain} chips; choose {choices}")
    precision = Precision(linear=fixed.get("precision", "bf16"), experts=fixed.get("experts"))
    room = max(chips or 0, product, 64)
    if any(name in fixed for name in DEGREES) and not layouts(architecture, precision, network, room, fixed):
        alone = wrong(architecture, precision, Layout(**{name: fixed.get(name, 1) for name in DEGREES}))
        raise InputError(
            (alone or f"no layout of {architecture.name} has {words}") + _choices(fixed, architecture)
        )
    if chips is not None and product > chips:
        raise InputError(f"{words} = {product} chips for one replica, but chips = {chips}")
    replicas = fixed.get("replicas", 1)
    if chips is not None and product * replicas > chips:
        raise InputError(
            f"replicas = {replicas}: {replicas} x {product} = {replicas * product} chips, but chips = {chips}; "
            f"choose at most {chips // product}"
        )


def _choices(fixed: dict[str, Any], architecture: Architecture) -> str:
    """Degrees that would divide the model, where tensor parallelism does not."""
    tp = fixed.get("tp")
    if tp is None:
        return ""
    good = [n for n in range(1, 65) if not wrong(architecture, Precision(), Layout(tp=n))]
    return "" if tp in good else f"; choose {overrides.one_of(good[:10])}"


def _changed(
    architecture: Architecture,
    chip: Chip,
    network: Cluster,
    engines: tuple[Engine | str, ...],
    settings: Iterable[str],
) -> tuple[Architecture, Chip, Cluster, tuple[Engine | str, ...]]:
    """Every ``path=value`` applied in order; ``engine`` changes all engines that are searched."""
    parts: dict[str, Any] = {"model": architecture, "chip": chip, "cluster": network}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise InputError(
                f"--set {files.one_line(setting, 60)}: write it as path=value, such as "
                "chip.memory.bandwidth='4 TB/s'"
            )
        root, *steps = path.strip().split(".")
        path = files.one_line(path, files.SHOWN)  # as messages name it
        if root not in ROOTS:
            close = difflib.get_close_matches(root, ROOTS, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise InputError(
                f"--set {path}: unknown field {files.shown(root)}; {hint}choices: {' '.join(ROOTS)}"
            )
        value = overrides.read_value(setting, text)
        if root != "engine":
            parts[root] = overrides.changed(parts[root], path, root, steps, value)
            continue
        if not engines:
            raise InputError(f"--set {path}: name the engine with --engine first")
        engines = tuple(overrides.changed(_value(one), path, root, steps, value) for one in engines)
    return parts["model"], parts["chip"], parts["cluster"], engines


def _value(one: Engine | str) -> Engine:
    return one if isinstance(one, Engine) else catalog.engine(one)


def _notes(architecture: Architecture, load: Load, file: RequestFile | None) -> Iterable[str]:
    longest = load.isl + load.osl
    if file is not None:
        longest = float(np.max(file.requests.input_tokens + file.requests.output_tokens))
        yield (
            f"the plans are searched at the means of the trace: {load.isl:,.0f} tokens in, {load.osl:,.0f} out, "
            + (f"{load.users:,} requests under way" if load.users else f"{load.rate:.3g} requests/s")
        )
    if architecture.context is not None and longest > architecture.context:
        yield (
            f"requests of {longest:,.0f} tokens are longer than the {architecture.context:,} that the model "
            "was made for"
        )
