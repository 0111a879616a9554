"""The mini suite for lmms-eval: videos are drawn on first use, the rest is Video-MME's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval.files import hf_home
from longva_eval.questions.documents import check_documents, choice_result, video_paths
from longva_eval.questions.outcomes import mean_score, write_breakdown
from longva_eval.tasks.mini.mini_benchmark import ensure_mini_benchmark
from longva_eval.tasks.videomme import videomme

_FOLDER = "longva_eval/mini"


def process_docs(dataset: Any) -> Any:
    """The questions of the suite that the one row of the data file states."""
    return _documents(dataset, "longva_mini")


def process_docs_small(dataset: Any) -> Any:
    """The questions of the small suite."""
    return _documents(dataset, "longva_mini_small")


def process_docs_subtitles(dataset: Any) -> Any:
    """The questions of the suite, to be asked with subtitles."""
    return _documents(dataset, "longva_mini_subtitles")


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, _folder(doc))


def doc_to_text(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """Video-MME's prompt without subtitles."""
    del lmms_eval_specific_kwargs
    return videomme.multiple_choice_prompt(doc)


def doc_to_text_subtitles(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """Video-MME's prompt with the subtitles at the frames."""
    settings = lmms_eval_specific_kwargs or {}
    subtitles, rule = videomme.subtitle_text(
        _subtitle_file(doc),
        lambda: doc_to_visual(doc)[0],
        rule=str(settings.get("subtitles", "evenly_spread")),
        num_frames=int(settings.get("frame_num", 32)),
    )
    videomme.note_rule(doc, rule)
    return videomme.multiple_choice_prompt(doc, subtitles=subtitles)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, and its score once more for the metric of its duration."""
    return _metrics(choice_result(doc, results[0], folder=_folder(doc)))


def process_results_subtitles(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """As `process_results`; the record says whether there were subtitles, and by which rule."""
    return _metrics(
        choice_result(
            doc,
            results[0],
            folder=_folder(doc),
            has_subtitles=_subtitle_file(doc).is_file(),
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
    from datasets import Dataset

    (setting,) = dataset
    suite = str(setting["videos_per_duration"])
    rows = ensure_mini_benchmark(
        hf_home() / _FOLDER / suite, videos_per_duration=setting["videos_per_duration"]
    )

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        return videomme.read_row(row) | {"task": task, "suite": suite}

    documents = check_documents(
        rows, read, name="The mini suite", columns=videomme.COLUMNS, present=list(rows[0])
    )
    return Dataset.from_list(documents)


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    part = record["categories"]["duration"]
    return {"accuracy": record, part: videomme.partial_score(record)}


def _folder(doc: Mapping[str, Any]) -> str:
    return f"{_FOLDER}/{doc['suite']}"


def _subtitle_file(doc: Mapping[str, Any]) -> Path:
    return hf_home() / _folder(doc) / f"{doc['video']}.srt"
