"""`longva-eval explain`."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.reports.explain import Explanation, explain, recipe_of, same_tasks, warnings_of
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reading.scores import score_of
from longva_eval.reports.tables.benchmarks import benchmark_of
from longva_eval.reports.tables.published import (
    PublishedRow,
    find_benchmark,
    published_rows,
    published_scores,
)
from longva_eval.studies.recipes import RECIPES, SHOWN_BY, find_recipe
from longva_eval.text import columns, plain

__all__ = ["main"]

_SAYS: dict[str, str] = {
    "questions": "asked in one run only",
    "failures": "could not be asked in one run",
    "reading": "answers that a run's own rule reads otherwise than ours",
    "no answer": "nothing that can be read, in one run",
    "answers": "other answers",
}
_IN_RECIPES = (
    "checkpoint", "task version", "frames fps", "dtype", "conv_template", "video_decode_backend"
)  # fmt: skip
_WIDTH = 44


def main(arguments: Sequence[str]) -> int:
    """Why two numbers differ."""
    parser = argparse.ArgumentParser(
        prog="longva-eval explain",
        description="Why two runs differ, of any model of lmms-eval or sheets of VLMEvalKit: "
        "recipes, prompts, frames, readings, and the gap by cause. Or a run beside what papers "
        "(--published) or makers (--like) state.",
    )
    parser.add_argument(
        "first", metavar="RUN", help="a results file, a samples file, a sheet, or a folder"
    )
    parser.add_argument("second", nargs="?", metavar="RUN", help="what to hold it against")
    parser.add_argument(
        "--published", metavar="BENCHMARK", help="published rows instead, as of compare --published"
    )
    parser.add_argument(
        "--like", metavar="RECIPE", help=f"what makers stated instead: {', '.join(RECIPES)}"
    )
    parser.add_argument("--models", help="parts of published model names, with commas between")
    parser.add_argument("--format", choices=("terminal", "json"), default="terminal")
    options = parser.parse_args(arguments)
    if sum(given is not None for given in (options.second, options.published, options.like)) != 1:
        raise SettingsError(
            "explain takes two RUNs, or one RUN and --published BENCHMARK or --like RECIPE."
        )
    first = read_run(options.first)
    if options.like:
        return _beside_recipe(first, options)
    if options.published:
        return _beside_published(first, options)
    second = read_run(options.second)
    pairs = same_tasks(first, second)
    if not pairs:
        raise SettingsError(
            f"{options.first} has samples of {_tasks(first)}, {options.second} of "
            f"{_tasks(second)}: no task in common. Make both runs with --log_samples."
        )
    found = [(mine.name, explain(first, second, mine, theirs)) for mine, theirs in pairs]
    if all(isinstance(each, str) for _, each in found):
        raise SettingsError(" ".join(f"{name}: {each}" for name, each in found))
    if options.format == "json":
        rows = [{"task": n, "refusal": e} if isinstance(e, str) else e.as_json() for n, e in found]
        print(json.dumps(rows, indent=1))
        return 0
    for name, each in found:
        lines = [f"{name}: {each}"] if isinstance(each, str) else _lines(each)
        print(plain("\n".join(lines)), end="\n\n")
    return 0


def _tasks(run: Run) -> str:
    return ", ".join(name for name, task in run.tasks.items() if task.samples) or "no task"


def _lines(found: Explanation) -> list[str]:
    one, two = found.score_percent
    lines = [f"{found.task}: {one:.1f} - {two:.1f} = {one - two:+.1f} points", ""]
    lines.append(f"  {'cause':<10}  {'points':>7}  questions")
    for cause in found.causes:
        says = _SAYS[cause.name]
        if cause.interval is not None and math.isfinite(cause.interval.high):
            says += f", 95 % interval {cause.interval.low:+.1f} to {cause.interval.high:+.1f}"
            says += ": indistinguishable" if cause.is_noise else ""
        points = round(cause.points, 1) + 0.0  # never -0.0
        lines.append(f"  {cause.name:<10}  {points:>+7.1f}  {cause.num_questions:>9,}  {says}")
    lines += ["", f"  {_whole(found)}", "", f"  Of {found.num_common:,} common questions differ in"]
    for name, number in found.differing.items():
        lines.append(f"    {name}: {'not said' if number is None else f'{number:,}'}")
    stated = [row for row in found.recipe if row.first and row.second]
    lines += ["", "  Recipes differ in" if stated else "  Recipes: no stated setting differs."]
    lines += [f"    {row.name}: {_cut(row.first)} | {_cut(row.second)}" for row in stated]
    for place, name in enumerate(("first", "second")):
        silent = [row.name for row in found.recipe if not (row.first, row.second)[place]]
        if silent:
            lines.append(f"    not stated by the {name}: {', '.join(silent)}")
    return [*lines, *(f"  {remark}" for remark in found.remarks)]


def _whole(found: Explanation) -> str:
    """The gap on common questions, all causes but the first together."""
    interval = found.common.interval
    text = f"On {found.num_common:,} common questions {100 * found.common.difference:+.1f}"
    if not math.isfinite(interval.high):
        return f"{text}, of one video: its interval is unknown."
    is_noise = interval.low <= 0 <= interval.high
    return (
        f"{text}, 95 % interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}"
        f"{': indistinguishable' if is_noise else ''}."
    )


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 3]}..."


def _beside_published(run: Run, options: argparse.Namespace) -> int:
    scores = published_scores()
    benchmark = find_benchmark(options.published, scores)
    tasks = [task for task in run.tasks.values() if benchmark_of(task.name) is benchmark]
    if not tasks:
        raise SettingsError(
            f"{options.first} holds {', '.join(run.tasks) or 'no task'}: none is {benchmark.name}."
        )
    rows, _ = published_rows(scores, benchmark, models=(options.models or "LongVA").split(","))
    if not rows:
        raise SettingsError(f"{benchmark.name}: no published model is named {options.models!r}.")
    titles = [column.title for column in benchmark.columns]
    if options.format == "json":
        published = [_published(row, titles) for row in rows]
        found = [
            {
                "task": task.name,
                "score_percent": own.value if (own := score_of(task)) else None,
                "recipe": recipe_of(run, task),
                "published": published,
                "remarks": warnings_of(run, task),
            }
            for task in tasks
        ]
        print(json.dumps(found, indent=1))
        return 0
    for task in tasks:
        print(plain("\n".join(_side_by_side(run, task, rows, titles))), end="\n\n")
    return 0


def _side_by_side(
    run: Run, task: TaskRun, rows: Sequence[PublishedRow], titles: Sequence[str]
) -> list[str]:
    """This run first, then what was printed; an empty place is not stated."""
    own, recipe = score_of(task), recipe_of(run, task)
    mine = ["this run", run.frames(task.name), recipe.get("subtitles", ""), *[""] * len(titles)]
    mine[-1] = "" if own is None else own.text
    table = [["", "frames", "subtitles", *titles, "source"], [*mine, task.name]]
    for row in rows:
        more = f" and {len(row.sources) - 1} more" if len(row.sources) > 1 else ""
        values = [s.value if (s := row.values.get(place)) else "" for place in range(len(titles))]
        source = f"{row.sources[0].table}{more}"
        table.append([row.model, row.frames, row.subtitles, *values, source])
    stated = ", ".join(f"{name} {recipe[name]}" for name in _IN_RECIPES if name in recipe)
    return [
        *(f"  {line}" for line in columns(table)),
        "",
        f"  This run: {stated}.",
        "  No published row states its prompt, answer parser, pixels, dtype or template. Sources "
        "and notes: --format json.",
        *(f"  {text}" for text in warnings_of(run, task)),
    ]


def _beside_recipe(run: Run, options: argparse.Namespace) -> int:
    """What makers stated of their recipe, and what was run."""
    recipe = find_recipe(options.like)
    found: list[dict[str, Any]] = []
    for task in run.tasks.values():
        if task.is_group:
            continue
        own = recipe_of(run, task)
        found.append(
            {
                "task": task.name,
                "recipe": options.like,
                "source": recipe.source,
                "settings": [
                    {
                        "setting": name,
                        "stated": stated,
                        "run": "; ".join(
                            f"{key} {own[key]}" for key in SHOWN_BY[name] if key in own
                        ),
                    }
                    for name, stated in recipe.stated.items()
                ],
                "differs": [
                    [key, value, own.get(key, "")]
                    for key, value in recipe.recorded.items()
                    if own.get(key) != value
                ],
                "remarks": warnings_of(run, task),
            }
        )
    if options.format == "json":
        print(json.dumps(found, indent=1))
        return 0
    for each in found:
        lines = [f"{each['task']} beside {options.like} ({recipe.title})", ""]
        for row in each["settings"]:
            lines += [f"  {row['setting']}", f"    stated    {row['stated']}"]
            lines += [f"    this run  {row['run'] or 'does not say'}"]
        differs = [f"{name}: {run_has or 'not said'}, not {value}"
                   for name, value, run_has in each["differs"]]  # fmt: skip
        lines += ["", f"  Differs in {'; '.join(differs) or 'nothing that a run records'}."]
        lines += [f"  Source: {recipe.source}", *(f"  {text}" for text in each["remarks"])]
        print(plain("\n".join(lines)), end="\n\n")
    return 0


def _published(row: PublishedRow, titles: Sequence[str]) -> dict[str, object]:
    return {
        "model": row.model,
        "llm_params": row.llm_params,
        "frames": row.frames,
        "subtitles": row.subtitles,
        "scores": {titles[place]: score.value for place, score in row.values.items()},
        "sources": [[source.table, source.url, source.note] for source in row.sources],
    }
