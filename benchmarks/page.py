"""Run every benchmark and write the performance page.

python benchmarks/page.py [--azure CONV.csv] [--mooncake CONVERSATION.jsonl.gz] [--out docs/performance.md]
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
from pathlib import Path

from machine import Figure, machine, show

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
#: Programs in the order of the page.
PARTS = ("prediction", "search", "startup", "report", "memory", "serving", "serving_search")


def page(figures: dict[str, list[Figure]], date: str, load: float | None = None) -> str:
    """The page as Markdown; ``load`` is the load average before the first program."""
    busy = "" if load is None else f", load average {load:.1f} at the start"
    return f"""# Performance

How fast Ridgeline itself is, beside what it aims for. Measured by the programs in `benchmarks/` and written by
`python benchmarks/page.py` on {date}:

> {machine()}{busy}

Times are the shortest of several repeats on a machine that others may use too; where a median is given, the
difference is their noise. Nothing runs on more than one core, and nothing is kept between processes.

| figure | measured | target | |
|---|---|---|---|
{_rows(figures)}

- **One prediction** is a plan with every operator, the ladder, memory by stage, energy and range. It is warm: the
  process has made one before, as a search or a what-if has.
- **Plans per second** of a search counts every plan considered: made, held to the rules and, where it is legal, timed
  with its memory by the very code that predicts one plan. Below it stands the rate of the legal ones alone, which pays
  for the illegal ones and for a fixed cost of each structure; *one structure of 120,000* shows the rate where a
  structure has many plans. *Every choice* searches all schedules, recomputation and ZeRO stages.
- **The whole answer** is `ridgeline train llama-3.1-405b --on h100-sxm --chips 16384 --batch 2048 --seq 8192`, from the
  start of its process to its end: catalog, search, five full predictions, what-ifs, text.
- **The serving simulation** runs one replica (an 8B model on one H100, as a roofline) iteration by iteration, at 0.8 of
  the load that it can bear. Traces are the published ones, repeated: Azure conversation lengths with Poisson arrivals,
  Mooncake requests in their own order with their own prefixes. Code is compiled at the first use on a machine. Memory
  is a fixed size for each request, however many tokens it makes.
- **The serving search** looks at every engine, layout, format and load of one pool and of two. **One estimate** is the
  closed form of a steady state from a table that is already made.
"""


def _rows(figures: dict[str, list[Figure]]) -> str:
    return "\n".join(_row(figure) for part in PARTS for figure in figures[part])


def _row(figure: Figure) -> str:
    name = f"&nbsp;&nbsp;{figure.name.strip()}" if figure.name.startswith(" ") else figure.name
    verdict = {True: "met", False: "**missed**", None: ""}[figure.met]
    return f"| {name} | {figure.value} | {figure.target} | {verdict} |"


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    parser.add_argument("--date", default=datetime.date.today().isoformat(), help="date printed on the page")
    parser.add_argument(
        "--azure", help="published Azure conversation trace; without it lengths are log-normal"
    )
    parser.add_argument("--mooncake", help="published Mooncake conversation trace, for the prefix cache")
    given = parser.parse_args()
    files = {"serving": (given.azure, given.mooncake)}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found = {part: importlib.import_module(part).figures(*files.get(part, ())) for part in PARTS}
    show([figure for part in PARTS for figure in found[part]])
    given.out.write_text(page(found, given.date, load), encoding="utf-8")
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
