"""The authors' own forms become rows that our tasks read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from longva_eval.errors import DataError
from longva_eval.tasks.from_authors import (
    activitynetqa,
    longvideobench_val,
    lvbench,
    mlvu_dev,
    nextqa_mc,
    nextqa_oe_test,
)
from longva_eval.tasks.longvideobench import utils as longvideobench_task
from longva_eval.tasks.lvbench import utils as lvbench_task
from longva_eval.tasks.mlvu import utils as mlvu
from longva_eval.tasks.short_video import utils as short_video

TYPES = ("plotQA", "needle", "ego", "count", "order", "anomaly_reco", "topic_reasoning")


def test_mlvu_by_type_with_an_empty_option_and_an_empty_question(tmp_path: Path) -> None:
    for number, kind in enumerate(TYPES, start=1):
        row = {
            "video": f"{kind}.mp4", "duration": 9, "question": "" if kind == "ego" else "What?",
            "candidates": ["red", "", "blue", "green"], "answer": "", "question_type": kind,
        }  # fmt: skip
        (tmp_path / f"{number}_{kind}.json").write_text(json.dumps([row]))
    found = list(mlvu.process_docs_dev(Dataset.from_list(mlvu_dev(tmp_path))))
    assert [doc["question_id"] for doc in found] == [f"{kind}_0" for kind in TYPES]
    assert {doc["answer"] for doc in found} == {"B"}
    assert [doc["question_id"] for doc in found if doc["unaskable"]] == ["ego_0"]
    record = mlvu.process_results_dev(found[2], ["B"])["accuracy"]
    assert (record["outcome"], record["question_id"]) == ("failed", "ego_0")
    (tmp_path / "7_topic_reasoning.json").unlink()
    with pytest.raises(DataError, match="has 6 of the seven files"):
        mlvu_dev(tmp_path)


def test_longvideobench_with_options_in_a_list(tmp_path: Path) -> None:
    row = {
        "video_id": "x", "question": "What?", "question_wo_referring_query": "What?",
        "candidates": ["red", "green", "blue", "pink"], "correct_choice": 1, "position": [8, 9],
        "topic_category": "NP-News-Programs", "question_category": "TOS", "level": "L2-Relation",
        "id": "x_0", "video_path": "x.mp4", "subtitle_path": "x_en.json", "duration_group": 600,
        "starting_timestamp_for_subtitles": 0, "duration": 190.16, "view_count": 2,
    }  # fmt: skip
    five = {**row, "id": "x_1", "candidates": [*row["candidates"], "grey"], "correct_choice": 4}
    (tmp_path / "lvb_val.json").write_text(json.dumps([row, five]))
    rows = Dataset.from_list(longvideobench_val(tmp_path))
    first, second = longvideobench_task.process_docs_val(rows)
    assert (first["answer"], len(first["options"])) == ("B", 4)
    assert (second["answer"], second["options"][4]) == ("E", "grey")


def test_lvbench_by_video(tmp_path: Path) -> None:
    question = {
        "uid": "7", "question": "What year?\n(A) 1636\n(B) 1366", "answer": "B",
        "question_type": ["key information retrieval"], "time_reference": "00:15-00:19",
    }  # fmt: skip
    video = {"key": "x", "type": "cartoon", "video_info": {"fps": 24}, "qa": [question]}
    (tmp_path / "video_info.meta.jsonl").write_text(json.dumps(video) + "\n")
    (document,) = lvbench_task.process_docs(Dataset.from_list(lvbench(tmp_path)))
    assert (document["video"], document["answer"]) == ("x.mp4", "B")
    assert document["options"] == ["1636", "1366"]


def test_activitynetqa_of_two_files(tmp_path: Path) -> None:
    question = {"video_name": "x", "question": "is it red", "question_id": "v_x_1"}
    (tmp_path / "test_q.json").write_text(json.dumps([question]))
    answer = {"answer": "yes", "type": 3, "question_id": "v_x_1"}
    (tmp_path / "test_a.json").write_text(json.dumps([answer]))
    assert activitynetqa(tmp_path) == [{**question, "answer": "yes", "type": "3"}]
    (tmp_path / "test_a.json").write_text("[]")
    with pytest.raises(DataError, match="no answer to v_x_1"):
        activitynetqa(tmp_path)


def test_nextqa_as_csv(tmp_path: Path) -> None:
    head = "video,frame_count,width,height,question,answer,qid,type"
    (tmp_path / "test.csv").write_text(f"{head},a0,a1,a2,a3,a4\n7,9,1,1,why,2,8,CW,a,b,c,d,e\n")
    (document,) = short_video.nextqa_mc_docs(Dataset.from_list(nextqa_mc(tmp_path)))
    assert (document["question_id"], document["answer"]) == ("7_8", "C")
    (tmp_path / "test.csv").write_text(f"{head}\n7,9,1,1,where,home,4,DL\n")
    (tmp_path / "add_reference_answer_test.json").write_text('{"7": {"4": "house"}}')
    (row,) = nextqa_oe_test(tmp_path)
    assert (row["answer"], row["additional_ref_answer"]) == ("home", "house")
