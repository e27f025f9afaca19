"""The page's section on separate pools of prefill and decode."""

from __future__ import annotations

from collections.abc import Sequence

from ridgeline.calibrate.markdown import SHARES, TESTS, percent, table
from ridgeline.calibrate.scores import by
from ridgeline.calibrate.serving.cells import LONG, SHORT, long, short
from ridgeline.calibrate.serving.pool_reasons import PoolReasons
from ridgeline.calibrate.serving.score import ServingBoard, ServingRow
from ridgeline.calibrate.serving.targets import KINDS, NAMES

WORST = 12
_FIELDS = (("regime", "load"), ("chip", "chip"), ("model", "model"), ("engine", "engine"))


def pool_section(board: ServingBoard) -> str:
    """Points of separate pools: coverage, errors by share and kind, by field, the worst, and those of quality C."""
    if not board.pools:
        return ""
    return "\n\n".join([_opening(board), *_shares(board), *_fields(board), _worst(board), _rough(board)])


def _opening(board: ServingBoard) -> str:
    points = {row.case.id: row.ok for row in board.pools}
    failures = board.failures(board.pools)
    why = "; ".join(f"{reason} ({count})" for reason, count in failures.most_common())
    left = f", {len(points) - sum(points.values())} not: {why}" if failures else ""
    return f"""## Separate pools of prefill and decode

{len(points)} points of quality A and B, {sum(points.values())} predicted{left}. Prefill and decode engines with their
own layouts are simulated together with the client and the links between them; the engine that decodes sends the first
token as it admits a request. No number is fitted to these points but what their ranges need beyond those of one pool,
on the fit share. What they leave open (slots of a decode engine, drafts, tokens of a prefill step, memory) is taken
from the recipes that the benchmark publishes, by client and engine: `pool_settings.yaml` of the catalog. The slots are
read off the users, so a point whose recipe has more of them is predicted with a queue that it did not have. Of the
prompts of each user, ten, three are simulated; the last two stand for the rest. TTFT counts where the client is known;
no target speaks of it here."""


def _shares(board: ServingBoard) -> list[str]:
    sections = []
    for metric, name in NAMES.items():
        rows = []
        for share in (*TESTS, "fit"):
            chosen = [r for r in board.pools if r.metric == metric and r.case.split == share]
            kinds = by(chosen, [row.kind for row in chosen])
            rows += [[SHARES[share], "all", *long(board, chosen)]] if chosen else []
            rows += [["", KINDS[kind], *long(board, kinds[kind])] for kind in KINDS if kind in kinds]
        if rows:
            sections.append(
                f"### Pools: {name[0].upper()}{name[1:]} by share\n\n{table(['share', 'kind', *LONG], rows)}"
            )
    return sections


def _fields(board: ServingBoard) -> list[str]:
    sections: list[str] = []
    for field, title in _FIELDS:
        parts = by(board.pools, [row.key(field) or "not predicted" for row in board.pools])
        body = [[key, *short(board, part)] for key, part in parts.items()]
        note = (
            "Points of all shares together, as no prediction was fitted to any; so in the tables below.\n\n"
            if not sections
            else ""
        )
        sections.append(f"### Pools by {title}\n\n{note}{table([title, *SHORT], body)}")
    return sections


def _worst(board: ServingBoard) -> str:
    reasons = PoolReasons.of(board.pools)
    found: dict[object, list[ServingRow]] = {}
    for row in board.worst(len(board.pools), board.pools):
        case = row.case
        found.setdefault(
            (
                case.model,
                case.chip,
                case.engine,
                case.precision,
                case.speculative,
                case.decode_tp,
                case.decode_dp,
            ),
            [],
        ).append(row)
    rows = [
        [
            _name(group[0]),
            SHARES.get(group[0].case.split, group[0].case.split),
            f"{1e3 * group[0].measured:.1f} ms",
            f"{1e3 * group[0].predicted:.1f} ms",
            percent(group[0].rel_err, signed=True),
            str(len(group)),
            reasons.words(group[0]),
        ]
        for group in list(found.values())[:WORST]
    ]
    headers = ["point", "share", "measured", "predicted", "error", "rows like it", "likely reason"]
    return f"""### Pools: the worst points

TPOT, one of each model, chip, engine, format, speculation and decode layout.

{table(headers, rows)}"""


def _name(row: ServingRow) -> str:
    case = row.case
    return (
        f"{case.model}, {case.chip}, {case.precision}{', drafts' if row.kind == 'moe-mtp' else ''}; {case.engine} "
        f"{case.engine_version or case.date}; prefill {case.prefill_workers} x "
        f"{_layout(case.prefill_tp, case.prefill_ep, case.prefill_dp)}, decode {case.decode_workers} x "
        f"{_layout(case.decode_tp, case.decode_ep, case.decode_dp)}; {case.isl:,.0f} in, {case.osl:,.0f} out, "
        f"{f'{case.concurrency:,.0f} users' if case.concurrency else 'users not stated'}"
    )


def _layout(tp: int | None, ep: int | None, dp: int | None) -> str:
    said = [f"{name}{value}" for name, value in (("tp", tp), ("ep", ep), ("dp", dp)) if (value or 1) > 1]
    return " ".join(said) or "1 chip"


def _rough(board: ServingBoard) -> str:
    rows: Sequence[ServingRow] = board.rough_pools
    if not rows:
        return ""
    kinds = by(rows, [row.kind for row in rows])
    body = [
        ["all", *short(board, rows)],
        *([KINDS[kind], *short(board, kinds[kind])] for kind in KINDS if kind in kinds),
    ]
    why = "; ".join(f"{reason} ({count})" for reason, count in board.failures(rows).most_common())
    return f"""### Pools of quality C

A hidden variable, mostly whether drafts were on (predicted without), or pools that are not stated. They are in no other
figure of this page.{f" Not predicted: {why}." if why else ""}

{table(["kind", *SHORT], body)}"""
