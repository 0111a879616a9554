"""AI2D, ChartQA, DocVQA, InfoVQA, RealWorldQA and MMMU for lmms-eval.

Prompts are lmms-eval's own, word for word, and the same for every model. What differs is told in
README.md: an answer that cannot be read is no answer, never an option drawn at random.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from longva_eval.questions.documents import letter_of
from longva_eval.questions.pictures import require_text
from longva_eval.questions.text_metrics import anls, relaxed_match
from longva_eval.tasks.images.picture_task import Document, PictureTask, Row, make_document

CHOOSE = "Answer with the option's letter from the given choices directly."
SAY = "Answer the question using a single word or phrase."
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


def doc_to_target(doc: Document) -> Any:
    """What is right: a letter, a text, or several texts."""
    return doc["answer"]


# --- AI2D; the data set has no ids, so a question's is its row, as in ChartQA and RealWorldQA -----


def _read_ai2d(row: Row, number: int) -> Document:
    options = [str(option) for option in row["options"] or []]
    if not options:
        raise ValueError("the question has no options")
    if not str(row["answer"]).isdigit() or int(row["answer"]) >= len(options):
        raise ValueError(
            f"the answer {row['answer']!r} is none of the options 0 to {len(options) - 1}"
        )
    return make_document(number, row["question"], letter_of(int(row["answer"])), options=options)


AI2D = PictureTask(
    name="AI2D",
    read=_read_ai2d,
    columns=("question", "options", "answer"),
    choose=f"\n{CHOOSE}",
)
ai2d_docs, doc_to_visual, ai2d_text, ai2d_result = AI2D.docs, AI2D.visual, AI2D.text, AI2D.result


# --- ChartQA --------------------------------------------------------------------------------------


def _read_chartqa(row: Row, number: int) -> Document:
    require_text(row, "answer", "type")
    half = "human" if row["type"] == "human_test" else "augmented"
    return make_document(number, row["question"], row["answer"], {"half": half})


CHARTQA = PictureTask(
    name="ChartQA",
    read=_read_chartqa,
    columns=("type", "question", "answer"),
    say="\nAnswer the question with a single word.",
    metric="relaxed_accuracy",
    score=relaxed_match,
)
chartqa_docs, chartqa_text, chartqa_result = CHARTQA.docs, CHARTQA.text, CHARTQA.result


# --- DocVQA and InfoVQA; a board keeps the answers of the test splits -----------------------------


def _read_span(row: Row, number: int, *, with_answers: bool) -> Document:
    del number
    answers = [str(answer) for answer in row.get("answers") or []] if with_answers else []
    if with_answers and not any(answers):
        raise ValueError(f"the column 'answers' holds {row['answers']!r}")
    if not str(row["questionId"]).isdigit():
        raise ValueError(f"the questionId is {row['questionId']!r}, not a whole number")
    kinds = row.get("question_types") or row.get("answer_type") or []
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    page = row.get("docId")
    return make_document(
        row["questionId"], row["question"], answers,
        {"kind": "/".join(sorted(map(str, kinds))) or None},
        **({} if page is None else {"picture": str(page)}),
    )  # fmt: skip


DOCVQA = PictureTask(
    name="DocVQA",
    read=partial(_read_span, with_answers=True),
    columns=("questionId", "question", "answers"),
    say=f"\n{SAY}",
    metric="anls",
    score=anls,
)
_HIDDEN: dict[str, Any] = {
    "read": partial(_read_span, with_answers=False),
    "columns": DOCVQA.columns[:-1],
}
docvqa_docs, span_text, span_result = DOCVQA.docs, DOCVQA.text, DOCVQA.result
docvqa_test_docs = replace(DOCVQA, name="DocVQA test", **_HIDDEN).docs
infovqa_docs = replace(DOCVQA, name="InfoVQA").docs
infovqa_test_docs = replace(DOCVQA, name="InfoVQA test", **_HIDDEN).docs


# --- RealWorldQA: a choice where the question has options, else the same word or number -----------


def _read_realworldqa(row: Row, number: int) -> Document:
    require_text(row, "answer")
    answer, texts = row["answer"].strip(), _listed_options(row["question"] or "")
    if re.fullmatch(r"[A-Da-d]", answer):
        if answer.upper() not in map(letter_of, range(len(texts))):
            raise ValueError(f"the answer is {answer!r}, and the question has the options {texts}")
    elif answer in texts:  # one row is answered in words
        answer = letter_of(texts.index(answer))
    else:
        texts = []
    kind = {"kind": "choice" if texts else "open"}
    answer = answer.upper() if texts else answer
    return make_document(number, row["question"], answer, kind, options=texts)


def _listed_options(question: str) -> list[str]:
    """Of lines A, B, C ...: `A. red`; in some rows `A: red`, `A.red`, and `B red` after another."""
    texts: list[str] = []
    for line in question.splitlines():
        mark = r"(?:[.:)]\s*|\s)" if texts else r"[.:)]\s*"
        if found := re.match(rf"{letter_of(len(texts))}{mark}(.*\S)", line.strip()):
            texts.append(found[1].strip())
    return texts


def _word(text: str) -> str:
    """A short answer without case and full stop; `two` is 2."""
    plain = text.strip().lower().rstrip(".")
    return str(_NUMBER_WORDS.index(plain)) if plain in _NUMBER_WORDS else plain


def realworldqa_text(doc: Document) -> str:
    """The question, which says itself what to answer."""
    return str(doc["question"]).strip()


REALWORLDQA = PictureTask(
    name="RealWorldQA",
    read=_read_realworldqa,
    columns=("question", "answer"),
    score=lambda text, right: _word(text) == _word(right),
)
realworldqa_docs, realworldqa_result = REALWORLDQA.docs, REALWORLDQA.result


# --- MMMU: open questions by the official rule for numbers and texts ------------------------------


def _read_mmmu(row: Row, number: int, *, with_answers: bool) -> Document:
    del number
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
        if is_choice and row["answer"] not in map(letter_of, range(len(options))):
            raise ValueError(f"the answer {row['answer']!r} is none of {len(options)} options")
    subject = re.sub(r"^[^_]+_(.+)_\d+$", r"\1", row["id"])
    return make_document(
        row["id"], row["question"], answers[0] if answers else "",
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


def _mmmu_columns(doc: Document) -> list[str]:
    """The pictures that question and options speak of, in order of their numbers."""
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
    # Imported here: it loads much that only this needs.
    from lmms_eval.tasks.mmmu.utils import eval_open, parse_open_response

    return bool(eval_open(list(answers), parse_open_response(text)))


MMMU = PictureTask(
    name="MMMU",
    read=partial(_read_mmmu, with_answers=True),
    columns=("id", "question", "options", "question_type", "answer"),
    choose=f"\n\n{CHOOSE}",
    say=f"\n\n{SAY}",
    score=_open_match,
    pictures=MMMU_PICTURES,
    needed=_mmmu_columns,
)
mmmu_val_docs, mmmu_visual, mmmu_text, mmmu_result = MMMU.docs, MMMU.visual, MMMU.text, MMMU.result
mmmu_test_docs = replace(
    MMMU,
    name="MMMU test",
    read=partial(_read_mmmu, with_answers=False),
    columns=MMMU.columns[:-1],
).docs
