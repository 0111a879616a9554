"""VDC for lmms-eval: captions, judged question by question.

Prompts and the judge's instructions are lmms-eval's own (`longva_eval.tasks.vdc.vdc`). The judge
is asked for before the first caption, and a judge that fails is counted, not a 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longva_eval.questions.documents import check_documents, media_names, media_path
from longva_eval.questions.judge import JudgeError, judge_from_environment, require_judge
from longva_eval.questions.outcomes import FAILED, scored_record
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


def _prompt_of(kind: Kind) -> Callable[[Mapping[str, Any]], str]:
    def doc_to_text(doc: Mapping[str, Any]) -> str:
        """One of the prompts of a kind; which follows from the video's name, so that runs agree."""
        prompts = caption_prompts(kind)
        digest = hashlib.sha256(str(doc["video_name"]).encode()).digest()
        return prompts[int.from_bytes(digest[:8], "big") % len(prompts)]

    return doc_to_text


doc_to_text_camera, doc_to_text_short = _prompt_of("camera"), _prompt_of("short")
doc_to_text_background, doc_to_text_detailed = _prompt_of("background"), _prompt_of("detailed")
doc_to_text_main_object = _prompt_of("main_object")


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record: `score` is the share of questions that the caption answers."""
    text, verdicts, reason = results[0], [], ""
    if text != FAILED and text.strip():
        try:
            verdicts = [_verdict(text, pair) for pair in doc["qa_list"]]
        except JudgeError as error:
            reason = f"judge: {error}"
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


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    if not str(row["video_name"] or "").strip():
        raise ValueError(f"the video is {row['video_name']!r}")
    if not row["qa_list"]:
        raise ValueError("there are no questions for the judge")
    return {"question_id": str(row["video_name"])}
