"""What is shown under a control, and what is recorded of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, get_args

import pytest
from conftest import Golden
from PIL import Image

from longva_eval.engine.control import Control
from longva_eval.engine.conversation import Conversation
from longva_eval.engine.opening import SessionSettings
from longva_eval.errors import SettingsError
from longva_eval.media.frames import FramePolicy

FRAMES = [Image.new("RGB", (32, 32), (30 * n, 0, 0)) for n in range(8)]


@pytest.fixture
def show(open_golden: Golden) -> Any:
    session = copy.copy(open_golden.session)
    session.frames = replace(FramePolicy(), max_frames=8)

    def prompt(control: str, seed: int = 0, media: Any = (FRAMES,)) -> Conversation:
        session.control, session.seed = control, seed
        return session.prompt("What is shown?", media)

    return prompt


def keys(conversation: Conversation) -> list[str]:
    return [piece.key for piece in conversation.prompt.visual_pieces]


def test_shuffled_frames_are_the_same_frames_in_a_recorded_order(show: Any) -> None:
    plain, other, again = show("none"), show("shuffle"), show("shuffle")
    (video,) = other.describe()["videos"]
    assert [keys(plain)[n] for n in video["order"]] == keys(other) != keys(plain)
    assert sorted(keys(other)) == sorted(keys(plain))
    assert keys(again) == keys(other) != keys(show("shuffle", seed=1))
    assert "order" not in plain.describe()["videos"][0]


def test_a_single_frame_is_the_middle_one(show: Any) -> None:
    plain, single = show("none"), show("single-frame")
    assert keys(single) == [keys(plain)[4]]
    (video,) = single.describe()["videos"]
    assert (video["frame_indices"], video["num_frames_seen"]) == ([4], 1)


@pytest.mark.parametrize("media", [(FRAMES,), (FRAMES[0],)])
def test_a_blind_question_is_the_question_alone(show: Any, media: Any) -> None:
    blind, without = show("blind", media=media), show("none", media=())
    assert blind.prompt == without.prompt
    assert blind.describe() == without.describe()


def test_pictures_have_no_order_and_a_misspelt_control_is_named(show: Any) -> None:
    for control in ("shuffle", "single-frame"):
        with pytest.raises(SettingsError, match="for questions on videos"):
            show(control, media=(FRAMES[0],))
    with pytest.raises(SettingsError, match=", ".join(get_args(Control))):
        SessionSettings(control="blnd")  # type: ignore[arg-type]
