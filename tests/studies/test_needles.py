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
from longva_eval.needle.asking import open_needle_session
from longva_eval.reports.methods import (
    MethodPoint,
    method_panels,
    method_rows,
    write_needle_study,
)
from longva_eval.reports.page.page import write_page
from longva_eval.studies.definition import Method, Study, read_study_file, study_from
from longva_eval.studies.needles import run_needles

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
    # A panel for each press, a row for each frame policy, a column for each length.
    panels = method_panels(record["scores"])
    assert [panel.title for panel in panels] == ["kv press: none", "kv press: random:0.5"]
    assert [panel.rows for panel in panels] == [["uniform", "scene"]] * 2
    assert panels[1].columns == ["single 16", "single 24"]
    of_24 = [cell["correct"] for cell in cells["frames-6-scene-random-0.5"]
             if cell["num_frames"] == 24]  # fmt: skip
    share = panels[1].cells["scene", "single 24"].share
    assert share == pytest.approx(np.mean(of_24), abs=5e-4)
    assert (tmp_path / "methods.png").stat().st_size > 10_000
    page = tmp_path / "page.html"
    write_page([tmp_path], page, film_megabytes=0)
    text = page.read_text()
    assert "longva-tiny, kv press: random:0.5" in text
    assert "for its interval" not in text, "cells of a study have none"
    assert "kv_press=random:0.5, frame_policy=scene" in text, "each point is a run of the page"
    before = (tmp_path / "scores.md").read_text()
    assert main([str(tmp_path / "study.yaml"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "scores.md").read_text() == before
    assert study_from(read_study_file(tmp_path), where="") == Study(**ASKED)
    recipe = json.loads((tmp_path / "points" / names[-1] / "single" / "run.json").read_text())
    assert recipe["select"]["policy"] == "scene"
    assert recipe["model"]["kv_press"] == "random:0.5"


def test_tests_that_the_model_does_not_know_are_left_out(tmp_path: Path) -> None:
    asked = ASKED | {"tests": ("chain", "keys"), "items": 6, "frames": (16,), "depths": "0.5",
                     "kv_press": ("none",), "show": None, "frame_policy": ("uniform",)}  # fmt: skip
    settings = {"device": "cpu", "dtype": "float32", "decode_process": False}
    session = open_needle_session("longva-tiny", **settings)
    found = [test for _, test, _ in run_needles(Study(**asked), session, tmp_path)]
    assert found == ["keys"]
    alone = json.loads((tmp_path / "pictures_alone.json").read_text())
    assert alone["keys"] > 0.8 > alone["chain"]
    write_needle_study(Study(**asked), tmp_path)
    assert "chain" in (tmp_path / "scores.md").read_text()
    with pytest.raises(SettingsError, match="none of these tests on the pictures alone: chain"):
        list(run_needles(Study(**asked | {"tests": ("chain",)}), session, tmp_path / "other"))


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


def test_a_press_is_compared_with_none_and_with_as_much_at_random() -> None:
    presses = ("none", "snapkv:0.5", "random:0.5", "knorm:0.25")
    points = [
        MethodPoint(
            task="keys",
            setting={"frames": 8, "rope": "own RoPE", **vars(Method(kv_press=press))},
            scores={n: (float(n < right), str(n)) for n in range(10)},
        )
        for press, right in zip(presses, (10, 7, 4, 2), strict=True)
    ]
    _, *rows = method_rows(points)
    assert [(row[1], row[2], row[8]) for row in rows] == [
        ("snapkv:0.5", "none", "-30.0"),
        ("snapkv:0.5", "random:0.5", "+30.0"),
        ("random:0.5", "none", "-60.0"),
        ("knorm:0.25", "none", "-80.0"),  # nothing random keeps a quarter
    ]
