"""Cases: measured training runs, read from a CSV file with one run per line.

A row is self-contained: it holds the shape of the model, the machine, the plan and the measured step time.
Empty fields mean unknown and become ``None``; columns that are not listed here are ignored.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GIB = 2.0**30


class CaseError(ValueError):
    """A row of a case file cannot be read; the message names file, line, column and value."""


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if value.lower() not in known:
        raise ValueError("expected true or false")
    return known[value.lower()]


def _number(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError("expected a number") from None
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _count(value: str, least: int) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError("expected a whole number")
    if number < least:
        raise ValueError(f"expected {least} or more")
    return int(number)


def _positive_count(value: str) -> int:
    return _count(value, 1)


def _natural(value: str) -> int:
    return _count(value, 0)


def _stage(value: str) -> int:
    number = _natural(value)
    if number > 3:
        raise ValueError("expected 0, 1, 2 or 3")
    return number


def _positive(value: str) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError("expected a number above zero")
    return number


def _gib(value: str) -> float:
    return _positive(value) * GIB


def _column(
    read: Callable[[str], Any], default: Any = None, name: str = "", *, required: bool = False
) -> Any:
    """A dataclass field that knows its CSV column, its reader and whether a row may leave it empty."""
    return field(default=default, metadata={"read": read, "column": name, "required": required})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One measured run. Counts are of sequences, tokens or chips; ``None`` is unknown."""

    id: str = _column(_text, "")
    source: str = _column(_text, "")
    date: str = _column(_text, "", "date_or_version")
    framework: str = _column(_text, "")
    model: str = _column(_text, "")
    layers: int | None = _column(_positive_count)
    hidden: int | None = _column(_positive_count)
    heads: int | None = _column(_positive_count)
    kv_heads: int | None = _column(_positive_count)
    head_dim: int | None = _column(_positive_count)
    ffn: int | None = _column(_positive_count)  # inner dimension, of one expert where there are experts
    gated: bool = _column(_flag, True)
    vocab: int | None = _column(_positive_count)
    tied: bool = _column(_flag, False, "tied_embeddings")
    experts: int = _column(_natural, 0)
    topk: int = _column(_natural, 0)
    shared_experts: int = _column(_natural, 0)
    moe_layers: int = _column(_natural, 0)
    attention: str = _column(_text, "")  # mha, gqa, mqa, mla, swa-mix, hybrid
    arch_note: str = _column(_text, "")
    chip: str = _column(_text, "", required=True)
    num_chips: int = _column(_positive_count, 1, "n_chips", required=True)
    chips_per_node: int | None = _column(_positive_count)
    network: str = _column(_text, "")
    precision: str = _column(_text, "bf16")
    tp: int = _column(_positive_count, 1)
    pp: int = _column(_positive_count, 1)
    vpp: int | None = _column(_positive_count)
    cp: int = _column(_positive_count, 1)
    ep: int = _column(_positive_count, 1)
    etp: int = _column(_positive_count, 1)
    dp: int | None = _column(_positive_count)
    zero: int | None = _column(_stage, None, "zero_stage")
    sequence_parallel: bool | None = _column(_flag)
    micro_batch: int | None = _column(_positive_count)
    batch: int = _column(_positive_count, 1, "global_batch", required=True)
    seq: int = _column(_positive_count, 1, required=True)
    recompute: str = _column(_text, "")
    offload: str = _column(_text, "")
    overlap: str = _column(_text, "")
    kind: str = _column(_text, "pretrain", "training_kind")
    step_time_s: float = _column(_positive, math.nan)
    tokens_per_s_per_chip: float = _column(_positive, math.nan)
    peak_memory_bytes: float | None = _column(_gib, None, "peak_memory_gib")
    quality: str = _column(_text, "A")
    notes: str = _column(_text, "")
    group: str = _column(_text, "")  # one configuration; repeats share it
    family: str = _column(_text, "")
    split: str = _column(_text, "")  # fit, test-config, test-family

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch * self.seq

    @property
    def data_parallel(self) -> int:
        """Data-parallel ranks: as stated, else what the other degrees leave."""
        return self.dp if self.dp is not None else self.num_chips // (self.tp * self.cp * self.pp)


_FIELDS = dataclasses.fields(Case)
_COLUMN = {f.name: str(f.metadata["column"] or f.name) for f in _FIELDS}
_KINDS = ("pretrain", "sft", "lora")


def read_cases(path: str | Path) -> list[Case]:
    """Read measured training runs from a CSV file with a header line.

    Needed: ``chip, n_chips, global_batch, seq``; the measurement, ``step_time_s`` or
    ``tokens_per_s_per_chip``; and the model, as dimensions (``layers, hidden, heads, ffn, vocab``) or as
    a catalog name in ``model``.

    Raises:
        CaseError: no such file, a needed column or value is missing, or a value is not what its column holds.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_header(path, reader.fieldnames)
            return [_read_row(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise CaseError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise CaseError(f"{path}: not a CSV text file in UTF-8: {error}") from error


def _check_header(path: Path, names: Any) -> None:
    columns = set(names or ())
    if not columns:
        raise CaseError(f"{path}: empty file; expected a header line with column names")
    missing = [_COLUMN[f.name] for f in _FIELDS if f.metadata["required"] and _COLUMN[f.name] not in columns]
    if not columns & {"step_time_s", "tokens_per_s_per_chip"}:
        missing.append("step_time_s")
    if not columns & {"layers", "model"}:
        missing.append("model")
    if missing:
        raise CaseError(f"{path}, line 1: missing column{'s'[: len(missing) > 1]} {', '.join(missing)}")


def _read_row(path: Path, line: int, row: Mapping[str, Any]) -> Case:
    values = {"id": f"line-{line}", **{name: text for name, text in row.items() if name and text}}
    return case_of(values, f"{path}, line {line}")


def case_of(row: Mapping[str, Any], where: str) -> Case:
    """The case in a mapping of CSV column to text or number; ``where`` opens the message of a CaseError."""
    values: dict[str, Any] = {}
    for f in _FIELDS:
        column = _COLUMN[f.name]
        text = str(row.get(column, "")).strip()
        if text:
            try:
                values[f.name] = f.metadata["read"](text)
            except ValueError as error:
                raise CaseError(f"{where}, column {column}: '{text}': {error}") from None
        elif f.metadata["required"]:
            raise CaseError(f"{where}, column {column}: empty; this value is needed")
    values.setdefault("group", values.get("id", ""))
    return _checked(Case(**values), where)


def _checked(case: Case, where: str) -> Case:
    """Fill the measurement that follows from the other, and hold the degrees to the chip count."""
    if case.kind not in _KINDS:
        raise CaseError(f"{where}, column training_kind: '{case.kind}': expected one of {', '.join(_KINDS)}")
    if case.num_chips != case.tp * case.pp * case.cp * case.data_parallel:
        product = f"tp {case.tp} x pp {case.pp} x cp {case.cp} x dp {case.data_parallel}"
        raise CaseError(f"{where}, column n_chips: '{case.num_chips}': expected the product of {product}")
    if not math.isnan(case.step_time_s):
        rate = case.tokens / case.step_time_s / case.num_chips
        return dataclasses.replace(case, tokens_per_s_per_chip=rate)
    if not math.isnan(case.tokens_per_s_per_chip):
        seconds = case.tokens / case.tokens_per_s_per_chip / case.num_chips
        return dataclasses.replace(case, step_time_s=seconds)
    raise CaseError(f"{where}, column step_time_s: empty; this value is needed")
