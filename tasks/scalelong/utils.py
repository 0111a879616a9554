"""ScaleLong for lmms-eval: which file holds the questions, and how one is read."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from longva_eval.errors import DataError
from longva_eval.files import hf_home
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import (
    answer_letter,
    check_documents,
    letter_of,
    make_choice_doc,
    mean_over,
)

_SCALES = ("Video Clip", "Video Shot", "Video Event", "Video Story")
# Five types in the paper; the file spells them in ten ways.
_TYPES = {
    "causal reasoning": "Causal Reasoning",
    "casual reasoning": "Causal Reasoning",
    "object recognition": "Object Recognition",
    "objective recognition": "Object Recognition",
    "action understanding": "Action Understanding",
    "information summary": "Information Summary",
    "information inference": "Information Summary",
    "counting problem": "Counting Problem",
    "counting problems": "Counting Problem",
}
# The frames' number and the video's length, which the original tells the model, are the model's
# business here: its adapter chooses the frames.


def process_docs(dataset: Any) -> Any:
    """Checked documents of every question in the file that the one row of the data file names."""
    from datasets import Dataset

    (row,) = dataset
    path = hf_home() / row["questions"]
    if not path.is_file():
        raise DataError(
            f"ScaleLong's questions are not at {path}. Put questions.jsonl of the data set "
            f"m-a-p/ScaleLong there, and its videos into {hf_home() / TASK.folder}."
        )
    rows = list(_questions(path))
    present = sorted(set(TASK.columns).intersection(*rows))
    return Dataset.from_list(
        check_documents(
            rows, _read, name=f"ScaleLong: {path}", columns=TASK.columns, present=present
        )
    )


def _questions(path: Path) -> Iterator[dict[str, Any]]:
    """Each line is {video id: [questions]}."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            videos = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}.") from error
        if not isinstance(videos, dict) or not all(
            isinstance(questions, list) for questions in videos.values()
        ):
            raise DataError(
                f"{path}, line {number} is not of the form {{video id: [questions]}}: {line[:80]!r}"
            )
        for video, questions in videos.items():
            for question in questions:
                if not isinstance(question, dict):
                    raise DataError(f"{path}, line {number}: {question!r} is not a question.")
                yield {"video": video, **question}


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    question_id = f"{row['video']}_{row['data_id']}"
    options, answer = _options(row, question_id)
    scale, kind = row.get("granularity"), str(row["question_type"]).strip()
    if scale is not None and (scale := str(scale).strip()) not in _SCALES:
        raise ValueError(f"the granularity {scale!r} is none of {list(_SCALES)}")
    if kind.lower() not in _TYPES:
        raise ValueError(f"the question type {kind!r} is none of {sorted(set(_TYPES.values()))}")
    return make_choice_doc(
        question_id=question_id,
        video=row["video"],
        question=row["question"],
        options=options,
        answer=answer,
        categories={"time_scale": scale, "question_type": _TYPES[kind.lower()]},
        answer_location=str(row.get("answer_location") or ""),
    )


def _options(row: Mapping[str, Any], question_id: str) -> tuple[list[str], str]:
    """Options and the right letter.

    The file has a right answer and distractors; the original shuffles them anew in each run,
    unseeded. Here their order follows from the question's id, the same in every run.
    """
    if isinstance(row.get("options"), dict):  # a copy in which the letters were given already
        letters = sorted(row["options"])
        options = [str(row["options"][letter]) for letter in letters]
        return options, answer_letter(row["answer"], options)
    distractors = row.get("distractors")
    if not isinstance(distractors, list) or not distractors:
        raise ValueError(f"the distractors are {distractors!r}")
    right = str(row["answer"]).strip()
    options = [*(str(text).strip() for text in distractors), right]
    seed = int.from_bytes(hashlib.sha256(question_id.encode()).digest()[:8], "big")
    random.Random(seed).shuffle(options)
    return options, letter_of(options.index(right))


TASK = ChoiceTask(
    name="ScaleLong",
    folder="scalelong/videos",
    columns=("data_id", "question", "question_type", "answer"),
    read=_read,
    option="{small_letter}. {text}",  # as the original writes them
    metrics=("accuracy", "scale_avg"),
)
_, doc_to_visual, doc_to_text, process_results = TASK.functions
scale_avg = mean_over("time_scale")
