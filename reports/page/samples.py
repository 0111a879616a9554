"""What the page's browser of samples reads: every question once, with what each run made of it.

One JSON element a task, parsed when the browser is first shown. Long texts are cut at a length that
keeps all of it below `_MOST_TEXT_BYTES`; the page says so. A film strip stands in an element of its
own, parsed when its question is opened.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from longva_eval.reports.page.film import Strip, StripPlan, strip_json
from longva_eval.reports.page.rendering import script_json
from longva_eval.reports.reading.needle_runs import grid_of
from longva_eval.reports.reading.runs import Run, Sample
from longva_eval.reports.reading.samples import as_mapping, as_number

__all__ = ["Film", "Samples", "collect_samples"]

Film = Mapping[tuple[int, str, str], Strip | StripPlan | str]
"""By place of the run, task and question: the strip, its plan (the page asks for it when it is
looked at), or why there is none."""

_MOST_TEXT_BYTES: Final = 9_000_000
_TEXT_LENGTHS: Final = (6_000, 2_000, 600, 200)


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The elements of the page that hold the samples, and what to say about them."""

    elements: Markup
    num_questions: int
    text_length: int
    is_cut: bool


def collect_samples(runs: Sequence[Run], film: Film) -> Samples:
    """All questions of all runs, as elements for the page's script."""
    names = list(dict.fromkeys(name for run in runs for name in run.tasks))
    names = [name for name in names if any(_questions(run, name) for run in runs)]
    strips: dict[int, str] = {}
    elements: list[Markup] = []
    for value in film.values():
        if isinstance(value, StripPlan):
            strips[id(value)] = value.key()
        elif isinstance(value, Strip) and id(value) not in strips:
            strips[id(value)] = str(len(strips))
            elements.append(script_json(f"strip-{strips[id(value)]}", strip_json(value)))
    for length in _TEXT_LENGTHS:
        cutter = _Cutter(length)
        tasks = [_task(name, runs, film, strips, cutter) for name in names]
        if len(json.dumps(tasks)) <= _MOST_TEXT_BYTES:
            break
    questions = sum(len(task["rows"]) for task in tasks)
    for number, task in enumerate(tasks):
        elements.append(script_json(f"task-{number}", task))
    return Samples(
        elements=Markup("".join(elements)),
        num_questions=questions,
        text_length=length,
        is_cut=cutter.has_cut,
    )


def _categories(question: Sample, *, in_grid: bool) -> dict[str, str]:
    """The subsets of a question; its place, if it belongs to a needle grid."""
    if not in_grid:
        return dict(question.categories)
    return {
        "frames": f"{question.record['num_frames']:g}",
        "depth": f"{100 * float(question.record['depth']):.4g} %",
        "needle": str(question.record.get("needle_name", question.cluster)),
    }


def _option_probabilities(question: Sample) -> dict[str, float]:
    """The model's probability of each option, where the run recorded it."""
    given = as_mapping(question.facts.get("option_probabilities"))
    found = {str(x): share for x, value in given.items() if (share := as_number(value)) is not None}
    return found if all(0.0 <= value <= 1.0 for value in found.values()) else {}


@dataclass
class _Cutter:
    """Cuts texts at a length, and remembers whether it had to."""

    length: int
    has_cut: bool = False

    def __call__(self, text: str) -> str:
        if len(text) <= self.length:
            return text
        self.has_cut = True
        return f"{text[: self.length]} … [{len(text) - self.length:,} characters left out]"


def _questions(run: Run, name: str) -> Sequence[Sample]:
    task = run.tasks.get(name)
    return task.samples if task is not None else ()


def _task(
    name: str, runs: Sequence[Run], film: Film, strips: Mapping[int, str], cut: _Cutter
) -> dict[str, Any]:
    places = [place for place, run in enumerate(runs) if _questions(run, name)]
    in_grid = any(grid_of(runs[place].tasks[name]) is not None for place in places)
    by_key: dict[str, dict[int, Sample]] = {}
    for place in places:
        for question in _questions(runs[place], name):
            by_key.setdefault(question.key, {})[place] = question
    reasons: dict[str, int] = {}
    categories: dict[str, int] = {}
    rows = []
    for key, found in by_key.items():
        first = next(iter(found.values()))
        row: dict[str, Any] = {
            "k": key,
            "i": first.question_id or str(first.doc_id),
            "v": first.cluster if first.cluster != key else "",
            "q": cut(first.question or first.prompt),
            "a": cut(first.answer),
        }
        if first.options:
            row["o"] = [cut(option) for option in first.options]
        if first.question and first.prompt and first.prompt != first.question:
            row["p"] = cut(first.prompt)
        if first.media:
            row["m"] = [cut(path.replace("\\", "/").split("/")[-1]) for path in first.media[:20]]
        own = _categories(first, in_grid=in_grid)
        row["c"] = {categories.setdefault(c, len(categories)): v for c, v in own.items()}
        row["r"] = {
            str(place): _answer(question, film.get((place, name, key)), strips, reasons, cut)
            for place, question in found.items()
        }
        rows.append(row)
    return {
        "name": name,
        "runs": places,
        "categories": list(categories),
        "reasons": list(reasons),
        "rows": rows,
    }


def _answer(
    question: Sample,
    strip: Strip | StripPlan | str | None,
    strips: Mapping[int, str],
    reasons: dict[str, int],
    cut: _Cutter,
) -> dict[str, Any]:
    found: dict[str, Any] = {"s": question.outcome, "g": cut(question.generated)}
    if question.outcome not in ("right", "wrong") or question.score not in (0.0, 1.0):
        found["x"] = round(question.score, 4)
    for name, value in (
        ("l", question.choice),
        ("n", question.frames_seen),
        ("f", question.frames_asked),
        ("t", question.num_prompt_tokens),
        ("w", cut(question.reason) or None),
    ):
        if value is not None:
            found[name] = value
    if question.seconds is not None and math.isfinite(question.seconds):
        found["d"] = round(question.seconds, 2)
    probabilities = _option_probabilities(question)
    if probabilities:
        found["p"] = {letter: round(value, 4) for letter, value in probabilities.items()}
    log_probability = question.record.get("logprob")
    if isinstance(log_probability, (int, float)) and math.isfinite(log_probability):
        found["y"] = round(math.exp(min(0.0, log_probability)), 4)
    if isinstance(strip, (Strip, StripPlan)):
        found["z"] = strips[id(strip)]
    elif strip:
        found["u"] = reasons.setdefault(strip, len(reasons))
    return found
