"""Numba, imported only by modules that run a simulation, with types that a checker can read.

Compiled functions take a state and a table as one pointer each. Passing the arrays themselves (a dozen, of seven
numbers each, at every call) made the loop several times slower to compile and to run.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from ridgeline import files
from ridgeline.sim.serving.state import ENGINE, ENTRY, LANE, REQUEST, UNIT, Records, State

try:
    import numba
    from numba import from_dtype, njit, types
    from numba.extending import intrinsic
    from numba.np import arrayobj
except (
    Exception
) as error:  # without llvmlite, with a NumPy that is too new, with a library that does not load
    reason = files.one_line(str(error) or type(error).__name__, 200)
    logging.getLogger("ridgeline").warning(
        "note: Numba cannot be loaded: the simulation runs in plain Python, some hundred times slower (%s)",
        reason,
    )
    compiles = False
else:
    #: Numba is told by the variable ``NUMBA_DISABLE_JIT`` to leave functions as they are.
    compiles = not getattr(numba.config, "DISABLE_JIT", 0)

Function = TypeVar("Function", bound=Callable[..., Any])


def jit(function: Function) -> Function:
    """Compile ``function`` when it is first called."""
    return cast(Function, njit(error_model="numpy")(function)) if compiles else function


def keep(function: Function) -> Function:
    """As `jit`, and keep the machine code on disk: for entry points, which take a state and a table first."""
    if not compiles:
        return cast(Function, _on_records(function))
    compiled: Any = jit(function)
    try:
        from ridgeline.sim.serving.machine_code import MachineCode

        compiled._cache = MachineCode(cast(Any, function), sources(function.__code__.co_filename))
    except Exception as error:  # a Numba that is not as expected
        logging.getLogger("ridgeline").warning("note: compiled code is not kept: %s", error)

    @functools.wraps(function)
    def run(*values: Any) -> Any:
        try:
            return compiled(*values)
        except Exception as error:
            reason = files.one_line(str(error) or type(error).__name__, 150)
            raise ValueError(
                f"Numba cannot compile the simulation: {reason}; NUMBA_DISABLE_JIT=1 runs it in plain Python, some "
                "hundred times slower"
            ) from error

    return cast(Function, run)


@functools.cache
def sources(own: str) -> str:
    """A checksum of the files with compiled functions, and of an entry point's ``own``.

    Machine code made from other sources is never run.
    """
    total = hashlib.sha256(Path(own).read_bytes())
    for name in ("jit", "state", "outcome", "span", "kv", "queues", "admission", "end", "unit", "loop"):
        total.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return total.hexdigest()


def _view(field: str, dtype: Any) -> Any:
    """A compiled function from a state to the array whose address is in its ``field``; its length is not known."""
    if not compiles:
        return lambda state: _at(int(state[field]), np.dtype(dtype))
    arrays: Any = arrayobj  # has no types
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


# Plain Python


def _at(address: int, dtype: Any, length: int = 1 << 32) -> Records:
    """The array at an address; records have their fields as attributes, as in compiled code."""
    memory = (ctypes.c_char * (length * dtype.itemsize)).from_address(address)
    found = np.frombuffer(memory, dtype)
    return found.view(np.recarray) if dtype.names else found


def _on_records(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(state: Any, table: Any, *more: Any) -> Any:
        both = (_at(one.__array_interface__["data"][0], one.dtype, 1)[0] for one in (state, table))
        with np.errstate(all="ignore"):  # integers wrap around, as in compiled code
            return function(*both, *more)

    return run
