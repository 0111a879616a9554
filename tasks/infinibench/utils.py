"""InfiniBench's multiple-choice skills for lmms-eval: which rows, and how one is read."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from longva_eval.errors import DataError
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc, mean_over

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
    return TASK.process_docs(dataset)


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    options = [_option(option) for option in _list(row["options"])]
    answer = row["answer_idx"]
    if isinstance(answer, str):
        if not answer.strip().isdigit():
            raise ValueError(f"answer_idx is {answer!r}, not the number of an option")
        answer = int(answer)
    video = str(row["video_path_mp4"] or "").lstrip("/")
    return make_choice_doc(
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


TASK = ChoiceTask(
    name="InfiniBench",
    folder="infinibench/validation",
    entry="infinibench",
    columns=("question_id", "skill_name", "video_path_mp4", "question", "options", "answer_idx"),
    read=_read,
    # The official code has no prompt for these skills, and compares indices.
    question="{question}\nOptions:",
    option="({letter}) {text}",
    metrics=("skill_avg", "accuracy"),
)
_, doc_to_visual, doc_to_text, process_results = TASK.functions
skill_avg = mean_over("skill")
