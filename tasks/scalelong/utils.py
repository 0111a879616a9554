"""ScaleLong for lmms-eval: questions of a video become documents, answers become records."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval.errors import DataError
from longva_eval.files import hf_home
from longva_eval.questions.documents import (
    answer_letter,
    check_documents,
    choice_document,
    choice_prompt,
    choice_result,
    letter_of,
    macro_mean,
    video_paths,
)
from longva_eval.questions.outcomes import mean_score

FOLDER = "scalelong/videos"
_COLUMNS = ("data_id", "question", "question_type", "granularity", "answer")
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
            f"m-a-p/ScaleLong there, and its videos into {hf_home() / FOLDER}."
        )
    rows = list(_questions(path))
    present = set.intersection(*(set(row) for row in rows)) if rows else set(_COLUMNS)
    documents = check_documents(
        rows, _read, name=f"ScaleLong: {path}", columns=_COLUMNS, present=sorted(present)
    )
    return Dataset.from_list(documents)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question and its options with small letters, as the original writes them."""
    options = "\n".join(
        f"{letter_of(number).lower()}. {text}" for number, text in enumerate(doc["options"])
    )
    bare = {**doc, "options": []}
    return choice_prompt(
        bare,
        question=f"{{question}}\n{options}",
        option="",
        instruction="Answer with the option's letter from the given choices directly.",
    )


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, for both means."""
    # The options have small letters here, so that "c. five" is a choice; elsewhere it is none.
    text = re.sub(r"^\s*\(?[a-z][.):]", lambda found: found[0].upper(), results[0])
    record = choice_result(doc, text, folder=FOLDER) | {"generated": results[0]}
    return {"accuracy": record, "scale_avg": record}


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers; silence is wrong."""
    return mean_score(items)


def scale_avg(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the time scales of the accuracy within each."""
    return macro_mean(items, "time_scale")


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
    scale, kind = str(row["granularity"]).strip(), str(row["question_type"]).strip()
    if scale not in _SCALES:
        raise ValueError(f"the granularity {scale!r} is none of {list(_SCALES)}")
    if kind.lower() not in _TYPES:
        raise ValueError(f"the question type {kind!r} is none of {sorted(set(_TYPES.values()))}")
    return choice_document(
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
