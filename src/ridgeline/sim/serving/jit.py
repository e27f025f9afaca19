"""Numba, imported only by modules that run a simulation, with types that a checker can read.

Compiled functions take a state and a table as one pointer each. Passing the arrays themselves (a dozen, of seven
numbers each, at every call) made the loop several times slower to compile and to run.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numba import from_dtype, njit, types
from numba.extending import intrinsic
from numba.np import arrayobj

from ridgeline.sim.serving.state import ENGINE, ENTRY, LANE, REQUEST, UNIT, Records, State

arrays: Any = arrayobj  # has no types
Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile ``function`` when it is first called."""
    return cast(Function, njit(error_model="numpy")(function))


def keep(function: Function) -> Function:
    """As `jit`, and keep the machine code on disk: for entry points.

    Numba looks only at the file of the function itself for changes, so an entry point must be a closure over
    `source_stamp`, which becomes part of the key that its code is kept under.
    """
    return cast(Function, njit(cache=True, error_model="numpy")(function))


def source_stamp() -> int:
    """A checksum of the files with compiled functions: machine code made from other sources is never run."""
    stamp = 0
    for name in ("jit", "state", "outcome", "span", "kv", "queues", "admission", "end", "unit", "loop"):
        stamp = zlib.crc32(Path(__file__).with_name(f"{name}.py").read_bytes(), stamp)
    return stamp


def _view(field: str, dtype: Any) -> Any:
    """A compiled function from a state to the array whose address is in its ``field``; its length is not known."""
    array = types.Array(from_dtype(np.dtype(dtype)), 1, "C")

    @intrinsic
    def view(typing: Any, state: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            made = arrays.make_array(array)(context, builder)
            word = context.get_value_type(types.int64)
            first = builder.bitcast(args[0], context.get_value_type(types.voidptr))
            at = builder.gep(first, [word(state.offset(field))])
            address = builder.load(builder.bitcast(at, word.as_pointer()))
            size = context.get_constant(types.intp, np.dtype(dtype).itemsize)
            arrays.populate_array(
                made,
                data=builder.inttoptr(address, made.data.type),
                shape=[context.get_constant(types.intp, 1 << 40)],
                strides=[size],
                itemsize=size,
                meminfo=None,
            )
            return made._getvalue()

        return array(state), generate

    return view


requests: Callable[[State], Records] = _view("requests", REQUEST)
lanes: Callable[[State], Records] = _view("lanes", LANE)
units: Callable[[State], Records] = _view("units", UNIT)
engines: Callable[[State], Records] = _view("engine", ENGINE)
entries: Callable[[State], Records] = _view("entries", ENTRY)
ints: Callable[[State], Records] = _view("ints", np.int64)
floats: Callable[[State], Records] = _view("floats", np.float64)
hashes: Callable[[State], Records] = _view("hashes", np.int64)
hash_starts: Callable[[State], Records] = _view("hash_starts", np.int64)
