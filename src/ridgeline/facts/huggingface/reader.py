"""Read a Hugging Face config.json into an Architecture.

The files are those of the transformers library (https://huggingface.co/docs/transformers); vision and audio
encoders around a text model are left out.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ridgeline import files
from ridgeline.facts.architecture import Architecture
from ridgeline.facts.huggingface.families import CLASSES, FAMILIES
from ridgeline.facts.huggingface.fields import Fields, HuggingFaceError

_LONGEST = 100  # characters of a name: folders and files may be called anything
#: A config.json has some kB; those with a rule for each layer some more.
MAX_BYTES = 4 * 2**20


def supported() -> list[str]:
    """The model types that `read_config` understands, sorted."""
    return sorted(FAMILIES)


def read_config(source: str | Path | Mapping[str, Any], name: str | None = None) -> Architecture:
    """The architecture of a config.json.

    Args:
        source: the file, the folder it lies in, or its content as a mapping.
        name: name of the result; without it the folder's name, or what the file calls itself.

    Raises:
        HuggingFaceError: no such file, not JSON, an unknown model type, a missing or senseless field.
    """
    if isinstance(source, Mapping):
        where, values = "config.json", source
    else:
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        where, values = files.shown_path(path), _load(path)
        name = name or (path.resolve().parent.name if path.name == "config.json" else path.stem).lower()
    if name is None:
        own = values.get("_name_or_path")
        name = own.rstrip("/").rpartition("/")[2].lower() if isinstance(own, str) else ""
    family, fields = _family(Fields(values, where))
    arguments = FAMILIES[family](fields)
    try:
        return Architecture(
            name=files.one_line(name or family, _LONGEST),
            family=family,
            source=files.one_line(where),
            **arguments,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise HuggingFaceError(
            f"{where}: {place} = {files.shown(first['input'])}: {files.short(first['msg'], 200)}"
        ) from error


def _load(path: Path) -> Mapping[str, Any]:
    try:
        values = files.read_json(path, MAX_BYTES)
    except files.FileError as error:
        raise HuggingFaceError(str(error)) from None
    if not isinstance(values, Mapping):
        raise HuggingFaceError(
            f"{files.shown_path(path)}: must be a JSON object, not {type(values).__name__}"
        )
    return values


def _hint(kind: str) -> str:
    close = difflib.get_close_matches(kind, supported(), n=3)
    nearest = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{nearest}choose one of: {files.choices(supported())}"


def _family(fields: Fields) -> tuple[str, Fields]:
    """The family's key and the fields of the text model, which multimodal files nest in ``text_config``."""
    if fields.has("text_config"):
        inner = fields.section("text_config")
        # the tie of embedding and output may stand outside; the type may stand only outside
        outer = {key: fields.values[key] for key in ("tie_word_embeddings", "model_type") if fields.has(key)}
        return _family(Fields({**outer, **inner.values}, inner.where))
    for cls in fields.items("architectures"):
        if isinstance(cls, str) and cls in CLASSES:
            return CLASSES[cls], fields
    kind = fields.text("model_type")
    if kind in FAMILIES:
        return kind, fields
    if not kind and fields.has("ssm_cfg"):
        return "mamba2", fields
    problem = f"model_type = {files.shown(kind)} is unknown" if kind else "field 'model_type' is missing"
    raise HuggingFaceError(f"{fields.where}: {problem}; {_hint(kind)}")
