"""Video-MME for lmms-eval: whole, by duration, and with subtitles."""

from __future__ import annotations

from collections.abc import Callable
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


def _docs_of(duration: str) -> Callable[[Any], Any]:
    def process_docs(dataset: Any) -> Any:
        """Checked documents on videos of one duration."""
        documents = replace(TASK, breakdown=f"longva_videomme_{duration}").process_docs(dataset)
        chosen = documents.filter(lambda doc: doc["categories"]["duration"] == duration)
        if not len(chosen):
            raise DataError(f"Video-MME: none of {len(documents)} rows is on a {duration} video.")
        return chosen

    return process_docs


process_docs_short, process_docs_medium = _docs_of("short"), _docs_of("medium")
process_docs_long = _docs_of("long")
