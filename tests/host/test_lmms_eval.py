"""The whole path as a user takes it: lmms-eval as a process, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
from conftest import OPEN

pytestmark = pytest.mark.process


def python(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }
    return processes.run([sys.executable, *arguments], cwd=tmp_path, env=environment)


def lmms_eval(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return python(tmp_path, "-m", "lmms_eval", *arguments)


def written(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def samples_of(folder: Path, task: str) -> list[dict[str, Any]]:
    text = written(folder, f"*_samples_{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_needle_tasks_run_and_their_results_say_how(tmp_path: Path) -> None:
    generated = {
        "vniah_generate_frames": "frames as pictures", "vniah_generate_clip": "composed clip",
    }  # fmt: skip
    settings = "device=cpu,dtype=float32,max_frames_num=17"
    done = lmms_eval(
        tmp_path,
        "--model", "longva",
        "--model_args", f"pretrained={OPEN / 'longva_tiny'},{settings}",
        "--tasks", ",".join(["vniah_small", "vniah_distractor", *generated]),
        "--limit", "4",
        "--output_path", "out",
        "--log_samples",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(written(tmp_path / "out", "*_results.json").read_text(encoding="utf-8"))
    score = results["results"]["vniah_small"]["vniah_accuracy,none"]
    samples = samples_of(tmp_path / "out", "vniah_small")
    assert len(samples) == 4
    assert score == pytest.approx(sum(s["vniah_accuracy"]["score"] for s in samples) / 4)
    assert all(sample["vniah_accuracy"]["scoring"] == "teacher_forced" for sample in samples)
    recipe = results["longva_eval"]
    assert recipe["dtype"] == "float32"
    assert len(recipe["weights_fingerprint"]) == 16
    assert recipe["conv_template"] == "qwen_1_5"
    assert recipe["rope"]["inv_freq_sha256"]
    assert recipe["versions"]["lmms-eval"].startswith("0.7")
    assert samples[0]["longva_eval"]["num_visual_tokens"] == 17 * 144
    assert recipe["outcomes"]["vniah_small"]["answered"] == 4
    assert recipe["engine"]["tokens_computed"] < recipe["engine"]["tokens_asked"]
    for sample in samples_of(tmp_path / "out", "vniah_distractor"):
        record = sample["vniah_accuracy"]
        frames = record["num_frames"] + 1 + len(record["distractor_indices"])
        assert sample["longva_eval"]["num_visual_tokens"] == 144 * frames
        assert (record["test"], record["floor"]) == ("distractor", 0.25)

    from longva_eval.needle.results import read_accuracies

    rows = read_accuracies(written(tmp_path / "out", "*_samples_vniah_small.jsonl"))
    assert [row["Num. Frame"] for row in rows] == [16]
    assert rows[0]["Score"] == pytest.approx(score)

    for task, scoring in generated.items():
        samples = samples_of(tmp_path / "out", task)
        assert [sample["vniah_accuracy"]["num_frames"] for sample in samples] == [16] * 4
        assert scoring in samples[0]["vniah_accuracy"]["scoring"]
        assert samples[0]["longva_eval"]["num_visual_tokens"] == 17 * 144


def test_a_missing_checkpoint_and_a_missing_haystack_are_explained(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from lmms_eval.__main__ import cli_evaluate\n"
        "for model, task in (('lmms-lab/LongVA-7B', 'videomme'),"
        f" ({str(OPEN / 'longva_tiny')!r}, 'vniah')):\n"
        "    sys.argv = ['lmms_eval', '--model', 'longva', '--tasks', task,"
        " '--model_args', f'pretrained={model},device=cpu']\n"
        "    try:\n"
        "        cli_evaluate()\n"
        "    except SystemExit:\n"
        "        pass\n"
    )
    done = python(tmp_path, "-c", code)
    text = " ".join((done.stdout + done.stderr).split())
    assert "lmms-lab/LongVA-7B is neither a folder here nor in the local hub cache" in text
    assert "hf download lmms-lab/LongVA-7B" in text
    assert "V-NIAH finds no haystack" in text
    assert str(tmp_path / "hf" / "vniah" / "haystack") in text


def test_all_needle_tests_are_asked_of_the_hosts_own_model(tmp_path: Path) -> None:
    """lmms-eval's dummy, which generates a fixed text; and tests written for media of one's own."""
    from longva_eval.commands.niah import main as niah
    from longva_eval.needle.kinds import DRAWN_TESTS

    own = {"my_vniah_order_generate": {6, 9}, "my_vniah_single_generate": {6}}
    alone = "my_vniah_order_needle_only_generate"
    assert niah(["--test", "order,single", "--frames", "6,9", "--depths", "0.5", "--items", "2",
                 "--answer", "letters", "--haystack",
                 str(OPEN / "inputs" / "landscape_320x180.mp4"), "--write-tasks",
                 str(tmp_path / "own")]) == 0  # fmt: skip
    tasks = [f"vniah_{test}_generate" for test in DRAWN_TESTS] + [*own]
    done = lmms_eval(
        tmp_path,
        "--model", "dummy",
        "--model_args", "response=A",
        "--include_path", str(tmp_path / "own"),
        "--tasks", ",".join([*tasks, alone]),
        "--limit", "4",
        "--output_path", "out",
        "--log_samples",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for task in tasks:
        records = [sample["vniah_accuracy"] for sample in samples_of(tmp_path / "out", task)]
        assert len(records) == 4, task
        assert all(r["insert_indices"] or r["distractor_indices"] for r in records), task
        assert all(len(r["times"]) == len(r["insert_indices"]) for r in records), task
        assert {r["num_frames"] for r in records} == own.get(task, {16}), task
        if task != "my_vniah_single_generate":
            assert all(r["correct"] == (r["answer"] == "A") for r in records), task
            assert {r["outcome"] for r in records} <= {"right", "wrong"}
            assert all(r["floor"] == 0.25 for r in records)
    pictures = [sample["vniah_accuracy"] for sample in samples_of(tmp_path / "out", alone)]
    assert [r["control"] for r in pictures] == ["needle only"] * 2
    assert all(r["correct"] == (r["answer"] == "A") for r in pictures)
