"""Video-MME-v2 for lmms-eval: rows become documents, answers become records and groups scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval.media.subtitles import read_subtitles
from longva_eval.questions.documents import choice_documents, choice_result, path_below, video_paths
from longva_eval.questions.outcomes import mean_score, write_breakdown
from longva_eval.tasks.videomme import videomme

FOLDER = "videomme_v2"
SUBTITLES = "videomme_v2/subtitle"


def process_docs(dataset: Any) -> Any:
    """Checked documents."""
    return _documents(dataset, "longva_videomme_v2")


def process_docs_subtitles(dataset: Any) -> Any:
    """Checked documents, and subtitle files that can be read."""
    documents = _documents(dataset, "longva_videomme_v2_subtitles")
    for video in sorted(set(documents["video"])):
        path = _subtitle_file(video)
        if path.is_file():
            read_subtitles(path)
    return documents


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    return video_paths(doc, FOLDER, entry="videomme_v2")


def doc_to_text(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """The official prompt without subtitles."""
    del lmms_eval_specific_kwargs
    return videomme.v2_prompt(doc)


def doc_to_text_subtitles(
    doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, Any] | None = None
) -> str:
    """The official prompt with all words of the video, which is the concatenated setting."""
    del lmms_eval_specific_kwargs
    path = _subtitle_file(doc["video"])
    words = " ".join(cue.text for cue in read_subtitles(path)) if path.is_file() else ""
    return videomme.v2_prompt(doc, subtitles=words)


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record of the question, and what its group is scored by."""
    return _metrics(choice_result(doc, results[0], folder=FOLDER))


def process_results_subtitles(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """As `process_results`; the record says whether there were subtitles."""
    has_subtitles = _subtitle_file(doc["video"]).is_file()
    record = choice_result(
        doc,
        results[0],
        folder=FOLDER,
        has_subtitles=has_subtitles,
        subtitle_rule="all" if has_subtitles else "none",
    )
    return _metrics(record)


def accuracy(items: Sequence[Mapping[str, Any]], args: Any = None) -> float:
    """Share of right answers. Writes the breakdown, with the groups' scores, beside the results."""
    if items:
        groups = videomme.group_scores(items)
        num_groups = len({item["cluster"] for item in items})
        write_breakdown(
            items[0]["task"],
            items,
            args,
            group_rows=videomme.group_rows(groups),
            num_groups=len(groups),
            num_incomplete_groups=num_groups - len(groups),
        )
    return mean_score(items)


def group_score(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups."""
    return _mean_of_groups(items)


def relevance(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups of relevance."""
    return _mean_of_groups(items, group_type="relevance")


def logic(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups of logic."""
    return _mean_of_groups(items, group_type="logic")


def level_1(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups of level 1."""
    return _mean_of_groups(items, level="1")


def level_2(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups of level 2."""
    return _mean_of_groups(items, level="2")


def level_3(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean score of the groups of level 3."""
    return _mean_of_groups(items, level="3")


def _mean_of_groups(items: Sequence[Mapping[str, Any]], **wanted: str) -> float:
    groups = videomme.group_scores(items)
    missing = len({item["cluster"] for item in items}) - len(groups)
    if missing:
        logger.warning("{} groups lack questions and have no score of a group.", missing)
    chosen = [
        group["score"]
        for group in groups
        if all(group["categories"].get(name) == value for name, value in wanted.items())
    ]
    return math.fsum(chosen) / len(chosen) if chosen else math.nan


def _documents(dataset: Any, task: str) -> Any:
    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        return videomme.read_v2_row(row) | {"task": task}

    return choice_documents(dataset, read, task="Video-MME-v2", columns=videomme.V2_COLUMNS)


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    # Without `score`: the host would print an error of single questions beside a mean of groups.
    part = {
        name: record[name]
        for name in ("cluster", "question_id", "outcome", "group_structure", "categories")
    }
    names = ("group_score", "relevance", "logic", "level_1", "level_2", "level_3")
    return {"accuracy": record} | dict.fromkeys(names, part)


def _subtitle_file(video: str) -> Path:
    return path_below(SUBTITLES, f"{video}.jsonl")
