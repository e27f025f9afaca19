"""Verdict: what became of one input, and the judge who runs a reader on it within limits of time and memory."""

from __future__ import annotations

import dis
import io
import signal
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

import ridgeline

#: Kinds that are right: read, or refused with one message.
CLEAN, REFUSED = "clean", "clear error"
#: Kinds that are failures.
FAILURES = ("traceback", "hang", "memory", "killed", "long message", "unclear message", "nonsense", "warning")
#: Characters of a message at most.
LONGEST = 400
_PACKAGE, _HERE = str(Path(ridgeline.__file__).parent), str(Path(__file__).parent)


@dataclass(frozen=True, slots=True)
class Verdict:
    """``where`` tells failures of one cause apart: the exception and the line that raised it, or what is wrong."""

    kind: str
    where: str = ""
    message: str = ""

    @property
    def failed(self) -> bool:
        return self.kind in FAILURES


class Hang(BaseException):
    """The limit of time is over; no ``except Exception`` catches it."""


#: What is wrong with a value, in words or with its kind; None if nothing.
Wrong = str | Verdict | None


def judge(run: Callable[[], Wrong], limit_s: float = 10.0) -> Verdict:
    """Run one reader on one input. ``run`` returns what is wrong with what it read.

    Time is of the processor, so that a loaded machine makes no hangs; what waits without using any is the watchdog's.
    """
    with warnings.catch_warnings(record=True) as warned, _limit(limit_s):
        warnings.simplefilter("always")
        try:
            wrong = run() or Verdict(CLEAN)
            found = Verdict("nonsense", wrong.split(":")[0], wrong) if isinstance(wrong, str) else wrong
        except Hang as error:
            found = Verdict("hang", _place(error.__traceback__), f"over {limit_s:g} s of processor time")
        except MemoryError as error:
            found = Verdict("memory", _place(error.__traceback__), str(error)[:200])
        except (ValueError, OSError) as error:
            found = refusal(error)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            found = Verdict(
                "traceback", f"{type(error).__name__} at {_place(error.__traceback__)}", str(error)[:200]
            )
    if not found.failed and warned:
        first = warned[0]
        where = f"{first.category.__name__} at {_short(first.filename)}:{first.lineno}"
        return Verdict("warning", where, str(first.message)[:200])
    return found


def refusal(error: ValueError | OSError) -> Verdict:
    """Whether an exception that `main` prints was meant for a user."""
    from ridgeline.cli.main import _words

    ours = type(error).__module__.startswith("ridgeline")
    if isinstance(error, ValueError) and not ours and not _meant(error.__traceback__):
        where = f"{type(error).__name__} at {_place(error.__traceback__)}"
        return Verdict("unclear message", where, str(error)[:200])
    return message_verdict(_words(error), f"{type(error).__name__} at {_place(error.__traceback__)}")


def message_verdict(message: str, where: str) -> Verdict:
    """Whether a message is short and can be shown on a terminal. Its lines may be indented below the first one."""
    if len(message) > LONGEST:
        return Verdict("long message", where, f"{len(message):,} characters: {message[:120]!r}")
    if not message:
        return Verdict("unclear message", where, "no word")
    odd = controls(message.replace("\n  ", " "))
    if odd:
        return Verdict(
            "unclear message", f"control character in message, {where}", f"{odd} in {message[:200]!r}"
        )
    return Verdict(REFUSED, where, message)


def controls(text: str) -> str:
    """The first character that a line must not hold, by its number; empty where there is none."""
    if text.isascii() and text.isprintable():
        return ""
    found = (
        one for one in text if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or one in "\u202e\ufeff"
    )
    return next((f"U+{ord(one):04X}" for one in found), "")


def command(words: list[str]) -> Verdict | None:
    """Run a command in this process: exit 0, or exit 2 with one message of at most `LONGEST` characters.

    Raises what the command raises.
    """
    from ridgeline.cli.main import main

    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    old = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        code = main(words)
    finally:
        sys.stdout, sys.stderr = old
    said, errors = (stream.buffer.getvalue().decode() for stream in (out, err))
    return _ended(code, said, errors, f"exit {code} of {words[0] if words else 'no verb'}", words[:2])


def _ended(code: int, said: str, errors: str, where: str, verb: list[str]) -> Verdict | None:
    """How a command ended; ``catalog check`` lists all problems and has a limit for each."""
    if code not in (0, 2):
        return Verdict("traceback", where, errors[:200])
    if code == 2 and not errors.strip() and "Usage: " not in said:  # a group without a verb shows its help
        return Verdict("unclear message", where, "no word")
    message = errors.strip().removeprefix("error: ")
    longest = max(map(len, message.splitlines() if verb == ["catalog", "check"] else [message]), default=0)
    if code == 2 and longest > LONGEST:
        return Verdict("long message", where, f"{longest:,} characters: {message[:120]!r}")
    for name, text in (("standard error", errors), ("standard output", said)):
        odd = controls(text.replace("\n", " "))
        if odd:
            return Verdict(
                "unclear message", f"control character on {name}, {where}", f"{odd} in {text[:200]!r}"
            )
    if "Traceback (most recent" in errors or "Warning: " in errors:
        return Verdict("warning", where, errors[:200])
    return None if code == 0 else Verdict(REFUSED, where, message)


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def _meant(trace: TracebackType | None) -> bool:
    """Whether the exception comes from a ``raise`` of ours, rather than from an operation that went wrong."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return True
    code = trace.tb_frame.f_code
    return code.co_filename.startswith((_PACKAGE, _HERE)) and dis.opname[code.co_code[trace.tb_lasti]] in (
        "RAISE_VARARGS",
        "RERAISE",
    )


def _place(trace: TracebackType | None) -> str:
    """The innermost line of Ridgeline, or of whoever raised."""
    frames = traceback.extract_tb(trace)
    ours = [frame for frame in frames if frame.filename.startswith(_PACKAGE)]
    chosen = next(reversed(ours or list(frames)), None)
    return f"{_short(chosen.filename)}:{chosen.lineno} {chosen.name}" if chosen else "?"


def _short(filename: str) -> str:
    parts = Path(filename).parts
    return "/".join(parts[-2:])
