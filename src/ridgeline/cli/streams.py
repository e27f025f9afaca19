"""Standard streams that are closed, full or left by their reader: files and exit codes are right all the same."""

from __future__ import annotations

import contextlib
import io
import os
import sys


def stand_in() -> None:
    """Give every closed stream the null device.

    Otherwise the next file that is opened gets the stream's number, and what is said goes into it; and Python has
    None for a stream that is closed as it starts.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _null(number)
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)


def leave_stdout() -> None:
    """Write no more to standard output: Python would complain again when it flushes at exit."""
    _null(1)


def leave_stderr() -> None:
    """Write no more to standard error: where nobody can be told, work and exit code stay as they are."""
    _null(2)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()


def flush_stdout() -> OSError | ValueError | None:
    """Write out what is held back -> why that failed; a reader of a pipe that has gone has what it wanted."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        leave_stdout()
        return None if isinstance(error, BrokenPipeError) else error
    return None


def flush_stderr() -> None:
    """Write out what is held back: Python's own attempt at exit would change the exit code where it fails."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        leave_stderr()


def _text(number: int) -> io.TextIOWrapper:
    file = io.FileIO(number, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(file), encoding="utf-8", line_buffering=True)


def _null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    os.dup2(opened, number)
    if opened != number:
        os.close(opened)
