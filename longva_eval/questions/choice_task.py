"""A benchmark of multiple-choice questions about videos, as lmms-eval's YAML calls it. No torch.

A task's `utils.py` makes one `ChoiceTask` and gives its methods the names that the YAML knows. What
is special about a benchmark is how a row is read, which is a function of the task's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from longva_eval.media.subtitles import read_subtitles
from longva_eval.questions.documents import (
    letter_of,
    media_names,
    media_path,
    path_below,
    read_dataset,
)
from longva_eval.questions.outcomes import choice_record, said_of, share_answered

__all__ = ["ChoiceTask", "Functions"]

Row = Mapping[str, Any]
Document = Mapping[str, Any]


class Functions(NamedTuple):
    """What a YAML names, in the order in which lmms-eval calls it."""

    process_docs: Callable[[Any], Any]
    doc_to_visual: Callable[[Document], list[str]]
    doc_to_text: Callable[..., str]
    process_results: Callable[[Document, Sequence[str]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class ChoiceTask:
    """How rows become documents, documents prompts, and answers records."""

    name: str
    """For messages."""
    folder: str
    """Where the videos lie, below `$HF_HOME`; `{video}` and the like are a document's fields."""
    read: Callable[[Row], Document]
    """Turns a row into a document (`make_choice_doc`); raises ValueError if it can't."""
    columns: Sequence[str]
    """That the rows must have."""
    entry: str = ""
    """What `longva-eval prepare` calls the data."""
    question: str = "{question}"
    """What stands first in the prompt; `{subtitles}` is what `subtitle_text` gives."""
    option: str = "{letter}. {text}"
    """How an option is written; `{small_letter}` is the letter in lower case."""
    instruction: str = "Answer with the option's letter from the given choices directly."
    """What stands last; nothing if it is empty."""
    metrics: Sequence[str] = ("accuracy",)
    """Each gets the record."""
    metric_of: str = ""
    """A category of which each value is a metric too."""
    breakdown: str = ""
    """The name in lmms-eval, kept in the records for `outcomes.mean_with_breakdown`."""
    hides_answers: bool = False
    """Whether a board keeps the right answers: the only metric is then `answered`."""
    subtitle_file: str = ""
    """Below `$HF_HOME`, such as `videomme/subtitle/{video}.srt`; need not be there."""
    subtitle_text: Callable[[Path, Callable[[], str], Mapping[str, Any]], str] | None = None
    """Of the file, the video's path and the settings for the model; asked without if it is None."""

    @property
    def functions(self) -> Functions:
        """For `utils.py` to give names to."""
        return Functions(
            self.process_docs, self.doc_to_visual, self.doc_to_text, self.process_results
        )

    def process_docs(self, dataset: Any) -> Any:
        """Checked documents; subtitle files, where they are there, can be read.

        Raises:
            DataError: If columns are missing, rows are wrong (all are named), or a subtitle file.
        """
        named = {"task": self.breakdown} if self.breakdown else {}
        found = read_dataset(
            dataset, lambda row: {**self.read(row), **named}, task=self.name, columns=self.columns
        )
        if self.subtitle_text is not None:
            for file in sorted({self._subtitles(document) for document in found}):
                if file.is_file():
                    read_subtitles(file)
        return found

    def doc_to_visual(self, doc: Document) -> list[str]:
        """The video's path; MediaError if it is not there."""
        return [str(media_path(_filled(self.folder, doc), doc["video"], entry=self.entry))]

    def doc_to_text(
        self, doc: Document, lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
    ) -> str:
        """The question with its options, and what to answer."""
        subtitles = ""
        if self.subtitle_text is not None:
            settings = lmms_eval_specific_kwargs or {}
            file, video = self._subtitles(doc), lambda: self.doc_to_visual(doc)[0]
            subtitles = self.subtitle_text(file, video, settings) if file.is_file() else ""
        lines = [_filled(self.question, {"subtitles": subtitles, "question": doc["question"]})]
        for number, text in enumerate(doc["options"]):
            letter = letter_of(number)
            letters = {"letter": letter, "small_letter": letter.lower()}
            lines.append(_filled(self.option, {**letters, "text": text}))
        return "\n".join([*lines, self.instruction] if self.instruction else lines)

    def process_results(self, doc: Document, results: Sequence[str]) -> dict[str, Any]:
        """The record, for each metric; with hidden answers, its `score` says whether it has one."""
        record = self.record(doc, results[0])
        if self.hides_answers:
            return {"answered": record | {"score": share_answered([record])}}
        metrics = dict.fromkeys(self.metrics, record)
        if self.metric_of:
            # The host finds the score and, for its error, the cluster.
            part = {"score": record["score"], "cluster": record["cluster"]}
            metrics[record["categories"][self.metric_of]] = part
        return metrics

    def record(self, doc: Document, text: str, **more: Any) -> dict[str, Any]:
        """What became of a question (`choice_record`); a document's own fields are kept.

        Args:
            doc: From `process_docs`. One that cannot be asked has failed, whatever was said.
            text: What the model said.
            **more: Further fields of the record.
        """
        common = (
            "question_id", "video", "question", "options", "answer", "categories", "unaskable",
        )  # fmt: skip
        text, reason = said_of(doc, text)
        if self.subtitle_text is not None:
            more["has_subtitles"] = self._subtitles(doc).is_file()
        return choice_record(
            text,
            options=doc["options"],
            answer=doc["answer"],
            question_id=doc["question_id"],
            cluster=doc["video"],
            question=doc["question"],
            categories={k: v for k, v in doc["categories"].items() if v is not None},
            media=media_names(_filled(self.folder, doc), doc["video"]),
            never_right=not doc["answer"] and not self.hides_answers,
            **{key: value for key, value in doc.items() if key not in common},
            **more,
            **reason,
        )

    def _subtitles(self, doc: Document) -> Path:
        folder, _, name = self.subtitle_file.rpartition("/")
        return path_below(_filled(folder, doc), _filled(name, doc))


def _filled(template: str, values: Mapping[str, Any]) -> str:
    """A template with its `{names}` filled in, once: what is put in is not looked at again."""
    return re.sub(r"\{(\w+)\}", lambda found: str(values.get(found[1], found[0])), template)
