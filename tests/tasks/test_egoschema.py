"""EgoSchema: the prompt, the records, and a run from a local copy to a refused submission."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import processes
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import OPEN
from datasets import Dataset

from longva_eval.errors import DataError
from longva_eval.local.prepare import prepare
from longva_eval.reports.boards.submissions import submit
from longva_eval.reports.reading.runs import read_run

FOLDER = Path(__file__).parents[2] / "tasks/egoschema"
PROMPT = """\
What does C do first?
A. C cuts wood
B. C paints a wall
C. C reads
D. C cooks
E. C sleeps
Answer with the option's letter from the given choices directly."""


def utils() -> ModuleType:
    spec = importlib.util.spec_from_file_location("egoschema_utils", FOLDER / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(answers: list[Any]) -> list[dict[str, Any]]:
    acts = ("cuts wood", "paints a wall", "reads", "cooks", "sleeps")
    return [
        {
            "question_idx": str(number),
            "question": "What does C do first?",
            "video_idx": f"0000-{number}",
            "option": [f"{letter}. C {act}" for letter, act in zip("ABCDE", acts, strict=True)],
            "answer": answer,
        }
        for number, answer in enumerate(answers)
    ]


def test_the_prompt_is_the_hosts() -> None:
    (document,) = utils().process_docs(Dataset.from_list(rows([None])))
    assert utils().doc_to_text(document) == PROMPT


def test_hidden_answers_give_no_score_and_public_ones_do() -> None:
    task = utils()
    (hidden,) = task.process_docs(Dataset.from_list(rows([None])))
    record = task.process_results(hidden, ["(C) C reads"])["answered"]
    assert (record["choice"], record["score"], record["hidden_answer"]) == ("C", 1.0, True)
    assert task.process_results(hidden, ["nothing of it"])["answered"]["score"] == 0.0
    documents = task.process_docs_subset(Dataset.from_list(rows(["2", "0"])))
    scores = [task.process_results_subset(doc, ["C"])["accuracy"]["score"] for doc in documents]
    assert scores == [1.0, 0.0]


def test_two_questions_on_a_video_are_no_data_of_egoschema() -> None:
    twice = rows([None, None])
    twice[1]["video_idx"] = twice[0]["video_idx"]
    with pytest.raises(DataError, match="the same question id '0000-0'"):
        utils().process_docs(Dataset.from_list(twice))


@pytest.mark.process
def test_a_prepared_copy_runs_and_part_of_it_is_no_submission(tmp_path: Path) -> None:
    source = tmp_path / "copy"
    (source / "GENERATION").mkdir(parents=True)
    schema = pa.schema([("question_idx", pa.string()), ("question", pa.string()),
                        ("video_idx", pa.string()), ("option", pa.list_(pa.string())),
                        ("answer", pa.string())])  # fmt: skip
    table = pa.Table.from_pylist(rows([None, None, None]), schema)
    pq.write_table(table, source / "GENERATION/test-00000-of-00001.parquet")
    for number in range(2):  # the third video is missing
        shutil.copy(OPEN / "inputs/landscape_320x180.mp4", source / f"0000-{number}.mp4")
    prepare("egoschema", source, tmp_path / "hf", allow_missing=True)
    arguments = f"pretrained={OPEN / 'longva_tiny'},device=cpu,max_frames_num=4,on_error=skip"
    done = processes.run(
        [sys.executable, "-m", "lmms_eval", "--model", "longva", "--model_args", arguments,
         "--tasks", "longva_egoschema", "--output_path", "out", "--log_samples"],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1",
             "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    run = read_run(tmp_path / "out")
    questions = run.tasks["longva_egoschema"].samples
    assert [question.question_id for question in questions] == ["0000-0", "0000-1", "0000-2"]
    assert questions[2].outcome == "failed"
    with pytest.raises(DataError) as caught:
        submit("egoschema", run, tmp_path / "ego.json", hf_home=tmp_path / "hf")
    assert "1 question failed: 0000-2." in str(caught.value)
    assert "videos/0000-2 does not exist" in str(caught.value)  # the reason that the adapter gave
    assert "it has 3 questions, and the benchmark 5,031" in str(caught.value)
    manifest = json.loads(
        (tmp_path / "hf/longva_eval/prepared/egoschema.json").read_text(encoding="utf-8")
    )
    assert manifest["num_rows_with_media"] == 2
