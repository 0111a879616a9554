"""Long answers for lmms-eval: videos are drawn on first use, and nobody judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longva_eval.files import hf_home
from longva_eval.questions.documents import media_names, media_path
from longva_eval.questions.outcomes import FAILED, scored_record
from longva_eval.tasks.long_answers.long_answers import draw_video, plan_events, read_told

_FOLDER = "longva_eval/long_answers"
_VIDEOS_PER_LENGTH = 4


def process_docs(dataset: Any) -> Any:
    """A question on each video; videos that are not there yet are drawn."""
    from datasets import Dataset

    docs = []
    for row in dataset:
        for number in range(_VIDEOS_PER_LENGTH):
            name = f"events-{row['events']:02d}-{number}"
            events = plan_events(number, row["events"])
            draw_video(hf_home() / _FOLDER / f"{name}.mp4", events)
            docs.append({"video": name, "words": row["words"],
                         "events": [" ".join(event) for event in events]})  # fmt: skip
    return Dataset.from_list(docs)


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return [str(media_path(_FOLDER, f"{doc['video']}.mp4"))]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """What to write."""
    return (
        f"Describe this video in about {doc['words']} words. Name every object that is shown and "
        "its color, in the order in which they appear."
    )


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """The events."""
    return ", ".join(doc["events"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record: `score` is the F1 of events named."""
    text = results[0]
    events = [tuple(event.split(" ")) for event in doc["events"]]
    told = read_told("" if text == FAILED else text, events, doc["words"])
    record = scored_record(
        text,
        score=told.f1,
        answer=doc_to_target(doc),
        question_id=doc["video"],
        cluster=doc["video"],
        question=doc_to_text(doc),
        categories={"events": str(len(events))},
        media=media_names(_FOLDER, f"{doc['video']}.mp4"),
        recall=told.recall,
        precision=told.precision,
        order=told.order,
        length=told.length,
        words_written=told.words,
        words_asked=doc["words"],
        repetition=told.repetition,
    )
    names = ("f1", "recall", "precision", "order", "length", "words_written", "repetition")
    return dict.fromkeys(names, record)


def _mean_of(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def mean(items: Sequence[Mapping[str, Any]]) -> float:
        return math.fsum(float(item[name]) for item in items) / len(items)

    return mean


mean_recall = _mean_of("recall")
mean_precision = _mean_of("precision")
mean_order = _mean_of("order")
mean_length = _mean_of("length")
mean_words = _mean_of("words_written")
mean_repetition = _mean_of("repetition")
