"""Predictions of VLMEvalKit: one row a question, as xlsx, tsv or json, and its sheets of scores.

What such a file holds, from VLMEvalKit's code (`vlmeval/inference_video.py`, `smp/file.py`,
`dataset/{videomme,longvideobench,mlvu}.py` @ 2026-08-18): `MODEL_DATASET.xlsx` with the columns of
the data set's own table and `prediction`; `MODEL_DATASET_score.xlsx` is the same with `score`. Row
`index` is the place in the data. Of Video-MME that is lmms-eval's order, three questions a video,
so its ids are known; LongVideoBench's rows have theirs.

A sheet says nothing of frames, prompts and versions; no torch.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import MediaError
from longva_eval.questions.outcomes import FAILED
from longva_eval.reports.reading.building import build_run
from longva_eval.reports.reading.run import Run
from longva_eval.reports.reading.samples import Problem, count_of
from longva_eval.reports.rules.harnesses import vlmevalkit_infer, vlmevalkit_mlvu_letter
from longva_eval.reports.rules.official import videomme_letter

__all__ = ["is_sheet", "read_sheet"]

_FAILED: Final = "Failed to obtain answer via API"
_LETTERS: Final = "ABCDEFGHIJ"
_DATASETS: Final = (
    ("videomme", r"Video-?MME(?!.*v2)"), ("longvideobench_val", "LongVideoBench"),
    ("mlvu_dev", "MLVU"), ("mmmu_val", "MMMU(?!_?Pro)"),
)  # fmt: skip
"""Benchmark -> what a sheet's name holds."""
_METRIC: Final = "vlmevalkit_accuracy"


def is_sheet(path: Path) -> bool:
    """Whether a file can be one, by its name."""
    suffix = path.suffix.lower()
    is_named = any(re.search(f"_({form})", path.stem) for _, form in _DATASETS)
    return suffix in (".xlsx", ".tsv") or (
        suffix == ".json" and is_named and not path.name.endswith("_results.json")
    )


