"""Our ports of the boards' rules give what the boards' scripts give."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from official_answers import choice_answers, choice_questions, digest, open_questions
from official_scripts import (
    VERDICTS,
    longvideobench,
    official_folder,
    official_verdicts,
    videomme,
)

from longva_eval.reports.rules.harnesses import vlmevalkit_infer
from longva_eval.reports.rules.official import (
    longvideobench_letter,
    lvbench_letter,
    mlvu_dev_is_right,
    mlvu_option,
    mmmu_letter,
    mmmu_open_is_right,
    videomme_letter,
    videomme_tally,
)

RULES = (
    "videomme", "mmmu", "mmmu_open", "mlvu_test", "mlvu_dev", "lvbench", "vlmevalkit_2026-05",
    "vlmevalkit_2026-06",
)  # fmt: skip
WITH_OPTIONS = ("mmmu", "vlmevalkit_2026-05", "vlmevalkit_2026-06")
needs_scripts = pytest.mark.skipif(
    official_folder() is None,
    reason="LONGVA_EVAL_OFFICIAL names no folder with the official scripts",
)


def our_verdicts(rule: str) -> list[Any]:
    if rule == "mmmu_open":
        return ["1" if mmmu_open_is_right(*each) else "0" for each in open_questions()]
    if rule in WITH_OPTIONS:
        read = {"mmmu": mmmu_letter}.get(
            rule, functools.partial(vlmevalkit_infer, verbose=rule.endswith("2026-06"))
        )
        return [read(answer, options) or "-" for answer, options in choice_questions()]
    if rule == "mlvu_dev":
        return [
            "1" if mlvu_dev_is_right(answer, "ABCDE"[number % 5]) else "0"
            for number, answer in enumerate(choice_answers())
        ]
    if rule == "mlvu_test":
        return [mlvu_option(answer) for answer in choice_answers()]
    one = {"lvbench": lvbench_letter, "videomme": videomme_letter}[rule]
    return [one(answer) or "-" for answer in choice_answers()]


@pytest.mark.parametrize("rule", RULES)
def test_a_port_agrees_with_the_verdicts_of_the_official_script(rule: str) -> None:
    record = json.loads((VERDICTS / f"{rule}.json").read_text(encoding="utf-8"))
    asked = {"mmmu_open": open_questions, **dict.fromkeys(WITH_OPTIONS, choice_questions)}
    answers: Any = asked.get(rule, choice_answers)()
    assert digest(answers) == record["answers_sha256"], "the generator changed: make_verdicts.py"
    official, ours = list(record["verdicts"]), our_verdicts(rule)
    assert len(official) == len(ours) == 5000
    assert len(Counter(official)) >= 2  # the answers make the script decide
    wrong = [(a, o, m) for a, o, m in zip(answers, official, ours, strict=True) if o != m]
    assert wrong == []


@needs_scripts
@pytest.mark.parametrize("rule", RULES)
def test_a_port_agrees_with_the_official_script_itself(rule: str) -> None:
    folder = official_folder()
    assert folder is not None
    assert our_verdicts(rule) == official_verdicts(folder)[rule]


def test_longvideobench_reads_as_lmms_eval_reads() -> None:
    read = longvideobench()
    answers = choice_answers()
    assert [longvideobench_letter(answer) or "-" for answer in answers] == [
        read(answer) for answer in answers
    ]


@pytest.mark.parametrize(
    ("response", "letter"),
    # From running the script, as published, on these six answers.
    [("Best answer: C", "B"), ("Based on the video, the answer is C", "B"),
     ("As shown, option D", "A"), ("Both A and B are wrong, so C", "B"), ("Cannot determine", "C"),
     ("c.", None), ("The best answer is: D", "D")],
)  # fmt: skip
def test_video_mme_reads_the_first_capital_anywhere(response: str, letter: str | None) -> None:
    assert videomme_letter(response) == letter


def test_video_mme_leaves_silence_out_of_the_denominator() -> None:
    assert videomme_tally([("B", "B"), ("A", "B"), ("c", "C"), ("!!!!", "D")]) == (1, 2)
    assert videomme_tally([("!!!!", "A")] * 2700).percent == 0.0


@needs_scripts
def test_the_whole_video_mme_file_scores_what_our_tally_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from test_submissions import videomme_board_file

    folder = official_folder()
    assert folder is not None
    file, tallies = videomme_board_file(tmp_path)
    videomme(folder)["eval_your_results"](str(file), video_types="short,medium,long")
    printed = [line for line in capsys.readouterr().out.splitlines() if "Overall:" in line]
    wanted = [tallies[name].percent for name in ("short", "medium", "long", "overall")]
    assert printed == [f"Overall: {percent: .1f}%" for percent in wanted]
