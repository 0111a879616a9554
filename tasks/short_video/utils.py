"""NExT-QA, ActivityNet-QA, Video-ChatGPT and Video-DD for lmms-eval.

Prompts, to the model and to the judge, are lmms-eval's own. What differs is told in README.md: an
answer that cannot be read is no answer, and a judge that fails is counted, not a 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from longva_eval.errors import SettingsError
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import (
    letter_of,
    make_choice_doc,
    media_names,
    media_path,
    read_dataset,
)
from longva_eval.questions.judge import (
    JudgeError,
    Judgement,
    host_request,
    judge_from_environment,
    require_judge,
)
from longva_eval.questions.outcomes import FAILED, scored_record
from longva_eval.questions.wups import answer_words, missing_parts, wups

NEXTQA, ACTIVITYNETQA, VIDEOCHATGPT = (
    "nextqa/NExTVideo",
    "activitynetqa/all_test",
    "videochatgpt/Test_Videos",
)
_REASONING = {"C": "causal", "T": "temporal", "D": "descriptive"}
_HIGHEST = 5


def doc_to_target(doc: Mapping[str, Any]) -> str:
    """What is right."""
    return str(doc["answer"])


def _visual_of(folder: str, entry: str) -> Callable[[Mapping[str, Any]], list[str]]:
    def doc_to_visual(doc: Mapping[str, Any]) -> list[str]:
        """The video's path."""
        return [str(media_path(folder, doc["video"], entry=entry))]

    return doc_to_visual


nextqa_oe_visual = _visual_of(NEXTQA, "nextqa_oe_test")
activitynetqa_visual = _visual_of(ACTIVITYNETQA, "activitynetqa")
videochatgpt_visual = _visual_of(VIDEOCHATGPT, "videochatgpt_gen")  # Video-DD has the same videos


# --- NExT-QA --------------------------------------------------------------------------------------


def nextqa_oe_docs(dataset: Any) -> Any:
    """Checked documents; NLTK's data must be there before anything is asked."""
    columns = ("video", "question", "answer", "qid", "type", "additional_ref_answer")
    documents = read_dataset(dataset, _read_nextqa_oe, task="NExT-QA OE", columns=columns)
    problems = missing_parts()
    if problems:
        raise SettingsError(f"NExT-QA OE cannot be scored here. {' '.join(problems)}.")
    return documents


def nextqa_oe_text(doc: Mapping[str, Any]) -> str:
    """The question and how to answer."""
    return f"{doc['question']}\nAnswer a question using a short phrase or sentence."


def nextqa_oe_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record. Yes/no and counting questions must agree; others score WUPS at threshold 0."""
    text = results[0]
    answers = [doc["answer"], *([doc["other_answer"]] if doc["other_answer"] else [])]
    score = 0.0
    if text.strip() and text != FAILED:
        said = answer_words(text)
        references = [answer_words(answer) for answer in answers]
        if doc["categories"]["type"] in ("DB", "DC"):
            score = float(any(said == reference for reference in references))
        else:
            score = max(wups(said, reference) for reference in references)
    return {"wups": _open_record(doc, NEXTQA, text, score, answers)}


def _read_nextqa_mc(row: Mapping[str, Any]) -> dict[str, Any]:
    options = [row[f"a{number}"] for number in range(5)]
    if any(not isinstance(option, str) or not option.strip() for option in options):
        raise ValueError(f"the options a0 to a4 are {options}")
    if row["answer"] not in range(5):
        raise ValueError(f"the answer is {row['answer']!r}, not 0 to 4")
    return make_choice_doc(
        question_id=f"{row['video']}_{row['qid']}",
        video=str(row["video"]),
        question=row["question"],
        options=options,
        answer=letter_of(int(row["answer"])),
        categories=_nextqa_categories(row["type"]),
    )


def _read_nextqa_oe(row: Mapping[str, Any]) -> dict[str, Any]:
    return _open_document(
        question_id=f"{row['video']}_{row['qid']}",
        video=str(row["video"]),
        question=str(row["question"] or "").strip(),
        answer=row["answer"],
        categories=_nextqa_categories(row["type"]),
        other_answer=str(row["additional_ref_answer"] or ""),
    )


def _nextqa_categories(kind: Any) -> dict[str, str | None]:
    if not isinstance(kind, str) or kind[:1] not in _REASONING:
        raise ValueError(f"the type is {kind!r}, not one such as CW, TN or DO")
    # The few questions on the present are counted with those on what comes next.
    return {"reasoning": _REASONING[kind[0]], "type": "TN" if kind == "TP" else kind}


NEXTQA_MC = ChoiceTask(
    name="NExT-QA MC",
    folder="nextqa/NExTVideo",
    entry="nextqa_mc",
    columns=("video", "question", "answer", "qid", "type", "a0", "a1", "a2", "a3", "a4"),
    read=_read_nextqa_mc,
    instruction="",  # the host says no more
)
nextqa_mc_docs, nextqa_mc_visual, nextqa_mc_text, nextqa_mc_result = NEXTQA_MC.functions


# --- ActivityNet-QA -------------------------------------------------------------------------------


def activitynetqa_docs(dataset: Any) -> Any:
    """Checked documents; the judge must answer before anything is asked."""
    require_judge("longva_activitynetqa")
    columns = ("video_name", "question_id", "question", "answer", "type")
    return read_dataset(dataset, _read_activitynetqa, task="ActivityNet-QA", columns=columns)


def activitynetqa_text(doc: Mapping[str, Any]) -> str:
    """The question as a sentence, and how to answer."""
    question = f"{doc['question'].capitalize()}?"
    return f"{question} Answer the question using a single word or phrase."


def activitynetqa_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Two records of one judgement: right or not, and the score out of 5."""
    text = results[0]
    request = ("activitynetqa", "get_eval", doc["question"], doc["answer"], text, 64)
    judged = _judge(text, *request, with_verdict=True)
    verdict = judged.verdict if isinstance(judged, Judgement) else None
    return {
        "judge_accuracy": _judged_record(
            doc, ACTIVITYNETQA, text, judged, score=float(verdict == "yes")
        ),
        "judge_score": _judged_record(doc, ACTIVITYNETQA, text, judged),
    }


