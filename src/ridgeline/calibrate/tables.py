"""Kernel timing tables: how rows are read, grouped by library and split.

A table is a mapping of column name to NumPy array. Latency is in milliseconds as published; everything
here is in seconds. Parquet, and CSV with the same columns, is read with pyarrow, imported only when a file is read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline import files

#: Rows of a table that is read whole: some ten columns of eight bytes take 4 GB.
MOST_READ = 50_000_000

Table = Mapping[str, NDArray[Any]]

#: Chip name in the tables -> catalog name.
CHIPS = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200-sxm",
    "b200_sxm": "b200-sxm",
    "b300_sxm": "b300-sxm",
    "gb200": "gb200",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
#: Number formats of the tables -> ours. Weight-only and smoothed formats are other kernels, not modelled.
FORMATS = {
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "fp8": "fp8", "fp8_block": "fp8-block",
    "nvfp4": "nvfp4", "mxfp8": "mxfp8", "mxfp4": "mxfp4", "int8": "int8",
}  # fmt: skip
#: Formats whose timed product also quantises the activation, in a kernel of its own.
QUANTISED = ("fp8", "fp8-block", "nvfp4", "mxfp8", "mxfp4")
#: Kernel time; other ways of timing include the host.
TIMED = ("device", "graph")
HELD_OUT = 0.3
MOST_ROWS = 2500
#: A library with fewer rows than this is priced by another one's fit, unless the whole table of the chip is that short.
LEAST_ROWS = 100


class TableError(ValueError):
    """A table cannot be read or holds something else; the message names the file."""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of one chip, library and number formats, with ``seconds`` added."""

    library: str  # framework/kernel
    version: str
    formats: tuple[str, ...]  # one per dtype column, ours
    rows: dict[str, NDArray[Any]]

    def source(self, table: str) -> str:
        """Where the numbers come from, for a provenance line: the table's own column ``source``, if it has one."""
        if "source" in self.rows:
            return str(self.rows["source"][0])
        return f"aiconfigurator {table} {self.version}"


def opened(path: Path) -> Any:
    """A file of a table as pyarrow's ``ParquetFile``; CSV, which is for short tables, is turned into one in memory.

    Raises:
        ImportError: pyarrow is absent; the message says what to install.
        TableError: missing, no file, or neither, as pyarrow says.
    """
    try:
        import pyarrow.csv
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("reading kernel tables needs pyarrow: pip install 'ridgeline[kernels]'") from error
    with readable(path):
        files.open_file(path).close()  # pyarrow itself waits for a pipe, and reads a device without end
        if path.suffix != ".csv":
            return parquet.ParquetFile(path)
        held = BytesIO()
        parquet.write_table(pyarrow.csv.read_csv(BytesIO(files.read_bytes(path))), held)
        return parquet.ParquetFile(held)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever pyarrow raises over a damaged file into one TableError that names it.

    Its own errors are of many kinds: some are ValueErrors, some are OSErrors or KeyErrors, some neither.
    """
    import pyarrow

    try:
        yield
    except (TableError, files.FileError):
        raise
    except (pyarrow.ArrowException, OSError, OverflowError, MemoryError) as error:
        said = files.one_line(str(error).strip().partition("\n")[0], 160) or type(error).__name__
        raise TableError(f"{files.shown_path(path)}: not a parquet file ({said})") from None
    except ValueError as error:  # our own, about what the table holds
        raise TableError(f"{files.shown_path(path)}: {files.short(str(error), 300)}") from None


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Columns of one table; text as dictionary codes would do, so equal words are one object. Raises as `opened`."""
    file = opened(path)
    if file.metadata.num_rows > MOST_READ:
        raise TableError(
            f"{files.shown_path(path)}: {file.metadata.num_rows:,} rows; expected at most {MOST_READ:,}"
        )
    with readable(path):
        table = file.read()
        return {name: table[name].to_numpy() for name in table.column_names}


def select(table: Table, mask: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Rows under a mask or an index."""
    return {name: values[mask] for name, values in table.items()}


def groups(table: Table, chip: str, dtype_columns: tuple[str, ...]) -> Iterator[Group]:
    """The timed rows of ``chip`` by library and number formats, in the order of their names.

    Formats that are not modelled, rows without a latency and libraries with fewer than `LEAST_ROWS` are left out.
    """
    mask = (table["chip"] == chip) & np.isin(table["timing_mode"], TIMED) & (table["latency"] > 0)
    rows = select(table, np.flatnonzero(mask))
    if not len(rows["latency"]):
        return
    rows["seconds"] = rows["latency"].astype(np.float64) * 1e-3
    words = ("framework", "kernel_source", *dtype_columns)
    code = np.zeros(len(rows["latency"]), dtype=np.int64)
    for word in words:
        names, number = np.unique(rows[word].astype(str), return_inverse=True)
        code = code * len(names) + number.reshape(-1)
    for one in np.unique(code):
        index = np.flatnonzero(code == one)
        named = [str(rows[word][index[0]]) for word in words]
        if len(index) < min(LEAST_ROWS, len(code)) or any(name not in FORMATS for name in named[2:]):
            continue
        chosen = select(rows, index)
        version = "/".join(sorted({str(name) for name in chosen["version"]}))
        yield Group(f"{named[0]}/{named[1]}", version, tuple(FORMATS[name] for name in named[2:]), chosen)


def held_out(rows: Table, keys: tuple[str, ...]) -> NDArray[np.bool_]:
    """Mask of the 30 % of *shapes* that no number is fitted on: a hash of the shape, so every run agrees."""
    state = np.zeros(len(rows[keys[0]]), dtype=np.uint64)
    for key in keys:
        state = (state ^ rows[key].astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        state ^= state >> np.uint64(29)
    mixed = state * np.uint64(0xBF58476D1CE4E5B9) >> np.uint64(40)
    return np.asarray(mixed.astype(np.float64) / 2.0**24 < HELD_OUT)


def thin(mask: NDArray[np.bool_], most: int = MOST_ROWS) -> NDArray[np.bool_]:
    """At most ``most`` of the true entries, spread evenly and always the same."""
    index = np.flatnonzero(mask)
    if len(index) <= most:
        return mask
    kept = np.zeros_like(mask)
    kept[index[np.linspace(0, len(index) - 1, most).astype(np.int64)]] = True
    return kept
