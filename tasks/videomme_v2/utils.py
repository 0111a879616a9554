"""Video-MME-v2 for lmms-eval: questions as everywhere, and what their groups are scored by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval.media.subtitles import read_subtitles
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.outcomes import mean_score, write_breakdown
from longva_eval.tasks.videomme.videomme import INSTRUCTION
from longva_eval.tasks.videomme_v2 import rules


def _all_words(file: Path, video: Callable[[], str], settings: Mapping[str, Any]) -> str:
    """All words of the video, which is the official setting "concatenated"."""
    del video, settings
    words = " ".join(cue.text for cue in read_subtitles(file))
    return f" This video's subtitles are listed below:\n{words}\n" if words else ""


TASK = ChoiceTask(
    name="Video-MME-v2",
    folder="videomme_v2",
    entry="videomme_v2",
    columns=rules.COLUMNS,
    read=rules.read_row,
    breakdown="longva_videomme_v2",
    question="These are the frames of a video.{subtitles}\nQuestion: {question}",
    option="{text}",
    instruction=INSTRUCTION.format(letters="A, B, C, D, E, F, G, or H"),
)
SUBTITLES = replace(
    TASK,
    breakdown="longva_videomme_v2_subtitles",
    subtitle_file="videomme_v2/subtitle/{video}.jsonl",
    subtitle_text=_all_words,
)
process_docs, doc_to_visual, doc_to_text = TASK.process_docs, TASK.doc_to_visual, TASK.doc_to_text
process_docs_subtitles, doc_to_text_subtitles = SUBTITLES.process_docs, SUBTITLES.doc_to_text


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record of the question, and what its group is scored by."""
    return _metrics(TASK.record(doc, results[0]))


def process_results_subtitles(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """As `process_results`; the record says whether there were subtitles."""
    return _metrics(SUBTITLES.record(doc, results[0]))


def accuracy(items: Sequence[Mapping[str, Any]], args: Any = None) -> float:
    """Share of right answers. Writes the breakdown, with the groups' scores, beside the results."""
    if items:
        groups = rules.group_scores(items)
        num_groups = len({item["cluster"] for item in items})
        write_breakdown(
            items[0]["task"],
            items,
            args,
            group_rows=rules.group_rows(groups),
            num_groups=len(groups),
            num_incomplete_groups=num_groups - len(groups),
        )
    return mean_score(items)


def group_score(items: Sequence[Mapping[str, Any]], **wanted: str) -> float:
    """Mean score of the groups, or of those whose categories are as wanted."""
    groups = rules.group_scores(items)
    missing = len({item["cluster"] for item in items}) - len(groups)
    if missing:
        logger.warning("{} groups lack questions and have no score of a group.", missing)
    chosen = [
        group["score"]
        for group in groups
        if all(group["categories"].get(name) == value for name, value in wanted.items())
    ]
    return math.fsum(chosen) / len(chosen) if chosen else math.nan


relevance = partial(group_score, group_type="relevance")
logic = partial(group_score, group_type="logic")
level_1 = partial(group_score, level="1")
level_2 = partial(group_score, level="2")
level_3 = partial(group_score, level="3")


def _metrics(record: dict[str, Any]) -> dict[str, Any]:
    # Without `score`: the host would print an error of single questions beside a mean of groups.
    part = {
        name: record[name]
        for name in ("cluster", "question_id", "outcome", "group_structure", "categories")
    }
    names = ("group_score", "relevance", "logic", "level_1", "level_2", "level_3")
    return {"accuracy": record} | dict.fromkeys(names, part)
