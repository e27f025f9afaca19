"""The accuracy page: everything a scoreboard says, as Markdown. `docs/gen_accuracy.py` writes it.

Every number on the page comes from the scoreboard, from the catalog, or from the reviewed table of what other
tools state about themselves.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline import units
from ridgeline.calibrate.cases import Case
from ridgeline.calibrate.checks import LAW_RESIDUAL
from ridgeline.calibrate.published import PublishedRun
from ridgeline.calibrate.reasons import reason
from ridgeline.calibrate.scoreboard import Part, Row, Scoreboard
from ridgeline.calibrate.scores import by
from ridgeline.calibrate.whole_step import CHIP_KNOBS, LEAST_ROWS, STACK_KNOBS, Knob
from ridgeline.facts import catalog
from ridgeline.facts.kernel_calibration import Provenance
from ridgeline.facts.step_calibration import IN_SITU_LIMITS

SHARES = {"fit": "fitted on", "test-config": "unseen configurations", "test-family": "unseen families"}
TESTS = ("test-family", "test-config")
WORST = 15


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What another tool reaches on a source that is also among our rows."""

    source: str  # how the source's name begins
    tool: str
    error: float  # mean absolute relative error of the step time
    scope: str


_MULTI = "VIA-Research/vTrain ground truth multi-node"
_SINGLE = "VIA-Research/vTrain ground truth single-node"
_PROFILED = "stated in its paper (arXiv:2312.12391), with kernels profiled on the machine itself"

#: Reviewed by hand, with where each figure comes from.
NEIGHBOURS = (
    Neighbour(_MULTI, "vTrain", 0.1473, _PROFILED),
    Neighbour(_MULTI, "Calculon", 0.153, "running it on the 109 published points"),
    Neighbour(_MULTI, "llm-analysis", 0.268, "running it on the 109 published points"),
    Neighbour(_SINGLE, "vTrain", 0.0837, _PROFILED),
    Neighbour(_SINGLE, "Calculon", 0.389, "running it on the 1,440 published points"),
    Neighbour(_SINGLE, "llm-analysis", 0.568, "running it on the 1,440 published points"),
    Neighbour(
        "MooreThreads/SimuMax B200",
        "SimuMax",
        0.0562,
        "the 43 cases in its repository, with efficiencies measured at their exact shapes on that machine",
    ),
    Neighbour(
        "Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models, arXiv:2205.05198, table",
        "Calculon",
        0.0365,
        "stated in its paper, on these 8 runs",
    ),
)


@dataclass(frozen=True, slots=True)
class Stamp:
    """When and from what the page was made."""

    date: str
    command: str
    figure: str  # path of the picture, relative to the page


