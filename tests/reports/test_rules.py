"""Rules of other harnesses read what the harnesses read; a run under them."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest
from host_runs import videomme_line, write_host_run
from official_answers import choice_answers, choice_questions
from official_scripts import functions_of, of_host, official_folder, vlmevalkit

from longva_eval.cli import main
from longva_eval.reports.reading.runs import read_run
from longva_eval.reports.rules.harnesses import (
    host_letter,
    host_mmmu_letter,
    vlmevalkit_infer,
    vlmevalkit_mlvu_letter,
)
from longva_eval.reports.rules.official import lvbench_letter, videomme_letter
from longva_eval.reports.rules.rescore import RULES, benchmark_of_rules, rescore

RUNS = Path(__file__).parents[1] / "data" / "runs"
ANSWERS, QUESTIONS = choice_answers(10_000), choice_questions(10_000)
needs_scripts = pytest.mark.skipif(
    official_folder() is None,
    reason="LONGVA_EVAL_OFFICIAL names no folder with the official scripts",
)


def same(ours: list[object], theirs: list[object], said: list[object]) -> None:
    assert len(Counter(map(str, theirs))) >= 2  # the answers make the original decide
    assert [(a, o, t) for a, o, t in zip(said, ours, theirs, strict=True) if o != t] == []


@pytest.mark.slow
def test_the_host_s_shared_rule() -> None:
    read = of_host("_task_utils/mcq_extract.py", "extract_mcq_answer")
    said = [*ANSWERS, *(text for text, _ in QUESTIONS)]
    letters = list("ABCD")
    same([host_letter(t) or "" for t in said], [read(t, letters) for t in said], said)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("_task_utils/mmmu_mcq_utils.py", "parse_mmmu_multi_choice_response"),
        ("nextqa/utils.py", "parse_multi_choice_response"),
    ],
)
def test_the_host_s_rule_of_mmmu_and_nextqa(file: str, name: str) -> None:
    read = of_host(file, name)
    same(
        [host_mmmu_letter(text, options) or "-" for text, options in QUESTIONS],
        [read(text, list(options), options) for text, options in QUESTIONS],
        QUESTIONS,
    )


@needs_scripts
def test_lvbench_s_script() -> None:
    folder = official_folder()
    assert folder is not None
    read = functions_of(folder / "answer_util.py", "polish_answer")["polish_answer"]
    same([lvbench_letter(t) for t in ANSWERS], [read(t) for t in ANSWERS], ANSWERS)


@needs_scripts
@pytest.mark.parametrize("date", ["2026-05", "2026-06"])
def test_vlmevalkit(date: str) -> None:
    folder = official_folder()
    assert folder is not None
    original, verbose = vlmevalkit(folder, date), date >= "2026-06"
    same(
        [videomme_letter(t) or "" for t in ANSWERS], [original.videomme(t) for t in ANSWERS],
        ANSWERS,
    )  # fmt: skip
    same(
        [videomme_letter(t, letters="ABCDE") or "" for t in ANSWERS],
        [original.longvideobench(t) for t in ANSWERS],
        ANSWERS,
    )
    same(
        [vlmevalkit_infer(t, o, verbose=verbose) for t, o in QUESTIONS],
        [None if (found := original.infer(t, o)) in (False, "Z") else found for t, o in QUESTIONS],
        QUESTIONS,
    )
    same(
        [vlmevalkit_mlvu_letter(t, o, "B", verbose=verbose) == "B" for t, o in QUESTIONS],
        [original.mlvu(t, o, "B") for t, o in QUESTIONS],
        QUESTIONS,
    )


def test_vlmevalkit_s_rule_of_2026_06_reads_verbose_answers() -> None:
    """From running can_infer as of both dates."""
    options = {"A": "red", "B": "blue", "C": "green", "D": "white"}
    text = "The answer is B. A is the sky, and C is the grass in the picture behind."
    assert vlmevalkit_infer(text, options, verbose=True) == "B"
    assert vlmevalkit_infer(text, options, verbose=False) is None


def test_lvbench_keeps_the_first_character() -> None:
    """From running polish_answer."""
    said = ["(C) a dog", "C) a dog", "The answer is C", "c", ""]
    assert [lvbench_letter(text) for text in said] == ["C", "C", "T", "c", ""]


@pytest.fixture
def verbose_run(tmp_path: Path) -> Path:
    """100 answers of a host's run: 60 letters, 20 glued phrases, 10 texts, 10 silent; all right."""
    lines = []
    for number in range(100):
        right = "ABCD"[number % 4]
        words = dict(zip("ABCD", ("one", "two", "three", "four"), strict=True))
        said = (
            right if number < 60
            else f"Best answer: {right}" if number < 80
            else words[right] if number < 90
            else "..."
        )  # fmt: skip
        line = videomme_line(number, right, right)
        lines.append(line | {"filtered_resps": said})
    return write_host_run(
        tmp_path / "run",
        {"videomme": lines},
        results={"videomme": {"videomme_perception_score,none": 100.0}},
    )


