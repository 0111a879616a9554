"""The page: one HTML file with everything in it, to open from disk and to send around.

Numbers, figures and lists are written as plain HTML and SVG (`templates/`), so that they are there
without scripts, in print and for a screen reader; the script only adds the browser of samples and
what a heatmap says on a hover. Nothing is fetched: the content security policy forbids it, and
allows only the style and the script of this file, by their digests.

A number that would mislead is not shown, or stands beside what is wrong with it; what is wrong with
the runs stands at the top.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from longva_eval import __version__
from longva_eval.errors import SettingsError
from longva_eval.files import write_atomically
from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.page.figures import (
    GridFigure,
    frame_figures,
    method_figures,
    needle_figures,
)
from longva_eval.reports.page.media import make_film
from longva_eval.reports.page.numbers import (
    category_tables,
    differences,
    published_tables,
    score_rows,
)
from longva_eval.reports.page.rendering import asset, digest, render, style_sheet
from longva_eval.reports.page.runs import (
    PageRun,
    ShownRun,
    all_tasks,
    link_to,
    read_page_runs,
    shown_runs,
)
from longva_eval.reports.page.samples import Film, collect_samples
from longva_eval.reports.reading.runs import Sample
from longva_eval.reports.reading.samples import count_of

__all__ = ["PageRun", "build_page", "write_page"]

_NOTICES: Final = frozenset(["independent", "scale", "aggregate", "repeated", "several runs"])
"""Problems that qualify a number; all others can change what it means."""
_MOST_LISTED: Final = 25
_LEFT_OUT: Final = frozenset(["prompts", "outcomes", "ignored_generation_settings"])
"""Parts of a recipe that are no settings."""


def write_page(
    paths: Sequence[Path],
    out: Path,
    *,
    title: str = "",
    media: Sequence[Path] = (),
    film_megabytes: float = 26.0,
) -> list[str]:
    """Write one page about runs.

    Args:
        paths: Results files or folders of lmms-eval, needle tests and studies. The first run is
            what the others are compared with.
        out: The file.
        title: Of the page; made from the runs if empty.
        media: Folders with videos and pictures that do not lie in the folders of the runs.
        film_megabytes: What all film strips together may add; 0 leaves them out.

    Returns:
        What was written, and what is wrong with the runs: a line each.

    Raises:
        SettingsError: If `out` is a folder, or `film_megabytes` is not from 0 to 1,000.
        MediaError: If a run cannot be read.
        ResourceError: If the file cannot be written.
    """
    if not 0 <= film_megabytes <= 1000:
        raise SettingsError(f"--film-mb {film_megabytes:g} must be from 0 to 1,000.")
    if out.is_dir():
        raise SettingsError(f"--out {out} is a folder; name a file, as report.html.")
    runs = [run for path in paths for run in read_page_runs(path)]
    film: Film = {}
    note = "Film strips were left out (--no-film)."
    if film_megabytes:
        film, note = make_film(runs, media=media, megabytes=film_megabytes)
    methods = [figure for path in paths for figure in method_figures(path)]
    page = build_page(runs, title=title, film=film, film_note=note, methods=methods)
    data = page.encode("utf-8")
    with write_atomically(out) as temporary:
        temporary.write_bytes(data)
    # The same is said of all points of a study.
    said = Counter(
        f"{each.run.name}: {problem.text}" for each in runs for problem in each.run.problems
    )
    return [f"Wrote {out} ({len(data) / 1e6:.1f} MB). {note}"] + [
        f"  {text}" + (f" ({times} runs)" if times > 1 else "") for text, times in said.items()
    ]


def build_page(
    runs: Sequence[PageRun],
    *,
    title: str = "",
    film: Film | None = None,
    film_note: str = "",
    date: datetime.date | None = None,
    live: str | None = None,
    methods: Sequence[GridFigure] = (),
) -> str:
    """The page's text.

    Args:
        runs: In the order in which they are shown; others are compared with the first.
        title: Of the page; made from the runs if empty.
        film: The film strips (`longva_eval.reports.page.media`).
        film_note: A sentence on how they were made.
        date: On which the page was made; today if left out.
        live: What a local server says about runs in progress (`longva_eval.reports.page.view`),
            which the page then asks again and again.
        methods: Of studies of needle tests (`method_figures`).
    """
    shown = shown_runs(runs)
    samples = collect_samples([each.run for each in shown], film or {})
    compared, compared_notes = differences(shown)
    curves, maps = frame_figures(shown)
    tables, table_notes = category_tables(shown)
    parts: dict[str, tuple[str, Any]] = {
        "summary": ("Summary", score_rows(shown)),
        "differences": ("Runs against the first", compared or compared_notes),
        "published": ("Beside published scores", published_tables(shown)),
        "frames": ("Score by number of frames", curves or maps),
        "methods": ("Needles found, by method", methods),
        # Of a study of methods each would be drawn for each of its points.
        "needles": ("Needles by length and depth", [] if methods else needle_figures(shown)),
        "categories": ("By category", tables),
        "failures": ("Failed and unanswered questions", _unanswered(shown)),
        "samples": ("Samples", samples.num_questions),
        "recipes": ("How these numbers were made", [(each, _recipe(each)) for each in shown]),
    }
    style, script = style_sheet(), asset("page.js")
    return render(
        "page.html",
        title=title or _title(shown),
        facts=" · ".join(
            [
                count_of(len(shown), "run"),
                count_of(len(all_tasks(shown)), "task"),
                count_of(samples.num_questions, "question"),
                (date or datetime.date.today()).isoformat(),
            ]
        ),
        version=__version__,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src {digest(style)}; script-src {digest(script)}; "
        f"img-src data:; connect-src '{'none' if live is None else 'self'}'; base-uri 'none'; "
        "form-action 'none'",
        config={
            "runs": [{"letter": each.letter, "label": each.label} for each in shown],
            "outcomes": [*OUTCOMES, "scored"],
            "live": live is not None,
        },
        live=live,
        shown=shown,
        problems=_problems(shown),
        parts={name: part for name, part in parts.items() if part[1]},
        differences=compared,
        difference_notes=compared_notes,
        curves=curves,
        maps=maps,
        category_notes=table_notes,
        samples=samples,
        film_note=film_note,
        outcomes=[name for name in OUTCOMES if name != "not scored"],
    )


def _title(shown: Sequence[ShownRun]) -> str:
    names = list(dict.fromkeys(each.run.name for each in shown))
    tasks = all_tasks(shown)
    who = " and ".join(names) if len(names) <= 2 else f"{len(names)} models"
    what = " and ".join(tasks) if len(tasks) <= 2 else f"{len(tasks)} tasks"
    return f"{who} on {what}"


def _problems(shown: Sequence[ShownRun]) -> dict[str, list[tuple[list[ShownRun], str]]]:
    """What a reader must know before any number, and what is good to know, with the runs."""
    rows: dict[tuple[str, str], list[ShownRun]] = {}
    for each in shown:
        for problem in each.run.problems:
            rows.setdefault((problem.kind, problem.text), []).append(each)
    found: dict[str, list[tuple[list[ShownRun], str]]] = {"serious": [], "mild": []}
    for (kind, text), who in rows.items():
        found["mild" if kind in _NOTICES else "serious"].append((who, _sentence(text)))
    return found


def _sentence(text: str) -> str:
    """A problem's text as a sentence: paths are shortened to the file's name."""
    text = re.sub(r"(?<![\w.:/])/(?:[^/\s:;,]+/)+([^/\s:;,]+)", r"\1", text)
    return text[:1].upper() + text[1:] if re.match("[a-z]+ ", text) else text


def _unanswered(shown: Sequence[ShownRun]) -> list[dict[str, Any]]:
    """For each run, task and outcome: the first questions that failed or have no answer."""
    lists = []
    for each in shown:
        for name, task in each.run.tasks.items():
            for outcome in ("failed", "no answer"):
                found = [sample for sample in task.samples if sample.outcome == outcome]
                if found:
                    lists.append(
                        {
                            "each": each,
                            "task": name,
                            "outcome": outcome,
                            "asked": len(task.samples),
                            "number": len(found),
                            "rows": [_unanswered_row(name, s) for s in found[:_MOST_LISTED]],
                            "link": link_to(task=name, run=each.place, outcome=outcome),
                        }
                    )
    return lists


def _unanswered_row(task: str, sample: Sample) -> dict[str, str]:
    return {
        "name": sample.question_id or str(sample.doc_id),
        "link": link_to(sample=f"{task}/{sample.key}"),
        "text": sample.question or sample.prompt,
        "what": sample.reason if sample.outcome == "failed" else sample.generated,
    }


def _recipe(each: ShownRun) -> list[tuple[str, str]]:
    """How a run was made, as names and values."""
    run = each.run
    facts: list[tuple[str, Any]] = [
        ("file", run.path.name), ("model", run.model), ("date", run.date),
        ("limit", "" if run.limit is None else f"{run.limit:g}"), ("offset", run.offset or ""),
    ]  # fmt: skip
    facts += [(f"model_args {name}", value) for name, value in run.model_args.items()]
    for name, task in run.tasks.items():
        read = [f"{what} from {field}" for what, field in task.read_from.items() if field]
        facts += [(f"version of {name}", task.version), (f"read of {name}", "; ".join(read))]
    for name in ("lmms_eval_version", "git_hash", "total_evaluation_time_seconds"):
        facts.append((name, run.results.get(name, "")))
    facts += _flat({k: v for k, v in run.recipe.items() if k not in _LEFT_OUT}, "")
    return [(name, str(value)) for name, value in facts if value not in ("", None)]


def _flat(value: Any, name: str) -> list[tuple[str, str]]:
    """Nested settings as lines."""
    parts = value
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        parts = dict(enumerate(value[:20], start=1))
    if isinstance(parts, Mapping):
        return [
            line for key, inner in parts.items() for line in _flat(inner, f"{name} {key}".strip())
        ]
    if value in (None, "", [], ()):
        return []
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return [(name, text if len(text) <= 400 else text[:400] + "…")]
