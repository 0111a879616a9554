"""Video-MME for lmms-eval: whole, by duration, and with subtitles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longva_eval.errors import DataError
from longva_eval.tasks.videomme.videomme import TASK, subtitle_text

WHOLE = replace(TASK, breakdown="longva_videomme")
SUBTITLES = replace(
    TASK,
    breakdown="longva_videomme_subtitles",
    subtitle_file="videomme/subtitle/{video}.srt",
    subtitle_text=subtitle_text,
)
process_docs, doc_to_visual, doc_to_text, process_results = WHOLE.functions
process_docs_subtitles, doc_to_text_subtitles = SUBTITLES.process_docs, SUBTITLES.doc_to_text
process_results_subtitles = SUBTITLES.process_results


def process_docs_short(dataset: Any) -> Any:
    """Checked documents on short videos."""
    return _of_duration(dataset, "short")


def process_docs_medium(dataset: Any) -> Any:
    """Checked documents on medium videos."""
    return _of_duration(dataset, "medium")


def process_docs_long(dataset: Any) -> Any:
    """Checked documents on long videos."""
    return _of_duration(dataset, "long")


def _of_duration(dataset: Any, duration: str) -> Any:
    documents = replace(TASK, breakdown=f"longva_videomme_{duration}").process_docs(dataset)
    chosen = documents.filter(lambda doc: doc["categories"]["duration"] == duration)
    if not len(chosen):
        raise DataError(f"Video-MME: none of {len(documents)} rows is on a {duration} video.")
    return chosen
