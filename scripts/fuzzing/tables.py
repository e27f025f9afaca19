"""Mutations of tables: CSV rows and columns, tokens of logs, words of commands, columns of parquet files."""

from __future__ import annotations

import csv
import io
import json
from random import Random
from typing import Any

from fuzzing import hostile


def csv_mutated(content: bytes, random: Random) -> bytes:
    """A CSV file with one column, row or cell changed."""
    rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    if not rows:
        return hostile.text(random).encode()
    row = rows[random.randrange(len(rows))]
    column = random.randrange(max(len(rows[0]), 1))
    change = random.randrange(12)
    if change == 0:
        for one in rows:
            del one[column : column + 1]
    elif change == 1:
        for one in rows:
            one.append(one[column] if column < len(one) else "")
    elif change == 2 and rows[0]:
        rows[0][column] = hostile.text(random)
    elif change == 3:
        del row[random.randrange(len(row) + 1) :]
    elif change == 4:
        row += [hostile.text(random)] * random.choice((1, 40))
    elif change == 5:
        rows.insert(random.randrange(len(rows) + 1), [])
    elif change == 6:
        random.shuffle(row)
    elif change == 7:
        del rows[1 + random.randrange(len(rows)) :]
    elif row:
        odd = str(hostile.number(random)) if random.random() < 0.5 else hostile.text(random)
        row[random.randrange(len(row))] = odd
    text = io.StringIO()
    csv.writer(text, lineterminator=random.choice(("\n", "\n", "\r\n"))).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def log_mutated(content: bytes, random: Random) -> bytes:
    """A log with one token of one line changed."""
    lines = [line.split(" ") for line in content.decode().split("\n")]
    tokens = random.choice(lines)
    places = [i for i, token in enumerate(tokens) if token]
    if not places:
        return content
    at, change = random.choice(places), random.randrange(4)
    if change == 0:
        del tokens[at]
    elif change == 1:
        tokens.insert(at, tokens[at])
    elif change == 2:
        tokens[at] = str(hostile.number(random))
    else:
        tokens[at] = hostile.text(random)
    return "\n".join(map(" ".join, lines)).encode("utf-8", "surrogatepass")


def words_mutated(content: bytes, random: Random) -> bytes:
    """Words of a command, kept as a JSON list, with one of them changed."""
    words: list[str] = json.loads(content)
    if random.random() < 0.5:
        return json.dumps(_mild(words, random)).encode()
    at = random.randrange(1, len(words)) if len(words) > 1 else 0
    change = random.randrange(8)
    if change == 0:
        del words[at]
    elif change == 1:
        words.insert(at, words[at])
    elif change == 2:
        words.insert(at, hostile.text(random))
    elif change == 3:
        words[at] = words[at][:-1] or "-"
    elif change == 4:
        words[at] = f"{words[at]}={hostile.text(random)}"
    elif change == 5:
        words[at] = str(hostile.number(random))
    else:
        values = [
            i for i, word in enumerate(words) if i and words[i - 1].startswith("--") and word[:2] != "--"
        ]
        words[random.choice(values) if values else at] = _word(random)
    # No system hands a NUL over in a word.
    return json.dumps([word.replace("\0", "") for word in words]).encode()


def _mild(words: list[str], random: Random) -> list[str]:
    """Another number, or an option left out: what a user may well ask."""
    options = [i for i, word in enumerate(words[:-1]) if word.startswith("--") and words[i + 1][:2] != "--"]
    numbers = [i for i in options if words[i + 1].isdecimal()]
    if numbers and random.random() < 0.7:
        words[random.choice(numbers) + 1] = str(random.choice((0, 1, 2, 3, 4, 8, 16, 100, 4096, 2**31)))
    elif options:
        at = random.choice(options)
        del words[at : at + 2]
    return words


def _word(random: Random) -> str:
    kind = random.randrange(4)
    return hostile.text(random) if kind < 2 else str(hostile.number(random)) if kind == 2 else "\udcff"


def setting_mutated(content: bytes, random: Random) -> bytes:
    """One ``path=value`` with a step of its path or its value changed."""
    path, _, _ = content.decode("utf-8", "surrogatepass").partition("=")
    steps = path.split(".")
    if random.random() < 0.25:
        at = random.randrange(len(steps))
        change = random.randrange(4)
        if change == 0:
            del steps[at]
        elif change == 1:
            steps.insert(at, steps[at])
        else:
            steps[at] = hostile.text(random) if change == 2 else str(random.choice((-1, 0, 7, 10**30)))
    odd = hostile.value(random)
    text = hostile.restored(odd) if isinstance(odd, str) else json.dumps(odd, default=str)
    return f"{'.'.join(steps)}={text}".encode("utf-8", "surrogatepass")


def parquet_mutated(content: bytes, random: Random) -> bytes:
    """A parquet table with one column dropped, renamed or retyped, or one cell changed."""
    import pyarrow as arrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = parquet.read_table(io.BytesIO(content)).to_pydict()
    name = random.choice(list(columns))
    values, change = columns[name], random.randrange(8)
    if change == 0:
        del columns[name]
    elif change == 1:
        columns[hostile.text(random)] = columns.pop(name)
    elif change == 2:
        columns[name] = [None] * len(values)
    elif change == 3:
        columns[name] = [str(value) for value in values]
    elif change == 4:
        columns = {key: column[:0] for key, column in columns.items()}
    elif change == 5:
        columns[name] = [[value] for value in values]
    else:
        numeric = bool(values) and isinstance(values[0], int | float)
        odd: Any = hostile.number(random) if numeric else hostile.text(random)
        for at in range(len(values)) if change == 6 else [random.randrange(len(values))]:
            values[at] = odd
        if numeric and not isinstance(odd, int):
            columns[name] = [float(value) for value in values]
    try:
        table = arrow.table(columns)
    except (arrow.ArrowException, OverflowError, TypeError, ValueError):  # no column can hold that
        columns[name] = [str(value) for value in values]
        table = arrow.table(columns)
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()
