"""Multiple-choice questions about videos: rows of a data set, checked, in one form. No torch.

Benchmarks spell their rows in many ways: options in a column, in five columns, or within the
question; answers as letters, numbers or texts. A task's `process_docs` reads each row into the form
made by `choice_document`; `choice_documents` checks the whole file and says everything that is
wrong with it before anything is asked. From there on all tasks are alike: `video_paths`,
`choice_prompt` and `choice_result`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from longva_eval.errors import DataError, MediaError
from longva_eval.files import hf_home
from longva_eval.questions.outcomes import choice_record, mean_score

__all__ = [
    "VIDEO_SUFFIXES",
    "answer_letter",
    "check_documents",
    "choice_document",
    "choice_documents",
    "choice_prompt",
    "choice_result",
    "letter_of",
    "macro_mean",
    "media_names",
    "media_path",
    "path_below",
    "split_options",
    "video_paths",
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
        ValueError: If it is none of the options, or the text of several.
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
    same = [letter for letter, option in zip(letters, options, strict=True) if option == said]
    if not same:
        same = [
            letter
            for letter, option in zip(letters, options, strict=True)
            if option.strip().casefold() == said.casefold()
        ]
    if not same:
        raise ValueError(f"the answer {said!r} is none of the options {list(options)}")
    # Equal options cannot be told apart by a text; the first is what `list.index` gives.
    return same[0]


def choice_document(
    *,
    question_id: Any,
    video: Any,
    question: Any,
    options: Sequence[Any],
    answer: str,
    categories: Mapping[str, str | None],
    **more: Any,
) -> dict[str, Any]:
    """A question in the form that `choice_prompt` and `choice_result` work with.

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
        ValueError: If something is empty, or the answer is no option.
    """
    if question_id is None or not str(question_id).strip():
        raise ValueError("the question id is empty")
    if not isinstance(video, str) or not video.strip():
        raise ValueError(f"the video is {video!r}")
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"the question is {question!r}")
    texts = [str(option).strip() for option in options]
    if not texts:
        raise ValueError("the question has no options")
    if len(texts) > 26 or not all(texts):
        raise ValueError(f"the options are {texts}")
    if answer and answer not in [letter_of(number) for number in range(len(texts))]:
        raise ValueError(f"the answer {answer!r} is none of the {len(texts)} options")
    return {
        "question_id": str(question_id),
        "video": video,
        "question": question.strip(),
        "options": texts,
        "answer": answer,
        "categories": {name: _plain(value) for name, value in categories.items()},
        **more,
    }


def choice_documents(
    dataset: Any,
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    task: str,
    columns: Sequence[str],
) -> Any:
    """The rows of a data set as checked documents, for a task's `process_docs`.

    Args:
        dataset: A `datasets.Dataset`.
        read: Turns a row into a document, with `choice_document`; raises ValueError if it can't.
        task: For the message.
        columns: That the rows must have.

    Raises:
        DataError: If columns or options are missing, an answer is no option, or two rows have the
            same question id; names the file and the rows.
    """
    from datasets import Dataset

    documents = check_documents(
        dataset, read, name=f"{task}: {_file_of(dataset)}", columns=columns,
        present=list(dataset.column_names),
    )  # fmt: skip
    return Dataset.from_list(documents)


def check_documents(
    rows: Iterable[Mapping[str, Any]],
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    *,
    name: str,
    columns: Sequence[str],
    present: Sequence[str],
) -> list[dict[str, Any]]:
    """Documents of rows; all that is wrong is said at once.

    Args:
        rows: From a data set or a file.
        read: As for `choice_documents`.
        name: Of the rows, for the message: the task and the file.
        columns: That must be there.
        present: That are there.

    Raises:
        DataError: As `choice_documents`.
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


def video_paths(document: Mapping[str, Any], folder: str, *, entry: str = "") -> list[str]:
    """The document's video, for a task's `doc_to_visual`; MediaError if it is not there."""
    return [str(media_path(folder, document["video"], entry=entry))]


def choice_prompt(
    document: Mapping[str, Any], *, question: str, option: str, instruction: str
) -> str:
    """The text of a question with its options.

    Args:
        document: From `choice_document`.
        question: What stands first; `{question}` is put in.
        option: How an option is written; `{letter}` and `{text}` are put in.
        instruction: What stands last.
    """
    lines = [question.replace("{question}", document["question"])]
    lines += [
        option.replace("{letter}", letter_of(number)).replace("{text}", text)
        for number, text in enumerate(document["options"])
    ]
    return "\n".join([*lines, instruction])


def choice_result(
    document: Mapping[str, Any], text: str, *, folder: str, **more: Any
) -> dict[str, Any]:
    """The record of a question, for a task's `process_results`.

    Args:
        document: From `choice_document`; what it has beyond the common form goes into the record.
        text: What the model said.
        folder: As for `media_path`.
        **more: Further fields of the record.
    """
    common = ("question_id", "video", "question", "options", "answer", "categories")
    extra = {key: value for key, value in document.items() if key not in common}
    return choice_record(
        text,
        options=document["options"],
        answer=document["answer"],
        question_id=document["question_id"],
        cluster=document["video"],
        question=document["question"],
        categories={k: v for k, v in document["categories"].items() if v is not None},
        media=media_names(folder, document["video"]),
        **extra,
        **more,
    )


def macro_mean(records: Sequence[Mapping[str, Any]], category: str) -> float:
    """Mean over the values of a category of the mean score within each; NaN of nothing."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(str(record["categories"][category]), []).append(record)
    means = [mean_score(group) for group in groups.values()]
    return math.fsum(means) / len(means) if means else math.nan


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


def _file_of(dataset: Any) -> str:
    """The file the rows were read from, for messages."""
    files = [entry["filename"] for entry in getattr(dataset, "cache_files", [])]
    return ", ".join(files) if files else "the data set"
