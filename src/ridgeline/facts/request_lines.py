"""Blocks of whole lines of a text file, plain or gzip, in bounded memory; and the error of request files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ridgeline import files

#: A longer line is not a request; reading stops before it fills the memory.
LONGEST_LINE = 8 << 20
_PIECE = 2 << 20


class RequestFileError(ValueError):
    """A request file cannot be read; the message names file, line, field, value and choices."""


def blocks(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes]]:
    """Yield the number of a block's first line (from 1) and the block: whole lines, each with its line feed.

    Raises:
        RequestFileError: the file cannot be opened, is damaged or binary, or has a line above ``longest`` bytes.
    """
    line, rest = 1, b""
    for piece in _pieces(path):
        cut = piece.rfind(b"\n") + 1
        if cut:
            block, rest = rest + piece[:cut], piece[cut:]
            yield line, block
            line += block.count(b"\n")
        else:
            rest += piece
        if len(rest) > longest:
            raise RequestFileError(
                f"{path}, line {line}: longer than {longest >> 20} MiB; expected one request per line"
            )
    if rest:
        yield line, rest + b"\n"


def _pieces(path: Path) -> Iterator[bytes]:
    """Pieces of the file's text, unpacked where it is gzip; the mark of UTF-8 is left out."""
    try:
        with files.open_file(path) as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            text: IO[bytes] = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            first = True
            while piece := text.read(_PIECE):
                if first:
                    _check_text(path, piece)
                    piece, first = piece.removeprefix(b"\xef\xbb\xbf"), False
                yield piece
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise RequestFileError(f"{path}: damaged or cut off gzip file: {error}; fetch it again") from error
    except files.FileError as error:
        raise RequestFileError(str(error)) from None
    except OSError as error:
        raise RequestFileError(f"{files.shown_path(path)}: cannot be read: {error.strerror}") from error


def _check_text(path: Path, piece: bytes) -> None:
    if piece[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in piece[:4096]:
        raise RequestFileError(f"{path}: not UTF-8 text; expected CSV or JSON lines in UTF-8, plain or gzip")


def decoded(path: Path, line: int, text: bytes) -> str:
    """``text`` of ``line`` as UTF-8, without its line end.

    Raises:
        RequestFileError: it is not UTF-8.
    """
    try:
        return text.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise RequestFileError(f"{path}, line {line}: not UTF-8 text: {error.reason}") from error
