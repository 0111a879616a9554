"""Long answers: what is read of them, and what the videos show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longva_eval.media.decode import read_frames
from longva_eval.media.probe import probe_video
from longva_eval.needle.scenes import COLORS
from longva_eval.tasks.long_answers import utils
from longva_eval.tasks.long_answers.long_answers import draw_video, plan_events, read_told

EVENTS = [("red", "star"), ("blue", "key"), ("white", "star"), ("green", "boat")]


@pytest.mark.parametrize(
    ("text", "recall", "precision", "order"),
    [
        ("A red star, a blue key, a white star, and a green boat.", 1.0, 1.0, 1.0),
        ("First a Red, rather big star; then the key is blue.", 0.5, 1.0, 1 / 6),
        ("Green boats, then a white star, a blue key and a red star", 1.0, 1.0, 0.0),
        ("a star (red), a pink key, a boat in green", 0.5, 2 / 3, 1 / 6),
        # Colours of what follows are not those of what came before.
        ("a star, red key, boat", 0.0, 0.0, 0.0),
        ("red and then a star", 0.0, 0.0, 0.0),
        ("a key is green boat", 0.25, 1.0, 0.0),
        ("A red star. A red star. A red star.", 0.25, 1.0, 0.0),
        ("", 0.0, 0.0, 0.0),
    ],
)
def test_events_are_read_with_their_colours(
    text: str, recall: float, precision: float, order: float
) -> None:
    told = read_told(text, EVENTS, 10)
    assert (told.recall, told.precision, told.order) == (recall, pytest.approx(precision), order)


@pytest.mark.parametrize(
    ("words", "length"), [(0, 0), (10, 0), (15, 0.5), (30, 1), (60, 2 / 3), (120, 0), (500, 0)]
)
def test_length_is_longwriters(words: int, length: float) -> None:
    told = read_told(" ".join(f"w{n}" for n in range(words)), EVENTS, 30)
    assert told.words == words
    assert told.length == pytest.approx(length)
    assert told.repetition == 0


def test_repetition_is_that_of_four_words() -> None:
    assert read_told("a b c d " * 10, EVENTS, 30).repetition == pytest.approx(1 - 4 / 37)
    assert read_told("a b c", EVENTS, 30).repetition == 0


def test_a_list_of_everything_is_precise_in_nothing() -> None:
    told = read_told(", ".join(f"{c} star, {c} key" for c in COLORS), EVENTS, 30)
    assert told.recall == 0.75
    assert told.precision == 3 / 16
    assert told.f1 == pytest.approx(0.3)


def test_videos_show_their_events_in_order(tmp_path: Path) -> None:
    events = plan_events(1, 8)
    assert events == plan_events(1, 8) != plan_events(2, 8)
    assert len(set(events)) == 8
    draw_video(tmp_path / "v.mp4", events)
    info = probe_video(tmp_path / "v.mp4")
    assert (info.num_frames, info.duration_seconds) == (48, 24.0)
    middle = np.concatenate(list(read_frames(info, range(3, 48, 6))))
    for frame, (color, _) in zip(middle, events, strict=True):
        near = np.abs(frame.astype(int) - COLORS[color]).max(-1) < 40
        assert near.mean() > 0.02, f"something {color}"


def test_a_record_has_all_that_is_averaged() -> None:
    doc = {"video": "events-08-0", "words": 10, "events": [" ".join(event) for event in EVENTS]}
    found = utils.process_results(doc, ["A red star and a blue key."])
    records = [found["recall"], utils.process_results(doc, [utils.FAILED])["recall"]]
    assert [record["outcome"] for record in records] == ["wrong", "failed"]
    assert utils.mean_recall(records) == 0.25
    assert utils.mean_order(records) == pytest.approx(1 / 12)
    assert utils.mean_length(records) == pytest.approx((1 - (10 / 7 - 1) / 2) / 2)
