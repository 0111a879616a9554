"""A run as text for a terminal: what was run, scores, outcomes, problems, single questions."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from longva_eval.errors import SettingsError
from longva_eval.questions.outcomes import OUTCOMES
from longva_eval.reports.reading.controls import calibration, letter_shares, rotation_scores
from longva_eval.reports.reading.run import Metric, Run, TaskRun
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.reading.scores import Score, score_of
from longva_eval.reports.tables.measured import further_metrics
from longva_eval.reports.tables.tables import Cell, Column, Row, Table, render, shown_width
from longva_eval.text import one_line, plain

__all__ = ["show_failed", "show_question", "show_run"]

_BARS: Final = {
    "right": "█", "wrong": "▒", "no answer": "░", "failed": "x", "not scored": "─", "scored": "█",
}  # fmt: skip
_TITLES: Final = {"no answer": "none"}
_SHOWN: Final = 5
_MOST_VALUES: Final = 12


def show_run(run: Run, *, width: int = 80) -> str:
    """Everything that matters about a run on a screen or two."""
    lines = [f"{run.name}", ""]
    lines += _facts(_what_was_run(run), width)
    for task in run.tasks.values():
        if not task.is_group:
            lines += ["", *_task_lines(run, task, width)]
    groups = [task for task in run.tasks.values() if task.is_group and task.metrics]
    if groups:
        lines += ["", "Groups"]
        lines += [
            f"  {task.name}: " + ", ".join(_written(task, m) for m in task.metrics)
            for task in groups
        ]
    lines += ["", *_problem_lines(run, width)]
    return plain("\n".join(line.rstrip() for line in lines) + "\n")


def show_failed(run: Run, *, width: int = 80) -> str:
    """Every question that failed or got no answer that could be read, with the reason."""
    lines = []
    for task in run.tasks.values():
        if not task.samples and task.metrics and not task.is_group:
            lines += [f"{task.name}: the run has no samples; what failed is not known."]
            continue
        for outcome in ("failed", "no answer"):
            found = [q for q in task.samples if q.outcome == outcome]
            if not found:
                continue
            lines += [f"{task.name}: {len(found):,} of {len(task.samples):,} {outcome}", ""]
            by_reason: dict[str, list[Sample]] = {}
            for question in found:
                reason = question.reason if outcome == "failed" else f"said {_quoted(question)}"
                by_reason.setdefault(reason or "no reason was kept", []).append(question)
            for reason, questions in sorted(by_reason.items(), key=lambda item: -len(item[1])):
                lines += _wrap(reason, width, "  ")
                names = ", ".join(_id(question) for question in questions)
                lines += [*_wrap(names, width, "    "), ""]
    return plain("\n".join(lines).rstrip() + "\n") if lines else "No question failed.\n"


def show_question(run: Run, question_id: str, *, width: int = 80) -> str:
    """One question with all that is known of it.

    Raises:
        SettingsError: If there is none with this id, or document number.
    """
    found = [
        (task, question)
        for task in run.tasks.values()
        for question in task.samples
        if question_id in (question.question_id, question.key)
    ] or [
        (task, question)
        for task in run.tasks.values()
        for question in task.samples
        if question_id == str(question.doc_id)
    ]
    if not found:
        known = [_id(q) for task in run.tasks.values() for q in task.samples][:_SHOWN]
        hint = f"Ids look like {', '.join(known)}." if known else "The run has no samples."
        raise SettingsError(f"{run.path} has no question {question_id!r}. {hint}")
    parts = []
    for task, question in found:
        lines = [f"{task.name}, question {_id(question)}", ""]
        lines += _facts(_about(question), width)
        if question.question or question.prompt:
            lines += ["", *_wrap(question.question or question.prompt, width, "")]
        for number, option in enumerate(question.options):
            letter = chr(ord("A") + number)
            mark = "*" if letter == question.answer else " "
            said = "  <- chosen" if letter == question.choice else ""
            text = option if option.startswith(f"{letter}.") else f"{letter}. {option}"
            lines += _wrap(text + said, width, f"{mark} ")
        lines += ["", "Answer"]
        lines += _wrap(question.generated or "(empty)", width, "  ")
        parts.append("\n".join(lines))
    return plain("\n\n".join(parts) + "\n")


def _about(question: Sample) -> list[tuple[str, str]]:
    facts = [
        ("outcome", question.outcome + (f": {question.reason}" if question.reason else "")),
        ("right answer", question.answer),
        ("chosen", question.choice or ("" if not question.options else "none could be read")),
        ("score", f"{question.score:g}"),
        ("of each answer", ", ".join(f"{score:g}" for score in question.tries)),
        ("video", question.cluster if question.cluster != question.key else ""),
        ("media", ", ".join(question.media)),
        ("subsets", ", ".join(f"{k} {v}" for k, v in question.categories.items())),
    ]
    if question.frames_seen is not None:
        asked = question.frames_asked
        of = f" (asked for {asked})" if asked not in (None, question.frames_seen) else ""
        facts.append(("frames", f"{question.frames_seen}{of}{_times(question.timestamps)}"))
    if question.num_prompt_tokens is not None:
        facts.append(("prompt", f"{question.num_prompt_tokens:,} tokens"))
    return facts


def _times(timestamps: Sequence[float]) -> str:
    if not timestamps:
        return ""
    shown = [f"{t:g}" for t in timestamps]
    if len(shown) > 8:
        shown = [*shown[:4], "...", *shown[-2:]]
    return f", at {', '.join(shown)} s"


# What was run -------------------------------------------------------------------------------------


def _what_was_run(run: Run) -> list[tuple[str, str]]:
    recipe = run.recipe
    rope = recipe.get("rope")
    policy = recipe.get("frames")
    frames = run.frames()
    if frames and isinstance(policy, Mapping) and policy.get("rule"):
        frames += f" ({policy['rule']})"
    arguments = ", ".join(f"{k}={v}" for k, v in run.model_args.items())
    versions = recipe.get("versions")
    named = ", ".join(
        f"{k} {v}"
        for k, v in (versions.items() if isinstance(versions, Mapping) else ())
        if k in ("longva-eval", "lmms-eval", "transformers", "torch")
    )
    checkpoint = str(recipe.get("checkpoint") or "")
    revision = recipe.get("revision") or recipe.get("weights_fingerprint")
    return [
        ("model", f"{run.model}" + (f" ({arguments})" if arguments else "")),
        ("checkpoint", checkpoint + (f", {revision}" if checkpoint and revision else "")),
        ("dtype", ", ".join(str(recipe[k]) for k in ("dtype", "device") if recipe.get(k))),
        ("frames", frames),
        ("RoPE", _rope(rope)),
        ("template", str(recipe.get("conv_template") or "")),
        ("versions", named),
        ("date", _date(run)),
        ("file", str(run.path)),
    ]


def _date(run: Run) -> str:
    """lmms-eval writes 20261101_120000 in a time zone of its own: Singapore's if not told."""
    found = re.fullmatch(r"(\d{4})(\d\d)(\d\d)_(\d\d)(\d\d)(\d\d)", run.date)
    if found is None:
        return run.date
    arguments = run.config.get("resolved_cli_args")
    zone = arguments.get("timezone") if isinstance(arguments, Mapping) else None
    said = (
        f"{zone}, lmms-eval's --timezone" if isinstance(zone, str) and zone else "lmms-eval's time"
    )
    return "{}-{}-{} {}:{}:{} ({})".format(*found.groups(), said)


