"""Files for leaderboards: what is written, what is refused, and the board's number beside ours."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from host_runs import videomme_line, write_host_run

from longva_eval.cli import main
from longva_eval.errors import DataError, SettingsError
from longva_eval.local.layouts import find_layouts
from longva_eval.questions.outcomes import FAILED, choice_record, scored_record
from longva_eval.reports.boards.boards import BOARDS
from longva_eval.reports.boards.submissions import Submission, submit
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.reading.scores import score_of
from longva_eval.reports.rules import official
from longva_eval.reports.rules.official import Tally

OPTIONS = ["a cat", "a dog", "a cup", "a key"]
DATE = "20261120_101112"
MLVU_TYPES = ("topic_reasoning", "anomaly_reco", "needleQA", "ego", "plotQA", "sportsQA", "order",
              "count", "tutorialQA")  # fmt: skip


def write_run(
    folder: Path,
    task: str,
    records: Sequence[dict[str, Any]],
    *,
    metric: str = "accuracy",
    in_benchmark: int | None = None,
    limit: int | None = None,
) -> Path:
    """What lmms-eval 0.7.3 writes with --log_samples: results, and a line for every question."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(records)
    mean = sum(record["score"] for record in records) / count if count else 0.0
    results = {
        "results": {task: {"alias": task, f"{metric},none": mean, f"{metric}_stderr,none": 0.01}},
        "group_subtasks": {task: []},
        "configs": {
            task: {"task": task, "metadata": {"version": 1.0}, "cluster_key": "cluster",
                   "score_key": "score", "metric_list": [{"metric": metric}]}
        },
        "versions": {task: 1.0},
        "n-shot": {task: 0},
        "higher_is_better": {task: {metric: True}},
        "n-samples": {task: {"original": in_benchmark or count, "effective": count}},
        "config": {"model": "longva", "limit": limit, "batch_size": "1",
                   "model_args": "pretrained=lmms-lab/LongVA-7B,max_frames_num=128"},
        "date": DATE,
    }  # fmt: skip
    (folder / f"{DATE}_results.json").write_text(json.dumps(results))
    with (folder / f"{DATE}_samples_{task}.jsonl").open("w") as file:
        for number, record in enumerate(records):
            sample = {
                "doc_id": number, "target": record["answer"], "resps": [[record["generated"]]],
                "filtered_resps": [record["generated"]], "doc_hash": "0" * 64,
                "input": record["question"], metric: record,
            }  # fmt: skip
            file.write(json.dumps(sample) + "\n")
    return folder


