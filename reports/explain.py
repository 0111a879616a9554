"""Why two runs of one task differ: their recipes, their questions, and the gap by cause.

A gap in points is split exactly, in this order. On questions that only one run was scored on the
means differ (*questions*); of the common ones some could not be asked in one run (*failures*); the
answers may be read by different rules (*reading*: what each run's own reading gives more than ours
of the same answer); one answer holds nothing that can be read (*no answer*); what is left is other
answers (*answers*), with its interval clustered by video. No torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from longva_eval import stats
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.run import Run, TaskRun
from longva_eval.reports.reading.samples import Sample, as_mapping
from longva_eval.reports.rules.rescore import read_as_ours
from longva_eval.reports.tables.benchmarks import subtitle_setting

__all__ = ["Cause", "Explanation", "RecipeRow", "explain", "recipe_of", "same_tasks", "warnings_of"]

_NOT_RECIPE: Final = frozenset(["engine", "outcomes", "journal", "failures", "device", "model",
                                "task_code"])  # fmt: skip
"""Of what our adapters write: how the run went, not what was run."""


_MATTERS: Final = ("limit", "truncated", "damaged", "number of samples", "repeated", "tries")


@dataclass(frozen=True, kw_only=True)
class RecipeRow:
    """A setting that differs."""

    name: str
    first: str
    second: str
    """Empty where a run does not say."""


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A part of the gap."""

    name: str
    points: float
    """First minus second, of 100."""
    num_questions: int
    """That it concerns."""
    interval: stats.Interval | None = None
    """95 %, clustered by video, in points; for other answers only."""
    is_noise: bool = False
    """Whether the interval holds 0: the two runs are indistinguishable."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """A task of two runs."""

    task: str
    score_percent: tuple[float, float]
    causes: tuple[Cause, ...]
    """They add up to the difference of the scores."""
    recipe: tuple[RecipeRow, ...]
    differing: Mapping[str, int | None]
    """Common questions that differ in prompt, frames, answer, reading of the same answer; None
    where a run does not say."""
    num_common: int
    common: stats.PairedComparison
    """The common questions with each run's own scores, as shares."""
    remarks: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Numbers, and no more; intervals of a single video are left out."""
        return {
            "task": self.task,
            "score_percent": list(self.score_percent),
            "gap_points": self.score_percent[0] - self.score_percent[1],
            "causes": [
                {
                    "cause": cause.name,
                    "points": cause.points,
                    "questions": cause.num_questions,
                    **(
                        {
                            "interval_95": [cause.interval.low, cause.interval.high],
                            "indistinguishable": cause.is_noise,
                        }
                        if cause.interval is not None and math.isfinite(cause.interval.high)
                        else {}
                    ),
                }
                for cause in self.causes
            ],
            "recipe": [[row.name, row.first, row.second] for row in self.recipe],
            "differing": dict(self.differing),
            "common_questions": self.num_common,
            "common_points": 100 * self.common.difference,
            "p": self.common.p_value,
            "remarks": list(self.remarks),
        }


def same_tasks(first: Run, second: Run) -> list[tuple[TaskRun, TaskRun]]:
    """Tasks with samples that both runs have, else their only ones."""
    mine, theirs = (
        {name: task for name, task in run.tasks.items() if task.samples} for run in (first, second)
    )
    pairs = [(mine[name], theirs[name]) for name in mine if name in theirs]
    if not pairs and len(mine) == len(theirs) == 1:
        return [(next(iter(mine.values())), next(iter(theirs.values())))]
    return pairs


def explain(first: Run, second: Run, task: TaskRun, other: TaskRun) -> Explanation | str:
    """Attribute the gap between two runs of a task to its causes.

    Args:
        first: A run.
        second: Another.
        task: Of the first.
        other: The same benchmark in the second.

    Returns:
        A sentence instead where the two cannot be held together.
    """
    if not (task.is_share and other.is_share):
        return "scores are no shares of right answers, so that a gap in points has no meaning."
    pairing = pair_samples(task, other, names=("the first", "the second"))
    if pairing.refusal:
        return f"{pairing.refusal.rstrip('.')}."
    remarks = [*warnings_of(first, task), *warnings_of(second, other), *pairing.remarks]
    pairs = list(zip(pairing.first, pairing.second, strict=True))
    wholes = [[s.score for s in each.samples if s.is_scored] for each in (task, other)]
    means = [100 * math.fsum(scores) / len(scores) for scores in wholes]
    gap = means[0] - means[1]
    common = stats.compare_pairs(
        [one.score for one, _ in pairs],
        [two.score for _, two in pairs],
        [one.cluster for one, _ in pairs],
    )
    alone = sum(map(len, wholes)) - 2 * len(pairs)
    return Explanation(
        task=task.name if task.name == other.name else f"{task.name} and {other.name}",
        score_percent=(means[0], means[1]),
        causes=(
            Cause(name="questions", points=gap - 100 * common.difference, num_questions=alone),
            *_causes(task.name, other.name, pairs),
        ),
        recipe=tuple(_recipe_rows(recipe_of(first, task), recipe_of(second, other))),
        differing=_differing(pairs),
        num_common=len(pairs),
        common=common,
        remarks=tuple(dict.fromkeys(remarks)),
    )


def _causes(task: str, other: str, pairs: Sequence[tuple[Sample, Sample]]) -> list[Cause]:
    number = len(pairs)
    points = {"failures": 0.0, "reading": 0.0, "no answer": 0.0}
    counts = dict.fromkeys(points, 0)
    rest: list[tuple[float, float]] = []
    num_rest = 0
    for one, two in pairs:
        left = (0.0, 0.0)
        if "failed" in (one.outcome, two.outcome):
            points["failures"] += one.score - two.score
            counts["failures"] += 1
        else:
            (read, scored), (read_too, scored_too) = _read(task, one), _read(other, two)
            if one.generated == two.generated and not one.tries and not two.tries:
                scored_too = scored  # other answers are none
            reading = (one.score - scored) - (two.score - scored_too)
            points["reading"] += reading
            counts["reading"] += reading != 0
            if not (read and read_too):
                points["no answer"] += scored - scored_too
                counts["no answer"] += scored != scored_too
            else:
                left = (scored, scored_too)
                num_rest += scored != scored_too
        rest.append(left)
    found = stats.compare_pairs(
        [a for a, _ in rest], [b for _, b in rest], [one.cluster for one, _ in pairs]
    )
    causes = [
        Cause(name=name, points=100 * points[name] / number, num_questions=counts[name])
        for name in points
    ]
    return [
        *causes,
        Cause(
            name="answers",
            points=100 * found.difference,
            num_questions=num_rest,
            interval=stats.Interval(low=100 * found.interval.low, high=100 * found.interval.high),
            is_noise=found.interval.low <= 0 <= found.interval.high,
        ),
    ]


def _read(task: str, sample: Sample) -> tuple[bool, float]:
    """Whether there is an answer, and its score, by our rule where that knows the benchmark."""
    again = None if sample.tries else read_as_ours(sample, task)
    if again is None:
        return sample.outcome != "no answer", sample.score
    letter, score = again
    return letter is not None, score


def _differing(pairs: Sequence[tuple[Sample, Sample]]) -> dict[str, int | None]:
    frames = [(_frames_of(one), _frames_of(two)) for one, two in pairs]
    said = [(a, b) for a, b in frames if a is not None and b is not None]
    same_text = [(one, two) for one, two in pairs if one.generated == two.generated]
    return {
        "prompt": sum(one.prompt != two.prompt for one, two in pairs)
        if all(one.prompt and two.prompt for one, two in pairs)
        else None,
        "frames": sum(a != b for a, b in said) if said else None,
        "answer": len(pairs) - len(same_text),
        "reading of the same answer": sum(
            (one.score, one.outcome) != (two.score, two.outcome) for one, two in same_text
        ),
    }


def _frames_of(sample: Sample) -> object:
    videos = [as_mapping(video) for video in sample.facts.get("videos") or ()]
    indices = [video.get("frame_indices") for video in videos]
    return indices if indices and all(isinstance(each, list) for each in indices) else None


def warnings_of(run: Run, task: TaskRun) -> list[str]:
    """What makes a run's score none of the benchmark, in sentences."""
    return [problem.text for problem in run.problems_of(task.name) if problem.kind in _MATTERS]