def _rope(rope: object) -> str:
    if not isinstance(rope, Mapping):
        return ""
    parameters = rope.get("parameters")
    if not isinstance(parameters, Mapping):
        return ""
    kept = [
        f"{name.removeprefix('rope_')} {_plain(value)}"
        for name, value in parameters.items()
        if value is not None and not isinstance(value, (list, Mapping))
    ]
    asked = " (changed)" if rope.get("asked") else ""
    return ", ".join(kept) + asked


def _plain(value: object) -> str:
    return f"{value:,.0f}" if isinstance(value, float) and value.is_integer() else str(value)


# A task -------------------------------------------------------------------------------------------


def _task_lines(run: Run, task: TaskRun, width: int) -> list[str]:
    version = f" (version {task.version})" if task.version else ""
    lines = [f"{task.name}{version}"]
    if not task.samples:
        lines += [f"  {_written(task, metric)}, as lmms-eval wrote it" for metric in task.metrics]
        return lines
    rows = [_score_row("all", task.samples, task)]
    answered = [q for q in task.samples if q.outcome != "failed"]
    if answered and len(answered) < len(task.samples):
        rows.append(_score_row("without failed", answered, task))
    names = dict.fromkeys(name for q in task.samples for name in q.categories)
    for name in names:
        values: dict[str, list[Sample]] = {}
        for question in task.samples:
            if name in question.categories:
                values.setdefault(question.categories[name], []).append(question)
        if len(values) < 2:
            continue
        if len(values) > _MOST_VALUES:
            lines.append(f"  ({name}: {len(values)} values; compare --by {name} shows them)")
            continue
        members = [
            _score_row(f"  {value}", values[value], task) for value in sorted(values, key=_natural)
        ]
        blank = (Cell() for _ in range(3 + len(_shown_outcomes(task))))
        rows.append(Row(cells=(Cell(text=name), *blank), rule_above=True))
        rows += members
    unit = f"{task.unit}{'' if task.higher_is_better else ' ↓'}"
    columns = (
        Column(title="", is_number=False),
        Column(title=f"score {unit}".strip()),
        Column(title="95 % interval"),
        Column(title="n"),
        *(Column(title=_TITLES.get(name, name)) for name in _shown_outcomes(task)),
    )
    table = Table(title="", columns=columns, rows=tuple(rows))
    lines += ["  " + line for line in render([table], "terminal", width=width - 2).splitlines()]
    lines += ["", *_outcome_bar(task, width)]
    for text in [*_of_the_score(run, task), *_beside_the_score(task)]:
        lines += _wrap(text, width, "  ")
    return lines + _worth_a_look(task, width)


