"""Runs of other models, read and compared: repeats, seeds, error rates, other data, parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from host_runs import number_line, videomme_line, write_host_run

from longva_eval import stats
from longva_eval.reports.reading.frames import runs_frame, samples_frame
from longva_eval.reports.reading.pairs import pair_samples
from longva_eval.reports.reading.runs import Run, read_run
from longva_eval.reports.reading.scores import score_of
from longva_eval.reports.tables.compare import comparison_tables
from longva_eval.reports.tables.overview import show_run
from longva_eval.reports.tables.paired import paired_tables
from longva_eval.reports.tables.tables import Table, render

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


# Compared


def cell(table: Table, row: int, title: str) -> str:
    """What stands in a column, with the best marked."""
    (place,) = [n for n, column in enumerate(table.columns) if column.title == title]
    found = table.rows[row].cells[place]
    return "*" * (found.rank == 1) + found.text


def notes(*tables: Table) -> str:
    return " ".join(note.text for table in tables for note in table.notes)


def test_a_category_is_split_by_its_own_values_only(tmp_path: Path) -> None:
    """66.7 was printed where 50.0 is right: `sport` was a value of two categories."""
    lines = []
    for n in range(60):
        more = {"category": "sport" if n < 30 else "film",
                "task_category": "sport" if 15 <= n < 45 else "count"}  # fmt: skip
        lines.append(videomme_line(n, "A" if n < 15 or 30 <= n < 45 else "B", "A", **more))
    folder = write_host_run(tmp_path, {"t": lines}, results={"t": {f"{METRIC},none": 50.0}})
    run = read_run(folder)
    (table,) = comparison_tables([run], by="category")
    assert cell(table, 0, "sport") == "50.0"
    (other,) = comparison_tables([run], by="task_category")
    assert cell(other, 0, "sport") == "50.0"
    assert cell(other, 0, "count") == "50.0"
    second = tmp_path / "second"
    write_host_run(second, {"t": [videomme_line(n, "B", "A", category="sport" if n < 30 else
                   "film", task_category="sport") for n in range(60)]},
                   results={"t": {f"{METRIC},none": 0.0}}, pretrained="b")  # fmt: skip
    (differences,) = paired_tables([run], read_run(second), by="category")
    row = next(row.data[0] for row in differences.rows if row.data[0]["part"] == "sport")
    assert (row["questions"], row["value"]) == (30, 50.0)


def test_other_data_are_noticed_without_being_asked(tmp_path: Path) -> None:
    """A run on other right answers had every bold and no note."""
    first = videomme(tmp_path / "a", 50)
    other = videomme(tmp_path / "b", 80, shift=1, pretrained="other")
    (table,) = comparison_tables([first, other])
    assert "questions with the same id have different right answers" in notes(table)
    assert "not ranked together" in notes(table)
    assert not any(cell.rank for row in table.rows for cell in row.cells)
    (same,) = comparison_tables([first, videomme(tmp_path / "c", 80, pretrained="third")])
    assert cell(same, 1, "Overall").startswith("*")
    (refused,) = paired_tables([other], first)
    assert refused.rows == ()
    assert "different right answers" in notes(refused)


def test_runs_without_a_common_question_are_not_ranked(tmp_path: Path) -> None:
    """Two models whose tasks have one name and nothing else in common."""
    folders = []
    for name, start in (("a", 0), ("b", 1000)):
        lines = [number_line(n, "acc", float(n % 3 > 0)) for n in range(start, start + 60)]
        folders.append(
            write_host_run(tmp_path / name, {"t": lines}, pretrained=name,
                           results={"t": {"acc,none": sum(x["acc"] for x in lines) / 60}})
        )  # fmt: skip
    (table,) = comparison_tables([read_run(folder) for folder in folders])
    assert "have no question in common (60 and 60" in notes(table)
    assert not any(cell.rank for row in table.rows for cell in row.cells)


def test_without_samples_the_size_of_the_data_is_compared(tmp_path: Path) -> None:
    runs = [videomme(tmp_path / name, 60, task="t", number=number, pretrained=name)
            for name, number in (("a", 90), ("b", 120))]  # fmt: skip
    for run in runs:
        next(run.path.parent.glob("*.jsonl")).unlink()
    (table,) = comparison_tables([read_run(run.path) for run in runs])
    assert "its data have 120 questions, those of a 90: other data" in notes(table)
    assert not any(cell.rank for row in table.rows for cell in row.cells)


def test_lower_is_better_in_every_table(tmp_path: Path) -> None:
    """WER 57.1 had the bold over 41.2."""
    runs = []
    for name, high in (("good", 0.412), ("bad", 0.571)):
        lines = [number_line(n, "wer", high + (0.01 if n % 2 else -0.01)) for n in range(60)]
        results = {"asr": {"wer,none": 100 * high}}
        folder = write_host_run(
            tmp_path / name, {"asr": lines}, higher={"wer": False}, results=results, pretrained=name
        )
        runs.append(read_run(folder))
    (table,) = comparison_tables(runs)
    assert cell(table, 0, "wer ↓") == "*41.2"
    assert cell(table, 1, "wer ↓") == "57.1"
    assert "less is better" in notes(table)
    (difference,) = paired_tables([runs[1]], runs[0])
    data = difference.rows[0].data[0]
    assert data["value"] == pytest.approx(15.9)
    assert (data["run_better"], data["baseline_better"]) == (0, 60)
    assert "Less is better, so that a difference below 0 is a gain: wer" in notes(difference)
    shown = show_run(runs[0])
    assert "score % ↓" in shown
    assert "The score is wer; less is better" in shown


def test_a_second_metric_is_compared_too(tmp_path: Path) -> None:
    runs = []
    for name, most in (("a", 40), ("b", 20)):
        lines = [number_line(n, "acc", float(n < 30), format=float(n < most)) for n in range(60)]
        results = {"t": {"acc,none": 0.5, "format,none": most / 60}}
        folder = write_host_run(tmp_path / name, {"t": lines}, results=results, pretrained=name)
        runs.append(read_run(folder))
    (table,) = comparison_tables(runs)
    assert [cell(table, row, "format") for row in (0, 1)] == ["*66.7", "33.3"]
    (difference,) = paired_tables([runs[0]], runs[1])
    rows = {row.data[0]["metric"]: row.data[0] for row in difference.rows}
    assert rows["acc"]["value"] == 0
    assert rows["format"]["value"] == pytest.approx(100 / 3)
    assert rows["format"]["p_holm"] == 1  # no part is surer than its task
    assert "format 66.7 % (" in show_run(runs[0])


def test_repeats_are_told_in_every_table(tmp_path: Path) -> None:
    """Five answers a question were shown as one ordinary run."""
    lines = []
    for place in range(60):
        said = ["A" if (place + k) % 5 < 2 + place % 3 else "B" for k in range(5)]
        lines.append(videomme_line(place, said[0], "A") | {"resps": said})
    config = {"repeats": 5, "generation_kwargs": {"temperature": 0.7, "do_sample": True},
              "filter_list": [{"name": "pass@2"}, {"name": "pass@9"}]}  # fmt: skip
    scores = {"videomme": {f"{METRIC},none": 100 * sum(x[METRIC]["score"] for x in lines) / 60}}
    folder = write_host_run(tmp_path, {"videomme": lines}, config=config, results=scores)
    run = read_run(folder)
    found = score_of(run.tasks["videomme"])
    rights = [2 + place % 3 for place in range(60)]
    assert found.value == pytest.approx(100 * sum(rights) / 300)
    assert found.majority == pytest.approx(100 * sum(n > 2 for n in rights) / 60)
    assert found.pass_at == {
        2: pytest.approx(100 * sum(stats.pass_at_k(n, 5, 2) for n in rights) / 60)
    }
    text = "the mean over 5 answers to every question (temperature 0.7); between answers"
    more = f"{found.majority:.1f} % are right in most of their answers; pass@2 is"
    for shown in (notes(*comparison_tables([run])), " ".join(show_run(run).split())):
        assert text in shown
        assert more in shown
    (row,) = [r.data for t in comparison_tables([run]) for r in t.rows]
    assert {data["tries"] for data in row} == {5}


def test_seeds_in_one_folder_are_pooled_and_in_several_told_apart(tmp_path: Path) -> None:
    for seed, right in ((1, 40), (2, 50), (3, 60)):
        videomme(tmp_path / "all" / "m", right, seed=seed, date=f"20261101_12000{seed}")
        videomme(tmp_path / f"s{seed}" / "m", right, seed=seed)
    (table,) = comparison_tables([read_run(tmp_path / "all")])
    assert cell(table, 0, "Overall") == "55.6"
    assert "3 runs that differ in their seed only" in notes(table)
    assert "standard deviation 11.11" in notes(table)
    apart = comparison_tables([read_run(tmp_path / f"s{seed}") for seed in (1, 2, 3)])
    labels = [row.cells[0].text for row in apart[0].rows]
    assert [label.rpartition(", ")[2] for label in labels] == [
        "seed 1/1234", "seed 2/1234", "seed 3/1234",
    ]  # fmt: skip


def test_a_part_of_a_benchmark_does_not_fill_its_overall(tmp_path: Path) -> None:
    """`videomme_long` stood in the column Overall."""
    lines = [videomme_line(n, "A" if n % 2 else "B", "A") for n in range(1800, 2700)]
    for line in lines:
        line[METRIC]["duration"] = "long"
    folder = write_host_run(tmp_path, {"videomme_long": lines},
                            results={"videomme_long": {f"{METRIC},none": 50.0}})  # fmt: skip
    run = read_run(folder)
    (table,) = comparison_tables([run])
    assert cell(table, 0, "Long") == "50.0"
    assert cell(table, 0, "Overall") == ""
    next(folder.glob("*.jsonl")).unlink()
    (table,) = comparison_tables([read_run(folder)])
    assert cell(table, 0, "Overall") == ""


def test_a_group_has_the_scale_of_its_members_in_show_and_compare(tmp_path: Path) -> None:
    """Group rows printed .55 beside 50.0."""
    lines = [number_line(n, "acc", float(n < 10)) for n in range(20)]

    def group(data):
        data["results"]["all"] = {"alias": "all", "acc,none": 0.55}
        data["group_subtasks"]["all"] = ["one", "two"]

    results = {"one": {"acc,none": 0.5}, "two": {"acc,none": 0.5}}
    run = read_run(write_host_run(tmp_path, {"one": lines, "two": lines}, results=results,
                                  change=group))  # fmt: skip
    assert "all: acc 55.0 %" in show_run(run)
    tables = comparison_tables([run])
    assert cell(tables[0], 0, "all") == "55.0"
    assert [table.title for table in tables] == ["All tasks", "one", "two"]
    (data,) = [data for row in tables[0].rows for data in row.data]  # others stand in their tables
    assert (data["task"], data["value"]) == ("all", pytest.approx(55.0))


def test_three_runs_in_three_folders_have_three_labels(tmp_path: Path) -> None:
    runs = [videomme(tmp_path / name / "x", 60) for name in ("first", "second", "third")]
    (table,) = comparison_tables(runs)
    labels = [row.cells[0].text for row in table.rows]
    assert [label.partition(" ")[2] for label in labels] == ["(first)", "(second)", "(third)"]


def test_a_run_whose_scores_have_another_scale_is_not_ranked(tmp_path: Path) -> None:
    """0 to 5 by a judge beside 0 to 1 of the same name."""
    runs = []
    for name, top in (("a", 1.0), ("b", 5.0)):
        lines = [number_line(n, "score", top * (n % 2)) for n in range(60)]
        folder = write_host_run(tmp_path / name, {"t": lines}, pretrained=name,
                                results={"t": {"score,none": top / 2}})  # fmt: skip
        runs.append(read_run(folder))
    (table,) = comparison_tables(runs)
    assert "on different scales" in notes(table)
    assert not any(cell.rank for row in table.rows for cell in row.cells)
    assert [row.data[0]["unit"] for row in table.rows] == ["%", ""]


def test_every_form_of_a_hard_run_can_be_written(tmp_path: Path) -> None:
    """All kinds at once: repeats, an error rate, a group, NaN, a task without samples."""
    lines = [number_line(n, "wer", 0.2 if n else float("nan")) for n in range(30)]

    def change(data):
        data["results"]["alone"] = {"alias": "alone", "x,none": 3.7, "x_stderr,none": "N/A"}
        data["results"]["group"] = {"alias": "group", "acc,none": " "}
        data["group_subtasks"]["group"] = ["asr", "alone"]

    folder = write_host_run(tmp_path, {"asr": lines}, results={"asr": {"wer,none": 20.0}},
                            higher={"wer": False}, change=change)  # fmt: skip
    run = read_run(folder)
    for form in ("terminal", "md", "latex", "html", "csv", "json"):
        text = render(comparison_tables([run]), form)
        assert "20.0" in text
        assert "nan" not in text.lower().replace("nan or infinite", "")
    assert "alone" in show_run(run)


def test_tasks_that_a_run_does_not_have_say_nothing_of_it(tmp_path: Path) -> None:
    """Models that ran different tasks: one table each, without a line about every other model."""
    folders = []
    for name in ("one", "two"):
        lines = [number_line(n, "acc", float(n % 2)) for n in range(60)]
        results = {name: {"acc,none": 0.5}}
        folders.append(write_host_run(tmp_path / name, {name: lines}, results=results,
                                      pretrained=name))  # fmt: skip
    tables = comparison_tables([read_run(folder) for folder in folders])
    assert [table.title for table in tables] == ["All tasks", "one", "two"]
    assert "has nothing" not in notes(*tables)
    assert [len(table.rows) for table in tables] == [2, 1, 1]


def test_points_of_a_judge_without_samples_are_no_percentage(tmp_path: Path) -> None:
    """A CIDEr of 1.13 was shown as 1.1 %."""
    lines = [number_line(n, "CIDEr", {"answer": ["x"], "pred": "y"}) for n in range(60)]
    for value, error, shown in ((1.13, "N/A", "1.13"), (7.3, "N/A", "7.30"), (8.3, 0.0356, "8.3"),
                                (26.9, "N/A", "26.9")):  # fmt: skip
        results = {"cap": {"CIDEr,none": value, "CIDEr_stderr,none": error}}
        run = read_run(write_host_run(tmp_path / shown, {"cap": lines}, results=results))
        found = score_of(run.tasks["cap"])
        assert (found.text, found.unit) == (shown, "%" if shown in ("8.3", "26.9") else "")


def test_show_says_what_has_partial_credit_and_what_has_no_right_or_wrong(tmp_path: Path) -> None:
    marks = [number_line(n, "anls", (0.0, 0.5, 1.0)[n % 3]) for n in range(60)]
    points = [number_line(n, "mos", float(1 + n % 5)) for n in range(60)]
    results = {"doc": {"anls,none": 0.5}, "mos": {"mos,none": 3.0}}
    folder = write_host_run(tmp_path, {"doc": marks, "mos": points}, results=results)
    shown = show_run(read_run(folder))
    assert "20 questions have partial credit; only a full score is right here." in shown
    assert "score  95 % interval   n\n" in shown  # no columns of outcomes


# The host's tasks


def test_predictions_in_a_list_are_compared_one_by_one(tmp_path: Path) -> None:
    """MMMU of the host writes `parsed_pred: ["B"]`; every question came out wrong."""
    lines = []
    for n in range(60):
        record = {"id": f"validation_Art_{n}", "subdomain": "Art", "answer": "B",
                  "parsed_pred": ["B" if n < 45 else "C"]}  # fmt: skip
        lines.append(number_line(n, "mmmu_acc", record, submission={f"validation_Art_{n}": "B"}))
    run = read_run(
        write_host_run(tmp_path, {"mmmu_val": lines}, results={"mmmu_val": {"mmmu_acc,none": 0.75}})
    )
    found = score_of(run.tasks["mmmu_val"])
    assert (found.text, run.tasks["mmmu_val"].samples[0].choice) == ("75.0", "B")
    assert kinds(run) == []


def test_a_task_that_scores_by_another_rule_shows_its_own_score_only(tmp_path: Path) -> None:
    """Open answers are right in more ways than by being equal: 20.0 stood there for 60.0."""
    lines = [
        number_line(
            n, "acc", {"answer": f"{n} euros", "parsed_pred": f"{n}{' euros' * (n % 5 == 0)}"}
        )
        for n in range(60)
    ]
    run = read_run(write_host_run(tmp_path, {"t": lines}, results={"t": {"acc,none": 60.0}}))
    found = score_of(run.tasks["t"])
    assert (found.text, found.low) == ("60.0", None)
    (problem,) = [p for p in run.problems if p.kind == "unread"]
    assert "by another rule than acc: parsed_pred equals answer, which gives 20.0 %" in problem.text


def test_options_of_the_host_s_tasks_are_read_from_the_prompt(tmp_path: Path) -> None:
    sample = videomme(tmp_path, 60).tasks["videomme"].samples[0]
    assert sample.question == "What happens in 0?"
    assert sample.options == ("A. one", "B. two", "C. three", "D. four")
    assert sample.choice == "A"
