"""The long-video benchmarks: rows read, prompts frozen, answers scored, bad data named."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import long_video_data as data
import processes
import pytest
from conftest import TESTS
from datasets import Dataset

from longva_eval.errors import DataError, MediaError, SettingsError
from longva_eval.local.prepare import prepare, read_layouts
from longva_eval.questions.documents import answer_letter, split_options
from longva_eval.questions.outcomes import FAILED, category_rows, mean_score, share_answered
from longva_eval.tasks.mmlongbench import mmlongbench
from longva_eval.tasks.vdc.vdc import Kind, caption_prompts, match_request

TASKS = TESTS.parent / "tasks"


def utils(folder: str) -> ModuleType:
    """A task's functions, loaded by path as lmms-eval does it."""
    path = TASKS / folder / "utils.py"
    spec = importlib.util.spec_from_file_location(f"{folder}_utils", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents(folder: str, function: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list(getattr(utils(folder), function)(Dataset.from_list(rows)))


@pytest.fixture
def hf_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "hf"
    monkeypatch.setenv("HF_HOME", str(home))
    return home


# Prompts

LVB_PROMPT = """\
Question: In the scene with the tree, what is seen first, asked 0?
A. A red car
B. A blue boat
C. Nothing
D. A tree
Answer with the option's letter from the given choices directly."""
MLVU_PROMPT = """\
Carefully watch this video and pay attention to every detail. Based on your observations, \
select the best option that accurately addresses the question.
Question: How many goals?
Options:
(A) one
(B) two
(C) three
(D) four
(E) five
(F) six
Only give the best option.
Best Option: ("""
LVBENCH_PROMPT = """\
What year appears in the opening caption?
(A) 1636
(B) 1366
(C) 1363
(D) 1633
Answer with the option's letter from the given choices directly."""
INFINIBENCH_PROMPT = """\
Choose the correct option for the following question: What comes first?
Options:
(A) eating, running
(B) running, eating
(C) I don't know
Answer with the option's letter from the given choices directly."""


@pytest.mark.parametrize(
    ("folder", "function", "rows", "prompt"),
    [
        ("longvideobench", "process_docs_val", data.longvideobench_rows(), LVB_PROMPT),
        ("mlvu", "process_docs_test", data.mlvu_test_rows(), MLVU_PROMPT),
        ("lvbench", "process_docs", data.lvbench_rows(), LVBENCH_PROMPT),
        ("infinibench", "process_docs", data.infinibench_rows()[:1], INFINIBENCH_PROMPT),
    ],
    ids=["longvideobench", "mlvu", "lvbench", "infinibench"],
)
def test_prompts_are_as_they_were(
    folder: str, function: str, rows: list[dict[str, Any]], prompt: str
) -> None:
    first = documents(folder, function, rows)[0]
    assert utils(folder).doc_to_text(first) == prompt


def test_the_dev_set_has_the_same_prompt_with_and_without_options_in_the_question() -> None:
    rows = data.mlvu_dev_rows()
    bare = [{**row, "question": row["question"].split("\n")[0][10:]} for row in rows]
    with_options, without = (documents("mlvu", "process_docs_dev", r) for r in (rows, bare))
    module = utils("mlvu")
    assert [module.doc_to_text(d) for d in with_options] == [module.doc_to_text(d) for d in without]


# Scores


@pytest.mark.parametrize(
    ("said", "outcome"),
    [("E", "right"), ("E. five", "right"), ("five", "right"), ("(a)", "wrong"), ("F", "no answer"),
     ("A man walks in", "no answer"), ("", "no answer"), (FAILED, "failed")],
)  # fmt: skip
def test_up_to_five_options_and_no_random_choice(said: str, outcome: str, hf_home: Path) -> None:
    document = documents("longvideobench", "process_docs_val", data.longvideobench_rows())[1]
    for _ in range(3):
        record = utils("longvideobench").process_results_val(document, [said])["accuracy"]
        assert record["outcome"] == outcome


def test_longvideobench_keeps_duration_level_category_and_topic() -> None:
    found = documents("longvideobench", "process_docs_val", data.longvideobench_rows())
    assert [d["categories"]["level"] for d in found] == [
        "L1-Perception",
        "L2-Relation",
        "L2-Relation",
    ]
    assert found[2]["categories"]["duration_group"] == "3600"
    assert [len(d["options"]) for d in found] == [4, 5, 2]


def test_the_hidden_test_split_is_recorded_for_its_board(hf_home: Path) -> None:
    rows = [{**row, "correct_choice": None} for row in data.longvideobench_rows()]
    document = documents("longvideobench", "process_docs_test", rows)[0]
    result = utils("longvideobench").process_results_test(document, ["**B**. A blue boat"])
    record = result["answered"]
    assert list(result) == ["answered"]
    assert (record["question_id"], record["generated"]) == ("vid1_0", "**B**. A blue boat")
    assert (record["choice"], record["answer"], record["hidden_answer"]) == ("B", "", True)
    silent = utils("longvideobench").process_results_test(document, ["hm"])["answered"]
    assert share_answered([record, silent]) == 0.5


def test_six_options_and_the_mean_over_task_types(hf_home: Path) -> None:
    module = utils("mlvu")
    found = documents("mlvu", "process_docs_test", data.mlvu_test_rows())
    results = [module.process_results_test(d, [said]) for d, said in zip(found, "FEC", strict=True)]
    assert [r["m_avg"]["outcome"] for r in results] == ["right", "right", "wrong"]
    assert [r["m_avg"]["question_id"] for r in results] == ["SQA_0", "TQA_0", "AC_0"]
    assert module.m_avg([r["m_avg"] for r in results]) == pytest.approx(2 / 3)
    dev = documents("mlvu", "process_docs_dev", data.mlvu_dev_rows())
    records = [module.process_results_dev(d, ["A"])["m_avg"] for d in dev]
    assert [r["question_id"] for r in records] == ["plotQA_0", "plotQA_1", "count_0", "needle_0"]
    # plotQA 1 of 2, count and needle none: the mean over types is not that over questions.
    assert mean_score(records) == pytest.approx(1 / 4)
    assert module.m_avg(records) == pytest.approx(1 / 6)
    assert math.isnan(module.m_avg([]))


def test_a_question_whose_answer_is_no_option_is_never_right_as_officially(hf_home: Path) -> None:
    document = documents("mlvu", "process_docs_dev", data.mlvu_dev_rows())[3]
    for said in ("A", "B", "C", "D", "@"):
        assert utils("mlvu").process_results_dev(document, [said])["m_avg"]["score"] == 0.0


def test_a_question_counts_in_each_of_its_capabilities(hf_home: Path) -> None:
    module = utils("lvbench")
    found = documents("lvbench", "process_docs", data.lvbench_rows())
    records = [
        module.process_results(d, [said])["accuracy"] for d, said in zip(found, "DAA", strict=True)
    ]
    rows = {(r["category"], r["value"]): r for r in category_rows(records)}
    assert rows["Rea", "reasoning"]["num_questions"] == 2
    assert rows["Rea", "reasoning"]["score"] == 0.5
    assert rows["EU", "event understanding"]["score"] == 1.0
    assert rows["KIR", "key information retrieval"]["num_questions"] == 1
    assert records[0]["time_reference"] == "00:15-00:19"


def test_question_types_may_be_a_list_written_as_a_text() -> None:
    rows = [{**row, "question_type": str(row["question_type"])} for row in data.lvbench_rows()]
    assert documents("lvbench", "process_docs", rows) == documents(
        "lvbench", "process_docs", data.lvbench_rows()
    )


def test_only_multiple_choice_skills_are_asked_and_averaged(hf_home: Path) -> None:
    module = utils("infinibench")
    rows = [{**row, "options": str(row["options"])} for row in data.infinibench_rows()]
    judged = {**rows[0], "question_id": "s", "skill_name": "summarization", "answer_idx": None}
    found = documents("infinibench", "process_docs", [*rows, judged])
    assert [d["categories"]["skill"] for d in found] == [
        "character_actions",
        "scene_transitions",
        "choronological_understanding",
        "global_appearance",
    ]
    assert [d["answer"] for d in found] == ["B", "A", "B", "A"]
    records = [module.process_results(d, ["(B)"])["skill_avg"] for d in found]
    assert module.skill_avg(records) == 0.5
    with pytest.raises(DataError, match="no row has one of the skills"):
        documents("infinibench", "process_docs", [judged])


def test_scalelong_orders_its_options_the_same_in_every_run(hf_home: Path) -> None:
    data.write_scalelong(hf_home)
    module = utils("scalelong")
    manifest = Dataset.from_list(json.loads((TASKS / "scalelong/questions.json").read_text()))
    found = list(module.process_docs(manifest))
    assert module.doc_to_text(found[0]) == (
        "How many rallies are in part 0?\na. three\nb. six\nc. five\nd. four\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert {d["options"][ord(d["answer"]) - ord("A")] for d in found} == {"five"}
    assert len({tuple(d["options"]) for d in found}) > 1
    assert [d["categories"] for d in found][2:] == [
        {"time_scale": "Video Event", "question_type": "Causal Reasoning"},
        {"time_scale": "Video Story", "question_type": "Information Summary"},
    ]
    records = [module.process_results(d, ["c. five"])["accuracy"] for d in found[:1]]
    records += [module.process_results(d, ["five"])["accuracy"] for d in found[1:3]]
    records += [module.process_results(found[3], ["I see e"])["accuracy"]]
    assert [r["outcome"] for r in records] == ["right", "right", "right", "no answer"]
    assert records[0]["generated"] == "c. five"
    assert module.scale_avg(records) == 0.75


def test_the_answer_among_the_distractors_is_as_right(hf_home: Path) -> None:
    document = {
        "question_id": "v_0",
        "video": "v",
        "question": "How many?",
        "options": ["6", "7", "6", "8"],
        "answer": "C",
        "categories": {"time_scale": "Video Clip"},
    }
    outcomes = [
        utils("scalelong").process_results(document, [said])["accuracy"]["outcome"]
        for said in ("a", "b", "C")
    ]
    assert outcomes == ["right", "wrong", "right"]


# MMLongBench


def parts(length: int = 8) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(
        (TASKS / f"mmlongbench/parts_{length}k.json").read_text(encoding="utf-8")
    )
    return listed


def mmlongbench_documents(hf_home: Path) -> dict[str, dict[str, Any]]:
    data.write_mmlongbench(hf_home, parts())
    found = list(utils("mmlongbench").process_docs(Dataset.from_list(parts())))
    first: dict[str, dict[str, Any]] = {}
    for document in found:
        first.setdefault(json.loads(document["part"])["dataset"], document)
    return first


def test_every_form_of_file_has_its_official_prompt_and_pictures(hf_home: Path) -> None:
    found = mmlongbench_documents(hf_home)
    assert len(found) == 17
    module = utils("mmlongbench")
    context = "It rained.\n\nSee <image> here."
    answer = "Write your answer in the following format:\nAnswer: [answer]\n\n"
    expected = {
        "viquae": "Use the given documents to write a concise and short answer to the question "
        f"about the entity shown in the image. {answer}Document (Title: T): X is Ann.\n\n"
        "Question: <image>Who is it?\nAnswer:",
        "vh_single": "You are given a set of images. Please answer the question in Yes or No based "
        f"on the given images. {answer}<image>\n<image>\n\nQuestion: Who is it?\nAnswer:",
        "mm_niah_retrieval-text": "You are given interleaved text and images. Please answer the "
        f"question based on the given text and images. {answer}{context}\n\n"
        "Question: Who is it?\nAnswer:",
        "mm_niah_counting-image": "You are given interleaved text and images. Please answer the "
        f"question based on the given text and images. {answer}{context}\n\n"
        "Question: How many <image> are in each picture?\nAnswer:",
        "mm_niah_reasoning-image": "You are given interleaved text and images. Please answer the "
        "question with the option's letter (A, B, etc.) based on the given text and images. "
        f"{answer}{context}\n\nQuestion: Who is it?\nA. <image>\nB. <image>\nAnswer:",
        "slidevqa": "You are given a document with text and images, and a question. Answer the "
        "question as concisely as you can, using a single phrase or sentence if possible. If the "
        "question cannot be answered based on the information in the article, write 'Not "
        f"answerable.' {answer}Document report: <image>\n\nDocument report: <image>\n\nQuestion: "
        "Based on Document report, answer the following question. Who is it?\nAnswer:",
    }
    for name, prompt in expected.items():
        assert module.doc_to_text(found[name]) == prompt, name
    for name, document in found.items():
        pictures = module.doc_to_visual(document)
        assert len(pictures) == module.doc_to_text(document).count("<image>"), name
    labels = module.doc_to_text(found["food101"])
    assert labels.startswith("You need to recognize entities in images. Use the provided mapping")
    assert 'Only output "label: {label}" and nothing else.\n\nTraining examples:\n' in labels
    assert labels.count("<image>\nlabel: ") == 4
    assert labels.endswith("\n\nNow classify this image: <image>\nlabel:")


@pytest.mark.parametrize(
    ("dataset", "said", "score", "official", "outcome"),
    [
        ("viquae", "It is Ann.", 1, 1, "right"),
        ("viquae", "Bob", 0, 0, "wrong"),
        ("vh_single", "Yes, it is.", 1, 1, "right"),
        ("vh_single", "no", 0, 0, "wrong"),
        # The first question's official default is no, and its answer yes.
        ("vh_single", "hm", 0, 0, "no answer"),
        ("mm_niah_counting-image", "[2, 1]", 1, 1, "right"),
        ("mm_niah_counting-image", "[1, 1]", 0, 0, "wrong"),
        ("mm_niah_reasoning-image", "B", 1, 1, "right"),
        ("mm_niah_reasoning-image", "A man and a dog", 0, 0, "no answer"),
        ("mm_niah_reasoning-image", "I see B and A in B", 0, 1, "no answer"),
        ("cars196", "3", 1, 1, "right"),
        ("cars196", "label: 5", 0, 0, "wrong"),
        ("cars196", "9" * 5000, 0, 0, "wrong"),  # more digits than `int` reads
        ("mm_niah_counting-image", f"[1e999, {'9' * 5000}]", 0, 0, "wrong"),
        ("mm_niah_counting-image", "[1e999, 3]", 1, 1, "right"),  # officially only 3 is a number
        ("slidevqa", "about 1204 dollars", 1, 1, "right"),
        ("slidevqa", "", 0, 0, "no answer"),
        ("slidevqa", FAILED, 0, 0, "failed"),
    ],
)
def test_answers_are_scored_by_this_suite_and_by_the_official_rule(
    dataset: str, said: str, score: float, official: float, outcome: str, hf_home: Path
) -> None:
    document = mmlongbench_documents(hf_home)[dataset]
    results = utils("mmlongbench").process_results(document, [said])
    record = results["average"]
    assert (record["score"], record["official_score"]) == (score, official)
    assert record["outcome"] == outcome
    assert set(results) == {"average", "official_average", record["categories"]["category"]}


@pytest.mark.parametrize(
    ("answer", "kind", "said", "score"),
    [
        ("12", "Integer", "12 miles or 3", 1.0),
        ("12", "Integer", "1.2", 0.0),
        ("3.5", "Float", "3.51", 1.0),
        ("10%", "Float", "0.1", 1.0),
        ("red old car", "String", "the red car", 0.8),
        ("2020-01-02", "String", "on 2020-01-02", 1.0),
        ("2020-01-02", "String", "2 January 2020", 0.0),
        ("Not answerable", "None", "Not answerable.", 1.0),
        ('["red", "car", "12"]', "List", "a red car", 0.5),
        ('["12", "3.5"]', "List", "3.5 and 12", 1.0),
    ],
)
def test_answers_on_documents_are_scored_by_their_kind(
    answer: str, kind: str, said: str, score: float
) -> None:
    assert mmlongbench.document_score(answer, said, kind) == pytest.approx(score)


def test_a_question_whose_answer_is_not_of_its_format_fails_alone(
    hf_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = mmlongbench_documents(hf_home)["slidevqa"]
    asked = mmlongbench.question_of(document)
    for answer, kind in (("[]", "List"), ("GPT-4", "Integer")):
        wrong = replace(asked, answer=answer, answer_format=kind)
        monkeypatch.setattr(mmlongbench, "question_of", lambda *_, wrong=wrong: wrong)
        record = utils("mmlongbench").process_results(document, ["GPT-4"])["average"]
        assert (record["outcome"], record["score"]) == ("failed", 0)
        assert record["reason"].startswith("cannot be scored: ")


def test_categories_weigh_the_same_and_kinds_of_needles_are_paired() -> None:
    def record(category: str, dataset: str, score: float) -> dict[str, Any]:
        return {
            "categories": {"category": category, "dataset": dataset},
            "score": score,
            "official_score": score,
        }

    records = [
        record("vrag", "infoseek", 1.0),
        record("niah", "mm_niah_retrieval-text", 1.0),
        record("niah", "mm_niah_retrieval-image", 0.0),
        record("niah", "vh_single", 0.0),
        record("niah", "vh_single", 0.0),
    ]
    assert mmlongbench.category_mean(records, "niah") == 0.25
    assert mmlongbench.average(records) == 0.625
    # Officially a yes-or-no accuracy below one half counts as its complement.
    assert mmlongbench.category_mean(records, "niah", score="official_score") == 0.75
    assert math.isnan(mmlongbench.average([]))


def test_questions_that_failed_do_not_raise_an_accuracy_that_is_turned_around() -> None:
    def record(outcome: str) -> dict[str, Any]:
        categories = {"category": "niah", "dataset": "vh_single"}
        return {"categories": categories, "outcome": outcome, "score": 0.0, "official_score": 0.0}

    for outcomes, mean in [(["failed"] * 4, 0.0), (["failed", "failed", "wrong", "wrong"], 0.5)]:
        records = [record(outcome) for outcome in outcomes]
        assert mmlongbench.category_mean(records, "niah", score="official_score") == mean


def test_models_that_take_messages_get_each_picture_where_the_text_speaks_of_it(
    hf_home: Path,
) -> None:
    module = utils("mmlongbench")
    for document in mmlongbench_documents(hf_home).values():
        (message,) = module.doc_to_messages(document)
        parts = message["content"]
        text = "".join("<image>" if p["type"] == "image" else p["text"] for p in parts)
        assert text == module.doc_to_text(document)
        given = [part["url"].tobytes() for part in parts if part["type"] == "image"]
        assert given == [picture.tobytes() for picture in module.doc_to_visual(document)]


def test_which_questions_are_asked_follows_from_the_official_seed(tmp_path: Path) -> None:
    rows = [{**data.mmlongbench_rows("document")[0], "id": n} for n in range(30)]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = mmlongbench.Part(dataset="slidevqa", category="doc_vqa", form="document",
                            metric="doc_qa", file="d.jsonl", samples=7)  # fmt: skip
    found = [d["question_id"] for d in mmlongbench.part_documents(part, tmp_path)]
    shuffled = Dataset.from_list([{"id": n} for n in range(30)]).shuffle(seed=42)
    assert found == [f"slidevqa/{n}/0" for n in shuffled["id"][:7]]
    # Six depths of an id stay together.
    rows = [{**data.mmlongbench_rows("rag")[0], "id": f"q{n}"} for n in range(9) for _ in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = mmlongbench.Part(dataset="viquae", category="vrag", form="rag", metric="sub_em",
                            file="d.jsonl", samples=4)  # fmt: skip
    drawn = mmlongbench.part_documents(part, tmp_path)
    assert len(drawn) == 24
    assert len({d["cluster"] for d in drawn}) == 4
    assert len({d["question_id"] for d in drawn}) == 24


# Bad data


def broken(**changes: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{**rows[0], **changes}, *rows[1:]]


def without(column: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


@pytest.mark.parametrize(
    ("folder", "function", "rows", "change", "message"),
    [
        ("longvideobench", "process_docs_val", data.longvideobench_rows, without("option3"),
         r"LongVideoBench val: .* has no column 'option3'"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows,
         broken(**{f"option{n}": "N/A" for n in range(5)}), "row 0: .*"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows, broken(option1="N/A"),
         "row 0: an option is missing between others"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows, broken(correct_choice=4),
         "row 0: the answer 4 is none of the options 0 to 3"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows, broken(correct_choice=-1),
         "row 0: the answer -1 is none"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows, broken(id="vid2_0"),
         "rows 0 and 2 have the same question id 'vid2_0'"),
        ("longvideobench", "process_docs_val", data.longvideobench_rows, broken(duration=None),
         "row 0 cannot be read: TypeError"),
        ("mlvu", "process_docs_test", data.mlvu_test_rows, without("question_id"),
         "no column 'question_id'"),
        ("mlvu", "process_docs_test", data.mlvu_test_rows, broken(answer="G"),
         "row 0: the answer 'G' is none of the options"),
        ("mlvu", "process_docs_test", data.mlvu_test_rows,
         broken(question="How many?", candidates=[]), "row 0: the answer 'F' is none"),
        ("mlvu", "process_docs_test", data.mlvu_test_rows, broken(candidates=["one", "two"]),
         "row 0: 6 options in the question, 2 candidates"),
        ("lvbench", "process_docs", data.lvbench_rows,
         broken(question="What?\n(A) x\n(C) y"), r"row 0: option 2 of the question is \(C\)"),
        ("lvbench", "process_docs", data.lvbench_rows, broken(question_type=["dancing"]),
         "row 0: the question types are .'dancing'."),
        ("lvbench", "process_docs", data.lvbench_rows, broken(video_path=""),
         "row 0: the video is ''"),
        ("infinibench", "process_docs", lambda: data.infinibench_rows()[:1],
         broken(options="[1, 2"), "row 0: the options '.1, 2' cannot be read"),
        ("infinibench", "process_docs", lambda: data.infinibench_rows()[:1], broken(answer_idx=7),
         "row 0: the answer 7 is none"),
    ],
)  # fmt: skip
def test_bad_rows_are_named_before_anything_is_asked(
    folder: str,
    function: str,
    rows: Callable[[], list[dict[str, Any]]],
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    message: str,
) -> None:
    with pytest.raises(DataError, match=message):
        documents(folder, function, change(rows()))


def test_a_missing_video_is_named_with_its_place(hf_home: Path) -> None:
    document = documents("lvbench", "process_docs", data.lvbench_rows())[0]
    with pytest.raises(MediaError, match=r"lvbench/Cm73ma6Ibcs\.mp4 does not exist"):
        utils("lvbench").doc_to_visual(document)
    data.write_video(hf_home / "lvbench" / "Cm73ma6Ibcs.mkv")
    assert utils("lvbench").doc_to_visual(document)[0].endswith("Cm73ma6Ibcs.mkv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "questions are not at"),
        ("{", "line 1 is not JSON"),
        ('{"v": "x"}', "line 1 is not of the form"),
        ('{"v": [{"data_id": 0}]}', "no column 'question', 'question_type'"),
        (json.dumps({"v": [{"data_id": 0, "question": "q", "question_type": "Counting Problem",
                            "granularity": "Video Film", "answer": "1", "distractors": ["2"]}]}),
         "row 0: the granularity 'Video Film' is none of"),
        (json.dumps({"v": [{"data_id": 0, "question": "q", "question_type": "Counting Problem",
                            "granularity": "Video Clip", "answer": "1", "distractors": []}]}),
         "row 0: the distractors are"),
    ],
)  # fmt: skip
def test_bad_scalelong_files_are_named(text: str, message: str, hf_home: Path) -> None:
    path = hf_home / "scalelong" / "questions.jsonl"
    path.parent.mkdir(parents=True)
    if text:
        path.write_text(text)
    manifest = Dataset.from_list([{"questions": "scalelong/questions.jsonl"}])
    with pytest.raises(DataError, match=message):
        utils("scalelong").process_docs(manifest)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("vrag/infoseek_K8_dep3.jsonl", None, "1 of 17 files are not below .*infoseek_K8_dep3"),
        ("vrag/infoseek_K8_dep3.jsonl", "{\n", "byte 0"),
        ("vrag/infoseek_K8_dep3.jsonl", '{"id": 1}\n', "row 0 has no 'question', 'image'"),
        ("NIAH/vh_single_test_1000_K8_dep6.jsonl",
         json.dumps({"id": 1, "question": "q", "ctxs": ["a"], "answer": "maybe"}) + "\n",
         r"row 0 \(id 1\): the answer is 'maybe', neither yes nor no"),
        ("NIAH/retrieval-image_test_K8_dep6.jsonl",
         json.dumps({**data.mmlongbench_rows("needle-choice")[0], "answer": 2}) + "\n",
         "the answer 2 is none of 2 options"),
        ("NIAH/retrieval-text_test_K8_dep6.jsonl",
         json.dumps({**data.mmlongbench_rows("needle-text")[0], "image_list": []}) + "\n",
         "1 places for pictures, 0 pictures"),
        ("ICL/food101_K8.json", '{"food": {}}', "'food' has no 'exemplar_list'"),
    ],
)  # fmt: skip
def test_bad_mmlongbench_files_are_named(
    file: str, content: str | None, message: str, hf_home: Path
) -> None:
    data.write_mmlongbench(hf_home, parts())
    path = hf_home / "mmlongbench/mmlb_data" / file
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        utils("mmlongbench").process_docs(Dataset.from_list(parts()))


def test_an_unreadable_picture_is_named(hf_home: Path) -> None:
    document = mmlongbench_documents(hf_home)["viquae"]
    picture = hf_home / "mmlongbench/mmlb_image/a/1.png"
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(MediaError, match=r"a/1\.png"):
        utils("mmlongbench").doc_to_visual(document)


# Reading


@pytest.mark.parametrize(
    ("answer", "letter"),
    [("B", "B"), ("(b)", None), ("(B)", "B"), ("two", "B"), ("TWO ", "B"), (1, "B"), (2.0, "C")],
)
def test_answers_come_as_letters_numbers_and_texts(answer: Any, letter: str | None) -> None:
    if letter is None:
        with pytest.raises(ValueError, match="none of the options"):
            answer_letter(answer, ["one", "two", "three"])
    else:
        assert answer_letter(answer, ["one", "two", "three"]) == letter


def test_an_option_may_go_on_over_lines() -> None:
    assert split_options("Why?\n(A) one\n  more\n(B) two") == ("Why?", ["one\nmore", "two"])
    assert split_options("(see above)\nWhy?") == ("(see above)\nWhy?", [])


# VDC


class _Judge(BaseHTTPRequestHandler):
    """Speaks chat completions; says yes to what it is asked, or what `reply` says."""

    reply: str | None = None

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        compares = "Correct Answer" in request["messages"][-1]["content"]
        text = "{'pred': 'yes', 'score': 4}" if compares else "a red car"
        text = self.reply if compares and self.reply else text
        body = json.dumps({"model": "judge-1", "choices": [{"message": {"content": text}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Judge]]:
    server = HTTPServer(("127.0.0.1", 0), _Judge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    monkeypatch.setenv("OPENAI_API_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.delenv("API_TYPE", raising=False)
    _Judge.reply = None
    yield _Judge
    server.shutdown()
    server.server_close()
    thread.join()


VDC_ROW = {
    "video_name": "v1",
    "caption": "A red car drives by.",
    "qa_list": [
        {"question": "What drives?", "answer": "a car"},
        {"question": "Which colour?", "answer": "red"},
    ],
}


def test_vdc_says_that_its_judge_is_missing_before_anything_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        utils("vdc").process_docs(Dataset.from_list([VDC_ROW]))


def test_a_caption_is_judged_question_by_question(judge: type[_Judge]) -> None:
    module = utils("vdc")
    (row,) = module.process_docs(Dataset.from_list([VDC_ROW]))
    record = module.process_results(row, ["A red car."])["accuracy"]
    assert (record["score"], record["judge_score"], record["outcome"]) == (1.0, 4.0, "right")
    assert [v["predicted"] for v in record["verdicts"]] == ["a red car", "a red car"]
    judge.reply = "{'pred': 'no', 'score': 1}"
    wrong = module.process_results(row, ["A red car."])["accuracy"]
    assert (wrong["score"], wrong["judge_score"], wrong["outcome"]) == (0.0, 1.0, "wrong")
    judge.reply = "I cannot say"
    failed = module.process_results(row, ["A red car."])["accuracy"]
    assert (failed["outcome"], failed["score"]) == ("failed", 0.0)
    assert failed["reason"].startswith("judge:")
    assert module.process_results(row, [""])["accuracy"]["outcome"] == "no answer"
    assert module.judge_score([record, wrong]) == 2.5


def test_vdc_prompts_are_the_hosts_and_follow_from_the_video() -> None:
    module = utils("vdc")
    for kind in get_args(Kind):
        prompt = getattr(module, f"doc_to_text_{kind}")({"video_name": "v1"})
        assert prompt in caption_prompts(kind)
        assert prompt == getattr(module, f"doc_to_text_{kind}")({"video_name": "v1"})
    asked = match_request("Q?", "yes", "no")["messages"][1]["content"]
    assert "Question: Q?\nCorrect Answer: yes\nPredicted Answer: no\n" in asked


def test_every_layout_of_these_folders_names_tasks_that_exist() -> None:
    layouts = read_layouts()
    ours = {path.stem for path in TASKS.glob("*/longva_*.yaml")}
    for name in ("longvideobench_val", "mlvu_dev", "mlvu_test", "lvbench", "infinibench", "vdc"):
        named = {task for task in layouts[name].tasks if task.startswith("longva_")}
        assert named
        assert named <= ours


# The process


@pytest.mark.process
def test_all_of_them_run_offline_from_prepared_copies(tmp_path: Path) -> None:
    home, source = tmp_path / "hf", tmp_path / "downloads"
    home.mkdir()
    for name, folder, write in [
        ("longvideobench_val", "lvb", data.write_longvideobench),
        ("longvideobench_test", "lvb", None),
        ("mlvu_dev", "MLVU_dev", data.write_mlvu_dev),
        ("mlvu_test", "MLVU_Test", data.write_mlvu_test),
        ("lvbench", "LVBench", data.write_lvbench),
        ("infinibench", "InfiniBench", data.write_infinibench),
    ]:
        if write is not None:
            write(source / folder)
        # A few rows of thousands: whole as far as media go.
        report = prepare(name, source / folder, home, allow_missing=True)
        assert not report.needs_skipping
    data.write_scalelong(home)
    for length in data.LENGTHS:
        data.write_mmlongbench(home, parts(length))
    environment = os.environ | {
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
    }
    command = [
        sys.executable, "-m", "lmms_eval",
        "--model", "longva",
        "--model_args", "pretrained=longva-tiny,max_frames_num=8,device=cpu",
        "--tasks", "longva_long_video,longva_longvideobench_test",
        "--limit", "2",
        "--output_path", "out",
        "--log_samples",
    ]  # fmt: skip
    done = processes.run(command, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (tmp_path / "out").rglob("*_results.json")
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    metrics = {
        "longva_longvideobench_val": "accuracy",
        "longva_longvideobench_test": "answered",
        "longva_mlvu_dev": "m_avg",
        "longva_mlvu_test": "m_avg",
        "longva_lvbench": "accuracy",
        "longva_infinibench": "skill_avg",
        "longva_scalelong": "scale_avg",
        **{f"longva_mmlongbench_{length}k": "average" for length in data.LENGTHS},
    }
    for task, metric in metrics.items():
        (samples,) = (tmp_path / "out").rglob(f"*_samples_{task}.jsonl")
        records = [json.loads(line)[metric] for line in samples.read_text().splitlines()]
        assert len(records) == 2, task
        assert all(record["media"] and Path(record["media"][0]).is_file() for record in records)
        assert all(record["outcome"] in ("right", "wrong", "no answer") for record in records)
        score = sum(record["score"] for record in records) / 2
        assert results[task][f"{metric},none"] == pytest.approx(score), task
