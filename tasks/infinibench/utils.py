"""InfiniBench's multiple-choice skills for lmms-eval: rows to documents, answers to records."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.errors import DataError
from longva_eval.questions.documents import (
    answer_letter,
    choice_document,
    choice_documents,
    choice_prompt,
    choice_result,
    macro_mean,
    video_paths,
)
from longva_eval.questions.outcomes import mean_score

FOLDER = "infinibench/validation"
_COLUMNS = ("question_id", "skill_name", "video_path_mp4", "question", "options", "answer_idx")
# The spelling is the data set's.
_SKILLS = (
    "global_appearance",
    "scene_transitions",
    "character_actions",
    "choronological_understanding",
)


def process_docs(dataset: Any) -> Any:
    """Checked documents of the multiple-choice skills; the others need a judge."""
    if "skill_name" in dataset.column_names:
        kept = [n for n, skill in enumerate(dataset["skill_name"]) if skill in _SKILLS]
        if not kept:
            raise DataError(
                f"InfiniBench: no row has one of the skills {', '.join(_SKILLS)}; the data set has "
                f"{', '.join(sorted(map(str, set(dataset['skill_name']))))}."
            )
        dataset = dataset.select(kept)
    return choice_documents(dataset, _read, task="InfiniBench", columns=_COLUMNS)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER, entry="infinibench")


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """Question and lettered options; the official code has no prompt, and compares indices."""
    return choice_prompt(
        doc,
        question="{question}\nOptions:",
        option="({letter}) {text}",
        instruction="Answer with the option's letter from the given choices directly.",
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, for both means."""
    record = choice_result(doc, results[0], folder=FOLDER)
    return {"skill_avg": record, "accuracy": record}


def skill_avg(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean over skills of the accuracy within each."""
    return macro_mean(items, "skill")


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers; silence is wrong."""
    return mean_score(items)


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    options = [_option(option) for option in _list(row["options"])]
    answer = row["answer_idx"]
    if isinstance(answer, str):
        if not answer.strip().isdigit():
            raise ValueError(f"answer_idx is {answer!r}, not the number of an option")
        answer = int(answer)
    video = str(row["video_path_mp4"] or "").lstrip("/")
    return choice_document(
        question_id=row["question_id"],
        video=video,
        question=row["question"],
        options=options,
        answer=answer_letter(answer, options),
        categories={
            "skill": row["skill_name"],
            "source": video.split("/")[0] if "/" in video else None,  # TV_shows or Movies
        },
        subtitle_path=str(row.get("video_subtitles") or "").lstrip("/"),
    )


def _list(value: Any) -> list[Any]:
    """The options; published as a list, or as a list written out as a text."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"the options {value[:60]!r} cannot be read") from error
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the options are {value!r}")
    return list(value)


def _option(option: Any) -> str:
    """An option is a text, or a sequence of events whose order is the point."""
    if isinstance(option, (list, tuple)):
        return ", ".join(str(event).strip() for event in option)
    return str(option)