# Recipes ------------------------------------------------------------------------------------------


def recipe_of(run: Run, task: TaskRun) -> dict[str, str]:
    """What a run says of how it was made, by name; nothing where it does not say."""
    asked = {s.frames_asked for s in task.samples if s.frames_asked is not None}
    pixels = {s.num_prompt_tokens for s in task.samples if s.num_prompt_tokens is not None}
    seen = {s.frames_seen for s in task.samples if s.frames_seen is not None}
    facts: dict[str, object] = {
        "model": run.model,
        "checkpoint": run.name,
        "task": task.name,
        "task version": task.version,
        "subtitles": subtitle_setting(task),
        "frames asked": _range(asked),
        "frames seen": _range(seen) or run.frames(task.name),
        "prompt tokens": _range(pixels),
        "examples": task.num_fewshot or "",
        "answers drawn": task.sampling,
        "generation": task.config.get("generation_kwargs"),
        "lmms-eval": run.results.get("lmms_eval_version"),
        "system prompt": run.results.get("system_instruction_sha"),
        "chat template": run.results.get("chat_template_sha"),
        "limit": run.limit,
    }
    for name, value in run.model_args.items():
        facts.setdefault(f"model_args {name}", value)
    facts["task code"] = as_mapping(run.recipe.get("task_code")).get(task.name)
    for name, value in run.recipe.items():
        if name in _NOT_RECIPE:
            continue
        if isinstance(value, Mapping):
            facts |= {f"{name} {key}": each for key, each in value.items()}
        else:
            facts[name] = value
    return {name: text for name, value in facts.items() if (text := _text(value))}


def _range(values: set[int]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _text(value: object) -> str:
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _recipe_rows(first: Mapping[str, str], second: Mapping[str, str]) -> list[RecipeRow]:
    names = dict.fromkeys([*first, *second])
    return [
        RecipeRow(name=name, first=first.get(name, ""), second=second.get(name, ""))
        for name in names
        if first.get(name, "") != second.get(name, "")
    ]