def test_differences_are_split_into_their_causes(verbose_run: Path) -> None:
    task = read_run(verbose_run).tasks["videomme"]
    found = {each.rule: each for each in rescore(task, list(RULES))}
    ours, official = found["ours"], found["official"]
    assert (ours.num_right, ours.num_unread, ours.score_percent) == (90, 10, 90.0)
    # "Best answer: B" is B for everyone; the 5 of each other letter are read as B.
    assert (official.num_right, official.num_unread, official.num_counted) == (65, 20, 80)
    assert official.letters == pytest.approx(-25)
    assert official.own_denominator_percent == pytest.approx(100 * 65 / 80)
    for each in found.values():
        gap = each.own_denominator_percent - ours.score_percent
        assert each.letters + each.denominator + each.draws == pytest.approx(gap)
    glued = official.examples["letters"]
    assert glued.text == "Best answer: A"
    assert glued.reads == {
        "ours": "A", "official": "B", "host": "A", "vlmevalkit@2026-05": "B",
        "vlmevalkit@2026-06": "B",
    }  # fmt: skip
    assert official.examples["denominator"].text == "one"
    assert found["vlmevalkit@2026-05"].own_denominator_percent == 65.0


def test_a_drawn_option_counts_what_is_expected_of_it(tmp_path: Path) -> None:
    lines = [
        videomme_line(number, "A", "A", metric="exact_match")
        | {"filtered_resps": "A" if number < 30 else "nothing", "exact_match": 1.0, "target": "0"}
        for number in range(50)
    ]
    run = write_host_run(
        tmp_path / "run",
        {"nextqa_mc_test": lines},
        results={"nextqa_mc_test": {"exact_match,none": 1}},
    )
    (host,) = rescore(read_run(run).tasks["nextqa_mc_test"], ["host"])
    assert (host.num_right, host.num_unread, host.expected_draws) == (30, 20, 5.0)
    assert host.score_percent == pytest.approx(70)
    assert host.draws == pytest.approx(10)
    assert host.examples["draws"].text == "nothing"


def test_the_host_s_rule_gives_what_the_host_logged() -> None:
    run = read_run(RUNS / "host")
    for name in ("cmp_videomme", "cmp_mlvu", "cmp_lvbench", "cmp_nextqa", "cmp_lvb"):
        task = run.tasks[name]
        (host,) = rescore(task, ["host"])
        assert host.num_right == sum(sample.score for sample in task.samples), name


def test_our_rule_gives_what_our_tasks_recorded() -> None:
    for name in ("mini_8", "mini_32", "mini_skip"):
        (task,) = read_run(RUNS / name).tasks.values()
        (ours,) = rescore(task, ["ours"])
        assert ours.num_right == sum(sample.outcome == "right" for sample in task.samples)


@pytest.mark.parametrize(
    ("task", "benchmark"),
    [
        ("videomme_w_subtitle", "videomme"), ("longva_videomme_v2", None),
        ("mlvu_test", "mlvu_test"),
        ("longva_mlvu_dev", "mlvu_dev"), ("longvideobench_val_v", "longvideobench"),
        ("longva_lvbench", "lvbench"), ("mmmu_val", "mmmu"), ("mmmu_pro_vision", None),
        ("longva_nextqa_mc", "nextqa"), ("longva_nextqa_oe_val", None), ("ai2d", None),
    ],
)  # fmt: skip
def test_a_task_has_the_rules_of_its_benchmark(task: str, benchmark: str | None) -> None:
    assert benchmark_of_rules(task) == benchmark


def test_rescore_prints_a_table_and_json(
    verbose_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(verbose_run)]) == 0
    printed = capsys.readouterr().out
    assert (
        "document 60, 'Best answer: A': ours A, official B, host A, vlmevalkit@2026-05 B" in printed
    )
    assert "letters of official; letters of vlmevalkit@2026-05" in printed
    assert "letters + denominator + draws" in printed
    assert main(["rescore", str(verbose_run), "--rule", "ours,host", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["rule"] for row in rows] == ["ours", "host"]
    assert {
        "rule",
        "questions",
        "right",
        "unread",
        "score_percent",
        "own_denominator_percent",
    } <= set(rows[0])
    assert rows[0]["score_percent"] == 90.0


@pytest.mark.slow
def test_examples_link_to_the_page_s_samples(
    verbose_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    assert main(["rescore", str(verbose_run), "--page", str(page)]) == 1
    assert "longva-eval report" in capsys.readouterr().err
    assert main(["report", str(verbose_run), "--out", str(page)]) == 0
    capsys.readouterr()
    assert main(["rescore", str(verbose_run), "--page", str(page)]) == 0
    links = re.findall(r"report\.html#sample=(\S+)", capsys.readouterr().out)
    text = page.read_text(encoding="utf-8")
    task = json.loads(re.findall(r'id="task-0">(.*?)</script>', text, re.DOTALL)[0])
    names = {f"{task['name']}/{row['k']}" for row in task["rows"]}
    assert len(links) == 2
    assert {unquote(link) for link in links} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((str(RUNS / "mini_8"), "--rule", "offical"), "official"),
        ((str(RUNS / "niah"),), "no rule knows"),
    ],
)
def test_rescore_says_what_it_cannot_read(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", *arguments]) == 1
    assert message in capsys.readouterr().err
