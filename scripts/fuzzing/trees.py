"""Mutations of trees: fields of YAML and JSON dropped, renamed, moved, or given what they must not hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import yaml

from fuzzing import hostile

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def mutated(tree: Any, random: Random) -> Any:
    """``tree``, changed in one place; the tree itself is used up."""
    places = list(_places(tree))
    if not places:
        return hostile.value(random)
    holder, key = random.choice(places)
    change = random.randrange(10)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[_renamed(str(key), random)] = holder.pop(key)
    elif change == 2:
        other, place = random.choice(places)
        if not _inside(holder[key], other):
            other[place] = holder[key]
    elif change == 3:
        holder[key] = [holder[key]] if random.random() < 0.5 else {str(key): holder[key]}
    elif change == 4 and isinstance(holder, dict):
        holder[hostile.text(random)] = hostile.value(random)
    elif change == 5 and isinstance(holder, list):
        holder[key:key] = [holder[key]] * random.choice((1, 3, 300))
    elif change == 6 and isinstance(holder[key], int | float):
        holder[key] = _scaled(holder[key], random)
    else:
        holder[key] = hostile.value(random)
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every holder with each of its keys."""
    if isinstance(tree, dict | list):
        keys = list(tree) if isinstance(tree, dict) else range(len(tree))
        for key in keys:
            yield tree, key
            yield from _places(tree[key])


def _inside(outer: Any, wanted: Any) -> bool:
    """Whether ``wanted`` is ``outer`` or lies in it: put there, the tree would have no end."""
    if outer is wanted:
        return True
    parts = outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()
    return any(_inside(part, wanted) for part in parts)


def _renamed(key: str, random: Random) -> str:
    return random.choice(
        (key[:-1], key + "s", key.upper(), key.replace("_", "-"), f" {key}", hostile.text(random))
    )


def _scaled(number: Any, random: Random) -> Any:
    if isinstance(number, bool):
        return not number
    change = random.randrange(5)
    return (-number, number * 0, str(number), f"{number} GB", number * 10 ** random.choice((1, 6, 30)))[
        change
    ]


def read(content: bytes, ending: str) -> Any:
    """The tree in a file; raises where there is none."""
    return json.loads(content) if ending == "json" else yaml.load(content, Loader=_Loader)


def write(tree: Any, ending: str) -> bytes:
    """The tree as a file, as odd as it is."""
    if ending == "json":
        text = json.dumps(tree, default=str, indent=1)
    else:
        text = yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return hostile.restored(text).encode("utf-8", "surrogatepass")
