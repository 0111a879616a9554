"""Rows of published scores, each with its sources and what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

from longva_eval.reports.tables.benchmarks import Benchmark
from longva_eval.reports.tables.notes import Notes
from longva_eval.reports.tables.published import PublishedRow
from longva_eval.reports.tables.rows import Draft, Value

__all__ = ["published_drafts"]

_OFF: Final = 0.15
"""Points that a mean may differ from that of its rounded parts."""


def published_drafts(
    rows: Sequence[PublishedRow],
    benchmark: Benchmark,
    notes: Notes,
    *,
    frames: Collection[str] = (),
    settings: Collection[str] = (),
) -> list[Draft]:
    """Rows as printed.

    Args:
        rows: From `published_rows`.
        benchmark: Whose columns the values stand in.
        notes: Of the table.
        frames: Numbers of frames that were measured; other ones are marked.
        settings: Of subtitles that were measured.
    """
    drafts = []
    common = _common_notes(rows)
    for row in rows:
        marks = []
        said = []
        for source in row.sources:
            shared = common[source.table, source.url]
            text = source.table + "".join(f"; {part}" for part in shared)
            marks.append(notes.source(text, source.url))
            said += [
                f"{part[0].upper()}{part[1:]}."
                for part in _parts(source.note)
                if part not in shared
            ]
        if row.disagrees:
            said.append("Sources disagree about this setting; each is shown as printed.")
        if frames and not row.frames:
            said.append("The source gives no number of frames.")
        elif frames and row.frames not in frames:
            measured = ", ".join(sorted(frames))
            said.append(f"Not at the number of frames measured here ({measured}).")
        if settings and row.subtitles not in settings:
            said.append("Another subtitle setting than measured here.")
        said += _of_its_parts(row, benchmark)
        values: dict[int, Value] = {}
        for place, score in row.values.items():
            number = row.percent(place)
            if number is None:
                continue
            remark, part = "", str(place)
            if not benchmark.by_frames:
                column = benchmark.columns[place]
                remark = column.other_subsets.get(score.subset, "")
                part = column.value or ("" if column is benchmark.columns[-1] else column.title)
            said += [remark] if remark and remark not in said else []
            values[place] = Value(
                number=number,
                text=f"{number:.1f}" if score.unit == "ratio" else score.value,
                unit="%" if score.unit in ("%", "ratio") else score.unit,
                is_ranked=not remark,
                facts={
                    "part": part,
                    "metric": score.metric,
                    "value": number,
                    "unit": "%" if score.unit in ("%", "ratio") else score.unit,
                },
            )
        name = f"{row.model}, {row.subset}" if row.subset else row.model
        drafts.append(
            Draft(
                label=name,
                params=row.llm_params,
                frames=row.frames,
                subtitles=row.subtitles,
                values=values,
                marks=[*marks, *(notes.letter(text) for text in said)],
                facts={
                    "kind": "published",
                    "run": name,
                    "params": row.llm_params,
                    "frames": row.frames,
                    "subtitles": row.subtitles,
                    "task": benchmark.name,
                    "notes": " ".join(said),
                    "source": "; ".join(f"{each.table} {each.url}" for each in row.sources),
                },
            )
        )
    return drafts


def _of_its_parts(row: PublishedRow, benchmark: Benchmark) -> list[str]:
    """A remark where what is printed as the mean of the parts is not that."""
    last = len(benchmark.columns) - 1
    printed = row.percent(last) if benchmark.is_mean_of_parts else None
    parts = [row.percent(place) for place in range(last)]
    known = [part for part in parts if part is not None]
    if printed is None or not known or len(known) < last:
        return []
    mean = math.fsum(known) / last
    if abs(mean - printed) <= _OFF:
        return []
    title = benchmark.columns[last].title
    return [f"{title} is printed {printed:g}; the mean of its printed parts is {mean:.1f}."]


def _parts(note: str) -> list[str]:
    return [part.strip() for part in note.split(";") if part.strip()]


def _common_notes(rows: Sequence[PublishedRow]) -> dict[tuple[str, str], list[str]]:
    """By source, what its notes say of every row shown."""
    found: dict[tuple[str, str], list[list[str]]] = {}
    for row in rows:
        for source in row.sources:
            found.setdefault((source.table, source.url), []).append(_parts(source.note))
    return {
        source: [part for part in notes[0] if all(part in other for other in notes)]
        for source, notes in found.items()
    }
