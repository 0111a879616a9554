"""Runs of lmms-eval's own tasks for a board: their samples with the fields that ours have.

MLVU's test split is not among them: the host keeps the question's text in place of its id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from longva_eval.reports.reading.samples import Sample

__all__ = ["HOST_TASKS", "from_host"]

HOST_TASKS: Final[Mapping[str, str]] = {
    "videomme": "longva_videomme",
    "videomme_w_subtitle": "longva_videomme_subtitles",
    "longvideobench_test_v": "longva_longvideobench_test",
    "longvideobench_test_i": "longva_longvideobench_test",
    "longvideobench_val_v": "longva_longvideobench_val",
    "longvideobench_val_i": "longva_longvideobench_val",
    "mmmu_test": "longva_mmmu_test",
    "mmmu_val": "longva_mmmu_val",
    "docvqa_test": "longva_docvqa_test",
    "infovqa_test": "longva_infovqa_test",
    "egoschema": "longva_egoschema",
}
"""Tasks of lmms-eval 0.7.3, and ours with the same questions."""
_CATEGORIES: Final = {"category": "domain", "task_category": "task_type"}
"""Of the host's videomme, as the board names them."""


def from_host(sample: Sample) -> Sample:
    """A sample of a task in `HOST_TASKS` with what our own has.

    Options stand in the prompt, and were read from there; what the host would hand in itself
    (`submission`) counts before the answer's text.
    """
    categories = {_CATEGORIES.get(name, name): v for name, v in sample.categories.items()}
    sample = replace(sample, categories=categories)
    if "submission" not in sample.record and "questionId" not in sample.record:
        return sample
    given = sample.record.get("submission", sample.record.get("answer"))
    if isinstance(given, int):  # EgoSchema: the option's number, or -1
        return replace(sample, choice=chr(ord("A") + given) if given >= 0 else None)
    return replace(sample, generated=str(given), options=())
