"""Reading runs: real output of lmms-eval 0.7.3 (tests/data/runs), whole and broken."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longva_eval.errors import MediaError
from longva_eval.reports.reading.runs import read_run, read_runs

RUNS = Path(__file__).parents[1] / "data" / "runs"
TASK = "longva_videomme_mini"


def the_file(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A writable copy of a run, to break."""

    def make(name: str) -> Path:
        return Path(shutil.copytree(RUNS / name, tmp_path / name))

    return make


def kinds(run: Any) -> list[str]:
    return [problem.kind for problem in run.problems]


def change_samples(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def change_results(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    results = json.loads(path.read_text(encoding="utf-8"))
    change(results)
    path.write_text(json.dumps(results), encoding="utf-8")


# Whole runs


def test_a_run_of_ours_is_read_whole() -> None:
    run = read_run(RUNS / "mini_8")
    assert (run.name, run.model, run.limit) == ("longva-tiny", "longva", None)
    assert run.recipe["dtype"] == "float32"
    assert run.frames() == "8"
    assert run.problems == ()
    task = run.tasks[TASK]
    assert task.is_ours
    assert (task.num_asked, task.num_in_benchmark, len(task.samples)) == (54, 54, 54)
    metric = task.main_metric()
    assert metric is not None
    assert metric.percent == pytest.approx(100 * sum(q.score for q in task.samples) / 54)
    assert metric.is_clustered
    question = task.samples[0]
    assert question.question_id == "001-1"
    assert question.cluster == "mini-90210-001"
    assert question.categories == {"duration": "short", "task_type": "Attribute Perception"}
    assert question.options[question.answer == "A"].startswith(("A.", "B."))
    assert (question.frames_asked, question.frames_seen) == (8, 8)
    assert question.timestamps == (0.0, 2.0, 4.0, 6.5, 8.5, 11.0, 13.0, 15.5)
    assert question.media == ("mini-90210-001.mp4",)


def test_failed_questions_are_counted_with_their_reason() -> None:
    run = read_run(RUNS / "mini_skip")
    assert run.tasks[TASK].counts()["failed"] == 3
    (problem,) = run.problems
    assert problem.kind == "failed"
    assert "3 questions of 54 could not be asked and count 0" in problem.text
    failed = [q for q in run.tasks[TASK].samples if q.outcome == "failed"]
    assert {q.cluster for q in failed} == {"mini-90210-003"}
    assert all("mini-90210-003.mp4" in q.reason for q in failed)
    assert {q.score for q in failed} == {0.0}


@pytest.mark.parametrize(
    ("task", "score_from", "id_from"),
    [
        ("cmp_videomme", "videomme_perception_score: score",
         "videomme_perception_score.question_id"),
        ("cmp_mlvu", "mlvu_percetion_score: pred_answer equals answer",
         "mlvu_percetion_score.question_id"),
        ("cmp_lvb", "lvb_acc: parsed_pred equals answer", "lvb_acc.id"),
        ("cmp_lvbench", "lvbench_score: its value", "digest of input and target"),
        ("cmp_nextqa", "exact_match: its value", "digest of input and target"),
    ],
)  # fmt: skip
def test_tasks_of_the_host_are_read_from_what_they_have(task, score_from, id_from) -> None:
    """The same 54 questions through five of lmms-eval's own tasks, answered B by its dummy."""
    found = read_run(RUNS / "host").tasks[task]
    assert not found.is_ours
    assert (found.counts()["right"], found.counts()["wrong"]) == (17, 37)
    assert (found.read_from["score"], found.read_from["question_id"]) == (score_from, id_from)
    assert len({question.key for question in found.samples}) == 54


def test_the_host_s_percentages_and_shares_come_out_on_one_scale() -> None:
    tasks = read_run(RUNS / "host").tasks
    values = {name: task.main_metric().percent for name, task in tasks.items()}
    assert values["cmp_videomme"] == pytest.approx(31.48, abs=0.01)  # written as 31.48
    assert values["cmp_lvbench"] == pytest.approx(31.48, abs=0.01)  # written as 0.3148
    assert values["cmp_lvb"] == pytest.approx(31.48, abs=0.01)


def test_a_score_that_is_no_mean_over_questions_is_pointed_out() -> None:
    """MLVU's aggregate counts seven task types, of which these data have three."""
    run = read_run(RUNS / "host")
    (problem,) = [p for p in run.problems if p.kind == "aggregate"]
    assert problem.task == "cmp_mlvu"
    assert "its own score, 13.5 %, is not the mean over the questions read, 31.5 %" in problem.text


def test_videos_are_known_only_where_the_task_says() -> None:
    run = read_run(RUNS / "host")
    assert len({q.cluster for q in run.tasks["cmp_videomme"].samples}) == 18
    assert len({q.cluster for q in run.tasks["cmp_lvb"].samples}) == 54
    independent = {p.task for p in run.problems if p.kind == "independent"}
    assert independent == {"cmp_mlvu", "cmp_lvb", "cmp_lvbench", "cmp_nextqa"}


def test_needles_are_the_clusters_of_a_grid() -> None:
    run = read_run(RUNS / "niah")
    task = run.tasks["vniah_small"]
    assert len({q.cluster for q in task.samples}) == 26
    assert {q.record["num_frames"] for q in task.samples} == {16, 64}
    assert kinds(run) == ["limit"]


def test_facts_are_found_in_the_results_where_samples_have_none() -> None:
    """Runs of the first versions of our adapter."""
    run = read_run(RUNS / "old_adapter")
    question = run.tasks["cmp_videomme"].samples[0]
    assert (question.frames_seen, len(question.timestamps)) == (8, 8)


# Paths


def test_a_file_or_a_folder_names_the_same_run() -> None:
    folder = RUNS / "mini_8"
    by_folder = read_run(folder)
    by_results = read_run(the_file(folder, "*_results.json"))
    by_samples = read_run(the_file(folder, "*_samples_*.jsonl"))
    assert by_folder.path == by_results.path == by_samples.path
    assert by_samples.tasks == by_results.tasks


@pytest.mark.slow
def test_of_several_runs_the_newest_is_read_and_the_others_are_named() -> None:
    run = read_run(RUNS)
    assert len(read_runs(RUNS)) == len(list(RUNS.rglob("*_results.json")))
    assert run.path == read_runs(RUNS)[-1].path
    assert run.date == max(each.date for each in read_runs(RUNS))
    assert kinds(run)[0] == "several runs"


def test_a_path_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="does not exist"):
        read_run(tmp_path / "nothing")
    with pytest.raises(MediaError, match=r"holds no run of lmms-eval.*--log_samples"):
        read_run(tmp_path)
    (tmp_path / "20260101_000000_results.json").write_text("[1, 2]")
    with pytest.raises(MediaError, match="is no results file of lmms-eval"):
        read_run(tmp_path)


# Broken runs


def test_a_truncated_samples_file_is_read_as_far_as_it_goes(copy) -> None:
    folder = copy("mini_8")
    samples = the_file(folder, "*.jsonl")
    samples.write_bytes(samples.read_bytes()[:-40])
    run = read_run(folder)
    assert len(run.tasks[TASK].samples) == 53
    assert kinds(run) == ["truncated", "number of samples", "aggregate"]
    assert "breaks off in its last line, 54: 53 samples were read" in run.problems[0].text
    assert "speaks of 54 questions, 53 were read" in run.problems[1].text


def test_a_damaged_line_costs_only_itself(copy) -> None:
    folder = copy("mini_8")
    samples = the_file(folder, "*.jsonl")
    lines = samples.read_bytes().split(b"\n")
    lines[3] = b'{"doc_id": 3, "tar\xff'
    samples.write_bytes(b"\n".join(lines))
    run = read_run(folder)
    assert "1 line cannot be read and is left out (line 4" in run.problems[0].text
    assert [q.doc_id for q in run.tasks[TASK].samples[2:4]] == [2, 4]


def test_line_separators_inside_an_answer_do_not_break_it(copy) -> None:
    folder = copy("mini_8")
    samples = the_file(folder, "*.jsonl")
    text = samples.read_text(encoding="utf-8")
    samples.write_text(text.replace('"generated": "white"', '"generated": "wh\u2028ite"'), "utf-8")
    run = read_run(folder)
    assert run.problems == ()
    assert "\u2028" in run.tasks[TASK].samples[0].generated


def test_a_run_without_samples_has_averages_only(copy) -> None:
    folder = copy("mini_8")
    the_file(folder, "*.jsonl").unlink()
    run = read_run(folder)
    task = run.tasks[TASK]
    assert kinds(run) == ["no samples"]
    assert "Run lmms-eval with --log_samples" in run.problems[0].text
    assert task.samples == ()
    assert task.main_metric().percent == pytest.approx(48.15, abs=0.01)


def test_a_small_score_without_samples_is_not_taken_for_a_share_or_a_percentage(copy) -> None:
    """0.4 may be 0.4 % or 40 %; the standard error beside it tells, if it fits one of them."""
    folder = copy("mini_8")
    the_file(folder, "*.jsonl").unlink()
    results = the_file(folder, "*_results.json")

    def set_score(value: float, error: float | str) -> None:
        def change(data: dict[str, Any]) -> None:
            row = data["results"][TASK]
            for key in row:
                if "_stderr" in key:
                    row[key] = error
            row["longva_videomme_score,none"] = value

        change_results(results, change)

    set_score(0.4, 0.067)
    assert read_run(folder).tasks[TASK].main_metric().percent == pytest.approx(40)
    set_score(0.4, 0.0087)
    assert read_run(folder).tasks[TASK].main_metric().percent == pytest.approx(0.4)
    set_score(0.4, "N/A")
    run = read_run(folder)
    assert run.tasks[TASK].main_metric().percent is None
    assert "scale" in kinds(run)


def test_samples_without_a_results_file_still_have_scores(copy) -> None:
    folder = copy("mini_8")
    the_file(folder, "*_results.json").unlink()
    run = read_run(folder)
    assert kinds(run) == ["no results"]
    assert len(run.tasks[TASK].samples) == 54
    assert run.model == ""


def test_a_truncated_results_file_leaves_the_samples(copy) -> None:
    folder = copy("mini_8")
    results = the_file(folder, "*_results.json")
    results.write_bytes(results.read_bytes()[:500])
    run = read_run(folder)
    assert kinds(run) == ["truncated"]
    assert len(run.tasks[TASK].samples) == 54
    the_file(folder, "*.jsonl").unlink()
    with pytest.raises(MediaError, match=r"is not valid JSON.*cut off"):
        read_run(folder)


def test_a_limited_run_says_so_for_each_task() -> None:
    run = read_run(RUNS / "host_limit")
    limits = [p for p in run.problems if p.kind == "limit"]
    assert [p.task for p in limits] == sorted(run.tasks)
    assert "run with --limit 20, on 20 of 54 questions: no score" in limits[0].text


def test_scores_that_are_no_numbers_are_left_out_and_said(copy) -> None:
    folder = copy("mini_8")

    def change(sample: dict[str, Any]) -> None:
        if sample["doc_id"] == 5:
            sample["longva_videomme_score"]["score"] = float("nan")

    change_samples(the_file(folder, "*.jsonl"), change)
    run = read_run(folder)
    assert "not a number" in kinds(run)
    assert len(run.tasks[TASK].samples) == 53


def test_a_document_counts_once_however_often_it_was_written(copy) -> None:
    folder = copy("mini_8")
    samples = the_file(folder, "*.jsonl")
    text = samples.read_text(encoding="utf-8")
    samples.write_text(text + text.split("\n")[0] + "\n", encoding="utf-8")
    run = read_run(folder)
    assert kinds(run) == ["repeated"]
    assert "55 lines for 54 documents" in run.problems[0].text
    assert len(run.tasks[TASK].samples) == 54


def test_an_id_that_two_questions_share_does_not_pair_them(copy) -> None:
    """MLVU's question_id is the text of the question, which videos share."""
    folder = copy("host")

    def change(sample: dict[str, Any]) -> None:
        sample["mlvu_percetion_score"]["question_id"] = "What happens?"
        sample["input"] = f"What happens? {sample['doc_id'] % 53}"
        sample["target"] = "A"

    change_samples(the_file(folder, "*_samples_cmp_mlvu.jsonl"), change)
    task = read_run(folder).tasks["cmp_mlvu"]
    assert len({q.key for q in task.samples}) == 54
    assert task.read_from["question_id"].startswith("digest of input and target, and doc_id")
    assert {q.question_id for q in task.samples} == {None}


def test_scores_beyond_a_share_stay_on_their_scale(copy) -> None:
    """As of a judge that gives 0 to 5."""
    folder = copy("mini_8")

    def change(sample: dict[str, Any]) -> None:
        sample["gpt_eval_score"] = {"score": sample["doc_id"] % 6, "question_id": sample["doc_id"]}
        del sample["longva_videomme_score"]

    change_samples(the_file(folder, "*.jsonl"), change)
    task = read_run(folder).tasks[TASK]
    assert not task.is_share
    assert {q.outcome for q in task.samples} == {"scored"}
    assert max(q.score for q in task.samples) == 5


@pytest.mark.process
def test_reading_needs_neither_torch_nor_scipy() -> None:
    code = (
        "import sys; from longva_eval.reports.reading.runs import read_run; read_run(sys.argv[1]); "
        "print([m for m in ('torch', 'scipy', 'numpy', 'pandas', 'lmms_eval') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(RUNS / "mini_8")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_niah_folder_is_named_and_what_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "rope_theta_1000000"
    folder.mkdir()
    for name in ("run.json", "cells.jsonl"):
        (folder / name).write_text("{}\n", encoding="utf-8")
    for path in (folder, tmp_path):
        with pytest.raises(MediaError, match="is a longva-eval niah folder") as caught:
            read_run(path)
        assert f"use longva-eval heatmap {folder} or longva-eval report {path}." in str(
            caught.value
        )
