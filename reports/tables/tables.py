"""A table in six forms: terminal, Markdown, LaTeX, HTML, CSV, JSON. Knows nothing of what is in it.

Cells hold text that is already formatted. The best number of a column is bold and the second
underlined, as in papers; small marks point to notes below the table.
"""

from __future__ import annotations

import csv
import html
import io
import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from longva_eval.text import csv_cell, one_line

__all__ = [
    "FORMATS",
    "Cell",
    "Column",
    "Format",
    "Note",
    "NoteChoice",
    "Row",
    "Table",
    "joined_marks",
    "render",
    "shown_width",
    "text_table",
    "with_minus",
]

Format = Literal["terminal", "md", "latex", "html", "csv", "json"]
FORMATS: Final[tuple[Format, ...]] = ("terminal", "md", "latex", "html", "csv", "json")
_PLAIN: Final[dict[str, Any]] = {"indent": 1, "ensure_ascii": False, "allow_nan": False}
NoteChoice = Literal["none", "short", "full"]
"""Of the notes below a table: none, all but the sources, all."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What stands at one place."""

    text: str = ""
    error: str = ""
    """A standard error, shown smaller behind the text."""
    remark: str = ""
    """A word in its place."""
    rank: int = 0
    """1 is shown bold, 2 underlined."""
    marks: tuple[str, ...] = ()
    """Of notes."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column."""

    title: str
    is_number: bool = True
    """Numbers stand at the right, words at the left."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row; `data` is what CSV and JSON write of it, a line for each mapping."""

    cells: tuple[Cell, ...]
    rule_above: bool = False
    data: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Note:
    """A line below the table; without a mark it is about the whole of it."""

    mark: str
    text: str
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with its notes."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = field(default=())


def text_table(
    title: str, rows: Sequence[Sequence[str]], *, words: int = 1, notes: Sequence[str] = ()
) -> Table:
    """A table of texts that are formatted already.

    Args:
        title: Above it.
        rows: Titles of the columns first.
        words: How many columns stand at the left.
        notes: Below it.
    """
    return Table(
        title=title,
        columns=tuple(Column(title=name, is_number=n >= words) for n, name in enumerate(rows[0])),
        rows=tuple(Row(cells=tuple(Cell(text=text) for text in row)) for row in rows[1:]),
        notes=tuple(Note(mark="", text=text) for text in notes),
    )


def render(
    tables: Sequence[Table],
    form: Format,
    *,
    width: int = 100,
    colour: bool = False,
    notes: NoteChoice | None = None,
) -> str:
    """Write tables in one of the forms; ends with a newline.

    Args:
        tables: One below the other.
        form: Which form.
        width: Of a terminal: notes are broken there, and a wider table goes on below.
        colour: Whether a terminal shows bold and underlined; else the best is marked with `*`.
        notes: Which to show; all if None, in LaTeX all but the sources, which are cited.
    """
    if form in ("csv", "json"):
        data = [line for table in tables for row in table.rows for line in row.data]
        # null where nothing is known
        return _csv(data) if form == "csv" else f"{json.dumps(data, **_PLAIN)}\n"
    if form == "latex":
        from longva_eval.reports.tables.latex import latex

        return latex(tables, notes=notes or "short")
    shown = [_with_notes(table, notes or "full") for table in tables]
    if form == "html":
        from longva_eval.reports.page.rendering import render as fill

        page = fill("tables.html", tables=shown, with_minus=with_minus, joined_marks=joined_marks)
        return page + "\n"
    if form == "md":
        return "\n".join(_markdown(table) for table in shown)
    return "\n".join(_terminal(table, width, colour) for table in shown)


def _with_notes(table: Table, notes: NoteChoice) -> Table:
    if notes == "full":
        return table
    kept = [note for note in table.notes if notes == "short" and not note.mark.isdigit()]
    marks = {note.mark for note in kept}
    rows = [
        replace(
            row,
            cells=tuple(
                replace(cell, marks=tuple(mark for mark in cell.marks if mark in marks))
                for cell in row.cells
            ),
        )
        for row in table.rows
    ]
    return replace(table, rows=tuple(rows), notes=tuple(kept))


def joined_marks(marks: Sequence[str]) -> str:
    """Marks with runs of numbers drawn together: `1,4-7,a`."""
    numbers = sorted({int(mark) for mark in marks if mark.isdigit()})
    runs = []
    for _, group in itertools.groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        if len(members) > 2:
            runs.append(f"{members[0]}-{members[-1]}")
        else:
            runs += map(str, members)
    letters = sorted({m for m in marks if not m.isdigit()}, key=lambda m: (len(m), m))
    return ",".join([*runs, *letters])


def with_minus(text: str) -> str:
    """The text with real minus signs."""
    return re.sub(r"(?<!\w)-(?=\d)", "\u2212", text)