def read_sheet(path: Path) -> Run:
    """Read a sheet as a run of one task, `vlmevalkit_videomme` for example.

    Questions have the sheet's `score` where it has one, else what VLMEvalKit's exact matching
    gives (rule `vlmevalkit@2026-06`).

    Raises:
        MediaError: If the file cannot be read, or is none of VLMEvalKit's; or openpyxl is missing.
    """
    found = next(
        ((task, at) for task, form in _DATASETS if (at := re.search(f"_({form})", path.stem))), None
    )
    if found is None:
        raise MediaError(
            f"{path} is no results file of lmms-eval, nor named as VLMEvalKit names its sheets: "
            "MODEL_DATASET with Video-MME, LongVideoBench, MLVU or MMMU."
        )
    task, place = found
    rows = _rows(path)
    lacking = {"index", "prediction", "question"} - set(rows[0])
    if lacking:
        raise MediaError(f"{path} has no column {', '.join(sorted(lacking))}: no sheet of answers.")
    lines, left_out = [], 0
    for number, row in enumerate(rows):
        try:
            line = _line(task, number, row)
        except (ValueError, SyntaxError, KeyError, IndexError) as error:
            raise MediaError(
                f"{path}, row {number + 1}: {error or type(error).__name__}."
            ) from error
        lines += [] if line is None else [line]
        left_out += line is None
    if not lines:
        raise MediaError(f"{path} holds no multiple-choice question.")
    if task == "videomme":
        _name_questions(lines)
    problems = [
        Problem(
            kind="no results",
            text=f"{path} is a sheet of VLMEvalKit: settings and versions are not known.",
        )
    ]
    if left_out:
        text = f"{path}: {count_of(left_out, 'open question')} left out."
        problems.append(Problem(kind="number of samples", text=text))
    name = f"vlmevalkit_{task}" + ("_w_subtitle" if "_subs" in path.stem else "")
    model = path.stem[: place.start()]
    mean = math.fsum(line[_METRIC]["score"] for line in lines) / len(lines)
    results = {
        "results": {name: {f"{_METRIC},none": mean}},
        "configs": {name: {"task": name, "score_key": "score"}},
        "config": {"model": "VLMEvalKit", "model_args": f"pretrained={model}"},
        "higher_is_better": {name: {_METRIC: True}},
    }
    return build_run(path, results, {name: lines}, problems, date="", seeds="")


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows; cells are texts, as pandas would take "None" and "NA" for nothing."""
    import pandas as pd

    rows: Any
    try:
        if path.suffix.lower() == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix.lower() == ".tsv":
            rows = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).to_dict("records")
        else:
            rows = pd.read_excel(path, dtype=str, keep_default_na=False).to_dict("records")
    except ImportError as error:
        raise MediaError(
            f"{path} needs openpyxl to be read: pip install openpyxl. Or let VLMEvalKit write tsv "
            "(PRED_FORMAT=tsv)."
        ) from error
    except Exception as error:  # pandas, openpyxl and zipfile raise many types
        raise MediaError(
            f"{path} cannot be read ({type(error).__name__}: {error!s:.200})."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise MediaError(f"{path} is no list of rows: no sheet of VLMEvalKit.")
    if not rows:
        raise MediaError(f"{path} has no rows.")
    return rows


def _line(task: str, number: int, row: Mapping[str, Any]) -> dict[str, Any] | None:
    """A row as a line of lmms-eval's samples; None for an open question."""
    options = _options(row)
    if len(options) < 2:
        return None
    answer = str(row.get("correct_choice", row.get("answer", ""))).strip()
    if "correct_choice" in row:
        answer = _LETTERS[int(float(answer))]
    elif task == "mlvu_dev":
        answer = _LETTERS[options.index(answer)]
    if answer not in _LETTERS[: len(options)]:
        raise ValueError(f"the answer {answer!r} is none of {len(options)} options")
    said = "" if row["prediction"] is None else str(row["prediction"])
    text = FAILED if _FAILED in said else said
    index = int(float(row["index"])) if re.fullmatch(r"[\d.]+", str(row["index"])) else number
    score = row.get("score")
    if score in (None, ""):
        letter = _its_letter(task, said, options, answer) if text != FAILED else None
        score = float(letter == answer)
    categories = {
        name: str(row[name])
        for name in ("duration", "duration_group", "task_type", "domain", "category")
        if str(row.get(name) or "") and not (name == "duration" and task != "videomme")
    }
    record = {
        "score": max(0.0, float(score)),  # -1: its judge failed
        "answer": answer,
        "question": str(row["question"]),
        "options": options,
        "generated": "" if text == FAILED else said,
        "categories": categories,
        **({"outcome": "failed", "reason": said} if text == FAILED else {}),
        **({"question_id": str(row["id"])} if row.get("id") else {}),
        **({"videoID": str(row["video"])} if row.get("video") else {}),
    }
    return {"doc_id": index, "target": answer, "filtered_resps": said, "input": "", _METRIC: record}


def _options(row: Mapping[str, Any]) -> list[str]:
    given = row.get("candidates")
    if given not in (None, ""):
        found = ast.literal_eval(given) if isinstance(given, str) else given
        return [str(option) for option in found]
    letters = (str(row.get(letter, "") or "") for letter in _LETTERS)
    return [option for option in letters if option not in ("", "nan")]


def _its_letter(task: str, said: str, options: Sequence[str], answer: str) -> str | None:
    """What exact matching reads, without a judge."""
    named = {
        letter: re.sub(rf"^{letter}[.)]\s*", "", option)
        for letter, option in zip(_LETTERS, options, strict=False)
    }
    if task == "mlvu_dev":
        return vlmevalkit_mlvu_letter(said, named, answer, verbose=True)
    if task == "mmmu_val":
        return vlmevalkit_infer(said, named, verbose=True)
    return videomme_letter(said, letters="ABCD" if task == "videomme" else "ABCDE")


def _name_questions(lines: Sequence[dict[str, Any]]) -> None:
    """Video-MME's ids from the places of its questions, if their durations are its own."""
    blocks = ("short", "medium", "long")
    for line in lines:
        place = line["doc_id"]
        if place >= 2700 or line[_METRIC]["categories"].get("duration") != blocks[place // 900]:
            return
    for line in lines:
        place = line["doc_id"]
        line[_METRIC]["question_id"] = f"{place // 3 + 1:03}-{place % 3 + 1}"
