"""Machine code of entry points, kept on disk between runs: checked before it is loaded, and never needed.

One file holds a checksum, what its code was made from and for, and Numba's pickle of it. To load a pickle or machine
code is to run it: a file is taken only where this user (or root) alone can write and its checksum holds. Numba's own
cache checks neither, and ends in a stack trace or a broken process. Whatever is wrong with a file or a folder is said
in one line, and the function compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core import caching, compiler, config, serialize

from ridgeline import files
from ridgeline.facts import notes

#: Names the folder that code is kept in; without it the user's cache folder is taken, or one of temporary files.
VARIABLE = "RIDGELINE_CACHE"
#: Files of a folder that stay, the newest; an entry point has one for each version of its sources, machine and Numba.
MOST_FILES = 60
_COMPILER: Any = compiler  # have no types
_SERIALIZE: Any = serialize
_MAKING = "compiling the event loop of serving engines, which takes a minute or so:"


class MachineCode(caching._Cache):
    """What Numba asks for the machine code of one function before it compiles, and gives it to afterwards."""

    def __init__(self, function: FunctionType, sources: str) -> None:
        assert function.__closure__ is None, "what a closure holds is no part of the key"
        self.function, self.sources = function, sources

    @property
    def cache_path(self) -> str | None:
        return next((str(folder) for folder in folders()), None)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for the types ``sig``; None = it has to be compiled."""
        damaged = False
        try:
            target_context.refresh()
            key = self._key(sig, target_context)
            for path in (folder / self._name(key) for folder in folders()):
                try:
                    payload = _payload(path, key)
                    if payload is not None:
                        return _COMPILER.CompileResult._rebuild(target_context, *pickle.loads(payload))
                except Exception as error:  # a pickle may raise anything
                    damaged = True
                    _set_aside(path, error)
        except Exception as error:  # a Numba that is not as expected
            notes.tell(f"kept machine code cannot be used with Numba {numba.__version__}: {error}")
        if not damaged:
            notes.tell(f"{_MAKING} {_until()}")
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function; where that cannot be, say so."""
        try:
            if data.library.has_dynamic_globals or any(not loop.can_cache for loop in data.lifted):
                return
            key = self._key(sig, data.target_context)
            body = key + b"\n" + _SERIALIZE.dumps(data._reduce())
        except Exception as error:  # a Numba that is not as expected
            notes.tell(f"machine code of Numba {numba.__version__} cannot be kept: {error}")
            return
        content = hashlib.sha256(body).hexdigest().encode() + b"\n" + body
        problem = ""
        for folder in folders():
            try:
                files.write(folder / self._name(key), content, mode=0o644)
            except OSError as error:
                problem = problem or f"compiled code cannot be kept in {folder}: {error.strerror}"
            else:
                _drop_old(folder)
                return
        if problem:
            notes.tell(problem)

    def enable(self) -> None:
        """It always is."""

    def disable(self) -> None:
        """It never is."""

    def flush(self) -> None:
        """Files of other sources and machines have other names."""

    def _key(self, sig: Any, target_context: Any) -> bytes:
        """All that machine code depends on, as one line."""
        parts = {
            "function": f"{self.function.__module__}.{self.function.__qualname__}",
            "types": repr(sig),
            "sources": self.sources,
            "machine": [sys.platform, *target_context.codegen().magic_tuple()],
            "options": [getattr(config, name, None) for name in ("OPT", "BOUNDSCHECK", "DEBUGINFO_DEFAULT")],
            "made by": [numba.__version__, llvmlite.__version__, np.__version__, sys.version],
        }
        return json.dumps(parts, default=str).encode()

    def _name(self, key: bytes) -> str:
        return f"{self.function.__name__}-{hashlib.sha256(key).hexdigest()[:16]}.code"


def folders() -> Iterator[Path]:
    """Folders that code may be read from and kept in, the best first."""
    named = os.environ.get(VARIABLE)
    for place in ([named] if named else []) + list(_places()):
        folder = Path(os.path.expanduser(place), "compiled")
        if not (problem := _problem(folder)):
            yield folder
        elif place is named:
            notes.tell(f"{VARIABLE} = {files.shown_path(place)} is passed over: {problem}")


def _problem(folder: Path) -> str:
    """Why a folder, which is made where it is not there, cannot be used; empty = it can."""
    if folder.parts[0].startswith("~"):
        return "no such user, or no home folder"
    try:
        os.makedirs(folder.parent, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        status = os.lstat(folder)
    except (FileExistsError, NotADirectoryError):
        return "is no folder"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return str(getattr(error, "strerror", None) or error)
    if not stat.S_ISDIR(status.st_mode):
        return f"'{folder.name}' in it is no folder"
    return "" if _is_safe(status) else f"others can write into '{folder.name}' in it"


def _places() -> Iterator[str]:
    """Where code is kept unless the variable says so."""
    home = os.path.expanduser("~")
    if os.path.isabs(named := os.environ.get("XDG_CACHE_HOME", "")):
        yield os.path.join(named, "ridgeline")
    elif os.path.isdir(home) and os.path.isabs(home):
        yield os.path.join(home, ".cache", "ridgeline")
    # Python itself would fall back to the working folder.
    temporary = os.environ.get("TMPDIR") or ("/tmp" if os.name == "posix" else tempfile.gettempdir())
    yield os.path.join(temporary, f"ridgeline-{_user()}")


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _is_safe(status: os.stat_result) -> bool:
    """Whether no stranger can have written a file or into a folder; root can do as it likes anyway."""
    if os.name != "posix":  # folders of a user are closed to others, and files have no such modes
        return True
    return status.st_uid in (_user(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _payload(path: Path, key: bytes) -> bytes | None:
    """The pickle in a file made for ``key``; None = there is no such file. Raises ValueError for any other."""
    if not os.path.lexists(path):
        return None
    with files.open_file(path) as file:
        if not _is_safe(os.fstat(file.fileno())):
            raise ValueError("others can write it")
        content = file.read(files.MOST_BYTES)
    digest, _, body = content.partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ValueError("it is damaged")
    made_for, _, payload = body.partition(b"\n")
    if made_for != key:
        raise ValueError("it was made for something else")
    return payload


def _set_aside(path: Path, error: Exception) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    reason = files.one_line(str(getattr(error, "reason", error)) or type(error).__name__, 80)
    notes.tell(f"compiled code is made anew, {files.shown_path(path)} is not used: {reason}")


def _until() -> str:
    if any(os.access(folder, os.W_OK) for folder in folders()):
        return "once, then it is kept"
    return f"in every run, for no folder can keep it; name one in {VARIABLE}"


def _drop_old(folder: Path) -> None:
    """Leave the newest files of a folder, what a killed process left among them."""
    with contextlib.suppress(OSError):
        found = [entry for entry in os.scandir(folder) if entry.name.endswith((".code", ".part"))]
        found.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
        for entry in found[MOST_FILES:]:
            os.unlink(entry)
