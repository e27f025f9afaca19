"""Notes: what a user should know beside the answer, each told once in a process."""

from __future__ import annotations

import functools
import logging


@functools.cache
def tell(line: str) -> None:
    """Log one line for the user: without handlers, logging writes a warning to standard error as it is."""
    logging.getLogger("ridgeline").warning("note: %s", line)
