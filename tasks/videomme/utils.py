"""Video-MME for lmms-eval: rows become documents, answers become records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval.errors import DataError
from longva_eval.media.subtitles import read_subtitles
from longva_eval.questions.documents import choice_documents, choice_result, path_below, video_paths
from longva_eval.questions.outcomes import mean_score, write_breakdown
from longva_eval.tasks.videomme import videomme

FOLDER = "videomme/data"
SUBTITLES = "videomme/subtitle"
_FRAMES_OF_OTHER_MODELS = 32


def process_docs(dataset: Any) -> Any:
    """Checked documents."""
    return _documents(dataset, "longva_videomme")


def process_docs_short(dataset: Any) -> Any:
    """Checked documents on short videos."""
    return _of_duration(dataset, "short")


def process_docs_medium(dataset: Any) -> Any:
    """Checked documents on medium videos."""
    return _of_duration(dataset, "medium")


def process_docs_long(dataset: Any) -> Any:
    """Checked documents on long videos."""
    return _of_duration(dataset, "long")


def process_docs_subtitles(dataset: Any) -> Any:
    """Checked documents, and subtitle files that can be read; not every video has one."""
    documents = _documents(dataset, "longva_videomme_subtitles")
    for video in sorted(set(documents["video"])):
        path = _subtitle_file(video)
        if path.is_file():
            read_subtitles(path)
    return documents


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER, entry="videomme")


def doc_to_text(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """The official prompt without subtitles."""
    del lmms_eval_specific_kwargs
    return videomme.multiple_choice_prompt(doc)


def doc_to_text_subtitles(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """The official prompt with the subtitles at the frames."""
    settings = lmms_eval_specific_kwargs or {}
    subtitles, rule = videomme.subtitle_text(
        _subtitle_file(doc["video"]),
        lambda: doc_to_visual(doc)[0],
        rule=str(settings.get("subtitles", "evenly_spread")),
        num_frames=int(settings.get("frame_num", _FRAMES_OF_OTHER_MODELS)),
    )
    videomme.note_rule(doc, rule)
    return videomme.multiple_choice_prompt(doc, subtitles=subtitles)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, and its score once more for the metric of its duration."""
    return _metrics(choice_result(doc, results[0], folder=FOLDER))


def process_results_subtitles(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """As `process_results`; the record says whether there were subtitles, and by which rule."""
    return _metrics(
        choice_result(
            doc,
            results[0],
            folder=FOLDER,
            has_subtitles=_subtitle_file(doc["video"]).is_file(),
            subtitle_rule=videomme.noted_rule(doc),
        )
    )


def accuracy(items: Sequence[Mapping[str, Any]], args: Any = None) -> float:
    """Share of right answers; silence is wrong. Writes the breakdown beside the results."""
    if items:
        write_breakdown(items[0]["task"], items, args)
    return mean_score(items)


def accuracy_of_part(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of right answers on videos of one duration."""
    return mean_score(items)


def _documents(dataset: Any, task: str) -> Any:
    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        return videomme.read_row(row) | {"task": task}

    return choice_documents(dataset, read, task="Video-MME", columns=videomme.COLUMNS)


def _of_duration(dataset: Any, duration: str) -> Any:
    documents = _documents(dataset, f"longva_videomme_{duration}")
    chosen = documents.filter(lambda doc: doc["categories"]["duration"] == duration)
    if not len(chosen):
        raise DataError(f"Video-MME: none of {len(documents)} rows is on a {duration} video.")
    return chosen


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    part = record["categories"]["duration"]
    return {"accuracy": record, part: videomme.partial_score(record)}


def _subtitle_file(video: str) -> Path:
    return path_below(SUBTITLES, f"{video}.srt")
