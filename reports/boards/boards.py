"""The leaderboards: which runs they take, the form of their files, and their own way of reading.

For each board a function builds the content of its file, one says what is wrong with such a
content, and one holds the board's reading of every answer against ours: where a board draws an
option, drops a question from the denominator or takes the first capital letter it meets, the
numbers differ, and it is said in how many questions and why.

No torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from longva_eval.errors import DataError
from longva_eval.questions.documents import letter_of
from longva_eval.reports.reading.samples import Sample
from longva_eval.reports.rules import official

__all__ = ["BOARDS", "Board", "Comparison", "Difference", "RuleScore", "natural_order"]

_MLVU_TYPES: Final = (
    "topic_reasoning", "anomaly_reco", "needleQA", "ego", "plotQA", "sportsQA", "order", "count",
    "tutorialQA",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RuleScore:
    """A score by the board's rule and by ours."""

    label: str
    num_questions: int
    official_percent: float
    our_percent: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Questions that the board's rule and ours read differently, for one reason."""

    num_questions: int
    reason: str
    examples: tuple[str, ...]
    """Question, answer and both readings."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The board's number and ours."""

    rows: tuple[RuleScore, ...] = ()
    """Empty where the board keeps the answers to itself."""
    differences: tuple[Difference, ...] = ()


Letters = Mapping[int, str | None]
"""What the board reads, by `id` of the question."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A board's own way of reading answers, and what it means where it is not ours."""

    letter: Callable[[Sample], str | None]
    rows: Callable[[Sequence[Sample], Letters], list[RuleScore]]
    other: str
    """Why the board reads another letter."""
    official_silent: str
    both_silent: str
    our_silent: str = "the board reads a letter where we read none"
    is_of_choices: bool = False
    """Whether it leaves open questions alone."""

    def compare(self, questions: Sequence[Sample]) -> Comparison:
        """The board's number and ours."""
        chosen = [q for q in questions if q.options or not self.is_of_choices]
        read = {id(question): self.letter(question) for question in chosen}
        return Comparison(
            rows=tuple(self.rows(questions, read)), differences=_differences(chosen, read, self)
        )


@dataclass(frozen=True, kw_only=True)
class Board:
    """A leaderboard and the form of its files."""

    name: str
    title: str
    tasks: Mapping[str, int]
    """Our tasks whose runs it takes, with the number of questions of a whole run."""
    build: Callable[[Sequence[Sample]], Any]
    """The content of the file."""
    check: Callable[[Any], list[str]]
    """What is wrong with such a content, by the board's form."""
    rule: Rule | None = None
    """None where the board does not read answers."""
    where: str
    """What to do with the file."""
    silence: str = ""
    """How a question without a readable answer is handed in, where it is not as it was given."""


# ---- Video-MME ----------------------------------------------------------------------------------


def _build_videomme(questions: Sequence[Sample]) -> list[dict[str, Any]]:
    """The template's list of videos, each with its questions, in the benchmark's order."""
    videos: dict[str, dict[str, Any]] = {}
    for question in sorted(questions, key=lambda q: natural_order(q.question_id or "")):
        name = str(question.question_id).rpartition("-")[0]
        video = {
            "video_id": name,
            "duration": question.categories.get("duration", ""),
            "domain": question.categories.get("domain", ""),
            "sub_category": question.categories.get("sub_category", ""),
        }
        entry = videos.setdefault(name, {**video, "questions": []})
        if {key: entry[key] for key in video} != video:
            raise DataError(f"Question {question.question_id}: its video {name} is {video}, and "
                            f"for another question it is {entry}.")  # fmt: skip
        entry["questions"].append(
            {
                "question_id": question.question_id,
                "task_type": question.categories.get("task_type", ""),
                "question": question.question,
                "options": _lettered(question.options),
                "answer": question.answer,
                "response": question.generated,
            }
        )
    return list(videos.values())


