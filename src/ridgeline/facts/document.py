"""Document: a YAML or JSON file on disk to a plain mapping, or one sentence about what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 * 2**20
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DocumentError(ValueError):
    """The file cannot be read as a mapping; the message is one sentence without the file name."""


class _Loader(_Base):  # type: ignore[misc]  # the C loader where libyaml is there, else the Python one
    """Safe loader that refuses a key given twice: YAML would silently keep the last one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of one node; DocumentError names the line of a key that stands there twice."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise DocumentError(f"line {line}: '{key_node.value}' is given twice")
                seen.add(key_node.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path`` (JSON when the name ends in ``.json``, else YAML).

    Raises:
        DocumentError: missing, a folder, too large, not text, bad syntax (with its line), empty, no mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DocumentError(f"larger than {MAX_BYTES // 2**20} MB; a catalog file is a short text")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DocumentError("no such file") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DocumentError(f"line {line}: byte 0x{raw[error.start]:02x} is not UTF-8 text") from None
    value = _json(text) if path.suffix == ".json" else _yaml(text)
    if value is None:
        raise DocumentError("empty; expected 'field: value' lines")
    if not isinstance(value, dict):
        noun = "a list" if isinstance(value, list) else f"the value {str(value)[:40]!r}"
        raise DocumentError(f"holds {noun}, expected 'field: value' lines")
    for key in value:
        if not isinstance(key, str):
            raise DocumentError(f"field name {key!r} is not text; put it in quotes")
    return value


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # A file cut short is reported one line past its end.
        line = f"line {min(mark.line + 1, len(text.splitlines()))}: " if mark else ""
        raise DocumentError(f"{line}not valid YAML: {error.problem or error.context}") from None
    except yaml.reader.ReaderError as error:
        line_number = text[: int(error.position)].count("\n") + 1
        raise DocumentError(f"line {line_number}: not valid YAML: {error.reason}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except DocumentError:
        raise
    except ValueError as error:  # an impossible date or number inside an otherwise valid document
        raise DocumentError(f"not valid YAML: {error}") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except json.JSONDecodeError as error:
        raise DocumentError(f"line {error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