def page(board: Scoreboard, held: Sequence[tuple[PublishedRun, Row]], stamp: Stamp) -> str:
    """The page as Markdown.

    Args:
        board: all measured runs.
        held: the published runs of the catalog with their predictions.
        stamp: date, command and picture.
    """
    parts = [
        _opening(board, stamp),
        _fitted_on_what(board),
        _shares(board),
        _slices(board),
        _worst(board),
        _memory(board),
        _laws(board),
        _rankings(board),
        _neighbours([*board.headline, *(row for _, row in held)]),
        _numbers(),
        _published(held),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(board: Scoreboard, stamp: Stamp) -> str:
    unseen = [row for row in board.headline if row.case.split == "test-family"]
    part = board.part(unseen or None)
    failures = board.failures()
    by_kind = [
        f"{kind} {_p(board.part(rows).model.median_abs_err)}"
        for kind, rows in by(unseen, [_kind(row) for row in unseen]).items()
    ]
    kinds = f" By kind: {', '.join(by_kind)}." if len(by_kind) > 1 else ""
    sources = len({row.case.source for row in board.rows})
    predicted = f"{len(board.rows) - failures.total()} predicted"
    if failures:
        reasons = "; ".join(f"{why} ({count})" for why, count in failures.most_common())
        predicted += f", {failures.total()} not: {reasons}"
    rough = f". {len(board.rough)} rough rows (quality C) are scored apart." if board.rough else "."
    return f"""# Accuracy

On {part.model.covered} measured training runs of families (a model from one source) that nothing was fitted to, the
median error of the step time is **{_p(part.model.median_abs_err)}**, {_p(part.model.macro_abs_err)} if every family
counts once; nine in ten are within {_p(part.model.p90_abs_err)}. A constant MFU per chip and format has
{_p(part.constant_mfu.median_abs_err)} on the same runs, the three nearest known runs
{_p(part.neighbour.median_abs_err)}.{kinds}

![Predicted against measured step time, and the share of rows within an error]({stamp.figure})

This page is written by `{stamp.command}`, not by hand: {stamp.date}, catalog `{catalog.digest()}`, Ridgeline
{importlib.metadata.version("ridgeline")}. The case file joins published runs of {sources} sources. It is not part
of the repository; the sources are named below, and the [guide](guides/validate.md) says how to score your own runs. An
error is predicted over measured step time, less 1: positive means predicted too slow.

{len(board.rows)} rows: {predicted}{rough}"""


def _fitted_on_what(board: Scoreboard) -> str:
    counts = {share: sum(row.case.split == share for row in board.headline) for share in SHARES}
    steps, stacks = _names(CHIP_KNOBS), _names(STACK_KNOBS)
    rows = [
        ["rates of kernels", "tables of timed kernels", "no training run"],
        [
            "rates of collectives",
            "timed collectives of 2 to 8 chips; published curves beyond",
            "no training run",
        ],
        [f"{steps} of a chip", "whole steps", f"fit share alone, {counts['fit']} rows"],
        [f"{stacks} of a software stack", "whole steps", "the same rows"],
        ["everything else", "data sheets, papers, source code of the frameworks", "no training run"],
    ]
    return f"""## What is fitted, and on what

{_table(["number", "from", "share of the case file"], rows)}

The case file was divided once, before any fit. *Unseen configurations* are other configurations of families (one model
from one source) in the fit share; *unseen families* are whole families that no number was fitted to. A chip or stack
with fewer than {LEAST_ROWS} rows keeps the numbers of its relative. Nothing fitted names a model, a size or a run. The
scores of the test shares were looked at while the physics was written, so they test the numbers, not a blind model."""


def _shares(board: Scoreboard) -> str:
    headers = [
        "share", "rows", "median", "macro", "P90", "bias", "Spearman", "in 80 % range", "width of range",
        "constant MFU: median", "P90", "nearest runs: median", "P90",
    ]  # fmt: skip
    parts = board.slices("split")
    rows = [[SHARES.get(key, key), *_long(parts[key])] for key in (*TESTS, "fit") if key in parts]
    rows += [[key, *_long(part)] for key, part in parts.items() if key not in SHARES]
    rows.append(["all of quality A and B" if board.rough else "all", *_long(board.part())])
    if board.rough:
        rows.append(["quality C", *_long(board.part(board.rough))])
    return f"""## By share

{_table(headers, rows)}

*Macro* is the median over families of each family's median, so that many rows of one family count once. *Width* is that
of the range over the prediction. The two predictors without physics learn from the fit share, the second without the
run itself and its repeats. Submitters of one configuration differ by 2 to 3 %."""


def _slices(board: Scoreboard) -> str:
    tests = _tests(board)
    if not tests:
        return "## Test rows\n\nThe case file has no test share."
    sections = ["## Test rows by kind", _by(board, tests, "kind", _kind)]
    for title, header, key in (
        ("format", "format of the large products", lambda row: row.case.precision),
        ("chip", "chip", lambda row: row.case.chip),
        ("framework", "framework", lambda row: row.case.framework),
        ("source", "source", lambda row: row.case.source),
    ):
        sections += [f"## Test rows by {title}", _by(board, tests, header, key)]
    return "\n\n".join(sections)


def _by(board: Scoreboard, rows: Sequence[Row], header: str, key: Callable[[Row], str]) -> str:
    parts = by(rows, [key(row) for row in rows])
    body = [[name, *_short(board.part(part))] for name, part in parts.items()]
    names = [header, "rows", "median", "P90", "bias", "in 80 % range", "constant MFU", "nearest runs"]
    return _table(names, body)


def _kind(row: Row) -> str:
    if row.case.kind == "lora":
        return "LoRA"
    return "mixture of experts" if row.case.experts else "dense"


def _worst(board: Scoreboard) -> str:
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in board.worst(len(board.headline)):
        case = row.case
        found.setdefault((case.source, case.model, case.chip, case.precision), []).append(row)
    rows = []
    for group in list(found.values())[:WORST]:
        worst = group[0].case
        errors = [row.rel_err for row in group]
        rows.append(
            [
                f"{worst.model}, {worst.num_chips} {worst.chip}, {worst.precision}",
                f"{worst.framework} {worst.date}",
                SHARES.get(worst.split, worst.split),
                _seconds(worst.step_time_s),
                _seconds(group[0].predicted_s),
                _p(group[0].rel_err, signed=True),
                f"{len(group)}: {_p(float(np.median(errors)), signed=True)}",
                reason(worst),
            ]
        )
    headers = [
        "run",
        "software",
        "share",
        "measured",
        "predicted",
        "error",
        "rows like it: median",
        "likely reason",
    ]
    return f"""## The worst runs

The furthest off, by the ratio of the two times; of runs that share source, model, chip and format only the worst one.
Reasons are told from the physical condition of a run; where none of the known ones applies, none is given.

{_table(headers, rows)}"""


def _memory(board: Scoreboard) -> str:
    rows = []
    for name, part in [
        *((SHARES[key], [r for r in board.headline if r.case.split == key]) for key in (*TESTS, "fit")),
        ("all", list(board.headline)),
    ]:
        if part:
            memory = Scoreboard(tuple(part)).memory()
            rows.append(
                [
                    name,
                    str(memory.judged),
                    _p(memory.fits),
                    str(memory.n),
                    _p(memory.median_abs_err),
                    _p(memory.bias, signed=True),
                ]
            )
    headers = ["share", "runs", "judged to fit", "peaks measured", "median error", "bias"]
    return f"""## Memory

All these runs fitted in memory, so every one judged not to fit is an error. Memory has no fitted number, but what is
kept and when was worked out on runs with a measured peak, so those are no blind test. Errors are of allocated bytes.

{_table(headers, rows)}"""


def _laws(board: Scoreboard) -> str:
    found = board.laws()
    if not found:
        return "## The law of the step\n\nNo family in the case file varies only the number of micro-batches."
    rows = [
        [
            law.family,
            str(law.runs),
            f"{1e3 * law.measured.slope:.1f}",
            f"{1e3 * law.predicted.slope:.1f}",
            f"{law.measured.intercept:.2f}",
            f"{law.predicted.intercept:.2f}",
        ]
        for law in found
    ]
    headers = ["family", "runs", "a measured [ms]", "predicted", "c measured [s]", "predicted"]
    return f"""## The law of the step

Steps of pipelined runs that differ only in size follow `T = a (m + (pp - 1) / vpp) + c` over the number of
micro-batches m: a is the time of one micro-batch, c what no pipelining hides. A right T can hide two wrong parts, so
both are shown, for every family whose measurements keep the law within {_p(LAW_RESIDUAL)}.

{_table(headers, rows)}"""


def _rankings(board: Scoreboard) -> str:
    found = board.rankings()
    if not found:
        return "## Ranking of plans\n\nNo job in the case file has five or more measured plans."
    rows = [
        [one.job, str(one.plans), "" if one.spearman is None else f"{one.spearman:.2f}", _p(one.regret)]
        for one in found
    ]
    regrets = [one.regret for one in found]
    return f"""## Ranking of plans

A search needs the right order more than the right time. For jobs with five or more measured plans: rank correlation,
and regret, which is the measured time of the plan that we would pick over the best measured one, less 1 (median
{_p(float(np.median(regrets)))}, at most {_p(max(regrets))}).

{_table(["job", "plans", "Spearman", "regret of our pick"], rows)}"""


def _neighbours(known: Sequence[Row]) -> str:
    rows = []
    for one in NEIGHBOURS:
        ours = [row for row in known if row.ok and row.case.source.startswith(one.source)]
        if not ours:
            continue
        tests = [row for row in ours if row.case.split in TESTS]
        rows.append(
            [
                _short_source(ours[0].case),
                _mean(ours),
                _mean(tests),
                one.tool,
                f"{100 * one.error:.3g} %",
                one.scope,
            ]
        )
    headers = ["source", "ours, all rows", "ours, test rows", "tool", "its error", "on"]
    return f"""## Beside other tools

Mean error of the step time on sources that other tools were held to. Ours are a part of the rows of each source, and
some of them informed the fit, so the test rows stand apart. The errors of others are what their papers and repositories
state, or what running them gave.

{_table(headers, rows)}"""


def _mean(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    return f"{_p(float(np.mean([abs(row.rel_err) for row in rows])))} of {len(rows)}"


def _numbers() -> str:
    return "\n\n".join(["## Fitted numbers", _chips(), _stacks(), _kernels(), _links()])


def _chips() -> str:
    rows = []
    for name in catalog.names("steps"):
        steps = catalog.step_calibration(name)
        numbers = [f"{getattr(steps, knob.name):.3g}" for knob in CHIP_KNOBS]
        rows.append([name, *numbers, *_held(steps.provenance)])
    others = [name for name in catalog.names("chips") if name not in catalog.names("steps")]
    borrowed: dict[str, list[str]] = {}
    for name in others:
        try:
            borrowed.setdefault(f"those of {catalog.donor(name, 'steps')}", []).append(name)
        except catalog.CatalogError:
            borrowed.setdefault("none, and run at the pace of their kernels alone", []).append(name)
    from_whom = "; ".join(f"{whose}: {', '.join(chips)}" for whose, chips in borrowed.items())
    headers = ["chip", *(f"`{knob.name}`" for knob in CHIP_KNOBS), "rows", "median error", "P90"]
    low, high = IN_SITU_LIMITS
    return f"""Two numbers per chip: how hard the power cap bites, and how much slower kernels are inside a step than
alone, which must lie within {low} and {high} or the fit has failed. Errors are those on the rows of the fit.

{_table(headers, rows)}

Other chips read {from_whom}."""


def _stacks() -> str:
    rows = []
    for name in catalog.names("stacks"):
        stack = catalog.stack(name)
        if stack.rows >= LEAST_ROWS:
            rows.append(
                [
                    name,
                    *(_value(knob.name, getattr(stack, knob.name)) for knob in STACK_KNOBS),
                    str(stack.rows),
                ]
            )
    headers = ["stack", *(f"`{knob.name}`" for knob in STACK_KNOBS), "rows"]
    return f"""Of each software stack, where {LEAST_ROWS} or more rows inform it:

{_table(headers, rows)}"""


def _value(name: str, value: float) -> str:
    """A fitted number of a stack as its file writes it: quantities there are times."""
    is_time = catalog.schema("stacks")["properties"][name].get("type") == "string"
    return units.show(value, "s") if is_time else f"{value:.3g}"


def _kernels() -> str:
    rows = []
    for name in catalog.names("kernels"):
        fits = catalog.kernel_calibration(name)
        for kind, family in (
            ("products", fits.gemm),
            ("attention", fits.attention),
            ("grouped products", fits.grouped),
        ):
            for number, fit in family.items():
                if fit.provenance.median_abs_err is not None:
                    rows.append([name, kind, number, str(fit.provenance.label), *_held(fit.provenance)])
    headers = ["chip", "kernels", "format", "label", "rows", "median error", "P90"]
    return f"""Kernels, on shapes held out of the fit. Chips and formats that are not listed are transferred or bound.

{_table(headers, rows)}"""


def _links() -> str:
    rows = []
    for name in catalog.names("links"):
        fits = catalog.link_calibration(name).scale_up.values()
        errors = [one for fit in fits if (one := fit.provenance.median_abs_err) is not None]
        if errors:
            counted = sum(fit.provenance.rows for fit in fits)
            rows.append([name, str(len(errors)), str(counted), _p(float(np.median(errors))), _p(max(errors))])
    headers = ["chip", "collectives", "rows", "median of their median errors", "largest"]
    return f"""Collectives inside a scale-up domain, against their tables:

{_table(headers, rows)}"""


def _held(provenance: Provenance) -> list[str]:
    return [str(provenance.rows), _p(provenance.median_abs_err), _p(provenance.p90_abs_err)]


def _published(held: Sequence[tuple[PublishedRun, Row]]) -> str:
    rows, misses = [], []
    for run, row in held:
        error = row.rel_err
        outside = not abs(error) <= run.tolerance
        verdict = "miss" if outside else "held"
        rows.append(
            [
                f"`{run.case.id}`",
                _short_source(run.case),
                SHARES.get(run.case.split, run.case.split),
                _seconds(run.case.step_time_s),
                _seconds(row.predicted_s),
                _p(error, signed=True) if row.ok else row.status,
                _p(run.tolerance),
                verdict,
            ]
        )
        if outside:
            misses.append(f"- `{run.case.id}`, {_p(error, signed=True)}: {run.miss or 'not explained'}.")
    kept = len(held) - len(misses)
    headers = ["run", "source", "share", "measured", "predicted", "error", "tolerance", ""]
    listed = "\n".join(misses)
    return f"""## Published results kept as tests

{len(held)} results, transcribed into the catalog from their publications, are predicted on every run of the tests:
{kept} within their tolerance, {len(misses)} known misses. A tolerance can fail; a miss stays in the table.

{_table(headers, rows)}

{"What is missing where a row is outside:" if misses else ""}

{listed}""".rstrip()


def _short_source(case: Case) -> str:
    """First words of a citation and its arXiv number."""
    number = re.search(r"arXiv:[\d.]+\d", case.source)
    return f"{case.source.split(',')[0].split(': ')[0]}, {number[0]}" if number else case.source


def _tests(board: Scoreboard) -> list[Row]:
    return [row for row in board.headline if row.case.split in TESTS]


def _long(part: Part) -> list[str]:
    model = part.model
    return [
        _count(part),
        _p(model.median_abs_err),
        _p(model.macro_abs_err),
        _p(model.p90_abs_err),
        _p(model.bias, signed=True),
        "" if model.spearman is None else f"{model.spearman:.2f}",
        _p(model.interval_coverage),
        _p(model.interval_width),
        _p(part.constant_mfu.median_abs_err),
        _p(part.constant_mfu.p90_abs_err),
        _p(part.neighbour.median_abs_err),
        _p(part.neighbour.p90_abs_err),
    ]


def _short(part: Part) -> list[str]:
    model = part.model
    return [
        _count(part),
        _p(model.median_abs_err),
        _p(model.p90_abs_err),
        _p(model.bias, signed=True),
        _p(model.interval_coverage),
        _p(part.constant_mfu.median_abs_err),
        _p(part.neighbour.median_abs_err),
    ]


def _count(part: Part) -> str:
    model = part.model
    return str(model.n) if model.covered == model.n else f"{model.covered} of {model.n}"


def _names(knobs: Iterable[Knob]) -> str:
    return ", ".join(f"`{knob.name}`" for knob in knobs)


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = [_line(headers), _line(["---"] * len(headers))]
    return "\n".join([*head, *(_line([cell.replace("|", "\\|") for cell in row]) for row in rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _seconds(value: float) -> str:
    return f"{value:.3g} s"


def _p(value: float | None, *, signed: bool = False) -> str:
    """A share in percent, with one digit below 10."""
    if value is None or not np.isfinite(value):
        return ""
    digits = 1 if abs(value) < 0.0995 else 0
    return f"{100 * value:{'+' if signed else ''}.{digits}f} %"
