"""The mini suite for lmms-eval: videos are drawn on first use, the rest is Video-MME's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from longva_eval.files import hf_home
from longva_eval.questions.documents import check_documents
from longva_eval.tasks.mini.mini_benchmark import ensure_mini_benchmark
from longva_eval.tasks.videomme import videomme

_FOLDER = "longva_eval/mini"
TASK = replace(videomme.TASK, name="The mini suite", folder=f"{_FOLDER}/{{suite}}", entry="")
SUBTITLES = replace(
    TASK,
    subtitle_file=f"{_FOLDER}/{{suite}}/{{video}}.srt",
    subtitle_text=videomme.subtitle_text,
)
_, doc_to_visual, doc_to_text, process_results = TASK.functions
doc_to_text_subtitles = SUBTITLES.doc_to_text
process_results_subtitles = SUBTITLES.process_results


def _docs_of(task: str) -> Callable[[Any], Any]:
    def process_docs(dataset: Any) -> Any:
        """The questions of the suite that the one row of the data file states."""
        from datasets import Dataset

        (setting,) = dataset
        number = setting["videos_per_duration"]
        folder = hf_home() / _FOLDER / str(number)
        rows = ensure_mini_benchmark(folder, videos_per_duration=number)
        documents = check_documents(
            rows, TASK.read, name=TASK.name, columns=TASK.columns, present=list(rows[0])
        )
        return Dataset.from_list([{**d, "task": task, "suite": str(number)} for d in documents])

    return process_docs


process_docs, process_docs_small = _docs_of("longva_mini"), _docs_of("longva_mini_small")
process_docs_subtitles = _docs_of("longva_mini_subtitles")
