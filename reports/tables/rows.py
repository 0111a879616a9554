"""Rows of scores in the making, and what is known of each number (`COLUMNS`).

A row keeps its numbers until all are there; then the best of each column is found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from longva_eval.reports.reading.scores import Score
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.tables import Cell, Column, Row, Table

__all__ = ["COLUMNS", "Draft", "Value", "score_table", "tidy"]

COLUMNS: Final = (
    "table", "kind", "run", "baseline", "params", "frames", "subtitles", "seeds", "task",
    "task_version", "category", "part", "metric", "higher_is_better", "value", "unit",
    "standard_error", "low_95", "high_95", "few", "questions", "videos", "failed", "tries",
    "within", "majority", "p", "p_holm", "p_mcnemar", "run_better", "baseline_better",
    "minimum_detectable", "notes", "source",
)  # fmt: skip
"""Of `compare --format csv` and `json`; docs/compare.md says what each means."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A number of a row."""

    number: float
    """To rank by, on the scale that is shown."""
    text: str
    unit: str
    is_ranked: bool = True
    score: Score | None = None
    """What is known of one of ours."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """By some of `COLUMNS`."""


@dataclass(kw_only=True)
class Draft:
    """A row before the best of each column is known."""

    label: str
    params: str = ""
    frames: str = ""
    subtitles: str = ""
    num_questions: str = ""
    values: dict[int, Value]
    """By column."""
    marks: list[str] = field(default_factory=list)
    is_ranked: bool = True
    rule_above: bool = False
    facts: Mapping[str, Any]
    """By some of `COLUMNS`, of all its values."""
    extra: str = ""


def tidy(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as a row of `compare --format csv`: every column, None where there is nothing."""
    unknown = facts.keys() - set(COLUMNS)
    assert not unknown, unknown
    return {name: facts.get(name) for name in COLUMNS}


def score_table(
    title: str, drafts: Sequence[Draft], titles: Sequence[str], notes: Notes, *, extra: str = ""
) -> Table:
    """A table of rows: columns that say nothing are left out, the best of each is marked.

    Args:
        title: Of the table.
        drafts: The rows.
        titles: Of the columns of scores.
        notes: Below the table.
        extra: Title of a last column, of `Draft.extra`.
    """
    columns = [Column(title="Model", is_number=False)]
    told: list[list[str]] = []
    for name, texts, is_shown in (
        ("LLM params", [draft.params for draft in drafts], None),
        ("Frames", [draft.frames for draft in drafts], None),
        ("Subtitles", [draft.subtitles for draft in drafts],
         len({draft.subtitles for draft in drafts} - {""}) > 1),
        ("n", [draft.num_questions for draft in drafts], None),
    ):  # fmt: skip
        if any(texts) if is_shown is None else is_shown:
            columns.append(Column(title=name))
            told.append(texts)
    columns += [Column(title=name) for name in titles]
    has_extra = any(draft.extra for draft in drafts)
    columns += [Column(title=extra)] if has_extra else []
    ranks = [_ranks(drafts, place) for place in range(len(titles))]
    if any(
        value.score is not None and value.score.is_few
        for d in drafts
        for value in d.values.values()
    ):
        notes.general(
            "few: fewer than 20 videos hold a miss, or a hit, too few for a standard error that "
            "holds; show and --format csv have the interval."
        )
    rows = []
    for number, draft in enumerate(drafts):
        cells = [Cell(text=draft.label, marks=tuple(dict.fromkeys(draft.marks)))]
        cells += [Cell(text=texts[number]) for texts in told]
        cells += [
            _cell(draft.values.get(place), ranks[place].get(number, 0))
            for place in range(len(titles))
        ]
        cells += [Cell(text=draft.extra)] if has_extra else []
        data = tuple(
            tidy({"table": "scores", **draft.facts, **draft.values[place].facts})
            for place in sorted(draft.values)
        )
        rows.append(Row(cells=tuple(cells), rule_above=draft.rule_above, data=data))
    return Table(title=title, columns=tuple(columns), rows=tuple(rows), notes=notes.all())


def _cell(value: Value | None, rank: int) -> Cell:
    if value is None:
        return Cell(text="")
    found = value.score
    if found is not None and found.is_few:
        return Cell(text=value.text, remark="few", rank=rank)
    spread = None if found is None else found.standard_error
    error = "" if found is None or spread is None else found.write(spread)
    return Cell(text=value.text, error=error, rank=rank)


def _ranks(drafts: Sequence[Draft], column: int) -> dict[int, int]:
    """1 for the best and 2 for the second of a column; equal as shown is equal.

    Settings with and without subtitles are ranked apart, and numbers on two scales not at all.
    """
    ranks: dict[int, int] = {}
    having = [draft.values[column] for draft in drafts if column in draft.values]
    lower = {value.score.higher_is_better for value in having if value.score is not None} == {False}
    if len({value.unit for value in having}) > 1:
        return {}
    for setting in dict.fromkeys(draft.subtitles for draft in drafts):
        shown = {
            place: float(draft.values[column].text)
            for place, draft in enumerate(drafts)
            if draft.is_ranked
            and column in draft.values
            and draft.values[column].is_ranked
            and draft.subtitles == setting
        }
        ordered = sorted(set(shown.values()), reverse=not lower)
        if len(shown) > 1:
            ranks |= {place: ordered.index(value) + 1 for place, value in shown.items()}
    return {place: rank for place, rank in ranks.items() if rank < 3}
