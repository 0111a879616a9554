"""From the lines of a samples file to questions, whatever task and model they are of.

A sample of lmms-eval holds what the task put into its metrics, and no more: our record
(`longva_eval.questions.outcomes`), a mapping with other names, a number, or nothing that can be
read. Which field each fact came from is kept (`Reading.read_from`), so that a report can say so.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from longva_eval.questions.outcomes import FAILED, OUTCOMES, is_scored

__all__ = ["RECIPE_KEY", "Problem", "Reading", "Sample", "as_mapping", "as_number", "count_of"]

RECIPE_KEY: Final = "longva_eval"
"""Where our adapters say how an answer or a whole run was made."""

ProblemKind = Literal[
    "truncated",  # the last line of a samples file, or the results file, breaks off
    "damaged",  # another line cannot be read
    "no samples",  # scores without questions
    "no results",  # questions without the results file
    "limit",  # run on part of the benchmark with --limit or --offset
    "number of samples",  # the results file and the samples file count differently
    "failed",  # questions that could not be asked
    "not scored",  # questions whose right answers are not public
    "not a number",  # a score that is NaN or infinite
    "repeated",  # one question several times
    "aggregate",  # the task's own score is not the mean over questions
    "scale",  # it cannot be told whether a score is a share or a percentage
    "unread",  # no score per question could be found
    "predict only",  # answers without scores
    "several runs",  # the folder holds more than the run that was read
    "independent",  # no video is known, so questions count as independent
]

_SAMPLE_KEYS: Final = frozenset(
    ["doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "token_counts", "doc_hash",
     "input", "input_media", "filter", RECIPE_KEY]
)  # fmt: skip
_ID_KEYS: Final = ("question_id", "questionId", "id", "qid", "uid", "index", "key")
_CLUSTER_KEYS: Final = (
    "videoID", "video_id", "video", "video_name", "video_path", "video_file", "video_idx",
    "video_uid", "image_id", "imageId", "image", "image_path", "docId",
)  # fmt: skip
_PREDICTION_KEYS: Final = (
    "pred_answer", "parsed_pred", "pred", "prediction", "predicted_answer", "parsed_answer",
)  # fmt: skip
_ANSWER_KEYS: Final = ("answer", "gt_answer", "ground_truth", "gt", "target", "label")
_NOT_CATEGORIES: Final = frozenset(
    [*_ID_KEYS, *_CLUSTER_KEYS, *_PREDICTION_KEYS, *_ANSWER_KEYS, "score", "question", "options",
     "outcome", "cluster", "generated", "choice", "categories", "media", "url", "subtitles",
     "Q", "A", "full_answer", "response", "reason", "correct", "insert_index", "needle", "scoring"]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something about a run that a reader of its numbers must know."""

    kind: ProblemKind
    text: str
    """A sentence that names file and count, and says how to mend it where that is known."""
    task: str = ""
    """The task it concerns; empty for the whole run."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question as one run was asked it, with what became of it."""

    key: str
    """What pairs it with the same question in another run of the task."""
    question_id: str | None
    """The task's own id; None if the samples have none."""
    doc_id: int | str
    """lmms-eval's: the row of the dataset."""
    cluster: str
    """The video or picture it is asked on; itself where that is not known."""
    outcome: str
    """One of `OUTCOMES`; `scored` where the metric is no share, as 0 to 5."""
    score: float
    """From 0 to 1, or on the metric's own scale if `outcome` is scored."""
    answer: str
    """The right answer; several accepted ones are joined with " | "."""
    choice: str | None
    """The letter that was read; None if none was, or where there are no options."""
    generated: str
    question: str
    options: tuple[str, ...]
    categories: Mapping[str, str]
    media: tuple[str, ...]
    prompt: str
    """The text the task sent, without pictures (`input` in the sample)."""
    frames_asked: int | None
    frames_seen: int | None
    """Together over all videos of the question; None where the model did not say."""
    timestamps: tuple[float, ...]
    """Of the frames, in seconds; empty where the model did not say."""
    num_prompt_tokens: int | None
    seconds: float | None
    """What the answer took, where the model said."""
    reason: str
    """Why it failed."""
    record: Mapping[str, Any]
    """All that the task wrote into its metric."""
    facts: Mapping[str, Any]
    """All that our adapter wrote about the sample; empty for other models."""

    @property
    def is_scored(self) -> bool:
        """False where the right answer is not public: such a question is in no mean."""
        hidden = self.record.get("hidden_answer")
        return is_scored({"outcome": self.outcome, "hidden_answer": hidden})