# Terminal -----------------------------------------------------------------------------------------


def shown_width(text: str) -> int:
    """Columns that a text takes in a terminal."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _terminal(table: Table, width: int, colour: bool) -> str:
    plain = [[_plain(cell, colour) for cell in row.cells] for row in table.rows]
    heads = [one_line(column.title) for column in table.columns]
    widths = [
        max([shown_width(heads[place]), *(shown_width(row[place]) for row in plain)])
        for place in range(len(heads))
    ]
    lines = [one_line(table.title), ""] if table.title else []
    for number, block in enumerate(_blocks(widths, width)):
        total = sum(widths[place] for place in block) + 2 * (len(block) - 1)
        columns = [table.columns[place] for place in block]
        room = [widths[place] for place in block]
        lines += [""] if number else []
        lines += [_line([heads[place] for place in block], room, columns), "─" * total]
        for place, (row, texts) in enumerate(zip(table.rows, plain, strict=True)):
            if row.rule_above and place:
                lines.append("─" * total)
            bare = [texts[k] for k in block]
            shown = [_emphasize(texts[k], row.cells[k]) if colour else texts[k] for k in block]
            lines.append(_line(shown, room, columns, bare))
        lines.append("─" * total)
    marks = max([len(note.mark) for note in table.notes], default=0)
    for note in table.notes:
        text = f"{note.text} {note.url}".strip()
        lead = f"{note.mark:<{marks}} " if marks else ""
        lines += textwrap.wrap(
            one_line(text), max(40, min(width, 120)), initial_indent=lead,
            subsequent_indent=" " * len(lead), break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines) + "\n"


def _blocks(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns side by side as far as they fit; the first one is repeated below."""
    blocks: list[list[int]] = [[0]]
    for place in range(1, len(widths)):
        used = sum(widths[k] + 2 for k in blocks[-1])
        if used + widths[place] > width and len(blocks[-1]) > 1:
            blocks.append([0])
        blocks[-1].append(place)
    return blocks


def _plain(cell: Cell, colour: bool) -> str:
    text = one_line(cell.text)
    if cell.error:
        text += f" ±{cell.error}"
    if cell.remark:
        text += f" {cell.remark}"
    if cell.rank == 1 and not colour:
        text = f"*{text}"
    if cell.marks:
        text += f" {joined_marks(cell.marks)}"
    return text


def _emphasize(text: str, cell: Cell) -> str:
    code = {1: "\033[1m", 2: "\033[4m"}.get(cell.rank, "")
    number = one_line(cell.text)
    return f"{code}{number}\033[0m{text[len(number) :]}" if code else text


def _line(
    shown: Sequence[str],
    widths: Sequence[int],
    columns: Sequence[Column],
    plain: Sequence[str] | None = None,
) -> str:
    parts = []
    for text, bare, width, column in zip(shown, plain or shown, widths, columns, strict=True):
        gap = " " * (width - shown_width(bare))
        parts.append(gap + text if column.is_number else text + gap)
    return "  ".join(parts).rstrip()


# Markdown -----------------------------------------------------------------------------------------


def _markdown(table: Table) -> str:
    lines = [f"**{_md(table.title)}**", ""] if table.title else []
    lines.append("| " + " | ".join(_md(column.title) for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if c.is_number else "---" for c in table.columns) + "|")
    lines += ["| " + " | ".join(map(_md_cell, row.cells)) + " |" for row in table.rows]
    lines.append("")
    for note in table.notes:
        mark = f"<sup>{_md(note.mark)}</sup> " if note.mark else ""
        link = f" <{note.url}>" if note.url else ""
        lines += [f"{mark}{_md(note.text)}{link}", ""]
    return "\n".join(lines)


def _md_cell(cell: Cell) -> str:
    words = cell.text.lstrip(" ")
    text = _md(words)
    text = {1: f"**{text}**", 2: f"<u>{text}</u>"}.get(cell.rank, text)
    if cell.error:
        text += f" ±{_md(cell.error)}"
    if cell.remark:
        text += f" {_md(cell.remark)}"
    text += f"<sup>{_md(joined_marks(cell.marks))}</sup>" if cell.marks else ""
    return "&nbsp;" * (len(cell.text) - len(words)) + text


def _md(text: str) -> str:
    text = html.escape(one_line(text), quote=False)
    # An underscore within a word is one.
    return re.sub(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


# CSV and JSON -------------------------------------------------------------------------------------


def _csv(data: Sequence[Mapping[str, Any]]) -> str:
    """A line for each number, with everything that is known of it, in full precision."""
    names = list(dict.fromkeys(name for line in data for name in line))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([csv_cell(_csv_value(line.get(name))) for name in names] for line in data)
    return out.getvalue()


def _csv_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
