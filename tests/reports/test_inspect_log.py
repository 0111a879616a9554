"""Logs that inspect_ai reads back: the same questions, answers and numbers."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from page_runs import needle_folder, questions, sample, write_run
from PIL import Image
from video_files import Clip, write_video

from longva_eval.cli import main
from longva_eval.questions.outcomes import FAILED
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reading.scores import score_of

__all__ = ["needle_folder"]


def test_without_inspect_ai_it_says_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", None)
    run = write_run(tmp_path / "run", questions(3))
    assert main(["export", str(run), "--to", "inspect", "--out", str(tmp_path / "logs")]) == 1
    assert "pip install 'longva-eval[inspect]'" in capsys.readouterr().err


def test_a_log_reads_back_with_scores_outcomes_and_frames(tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="pip install 'longva-eval[inspect]'")
    (tmp_path / "run").mkdir()
    file = write_video(tmp_path / "run" / "clip", Clip())
    given = {"video": file, "frames": (0, 9, 19), "num_frames_total": 20}
    rows = [
        *questions(6, 9, **given),
        sample(9, text=FAILED),
        sample(10, text="I cannot tell."),
        sample(11, text="A"),
    ]
    rows[-1]["accuracy"]["score"] = 0.25
    path = write_run(tmp_path / "run", rows)
    assert main(["export", str(path), "--to", "inspect", "--out", str(tmp_path / "logs")]) == 0
    (written,) = (tmp_path / "logs").glob("*.eval")
    read = log.read_eval_log(str(written), resolve_attachments=True)
    samples = {each.id: each for each in read.samples}
    assert len(samples) == 12
    first = samples["000-1"]
    assert first.target == ["A"]
    assert first.choices == ["red", "blue", "green", "white"]
    assert first.scores["accuracy"].value == "C"
    assert first.output.completion == "A"
    pictures = [part.image for part in first.input[0].content if part.type == "image"]
    assert len(pictures) == 3
    frame = Image.open(io.BytesIO(base64.b64decode(pictures[2].partition(",")[2])))
    seen = frame.getpixel((12, 9))
    flat = tuple(19 * step % 256 for step in (37, 91, 53))
    assert isinstance(seen, tuple)
    assert max(abs(a - b) for a, b in zip(seen, flat, strict=True)) < 30
    assert first.metadata["timestamps_seconds"] == [0.0, 4.5, 9.5]
    assert samples["002-3"].scores["accuracy"].value == "I"
    assert samples["003-3"].scores["accuracy"].value == 0.25
    assert samples["003-2"].scores["accuracy"].value == "N"
    failed = samples["003-1"].scores["accuracy"]
    assert (failed.value, failed.metadata["outcome"]) == ("N", "failed")
    assert failed.explanation == "clip.mp4 is cut off: fetch it again."
    found = score_of(read_run(path).tasks["longva_mini"])
    assert found is not None
    metrics = read.results.scores[0].metrics
    assert 100 * metrics["accuracy"].value == pytest.approx(found.value)
    assert 100 * metrics["stderr"].value == pytest.approx(found.standard_error)


def test_a_needle_test_becomes_a_log(tmp_path: Path, needle_folder: Path) -> None:
    log = pytest.importorskip("inspect_ai.log", reason="pip install 'longva-eval[inspect]'")
    out = tmp_path / "logs"
    assert main(["export", str(needle_folder), "--to", "inspect", "--out", str(out)]) == 0
    (written,) = out.glob("*.eval")
    read = log.read_eval_log(str(written))
    assert read.eval.task == "V-NIAH"
    assert len(read.samples) == 18
    assert sum(part.type == "image" for part in read.samples[0].input[0].content) == 16
