"""VDC for lmms-eval: captions, judged question by question.

Prompts and the judge's instructions are lmms-eval's own (`longva_eval.tasks.vdc.vdc`). The judge
is asked for before the first caption, and a judge that fails is counted, not a 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from longva_eval.questions.documents import check_documents, media_names, media_path
from longva_eval.questions.judge import JudgeError, judge_from_environment, require_judge
from longva_eval.questions.outcomes import FAILED, mean_score, scored_record
from longva_eval.tasks.vdc.vdc import Kind, answer_request, caption_prompts, match_request

FOLDER = "vdc_test/Test_Videos"
_COLUMNS = ("video_name", "caption", "qa_list")


def process_docs(dataset: Any) -> Any:
    """The videos; the judge must answer before anything is asked."""
    require_judge("longva_vdc")
    check_documents(
        dataset, _read, name="VDC", columns=_COLUMNS, present=list(dataset.column_names)
    )
    return dataset


def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
    """The video's path."""
    suffixes = (".mp4", ".MP4", ".mkv")
    return [str(media_path(FOLDER, f"{doc['video_name']}.mp4", suffixes=suffixes, entry="vdc"))]


def doc_to_text_camera(doc: Mapping[str, Any]) -> str:
    """What to write about the camera."""
    return _prompt(doc, "camera")


def doc_to_text_short(doc: Mapping[str, Any]) -> str:
    """One sentence."""
    return _prompt(doc, "short")


def doc_to_text_background(doc: Mapping[str, Any]) -> str:
    """What to write about the background."""
    return _prompt(doc, "background")


def doc_to_text_main_object(doc: Mapping[str, Any]) -> str:
    """What to write about the main object."""
    return _prompt(doc, "main_object")


def doc_to_text_detailed(doc: Mapping[str, Any]) -> str:
    """Everything."""
    return _prompt(doc, "detailed")


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record: `score` is the share of questions that the caption answers."""
    text, verdicts, reason = results[0], [], ""
    if text != FAILED and text.strip():
        try:
            verdicts = [_verdict(text, pair) for pair in doc["qa_list"]]
        except JudgeError as error:
            verdicts, reason = [], f"judge: {error}"
    yes = [float(verdict["verdict"] == "yes") for verdict in verdicts]
    record = scored_record(
        FAILED if reason else text,
        score=math.fsum(yes) / len(yes) if yes else 0.0,
        # What the judge goes by are the answers; the caption is for people.
        answer=str(doc["caption"] or "") or [str(pair["answer"]) for pair in doc["qa_list"]],
        question_id=str(doc["video_name"]),
        cluster=str(doc["video_name"]),
        media=media_names(FOLDER, f"{doc['video_name']}.mp4"),
        judge_score=_mean([float(verdict["score"]) for verdict in verdicts]),
        caption=text,
        verdicts=verdicts,
        reason=reason,
    )
    return {"accuracy": record, "judge_score": record}


def accuracy(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean share of questions that a caption answers."""
    return mean_score(items)


def judge_score(items: Sequence[Mapping[str, Any]]) -> float:
    """Mean of the judge's scores, from 0 to 5, as published."""
    return _mean([float(item["judge_score"]) for item in items]) if items else math.nan


def _verdict(caption: str, pair: Mapping[str, Any]) -> dict[str, Any]:
    judge = judge_from_environment()
    predicted, _ = judge.ask(answer_request(str(pair["question"]), caption))
    said = judge.judge(
        match_request(str(pair["question"]), str(pair["answer"]), predicted), with_verdict=True
    )
    return {
        "question": str(pair["question"]),
        "answer": str(pair["answer"]),
        "predicted": predicted,
        "verdict": str(said.verdict),
        "score": said.score,
        "judge": said.model,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _prompt(doc: Mapping[str, Any], kind: Kind) -> str:
    """One of the prompts of a kind; which follows from the video's name, so that runs agree."""
    prompts = caption_prompts(kind)
    digest = hashlib.sha256(str(doc["video_name"]).encode()).digest()
    return prompts[int.from_bytes(digest[:8], "big") % len(prompts)]


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    if not str(row["video_name"] or "").strip():
        raise ValueError(f"the video is {row['video_name']!r}")
    if not row["qa_list"]:
        raise ValueError("there are no questions for the judge")
    return {"question_id": str(row["video_name"])}
