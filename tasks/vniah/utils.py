"""Needle tests for lmms-eval: a grid becomes documents, documents become videos, answers scores.

Thin: the work is done in `longva_eval.needle`. lmms-eval loads this file by path, once for
each function that a YAML names.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from loguru import logger

from longva_eval import embedded
from longva_eval.errors import EvaluationError, MediaError, SettingsError
from longva_eval.files import hf_home
from longva_eval.needle.grid import Cell, NeedleGrid, TestGrid, controls_of, seconds_shown
from longva_eval.needle.items import OPTION, Item, ItemSettings
from longva_eval.needle.kinds import DRAWN_TESTS, TEST_NAMES, drawn_items
from longva_eval.needle.kinds.own import OWN_TESTS, own_items
from longva_eval.needle.media import (
    CLIP_FORMAT,
    HUB_NEEDLES,
    Haystack,
    clip_pictures,
    composed_clip,
    load_needles,
    open_haystack,
    write_clip,
)
from longva_eval.needle.results import is_answer
from longva_eval.questions.answers import read_choice
from longva_eval.questions.documents import VIDEO_SUFFIXES
from longva_eval.questions.outcomes import FAILED
from longva_eval.text import parse_range, parse_whole_range

_KEPT = (
    "question_id", "test", "control", "num_frames", "depth", "spread", "insert_index",
    "insert_indices", "distractor_indices", "times", "needle", "needle_name", "answer", "floor",
)  # fmt: skip
"""What of a document stands in its record."""
_ITEM_SETTINGS = [each.name for each in fields(ItemSettings)]


def expand_grid(dataset: Any) -> Any:
    """Documents for every cell and item of the grid that the one row of the data file states.

    The row: `haystack` ("embedded", "hf_home" for the videos in $HF_HOME/vniah/haystack, or a
    list of files), `frames`, `depths`, `show` ("pictures" or "clip"); for V-NIAH `needles`
    ("embedded", "hf_home" or a folder); for another test `test`, and `spread`, or `at` in place of
    `depths` and `spread`, the fields of `ItemSettings`, and `needles` if its pictures are not to
    be drawn. With `control` the same items are asked on their pictures alone ("needle only") or on
    the haystacks without them ("no needle"). Cells that cannot hold the test are told as warnings.

    Raises:
        SettingsError: If the row states something else, or no cell can hold the test.
        MediaError: If the media are missing, or the haystack is too short.
    """
    from datasets import Dataset

    (row,) = dataset
    row = {name: value for name, value in row.items() if value is not None}
    test = row.get("test", "single")
    _check_row(row, test)
    settings = {name: value for name, value in row.items() if name in _ITEM_SETTINGS}
    frames = parse_whole_range(str(row["frames"]), name="frames")
    depths = tuple(parse_range(str(row.get("depths", "0:1:0.5")), name="depths"))
    videos, needles = _media_of(row)
    grid: NeedleGrid | TestGrid
    if test == "single":
        items_from = needles
        grid = NeedleGrid(frame_counts=frames, depths=depths)
    else:
        try:
            made = ItemSettings(**{"side": _haystack(tuple(videos)).side_pixels} | settings)
        except TypeError as error:
            raise SettingsError(f"The row of a needle test is wrong: {error}") from error
        own = {"needles": needles} if "needles" in row else {}
        items_from = json.dumps(made.describe() | own)
        grid = TestGrid(
            frame_counts=frames,
            depths=depths,
            spreads=tuple(parse_range(str(row.get("spread", "0.5")), name="spread")),
            at=parse_whole_range(str(row["at"]), name="at") if "at" in row else (),
            place=DRAWN_TESTS[test].place,
            settings=made,
        )
    items = _items(test, items_from)
    _haystack(tuple(videos)).check_length(max(frames))
    layout = grid.lay_out(items)
    for refused in layout.refused:
        logger.warning("V-NIAH {}: left out: {}", test, refused)
    cells = layout.cells
    if "control" in row:
        cells = [c for c in controls_of(cells, len(items)) if c.control == row["control"]]
    return Dataset.from_list(
        [
            {
                "question_id": f"{cell.num_frames}-{cell.control or format(cell.depth, '.3f')}"
                + f"-{cell.item}"
                + ("" if cell.spread is None else f"-{cell.spread:g}"),
                "test": test,
                **vars(cell),
                "insert_index": min(cell.insert_indices, default=None),
                "times": seconds_shown(cell),
                "needle": cell.item,
                "needle_name": items[cell.item].name,
                "needles_from": items_from,
                "haystack": [str(video) for video in videos],
                "show": row.get("show", "pictures"),
                "question": items[cell.item].question,
                "answer": items[cell.item].answer,
                "choices": list(items[cell.item].choices),
                "floor": items[cell.item].floor,
            }
            for cell in cells
        ]
    )


def doc_to_composed_clip(doc: Mapping[str, Any]) -> list[Any]:
    """The cell's video as a list of frames to read, for models of longva-eval."""
    return [composed_clip(_haystack(tuple(doc["haystack"])), _cell(doc), _item(doc))]


