"""Annotations as their authors publish them, written in the form that the tasks read.

    python -m longva_eval.tasks.from_authors mlvu_dev MLVU/data rows.parquet

| name | what it reads |
|---|---|
| mlvu_dev | `1_plotQA.json` ... `7_topic_reasoning.json` of JUNJIE99/MLVU, folder `data` |
| longvideobench_val | `lvb_val.json` of LongVideoBench |
| lvbench | `video_info.meta.jsonl` of LVBench |
| activitynetqa | `test_q.json` and `test_a.json` of MILVLG/activitynet-qa, folder `dataset` |
| nextqa_mc | `test.csv` of doc-doc/NExT-QA, folder `dataset/nextqa` |
| nextqa_oe_test, nextqa_oe_val | `test.csv` with `add_reference_answer_test.json`, or `val.csv`, of
  doc-doc/NExT-OE, folder `dataset/nextqa` |

`longva-eval prepare NAME --from DIR` then finds the parquet file beside the videos.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longva_eval.errors import DataError

Rows = list[dict[str, Any]]
_NO_OPTIONS = ("N/A",) * 5


def mlvu_dev(folder: Path) -> Rows:
    """The seven multiple-choice types, in the authors' order; a file's place makes the id."""
    files = sorted(folder.glob("[1-7]_*.json"))
    if len(files) != 7:
        raise DataError(f"{folder} has {len(files)} of the seven files 1_plotQA.json and so on.")
    return [
        {
            "video_name": row["video"],
            "question": row["question"],
            "candidates": row["candidates"],
            "answer": row["answer"],
            "task_type": row["question_type"],
        }
        for file in files
        for row in _json(file)
    ]


def longvideobench_val(folder: Path) -> Rows:
    """Up to five options in a list; the hub's rows have a column for each."""
    return [
        {key: row[key] for key in row if key not in ("candidates", "position")}
        | {f"option{number}": text for number, text in enumerate((*row["candidates"], *_NO_OPTIONS))
           if number < len(_NO_OPTIONS)}
        for row in _json(folder / "lvb_val.json")
    ]  # fmt: skip


def lvbench(folder: Path) -> Rows:
    """A line for each video, with its questions."""
    lines = (folder / "video_info.meta.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {**question, "video_path": f"{video['key']}.mp4", "type": video["type"]}
        for video in map(json.loads, filter(str.strip, lines))
        for question in video["qa"]
    ]


def activitynetqa(folder: Path) -> Rows:
    """Questions with their answers; kinds of questions stay numbers."""
    answers = {row["question_id"]: row for row in _json(folder / "test_a.json")}
    questions = _json(folder / "test_q.json")
    missing = [row["question_id"] for row in questions if row["question_id"] not in answers]
    if missing:
        raise DataError(f"{folder / 'test_a.json'} has no answer to {', '.join(missing[:5])}.")
    return [
        {**row, **answers[row["question_id"]], "type": str(answers[row["question_id"]]["type"])}
        for row in questions
    ]


def nextqa_mc(folder: Path) -> Rows:
    """Five options a0 to a4 and the number of the right one."""
    return [{**row, "answer": int(row["answer"])} for row in _csv(folder / "test.csv")]


def nextqa_oe_test(folder: Path) -> Rows:
    """Open questions; about half have a second right answer."""
    more = _json(folder / "add_reference_answer_test.json")
    return [
        {**row, "additional_ref_answer": more.get(row["video"], {}).get(row["qid"], "")}
        for row in _csv(folder / "test.csv")
    ]


def nextqa_oe_val(folder: Path) -> Rows:
    """Open questions of the validation split, each with one right answer."""
    return [{**row, "additional_ref_answer": ""} for row in _csv(folder / "val.csv")]


FORMS: dict[str, Callable[[Path], Rows]] = {
    form.__name__: form
    for form in (
        mlvu_dev,
        longvideobench_val,
        lvbench,
        activitynetqa,
        nextqa_mc,
        nextqa_oe_test,
        nextqa_oe_val,
    )
}


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _csv(file: Path) -> Rows:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def main() -> None:
    """The command above."""
    from datasets import Dataset

    parser = argparse.ArgumentParser(description="Annotations of their authors as task rows.")
    parser.add_argument("name", choices=FORMS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    rows = FORMS[options.name](options.folder)
    Dataset.from_list(rows).to_parquet(options.out)
    print(f"{len(rows):,} rows in {options.out}")


if __name__ == "__main__":
    main()
