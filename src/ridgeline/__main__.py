"""The command ``ridgeline``, also as ``python -m ridgeline``. Ctrl-C ends it with one line and code 130.

Little is imported before Ctrl-C is taken care of: what comes earlier is Python's own start.
"""

from __future__ import annotations

import os
import sys

INTERRUPTED = 130
_asked = False


def main() -> int:
    """Run the command line of this process and return its exit code."""
    from ridgeline.cli import streams
    from ridgeline.cli.main import main as run
    from ridgeline.cli.shared import say

    _on_interrupt(_interrupt)
    try:
        code = run()
    except BaseException:
        # Compiled modules turn an interruption of their import into errors of their own.
        if not _asked:
            raise
        _stop()
    _on_interrupt(_stop)
    if (error := streams.flush_stdout()) is not None:
        say(f"error: standard output: {getattr(error, 'strerror', None) or error}", err=True)
        code = code or 2
    streams.flush_stderr()
    if _asked:  # a way out over `sys.exit` looks killed where Ctrl-C came within `exec`
        os._exit(INTERRUPTED)
    _on_interrupt(signal.SIG_IGN)  # all is said; what is left takes milliseconds
    return code


def _stop(*_: object) -> None:
    """End at once: an exception within an import comes out as anything, and there is nothing to undo."""
    try:
        os.write(2, b"interrupted\n")
    finally:
        os._exit(INTERRUPTED)


def _interrupt(*_: object) -> None:
    """Let the job say what it has done; a second Ctrl-C ends at once."""
    global _asked
    if _asked:
        _stop()
    _asked = True
    raise KeyboardInterrupt


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    """An interruption within a destructor or a callback would be printed and forgotten."""
    if isinstance(problem.exc_value, KeyboardInterrupt):
        _stop()
    sys.__unraisablehook__(problem)


def _on_interrupt(handler: Any) -> None:
    if _handled:
        signal.signal(signal.SIGINT, handler)


try:
    import signal

    # It may be ignored, as by nohup.
    _handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    _on_interrupt(_stop)
except KeyboardInterrupt:
    _stop()

if _handled:
    sys.unraisablehook = _unraisable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

if __name__ == "__main__":
    sys.exit(main())
