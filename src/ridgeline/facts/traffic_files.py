"""Traffic files: a synthetic workload written down as YAML or JSON, the fields of `ridgeline.facts.traffic.Traffic`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ridgeline import files
from ridgeline.facts import document, problems
from ridgeline.facts.request_lines import RequestFileError
from ridgeline.facts.traffic import Drawn, Traffic

#: Endings of files that describe traffic; JSON lines and CSV list requests.
ENDINGS = (".yaml", ".yml", ".json")


def read_traffic(path: str | Path) -> Traffic:
    """The traffic in a file. A file of lengths that it names is looked for beside it.

    Raises:
        RequestFileError: the file cannot be read, or fields are wrong; names each with its value.
    """
    path = Path(path)
    try:
        written = document.read(path)
        traffic = Traffic.model_validate(written)
    except document.DocumentError as error:
        raise RequestFileError(f"{files.shown_path(path)}: {error}") from None
    except ValidationError as error:
        lines = problems.validation_problems(error, Traffic, written)
        raise RequestFileError(files.listed(f"{files.shown_path(path)}: {lines[0]}", lines[1:])) from None
    lengths = traffic.lengths
    if isinstance(lengths, Drawn) and not Path(lengths.path).is_absolute():
        lengths = lengths.model_copy(update={"path": str(path.parent / lengths.path)})
        traffic = traffic.model_copy(update={"lengths": lengths})
    return traffic
