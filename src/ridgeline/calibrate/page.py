"""The accuracy page: everything a scoreboard says, as Markdown. `docs/gen_accuracy.py` writes it.

Every number on the page comes from the scoreboard, from the catalog (`fitted_numbers`), or from the reviewed table of
what other tools state about themselves (`other_tools`).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ridgeline.calibrate.checks import LAW_RESIDUAL
from ridgeline.calibrate.fitted_numbers import fitted_numbers
from ridgeline.calibrate.markdown import SHARES, TESTS, percent, seconds, short_source, table
from ridgeline.calibrate.other_tools import other_tools
from ridgeline.calibrate.published import PublishedRun
from ridgeline.calibrate.reasons import reason
from ridgeline.calibrate.remedies import remedies
from ridgeline.calibrate.scoreboard import Part, Row, Scoreboard
from ridgeline.calibrate.scores import NOISE, by
from ridgeline.calibrate.whole_step import CHIP_KNOBS, LEAST_ROWS, STACK_KNOBS, Knob
from ridgeline.facts import catalog

WORST = 15


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
        remedies(),
        _memory(board),
        _laws(board),
        _rankings(board),
        other_tools([*board.headline, *(row for _, row in held)]),
        fitted_numbers(),
        _published(held),
    ]
    return "\n\n".join(parts) + "\n"


def _opening(board: Scoreboard, stamp: Stamp) -> str:
    unseen = [row for row in board.headline if row.case.split == "test-family"]
    part = board.part(unseen or None)
    median, macro, p90 = (
        percent(error)
        for error in (part.model.median_abs_err, part.model.macro_abs_err, part.model.p90_abs_err)
    )
    failures = board.failures()
    by_kind = [
        f"{kind} {percent(board.part(rows).model.median_abs_err)}"
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
median error of the step time is **{median}**, {macro} if every family
counts once; nine in ten are within {p90}. A constant MFU per chip and format has
{percent(part.constant_mfu.median_abs_err)} on the same runs, the three nearest known runs
{percent(part.neighbour.median_abs_err)}.{kinds}

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
        [
            "`host_expert`, one number for all stacks that have it",
            "whole steps",
            "the same rows, with experts",
        ],
        ["everything else", "data sheets, papers, source code of the frameworks", "no training run"],
    ]
    return f"""## What is fitted, and on what

{table(["number", "from", "share of the case file"], rows)}

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

{table(headers, rows)}

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
    return table(names, body)


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
                seconds(worst.step_time_s),
                seconds(group[0].predicted_s),
                percent(group[0].rel_err, signed=True),
                f"{len(group)}: {percent(float(np.median(errors)), signed=True)}",
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

{table(headers, rows)}"""


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
                    percent(memory.fits),
                    str(memory.n),
                    percent(memory.median_abs_err),
                    percent(memory.bias, signed=True),
                ]
            )
    headers = ["share", "runs", "judged to fit", "peaks measured", "median error", "bias"]
    return f"""## Memory

All these runs fitted in memory, so every one judged not to fit is an error. Memory has no fitted number, but what is
kept and when was worked out on runs with a measured peak, so those are no blind test. Errors are of allocated bytes.

{table(headers, rows)}"""


def _laws(board: Scoreboard) -> str:
    found = board.laws()
    if not found:
        return "## The law of the step\n\nNo family in the case file varies only the number of micro-batches."
    rows = [
        [
            law.family,
            str(law.runs),
            f"{1e3 * law.measured.slope:.1f} ± {1e3 * law.measured.slope_error:.1f}",
            f"{1e3 * law.predicted.slope:.1f}",
            f"{law.measured.intercept:.2f} ± {law.measured.intercept_error:.2f}",
            f"{law.predicted.intercept:.2f}",
        ]
        for law in found
    ]
    headers = ["family", "runs", "a measured [ms]", "predicted", "c measured [s]", "predicted"]
    return f"""## The law of the step

Steps of pipelined runs that differ only in size follow `T = a (m + (pp - 1) / vpp) + c` over the number of
micro-batches m: a is the time of one micro-batch, c what no pipelining hides. A right T can hide two wrong parts, so
both are shown, for every family whose measurements keep the law within {percent(LAW_RESIDUAL)}. Behind ± stands
the standard error of the measured line if each run scatters by {percent(NOISE)}, as submitters of one configuration do.

{table(headers, rows)}"""


def _rankings(board: Scoreboard) -> str:
    found = board.rankings()
    if not found:
        return "## Ranking of plans\n\nNo job in the case file has five or more measured plans."
    rows = [
        [one.job, str(one.plans), "" if one.spearman is None else f"{one.spearman:.2f}", percent(one.regret)]
        for one in found
    ]
    regrets = [one.regret for one in found]
    return f"""## Ranking of plans

A search needs the right order more than the right time. For jobs with five or more measured plans: rank correlation,
and regret, which is the measured time of the plan that we would pick over the best measured one, less 1 (median
{percent(float(np.median(regrets)))}, at most {percent(max(regrets))}).

{table(["job", "plans", "Spearman", "regret of our pick"], rows)}"""


def _published(held: Sequence[tuple[PublishedRun, Row]]) -> str:
    rows, misses = [], []
    for run, row in held:
        error = row.rel_err
        outside = not abs(error) <= run.tolerance
        verdict = "miss" if outside else "held"
        rows.append(
            [
                f"`{run.case.id}`",
                short_source(run.case),
                SHARES.get(run.case.split, run.case.split),
                seconds(run.case.step_time_s),
                seconds(row.predicted_s),
                percent(error, signed=True) if row.ok else row.status,
                percent(run.tolerance),
                verdict,
            ]
        )
        if outside:
            misses.append(f"- `{run.case.id}`, {percent(error, signed=True)}: {run.miss or 'not explained'}.")
    kept = len(held) - len(misses)
    headers = ["run", "source", "share", "measured", "predicted", "error", "tolerance", ""]
    listed = "\n".join(misses)
    return f"""## Published results kept as tests

{len(held)} results, transcribed into the catalog from their publications, are predicted on every run of the tests:
{kept} within their tolerance, {len(misses)} known misses. A tolerance can fail; a miss stays in the table.

{table(headers, rows)}

{"What is missing where a row is outside:" if misses else ""}

{listed}""".rstrip()


def _tests(board: Scoreboard) -> list[Row]:
    return [row for row in board.headline if row.case.split in TESTS]


def _long(part: Part) -> list[str]:
    model = part.model
    return [
        _count(part),
        percent(model.median_abs_err),
        percent(model.macro_abs_err),
        percent(model.p90_abs_err),
        percent(model.bias, signed=True),
        "" if model.spearman is None else f"{model.spearman:.2f}",
        percent(model.interval_coverage),
        percent(model.interval_width),
        percent(part.constant_mfu.median_abs_err),
        percent(part.constant_mfu.p90_abs_err),
        percent(part.neighbour.median_abs_err),
        percent(part.neighbour.p90_abs_err),
    ]


def _short(part: Part) -> list[str]:
    model = part.model
    return [
        _count(part),
        percent(model.median_abs_err),
        percent(model.p90_abs_err),
        percent(model.bias, signed=True),
        percent(model.interval_coverage),
        percent(part.constant_mfu.median_abs_err),
        percent(part.neighbour.median_abs_err),
    ]


def _count(part: Part) -> str:
    model = part.model
    return str(model.n) if model.covered == model.n else f"{model.covered} of {model.n}"


def _names(knobs: Iterable[Knob]) -> str:
    return ", ".join(f"`{knob.name}`" for knob in knobs)
