"""A benchmark of questions about pictures, as lmms-eval's YAML calls it.

As `longva_eval.questions.choice_task`, for pictures, and for questions without options too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from longva_eval.questions.documents import letter_of
from longva_eval.questions.outcomes import choice_record, said_of, scored_record, share_answered
from longva_eval.questions.pictures import open_picture, picture_documents

__all__ = ["Document", "PictureTask", "Row", "make_document"]

Row = Mapping[str, Any]
Document = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class PictureTask:
    """How rows become documents, documents prompts, and answers records."""

    name: str
    """For messages."""
    read: Callable[[Row, int], Document]
    """Turns a row and its number into `make_document`; raises ValueError if it can't."""
    columns: tuple[str, ...]
    """That the rows must have."""
    choose: str = ""
    """What stands below the options."""
    say: str = ""
    """What stands below a question without options."""
    metric: str = "accuracy"
    """Gets the record; `answered` does where the answer is not public."""
    score: Callable[[str, Any], float] = lambda text, right: 0.0
    """Of what was said on an open question, and of what is right."""
    pictures: tuple[str, ...] = ("image",)
    """Columns of pictures."""
    needed: Callable[[Document], list[str]] | None = None
    """Of these, a document's own; the first of all if None."""

    def docs(self, dataset: Any) -> Any:
        """Checked documents (`picture_documents`)."""
        return picture_documents(
            dataset,
            lambda row, number: {**self.read(row, number), "task": self.name, "row": number},
            task=self.name,
            columns=self.columns,
            pictures=self.pictures,
            needed=self.needed,
        )

    def visual(self, doc: Document) -> list[Any]:
        """The question's pictures, in order."""
        if doc["unaskable"]:
            return []
        where = f"{doc['task']}, row {doc['row']} (question {doc['question_id']})"
        if self.needed is None:
            return [open_picture(doc[self.pictures[0]], where=where)]
        names = self.needed(doc)
        return [open_picture(doc.get(name), where=f"{where}, {name}") for name in names]

    def text(self, doc: Document) -> str:
        """The question, its options, and what to answer."""
        if not doc["options"]:
            return f"{doc['question']}{self.say}"
        options = (f"\n{letter_of(place)}. {text}" for place, text in enumerate(doc["options"]))
        return f"{doc['question']}{''.join(options)}{self.choose}"

    def result(self, doc: Document, results: Sequence[str]) -> dict[str, Any]:
        """The record; without a public answer its `score` says whether there is one to send in."""
        right = doc.get("answers") or doc["answer"]
        text, reason = said_of(doc, results[0])
        common = {
            "question_id": doc["question_id"],
            "cluster": doc["picture"],
            "question": doc["question"],
            "categories": {k: str(v) for k, v in doc["categories"].items() if v is not None},
            **reason,
        }
        if doc["options"]:
            options = list(doc["options"])
            record = choice_record(text, options=options, answer=doc["answer"], **common)
        else:
            score = float(self.score(results[0], right)) if right else 0.0
            answer = right if isinstance(right, str) else list(right)
            record = scored_record(text, score=score, answer=answer, **common)
        if doc["answer"]:
            return {self.metric: record}
        return {"answered": record | {"score": share_answered([record])}}


def make_document(
    question_id: Any,
    question: str | None,
    answer: str | list[str],
    categories: Mapping[str, str | None] | None = None,
    *,
    options: Sequence[str] = (),
    **more: Any,
) -> Document:
    """A question in the form that `PictureTask` works with."""
    return {
        "question_id": str(question_id),
        "question": question or "",
        "options": list(options),
        "answer": answer,
        # Arrow wants a field in every struct.
        "categories": dict(categories or {"all": None}),
        **more,
    }
