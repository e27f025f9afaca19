"""Document: a YAML or JSON file on disk to a plain mapping, or one sentence about what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ridgeline import files

#: A catalog file is a short text: the largest of ours has 0.1 MB.
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
                    raise DocumentError(f"line {line}: {files.shown(key_node.value)} is given twice")
                seen.add(key_node.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in ``path`` (JSON when the name ends in ``.json``, else YAML).

    Raises:
        DocumentError: missing, a folder, too large, not text, bad syntax (with its line), empty, no mapping.
    """
    try:
        text = files.read_text(path, MAX_BYTES)
    except files.FileError as error:
        raise DocumentError(error.reason) from None
    value = _json(text) if path.suffix == ".json" else _yaml(text)
    if value is None:
        raise DocumentError("empty; expected 'field: value' lines")
    if not isinstance(value, dict):
        noun = "a list" if isinstance(value, list) else f"the value {files.shown(value, 40)}"
        raise DocumentError(f"holds {noun}, expected 'field: value' lines")
    for key in value:
        if not isinstance(key, str):
            raise DocumentError(f"field name {files.shown(key)} is not text; put it in quotes")
    return value


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # A file cut short is reported one line past its end.
        line = f"line {min(mark.line + 1, len(text.splitlines()))}: " if mark else ""
        raise DocumentError(f"{line}not valid YAML: {_reason(error.problem or error.context)}") from None
    except yaml.reader.ReaderError as error:
        line_number = text[: int(error.position)].count("\n") + 1
        raise DocumentError(f"line {line_number}: not valid YAML: {_reason(error.reason)}") from None
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {_reason(error)}") from None
    except RecursionError:
        raise DocumentError("nested too deeply") from None
    except DocumentError:
        raise
    except ValueError as error:  # an impossible date or number inside an otherwise valid document
        raise DocumentError(f"not valid YAML: {_reason(error)}") from None


def _reason(said: object) -> str:
    """What the parser says, which repeats tags and names of any length."""
    return files.one_line(str(said).partition("\n")[0], 200)


def _json(text: str) -> Any:
    try:
        return files.parse_json(text) if text.strip() else None
    except ValueError as error:
        raise DocumentError(str(error)) from None
