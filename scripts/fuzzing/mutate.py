"""Mutant: a damaged copy of a case; a fixed function of the seed, the reader's name and the mutant's number."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from random import Random

from fuzzing import octets, tables, trees
from fuzzing.case import Case

#: Share of mutations that know the form of the file; the rest are of bytes.
_INFORMED = 0.6


def _tree(content: bytes, random: Random, ending: str) -> bytes:
    return trees.write(trees.mutated(trees.read(content, ending), random), ending)


def _lines(content: bytes, random: Random) -> bytes:
    """One object of a file of JSON lines."""
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    tree = trees.mutated(json.loads(lines[at] or b"{}"), random)
    lines[at] = trees.write(tree, "json").replace(b"\n", b"")
    return b"\n".join(lines)


def _zipped(content: bytes, random: Random, inner: str) -> bytes:
    return gzip.compress(_informed(gzip.decompress(content), random, inner), 1, mtime=0)


def _page(content: bytes, random: Random) -> bytes:
    """The data inside a report."""
    before, opening, rest = content.partition(b'id="ridgeline-result">')
    data, closing, after = rest.partition(b"</script>")
    return b"".join((before, opening, _tree(data, random, "json"), closing, after))


_FORMS: dict[str, Callable[[bytes, Random], bytes]] = {
    "yaml": lambda content, random: _tree(content, random, "yaml"),
    "json": lambda content, random: _tree(content, random, "json"),
    "jsonl": _lines,
    "csv": tables.csv_mutated,
    "log": tables.log_mutated,
    "html": _page,
    "words": tables.words_mutated,
    "setting": tables.setting_mutated,
    "parquet": tables.parquet_mutated,
}
#: Damage to their bytes would be damage to the fuzzer's own notes.
_NOTES = ("words", "setting")


def _informed(content: bytes, random: Random, name: str) -> bytes:
    ending = name.rpartition(".")[2]
    try:
        if ending == "gz":
            return _zipped(content, random, name.removesuffix(".gz"))
        return _FORMS[ending](content, random) if ending in _FORMS else octets.mutated(content, random)
    except Exception:  # an earlier change has left no form to go by, whichever parser says so
        return content if ending in _NOTES else octets.mutated(content, random)


def mutated(case: Case, random: Random) -> Case:
    """``case`` with one to five changes in one of its files."""
    name = random.choice([name for name in sorted(case.files) if name not in case.fixed])
    content = case.files[name]
    for _ in range(random.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        if name.rpartition(".")[2] in _NOTES or random.random() < _INFORMED:
            content = _informed(content, random, name)
        else:
            content = octets.mutated(content, random)
    return case.with_file(name, content)


def mutant(cases: Sequence[Case], seed: int, reader: str, number: int) -> Case:
    """Mutant ``number`` of a reader; nothing else has a say in it."""
    random = Random(f"{seed}/{reader}/{number}")
    return mutated(random.choice(cases), random)
