"""Multiple-choice questions about videos: rows of a data set, checked, in one form. No torch.

Benchmarks spell their rows in many ways: options in a column, in five columns, or within the
question; answers as letters, numbers or texts. A task's `process_docs` reads each row into the form
made by `make_choice_doc`; `check_documents` goes over the whole file and says everything that is
wrong with it before anything is asked. From there on all tasks are alike (`choice_task`).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from loguru import logger

from longva_eval.errors import DataError, MediaError
from longva_eval.files import hf_home
from longva_eval.questions.outcomes import mean_score

__all__ = [
    "VIDEO_SUFFIXES",
    "answer_letter",
    "check_documents",
    "file_of",
    "letter_of",
    "make_choice_doc",
    "mean_over",
    "media_names",
    "media_path",
    "path_below",
    "read_dataset",
    "split_options",
]

VIDEO_SUFFIXES: Final = (".mp4", ".MP4", ".mkv", ".webm", ".avi", ".mov")
_OPTION_LINE = re.compile(r"^\s*\(([A-Z])\)\s?(.*)$")
_PROBLEMS_SHOWN = 5


def letter_of(number: int) -> str:
    """0 is A, 1 is B, and so on."""
    return chr(ord("A") + number)


def split_options(text: str) -> tuple[str, list[str]]:
    """A question and the options that stand below it as lines `(A) ...`, `(B) ...`.

    Returns:
        The text above the options, and the options without their letters; none if there are no
        such lines. An option may go on over several lines.

    Raises:
        ValueError: If the letters are not A, B, C and so on, in order.
    """
    above: list[str] = []
    options: list[str] = []
    for line in text.split("\n"):
        found = _OPTION_LINE.match(line)
        if found:
            if found[1] != letter_of(len(options)):
                raise ValueError(
                    f"option {len(options) + 1} of the question is ({found[1]}), "
                    f"not ({letter_of(len(options))})"
                )
            options.append(found[2].strip())
        elif options:
            options[-1] = f"{options[-1]}\n{line.strip()}".strip()
        else:
            above.append(line)
    return "\n".join(above).strip(), options


def answer_letter(answer: Any, options: Sequence[str]) -> str:
    """The letter of an answer that is given as a letter, a number from 0, or an option's text.

    Raises:
        ValueError: If it is none of the options.
    """
    letters = [letter_of(number) for number in range(len(options))]
    if isinstance(answer, bool) or answer is None:
        raise ValueError(f"the answer is {answer!r}")
    if isinstance(answer, (int, float)):
        if answer != int(answer) or not 0 <= answer < len(options):
            raise ValueError(f"the answer {answer} is none of the options 0 to {len(options) - 1}")
        return letters[int(answer)]
    said = str(answer).strip()
    alone = re.fullmatch(r"\(?([A-Z])[).]?", said)
    if alone and alone[1] in letters:
        return alone[1]
    # Equal options cannot be told apart by a text; the first is what `index` gives.
    alike = [option.strip().casefold() for option in options]
    if said in options:
        return letters[options.index(said)]
    if said.casefold() in alike:
        return letters[alike.index(said.casefold())]
    raise ValueError(f"the answer {said!r} is none of the options {list(options)}")


def make_choice_doc(
    *,
    question_id: Any,
    video: Any,
    question: Any,
    options: Sequence[Any],
    answer: str,
    categories: Mapping[str, str | None],
    **more: Any,
) -> dict[str, Any]:
    """A question in the form that `ChoiceTask` works with.

    One option may be empty, and right. A question without a text, or whose options are all empty,
    cannot be asked: `unaskable` says so, and it fails under its own name.

    Args:
        question_id: Unique within the benchmark.
        video: Name of the video, below the benchmark's folder; also the cluster.
        question: Without the options.
        options: In order, without their letters.
        answer: The right letter (`answer_letter`); empty where a board keeps it to itself.
        categories: Subsets it belongs to; None for those it does not. The same names for every
            question of a task.
        **more: Whatever else the task's record is to carry; plain values.

    Raises:
        ValueError: If there is no id, video or option, or the answer is none of the options.
    """
    if question_id is None or not str(question_id).strip():
        raise ValueError("the question id is empty")
    if not isinstance(video, str) or not video.strip():
        raise ValueError(f"the video is {video!r}")
    if question is not None and not isinstance(question, str):
        raise ValueError(f"the question is {question!r}")
    texts = ["" if option is None else str(option).strip() for option in options]
    if not 1 <= len(texts) <= 26:
        raise ValueError(f"the question has {len(texts)} options: {texts}")
    unaskable = "" if any(texts) else "its options are all empty"
    if not (question or "").strip():
        unaskable = "the question is empty"
    if answer and answer not in [letter_of(number) for number in range(len(texts))]:
        raise ValueError(f"the answer {answer!r} is none of the {len(texts)} options")
    return {
        "question_id": str(question_id),
        "video": video,
        "question": (question or "").strip(),
        "options": texts,
        "answer": answer,
        "categories": {name: _plain(value) for name, value in categories.items()},
        "unaskable": unaskable,
        **more,
    }


def read_dataset(
    dataset: Any,
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    task: str,
    columns: Sequence[str],
) -> Any:
    """The rows of a `datasets.Dataset` as one of checked documents (`check_documents`).

    Raises:
        DataError: As `check_documents`.
    """
    from datasets import Dataset

    name, present = f"{task}: {file_of(dataset)}", dataset.column_names
    found = check_documents(dataset, read, name=name, columns=columns, present=present)
    return Dataset.from_list(found)


def check_documents(
    rows: Iterable[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    name: str,
    columns: Sequence[str],
    present: Sequence[str],
) -> list[dict[str, Any]]:
    """Documents of rows; all that is wrong is said at once, and what cannot be asked.

    Args:
        rows: From a data set or a file.
        read: Turns a row into a document with at least `question_id`; raises ValueError if it
            can't. Of a question that cannot be asked, the document says why (`unaskable`).
        name: Of the rows, for the message: the task and the file.
        columns: That must be there.
        present: That are there.

    Raises:
        DataError: If columns are missing, rows cannot be read, or two have the same question id;
            names the file and the rows.
    """
    missing = [column for column in columns if column not in present]
    if missing:
        raise DataError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, present))}. Is it the right data set, in the version that the "
            "task's README names?"
        )
    documents: list[dict[str, Any]] = []
    problems: list[str] = []
    first_with: dict[str, int] = {}
    for number, row in enumerate(rows):
        try:
            document = dict(read(row))
        except ValueError as error:
            problems.append(f"row {number}: {error}")
            continue
        except (KeyError, TypeError) as error:  # a cell that is empty or of another kind
            problems.append(f"row {number} cannot be read: {error!r}")
            continue
        earlier = first_with.setdefault(document["question_id"], number)
        if earlier != number:
            problems.append(
                f"rows {earlier} and {number} have the same question id {document['question_id']!r}"
            )
        documents.append(document)
    if problems:
        shown = "; ".join(problems[:_PROBLEMS_SHOWN])
        rest = len(problems) - _PROBLEMS_SHOWN
        raise DataError(
            f"{name}: {shown}{f'; and {rest} more' if rest > 0 else ''}. Mend or replace the file: "
            "a score over such rows would be another benchmark's."
        )
    if not documents:
        raise DataError(f"{name} has no rows.")
    left = [
        f"{doc['question_id']} ({doc['unaskable']})" for doc in documents if doc.get("unaskable")
    ]
    if len(left) == len(documents):
        raise DataError(f"{name}: no question can be asked: {', '.join(left[:_PROBLEMS_SHOWN])}.")
    if left:
        logger.warning(
            "{}: {} of {:,} questions cannot be asked and count as failed: {}.",
            name, len(left), len(documents), ", ".join(left),
        )  # fmt: skip
    return documents


def path_below(folder: str | Path, name: str) -> Path:
    """Where a file that a row names lies below a folder of `$HF_HOME`, whether it is there or not.

    Links that somebody has put into the folder are followed; the name itself cannot leave it.

    Raises:
        MediaError: If it would.
    """
    root = hf_home() / folder
    parts = PurePosixPath(name.lstrip("/")).parts
    if not parts or ".." in parts or "\0" in name:
        raise MediaError(f"The data set names the file {name!r}, which cannot lie in {root}.")
    return root.joinpath(*parts)


def media_path(
    folder: str | Path, name: str, *, suffixes: Sequence[str] = VIDEO_SUFFIXES, entry: str = ""
) -> Path:
    """A file below `$HF_HOME`, where lmms-eval lays it out.

    Args:
        folder: Below `$HF_HOME`.
        name: As the document has it, with or without its suffix.
        suffixes: Tried in order if there is no such file.
        entry: The name for `longva-eval prepare`, for the message.

    Raises:
        MediaError: If the file is not there; says where it was looked for. Or if the name leads
            out of the folder.
    """
    wanted = path_below(folder, name)
    stem = wanted.with_suffix("") if wanted.suffix in suffixes else wanted
    for path in (wanted, *(stem.with_name(stem.name + suffix) for suffix in suffixes)):
        try:
            if path.is_file():
                return path
        except OSError as error:  # a name that is too long
            raise MediaError(f"{wanted} cannot be opened: {error.strerror}.") from error
    hint = f" `longva-eval prepare {entry} --from DIR` lays a local copy out." if entry else ""
    raise MediaError(f"{wanted} does not exist (suffixes tried: {', '.join(suffixes)}).{hint}")


def mean_over(category: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    """An aggregation: the mean over a category's values of the mean score within each.

    A question without the category is left out; NaN of nothing.
    """

    def mean_of_means(items: Sequence[Mapping[str, Any]]) -> float:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for record in items:
            if category in record["categories"]:
                groups.setdefault(str(record["categories"][category]), []).append(record)
        means = [mean_score(group) for group in groups.values()]
        return math.fsum(means) / len(means) if means else math.nan

    return mean_of_means


def media_names(folder: str, video: str) -> list[str]:
    """The video's path; where it should be, if it is not there; none if it leads elsewhere."""
    try:
        return [str(media_path(folder, video))]
    except MediaError:
        with contextlib.suppress(MediaError):
            return [str(path_below(folder, video))]
    return []


def _plain(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)


def file_of(dataset: Any) -> str:
    """The file that the rows of a `datasets.Dataset` were read from, for messages."""
    files = [entry["filename"] for entry in getattr(dataset, "cache_files", [])]
    return ", ".join(files) if files else "the data set"