def _check_videomme(content: Any) -> list[str]:
    """What the official script asks for, and what it would count into no category."""
    wrong = []
    for duration in official.VIDEOMME_DURATIONS:
        count = sum(video["duration"] == duration for video in content)
        if count != 300:
            wrong.append(f"{count} videos are {duration}; the official script wants 300")
    for video in content:
        where = f"video {video['video_id']}"
        for key, allowed in (
            ("duration", official.VIDEOMME_DURATIONS),
            ("domain", official.VIDEOMME_DOMAINS),
            ("sub_category", official.VIDEOMME_SUB_CATEGORIES),
        ):
            if video[key] not in allowed:
                wrong.append(f"{where}: {key} {video[key]!r} is none of the official ones")
        if len(video["questions"]) != 3:
            wrong.append(f"{where} has {len(video['questions'])} questions, not 3")
        for question in video["questions"]:
            where = f"question {question['question_id']}"
            if question["task_type"] not in official.VIDEOMME_TASK_TYPES:
                wrong.append(f"{where}: task_type {question['task_type']!r} is no official one")
            if question["answer"] not in ("A", "B", "C", "D") or len(question["options"]) != 4:
                wrong.append(f"{where}: four options and an answer A to D are wanted")
            if not isinstance(question["response"], str):
                wrong.append(f"{where}: the response is no text")
    return wrong


def _rows_videomme(questions: Sequence[Sample], _read: Letters) -> list[RuleScore]:
    groups: dict[str, Sequence[Sample]] = {"overall": questions}
    for name in official.VIDEOMME_DURATIONS:
        groups[name] = [q for q in questions if q.categories.get("duration") == name]
    tallies = {
        name: official.videomme_tally((q.generated, q.answer) for q in group)
        for name, group in groups.items()
    }
    return [_row(name, group, tallies[name].percent) for name, group in groups.items()]


# ---- LongVideoBench -----------------------------------------------------------------------------


def _check_texts(content: Any) -> list[str]:
    return [
        f"question {name}: the answer {text!r} is no text"
        for name, text in content.items()
        if not isinstance(text, str) or not name
    ]


# ---- MLVU ---------------------------------------------------------------------------------------


def _build_mlvu(questions: Sequence[Sample]) -> list[dict[str, str]]:
    return [
        {
            "question_id": str(question.question_id),
            "question_type": question.categories.get("task_type", ""),
            "option": question.choice or "",
        }
        for question in questions
    ]


def _check_mlvu(content: Any) -> list[str]:
    wrong = []
    for entry in content:
        where = f"question {entry['question_id']}"
        if entry["question_type"] not in _MLVU_TYPES:
            wrong.append(f"{where}: question_type {entry['question_type']!r} is no official one")
        if not re.fullmatch("[A-F]?", entry["option"]):
            wrong.append(f"{where}: option {entry['option']!r} is no letter A to F")
    return wrong


def _rows_mlvu(questions: Sequence[Sample], read: Letters) -> list[RuleScore]:
    """M-Avg is the mean over the nine task types, as the board has it."""
    rows: list[RuleScore] = []
    if not any(question.answer for question in questions):
        return rows
    for name in _MLVU_TYPES:
        group = [q for q in questions if q.categories.get("task_type") == name]
        if group:
            right = sum(read[id(q)] == q.answer for q in group)
            rows.append(_row(name, group, 100 * right / len(group)))
    return [*rows, _mean_row("M-Avg", rows, [1] * len(rows))]


# ---- MMMU ---------------------------------------------------------------------------------------


def _build_mmmu(questions: Sequence[Sample]) -> dict[str, str]:
    """Letters of multiple-choice questions; answers to open ones as they were given."""
    return {
        str(question.question_id): (question.choice or "")
        if question.options
        else question.generated.strip()
        for question in questions
    }


def _check_mmmu(content: Any) -> list[str]:
    wrong = _check_texts(content)
    wrong += [
        f"question {name}: the id has not the form split_Subject_number"
        for name in content
        if not re.fullmatch(r"(test|validation|dev)_\w+_\d+", name)
    ]
    return wrong


def _mmmu_letter(question: Sample) -> str | None:
    bare = [re.sub(r"^\(?[A-Z][.)]\s*", "", option) for option in question.options]
    options = {letter_of(number): text for number, text in enumerate(bare)}
    return official.mmmu_letter(question.generated, options)


def _rows_mmmu(questions: Sequence[Sample], read: Letters) -> list[RuleScore]:
    if not any(question.answer for question in questions):
        return []
    choices = [question for question in questions if question.options]
    opened = [question for question in questions if not question.options]
    rows = [replace(row, label="multiple choice") for row in _rows_with_draws(choices, read)]
    if opened:
        right = sum(official.mmmu_open_is_right(q.generated, _accepted(q)) for q in opened)
        rows.append(_row("open", opened, 100 * right / len(opened)))
    return [*rows, _mean_row("overall", rows, [row.num_questions for row in rows])]