def _read_activitynetqa(row: Mapping[str, Any]) -> dict[str, Any]:
    return _open_document(
        question_id=row["question_id"],
        video=f"v_{row['video_name']}",
        question=row["question"],
        answer=row["answer"],
        categories={"type": str(row["type"])},
    )


# --- Video-ChatGPT and Video-DD -------------------------------------------------------------------


def _described_docs(task: str, title: str) -> Callable[[Any], Any]:
    def process_docs(dataset: Any) -> Any:
        """Checked documents; the data set has no ids, so a question's is its row."""
        require_judge(task)
        numbers = itertools.count()

        def read(row: Mapping[str, Any]) -> dict[str, Any]:
            return _open_document(
                question_id=next(numbers),
                video=row["video_name"],
                question=row["question"],
                answer=row["answer"],
                categories={"all": None},
            )

        columns = ("video_name", "question", "answer")
        return read_dataset(dataset, read, task=title, columns=columns)

    return process_docs


videochatgpt_gen_docs = _described_docs("longva_videochatgpt_gen", "Video-ChatGPT Generic")
videochatgpt_temporal_docs = _described_docs(
    "longva_videochatgpt_temporal", "Video-ChatGPT Temporal"
)
video_dd_docs = _described_docs("longva_video_dd", "Video-DD")


def videochatgpt_text(doc: Mapping[str, Any]) -> str:
    """The question alone."""
    return str(doc["question"])


def videochatgpt_gen_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """Three records, of three judgements."""
    aspects = {"correctness": "correctness", "detail": "detailed_orientation", "context": "context"}
    return {
        f"judge_{name}": _judged_as(doc, results[0], "videochatgpt", aspect)
        for name, aspect in aspects.items()
    }


def videochatgpt_temporal_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record."""
    return {"judge_temporal": _judged_as(doc, results[0], "videochatgpt", "temporal")}


def video_dd_result(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """The record."""
    return {"judge_score": _judged_as(doc, results[0], "video_detail_description")}


# --- Video-ChatGPT, consistency: a pair of questions, asked one after the other, judged together --


def videochatgpt_consistency_docs(dataset: Any) -> Any:
    """A document for every two rows that ask the same of a video in other words."""
    require_judge("longva_videochatgpt_consistency")
    columns = ("video_name", "question_1", "question_2", "answer")
    rows = read_dataset(
        dataset, _reader_of_halves(), task="Video-ChatGPT Consistency", columns=columns
    )
    return _paired(rows)


def videochatgpt_consistency_text(
    doc: Mapping[str, Any],
    lmms_eval_specific_kwargs: Mapping[str, Any] | None = None,
    *,
    previous_output: Sequence[str] | None = None,
    round_idx: int | None = None,
    previous_round_info: Any = None,
) -> Any:
    """The first question; then, in the host's form for rounds, the second, alone with the video."""
    del lmms_eval_specific_kwargs, previous_round_info
    if round_idx is None:
        return str(doc["question"])
    said = list(previous_output or [])
    if said == [FAILED]:  # the same video would fail again, and its path may not be there to give
        return None, None, True, [FAILED, FAILED], None
    if round_idx == 1:
        return videochatgpt_visual(doc), str(doc["second_question"]), False, said, None
    return None, None, True, said, None


def videochatgpt_consistency_result(
    doc: Mapping[str, Any], results: Sequence[Any]
) -> dict[str, Any]:
    """The record of the pair."""
    first, second = _both_answers(results)
    texts = [first, second]
    # The pair fails or is unanswered if either is.
    weaker = FAILED if FAILED in texts else "" if not all(t.strip() for t in texts) else first
    asked = (doc["question"], doc["second_question"], doc["answer"], first, second, 64)
    judged = _judge(weaker, "videochatgpt", "get_eval_consistency", *asked)
    record = _judged_record(doc, VIDEOCHATGPT, weaker, judged)
    more = {"second_question": doc["second_question"], "second_generated": second}
    return {"judge_consistency": record | {"generated": first} | more}