def _of_the_score(run: Run, task: TaskRun) -> list[str]:
    """What the score is, its interval, and the task's further metrics."""
    texts = []
    whole, own = score_of(task), task.main_metric()
    if whole is not None and whole.is_few:
        texts.append(
            f"few: {whole.few}, too few for a narrow interval; it leans on the worst case."
        )
    further = [m for m in task.metrics if m.label in further_metrics(task)]
    if own is not None and (further or not own.higher_is_better):
        less = "" if own.higher_is_better else "; less is better (↓)"
        texts.append(f"The score is {own.label}{less}.")
    texts += [_written(task, metric) for metric in further]
    is_other = any(p.kind == "aggregate" for p in run.problems_of(task.name))
    if own is not None and own.percent is not None and is_other:
        texts.append(f"The task's own score, {own.name}: {own.percent:.1f} %; see below.")
    if source := task.read_from.get("cluster"):
        videos = len({question.cluster for question in task.samples})
        texts.append(f"Intervals are clustered by {videos:,} videos or pictures ({source}).")
    return texts


def _beside_the_score(task: TaskRun) -> list[str]:
    """Rotations of the options, how often each letter is chosen, and calibration."""
    texts: list[str] = []
    rotated = [scores for q in task.samples if q.is_scored and (scores := rotation_scores(q))]
    if rotated:
        every = sum(min(scores) for scores in rotated) / len(rotated)
        mean = sum(sum(scores) / len(scores) for scores in rotated) / len(rotated)
        texts.append(
            f"Circular: {100 * every:.1f} % of {len(rotated):,} questions are right under every "
            f"rotation of the options; {100 * mean:.1f} % of all rotations are right."
        )
    shares = letter_shares(task.samples)
    if len(shares) > 1 and all(len(letter) == 1 for letter in shares):
        told = ", ".join(f"{x} {100 * a:.0f} ({100 * b:.0f})" for x, (a, b) in shares.items())
        texts.append(f"Letters chosen, and right, in percent: {told}.")
    found = calibration(task.samples)
    if found is not None:
        text = (
            f"Calibration error {100 * found.error:.1f} points ({found.num_questions:,} questions, "
            f"10 bins); {100 * found.mass:.1f} % of the first token's probability is on the letters"
        )
        if found.mass < 0.5:
            text += ": the model does not answer by letters, so that the error means little"
        texts.append(f"{text}.")
    return texts


def _score_row(label: str, questions: Sequence[Sample], task: TaskRun) -> Row:
    found = score_of(task, questions)
    counts = Counter(question.outcome for question in questions)
    texts = [
        label,
        "" if found is None else found.text,
        "" if found is None else _interval(found),
        f"{len(questions):,}",
        *(f"{counts[name]:,}" if counts[name] else "" for name in _shown_outcomes(task)),
    ]
    return Row(cells=tuple(Cell(text=text) for text in texts))


def _interval(found: Score) -> str:
    """`12.0 to 34.0`, with `few` where it leans on the worst case; empty where there is none."""
    if found.low is None or found.high is None:
        return ""
    few = " few" if found.is_few else ""
    return f"{found.write(found.low)} to {found.write(found.high)}{few}"


def _written(task: TaskRun, metric: Metric) -> str:
    """A metric with its value, on the scale that all tables have, and its interval."""
    found = score_of(task, metric=metric.label)
    assert found is not None, "a metric has a value"
    less = "" if metric.higher_is_better else " ↓"
    text = found.text if found.unit else f"{found.value:g}"
    interval = _interval(found)
    return f"{metric.label}{less} {text} {found.unit}".rstrip() + (
        f" ({interval})" * bool(interval)
    )