def _accepted(question: Sample) -> list[str]:
    answer = question.record.get("answer", question.answer)
    return [str(each) for each in answer] if isinstance(answer, list) else [str(answer)]


# ---- DocVQA, InfoVQA, EgoSchema -----------------------------------------------------------------


def _build_spans(questions: Sequence[Sample]) -> list[dict[str, Any]]:
    wrong = [q.question_id for q in questions if not str(q.question_id).isdigit()]
    if wrong:
        raise DataError(f"The board's question ids are whole numbers; the run has {wrong[:5]}.")
    return [
        {"questionId": int(str(question.question_id)), "answer": question.generated.strip()}
        for question in questions
    ]


def _check_spans(content: Any) -> list[str]:
    return [
        f"question {entry.get('questionId')!r}: a whole number and a text are wanted"
        for entry in content
        if type(entry.get("questionId")) is not int or not isinstance(entry.get("answer"), str)
    ]


def _build_egoschema(questions: Sequence[Sample]) -> dict[str, int]:
    return {
        str(question.question_id): "ABCDE".index(question.choice) if question.choice else -1
        for question in questions
    }


def _check_egoschema(content: Any) -> list[str]:
    return [
        f"video {name}: {index!r} is no option from 0 to 4, nor -1"
        for name, index in content.items()
        if type(index) is not int or not -1 <= index <= 4
    ]


# ---- comparing ----------------------------------------------------------------------------------


def _row(label: str, group: Sequence[Sample], official_percent: float) -> RuleScore:
    right = sum(question.score for question in group)
    return RuleScore(
        label=label,
        num_questions=len(group),
        official_percent=official_percent,
        our_percent=100 * right / len(group) if group else 0.0,
    )


def _mean_row(label: str, rows: Sequence[RuleScore], weights: Sequence[int]) -> RuleScore:
    total = sum(weights)
    return RuleScore(
        label=label,
        num_questions=sum(row.num_questions for row in rows),
        official_percent=sum(w * r.official_percent for w, r in zip(weights, rows, strict=True))
        / total,
        our_percent=sum(w * r.our_percent for w, r in zip(weights, rows, strict=True)) / total,
    )


def _rows_with_draws(questions: Sequence[Sample], read: Letters) -> list[RuleScore]:
    """Of rules that draw an option: what is to be expected of the draw."""
    if not questions or not any(question.answer for question in questions):
        return []
    expected = 0.0
    for question in questions:
        letter = read[id(question)]
        if letter is None and not question.options:
            raise DataError(
                f"Question {question.question_id}: the board draws one of its options where it "
                "reads no letter, and the run does not say how many there are."
            )
        expected += 1 / len(question.options) if letter is None else letter == question.answer
    return [_row("overall", questions, 100 * expected / len(questions))]


def _differences(questions: Sequence[Sample], read: Letters, rule: Rule) -> tuple[Difference, ...]:
    """Sort the questions that are read differently by reason; the most frequent first."""
    groups: dict[str, list[Sample]] = {}
    for question in sorted(questions, key=lambda q: natural_order(q.question_id or "")):
        letter = read[id(question)]
        if letter is None:
            reason = rule.both_silent if question.choice is None else rule.official_silent
        elif letter != question.choice:
            reason = rule.our_silent if question.choice is None else rule.other
        else:
            continue
        groups.setdefault(reason, []).append(question)
    return tuple(
        Difference(
            num_questions=len(group),
            reason=reason,
            examples=tuple(
                f"{q.question_id}: {_short(q.generated)}: board {read[id(q)] or 'nothing'}, "
                f"ours {q.choice or 'nothing'}"
                for q in group[:3]
            ),
        )
        for reason, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    )


