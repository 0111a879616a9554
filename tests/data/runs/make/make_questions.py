"""Write the questions of six mini-benchmark videos per length as data of five tasks of lmms-eval.

    python make_questions.py WORK

Videos go to WORK/hf/videomme/data, one parquet file per schema to WORK, and YAML files that include
lmms-eval's own ones, with these data in place of theirs, to WORK/tasks. `WORK` in tasks/ here stands
for the same folder.
"""

import sys
from pathlib import Path

import lmms_eval
import pyarrow as pa
import pyarrow.parquet as pq

from longva_eval.tasks.mini.mini_benchmark import generate_mini_benchmark

WORK = Path(sys.argv[1])
HOST = Path(lmms_eval.__file__).parent / "tasks"
KINDS = [
    ("Knowledge", "Humanity & History"),
    ("Film & Television", "Documentary"),
    ("Sports Competition", "Basketball"),
]  # names that lmms-eval's videomme knows

rows = generate_mini_benchmark(WORK / "hf/videomme/data", videos_per_duration=6)
for row in rows:
    row["domain"], row["sub_category"] = KINDS[sum(map(ord, row["sub_category"])) % 3]
letters = {row["question_id"]: ord(row["answer"]) - 65 for row in rows}
tables = {
    "videomme": rows,
    "mlvu": [
        {
            "video_name": r["videoID"] + ".mp4",
            "answer": r["answer"],
            "candidates": r["options"],
            "question": r["question"] + "\n" + "\n".join(r["options"]),
            "duration": 10.0,
            "task_type": ["count", "ego", "needle"][k % 3],
        }
        for k, r in enumerate(rows)
    ],
    "nextqa": [
        {
            "video": r["videoID"],
            "question": r["question"],
            "answer": letters[r["question_id"]],
            **{f"a{n}": r["options"][n][3:] for n in range(4)},
            "a4": "none of them",
            "qid": str(k),
            "type": "X",
        }
        for k, r in enumerate(rows)
    ],
    "lvb": [
        {
            "video_path": r["videoID"] + ".mp4",
            "question": r["question"],
            "id": r["question_id"],
            "correct_choice": letters[r["question_id"]],
            "option4": "N/A",
            "subtitle_path": "x",
            **{f"option{n}": r["options"][n][3:] for n in range(4)},
            "question_category": "T2E",
            "duration_group": {"short": 15, "medium": 60, "long": 600}[r["duration"]],
        }
        for r in rows
    ],
    "lvbench": [
        {
            "video_path": r["videoID"],
            "key": r["videoID"],
            "answer": r["answer"],
            "uid": str(k),
            "question": r["question"] + "\n" + "\n".join(r["options"]),
            "question_type": ["x"],
            "type": "y",
        }
        for k, r in enumerate(rows)
    ],
}
(WORK / "tasks").mkdir(parents=True, exist_ok=True)
for name, host, split in [
    ("videomme", "videomme/videomme.yaml", "test"),
    ("mlvu", "mlvu/mlvu_dev.yaml", "test"),
    ("nextqa", "nextqa/nextqa_mc_test.yaml", "test"),
    ("lvb", "longvideobench/longvideobench_val_v.yaml", "validation"),
    ("lvbench", "lvbench/lvbench.yaml", "train"),
]:
    pq.write_table(pa.Table.from_pylist(tables[name]), WORK / f"{name}.parquet")
    (WORK / "tasks" / f"cmp_{name}.yaml").write_text(
        f"include: {HOST / host}\ntask: cmp_{name}\ndataset_path: parquet\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files:\n    {split}: {WORK / name}.parquet\n"
    )