def _reader_of_halves() -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    number = itertools.count()

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        asked = [
            (half, row[f"question_{half}"])
            for half in (1, 2)
            if row[f"question_{half}"] not in (None, "", "None")
        ]
        if len(asked) != 1:
            raise ValueError("the columns question_1 and question_2 hold not one question")
        ((half, question),) = asked
        return _open_document(
            question_id=next(number),
            video=row["video_name"],
            question=question,
            answer=row["answer"],
            categories={"all": None},
            half=half,
        )

    return read


def _paired(rows: Any) -> Any:
    """Documents of two rows each; of a video's several pairs the first goes with the first."""
    from datasets import Dataset

    waiting: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    pairs: list[dict[str, Any]] = []
    for row in rows:
        halves = waiting.setdefault(row["video"], {1: [], 2: []})
        others = halves[3 - row["half"]]
        if not others:
            halves[row["half"]].append(row)
            continue
        other = others.pop(0)
        first, second = (row, other) if row["half"] == 1 else (other, row)
        document = {name: value for name, value in first.items() if name != "half"}
        pairs.append(document | {"second_question": second["question"]})
    left = [row for halves in waiting.values() for group in halves.values() for row in group]
    if left:
        listed = ", ".join(f"row {row['question_id']} ({row['video']})" for row in left[:5])
        raise SettingsError(
            f"Video-ChatGPT Consistency: {len(left)} questions have no counterpart on the same "
            f"video: {listed}. The data set is incomplete; fetch it again."
        )
    return Dataset.from_list(sorted(pairs, key=lambda pair: int(pair["question_id"])))


def _both_answers(results: Sequence[Any]) -> tuple[str, str]:
    said = results[0] if isinstance(results[0], (list, tuple)) else results
    texts = [str(text).strip() for text in said]
    if len(texts) == 1 and texts[0] == FAILED:
        return FAILED, FAILED
    if len(texts) != 2:
        raise SettingsError(
            f"longva_videochatgpt_consistency asks two questions and got {len(texts)} answers: "
            "the model does not take questions in rounds. Use lmms-eval's videochatgpt_consistency."
        )
    return texts[0], texts[1]


# --- open questions -------------------------------------------------------------------------------


def _open_document(
    *,
    question_id: Any,
    video: Any,
    question: Any,
    answer: Any,
    categories: Mapping[str, str | None],
    **more: Any,
) -> dict[str, Any]:
    values = {"video": video, "question": question, "answer": answer}
    for name, value in values.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"the {name} is {value!r}")
    if question_id is None or not str(question_id).strip():
        raise ValueError("the question id is empty")
    return {"question_id": str(question_id), **values, "categories": dict(categories), **more}


def _open_record(
    doc: Mapping[str, Any], folder: str, text: str, score: float, answers: Sequence[str]
) -> dict[str, Any]:
    return scored_record(
        text,
        score=score,
        answer=list(answers) if len(answers) > 1 else answers[0],
        question_id=doc["question_id"],
        cluster=doc["video"],
        question=doc["question"],
        categories={k: str(v) for k, v in doc["categories"].items() if v is not None},
        media=media_names(folder, doc["video"]),
    )


def _judge(text: str, *request: Any, with_verdict: bool = False) -> Judgement | JudgeError | None:
    """A judgement, why there is none, or None: nothing was said that could be judged."""
    if not text.strip() or text == FAILED:
        return None
    try:
        judge = judge_from_environment()
        return judge.judge(host_request(*request), with_verdict=with_verdict)
    except JudgeError as error:
        return error


def _judged_as(doc: Mapping[str, Any], text: str, host_folder: str, *aspect: str) -> dict[str, Any]:
    request = ("get_eval_generic", doc["question"], doc["answer"], text, *aspect, 64)
    return _judged_record(doc, VIDEOCHATGPT, text, _judge(text, host_folder, *request))


def _judged_record(
    doc: Mapping[str, Any],
    folder: str,
    text: str,
    judged: Judgement | JudgeError | None,
    *,
    score: float | None = None,
) -> dict[str, Any]:
    """The record of a judged answer; `score` out of 1, `judge_score` out of 5."""
    if isinstance(judged, Judgement):
        value = judged.score / _HIGHEST if score is None else score
        return _open_record(doc, folder, text, value, [doc["answer"]]) | {
            "judge_score": judged.score,
            "judge_highest": _HIGHEST,
            "judgement": judged.text,
            "judge_model": judged.model,
        }
    record = _open_record(doc, folder, text, 0.0, [doc["answer"]])
    if isinstance(judged, JudgeError):
        # The answer is kept, so that it can be judged another day.
        record |= {"outcome": "failed", "reason": f"judge: {judged}"}
    return record | {"judge_score": None, "judge_highest": _HIGHEST}