def _shown_outcomes(task: TaskRun) -> list[str]:
    """The usual ones, and what else there is; none where every question is just scored."""
    counts = {name: number for name, number in task.counts().items() if number}
    if set(counts) == {"scored"}:
        return []
    return [name for name in OUTCOMES if name != "not scored" or name in counts]


def _outcome_bar(task: TaskRun, width: int) -> list[str]:
    """The outcomes as one bar; every outcome that occurs takes a place at least."""
    counts = {name: number for name, number in task.counts().items() if number}
    total = sum(counts.values())
    room = max(20, min(60, width - 4))
    places = {name: max(1, round(room * number / total)) for name, number in counts.items()}
    largest = max(places, key=lambda name: places[name])
    places[largest] += room - sum(places.values())
    bar = "".join(_BARS.get(name, "█") * number for name, number in places.items())
    legend = "   ".join(
        f"{_BARS.get(name, '█')} {name} {number:,} ({100 * number / total:.1f} %)"
        for name, number in counts.items()
    )
    lines = [f"  {bar}", *_wrap(legend, width, "  ")]
    partial = sum(0.0 < sample.score < 1.0 for sample in task.samples) * task.is_share
    if partial and counts.get("wrong"):
        text = f"{partial:,} questions have partial credit; only a full score is right here."
        lines += _wrap(text, width, "  ")
    return lines


def _worth_a_look(task: TaskRun, width: int) -> list[str]:
    """Failed questions, unread answers, and the longest prompts."""
    lines: list[str] = []
    for outcome, title in (("failed", "Failed"), ("no answer", "No answer could be read")):
        found = [q for q in task.samples if q.outcome == outcome]
        if not found:
            continue
        lines += ["", f"  {title}"]
        for question in found[:_SHOWN]:
            said = question.reason if outcome == "failed" else _quoted(question)
            lines.append(_clip(f"    {_id(question)}: {said}", width))
        if len(found) > _SHOWN:
            lines.append(f"    and {len(found) - _SHOWN:,} more: --failed lists them")
    cut = sum(bool(q.facts.get("num_tokens_cut")) for q in task.samples)
    repeating = sum(bool(q.facts.get("degenerate")) for q in task.samples)
    if cut:
        lines += ["", f"  {cut:,} prompts were cut to fit the context."]
    if repeating:
        lines += ["", f"  {repeating:,} answers repeat themselves."]
    slow = sorted((q for q in task.samples if q.seconds is not None), key=lambda q: -q.seconds)  # type: ignore[operator]  # filtered
    told = [f"{_id(q)} ({q.seconds:.1f} s)" for q in slow]
    if not slow:
        long = [(q.num_prompt_tokens, q) for q in task.samples if q.num_prompt_tokens]
        long.sort(key=lambda each: -each[0])
        told = [f"{_id(q)} ({tokens:,} tokens)" for tokens, q in long]
    if told:
        title = "Slowest" if slow else "Longest prompts"
        lines += ["", *_wrap(f"{title}: {', '.join(told[:3])}", width, "  ")]
    return lines


def _problem_lines(run: Run, width: int) -> list[str]:
    if not run.problems:
        return ["No problems were found in the files of this run."]
    lines = ["Read this before using the numbers"]
    for problem in run.problems:
        lines += _wrap(problem.text, width, "  - ")
    return lines


# Small helpers ------------------------------------------------------------------------------------


def _facts(rows: Iterable[tuple[str, Any]], width: int) -> list[str]:
    kept = [(name, str(value)) for name, value in rows if value]
    room = max((len(name) for name, _ in kept), default=0) + 4
    lines = []
    for name, value in kept:
        lines += textwrap.wrap(
            one_line(value), width, initial_indent=f"  {name:<{room - 2}}",
            subsequent_indent=" " * room, break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _wrap(text: str, width: int, lead: str) -> list[str]:
    lines = []
    for part in text.splitlines() or [""]:
        lines += textwrap.wrap(
            one_line(part), width, initial_indent=lead, subsequent_indent=" " * len(lead),
            break_on_hyphens=False,
        )  # fmt: skip
    return lines


def _clip(text: str, width: int) -> str:
    text = one_line(text)
    if shown_width(text) <= width:
        return text
    while shown_width(text) > width - 3:
        text = text[:-1]
    return text + "..."


def _quoted(question: Sample) -> str:
    text = " ".join(question.generated.split())
    return f"“{text[:60]}{'...' if len(text) > 60 else ''}”" if text else "nothing"


def _id(question: Sample) -> str:
    return question.question_id or f"document {question.doc_id}"


def _natural(value: str) -> tuple[int, float, str]:
    known = {"short": 0, "medium": 1, "long": 2}
    if value.lower() in known:
        return (0, known[value.lower()], "")
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, value)
