"""Numba, imported only by modules that run a simulation, with types that a checker can read."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from numba import njit  # type: ignore[import-untyped, unused-ignore]

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile ``function`` when it is first called."""
    compiled: Function = njit(error_model="numpy")(function)
    return compiled


def keep(function: Function) -> Function:
    """As `jit`, and keep the machine code on disk: for entry points.

    Numba looks only at the file of the function itself for changes, so an entry point must be a closure over
    `source_stamp`, which becomes part of the key that its code is kept under.
    """
    compiled: Function = njit(cache=True, error_model="numpy")(function)
    return compiled


def source_stamp() -> int:
    """A checksum of all files of this package: machine code made from other sources is never run."""
    stamp = 0
    for path in sorted(Path(__file__).parent.glob("*.py")):
        stamp = zlib.crc32(path.read_bytes(), stamp)
    return stamp