def doc_to_pictures(doc: Mapping[str, Any]) -> list[Any]:
    """The cell's frames as pictures, for models that take many."""
    return clip_pictures(doc_to_composed_clip(doc)[0])


def doc_to_clip_file(doc: Mapping[str, Any]) -> list[str]:
    """The cell's video as an H.264 file of one frame a second, written once."""
    # By content: another video or picture under the same name is another clip.
    digests = [source["digest"] for source in _haystack(tuple(doc["haystack"])).sources]
    parts = [digests, _item(doc).describe(), vars(_cell(doc)), CLIP_FORMAT]
    name = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16] + ".mp4"
    path = hf_home() / "vniah" / "clips" / name
    if not path.is_file():
        write_clip(doc_to_pictures(doc), path)
    return [str(path)]


def doc_to_shown(doc: Mapping[str, Any]) -> list[Any]:
    """The cell's frames as the row wants them shown: as pictures, or as a clip."""
    return doc_to_clip_file(doc) if doc["show"] == "clip" else doc_to_pictures(doc)


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question directly behind the frames, as the original asks it."""
    return "<image>" + str(doc["question"])


def doc_to_plain_text(doc: Mapping[str, Any]) -> str:
    """The question alone, for models that place the video themselves."""
    return str(doc["question"]).strip()


def process_forced(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of an answer that the model was made to read."""
    if results[0] == FAILED:
        return {"vniah_accuracy": _record(doc, "failed", FAILED, "teacher_forced")}
    try:
        report = json.loads(results[0])
        correct, generated = bool(report["correct"]), str(report["generated"])
        times = seconds_shown(_cell(doc), frames_per_unit=report.pop("frames_per_unit", 1))
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise EvaluationError(
            f"vniah scores the true answer as input, which this model cannot do: it answered "
            f"{results[0][:80]!r}. Use --model longva, or the task vniah_generate_frames."
        ) from error
    outcome = "right" if correct else "wrong" if generated.strip() else "no answer"
    shown = report | {"times": times}
    return {"vniah_accuracy": _record(doc, outcome, generated, "teacher_forced") | shown}


