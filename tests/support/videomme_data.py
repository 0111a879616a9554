"""Small copies of Video-MME and Video-MME-v2, in the form in which they are downloaded.

The videos and questions are those of a mini benchmark (`longva_eval.tasks.mini.mini_benchmark`) of
three videos; v2 asks a fourth question about each, with eight options.
"""

from __future__ import annotations

import atexit
import json
import shutil
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pysubs2

from longva_eval.tasks.mini.mini_benchmark import generate_mini_benchmark

__all__ = ["videomme_rows", "videomme_v2_rows", "write_videomme", "write_videomme_v2"]

_STRUCTURES = ("[1, 2, 3, 4]", "[1, [2, 3], 4]", "[[1, 2], 3, 4]")


@lru_cache(maxsize=1)
def _made() -> tuple[Path, list[dict[str, Any]]]:
    folder = Path(mkdtemp(prefix="videomme"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder, generate_mini_benchmark(folder, seed=4, videos_per_duration=1, side=32)


def videomme_rows() -> list[dict[str, Any]]:
    """Nine questions on a short, a medium and a long video, in subsets that Video-MME has."""
    subsets = [("Knowledge", "Geography"), ("Life Record", "Travel"), ("Multilingual",) * 2]
    return [
        {**row, "domain": domain, "sub_category": sub_category}
        for row, (domain, sub_category) in (
            (row, subsets[int(str(row["video_id"])) - 1]) for row in _made()[1]
        )
    ]


def write_videomme(folder: Path, rows: Iterable[Mapping[str, Any]] | None = None) -> None:
    """A folder as the hub's archives unpack to; the first video has no subtitles."""
    made, _ = _made()
    own = videomme_rows()
    parquet = folder / "videomme" / "test-00000-of-00001.parquet"
    _write_parquet(parquet, own if rows is None else rows)
    for number, name in enumerate(sorted({str(row["videoID"]) for row in own})):
        _copy(made / f"{name}.mp4", folder / "data" / f"{name}.mp4")
        if number > 0:
            _copy(made / f"{name}.srt", folder / "subtitle" / f"{name}.srt")


def videomme_v2_rows() -> list[dict[str, Any]]:
    """Four questions each on three videos: groups of relevance, of logic, and of logic."""
    rows: list[dict[str, Any]] = []
    names = sorted({str(row["videoID"]) for row in videomme_rows()})
    for video, _ in enumerate(names, start=1):
        for place in range(1, 5):
            options = [f"{letter}. answer {letter.lower() * place}" for letter in "ABCDEFGH"]
            rows.append(
                {
                    "video_id": f"{video:03d}",
                    "question_id": f"{video:03d}-{place}",
                    "question": f"What happens in part {place}?",
                    "options": "\n".join(options),
                    "answer": "ABCDEFGH"[(video + place) % 8],
                    "group_type": "relevance" if video == 1 else "logic",
                    "group_structure": _STRUCTURES[video - 1],
                    "level": 1 + (video + place) % 3,
                    "second_head": f"head {video % 2}",
                    "third_head": f"head {place % 2}",
                }
            )
    return rows


def write_videomme_v2(folder: Path) -> None:
    """A folder as the hub's archives unpack to."""
    made, own = _made()
    _write_parquet(folder / "test.parquet", videomme_v2_rows())
    names = sorted({str(row["videoID"]) for row in own})
    for number, name in enumerate(names, start=1):
        _copy(made / f"{name}.mp4", folder / "videos" / f"{number:03d}.mp4")
        words = []
        if (made / f"{name}.srt").exists():
            words = [
                {"text": word, "start_time": cue.start / 1000, "end_time": cue.end / 1000}
                for cue in pysubs2.load(str(made / f"{name}.srt"))
                for word in cue.plaintext.split()
            ]
        target = folder / "subtitle" / f"{number:03d}.jsonl"
        target.parent.mkdir(parents=True, exist_ok=True)
        if words:
            target.write_text("".join(json.dumps(word) + "\n" for word in words), encoding="utf-8")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list([dict(row) for row in rows]).to_parquet(path)
