"""AI2D, ChartQA, DocVQA, InfoVQA, RealWorldQA and MMMU for lmms-eval.

Prompts are lmms-eval's own, word for word, and the same for every model. What differs is told in
README.md: an answer that cannot be read is no answer, never an option drawn at random.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.questions.outcomes import choice_record, said_of, scored_record, share_answered
from longva_eval.questions.pictures import open_picture, picture_documents, require_text
from longva_eval.questions.text_metrics import anls, relaxed_match

CHOOSE = "Answer with the option's letter from the given choices directly."
MMMU_PICTURES = tuple(f"image_{number}" for number in range(1, 8))
_NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
]  # fmt: skip
_DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy", "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics",
        "Energy_and_Power", "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
_DISCIPLINE_OF = {subject: name for name, subjects in _DISCIPLINES.items() for subject in subjects}


# --- all but MMMU: one picture a question ---------------------------------------------------------


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The question's picture."""
    return [] if doc["unaskable"] else [open_picture(doc["image"], where=_where(doc))]


def doc_to_target(doc: Mapping[str, Any]) -> Any:
    """What is right: a letter, a text, or several texts."""
    return doc["answer"]


# --- AI2D -----------------------------------------------------------------------------------------


def ai2d_docs(dataset: Any) -> Any:
    """Checked documents; the data set has no ids, so a question's is its row."""
    return picture_documents(
        dataset, _read_ai2d, task="AI2D", columns=("question", "options", "answer")
    )


def ai2d_text(doc: Mapping[str, Any]) -> str:
    """The question, its options, and what to answer."""
    return f"{doc['question']}\n{_lettered(doc['options'])}\n{CHOOSE}"


def ai2d_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record."""
    return {"accuracy": _choice(doc, results[0])}


def _read_ai2d(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    options = [str(option) for option in row["options"] or []]
    if not options:
        raise ValueError("the question has no options")
    if not str(row["answer"]).isdigit() or int(row["answer"]) >= len(options):
        raise ValueError(
            f"the answer {row['answer']!r} is none of the options 0 to {len(options) - 1}"
        )
    return _document(
        "AI2D", number, number, row["question"], _letter(int(row["answer"])), options=options
    )


# --- ChartQA --------------------------------------------------------------------------------------


def chartqa_docs(dataset: Any) -> Any:
    """Checked documents; the data set has no ids, so a question's is its row."""
    return picture_documents(
        dataset, _read_chartqa, task="ChartQA", columns=("type", "question", "answer")
    )


def chartqa_text(doc: Mapping[str, Any]) -> str:
    """The question and what to answer."""
    return f"{doc['question']}\nAnswer the question with a single word."


def chartqa_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record; both halves of the data set are categories of it."""
    text = results[0]
    score = float(relaxed_match(text, doc["answer"]))
    return {"relaxed_accuracy": _scored(doc, text, score)}


def _read_chartqa(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    require_text(row, "answer", "type")
    half = "human" if row["type"] == "human_test" else "augmented"
    return _document("ChartQA", number, number, row["question"], row["answer"], {"half": half})


# --- DocVQA and InfoVQA ---------------------------------------------------------------------------


def docvqa_docs(dataset: Any) -> Any:
    """Checked documents of the validation split."""
    return _span_docs(dataset, "DocVQA", with_answers=True)


def docvqa_test_docs(dataset: Any) -> Any:
    """Checked documents of the test split, whose answers the board keeps."""
    return _span_docs(dataset, "DocVQA test", with_answers=False)


def infovqa_docs(dataset: Any) -> Any:
    """Checked documents of the validation split."""
    return _span_docs(dataset, "InfoVQA", with_answers=True)


def infovqa_test_docs(dataset: Any) -> Any:
    """Checked documents of the test split, whose answers the board keeps."""
    return _span_docs(dataset, "InfoVQA test", with_answers=False)


def span_text(doc: Mapping[str, Any]) -> str:
    """The question and what to answer."""
    return f"{doc['question']}\nAnswer the question using a single word or phrase."


def span_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record; on a test split its `score` says whether there is an answer to send in."""
    text = results[0]
    if not doc["answer"]:
        return {"answered": _unscored(_scored(doc, text, 0.0))}
    return {"anls": _scored(doc, text, anls(text, doc["answer"]))}


