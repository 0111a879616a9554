"""The page: one HTML file with everything in it, to open from disk and to send around.

Numbers, figures and lists are written here as plain HTML and SVG, so that they are there without
scripts, in print and for a screen reader; the script only adds the browser of samples and what a
heatmap says on a hover. Nothing is fetched: the content security policy forbids it, and allows only
the style and the script of this file, by their digests.

A number that would mislead is not shown, or stands beside what is wrong with it; what is wrong with
the runs stands at the top.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from longva_eval import __version__
from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.page.common import (
    PageRun,
    ShownRun,
    all_tasks,
    badge,
    named,
    quoted,
    shown_runs,
)
from longva_eval.reports.page.figures import category_figures, frame_curves, needle_grids
from longva_eval.reports.page.markup import Markup, isolated, joined, script_json, tag
from longva_eval.reports.page.samples import Film, Samples, collect_samples
from longva_eval.reports.page.scores import comparison_table, summary_table
from longva_eval.reports.reading.runs import Sample
from longva_eval.reports.reading.samples import count_of

__all__ = ["PageRun", "build_page"]

_ASSETS: Final = Path(__file__).parent / "assets"
_NOTICES: Final = frozenset(["independent", "scale", "aggregate", "repeated", "several runs"])
"""Problems that qualify a number; all others can change what it means."""
_MOST_LISTED: Final = 25
_LEFT_OUT: Final = frozenset(["prompts", "outcomes", "ignored_generation_settings"])
"""Parts of a recipe that are no settings."""


def build_page(
    runs: Sequence[PageRun],
    *,
    title: str = "",
    film: Film | None = None,
    film_note: str = "",
    date: datetime.date | None = None,
) -> str:
    """Write the page.

    Args:
        runs: In the order in which they are shown; others are compared with the first.
        title: Of the page; made from the runs if empty.
        film: The film strips (`longva_eval.reports.page.film`).
        film_note: A sentence on how they were made.
        date: On which the page was made; today if left out.
    """
    shown = shown_runs(runs)
    samples = collect_samples([each.run for each in shown], film or {})
    title = title or _title(shown)
    sections = [
        ("summary", "Summary", summary_table(shown)),
        ("comparison", "Runs against each other", comparison_table(shown)),
        ("curves", "Score by number of frames", frame_curves(shown)),
        ("needles", "Needles by length and depth", needle_grids(shown)),
        ("categories", "By category", category_figures(shown)),
        ("unanswered", "Failed and unanswered questions", _unanswered(shown)),
        ("samples", "Samples", _browser(samples, film_note)),
        ("made", "How these numbers were made", _recipes(shown)),
    ]
    sections = [section for section in sections if section[2]]
    body = [
        _header(shown, title, samples, date or datetime.date.today(), sections),
        tag(
            "main",
            _problems(shown),
            *(_section(name, heading, content) for name, heading, content in sections),
            id="main",
        ),
        tag(
            "footer",
            tag("p", f"Made by longva-eval {__version__}. This file needs no network and no other "
                "file."),
        ),
    ]  # fmt: skip
    config = {
        "runs": [{"letter": each.letter, "label": each.label} for each in shown],
        "outcomes": [*OUTCOMES, "scored"],
    }
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_digest(style)}; script-src {_digest(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    head = joined(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Markup(f"<style>{style}</style>"),
    )
    data = joined(script_json("config", config), samples.elements)
    return (
        "<!doctype html>\n"
        + tag(
            "html",
            tag("head", head),
            tag("body", *body, data, Markup(f"<script>{script}</script>")),
            lang="en",
        )
        + "\n"
    )


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _title(shown: Sequence[ShownRun]) -> str:
    names = list(dict.fromkeys(each.run.name for each in shown))
    tasks = list(dict.fromkeys(task for each in shown for task in each.run.tasks))
    who = " and ".join(names) if len(names) <= 2 else f"{len(names)} models"
    what = " and ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
    return f"{who} on {what}"


# Header and problems ------------------------------------------------------------------------------


def _header(
    shown: Sequence[ShownRun],
    title: str,
    samples: Samples,
    date: datetime.date,
    sections: Sequence[tuple[str, str, Markup]],
) -> Markup:
    tasks = all_tasks(shown)
    facts = (
        f"{count_of(len(shown), 'run')} · {count_of(len(tasks), 'task')} · "
        f"{count_of(samples.num_questions, 'question')} · {date.isoformat()}"
    )
    links = [tag("a", heading, href=f"#{name}") for name, heading, _ in sections]
    return tag(
        "header",
        tag("a", "Skip to the numbers", class_="skip", href="#main"),
        tag("p", "longva-eval report", class_="kicker"),
        tag("h1", isolated(title)),
        tag("p", facts, class_="facts"),
        tag("ul", *(tag("li", named(each)) for each in shown), class_="runs", aria_label="Runs"),
        tag("nav", *links, aria_label="Sections"),
    )


def _problems(shown: Sequence[ShownRun]) -> Markup:
    """What a reader must know before any number."""
    rows: dict[tuple[str, str], list[ShownRun]] = {}
    for each in shown:
        for problem in each.run.problems:
            rows.setdefault((problem.kind, problem.text), []).append(each)
    serious = [(key, who) for key, who in rows.items() if key[0] not in _NOTICES]
    notices = [(key, who) for key, who in rows.items() if key[0] in _NOTICES]
    if not rows:
        return Markup("")

    def entries(found: Iterable[tuple[tuple[str, str], list[ShownRun]]]) -> Markup:
        return tag(
            "ul",
            *(
                tag("li", *(joined(badge(each), " ") for each in who), isolated(_sentence(text)))
                for (_, text), who in found
            ),
        )

    parts = []
    if serious:
        parts += [tag("h2", "Before you read the numbers", id="problems"), entries(serious)]
    if notices:
        heading = f"{count_of(len(notices), 'note')} on how the numbers were read"
        parts.append(tag("details", tag("summary", heading), entries(notices), open=not serious))
    return tag(
        "section", *parts, class_="problems" + ("" if serious else " mild"),
        aria_label="Problems of the runs",
    )  # fmt: skip


def _sentence(text: str) -> str:
    """A problem's text as a sentence: paths are shortened to the file's name."""
    text = re.sub(r"(?<![\w.:/])/(?:[^/\s:;,]+/)+([^/\s:;,]+)", r"\1", text)
    return text[:1].upper() + text[1:] if re.match("[a-z]+ ", text) else text


def _section(name: str, heading: str, content: Markup) -> Markup:
    return tag(
        "section", tag("h2", heading, id=f"{name}-title"), content, id=name,
        aria_labelledby=f"{name}-title",
    )  # fmt: skip


# Failures -----------------------------------------------------------------------------------------


def _unanswered(shown: Sequence[ShownRun]) -> Markup:
    parts = []
    for each in shown:
        for name, task in each.run.tasks.items():
            for outcome in ("failed", "no answer"):
                found = [q for q in task.samples if q.outcome == outcome]
                if found:
                    parts.append(_unanswered_list(each, name, outcome, found, len(task.samples)))
    return joined(*parts)


def _unanswered_list(
    each: ShownRun, name: str, outcome: str, found: Sequence[Sample], asked: int
) -> Markup:
    rows = []
    for question in found[:_MOST_LISTED]:
        what = question.reason if outcome == "failed" else question.generated
        rows.append(
            tag(
                "tr",
                tag("th", tag("a", isolated(question.question_id or str(question.doc_id)),
                    href=f"#sample={quoted(f'{name}/{question.key}')}"), scope="row"),
                tag("td", isolated(_short(question.question or question.prompt, 120))),
                tag("td", isolated(_short(what, 240)) if what.strip() else
                    tag("em", "no reason recorded" if outcome == "failed" else "an empty answer")),
            )
        )  # fmt: skip
    heads = ("Question", "Text", "Reason" if outcome == "failed" else "What the model said")
    more = Markup("")
    if len(found) > _MOST_LISTED:
        link = f"#task={quoted(name)}&run={each.place}&outcome={quoted(outcome)}"
        more = tag("p", tag("a", f"All {len(found):,} in the samples", href=link))
    words = "could not be asked" if outcome == "failed" else "have no answer that can be read"
    return tag(
        "details",
        tag("summary", named(each), ", ", isolated(name), f": {len(found):,} of {asked:,} "
            f"questions {words}"),
        tag("div", tag("table",
            tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads))),
            tag("tbody", *rows)), class_="scroll"),
        more,
        open=len(found) <= 5,
    )  # fmt: skip


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


# Samples ------------------------------------------------------------------------------------------


def _browser(samples: Samples, film_note: str) -> Markup:
    if not samples.num_questions:
        return Markup("")
    notes = ["A question's answers of all runs stand together."]
    if film_note:
        notes.append(film_note)
    if samples.is_cut:
        notes.append(f"Texts are cut at {samples.text_length:,} characters.")
    return joined(
        tag("noscript", tag("p", "Browsing the samples needs JavaScript.", class_="note")),
        tag("form", id="filters", role="search", aria_label="Filter the samples"),
        tag("p", id="count", aria_live="polite"),
        tag("ol", id="list", aria_label="Samples"),
        tag("div", id="pager"),
        tag("p", " ".join(notes), class_="note"),
    )


# How it was made ----------------------------------------------------------------------------------


def _recipes(shown: Sequence[ShownRun]) -> Markup:
    parts = []
    for each in shown:
        run = each.run
        facts: list[tuple[str, str]] = [("file", run.path.name)]
        facts += [
            (name, value)
            for name, value in (
                ("model", run.model),
                ("date", run.date),
                ("limit", "" if run.limit is None else f"{run.limit:g}"),
                ("offset", str(run.offset or "")),
            )
            if value
        ]
        facts += [(f"model_args {name}", value) for name, value in run.model_args.items()]
        facts += [
            (f"version of {name}", task.version) for name, task in run.tasks.items() if task.version
        ]
        for name, task in run.tasks.items():
            read = [f"{what} from {field}" for what, field in task.read_from.items() if field]
            if read:
                facts.append((f"read of {name}", "; ".join(read)))
        for name in ("lmms_eval_version", "git_hash", "total_evaluation_time_seconds"):
            if run.results.get(name) not in (None, ""):
                facts.append((name, str(run.results[name])))
        facts += _flat({k: v for k, v in run.recipe.items() if k not in _LEFT_OUT}, "")
        rows = [tag("div", tag("dt", isolated(k)), tag("dd", isolated(v))) for k, v in facts]
        parts.append(
            tag("details", tag("summary", named(each)), tag("dl", *rows), open=len(shown) == 1)
        )
    return joined(*parts)


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    """Nested settings as lines."""
    if isinstance(value, Mapping):
        return [
            line for key, inner in value.items() for line in _flat(inner, f"{name} {key}".strip())
        ]
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        return [
            line
            for number, inner in enumerate(value[:20], start=1)
            for line in _flat(inner, f"{name} {number}")
        ]
    if value in (None, "", [], ()):
        return []
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(name, text if len(text) <= 400 else text[:400] + "…")]
