"""Runs of other models through the readers: repeats, seeds, error rates, other data, frames."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_runs import number_line, videomme_line, write_host_run

from longva_eval import stats
from longva_eval.reports.reading.frames import runs_frame, samples_frame
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.runs import Run, read_run
from longva_eval.reports.reading.scores import score_of

METRIC = "videomme_perception_score"


def videomme(folder: Path, right: int, *, task: str = "videomme", shift: int = 0, number: int = 90,
             **more) -> Run:  # fmt: skip
    """A run of the host's videomme, right on the first questions."""
    lines = []
    for place in range(number):
        answer = "ABCD"[(place + shift) % 4]
        lines.append(videomme_line(place, answer if place < right else "X", answer))
    scores = {f"{METRIC},none": 100 * right / number}
    return read_run(write_host_run(folder, {task: lines}, results={task: scores}, **more))


def kinds(run: Run) -> list[str]:
    return [problem.kind for problem in run.problems]


def test_an_error_rate_is_no_share_of_right_answers(tmp_path: Path) -> None:
    """A word error rate of 1.0 counted as right."""
    lines = [number_line(n, "wer", 1.0 if n < 5 else 0.2) for n in range(30)]
    mean = (5 + 25 * 0.2) / 30
    folder = write_host_run(tmp_path, {"asr": lines}, results={"asr": {"wer,none": 100 * mean}},
                            higher={"wer": False})  # fmt: skip
    task = read_run(folder).tasks["asr"]
    assert {sample.outcome for sample in task.samples} == {"scored"}
    found = score_of(task)
    assert (found.metric, found.higher_is_better, found.unit) == ("wer", False, "%")
    assert found.value == pytest.approx(100 * mean)


def test_an_error_rate_is_not_whether_two_texts_are_equal(tmp_path: Path) -> None:
    lines = [
        number_line(n, "wer", {"gt": "a b", "pred": "a b" if n % 2 else "a c"}) for n in range(9)
    ]
    run = read_run(write_host_run(tmp_path, {"asr": lines}, results={"asr": {"wer,none": 27.8}},
                                  higher={"wer": False}))  # fmt: skip
    assert run.tasks["asr"].samples == ()
    assert score_of(run.tasks["asr"]).value == 27.8


def test_error_rates_beyond_one_keep_the_task_s_percent(tmp_path: Path) -> None:
    lines = [number_line(n, "wer", 1.5 if n < 3 else 0.25) for n in range(30)]
    mean = (4.5 + 27 * 0.25) / 30
    scores = {"asr": {"wer,none": 100 * mean}}
    run = read_run(write_host_run(tmp_path, {"asr": lines}, results=scores, higher={"wer": False}))
    found = score_of(run.tasks["asr"])
    assert (found.value, found.unit) == (pytest.approx(100 * mean), "%")


def test_a_second_metric_has_its_score_and_interval(tmp_path: Path) -> None:
    lines = [number_line(n, "acc", float(n < 20), format=float(n < 29)) for n in range(30)]
    results = {"t": {"acc,none": 2 / 3, "format,none": 29 / 30}}
    task = read_run(write_host_run(tmp_path, {"t": lines}, results=results)).tasks["t"]
    assert score_of(task).text == "66.7"
    second = score_of(task, metric="format")
    assert (second.text, second.num_questions, second.is_few) == ("96.7", 30, True)
    assert second.low < 96.7 < second.high


def test_answers_that_were_repeated_are_pooled(tmp_path: Path) -> None:
    """Five answers a question, temperature 0.7: the host scores the first only."""
    lines = []
    for place in range(60):
        answer = "ABCD"[place % 4]
        others = "ABCD"[(place + 1) % 4]
        said = [answer if (place + k) % 5 < 3 else others for k in range(5)]
        lines.append(videomme_line(place, said[0], answer) | {"resps": said})
    first = sum(line[METRIC]["score"] for line in lines) / 60
    config = {"repeats": 5, "generation_kwargs": {"temperature": 0.7, "do_sample": True}}
    scores = {"videomme": {f"{METRIC},none": 100 * first}}
    run = read_run(write_host_run(tmp_path, {"videomme": lines}, config=config, results=scores))
    found = score_of(run.tasks["videomme"])
    assert (found.tries, found.text) == (5, "60.0")  # three of five
    assert found.majority == 100.0
    assert found.within == pytest.approx(100 * (0.24 * 5 / 4) ** 0.5)
    (problem,) = [p for p in run.problems if p.kind == "tries"]
    assert "the mean over 5 answers to every question (temperature 0.7)" in problem.text
    assert "aggregate" not in kinds(run)


def test_repeats_whose_other_answers_were_not_kept_are_told(tmp_path: Path) -> None:
    run = videomme(tmp_path, 40, config={"repeats": 5})
    assert score_of(run.tasks["videomme"]).tries == 1
    assert "the samples hold the score of one answer only" in run.problems[0].text