def _span_docs(dataset: Any, task: str, *, with_answers: bool) -> Any:
    def read(row: Mapping[str, Any], number: int) -> dict[str, Any]:
        answers = [str(answer) for answer in row.get("answers") or []] if with_answers else []
        if with_answers and not any(answers):
            raise ValueError(f"the column 'answers' holds {row['answers']!r}")
        if not str(row["questionId"]).isdigit():
            raise ValueError(f"the questionId is {row['questionId']!r}, not a whole number")
        kinds = row.get("question_types") or row.get("answer_type") or []
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        page = row.get("docId")
        return _document(
            task, row["questionId"], number, row["question"], answers,
            {"kind": "/".join(sorted(map(str, kinds))) or None},
            **({} if page is None else {"picture": str(page)}),
        )  # fmt: skip

    columns = ("questionId", "question", *(("answers",) if with_answers else ()))
    return picture_documents(dataset, read, task=task, columns=columns)


# --- RealWorldQA ----------------------------------------------------------------------------------


def realworldqa_docs(dataset: Any) -> Any:
    """Checked documents; the data set has no ids, so a question's is its row."""
    return picture_documents(
        dataset, _read_realworldqa, task="RealWorldQA", columns=("question", "answer")
    )


def realworldqa_text(doc: Mapping[str, Any]) -> str:
    """The question, which says itself what to answer."""
    return str(doc["question"]).strip()


def realworldqa_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record: a choice where the question has options, else the same word or number."""
    if doc["options"]:
        return {"accuracy": _choice(doc, results[0])}
    score = float(_word(results[0]) == _word(doc["answer"]))
    return {"accuracy": _scored(doc, results[0], score)}


def _read_realworldqa(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    require_text(row, "answer")
    answer, texts = row["answer"].strip(), _listed_options(row["question"] or "")
    if re.fullmatch(r"[A-Da-d]", answer):
        if answer.upper() not in map(_letter, range(len(texts))):
            raise ValueError(f"the answer is {answer!r}, and the question has the options {texts}")
    elif answer in texts:  # one row is answered in words
        answer = _letter(texts.index(answer))
    else:
        texts = []
    kind = {"kind": "choice" if texts else "open"}
    answer = answer.upper() if texts else answer
    return _document(
        "RealWorldQA", number, number, row["question"], answer, kind, options=texts
    )  # fmt: skip


def _listed_options(question: str) -> list[str]:
    """Of lines A, B, C ...: `A. red`; in some rows `A: red`, `A.red`, and `B red` after another."""
    texts: list[str] = []
    for line in question.splitlines():
        mark = r"(?:[.:)]\s*|\s)" if texts else r"[.:)]\s*"
        if found := re.match(rf"{_letter(len(texts))}{mark}(.*\S)", line.strip()):
            texts.append(found[1].strip())
    return texts


def _word(text: str) -> str:
    """A short answer without case and full stop; `two` is 2."""
    plain = text.strip().lower().rstrip(".")
    return str(_NUMBER_WORDS.index(plain)) if plain in _NUMBER_WORDS else plain


# --- MMMU -----------------------------------------------------------------------------------------


def mmmu_val_docs(dataset: Any) -> Any:
    """Checked documents of the validation split."""
    return _mmmu_docs(dataset, "MMMU", with_answers=True)


def mmmu_test_docs(dataset: Any) -> Any:
    """Checked documents of the test split, whose answers the board keeps."""
    return _mmmu_docs(dataset, "MMMU test", with_answers=False)


def mmmu_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The pictures that question and options speak of, in order of their numbers."""
    columns = [] if doc["unaskable"] else _mmmu_columns(doc)
    return [open_picture(doc.get(name), where=f"{_where(doc)}, {name}") for name in columns]


def mmmu_text(doc: Mapping[str, Any]) -> str:
    """The question with `<image 1>` as it is written, its options, and what to answer."""
    if doc["options"]:
        return f"{doc['question']}\n{_lettered(doc['options'])}\n\n{CHOOSE}"
    return f"{doc['question']}\n\nAnswer the question using a single word or phrase."


