"""MMLongBench for lmms-eval. Thin: the work is done in `mmlongbench.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longva_eval.errors import DataError
from longva_eval.files import hf_home
from longva_eval.media.images import open_image
from longva_eval.questions.documents import path_below
from longva_eval.tasks.mmlongbench import mmlongbench

FOLDER = "mmlongbench"


def process_docs(dataset: Any) -> Any:
    """Documents of every part that the data file lists."""
    from datasets import Dataset

    documents: list[dict[str, Any]] = []
    parts = [mmlongbench.Part(**row) for row in dataset]
    texts = hf_home() / FOLDER / "mmlb_data"
    missing = [part.file for part in parts if not (texts / part.file).is_file()]
    if missing:
        raise DataError(
            f"MMLongBench: {len(missing)} of {len(parts)} files are not below {texts}: "
            f"{', '.join(missing)}. Unpack 0_mmlb_data.tar.gz and the *_image.tar.gz of "
            f"ZhaoweiWang/MMLongBench into {texts.parent}."
        )
    for part in parts:
        documents.extend(mmlongbench.part_documents(part, texts))
    return Dataset.from_list(documents)


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The pictures, in order."""
    names = mmlongbench.question_of(doc).pictures
    return [open_image(path_below(f"{FOLDER}/mmlb_image", name)) for name in names]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The official prompt, with `<image>` at the place of each picture."""
    return mmlongbench.question_of(doc).text


def doc_to_messages(doc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same for models that take messages: each picture stands where the text speaks of it."""
    first, *rest = doc_to_text(doc).split("<image>")
    content = [{"type": "text", "text": first}]
    for picture, text in zip(doc_to_visual(doc), rest, strict=True):
        content += [{"type": "image", "url": picture}, {"type": "text", "text": text}]
    return [{"role": "user", "content": [part for part in content if part.get("text") != ""]}]


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record, for the means and for that of its category."""
    record = mmlongbench.answer_record(doc, results[0], hf_home() / FOLDER / "mmlb_image")
    category = record["categories"]["category"]
    return {"average": record, "official_average": record, category: record}


def average(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the categories."""
    return mmlongbench.average(items)


def official_average(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean over the categories by the official rules."""
    return mmlongbench.average(items, score="official_score")


def _mean_of(category: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def mean(items: Sequence[Mapping[str, Any]]) -> float:
        return mmlongbench.category_mean(items, category)

    return mean


vrag, niah, icl, doc_vqa = map(_mean_of, ("vrag", "niah", "icl", "doc_vqa"))
