"""The command ``ridgeline``: verbs, and how errors and interruptions end."""

from __future__ import annotations

import csv
import errno
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from ridgeline import files
from ridgeline.cli import (
    calibrate,
    calibrate_links,
    calibrate_serving,
    catalog,
    explain,
    serve,
    train,
    validate,
)
from ridgeline.cli.shared import Interrupted, say
from ridgeline.cli.streams import leave_stdout, stand_in

USAGE, INTERRUPTED = 2, 130
#: Base of everything that a wrong command line raises; Typer brings its own copy of Click since 0.2x.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="ridgeline",
    help="How fast a giant model trains or serves on a platform, what binds it and what to change.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("train")(train.train)
app.command("serve")(serve.serve)
app.command("explain", context_settings=explain.CONTEXT)(explain.explain)
app.command("validate")(validate.validate)
calibrate.app.command("links")(calibrate_links.links)
calibrate.app.command("serving")(calibrate_serving.serving)
calibrate.app.command("ranges")(calibrate_serving.ranges)
app.add_typer(calibrate.app, name="calibrate")
app.add_typer(catalog.app, name="catalog")


@app.callback(invoke_without_command=True)
def ridgeline(
    version: bool = typer.Option(False, "--version", help="print the version and end", is_eager=True),
) -> None:
    """How fast a giant model trains or serves on a platform, what binds it and what to change."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"ridgeline {installed('ridgeline')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 2 a mistake in what was asked, 130 interrupted.

    A mistake is one message on standard error, never a stack trace; ``RIDGELINE_DEBUG=1`` raises it instead.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    stand_in()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal without Unicode gets a replacement, not a crash
            stream.reconfigure(errors="replace")
    if not os.environ.get("RIDGELINE_DEBUG"):  # numbers beyond any machine are refused where they are read
        warnings.simplefilter("ignore", RuntimeWarning)
    try:
        code = app(args=words, prog_name="ridgeline", standalone_mode=False, obj=words)
    except _ClickError as error:
        message = error.format_message()  # type: ignore[attr-defined]
        if type(error).__name__ == "NoArgsIsHelpError":  # a bare `ridgeline` asks what there is
            typer.echo(message)
            return USAGE
        return _fail(message)
    except Interrupted as error:
        return _fail(f"interrupted: {error}", INTERRUPTED)
    except (typer.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__cause__, EOFError):  # Typer takes the early end of a file for Ctrl-C
            return _fail(f"a file ends too early: {error.__cause__}")
        return _fail("interrupted", INTERRUPTED)
    except (BrokenPipeError, SystemExit) as end:
        # The reader of a pipe has gone, which Click turns into an exit with 1, a code that nothing else here has.
        if isinstance(end, SystemExit) and end.code != 1:
            raise
        leave_stdout()
        return 0
    except (*_LIMITS, ValueError, OSError) as error:
        if os.environ.get("RIDGELINE_DEBUG"):
            raise
        return _fail(_words(error))
    except Exception as error:
        # Errors of a library that is not loaded here cannot be named: those of Arrow are no ValueErrors.
        if os.environ.get("RIDGELINE_DEBUG") or not type(error).__module__.startswith("pyarrow"):
            raise
        return _fail(_words(error))
    if code == INTERRUPTED:  # how newer versions of Typer end after Ctrl-C, without a word
        return _fail("interrupted", INTERRUPTED)
    return code if isinstance(code, int) else 0


#: What a reader that forgot a limit ends with: a net below the readers, which know the file and the line.
_LIMITS = (MemoryError, RecursionError, OverflowError, csv.Error)


_NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EIO)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{files.shown_path(error.filename)}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in _NO_ROOM:  # files are named where they are written
        leave_stdout()
        return f"standard output: {error.strerror}"
    said = str(error).strip()
    if isinstance(error, MemoryError):
        return f"not enough memory: {said or 'the question is too large for this machine'}"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply"
    if isinstance(error, OverflowError):
        return f"a number is too large: {said}"
    return said or type(error).__name__


def _fail(message: str, code: int = USAGE) -> int:
    prefix = "" if code == INTERRUPTED else "error: "
    seen = "\n".join(
        map(files.one_line, message.expandtabs(1).split("\n"))
    )  # before it is cut: escapes take room
    say(f"{prefix}{files.short(seen, end=' ... (RIDGELINE_DEBUG=1 shows all)')}", err=True)
    return code