def mmmu_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record; open questions by the official rule for numbers and texts."""
    text = results[0]
    if doc["options"]:
        record = _choice(doc, text)
    else:
        score = float(_open_match(text, doc["answers"])) if doc["answers"] else 0.0
        record = _scored(doc, text, score)
    return {"accuracy": record} if doc["answer"] else {"answered": _unscored(record)}


def _mmmu_docs(dataset: Any, task: str, *, with_answers: bool) -> Any:
    def read(row: Mapping[str, Any], number: int) -> dict[str, Any]:
        require_text(row, "id", "question_type")
        options = _literal_list(row["options"])
        is_choice = row["question_type"] == "multiple-choice"
        if is_choice and not options:
            raise ValueError("the question has no options")
        answers: list[str] = []
        if with_answers:
            require_text(row, "answer")
            # Open questions may have several answers: "['24/7', '3.429']".
            answers = [row["answer"]] if is_choice else _several(row["answer"])
            if is_choice and row["answer"] not in map(_letter, range(len(options))):
                raise ValueError(f"the answer {row['answer']!r} is none of {len(options)} options")
        subject = re.sub(r"^[^_]+_(.+)_\d+$", r"\1", row["id"])
        return _document(
            task, row["id"], number, row["question"], answers[0] if answers else "",
            {
                "kind": "choice" if is_choice else "open",
                "discipline": _DISCIPLINE_OF.get(subject),
                "subject": subject,
                "difficulty": row.get("topic_difficulty"),
            },
            options=options if is_choice else [],
            answers=answers,
            # Questions of a subject now and then share a picture; the test split's 10,500 are not
            # read only to find out.
            **({} if with_answers else {"picture": row["id"]}),
        )  # fmt: skip

    columns = ("id", "question", "options", "question_type", *(("answer",) if with_answers else ()))
    return picture_documents(
        dataset, read, task=task, columns=columns, pictures=MMMU_PICTURES, needed=_mmmu_columns
    )


def _mmmu_columns(doc: Mapping[str, Any]) -> list[str]:
    text = "\n".join([doc["question"], *doc["options"]])
    numbers = {int(number) for number in re.findall(r"<image (\d+)>", text)}
    return [f"image_{number}" for number in sorted(numbers)]


def _literal_list(text: Any) -> list[str]:
    """The options, which the data set keeps as the text of a Python list."""
    if isinstance(text, (list, tuple)):
        return [str(option) for option in text]
    try:
        options = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"the options are no list: {text!r}") from error
    if not isinstance(options, list):
        raise ValueError(f"the options are no list: {text!r}")
    return [str(option) for option in options]


def _several(answer: str) -> list[str]:
    try:
        found = ast.literal_eval(answer)
    except (ValueError, SyntaxError):
        return [answer]
    return [str(one) for one in found] if isinstance(found, list) and found else [answer]


def _open_match(text: str, answers: Sequence[str]) -> bool:
    """The official rule: numbers rounded to two places, or the answer within the last clause."""
    # Imported here: it loads much that only this needs.
    from lmms_eval.tasks.mmmu.utils import eval_open, parse_open_response

    return bool(eval_open(list(answers), parse_open_response(text)))


# --- all ------------------------------------------------------------------------------------------


def _document(
    task: str,
    question_id: Any,
    row: int,
    question: str | None,
    answer: str | list[str],
    categories: Mapping[str, str | None] | None = None,
    *,
    options: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    return {
        "task": task,
        "question_id": str(question_id),
        "row": row,
        "question": question or "",
        "options": list(options),
        "answer": answer,
        # Arrow wants a field in every struct.
        "categories": dict(categories or {"all": None}),
        **more,
    }


def _choice(doc: Mapping[str, Any], text: str) -> dict[str, Any]:
    text, reason = said_of(doc, text)
    return choice_record(
        text,
        options=list(doc["options"]),
        answer=doc["answer"],
        question_id=doc["question_id"],
        cluster=doc["picture"],
        question=doc["question"],
        categories=_categories(doc),
        **reason,
    )


def _scored(doc: Mapping[str, Any], text: str, score: float) -> dict[str, Any]:
    answers = doc.get("answers") or doc["answer"]
    text, reason = said_of(doc, text)
    return scored_record(
        text,
        score=score,
        answer=answers if isinstance(answers, str) else list(answers),
        question_id=doc["question_id"],
        cluster=doc["picture"],
        question=doc["question"],
        categories=_categories(doc),
        **reason,
    )


def _unscored(record: dict[str, Any]) -> dict[str, Any]:
    """Neither right nor wrong here: what can be said is whether there is an answer to send in."""
    return record | {"score": share_answered([record])}


def _categories(doc: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in doc["categories"].items() if value is not None}


def _where(doc: Mapping[str, Any]) -> str:
    return f"{doc['task']}, row {doc['row']} (question {doc['question_id']})"


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _lettered(options: Sequence[str]) -> str:
    return "\n".join(f"{_letter(place)}. {text}" for place, text in enumerate(options))