def process_generated(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The score of a generated answer to frames shown as the row wants it."""
    outcome = _outcome(doc, results[0])
    scoring = "composed clip" if doc["show"] == "clip" else "frames as pictures"
    return {"vniah_accuracy": _record(doc, outcome, results[0], f"generated, {scoring}")}


def _outcome(doc: Mapping[str, Any], text: str) -> str:
    """Right, wrong, or no answer: nothing said, or nothing of a closed set of answers."""
    if text == FAILED:
        return "failed"
    options = [option for _, option in OPTION.findall(doc["question"])]
    if options and doc["test"] != "single":
        letter = read_choice(text, options)
        return "no answer" if letter is None else "right" if letter == doc["answer"] else "wrong"
    if is_answer(text, doc["answer"]):
        return "right"
    choices = doc["choices"] if doc["test"] != "single" else ()
    if choices:
        return "wrong" if any(is_answer(text, choice) for choice in choices) else "no answer"
    return "wrong" if text.strip() else "no answer"


def _record(doc: Mapping[str, Any], outcome: str, generated: str, scoring: str) -> dict[str, Any]:
    media = list(doc["haystack"])
    if doc["test"] == "single":
        picture = Path(doc["needles_from"], doc["needle_name"])  # of the hub's there is no file
        media += [str(picture)] if picture.is_file() else []
    return {
        **{key: doc[key] for key in _KEPT},
        "question": str(doc["question"]).strip(),
        "media": media,
        "generated": generated,
        "outcome": outcome,
        "scoring": scoring,
        "correct": outcome == "right",
        "score": float(outcome == "right"),
    }


def _cell(doc: Mapping[str, Any]) -> Cell:
    return Cell(
        item=doc["needle"],
        num_frames=doc["num_frames"],
        depth=doc["depth"],
        spread=doc["spread"],
        insert_indices=tuple(doc["insert_indices"]),
        distractor_indices=tuple(doc["distractor_indices"]),
        control=doc["control"],
    )


def _item(doc: Mapping[str, Any]) -> Item:
    item: Item = _items(doc["test"], doc["needles_from"])[doc["needle"]]
    return item


def _check_row(row: Mapping[str, Any], test: str) -> None:
    """Refuse what the test would not use: a misspelt name, or a setting of another test."""
    names = ["test", "haystack", "frames", "show", "control"]
    if test == "single":
        names += ["needles", "depths"]
    else:
        names += [*_ITEM_SETTINGS, *(["at"] if "at" in row else ["depths", "spread"])]
        names += ["needles"] if test in OWN_TESTS else []
    values = {
        "test": TEST_NAMES,
        "show": ("pictures", "clip"),
        "control": ("needle only", "no needle"),
    }
    wrong = [
        f"{name}={value!r}"
        for name, value in row.items()
        if name not in names or value not in values.get(name, (value,))
    ] + [f"no {name}" for name in ("haystack", "frames") if name not in row]
    if wrong:
        told = (f"{n} ({' or '.join(values[n])})" if n in values else n for n in names)
        raise SettingsError(
            f"The row of the needle test {test!r} states {', '.join(wrong)}. It can state "
            f"{', '.join(told)}; at is in place of depths and spread."
        )


def _media_of(row: Mapping[str, Any]) -> tuple[list[Path], str]:
    """Haystack videos and the source of the needles that a grid names."""
    folder = hf_home() / "vniah"
    needles = str(row.get("needles", "hf_home"))
    if needles == "embedded":
        needles = str(embedded.NEEDLES)
    elif needles == "hf_home":
        own = folder / "needles"
        needles = str(own) if (own / "dataset.json").is_file() else HUB_NEEDLES
    if row["haystack"] == "embedded":
        return [embedded.HAYSTACK], needles
    if row["haystack"] != "hf_home":
        return [Path(video).expanduser().absolute() for video in row["haystack"]], needles
    videos = sorted(
        path for path in (folder / "haystack").glob("*") if path.suffix.lower() in VIDEO_SUFFIXES
    )
    if not videos:
        raise MediaError(
            f"V-NIAH finds no haystack: put one or more long videos (mp4, mkv, webm; for the "
            f"paper's grid 3,000 s in all) into {folder / 'haystack'}. The paper's film cannot be "
            "shared; the task vniah_small brings its own video."
        )
    return videos, needles


@functools.lru_cache(maxsize=8)
def _haystack(videos: tuple[str | Path, ...]) -> Haystack:
    return open_haystack(videos)


@functools.lru_cache(maxsize=16)
def _items(test: str, made_from: str) -> list[Item]:
    """From a folder or the hub; or drawn as the settings say."""
    if test == "single":
        return load_needles(made_from)
    settings = json.loads(made_from)
    needles = settings.pop("needles", None)
    if needles is None:
        return drawn_items(test, ItemSettings(**settings))
    return own_items(test, ItemSettings(**settings), load_needles(needles))