def _short(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return shown if len(shown) <= 60 else f'{shown[:56]}..."'


def _lettered(options: Sequence[str]) -> list[str]:
    """The options with their letters, as the template has them."""
    return [
        option if option.startswith(f"{letter_of(n)}.") else f"{letter_of(n)}. {option}"
        for n, option in enumerate(options)
    ]


def _letter_or_none(text: str) -> str | None:
    return text if re.fullmatch("[A-F]", text) else None


def natural_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts 2 before 10."""
    return tuple((int(part or 0), "") if part.isdigit() else (-1, part)
                 for part in re.split(r"(\d+)", name))  # fmt: skip


BOARDS: Final[Mapping[str, Board]] = {
    board.name: board
    for board in (
        Board(
            name="videomme",
            title="Video-MME",
            tasks={"longva_videomme": 2700, "longva_videomme_subtitles": 2700},
            build=_build_videomme,
            check=_check_videomme,
            rule=Rule(
                letter=lambda q: official.videomme_letter(q.generated),
                rows=_rows_videomme,
                other="the board takes the first capital A to D anywhere in the answer",
                official_silent="the board finds no capital A to D and leaves the question out of "
                "the denominator; we read a letter",
                both_silent="nobody reads a letter: the board leaves the question out of the "
                "denominator, which raises the score; we count it as wrong",
            ),
            where="Send it to bradyfu24@gmail.com with the model's name, the number of frames and "
            "whether subtitles were used; the board is https://video-mme.github.io.",
        ),
        Board(
            name="longvideobench",
            title="LongVideoBench",
            tasks={"longva_longvideobench_test": 5341, "longva_longvideobench_val": 1337},
            build=lambda questions: {str(q.question_id): q.generated for q in questions},
            check=_check_texts,
            rule=Rule(
                letter=lambda q: official.longvideobench_letter(q.generated),
                rows=_rows_with_draws,
                other="the board takes the first capital A to E anywhere in the answer",
                official_silent="the board finds no capital A to E and draws an option; we read a "
                "letter",
                both_silent="nobody reads a letter: the board draws an option; we count it as "
                "wrong",
            ),
            where="Upload it at https://huggingface.co/spaces/longvideobench/LongVideoBench.",
        ),
        Board(
            name="mlvu",
            title="MLVU test",
            tasks={"longva_mlvu_test": 502},
            build=_build_mlvu,
            check=_check_mlvu,
            rule=Rule(
                letter=lambda q: _letter_or_none(official.mlvu_option(q.generated)),
                rows=_rows_mlvu,
                other="the board's script hands in what comes before the first `)`",
                official_silent="what comes before the first `)`, or all of the answer without "
                "one, is more than a letter, and so wrong by the board's script; we hand in the "
                "letter",
                both_silent="nobody reads a letter: handed in as an empty option, which is wrong",
                our_silent="the board's script reads a letter where we read none",
            ),
            where="The form is that of evaluation_test in https://github.com/JUNJIE99/MLVU; where "
            "the evaluation system does not answer, its authors take files by mail.",
            silence="handed in as an empty option, which is wrong",
        ),
        Board(
            name="mmmu",
            title="MMMU",
            tasks={"longva_mmmu_test": 10500, "longva_mmmu_val": 900},
            build=_build_mmmu,
            check=_check_mmmu,
            rule=Rule(
                letter=_mmmu_letter,
                rows=_rows_mmmu,
                is_of_choices=True,
                other="the board's parser takes the last (B), else the last B between spaces, else "
                "the option whose text comes last",
                official_silent="the board's parser finds nothing and draws an option; we read a "
                "letter and hand that in",
                both_silent="nobody reads a letter: the board's parser would draw an option; "
                "handed in as an empty answer, which is wrong",
                our_silent="the board's parser reads a letter where we read none; handed in as an "
                "empty answer",
            ),
            where="Test: upload it to the MMMU challenge at https://eval.ai. Validation: "
            "main_eval_only.py of https://github.com/MMMU-Benchmark/MMMU scores it.",
            silence="handed in as an empty answer, which is wrong",
        ),
        Board(
            name="docvqa",
            title="DocVQA test",
            tasks={"longva_docvqa_test": 5188},
            build=_build_spans,
            check=_check_spans,
            where="Upload it at https://rrc.cvc.uab.es/?ch=17 (task 1, login needed).",
            silence="handed in empty, which scores 0",
        ),
        Board(
            name="infovqa",
            title="InfographicVQA test",
            tasks={"longva_infovqa_test": 3288},
            build=_build_spans,
            check=_check_spans,
            where="Upload it at https://rrc.cvc.uab.es/?ch=17 (task 3, login needed).",
            silence="handed in empty, which scores 0",
        ),
        Board(
            name="egoschema",
            title="EgoSchema",
            tasks={"longva_egoschema": 5031},
            build=_build_egoschema,
            check=_check_egoschema,
            where="Nothing was sent. The benchmark's own validate.py takes it, or Kaggle's "
            "egoschema-public as a table: https://github.com/egoschema/EgoSchema.",
            silence="handed in as -1, which is no option",
        ),
    )
}
"""Boards by the name that `longva-eval submit` takes."""