def test_runs_that_differ_in_their_seed_are_one(tmp_path: Path) -> None:
    for seed, right in ((1, 40), (2, 50), (3, 60)):
        videomme(tmp_path / "model", right, seed=seed, date=f"20261101_12000{seed}")
    run = read_run(tmp_path)
    found = score_of(run.tasks["videomme"])
    assert (found.tries, found.text) == (3, f"{100 * 50 / 90:.1f}")
    assert found.majority == pytest.approx(100 * 50 / 90)
    assert kinds(run) == ["tries"]
    assert "3 runs that differ in their seed only (3/1234, 2/1234, 1/1234)" in run.problems[0].text


def test_runs_that_differ_in_more_are_not(tmp_path: Path) -> None:
    videomme(tmp_path / "a", 40, seed=1)
    videomme(tmp_path / "b", 50, seed=2, date="20261102_120000", pretrained="other/model")
    assert kinds(read_run(tmp_path)) == ["several runs"]


def test_sampling_and_examples_are_told(tmp_path: Path) -> None:
    config = {"generation_kwargs": {"temperature": 0.7, "do_sample": True}}
    run = videomme(tmp_path, 40, config=config, num_fewshot=5)
    assert kinds(run) == ["few-shot", "sampled"]
    assert "asked with 5 examples in the prompt" in run.problems[0].text
    assert "answers are drawn (temperature 0.7)" in run.problems[1].text


def test_a_group_s_mean_has_the_scale_of_its_members(tmp_path: Path) -> None:
    lines = [number_line(n, "acc", float(n < 10)) for n in range(20)]

    def group(data):
        data["results"]["all"] = {"alias": "all", "acc,none": 0.55}
        data["group_subtasks"]["all"] = ["one", "two"]

    results = {"one": {"acc,none": 0.5}, "two": {"acc,none": 0.5}}
    run = read_run(write_host_run(tmp_path, {"one": lines, "two": lines}, results=results,
                                  change=group))  # fmt: skip
    assert score_of(run.tasks["all"]).text == "55.0"


def test_other_data_are_noticed_and_a_few_corrected_answers_are_left_out(tmp_path: Path) -> None:
    first = videomme(tmp_path / "a", 60).tasks["videomme"]
    other = videomme(tmp_path / "b", 70, shift=1).tasks["videomme"]
    pairing = pair_samples(first, other)
    assert "90 of 90 questions with the same id have different right answers" in pairing.refusal
    lines = [videomme_line(n, "A", "ABCD"[(n + (n < 5)) % 4]) for n in range(90)]
    folder = write_host_run(tmp_path / "c", {"videomme": lines},
                            results={"videomme": {f"{METRIC},none": 25.0}})  # fmt: skip
    corrected = pair_samples(first, read_run(folder).tasks["videomme"])
    assert (corrected.refusal, len(corrected.first), corrected.is_alike) == ("", 85, False)
    assert "5 questions with other right answers" in corrected.remarks[0]
    assert pair_samples(first, first).is_alike


def test_other_prompts_of_the_same_data_are_paired_by_their_place(tmp_path: Path) -> None:
    """Models of the host are asked with prompts of their own, and samples may have no id."""
    tasks = []
    for name, suffix in (("a", ""), ("b", " Think first.")):
        lines = [number_line(n, "acc", float(n < 20)) for n in range(30)]
        for line in lines:
            line["input"] += suffix
        folder = write_host_run(tmp_path / name, {"t": lines}, results={"t": {"acc,none": 2 / 3}})
        tasks.append(read_run(folder).tasks["t"])
    pairing = pair_samples(*tasks)
    assert len(pairing.first) == 30
    assert "paired by their place in the data" in pairing.remarks[0]


def test_samples_frame_has_the_score_that_is_shown(tmp_path: Path) -> None:
    run = videomme(tmp_path, 60)
    frame = samples_frame(run)
    found = score_of(run.tasks["videomme"])
    assert 100 * frame[frame.is_scored].score.mean() == pytest.approx(found.value)
    assert list(frame.outcome.value_counts()[["right", "wrong"]]) == [60, 30]
    estimate = stats.estimate_mean(list(frame.score), list(frame.video))
    assert 100 * estimate.interval.low == pytest.approx(found.low)
    assert "category.duration" in frame
    (row,) = runs_frame([tmp_path]).to_dict("records")
    assert (row["value"], row["low_95"], row["questions"]) == (found.value, found.low, 90)


def test_a_blank_line_at_the_end_is_no_truncation(tmp_path: Path) -> None:
    whole = videomme(tmp_path, 60)
    path = next(tmp_path.glob("*.jsonl"))
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("\n", "\n\n", 1) + "\n \r\n", encoding="utf-8")
    assert read_run(tmp_path) == whole