class Reading:
    """The questions of one samples file, and which field each fact was read from."""

    def __init__(
        self,
        task: str,
        samples: Sequence[Mapping[str, Any]],
        metrics: Sequence[str],
        config: Mapping[str, Any],
        prompts: Mapping[str, Any],
    ) -> None:
        self.problems: list[Problem] = []
        self.samples: list[Sample] = []
        self._task = task
        self.metric = self._choose_metric(samples, metrics)
        self.is_ours = any(_is_record(sample.get(self.metric)) for sample in samples)
        records = [as_mapping(sample.get(self.metric)) for sample in samples]
        score_key = str(config.get("score_key") or "score")
        scores, score_from = self._scores(samples, records, score_key)
        self.is_share = all(0.0 <= s <= 1.0 for s in scores if s is not None)
        keys, ids, id_from = self._keys(samples, records)
        clusters, cluster_from = self._clusters(samples, records, config, keys)
        self.read_from = {"score": score_from, "question_id": id_from, "cluster": cluster_from}
        categories = _categories(records)
        unscored = 0
        for place, sample in enumerate(samples):
            score = scores[place]
            if score is None:
                unscored += 1
                continue
            facts = as_mapping(sample.get(RECIPE_KEY)) or as_mapping(
                prompts.get(str(sample["doc_id"]))
            )
            self.samples.append(
                _sample(
                    sample,
                    records[place],
                    score,
                    facts,
                    key=keys[place],
                    question_id=ids[place],
                    cluster=clusters[place],
                    categories=categories[place],
                    is_share=self.is_share,
                )
            )
        self._say_what_is_missing(samples, unscored)

    def mean(self) -> float | None:
        """Mean score of the scored questions, if it is a share."""
        scores = [question.score for question in self.samples if question.is_scored]
        return math.fsum(scores) / len(scores) if scores and self.is_share else None

    def _choose_metric(self, samples: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> str:
        """The first metric that holds a score for a question: ours, then in the task's order."""
        in_samples = list(
            dict.fromkeys(k for s in samples[:50] for k in s if k not in _SAMPLE_KEYS)
        )
        names = list(dict.fromkeys([*(m for m in metrics if m in in_samples), *in_samples]))
        for name in names:
            if any(_is_record(sample.get(name)) for sample in samples):
                return name
        for name in names:
            if name != "submission" and any(
                _score_of(sample.get(name), "score")[0] is not None for sample in samples
            ):
                return name
        return ""

    def _scores(
        self,
        samples: Sequence[Mapping[str, Any]],
        records: Sequence[Mapping[str, Any]],
        score_key: str,
    ) -> tuple[list[float | None], str]:
        found = [_score_of(sample.get(self.metric), score_key) for sample in samples]
        sources = Counter(source for score, source in found if score is not None)
        bad = sum(score is not None and not math.isfinite(score) for score, _ in found)
        if bad:
            text = (
                f"{self._task}: {count_of(bad, 'question')} with a score that is NaN or infinite; "
                "left out of every number here."
            )
            self.problems.append(Problem(kind="not a number", text=text, task=self._task))
        scores = [s if s is not None and math.isfinite(s) else None for s, _ in found]
        source = f"{self.metric}: {sources.most_common(1)[0][0]}" if sources else ""
        return scores, source

    def _keys(
        self, samples: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
    ) -> tuple[list[str], list[str | None], str]:
        """What pairs questions: the task's id if that is unique, else prompt and target."""
        for name in _ID_KEYS:
            given = [record.get(name) for record in records]
            if any(isinstance(value, (str, int)) for value in given) and None not in given:
                ids = [str(value) for value in given]
                if len(set(ids)) == len(ids):
                    return ids, list(ids), f"{self.metric}.{name}"
                # An id that is shared, as the question's text in MLVU, pairs with its prompt.
                break
        keys = [
            hashlib.sha256(
                json.dumps(
                    [sample.get("input"), str(sample.get("target"))],
                    ensure_ascii=False, default=str,
                ).encode("utf-8", errors="replace")
            ).hexdigest()[:20]
            for sample in samples
        ]  # fmt: skip
        shared = {key for key, number in Counter(keys).items() if number > 1}
        keys = [
            f"{key}, document {sample['doc_id']}" if key in shared else key
            for key, sample in zip(keys, samples, strict=True)
        ]
        return (
            keys,
            [None] * len(keys),
            "digest of input and target" + (", and doc_id where these are equal" if shared else ""),
        )

    def _clusters(
        self,
        samples: Sequence[Mapping[str, Any]],
        records: Sequence[Mapping[str, Any]],
        config: Mapping[str, Any],
        keys: Sequence[str],
    ) -> tuple[list[str], str]:
        stated = config.get("cluster_key")
        # The cells of a needle grid are fixed; the needles are the sample.
        grid = ["needle_name", "needle"] if all("depth" in record for record in records) else []
        names = dict.fromkeys(
            [*([str(stated)] if stated else []), "cluster", *grid, *_CLUSTER_KEYS]
        )
        for name in names:
            given = [record.get(name) for record in records]
            if given and all(isinstance(v, (str, int)) and str(v) for v in given):
                return [str(value) for value in given], f"{self.metric}.{name}"
        media = [sample.get("input_media") for sample in samples]
        if media and all(media):
            return [json.dumps(value, sort_keys=True) for value in media], "input_media"
        if samples:
            text = (
                f"{self._task}: the samples do not say which video or picture a question is about, "
                "so questions count as independent; standard errors may be too small."
            )
            self.problems.append(Problem(kind="independent", text=text, task=self._task))
        return list(keys), ""

    def _say_what_is_missing(self, samples: Sequence[Mapping[str, Any]], unscored: int) -> None:
        if samples and not self.samples:
            text = (
                f"{self._task}: no score per question was found in the samples; only the task's "
                "own aggregate is shown."
            )
            self.problems.append(Problem(kind="unread", text=text, task=self._task))
        elif unscored:
            text = (
                f"{self._task}: {count_of(unscored, 'sample')} without a score "
                f"({self.metric}); left out of every number here."
            )
            self.problems.append(Problem(kind="unread", text=text, task=self._task))


def _is_record(value: object) -> bool:
    """Whether a metric holds a record of ours."""
    return (
        isinstance(value, Mapping)
        and "outcome" in value
        and as_number(value.get("score")) is not None
    )


def _as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond floats
        return math.inf


def _score_of(value: object, score_key: str) -> tuple[float | None, str]:
    """A question's score in a metric of any task, and how it was read."""
    if isinstance(value, (bool, int, float)):
        return _as_float(value), "its value"
    if not isinstance(value, Mapping):
        return None, ""
    for key in (score_key, "score", "correct", "is_correct", "acc", "accuracy"):
        if isinstance(value.get(key), (bool, int, float)):
            return _as_float(value[key]), key
    prediction = next((key for key in _PREDICTION_KEYS if key in value), None)
    answer = next((key for key in _ANSWER_KEYS if value.get(key) not in (None, "")), None)
    if prediction is None or answer is None or isinstance(value[answer], (Mapping, list)):
        return None, ""
    same = str(value[prediction]).strip().lower() == str(value[answer]).strip().lower()
    return float(same), f"{prediction} equals {answer}"


def _categories(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Subsets of each question: a record's own, else the short fields that few values share."""
    names = dict.fromkeys(
        name
        for record in records
        for name, value in record.items()
        if name not in _NOT_CATEGORIES and isinstance(value, (str, int)) and str(value)
    )
    chosen = []
    for name in names:
        values = {str(record[name]) for record in records if name in record}
        few = len(values) <= max(2, min(64, len(records) // 3))
        if few and all(len(value) <= 60 for value in values):
            chosen.append(name)
    found = []
    for record in records:
        own = record.get("categories")
        if isinstance(own, Mapping):
            found.append({str(name): str(value) for name, value in own.items()})
        else:
            found.append({name: str(record[name]) for name in chosen if name in record})
    return found


def _sample(
    sample: Mapping[str, Any],
    record: Mapping[str, Any],
    score: float,
    facts: Mapping[str, Any],
    *,
    key: str,
    question_id: str | None,
    cluster: str,
    categories: Mapping[str, str],
    is_share: bool,
) -> Sample:
    generated = record.get("generated")
    text = generated if isinstance(generated, str) else _text(sample.get("filtered_resps"))
    choice = _choice(record)
    outcome = record.get("outcome")
    if outcome not in OUTCOMES:
        outcome = facts.get("outcome") if facts.get("outcome") == "failed" else None
    if outcome is None:
        outcome = _outcome(text, score, record, is_share)
    options = record.get("options")
    media = record.get("media") or sample.get("input_media") or ()
    asked, seen, timestamps = _frames(facts)
    tokens = sample.get("token_counts")
    counted = as_mapping(tokens[0]) if isinstance(tokens, list) and tokens else {}
    num_tokens = as_number(facts.get("num_prompt_tokens", counted.get("input_tokens")))
    answer = next((record[k] for k in _ANSWER_KEYS if k in record), sample.get("target", ""))
    return Sample(
        key=key,
        question_id=question_id,
        doc_id=sample["doc_id"] if isinstance(sample["doc_id"], int) else str(sample["doc_id"]),
        cluster=cluster,
        outcome=str(outcome),
        score=score,
        answer=" | ".join(map(str, answer)) if isinstance(answer, list) else str(answer),
        choice=choice,
        generated=text,
        question=str(record.get("question") or ""),
        options=tuple(map(str, options)) if isinstance(options, list) else (),
        categories=categories,
        media=tuple(_text(item) for item in media) if isinstance(media, (list, tuple)) else (),
        prompt=_text(sample.get("input")),
        frames_asked=asked,
        frames_seen=seen,
        timestamps=timestamps,
        num_prompt_tokens=None if num_tokens is None else int(num_tokens),
        seconds=as_number(facts.get("seconds")),
        reason=str(facts.get("reason") or record.get("reason") or ""),
        record=record,
        facts=facts,
    )


def _choice(record: Mapping[str, Any]) -> str | None:
    if "choice" in record:
        return None if record["choice"] is None else str(record["choice"])
    read = next((record[key] for key in _PREDICTION_KEYS if key in record), None)
    return str(read) if isinstance(read, str) and re.fullmatch("[A-Z]", read) else None


def _outcome(text: str, score: float, record: Mapping[str, Any], is_share: bool) -> str:
    """Of a question whose task does not say."""
    if text.strip() == FAILED:
        return "failed"
    prediction = next((record[key] for key in _PREDICTION_KEYS if key in record), text)
    if not text.strip() or prediction is None or not str(prediction).strip():
        return "no answer"
    if not is_share:
        return "scored"
    return "right" if score == 1.0 else "wrong"


def _frames(facts: Mapping[str, Any]) -> tuple[int | None, int | None, tuple[float, ...]]:
    """Frames asked and seen over all videos of a question, and their times."""
    videos = [v for v in facts.get("videos") or () if isinstance(v, Mapping)]

    def total(*names: str) -> int | None:
        whole = next((n for name in names if (n := as_number(facts.get(name))) is not None), None)
        if whole is not None:
            return int(whole)
        each = [
            next((n for name in names if (n := as_number(v.get(name))) is not None), None)
            for v in videos
        ]
        return (
            int(sum(n for n in each if n is not None)) if any(n is not None for n in each) else None
        )

    times: list[float] = []
    for video in videos:
        given = video.get("timestamps_seconds", video.get("timestamps"))
        # Hundreds a question: tested by adding them up, which is one pass in C.
        if isinstance(given, list) and _adds_up(given):
            times += given
    seen = total("num_frames_seen", "frames_seen")
    if seen is None:
        indices = [v.get("frame_indices", v.get("indices")) for v in videos]
        if any(isinstance(each, list) for each in indices):
            seen = sum(len(each) for each in indices if isinstance(each, list))
    return total("num_frames_asked", "frames_asked"), seen, tuple(times)


# Small helpers ------------------------------------------------------------------------------------


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_number(value: object) -> float | None:
    """A finite number, or None for whatever else a file may hold."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond floats
        return None


def _adds_up(values: list[Any]) -> bool:
    try:
        return math.isfinite(math.fsum(values))
    except (TypeError, ValueError, OverflowError):
        return False


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1:
        return _text(value[0])
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def count_of(number: int, noun: str) -> str:
    """`1 question`, `2 questions`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
