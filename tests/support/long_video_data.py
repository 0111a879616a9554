"""Tiny copies of the long-video benchmarks, in the form in which they are downloaded.

Rows are written by hand in each benchmark's schema; pictures and videos are noise from a seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from longva_eval.tasks.mini.mini_benchmark import encode_video

LENGTHS = (8, 16, 32, 64, 128)


def write_video(path: Path, *, seed: int = 0, num_frames: int = 10) -> None:
    """A video of 64 x 64 pixels at two frames a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    still = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    encode_video(path, (np.roll(still, 8 * n, 1) for n in range(num_frames)), frame_rate=2)


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    from datasets import Dataset

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list([dict(row) for row in rows]).to_parquet(path)


def longvideobench_rows() -> list[dict[str, Any]]:
    """Three questions on two videos, of four, five and two options."""
    options = [
        ["A red car", "A blue boat", "Nothing", "A tree", "N/A"],
        ["one", "two", "three", "four", "five"],
        ["yes", "no", "N/A", "N/A", "N/A"],
    ]
    places = [("vid1", 0), ("vid1", 1), ("vid2", 0)]
    return [
        {
            "video_id": video,
            "id": f"{video}_{number}",
            "video_path": f"{video}.mp4",
            "subtitle_path": f"{video}_en.json",
            "correct_choice": correct,
            "question": f"In the scene with the tree, what is seen first, asked {number}?",
            **{f"option{n}": text for n, text in enumerate(texts)},
            "duration": 5.0,
            "duration_group": group,
            "question_category": category,
            "topic_category": topic,
            "starting_timestamp_for_subtitles": 0.0,
        }
        for (video, number), texts, correct, group, category, topic in zip(
            places,
            options,
            (1, 4, 0),
            (15, 15, 3600),
            ("S2E", "SSS", "TOS"),
            ("KH-Knowledge-History", "NP-News-Programs", "KH-Knowledge-History"),
            strict=True,
        )
    ]


def write_longvideobench(folder: Path) -> None:
    rows = longvideobench_rows()
    write_parquet(folder / "validation-00000-of-00001.parquet", rows)
    hidden = [{**row, "id": f"t_{row['id']}", "correct_choice": -1} for row in rows]
    write_parquet(folder / "test-00000-of-00001.parquet", hidden)
    for number, video in enumerate(("vid1", "vid2")):
        write_video(folder / "videos" / f"{video}.mp4", seed=number)
        subtitles = folder / "subtitles" / f"{video}_en.json"
        subtitles.parent.mkdir(exist_ok=True)
        lines = [{"start": "00:00:00.000", "end": "00:00:02.000", "line": "Hello."}]
        subtitles.write_text(json.dumps(lines))


def mlvu_question(stem: str, options: list[str]) -> str:
    """As in the hub's `question` column: the official template."""
    lines = "\n".join(f"({'ABCDEF'[n]}) {text}" for n, text in enumerate(options))
    return f"Question: {stem}\nOptions:\n{lines}"


def mlvu_dev_rows() -> list[dict[str, Any]]:
    four = ["Yellow", "Red", "Green", "Blue"]
    return [
        {
            "video_name": name,
            "duration": 5.0,
            "question": mlvu_question(stem, four),
            "candidates": four,
            "answer": answer,
            "task_type": kind,
        }
        for name, stem, answer, kind in [
            ("plot_1.mp4", "What colour is the man?", "A", "plotQA"),
            ("plot_1.mp4", "What colour is the boat?", "D", "plotQA"),
            ("count_1.mp4", "Which is counted most?", "B", "count"),
            ("count_1.mp4", "Which has no right option?", "@", "needle"),
        ]
    ]


def mlvu_test_rows() -> list[dict[str, Any]]:
    six = ["one", "two", "three", "four", "five", "six"]
    return [
        {
            "video_name": "test_1.mp4",
            "duration": 5.0,
            "question": mlvu_question(stem, six),
            "candidates": six,
            "answer": answer,
            "task_type": kind,
            "question_id": question_id,
        }
        for stem, answer, kind, question_id in [
            ("How many goals?", "F", "sportsQA", "SQA_0"),
            ("How many steps?", "E", "tutorialQA", "TQA_0"),
            ("How many cups?", "A", "count", "AC_0"),
        ]
    ]


def write_mlvu_dev(folder: Path) -> None:
    write_parquet(folder / "mlvu" / "test-00000-of-00001.parquet", mlvu_dev_rows())
    for number, name in enumerate(("plot_1", "count_1")):
        write_video(folder / f"{name}.mp4", seed=10 + number)


def write_mlvu_test(folder: Path) -> None:
    write_parquet(folder / "mlvu_test" / "test-00000-of-00001.parquet", mlvu_test_rows())
    write_video(folder / "videos" / "test_1.mp4", seed=12)


def lvbench_rows() -> list[dict[str, Any]]:
    stem = "What year appears in the opening caption?"
    question = f"{stem}\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633"
    return [
        {
            "key": "Cm73ma6Ibcs",
            "video_path": "Cm73ma6Ibcs.mp4",
            "uid": uid,
            "question": question,
            "answer": answer,
            "question_type": types,
            "time_reference": "00:15-00:19",
            "type": "cartoon",
        }
        for uid, answer, types in [
            ("0", "D", ["key information retrieval"]),
            ("1", "A", ["reasoning", "event understanding"]),
            ("2", "B", ["reasoning"]),
        ]
    ]


def write_lvbench(folder: Path) -> None:
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", lvbench_rows())
    write_video(folder / "all_videos" / "Cm73ma6Ibcs.mp4", seed=20)


