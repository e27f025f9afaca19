"""Files and text from outside: written whole or not at all, read within a limit, shown on one line.

Every file that Ridgeline writes goes through `write`, every file that it takes whole through `read_bytes` or
`read_text`, every file that it takes in pieces through `open_file`, and every text of a user that is put into a
comment, a terminal, a message or a spreadsheet through `one_line`, `shown` or `cell`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import signal
import stat
import threading
import time
import unicodedata
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

#: Bytes of a file that is read whole, unless its reader says otherwise.
MOST_BYTES = 64 * 2**20
#: Seconds after which a file that is still being written is one whose writer was killed.
ABANDONED_S = 3600.0
#: Characters of a wrong value that a message repeats.
SHOWN = 60
#: Bytes that are taken from a disk at once.
_PIECE = 128 * 2**10
#: Characters of a message: what a terminal shows at a glance.
MESSAGE = 400

# Categories of characters that a line of text does not hold: controls (line feed and escape among them),
# invisible format marks (which may turn the direction of what follows), surrogates, line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# What a spreadsheet takes for the start of a formula (OWASP, CSV Injection).
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class FileError(ValueError):
    """A file that cannot be read; ``reason`` is the sentence without the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{shown_path(path)}: {reason}")


# Writing


def write(path: str | Path, content: str | bytes, mode: int = 0o666) -> Path:
    """Write a file whole or not at all, making its folder: what stood there stays until the new content is on disk.

    The content goes to a file beside it, which is synced and then renamed over it; a process that is killed at any
    moment, or a full disk, leaves the older file as it was. A symbolic link is followed, the older file's mode
    kept, and one that may not be written is not replaced; a new one gets ``mode``, narrowed by the umask. What is no
    file (``/dev/stdout``, a pipe with a reader) is written to as it is. Two writers: the last one wins, whole.
    What a writer of the same file left beside it when it was killed, an hour ago or more, is removed. A code point
    that UTF-8 does not have (a byte of a file's name that is no UTF-8) is written as its escape.

    Raises:
        OSError: the folder or the file cannot be written; ``filename`` is ``path``.
    """
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(target))
        older = _mode(target)
        if older is not None and not stat.S_ISREG(older):
            _pour(target, data)
            return Path(path)
        if older is not None and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _replace(target, data, older, mode)
    except OSError as error:
        # The rename and the write itself know no name, or that of the file beside: the user knows the target only.
        raise type(error)(error.errno, error.strerror, str(path)) from None
    return Path(path)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _pour(target: Path, data: bytes) -> None:
    """Write to a device or a pipe; one that nobody reads is refused, as its opening would wait for a reader."""
    descriptor = os.open(target, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "wb") as file:
        os.set_blocking(descriptor, True)
        file.write(data)


def _replace(target: Path, data: bytes, older: int | None, mode: int) -> None:
    beside = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.part")
    with _removed_when_told_to_end(beside):
        try:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as file:
                if older is not None:
                    os.chmod(beside, stat.S_IMODE(older))
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            os.replace(beside, target)
        except BaseException:  # Ctrl-C among them: nothing half written stays
            _unlink(beside)
            raise
    _sync_folder(target.parent)
    _sweep(target)


@contextlib.contextmanager
def _removed_when_told_to_end(beside: Path) -> Iterator[None]:
    """Remove ``beside`` before SIGTERM or SIGHUP end the process, where they would end it without a word."""

    def end(number: int, _: object) -> None:
        _unlink(beside)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    names = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    in_main = threading.current_thread() is threading.main_thread()  # no other thread may set a handler
    taken = [number for number in names if in_main and signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, end)
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _sweep(target: Path) -> None:
    """Remove what killed writers of ``target`` left: a power cut and SIGKILL let nobody clean up."""
    ours = re.compile(rf"\.{re.escape(target.name[:100])}\.[0-9a-f]{{32}}\.part")
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            if ours.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - ABANDONED_S:
                _unlink(Path(entry))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself last; systems that cannot sync a folder are left to themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Reading


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading in pieces: never a folder, nor a pipe or device, which may block or never end.

    Raises:
        FileError: missing, forbidden, or no file; also while it is read, where the disk or the system fails.
    """
    try:
        # Without O_NONBLOCK the mere opening of a pipe waits for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        raise FileError(path, "no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(path, error) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise FileError(path, f"is {_kind(mode)}, expected a file")
        return io.BufferedReader(_Named(descriptor, path), _PIECE)
    except BaseException:
        os.close(descriptor)
        raise


class _Named(io.FileIO):
    """A file whose errors say its name: those of Python's own know a number only."""

    def __init__(self, descriptor: int, path: Path) -> None:
        super().__init__(descriptor, "rb")
        self._path = path

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _unreadable(self._path, error) from None

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise _unreadable(self._path, error) from None


