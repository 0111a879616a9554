"""Whole runs as a user starts them: killed and resumed, on one process and two, and broken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import datasets
import processes
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import kill_resume
from kill_resume import Killing, kill_and_resume
from small_task import (
    comparable,
    differences,
    result_files,
    run_command,
    run_environment,
    write_tasks,
)

from longva_eval.cli import main
from longva_eval.running.journal import Journal

pytestmark = [
    pytest.mark.process,
    # lmms-eval leaves the file of its results open.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_a_killed_run_is_resumed_on_two_processes_with_the_files_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # benchmarks/kill_resume.py kills 20 times; docs/reliability.md has what that gave.
    found: list[Killing] = []

    def with_two_at_the_end(_: Path, **settings: Any) -> Killing:
        found.append(
            kill_and_resume(
                tmp_path,
                **settings,
                last_processes=2,
                start=lambda command, folder, log: processes.Process(
                    command, cwd=folder, env=run_environment(folder), stdout=log, stderr=log
                ),
            )
        )
        return found[0]

    monkeypatch.setattr(kill_resume, "kill_and_resume", with_two_at_the_end)
    arguments = ["--kills", "2", "--processes", "1", "--videos", "2"]
    monkeypatch.setattr(sys, "argv", ["kill_resume.py", *arguments])
    assert kill_resume.main() == 0
    (killing,) = found
    assert f"| 1 | {killing.answers} | {len(killing.kept_at_kills)} | " in capsys.readouterr().out
    assert killing.differing == []
    assert killing.computed_twice == 0
    results = json.loads(result_files(tmp_path / "killed1")[0].read_text(encoding="utf-8"))
    work = results["longva_eval"]["journal"]
    assert work["processes"] == 2
    assert work["answers_taken_over"] + work["answers_computed"] == killing.answers == 30
    assert work["answers_taken_over"] >= killing.kept_at_kills[-1]


def test_one_failed_process_ends_all_of_them(tmp_path: Path) -> None:
    rows = write_tasks(tmp_path / "tasks", num_videos=2)
    # The second process is given documents 1, 3 and 5; the first finds nothing wrong.
    lines = [row | ({"path": "/nowhere/film.mp4"} if n == 5 else {}) for n, row in enumerate(rows)]
    (tmp_path / "tasks" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    command = run_command(
        tmp_path / "tasks",
        tmp_path / "out",
        names=["small_generate"],
        processes=2,
        program=["lmms_eval"],
    )
    began = time.monotonic()
    done = processes.run(command, env=run_environment(tmp_path), cwd=tmp_path)
    assert done.returncode != 0
    assert "Task small_generate, document 5: " in done.stderr
    assert "/nowhere/film.mp4" in done.stderr
    assert "process 1 failed and ends the run" in done.stderr
    assert result_files(tmp_path / "out") == []
    assert time.monotonic() - began < 300  # mostly imports, on a busy machine


def test_a_task_that_does_not_exist_is_a_status(tmp_path: Path) -> None:
    command = run_command(tmp_path, tmp_path / "out", names=["no_such_task"])
    done = subprocess.run(
        command,
        env=run_environment(tmp_path),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 1
    assert "longva-eval run: There is no task 'no_such_task'." in done.stderr


def test_videos_replaced_while_a_run_answers_are_counted_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Eight videos: at the first answer at most six have been read ahead.
    tasks, answered = tmp_path / "tasks", "filtered_resps"
    write_tasks(tasks, num_videos=8)
    videos = sorted(tasks.glob("*.mp4"))
    monkeypatch.chdir(tasks)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def run(name: str) -> list[dict[str, Any]]:
        command = run_command(tasks, tmp_path / name, names=["small_generate"],
                              model_args=",on_error=skip,max_failed=23")  # fmt: skip
        assert main(command[3:]) == 0
        lines = result_files(tmp_path / name)[1].read_text(encoding="utf-8").splitlines()
        return sorted(map(json.loads, lines), key=lambda line: line["doc_id"])

    def exchange() -> None:
        """Videos get each other's names, in pairs: the second call mends what the first did."""
        for path, other in zip(videos[::2], videos[1::2], strict=True):
            path.rename(tmp_path / "away")
            other.rename(path)
            (tmp_path / "away").rename(other)

    put = Journal.put

    def put_and_exchange(self: Journal, *given: Any, **more: Any) -> None:
        put(self, *given, **more)
        monkeypatch.setattr(Journal, "put", put)
        exchange()

    whole = run("whole")
    monkeypatch.setattr(Journal, "put", put_and_exchange)
    capsys.readouterr()
    disturbed = run("run")
    failed = [line for line in disturbed if line["longva_eval"]["outcome"] == "failed"]
    assert 6 <= len(failed) < 24
    assert f"{len(failed)} failed, 0 no answer" in capsys.readouterr().out
    for line, right in zip(disturbed, whole, strict=True):
        if line in failed:
            assert ".mp4 has changed since it was looked at" in line["longva_eval"]["reason"]
        else:
            assert line[answered] == right[answered]
    exchange()
    run("run")
    assert differences(comparable(tmp_path / "run"), comparable(tmp_path / "whole")) == []