def infinibench_rows() -> list[dict[str, Any]]:
    """Options are a list in some files and a list written as a text in others."""
    events = [["eating", "running"], ["running", "eating"], "I don't know"]
    common = {
        "split": "dev",
        "video_path_mp4": "TV_shows/videos/castle/season_1/episode_2.mp4",
        "video_subtitles": "TV_shows/subtitles/castle/season_1/episode_2.srt",
        "question": "Choose the correct option for the following question: What comes first?",
    }
    return [
        {
            **common,
            "question_id": f"{skill}_1",
            "skill_name": skill,
            "options": str(events) if skill == "character_actions" else ["Yes", "No"],
            "answer_idx": answer,
        }
        for skill, answer in [
            ("character_actions", 1),
            ("scene_transitions", 0),
            ("choronological_understanding", 1),
            ("global_appearance", 0),
        ]
    ]


def write_infinibench(folder: Path) -> None:
    skills = folder / "validation" / "skills_json"
    skills.mkdir(parents=True)
    for row in infinibench_rows():
        row = {**row, "options": str(row["options"])}  # one form in all files, as published
        (skills / f"{row['skill_name']}.json").write_text(json.dumps([row]))
    judged = {"question_id": "s1", "skill_name": "summarization", "question": "Sum up.",
              "video_path_mp4": "x.mp4", "answer": "All."}  # fmt: skip
    (skills / "summarization.json").write_text(json.dumps([judged]))
    write_video(folder / "TV_shows/videos/castle/season_1/episode_2.mp4", seed=30)


def scalelong_lines() -> list[dict[str, list[dict[str, Any]]]]:
    kinds = [
        ("Video Clip", "Objective Recognition"),
        ("Video Shot", "Counting Problems"),
        ("Video Event", "Casual Reasoning"),
        ("Video Story", "information inference"),
    ]
    return [
        {
            "uIj03RsGrJA": [
                {
                    "data_id": number,
                    "question": f"How many rallies are in part {number}?",
                    "question_type": kind,
                    "granularity": scale,
                    "answer": "five",
                    "answer_location": "0:01-0:04",
                    "distractors": ["six", "four", "three"],
                }
                for number, (scale, kind) in enumerate(kinds)
            ]
        }
    ]


def write_scalelong(hf_home: Path) -> None:
    folder = hf_home / "scalelong"
    folder.mkdir(parents=True)
    lines = [json.dumps(line) for line in scalelong_lines()]
    (folder / "questions.jsonl").write_text("\n".join(lines) + "\n")
    write_video(folder / "videos" / "uIj03RsGrJA.mp4", seed=40)


def mmlongbench_rows(form: str) -> list[dict[str, Any]]:
    """Two rows of each form of file; paths are below `mmlb_image`."""
    text = [{"text": "It rained.", "type": "text"}, {"text": "See <image> here.", "type": "image"}]
    common = {"question": "Who is it?", "depth": 0.2}
    if form == "rag":
        row: dict[str, Any] = {
            "image": "a/1.png",
            "ctxs": [{"title": "T", "text": "X is Ann.", "doc_id": "7"}],
            "answer": ["Ann", "Anna"],
        }
    elif form == "haystack":
        row = {"ctxs": ["a/1.png", "a/2.png"], "answer": "Yes"}
    elif form == "needle-text":
        row = {"ctxs": text, "image_list": ["a/1.png"], "answer": "rain"}
    elif form == "needle-count":
        row = {
            "ctxs": text,
            "image_list": ["a/1.png"],
            "needle_image_list": ["a/2.png"],
            "question": "How many <image> are in each picture?",
            "answer": [1, 2],
        }
    elif form == "needle-text-count":
        row = {"ctxs": text, "image_list": ["a/1.png"], "answer": [3, 0]}
    elif form == "needle-choice":
        row = {
            "ctxs": text,
            "image_list": ["a/1.png"],
            "choices_image": ["a/1.png", "a/2.png"],
            "answer": 1,
        }
    else:
        row = {
            "page_list": ["docs/report/page0.png", "docs/report/page1.png"],
            "doc_name": "report",
            "answer": "1,204",
            "answer_format": "Integer",
        }
    return [{"id": number, **common, **row} for number in range(2)]


_FORMS = {"retrieval-text": "needle-text", "reasoning-text": "needle-text",
          "counting-text": "needle-text-count", "counting-image": "needle-count",
          "retrieval-image": "needle-choice", "reasoning-image": "needle-choice"}  # fmt: skip


def write_mmlongbench(hf_home: Path, parts: Iterable[Mapping[str, Any]]) -> None:
    """The files that parts list, and the pictures they name."""
    texts, pictures = hf_home / "mmlongbench/mmlb_data", hf_home / "mmlongbench/mmlb_image"
    rng = np.random.default_rng(3)
    for name in ("a/1.png", "a/2.png", "docs/report/page0.png", "docs/report/page1.png"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / name)
    for part in parts:
        path = texts / part["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        if part["form"] == "icl":
            shots = [{"image": "a/1.png", "id": 3}, {"image": "a/2.png", "id": 5}]
            content = {"exemplar_list": [[shots, shots]],
                       "test_example": [{"image": "a/1.png", "answer": 3}]}  # fmt: skip
            path.write_text(json.dumps({"cars": content}))
            continue
        kind = part["dataset"].removeprefix("mm_niah_")
        rows = mmlongbench_rows(_FORMS.get(kind, part["form"]))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