def _unreadable(path: Path, error: OSError | ValueError) -> FileError:
    return FileError(path, f"cannot be read: {getattr(error, 'strerror', None) or error}")


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a file of at most ``most`` bytes; no more than that is ever taken into memory.

    Raises:
        FileError: as `open_file`, or larger than ``most``.
    """
    with open_file(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FileError(path, f"larger than {_size(most)}; expected a smaller file")
    return content


def _size(most: int) -> str:
    return f"{most // 2**20} MB" if most >= 2**20 else f"{most:,} bytes"


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes, without a byte order mark and with plain line feeds.

    Raises:
        FileError: as `read_bytes`, or not UTF-8 (with the line and the byte).
    """
    content = read_bytes(path, most)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise FileError(path, f"line {line}: byte 0x{byte:02x} is not UTF-8 text") from None


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: not JSON (with its line), nested too deeply, or a number of thousands of digits; one sentence
            without the file's name.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = "; the file seems cut off" if error.pos >= len(text.rstrip()) else ""
        raise ValueError(
            f"line {error.lineno} column {error.colno}: not valid JSON: {error.msg}{cut}"
        ) from None
    except RecursionError:
        raise ValueError("not valid JSON: nested too deeply") from None
    except ValueError:  # Python refuses to read integers above 4,300 digits
        raise ValueError("not valid JSON: a number of thousands of digits") from None


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file of at most ``most`` bytes.

    Raises:
        FileError: as `read_text` and `parse_json`.
    """
    text = read_text(path, most)
    try:
        return parse_json(text)
    except ValueError as error:
        raise FileError(path, str(error)) from None


# Text of users


def unseen(character: str) -> bool:
    """Whether a character is a control, an invisible mark or a line separator: none belongs on a line of text.

    So are the code points that will never be characters, such as U+FFFF: YAML does not take them.
    """
    code = ord(character)
    never = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return never or unicodedata.category(character) in _UNSEEN


def one_line(text: str, most: int | None = None) -> str:
    r"""``text`` on one line that holds what can be seen only: ``a<LF>b`` becomes ``a\x0ab``. Cut at ``most``.

    For comments of emitted files, terminals and messages: no line feed ends a comment, no escape sequence colours
    a terminal, no invisible mark turns what follows.
    """
    if most is not None and len(text) > most:
        text = text[:most] + "..."
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(character) if unseen(character) else character for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(value: object, most: int = SHOWN) -> str:
    """A wrong value as a message quotes it: text in quotes, on one line, cut at ``most`` characters."""
    if isinstance(value, str):
        return f"'{one_line(value, most)}'"
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply; an integer above 4,300 digits
        text = f"a value of type {type(value).__name__}"
    return one_line(text, most)


def short(text: str, most: int = MESSAGE, end: str = "...") -> str:
    """``text`` of at most ``most`` characters: whole words are kept, ``end`` says that more was there."""
    if len(text) <= most:
        return text
    kept = text[: most - len(end)]
    words = kept[: kept.rfind(" ")] if kept.rfind(" ") > most // 2 else kept
    return words.rstrip() + end


def listed(head: str, lines: Sequence[str], rest: str = "", most: int = MESSAGE) -> str:
    """``head`` and problems below it, each on a line of its own: as many as ``most`` characters hold.

    ``rest`` follows the number of those left out, such as ``: `ridgeline catalog check FILE` lists all``.
    """
    head = short(head, most * 3 // 4)
    parts, room = [head], most - len(head) - len(rest) - 20
    for number, line in enumerate(lines):
        line = short(line, max(room, 80)) if number == 0 else line
        if number and len(line) + 3 > room:
            parts.append(f"and {len(lines) - number:,} more{rest}")
            break
        parts.append(line)
        room -= len(line) + 3
    return "\n  ".join(parts)


def choices(names: Iterable[object], most: int = 160) -> str:
    """Names that may be chosen, as many as ``most`` characters hold, and how many more there are."""
    known = [one_line(str(name), SHOWN) for name in names]
    text = ", ".join(known)
    if len(text) <= most:
        return text
    kept = text[:most].rpartition(", ")[0]
    return f"{kept} and {len(known) - kept.count(', ') - 1:,} more"


def expanded(path: str | Path) -> Path:
    """A path whose ``~`` is replaced by the home of the user it names.

    Raises:
        FileError: there is no such user, or no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FileError(Path(path), "no such user, or no home folder") from None


def shown_path(path: str | Path) -> str:
    """The name of a file as a message gives it: on one line, the middle of a very long one left out."""
    text = one_line(str(path))
    return text if len(text) <= 200 else f"{text[:80]}...{text[-100:]}"


def cell(value: object) -> object:
    """A value as a cell of a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
