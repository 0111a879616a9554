"""The authors' own forms become rows that our tasks read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset

from longva_eval.errors import DataError
from longva_eval.tasks.from_authors import activitynetqa, mlvu_dev, nextqa_mc, nextqa_oe_test
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