def made_once(make: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    """Records of the same arguments are read once; each call gives its own."""
    text = functools.cache(lambda *given: json.dumps(make(*given)))
    return lambda *given: json.loads(text(*given))


@made_once
def videomme_records(
    answer_of: Callable[[int, str], str] = lambda _, right: right,
) -> list[dict[str, Any]]:
    """2,700 questions on 900 videos in the official categories."""
    records = []
    for video in range(900):
        for question in range(3):
            number = 3 * video + question
            right = "ABCD"[number % 4]
            records.append(
                choice_record(
                    answer_of(number, right),
                    options=OPTIONS,
                    answer=right,
                    question_id=f"{video + 1:03d}-{question + 1}",
                    cluster=f"tube_{video}",
                    question=f"What is shown, {number}?",
                    categories={
                        "duration": official.VIDEOMME_DURATIONS[video // 300],
                        "domain": official.VIDEOMME_DOMAINS[video % 6],
                        "sub_category": official.VIDEOMME_SUB_CATEGORIES[video % 30],
                        "task_type": official.VIDEOMME_TASK_TYPES[number % 12],
                    },
                )
            )
    random.Random(1).shuffle(records)
    return records


def spoken(number: int, right: str) -> str:
    """Answers of a talkative model: some that the board reads otherwise, some that say nothing."""
    forms = (right, f"{right}.", f"The answer is {right}", f"As shown, option {right}", "!!!!",
             f"Best answer: {right}", "I cannot tell", "A man walks in")  # fmt: skip
    return forms[number % 8 if number % 3 == 0 else number % 3]


def videomme_board_file(tmp_path: Path) -> tuple[Path, dict[str, Tally]]:
    """A written file, and the official counts we expect of it."""
    records = videomme_records(spoken)
    done = submitted(tmp_path, "videomme", "longva_videomme", records)
    groups = {name: [r for r in records if r["categories"]["duration"] == name]
              for name in official.VIDEOMME_DURATIONS}  # fmt: skip
    groups["overall"] = records
    return done.path, {
        name: official.videomme_tally((r["generated"], r["answer"]) for r in group)
        for name, group in groups.items()
    }


def submitted(
    tmp_path: Path, board: str, task: str, records: list[dict[str, Any]], **options: Any
) -> Submission:
    metric = options.pop("metric", "accuracy")
    run = read_run(write_run(tmp_path / "run", task, records, metric=metric))
    return submit(board, run, tmp_path / "out" / f"{board}.json", **options)


def content(done: Submission) -> Any:
    return json.loads(done.path.read_text(encoding="utf-8"))


# ---- the forms ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_video_mme_gets_the_template_with_its_videos_in_order(tmp_path: Path) -> None:
    done = submitted(tmp_path, "videomme", "longva_videomme", videomme_records(spoken))
    videos = content(done)
    assert [video["video_id"] for video in videos] == [f"{n:03d}" for n in range(1, 901)]
    assert videos[1] == {
        "video_id": "002",
        "duration": "short",
        "domain": "Film & Television",
        "sub_category": "Literature & Art",
        "questions": [
            {
                "question_id": f"002-{n + 1}",
                "task_type": official.VIDEOMME_TASK_TYPES[3 + n],
                "question": f"What is shown, {3 + n}?",
                "options": ["A. a cat", "B. a dog", "C. a cup", "D. a key"],
                "answer": "DAB"[n],
                "response": ["As shown, option D", "A.", "The answer is B"][n],
            }
            for n in range(3)
        ],
    }


@pytest.mark.slow
def test_video_mme_shows_the_boards_number_beside_ours_and_why_they_differ(tmp_path: Path) -> None:
    done = submitted(tmp_path, "videomme", "longva_videomme_subtitles", videomme_records(spoken))
    rows = {row.label: row for row in done.comparison.rows}
    assert rows["overall"].num_questions == 2700
    assert rows["short"].num_questions == 900
    # Of 24 consecutive numbers 8 are talkative, one of each form; right answers are spread evenly.
    records = videomme_records(spoken)
    ours = 100 * sum(record["outcome"] == "right" for record in records) / 2700
    tally = official.videomme_tally((r["generated"], r["answer"]) for r in records)
    assert rows["overall"].our_percent == pytest.approx(ours)
    assert rows["overall"].official_percent == pytest.approx(tally.percent)
    assert tally.num_counted < 2700  # silence left the denominator
    reasons = {d.reason: d for d in done.comparison.differences}
    (capital,) = [d for reason, d in reasons.items() if "first capital A to D" in reason]
    assert any('"As shown, option' in line and "board A" in line for line in capital.examples)
    (silent,) = [d for reason, d in reasons.items() if "raises the score" in reason]
    num_silent = sum(official.videomme_letter(r["generated"]) is None for r in records)
    assert silent.num_questions == num_silent
    read_otherwise = sum(
        official.videomme_letter(r["generated"]) != r["choice"] for r in records
    ) + sum(
        r["choice"] is None and official.videomme_letter(r["generated"]) is None for r in records
    )
    assert sum(d.num_questions for d in done.comparison.differences) == read_otherwise


@pytest.mark.slow
def test_longvideobench_gets_the_raw_answers_by_id(tmp_path: Path) -> None:
    records = [
        choice_record(
            ("B", "no idea", "The answer is (C).", "As seen, D")[n % 4], options=OPTIONS, answer="",
            question_id=f"vid{n}_0", cluster=f"vid{n}", question="?",
        ) | {"score": 1.0, "hidden_answer": True}
        for n in range(5341)
    ]  # fmt: skip
    done = submitted(
        tmp_path, "longvideobench", "longva_longvideobench_test", records, metric="answered"
    )
    answers = content(done)
    assert len(answers) == 5341
    assert answers["vid1_0"] == "no idea"
    assert done.comparison.rows == ()  # no answers, no score
    drawn, other = done.comparison.differences
    assert "draws an option; we count it as wrong" in drawn.reason
    assert drawn.num_questions == 1335
    assert other.num_questions == 1335  # "As seen, D" is A by the board's rule


@pytest.mark.slow
def test_longvideobench_validation_shows_what_a_draw_is_expected_to_give(tmp_path: Path) -> None:
    records = [
        choice_record(
            "B" if n else "no idea", options=OPTIONS, answer="B", question_id=str(n), cluster=str(n)
        )
        for n in range(1337)
    ]
    done = submitted(tmp_path, "longvideobench", "longva_longvideobench_val", records)
    (row,) = done.comparison.rows
    assert row.official_percent == pytest.approx(100 * 1336.25 / 1337)
    assert row.our_percent == pytest.approx(100 * 1336 / 1337)


def mlvu_records(answers: Sequence[str] = ("B", "B) a dog", "(B) a dog")) -> list[dict[str, Any]]:
    return [
        choice_record(
            answers[n % len(answers)], options=[*OPTIONS, "a hat", "a map"], answer="B",
            question_id=f"Q_{n}", cluster=f"v{n}", categories={"task_type": MLVU_TYPES[n % 9]},
        )
        for n in range(502)
    ]  # fmt: skip


@pytest.mark.slow
def test_mlvu_gets_letters_and_shows_what_its_script_would_have_handed_in(tmp_path: Path) -> None:
    done = submitted(tmp_path, "mlvu", "longva_mlvu_test", mlvu_records())
    assert content(done)[2] == {
        "question_id": "Q_2", "question_type": "needleQA", "option": "B",
    }  # fmt: skip
    rows = {row.label: row for row in done.comparison.rows}
    assert rows["M-Avg"].our_percent == 100.0
    # By the script "(B" is no B; 9 types and 3 answers: of each type all answers are alike.
    assert rows["M-Avg"].official_percent == pytest.approx(100 * 6 / 9)
    (difference,) = done.comparison.differences
    assert difference.num_questions == 167
    assert "more than a letter" in difference.reason


@made_once
def mmmu_records(count: int, split: str, answer: str = "B") -> list[dict[str, Any]]:
    records = []
    for n in range(count):
        name = f"{split}_Art_Theory_{n + 1}"
        if n % 10:
            text = ("B", "I think that it must be a dog", "no idea at all here", "(B) or (C)")[
                n % 4
            ]
            record = choice_record(
                text, options=OPTIONS, answer=answer, question_id=name, cluster=name
            )
        else:
            record = scored_record(
                "x is 3.14159", score=float(bool(answer)), answer=["3.14", "pi"] if answer else "",
                question_id=name, cluster=name,
            )  # fmt: skip
        records.append(record)
    return records


@pytest.mark.slow
def test_mmmu_gets_letters_and_open_answers(tmp_path: Path) -> None:
    records = mmmu_records(10500, "test", "")
    done = submitted(tmp_path, "mmmu", "longva_mmmu_test", records, metric="answered")
    answers = content(done)
    assert len(answers) == 10500
    assert answers["test_Art_Theory_1"] == "x is 3.14159"
    assert answers["test_Art_Theory_5"] == "B"
    assert answers["test_Art_Theory_3"] == ""  # no answer; the official parser would draw one
    assert done.comparison.rows == ()
    assert any("would draw an option" in d.reason for d in done.comparison.differences)


@pytest.mark.slow
def test_mmmu_validation_is_scored_by_both_rules(tmp_path: Path) -> None:
    records = mmmu_records(900, "validation")
    done = submitted(tmp_path, "mmmu", "longva_mmmu_val", records)
    rows = {row.label: row for row in done.comparison.rows}
    assert (rows["open"].num_questions, rows["open"].official_percent) == (90, 100.0)
    choices = [record for record in records if "choice" in record]
    expected = sum(
        0.25 if letter is None else float(letter == "B")
        for letter in (
            official.mmmu_letter(r["generated"], dict(zip("ABCD", OPTIONS, strict=True)))
            for r in choices
        )
    )
    assert rows["multiple choice"].official_percent == pytest.approx(100 * expected / 810)
    assert rows["overall"].num_questions == 900


@pytest.mark.slow
@pytest.mark.parametrize(
    ("board", "task", "count"),
    [("docvqa", "longva_docvqa_test", 5188), ("infovqa", "longva_infovqa_test", 3288)],
)
def test_spans_are_handed_in_by_whole_numbers(
    tmp_path: Path, board: str, task: str, count: int
) -> None:
    records = [
        scored_record(
            f" {n} euros\n", score=0.0, answer="", question_id=str(60000 + n), cluster="p"
        )
        for n in range(count)
    ]
    done = submitted(tmp_path, board, task, records, metric="answered")
    assert content(done)[1] == {"questionId": 60001, "answer": "1 euros"}
    assert len(content(done)) == count


@pytest.mark.slow
def test_egoschema_gets_option_numbers_and_nothing_is_sent(tmp_path: Path) -> None:
    records = [
        choice_record(
            ("A", "E.", "none of it")[n % 3], options=[*OPTIONS, "a hat"], answer="",
            question_id=f"uid-{n}", cluster=f"uid-{n}",
        ) | {"score": 1.0, "hidden_answer": True}
        for n in range(5031)
    ]  # fmt: skip
    done = submitted(tmp_path, "egoschema", "longva_egoschema", records, metric="answered")
    assert list(content(done).items())[:3] == [("uid-0", 0), ("uid-1", 4), ("uid-2", -1)]
    assert done.num_silent == 1677
    assert done.board.where.startswith("Nothing was sent.")


# ---- runs of lmms-eval's own tasks ---------------------------------------------------------------


def host_videomme(folder: Path) -> Path:
    """The 2,700 questions through the host's own task, answered as `spoken`."""
    lines = []
    for number, record in enumerate(videomme_records(spoken)):
        kinds = record["categories"]
        letters = [f"{'ABCD'[n]}. {option}" for n, option in enumerate(OPTIONS)]
        line = videomme_line(
            number, record["choice"] or "", record["answer"], question_id=record["question_id"],
            duration=kinds["duration"], category=kinds["domain"], videoID=record["cluster"],
            sub_category=kinds["sub_category"], task_category=kinds["task_type"],
        )  # fmt: skip
        line["filtered_resps"] = record["generated"]
        line["input"] = "\n".join(["Select the best answer to the question.", record["question"],
                                   *letters, "The best answer is:"])  # fmt: skip
        lines.append(line)
    metric = "videomme_perception_score"
    own = 100 * sum(line[metric]["score"] for line in lines) / len(lines)
    results = {"videomme": {f"{metric},none": own}}
    return write_host_run(folder, {"videomme": lines}, results=results)


@pytest.mark.slow
def test_a_run_of_the_host_s_videomme_gives_the_same_file(tmp_path: Path) -> None:
    """The model card's own path, `--tasks videomme`, was refused."""
    path, counts = videomme_board_file(tmp_path / "ours")
    done = submit("videomme", read_run(host_videomme(tmp_path / "host")), tmp_path / "host.json")
    assert content(done) == json.loads(path.read_text())
    (overall,) = [row for row in done.comparison.rows if row.label == "overall"]
    assert overall.official_percent == counts["overall"].percent


def hidden_lines(made: list[tuple[dict[str, Any], str]]) -> list[dict[str, Any]]:
    return [
        {"doc_id": n, "target": "", "filtered_resps": said, "submission": record, "input": f"{n}?",
         "token_counts": [None], "doc_hash": "0" * 64}
        for n, (record, said) in enumerate(made)
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("board", "task", "made", "first"),
    [
        ("longvideobench", "longvideobench_test_v",
         [({f"id-{n}": "B. a dog"}, "B. a dog") for n in range(5341)], ("id-0", "B. a dog")),
        ("mmmu", "mmmu_test",
         [({f"test_Art_{n}": "C"}, "It is (C).") for n in range(10500)], ("test_Art_0", "C")),
        ("docvqa", "docvqa_test",
         [({"questionId": 60000 + n, "answer": f"{n} euros"}, f"{n} euros") for n in range(5188)],
         {"questionId": 60000, "answer": "0 euros"}),
        ("infovqa", "infovqa_test",
         [({"questionId": 60000 + n, "answer": "9"}, "9") for n in range(3288)],
         {"questionId": 60000, "answer": "9"}),
        ("egoschema", "egoschema",
         [({f"uid-{n}": n % 6 - 1}, "ABCDE"[n % 6 - 1] if n % 6 else "?") for n in range(5031)],
         ("uid-0", -1)),
    ],
)  # fmt: skip
def test_hidden_splits_of_the_host_are_handed_in_and_have_no_score(
    tmp_path: Path, board: str, task: str, made: list[tuple[dict[str, Any], str]], first: Any
) -> None:
    lines = hidden_lines(made)
    for line in lines:  # what the host compares with an answer that nobody has
        line["lvb_acc"] = {"id": "x", "answer": "@", "parsed_pred": "B"}
    config = {"metric_list": [{"metric": "submission"}]}
    folder = write_host_run(tmp_path / "run", {task: lines}, results={task: {}}, config=config)
    run = read_run(folder)
    assert score_of(run.tasks[task]) is None
    done = submit(board, run, tmp_path / "out.json")
    written = content(done)
    assert len(written) == len(made)
    assert (next(iter(written.items())) if isinstance(written, dict) else written[0]) == first


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_with_questions_missing_is_refused_by_name(tmp_path: Path) -> None:
    records = [r for r in videomme_records() if r["question_id"] not in ("007-2", "450-1")]
    with pytest.raises(DataError, match=r"it has 2,698 questions, and the benchmark 2,700"):
        submitted(tmp_path, "videomme", "longva_videomme", records)
    manifest = tmp_path / "hf/longva_eval/prepared/videomme.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"ids": [r["question_id"] for r in videomme_records()]}))
    with pytest.raises(
        DataError, match=r"2 questions of 2,700 missing: (007-2, 450-1|450-1, 007-2)"
    ):
        submitted(tmp_path, "videomme", "longva_videomme", records, hf_home=tmp_path / "hf")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_with_failed_questions_is_refused(tmp_path: Path) -> None:
    records = videomme_records(lambda n, right: FAILED if n in (3, 4) else right)
    with pytest.raises(DataError, match=r"2 questions failed: 002-[12], 002-[12]\."):
        submitted(tmp_path, "videomme", "longva_videomme", records)


def test_a_run_with_limit_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "longva_mlvu_test", mlvu_records()[:8], in_benchmark=502, limit=8)
    with pytest.raises(DataError, match=r"(?s)run with --limit 8.*8 questions, and the benchmark"):
        submit("mlvu", read_run(folder), tmp_path / "out.json")
    assert not (tmp_path / "out.json").exists()


def test_a_question_asked_twice_is_refused(tmp_path: Path) -> None:
    records = mlvu_records()
    records[7] = {**records[8]}
    with pytest.raises(DataError, match="Q_8"):
        submitted(tmp_path, "mlvu", "longva_mlvu_test", records)


def test_a_samples_file_that_breaks_off_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "longva_mlvu_test", mlvu_records())
    samples = next(folder.glob("*.jsonl"))
    samples.write_bytes(samples.read_bytes()[:-40])
    with pytest.raises(DataError, match="breaks off in its last line"):
        submit("mlvu", read_run(folder), tmp_path / "out.json")


