"""V-NIAH for lmms-eval: a grid becomes documents, documents become videos, answers become scores.

Thin: the work is done in `longva_eval.needle`. lmms-eval loads this file by path, once for
each function that a YAML names.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from longva_eval import embedded
from longva_eval.errors import EvaluationError, MediaError
from longva_eval.media.images import image_digest
from longva_eval.needle import media as needle_media
from longva_eval.needle.grid import NeedleGrid
from longva_eval.needle.results import is_answer
from longva_eval.questions.outcomes import FAILED
from longva_eval.studies import ranges

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi"}


def expand_grid(dataset: Any) -> Any:
    """Documents for every cell and needle of the grid that the one row of the data file states."""
    from datasets import Dataset

    (row,) = dataset
    grid = NeedleGrid(
        frame_counts=tuple(int(n) for n in ranges.parse_range(row["frames"], name="frames")),
        depths=tuple(ranges.parse_range(row["depths"], name="depths")),
    )
    videos, needle_source = _media_of(row)
    needles = needle_media.load_needles(needle_source)
    haystack = _haystack(tuple(videos))
    haystack.check_length(max(grid.frame_counts))
    return Dataset.from_list(
        [
            {
                "question_id": f"{cell.num_frames}-{cell.depth:.3f}-{number}",
                "num_frames": cell.num_frames,
                "depth": cell.depth,
                "insert_index": cell.insert_index,
                "needle": number,
                "needle_name": item.name,
                "needles_from": str(needle_source),
                "haystack": [str(video) for video in videos],
                "question": item.question,
                "answer": item.answer,
            }
            for cell in grid.cells()
            for number, item in enumerate(needles)
        ]
    )


def doc_to_composed_clip(doc: Mapping[str, Any]) -> list[Any]:
    """The cell's video as a list of frames to read, for models of longva-eval."""
    return [
        needle_media.needle_clip(
            _haystack(tuple(doc["haystack"])),
            _needles(doc["needles_from"])[doc["needle"]].image,
            num_frames=doc["num_frames"],
            insert_index=doc["insert_index"],
        )
    ]


def doc_to_pictures(doc: Mapping[str, Any]) -> list[Any]:
    """The cell's frames as pictures, for models that take many."""
    return needle_media.clip_pictures(doc_to_composed_clip(doc)[0])


def doc_to_clip_file(doc: Mapping[str, Any]) -> list[str]:
    """The cell's video as an H.264 file of one frame a second, written once."""
    haystack = _haystack(tuple(doc["haystack"]))
    picture = _needles(doc["needles_from"])[doc["needle"]].image
    # By content: another video or picture under the same name is another clip.
    parts = [
        [source["digest"] for source in haystack.sources],
        image_digest(picture),
        doc["num_frames"],
        doc["insert_index"],
        needle_media.CLIP_FORMAT,
    ]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] + ".mp4"
    path = _hf_home() / "vniah" / "clips" / name
    if not path.is_file():
        needle_media.write_clip(doc_to_pictures(doc), path)
    return [str(path)]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question directly behind the frames, as the original asks it."""
    return "<image>" + str(doc["question"])


def doc_to_plain_text(doc: Mapping[str, Any]) -> str:
    """The question alone, for models that place the video themselves."""
    return str(doc["question"]).strip()


def process_forced(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of an answer that the model was made to read."""
    if results[0] == FAILED:
        return {"vniah_accuracy": _record(doc, False, FAILED, "teacher_forced")}
    try:
        report = json.loads(results[0])
        correct, generated = bool(report["correct"]), str(report["generated"])
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise EvaluationError(
            f"vniah scores the true answer as input, which this model cannot do: it answered "
            f"{results[0][:80]!r}. Use --model longva, or the task vniah_generate_frames."
        ) from error
    return {"vniah_accuracy": _record(doc, correct, generated, "teacher_forced") | report}


def process_generated_from_frames(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of a generated answer to frames that were handed over as pictures."""
    return _generated(doc, results[0], "generated, frames as pictures")


def process_generated_from_clip(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of a generated answer to a clip that the model sampled by itself."""
    return _generated(doc, results[0], "generated, composed clip")


def mean_score(items: Sequence[Mapping[str, Any]]) -> float:
    """Share of needles found over the whole grid."""
    return sum(float(item["score"]) for item in items) / len(items)


def _generated(doc: Mapping[str, Any], text: str, scoring: str) -> dict[str, Any]:
    correct = is_answer(text, doc["answer"])
    return {"vniah_accuracy": _record(doc, correct, text, scoring)}


def _record(doc: Mapping[str, Any], correct: bool, generated: str, scoring: str) -> dict[str, Any]:
    kept = ("question_id", "num_frames", "depth", "insert_index", "needle", "needle_name", "answer")
    picture = Path(doc["needles_from"], doc["needle_name"])  # of the hub's there is no file
    return {
        **{key: doc[key] for key in kept},
        "question": str(doc["question"]).strip(),
        "media": [*doc["haystack"], *([str(picture)] if picture.is_file() else [])],
        "generated": generated,
        "outcome": _outcome(correct, generated),
        "scoring": scoring,
        "score": float(correct),
    }


def _outcome(correct: bool, generated: str) -> str:
    if generated == FAILED:
        return "failed"
    return "right" if correct else "wrong" if generated.strip() else "no answer"


def _media_of(row: Mapping[str, str]) -> tuple[list[Path], str]:
    """Haystack videos and the source of the needles that a grid names."""
    if row["haystack"] == "embedded":
        return [embedded.HAYSTACK], str(embedded.NEEDLES)
    folder = _hf_home() / "vniah"
    videos = sorted(
        path for path in (folder / "haystack").glob("*") if path.suffix.lower() in VIDEO_SUFFIXES
    )
    if not videos:
        raise MediaError(
            f"V-NIAH finds no haystack: put one or more long videos (mp4, mkv, webm; for the "
            f"paper's grid 3,000 s in all) into {folder / 'haystack'}. The paper's film cannot be "
            "shared; the task vniah_small brings its own video."
        )
    own = folder / "needles"
    return videos, str(own) if (own / "dataset.json").is_file() else needle_media.HUB_NEEDLES


def _hf_home() -> Path:
    """lmms-eval's folder for the media of video tasks."""
    return Path(os.path.expandvars(os.getenv("HF_HOME", "~/.cache/huggingface"))).expanduser()


@functools.lru_cache(maxsize=8)
def _haystack(videos: tuple[str | Path, ...]) -> needle_media.Haystack:
    return needle_media.open_haystack(videos)


@functools.lru_cache(maxsize=8)
def _needles(source: str) -> list[needle_media.Needle]:
    return needle_media.load_needles(source)
