"""What stands beside the scores on the page: remedies tried, fitted numbers of engines, other tools."""

from __future__ import annotations

from ridgeline import units
from ridgeline.calibrate.markdown import TESTS, percent, table
from ridgeline.calibrate.remedies import misses, remedy_table
from ridgeline.calibrate.scores import by
from ridgeline.calibrate.serving.fit import NUMBERS, TTFT_USERS
from ridgeline.calibrate.serving.score import ServingBoard
from ridgeline.facts import catalog
from ridgeline.facts.engine import Engine

REMEDIES = catalog.BUILT_IN / "serving_remedies.yaml"


def tried() -> str:
    """The remedies tried against each miss, as Markdown."""
    return f"""## What was tried against misses

Changes were judged on the fit share or taken from sources. Figures are medians of absolute errors on the fit share
unless they say otherwise, before and after that change alone.

{remedy_table(misses(REMEDIES))}"""


def engine_numbers() -> str:
    """Every fitted number of every engine that rows inform, with its unit and meaning, as Markdown."""
    engines = [catalog.engine(name) for name in catalog.readable("engines")]
    headers = ["engine", *(f"`{row[0]}`" for row in NUMBERS), "`spread`", "rows"]
    rows = [
        [
            engine.name,
            *(_number(engine, name, unit) for name, unit, *_ in NUMBERS),
            percent(engine.spread),
            str(engine.rows),
        ]
        for engine in engines
        if engine.rows
    ]
    meanings = [
        f"- `{name}`: {Engine.model_fields[name].description}"
        for name in (*(row[0] for row in NUMBERS), "spread")
    ]
    return f"""## Fitted numbers

A few times of each engine, by robust least squares on TPOT of the fit share and, with less weight, on TTFT at up to
{TTFT_USERS} users, where it is not a queue. They stand in the engine's file of the catalog with the number of rows
behind them; `ridgeline calibrate serving` fits them to your own. A number at an end of its range (such as 0) was not
told apart. Where the host overlaps the device, `host_step` and `host_request` are hidden unless they are longer than
the step.

{table(headers, rows)}

{chr(10).join(meanings)}"""


def _number(engine: Engine, name: str, unit: str) -> str:
    if name == "host_exposed" and not engine.host_overlap:
        return "–"  # all of the host's time is exposed there
    value = float(getattr(engine, name))
    return units.show(value, "s") if unit else f"{value:.3g}"


def other_tools(board: ServingBoard) -> str:
    """What other tools report of themselves beside the test shares of ``board``, as Markdown."""
    tests = [row for row in board.headline if row.case.split in TESTS and row.kind in ("dense", "moe")]
    parts = by(tests, [row.metric for row in tests])
    tpot, ttft, rate = (board.part(parts.get(name, [])) for name in ("tpot", "ttft", "output_tokens_per_s"))
    rows = [
        ["AIConfigurator", "14 %", "63 %", "62 %", "18 %", "76 %", "224 measured aggregated points"],
        ["three nearest points scaled by a roofline", "24 %", "", "", "", "100 %", "the same points"],
        [
            "Ridgeline",
            percent(tpot.median_abs_err),
            percent(tpot.p90_abs_err),
            percent(ttft.median_abs_err),
            percent(rate.median_abs_err),
            percent(tpot.covered / tpot.n) if tpot.n else "",
            f"{tpot.n:,} points of both test shares, dense and experts without drafts",
        ],
    ]
    headers = ["predictor", "TPOT: median", "P90", "TTFT: median", "tokens/s: median", "covered", "rows"]
    return f"""## Beside other tools

Figures of others stand as they were reported and were not measured again. **The rows are not the same**: selections,
clients and months differ. Read the table as orders of magnitude.

{table(headers, rows)}"""
