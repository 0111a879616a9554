r"""A table in LaTeX: fits its column, cites its sources, and the entries for them.

A document needs `\usepackage{booktabs,graphicx,url}` and `\bibliography{...}`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

from longva_eval.reports.tables.tables import (
    Cell,
    Note,
    NoteChoice,
    Table,
    joined_marks,
    shown_width,
    with_minus,
)
from longva_eval.text import one_line

__all__ = ["bibliography", "latex"]

_COLUMN: Final = 84
"""Characters from which on a table takes both columns of a page."""
_MOST_ROWS: Final = 45
"""On one page."""

_LATEX: Final = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$",
    "\u2212": "$-$", "≤": r"$\leq$", "≥": r"$\geq$", "\u00d7": r"$\times$", "\u2013": "--",
    "—": "---", "“": "``", "”": "''", "\u2018": "`", "\u2019": "'", "…": r"\ldots{}",
    "·": r"$\cdot$", "↓": r"$\downarrow$", "θ": r"$\theta$", "→": r"$\rightarrow$", '"': "''",
}  # fmt: skip


def latex(tables: Sequence[Table], *, notes: NoteChoice = "short") -> str:
    """Tables for a paper.

    Args:
        tables: One below the other; one with more than 45 rows becomes several.
        notes: `full` has the sources below each table too, `none` has neither notes nor marks.
            Sources are cited by key whatever it is.
    """
    keys = _keys(tables)
    parts = ["% Needs \\usepackage{booktabs,graphicx,url}. Made by longva-eval compare.\n"]
    for table in tables:
        for start in range(0, max(1, len(table.rows)), _MOST_ROWS):
            parts.append(_latex(table, start, keys, notes))
    return "\n".join(parts)


def bibliography(tables: Sequence[Table]) -> str:
    """BibTeX entries of all sources of the tables; empty without any."""
    entries = []
    for (text, url), key in _keys(tables).items():
        title, _, note = text.partition(";")
        fields = [
            f"  key = {{{_tex(title)}}},",
            f"  title = {{{{{_tex(title)}}}}},",
            f"  howpublished = {{\\url{{{url}}}}},",
        ]
        found = re.search(r"(?<!\d)(\d{4}\.\d{4,5})(?!\d)", f"{text} {url}")
        if found:
            fields += [f"  eprint = {{{found[1]}}},", "  archiveprefix = {arXiv},"]
        if note:
            fields.append(f"  note = {{{_tex(note.strip())}}},")
        entries.append("\n".join([f"@misc{{{key},", *fields, "}"]) + "\n")
    return "\n".join(entries)


def _keys(tables: Sequence[Table]) -> dict[tuple[str, str], str]:
    """A key for each source: its name and a digest, so that it is the same in every file."""
    keys: dict[tuple[str, str], str] = {}
    for note in (note for table in tables for note in table.notes if note.mark.isdigit()):
        title = unicodedata.normalize("NFKD", note.text.partition(";")[0])
        name = re.sub(r"[^a-z0-9]+", "-", title.encode("ascii", "ignore").decode().lower())
        digest = hashlib.sha256(f"{note.text} {note.url}".encode()).hexdigest()[:4]
        keys[note.text, note.url] = f"{name[:40].strip('-')}-{digest}"
    return keys


def _latex(table: Table, start: int, keys: Mapping[tuple[str, str], str], notes: NoteChoice) -> str:
    shape = "".join("r" if column.is_number else "l" for column in table.columns)
    widths = [
        max(
            shown_width(column.title),
            *(_width(row.cells[place]) for row in table.rows),
            0,
        )
        for place, column in enumerate(table.columns)
    ]
    place = "table*" if sum(widths) + 2 * len(widths) > _COLUMN else "table"
    title = table.title + (" (continued)" if start else "")
    lines = [
        rf"\begin{{{place}}}[t]",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        *([rf"\caption{{{_tex(title)}}}"] if title else []),
        # As wide as it is, and no wider than its column.
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        " & ".join(_tex(column.title) for column in table.columns) + r" \\",
        r"\midrule",
    ]
    cited = {n.mark: keys[n.text, n.url] for n in table.notes if n.mark.isdigit()}
    for number, row in enumerate(table.rows[start : start + _MOST_ROWS]):
        if row.rule_above and number:
            lines.append(r"\midrule")
        lines.append(" & ".join(_tex_cell(cell, cited, notes) for cell in row.cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if notes != "none" and start + _MOST_ROWS >= len(table.rows):
        below = _notes([n for n in table.notes if notes == "full" or not n.mark.isdigit()])
        if len(table.rows) - start + len(below) > _MOST_ROWS:  # no page is that long
            lines += [rf"\end{{{place}}}", rf"\begin{{{place}}}[t]"]
        lines += below
    lines.append(rf"\end{{{place}}}")
    return "\n".join(lines) + "\n"


def _notes(notes: Sequence[Note]) -> list[str]:
    if not notes:
        return []
    lines = ["", r"\vspace{3pt}", r"\begin{minipage}{\linewidth}\scriptsize\raggedright"]
    for note in notes:
        mark = rf"\textsuperscript{{{_tex(note.mark)}}}" if note.mark else ""
        # An address breaks nowhere by itself.
        url = re.sub(r"([/.?=-])", r"\1\\allowbreak{}", _tex(note.url))
        link = rf" \texttt{{{url}}}" if url else ""
        lines.append(rf"{mark}{_tex(note.text)}{link}\par")
    return [*lines, r"\end{minipage}"]


def _width(cell: Cell) -> int:
    return shown_width(" ".join(part for part in (cell.text, cell.error, cell.remark) if part))


def _tex_cell(cell: Cell, cited: Mapping[str, str], notes: NoteChoice) -> str:
    text = _tex(with_minus(cell.text.lstrip(" ")))
    if cell.rank and text:
        text = (r"\textbf{%s}" if cell.rank == 1 else r"\underline{%s}") % text
    if cell.text.startswith("  "):
        text = rf"\quad {text}"
    if cell.error:
        text += rf"{{\scriptsize$\pm${_tex(cell.error)}}}"
    if cell.remark:
        text += rf" {{\scriptsize {_tex(cell.remark)}}}"
    shown = [m for m in cell.marks if notes == "full" or not m.isdigit()] if notes != "none" else []
    if shown:
        text += rf"\textsuperscript{{{_tex(joined_marks(shown))}}}"
    sources = [cited[mark] for mark in cell.marks if mark in cited]
    return text + (rf"~\cite{{{','.join(sources)}}}" if sources else "")


def _tex(text: str) -> str:
    """Escaped, in letters that a plain pdflatex can set."""
    parts = []
    for character in re.sub("-(?=-)", "-\u200b", one_line(text)):
        if character == "\u200b":  # else two hyphens are set as a dash
            parts.append("{}")
        elif character in _LATEX:
            parts.append(_LATEX[character])
        elif character.isascii():
            parts.append(character)
        else:
            simple = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
            parts.append(simple or f"[U+{ord(character):04X}]")
    return "".join(parts)
