"""Text: results as a terminal shows them. Quiet and dense; words and numbers only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ridgeline import files
from ridgeline.explore.search import NearMiss, PlanSearch
from ridgeline.insight.sensitivity import Sensitivity
from ridgeline.metrics import OperatorTime, Prediction
from ridgeline.report import tables
from ridgeline.report.numerals import gigabytes, percent, signed_percent, significant
from ridgeline.report.points import plan_label
from ridgeline.report.sheet import Sheet
from ridgeline.timing.rates import peak_flops_per_s

TOP_OPERATORS = 14
_SMALL = 0.0005  # relative changes below this are not worth a line
_AXES = {"tp": "tensor", "cp": "context", "ep": "expert", "dp": "data", "pp": "pipeline"}


def result_text(prediction: Prediction, effects: Sequence[Sensitivity], notes: Sequence[str]) -> str:
    """One plan: headline, table, ladder beside what would help, labels, notes."""
    parts = [
        tables.headline(prediction),
        tables.plan_table([prediction]),
        beside(prediction, effects),
        _labels(prediction),
        _notes(prediction, notes),
    ]
    return "\n\n".join(part for part in parts if part)


def search_text(
    search: PlanSearch,
    effects: Sequence[Sensitivity],
    notes: Sequence[str],
    *,
    width: int = 120,
) -> str:
    """The best plans of a search, what it counted, and why the best one takes as long as it does."""
    best = search.best[0]
    counts = f"  {search.considered:,} plans considered, {search.legal:,} legal, {search.fit:,} fit in memory"
    # A plan that would be slower anyway is no loss.
    misses = [miss for miss in search.near_misses if miss.step_time_s < best.step_time_s]
    ruled = ", ".join(f"{name} {count:,}" for name, count in Counter(search.illegal).most_common(4))
    found = [
        tables.plan_table(search.best),
        counts,
        *([f"  not legal by: {ruled} (a plan may break several)"] if ruled else []),
        *(f"  {_miss(miss, best.memory_capacity_bytes)}" for miss in misses),
    ]
    parts = [
        tables.headline(best),
        "\n".join(found),
        beside(best, effects, width),
        _labels(best),
        _notes(best, notes),
    ]
    return "\n\n".join(part for part in parts if part)


def explanation(prediction: Prediction, effects: Sequence[Sensitivity], notes: Sequence[str]) -> str:
    """Why the step takes that long and what to change first."""
    parts = [
        "\n".join([tables.headline(prediction), tables.plan_words(prediction), tables.answer(prediction)]),
        _ladder(prediction),
        _operators(prediction),
        _exposed(prediction),
        tables.memory_table(prediction),
        "\n".join(["What to change first (time per token)", *_effects(effects)]),
        _labels(prediction),
        _notes(prediction, notes),
    ]
    return "\n\n".join(part for part in parts if part)


def beside(prediction: Prediction, effects: Sequence[Sensitivity], width: int = 120) -> str:
    """The ladder with what would help beside it, or below it where the terminal is narrow."""
    left = _ladder(prediction).splitlines()
    right = ["What would help most (time per token)", *_effects(effects)]
    edge = max(len(line) for line in left) + 4
    if edge + max(len(line) for line in right) > width:
        return "\n".join([*left, "", *right])
    left += [""] * (len(right) - len(left))
    right += [""] * (len(left) - len(right))
    return "\n".join(f"{a:<{edge}}{b}".rstrip() for a, b in zip(left, right, strict=True))


def _ladder(prediction: Prediction) -> str:
    """The ladder without its labels, which have a line of their own."""
    lines = tables.ladder_text(prediction).splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("labels:"))


def _labels(prediction: Prediction) -> str:
    by_label: dict[str, list[str]] = {}
    for part, label in prediction.labels.items():
        by_label.setdefault(label, []).append(part)
    words = "; ".join(f"{label}: {', '.join(parts)}" for label, parts in by_label.items())
    return f"labels  {words}" if words else ""


def _notes(prediction: Prediction, notes: Sequence[str]) -> str:
    return "\n".join(files.one_line(f"note: {note}") for note in dict.fromkeys([*prediction.notes, *notes]))


def _miss(miss: NearMiss, capacity: float) -> str:
    return (
        f"nearly: {significant(miss.step_time_s)} s with {plan_label(miss.plan)} needs "
        f"{gigabytes(miss.needed_bytes)} GB of {gigabytes(capacity)}, mostly {miss.largest}: {miss.remedy}"
    )


def _effects(effects: Sequence[Sensitivity]) -> list[str]:
    """What shortens the time per token, the largest gain first; changes that need more memory come last."""
    gains = sorted((item for item in effects if item.change <= -_SMALL), key=lambda item: bool(item.note))
    if not gains:
        return ["  nothing that we tried gains 0.1 %"]
    width = max(len(item.name) for item in gains)
    return [
        f"  {item.name:<{width}}  {signed_percent(item.change):>7}  {item.note}".rstrip() for item in gains
    ]


def _operators(prediction: Prediction) -> str:
    ordered = sorted(prediction.operators, key=lambda op: -op.seconds)
    if not ordered:
        return ""
    total = sum(op.seconds for op in ordered)
    rows = tuple(_operator(prediction, op, total) for op in ordered[:TOP_OPERATORS])
    columns = (
        "operator", "phase", "format", "launches", "ms", "share",
        "TFLOP/s", "of peak", "TB/s", "FLOP/B", "binds",
    )  # fmt: skip
    title = f"Operators of one micro-batch on the busiest stage ({1e3 * total:.1f} ms)"
    rest = len(ordered) - len(rows)
    lines = [title, Sheet(columns, rows, "lllrrrrrrrl").text()]
    return "\n".join([*lines, f"  and {rest} more: --json"] if rest > 0 else lines)


def _operator(prediction: Prediction, op: OperatorTime, total: float) -> tuple[str, ...]:
    rate = op.flops / op.seconds if op.seconds else 0.0
    matrix = op.flops > 0.0 and op.kind != "stream"
    peak = peak_flops_per_s(prediction.scenario.chip, op.format) if matrix else 0.0
    return (
        op.name,
        op.phase.replace("_", " "),
        op.format,
        f"{op.count:g}",
        significant(1e3 * op.seconds),
        percent(op.seconds / total),
        significant(rate / 1e12) if matrix else "",
        percent(rate / peak, 0) if peak else "",
        f"{op.bytes / op.seconds / 1e12:.2f}" if op.seconds else "",
        significant(op.flops / op.bytes) if op.bytes and matrix else "",
        op.binds,
    )


def _exposed(prediction: Prediction) -> str:
    total = prediction.step_time_s
    shown = {axis: seconds for axis, seconds in prediction.exposed_s.items() if seconds > 0.0}
    if not shown:
        return "Exposed communication: none"
    lines = ["Exposed communication of one step"]
    for axis, seconds in sorted(shown.items(), key=lambda item: -item[1]):
        name = f"{_AXES.get(axis, axis)} parallel"
        lines.append(f"  {name:<18} {significant(seconds):>8} s  {percent(seconds / total):>7}")
    return "\n".join([*lines, f"  {'pipeline bubble':<18} {percent(prediction.bubble_share):>19}"])
