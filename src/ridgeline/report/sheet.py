"""Sheet: columns and rows of ready text; the same value is printed in a terminal and put in a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ridgeline import files


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of text. ``align`` has one letter per column: ``r`` for numbers, ``l`` for words.

    ``strong`` names the rows (by index) that carry the result.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str
    caption: str = ""
    strong: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        assert len(self.align) == len(self.columns)
        assert all(len(row) == len(self.columns) for row in self.rows)

    def text(self, indent: int = 2) -> str:
        """Aligned plain text, one line per row, no trailing blanks."""
        lines = [[files.one_line(cell) for cell in line] for line in (self.columns, *self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.columns))]
        return "\n".join(_line(line, widths, self.align, indent) for line in lines)

    def html(self) -> str:
        """An HTML table; every cell is escaped. Classes: ``n`` numbers, ``strong`` result rows."""
        caption = f"<caption>{escape(self.caption)}</caption>" if self.caption else ""
        head = "".join(self._cell("th", text, i) for i, text in enumerate(self.columns))
        body = "".join(self._row(row, number in self.strong) for number, row in enumerate(self.rows))
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def __html__(self) -> str:
        """Jinja's autoescape takes this as it stands: the cells are escaped already."""
        return self.html()

    def _row(self, row: Sequence[str], strong: bool) -> str:
        opening = '<tr class="strong">' if strong else "<tr>"
        return opening + "".join(self._cell("td", text, i) for i, text in enumerate(row)) + "</tr>"

    def _cell(self, tag: str, text: str, column: int) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        kind = ' class="n"' if self.align[column] == "r" else ""
        return f"<{tag}{scope}{kind}>{escape(text)}</{tag}>"


def _line(cells: Sequence[str], widths: Sequence[int], align: str, indent: int) -> str:
    padded = [
        cell.rjust(width) if side == "r" else cell.ljust(width)
        for cell, width, side in zip(cells, widths, align, strict=True)
    ]
    return (" " * indent + "  ".join(padded)).rstrip()
