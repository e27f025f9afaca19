"""The worst points of serving, and those that contradict themselves, as sections of the page."""

from __future__ import annotations

import numpy as np

from ridgeline.calibrate.markdown import SHARES, percent, table
from ridgeline.calibrate.serving.contradictions import contradictions, mislabelled
from ridgeline.calibrate.serving.reasons import Reasons
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow

WORST = 20


def worst(board: ServingBoard) -> str:
    """The points that are furthest off, with the likely reason of each, as Markdown."""
    reasons = Reasons.of(board.headline)
    found: dict[tuple[object, ...], list[ServingRow]] = {}
    for row in board.worst(len(board.headline)):
        case = row.case
        found.setdefault((case.model, case.chip, case.engine, case.precision, case.speculative), []).append(
            row
        )
    rows = []
    for group in list(found.values())[:WORST]:
        first = group[0]
        errors = [row.rel_err for row in group]
        rows.append(
            [
                _name(first),
                SHARES.get(first.case.split, first.case.split),
                f"{1e3 * first.measured:.1f} ms",
                f"{1e3 * first.predicted:.1f} ms",
                percent(first.rel_err, signed=True),
                f"{len(group)}: {percent(float(np.median(errors)), signed=True)}",
                reasons.words(first),
            ]
        )
    headers = ["point", "share", "measured", "predicted", "error", "rows like it: median", "likely reason"]
    return f"""## The worst points

TPOT, the furthest off by the ratio of the two times; of points that share model, chip, engine, format and speculation
only the worst one. Reasons are told by general rules from what a row states or leaves open; where none applies, none is
given, and a reason is likely, not proven.

{table(headers, rows)}"""


def _name(row: ServingRow) -> str:
    case = row.case
    degrees = ", ".join(
        f"{name}{value}"
        for name, value in (("tp", case.tp), ("ep", case.ep), ("dp", case.dp))
        if (value or 1) > 1
    )
    when = " ".join(word for word in (case.engine_version, case.date) if word)
    load = f"{case.isl:,.0f} in, {case.osl:,.0f} out, {case.concurrency or case.batch_size or 0:,.0f} users"
    drafts = ", drafts" if row.kind == "moe-mtp" else ""
    return (
        f"{case.model}, {case.num_chips} {case.chip}, {case.precision}{drafts}; {case.engine} {when}; "
        f"{degrees + '; ' if degrees else ''}{load}"
    )


def contradicting(board: ServingBoard) -> str:
    """Points that contradict themselves or their repeats, as Markdown."""
    found = contradictions(board.headline)
    denied = sorted({row.case.id for row in board.headline if mislabelled(row.case)})
    if not found and not denied:
        return ""
    labels = (
        f"\n\nThe column `speculative` of {len(denied)} points says that drafts were verified, their notes that there"
        f" were none: {', '.join(f'`{name}`' for name in denied)}."
        if denied
        else ""
    )
    rows = [
        [
            f"`{one.case.id}`",
            f"{one.case.concurrency:,.0f} / ({one.case.ttft_s:.3f} s + {one.case.osl:,.0f} x "
            f"{1e3 * (one.case.tpot_s or 0):.2f} ms) = {one.requests_per_s:.1f} requests/s",
            f"{one.tokens_per_s:,.0f}",
            f"{one.flops_per_s / 1e15:.1f}",
            f"{one.peak_flops_per_s / 1e15:.1f}",
            percent(row.rel_err, signed=True),
        ]
        for one, row in found
    ]
    headers = [
        "point",
        "Little's law",
        "prompt tokens/s",
        "PFLOP/s needed",
        "peak of its chips",
        "our error of TPOT",
    ]
    return f"""## Points that contradict themselves

Users over the time that each waits for an answer are requests a second; prompts and answers at two FLOPs for every
weight that a token meets, without attention, are a lower bound of the work. These points ask for more than the matrix
peak of their chips. Either fewer users were under way, prompts were found in a prefix cache, or a field is wrong. They
stay in every score.

{table(headers, rows)}{labels}"""
