"""Needle tests on the axes of method: what is shown, what is found, and each policy beside none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longva_eval.commands.sweep import main, run_study
from longva_eval.errors import SettingsError
from longva_eval.media.frames import FramePolicy, sample_places
from longva_eval.studies.definition import Study, read_study_file, study_from

ASKED: dict[str, Any] = {
    "pretrained": "longva-tiny", "tests": ("single",), "frames": (16, 24), "show": 6,
    "depths": "0.25,0.5", "frame_policy": ("uniform", "scene"), "kv_press": ("none", "random:0.5"),
    "model_args": {"device": "cpu", "dtype": "float32"},
}  # fmt: skip


@pytest.mark.process
def test_needles_are_selected_pressed_and_counted(tmp_path: Path) -> None:
    assert run_study(Study(**ASKED), tmp_path) == 0
    names = ["frames-6", "frames-6-random-0.5", "frames-6-scene", "frames-6-scene-random-0.5"]
    assert sorted(path.name for path in (tmp_path / "points").iterdir()) == names
    cells = {
        name: [json.loads(line) for line in (tmp_path / "points" / name / "single" / "cells.jsonl")
               .read_text().splitlines()]
        for name in names
    }  # fmt: skip
    for cell in cells["frames-6"]:
        # A clip of one frame more, and the needle at its place.
        seen = np.linspace(0, cell["num_frames"], 6, dtype=int)
        assert cell["shown"] == float(cell["insert_index"] in seen)
        assert "kv_tokens" not in cell
    shown = {name: np.mean([cell["shown"] for cell in cells[name]]) for name in names}
    assert shown["frames-6"] == shown["frames-6-random-0.5"] < 0.6
    assert shown["frames-6-scene"] > 0.9, "a picture in a film is a scene of its own"
    for name in names:
        found = np.mean([cell["correct"] for cell in cells[name] if cell["shown"]] or [1.0])
        lost = [cell["correct"] for cell in cells[name] if not cell["shown"]]
        assert not lost or np.mean(lost) < found
    pressed = cells["frames-6-scene-random-0.5"][0]
    visual = 6 * 4
    assert pressed["kv_tokens"] == pressed["num_prompt_tokens"] - visual // 2
    record = json.loads((tmp_path / "needles.json").read_text())
    assert len(record["scores"]) == 1 + 4 * 2
    # Two axes, two lengths, two settings of the other.
    assert len(record["methods"]) == 1 + 2 * 2 * 2
    before = (tmp_path / "scores.md").read_text()
    assert main([str(tmp_path / "study.yaml"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "scores.md").read_text() == before
    assert study_from(read_study_file(tmp_path), where="") == Study(**ASKED)
    recipe = json.loads((tmp_path / "points" / names[-1] / "single" / "run.json").read_text())
    assert recipe["select"]["policy"] == "scene"
    assert recipe["model"]["kv_press"] == "random:0.5"


def test_what_cannot_be_asked_of_needles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="needs --show N"):
        run_study(Study(**ASKED | {"show": None}), tmp_path)
    with pytest.raises(SettingsError, match="tasks or needle tests, not both"):
        study_from({"pretrained": "p", "tasks": "t", "tests": "single", "frames": 8}, where="here")
    with pytest.raises(SettingsError, match="needs a video's file"):
        sample_places(16, FramePolicy(max_frames=8, policy="keyframes"), [])


@pytest.mark.parametrize("policy", ["uniform", "midpoints"])
def test_places_of_a_clip_are_those_of_a_file(policy: str) -> None:
    chosen = FramePolicy(max_frames=5, policy=policy)
    wanted = {"uniform": [0, 4, 9, 14, 19], "midpoints": [3, 6, 10, 13, 16]}
    assert sample_places(20, chosen, []) == wanted[policy]
    assert sample_places(4, chosen, []) == [0, 1, 2, 3]