@pytest.mark.slow
def test_categories_that_the_board_does_not_know_are_refused(tmp_path: Path) -> None:
    records = videomme_records()
    records[0]["categories"]["task_type"] = "Guessing"
    with pytest.raises(DataError, match="task_type 'Guessing' is no official one"):
        submitted(tmp_path, "videomme", "longva_videomme", records)
    assert not list((tmp_path / "out").glob("*"))  # neither the file nor a part of it


def test_a_run_of_another_task_is_refused(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, "longva_mlvu_test", mlvu_records()))
    with pytest.raises(SettingsError, match="Video-MME takes runs of longva_videomme or"):
        submit("videomme", run, tmp_path / "out.json")
    with pytest.raises(SettingsError, match="no board called 'mars'; there are videomme, "):
        submit("mars", run, tmp_path / "out.json")


@pytest.mark.slow
def test_of_several_tasks_that_fit_one_is_chosen_by_name(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "longva_mmmu_val", mmmu_records(900, "validation"))
    results = json.loads((folder / f"{DATE}_results.json").read_text())
    write_run(folder, "longva_mmmu_test", mmmu_records(10500, "test", ""))
    both = json.loads((folder / f"{DATE}_results.json").read_text())
    for key, value in both.items():
        if isinstance(value, dict) and key != "config":
            value.update(results[key])
    (folder / f"{DATE}_results.json").write_text(json.dumps(both))
    with pytest.raises(SettingsError, match="choose one with --task longva_mmmu_test"):
        submit("mmmu", read_run(folder), tmp_path / "out.json")
    done = submit("mmmu", read_run(folder), tmp_path / "out.json", task="longva_mmmu_val")
    assert done.num_questions == 900


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_both_numbers_and_the_reasons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", "longva_videomme", videomme_records(spoken))
    out = tmp_path / "videomme.json"
    assert (
        main(["submit", "videomme", str(run), "--out", str(out), "--hf-home", str(tmp_path)]) == 0
    )
    printed = capsys.readouterr().out
    assert "Video-MME: LongVA-7B, longva_videomme, 128 frames" in printed
    assert "questions  board's rule    ours  (%)" in printed
    assert "the board takes the first capital A to D anywhere in the answer" in printed
    assert "bradyfu24@gmail.com" in printed
    assert len(json.loads(out.read_text())) == 900


def test_the_command_refuses_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", "longva_mlvu_test", mlvu_records()[:500])
    assert main(["submit", "mlvu", str(run), "--out", str(tmp_path / "o.json")]) == 1
    assert "is no complete run of longva_mlvu_test, and MLVU test takes no other" in (
        capsys.readouterr().err
    )


def test_every_task_that_a_board_takes_is_one_of_ours() -> None:
    from longva_eval.embedded import tasks_folder

    names = {path.stem for path in tasks_folder().glob("*/*.yaml")}
    assert {task for board in BOARDS.values() for task in board.tasks} <= names


@pytest.mark.slow
def test_every_task_that_a_board_takes_has_prepared_data_of_its_size() -> None:
    for board in BOARDS.values():
        for task, num_questions in board.tasks.items():
            (layout,) = find_layouts(task)
            assert layout.num_rows == num_questions
