"""From the lines of a samples file to samples, whatever task and model they are of.

A line of lmms-eval holds what the task put into its metrics, and no more: our record
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
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from longva_eval.questions.answers import read_choice
from longva_eval.questions.outcomes import FAILED, OUTCOMES, is_scored

__all__ = [
    "RECIPE_KEY",
    "Document",
    "Problem",
    "Reading",
    "Sample",
    "as_mapping",
    "as_number",
    "count_of",
    "majority",
    "within_question",
]

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
    "tries",  # every question was answered several times
    "sampled",  # answers are drawn, so that another seed gives another score
    "few-shot",  # examples stand in the prompt
]

_LINE_KEYS: Final = frozenset(
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
_SUBMISSION: Final = "submission"
"""The host's metric of splits whose answers a board keeps to itself."""
_MOST_OFF: Final = 2.0
"""Points between a task's own score and what its predictions give."""
_SCORE_KEYS: Final = ("score", "correct", "is_correct", "acc", "accuracy")
_NOT_CATEGORIES: Final = frozenset(
    [*_ID_KEYS, *_CLUSTER_KEYS, *_PREDICTION_KEYS, *_ANSWER_KEYS, *_SCORE_KEYS, "question",
     "options", "outcome", "cluster", "generated", "choice", "categories", "media", "url",
     "subtitles", "Q", "A", "full_answer", "response", "reason", "insert_index", "needle",
     "scoring"]
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
    """One of `OUTCOMES`, of several tries that of most; `scored` where the metric is no share of
    right answers, as 0 to 5 or a word error rate."""
    score: float
    """From 0 to 1, or on the metric's own scale if `outcome` is scored; the mean of the tries."""
    tries: tuple[float, ...] = ()
    """The score of every answer, where the question was answered several times; else empty."""
    more_scores: Mapping[str, float] = field(default_factory=dict)
    """By the task's other metrics and filters."""
    answer: str
    """The right answer; several accepted ones are joined with " | "."""
    choice: str | None = None
    """The letter that was read; None if none was, or where there are no options."""
    generated: str
    question: str
    options: tuple[str, ...] = ()
    categories: Mapping[str, str]
    media: tuple[str, ...] = ()
    prompt: str = ""
    """The text the task sent, without pictures (`input` in the line)."""
    frames_asked: int | None
    frames_seen: int | None
    """Together over all videos of the question; None where the model did not say."""
    timestamps: tuple[float, ...] = ()
    """Of the frames, in seconds; empty where the model did not say."""
    num_prompt_tokens: int | None
    seconds: float | None = None
    """What the answer took, where the model said."""
    reason: str = ""
    """Why it failed."""
    record: Mapping[str, Any]
    """All that the task wrote into its metric."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """All that our adapter wrote about the sample; empty for other models."""

    @property
    def needle_place(self) -> tuple[int, float] | None:
        """Frames of the haystack, and the needle's depth from 0 to 1; None if it has none."""
        frames, depth = (as_number(self.record.get(name)) for name in ("num_frames", "depth"))
        return None if frames is None or depth is None else (int(frames), round(depth, 6))

    @property
    def is_scored(self) -> bool:
        """False where the right answer is not public: such a question is in no mean."""
        return self.outcome != "not scored" and is_scored(self.record)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The lines that a samples file has of one document."""

    line: Mapping[str, Any]
    tries: tuple[Mapping[str, Any], ...] = ()
    """All its lines, where each is a further try."""
    by_filter: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Further filters of the task, with the line that each wrote."""


class Reading:
    """The samples of one file, and which field each fact was read from.

    Args:
        task: Its name.
        documents: In order.
        metrics: Names of the task's metrics, the main one first, and whether a higher value of it
            is better.
        config: The task's, as the results file has it.
        prompts: Facts by document, where an adapter wrote them into the results file.
        num_tries: Answers that were asked for of every question.
    """

    def __init__(
        self,
        task: str,
        documents: Sequence[Document],
        metrics: Mapping[str, bool],
        config: Mapping[str, Any],
        prompts: Mapping[str, Any],
        num_tries: int = 1,
    ) -> None:
        self.problems: list[Problem] = []
        self.samples: list[Sample] = []
        self._task = task
        self._score_key = str(config.get("score_key") or "score")
        self._num_tries = num_tries
        self._higher = metrics
        lines = [document.line for document in documents]
        self.metric = self._choose_metric(lines, list(metrics), config)
        self.higher_is_better = metrics.get(self.metric, True)
        self.is_ours = any(_is_record(line.get(self.metric)) for line in lines)
        records = [as_mapping(line.get(self.metric)) for line in lines]
        is_hidden = self.metric == _SUBMISSION and not self.is_ours
        if is_hidden:
            records = [_handed_in(record) for record in records]
        scores, score_from = self._scores(documents)
        known = [score for tries in scores for score in tries]
        self.is_share = all(0.0 <= score <= 1.0 for score in known)
        keys, ids, id_from = self._keys(lines, records)
        clusters, cluster_from = self._clusters(lines, records, config, keys)
        self.read_from = {"score": score_from, "question_id": id_from, "cluster": cluster_from}
        categories = [{} for _ in records] if is_hidden else _categories(records)
        others = [name for name in metrics if name != self.metric]
        for place, (document, tries) in enumerate(zip(documents, scores, strict=True)):
            if not tries:
                continue
            line = document.line
            facts = as_mapping(line.get(RECIPE_KEY)) or as_mapping(prompts.get(str(line["doc_id"])))
            self.samples.append(
                _sample(
                    line,
                    records[place],
                    tries,
                    facts,
                    self.is_share and self.higher_is_better,
                    key=keys[place],
                    question_id=ids[place],
                    cluster=clusters[place],
                    categories=categories[place],
                    more_scores=self._more_scores(document, others),
                )
            )
        self._say_what_is_missing(lines, sum(not tries for tries in scores))

    def mean_score(self) -> float | None:
        """Mean score of the scored questions; None without any."""
        scores = [sample.score for sample in self.samples if sample.is_scored]
        return math.fsum(scores) / len(scores) if scores else None

    def is_another_rule(self, value: float) -> bool:
        """Whether the task scores in another way than by predictions that equal answers.

        `value` is its own score in percent; it may be the mean over a category. Letters of options
        are equal or not, however the task weighs them.
        """
        if " equals " not in self.read_from["score"] or all(
            re.fullmatch("[A-J]", sample.answer) for sample in self.samples
        ):
            return False
        means = [math.fsum(sample.score for sample in self.samples) / len(self.samples)]
        for name in self.samples[0].categories:
            groups: dict[str, list[float]] = {}
            for sample in self.samples:
                groups.setdefault(sample.categories.get(name, ""), []).append(sample.score)
            each = [math.fsum(scores) / len(scores) for scores in groups.values()]
            means.append(math.fsum(each) / len(each))
        return all(abs(100 * mean - value) > _MOST_OFF for mean in means)

    def mean_in(self, label: str, name: str, value: float) -> float | None:
        """Mean score in another metric, if the task's own value is that, or that in percent."""
        found = [
            s.more_scores.get(label, s.more_scores.get(name)) for s in self.samples if s.is_scored
        ]
        known = [score for score in found if score is not None]
        if not known or len(known) < len(found):
            return None
        mean = math.fsum(known) / len(known)
        close = (math.isclose(value, scale * mean, rel_tol=0.01) for scale in (1, 100))
        return mean if any(close) else None

    def _choose_metric(
        self, lines: Sequence[Mapping[str, Any]], metrics: Sequence[str], config: Mapping[str, Any]
    ) -> str:
        """The first metric that holds a score for a question: ours, then in the task's order.

        A line holds more than the task's metrics: of a split without answers, a comparison with
        the answer that nobody has.
        """
        in_lines = list(dict.fromkeys(k for s in lines[:50] for k in s if k not in _LINE_KEYS))
        names = list(dict.fromkeys([*(m for m in metrics if m in in_lines), *in_lines]))
        listed = config.get("metric_list")
        own = {as_mapping(m).get("metric") for m in listed} if isinstance(listed, list) else set()
        if own & set(names):
            names = [name for name in names if name in own]
        for name in names:
            if any(_is_record(line.get(name)) for line in lines):
                return name
        for name in names:
            if name != _SUBMISSION and any(self._tries_of(line, name)[0] for line in lines):
                return name
        if lines and all(isinstance(line.get(_SUBMISSION), Mapping) for line in lines):
            return _SUBMISSION
        return ""

    def _tries_of(self, line: Mapping[str, Any], metric: str) -> tuple[list[float], str]:
        """The scores that a line has in a metric, one or one for each try, and their source."""
        higher = self._higher.get(metric, True)
        return _scores_in(line.get(metric), self._score_key, self._num_tries, higher)

    def _scores(self, documents: Sequence[Document]) -> tuple[list[list[float]], str]:
        """By document the score of every try; empty where there is none."""
        if self.metric == _SUBMISSION and not self.is_ours:
            return [[0.0] for _ in documents], ""
        scores, sources = [], Counter[str]()
        for document in documents:
            tries = []
            for line in document.tries or (document.line,):
                found, source = self._tries_of(line, self.metric)
                tries += found
                sources[source] += bool(found)
            scores.append(tries)
        if self._num_tries > 1 and all(len(tries) <= 1 for tries in scores):
            scores = self._rescored(documents, scores)
        bad = sum(not all(map(math.isfinite, tries)) for tries in scores)
        if bad:
            text = (
                f"{self._task}: {count_of(bad, 'question')} with a score that is NaN or infinite; "
                "left out of every number here."
            )
            self.problems.append(Problem(kind="not a number", text=text, task=self._task))
        source = f"{self.metric}: {sources.most_common(1)[0][0]}" if sources.total() else ""
        return [tries if all(map(math.isfinite, tries)) else [] for tries in scores], source

    def _rescored(
        self, documents: Sequence[Document], scores: list[list[float]]
    ) -> list[list[float]]:
        """Scores of all tries, where lmms-eval scored the first answer only but kept them all.

        The further answers' letters are read as our tasks read them, provided that this gives the
        task's own score for 99 of 100 first answers.
        """
        rescored: list[list[float]] = []
        differing = 0
        for document, first in zip(documents, scores, strict=True):
            texts = document.line.get("resps")
            record = as_mapping(document.line.get(self.metric))
            answer = _right_answer(document.line, record)
            options = record.get("options")
            letters = options if isinstance(options, list) and options else list("ABCDEFGHIJ")
            if not isinstance(texts, list) or len(texts) != self._num_tries or not first:
                return scores
            if not re.fullmatch("[A-J]", answer):
                return scores
            own, *others = [float(read_choice(str(text), letters) == answer) for text in texts]
            differing += own != first[0]
            rescored.append([first[0], *others])
        return scores if differing > len(documents) / 100 else rescored

    def _more_scores(self, document: Document, metrics: Sequence[str]) -> dict[str, float]:
        """A question's scores in the task's other metrics, and through its other filters."""
        found = {}
        for name in metrics:
            tries, _ = self._tries_of(document.line, name)
            if tries and all(map(math.isfinite, tries)):
                found[name] = math.fsum(tries) / len(tries)
        for name_of_filter, line in document.by_filter:
            tries, _ = self._tries_of(line, self.metric)
            if tries and all(map(math.isfinite, tries)):
                found[f"{self.metric}, {name_of_filter}"] = math.fsum(tries) / len(tries)
        return found

    def _keys(
        self, lines: Sequence[Mapping[str, Any]], records: Sequence[Mapping[str, Any]]
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
                    [line.get("input"), str(line.get("target"))], ensure_ascii=False, default=str
                ).encode("utf-8", errors="replace")
            ).hexdigest()[:20]
            for line in lines
        ]
        shared = {key for key, number in Counter(keys).items() if number > 1}
        keys = [
            f"{key}, document {line['doc_id']}" if key in shared else key
            for key, line in zip(keys, lines, strict=True)
        ]
        return (
            keys,
            [None] * len(keys),
            "digest of input and target" + (", and doc_id where these are equal" if shared else ""),
        )

    def _clusters(
        self,
        lines: Sequence[Mapping[str, Any]],
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
        media = [line.get("input_media") for line in lines]
        if media and all(media):
            return [json.dumps(value, sort_keys=True) for value in media], "input_media"
        if lines:
            text = (
                f"{self._task}: the samples do not say which video or picture a question is about, "
                "so questions count as independent; standard errors may be too small."
            )
            self.problems.append(Problem(kind="independent", text=text, task=self._task))
        return list(keys), ""

    def _say_what_is_missing(self, lines: Sequence[Mapping[str, Any]], unscored: int) -> None:
        if lines and not self.samples:
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
        if self._num_tries > 1 and self.samples and not any(s.tries for s in self.samples):
            text = (
                f"{self._task}: every question was answered {self._num_tries} times, but the "
                "samples hold the score of one answer only, and that is what is shown. (lmms-eval "
                "keeps the others with --reasoning_tags none.)"
            )
            self.problems.append(Problem(kind="tries", text=text, task=self._task))


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


def _scores_in(
    value: object, score_key: str, num_tries: int, higher_is_better: bool
) -> tuple[list[float], str]:
    """A question's score in a metric of any task, or its tries' scores, and how it was read."""
    if isinstance(value, (bool, int, float)):
        return [_as_float(value)], "its value"
    if _are_tries(value, num_tries):
        return [_as_float(each) for each in value], "its values"  # type: ignore[attr-defined]
    if not isinstance(value, Mapping):
        return [], ""
    for key in (score_key, *_SCORE_KEYS):
        if isinstance(value.get(key), (bool, int, float)):
            return [_as_float(value[key])], key
    tries = [key for key in value if _are_tries(value[key], num_tries)]
    if len(tries) == 1:
        return [_as_float(each) for each in value[tries[0]]], tries[0]
    prediction = next((key for key in _PREDICTION_KEYS if key in value), None)
    answer = next((key for key in _ANSWER_KEYS if value.get(key) not in (None, "")), None)
    if prediction is None or answer is None or isinstance(value[answer], (Mapping, list)):
        return [], ""
    if not higher_is_better:  # an error rate is something else than being equal
        return [], ""
    given = value[prediction]
    if isinstance(given, list) and len(given) not in (1, num_tries):
        return [], ""
    right = str(value[answer]).strip().lower()
    tries = given if isinstance(given, list) else [given]
    found = [float(str(each).strip().lower() == right) for each in tries]
    return found, f"{prediction} equals {answer}"


def _are_tries(value: object, num_tries: int) -> bool:
    return (
        num_tries > 1
        and isinstance(value, list)
        and len(value) == num_tries
        and all(isinstance(each, (bool, int, float)) for each in value)
    )


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


def _right_answer(line: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    answer = next((record[k] for k in _ANSWER_KEYS if k in record), line.get("target", ""))
    return " | ".join(map(str, answer)) if isinstance(answer, list) else str(answer)


def _sample(
    line: Mapping[str, Any],
    record: Mapping[str, Any],
    tries: Sequence[float],
    facts: Mapping[str, Any],
    is_right_or_wrong: bool,
    **own: Any,
) -> Sample:
    generated = record.get("generated")
    text = generated if isinstance(generated, str) else _text(line.get("filtered_resps"))
    outcome = record.get("outcome")
    if outcome not in OUTCOMES:
        outcome = facts.get("outcome") if facts.get("outcome") == "failed" else None
    if outcome is None:
        outcome = _outcome(text, tries[0], record, is_right_or_wrong)
        if record.get("hidden_answer") is True and outcome in ("right", "wrong"):
            outcome = "not scored"
    prompt = _text(line.get("input"))
    question = str(record.get("question") or "")
    options = record.get("options")
    if not isinstance(options, list):
        asked_text, options = _asked_in(prompt)
        question = question or asked_text
    media = record.get("media") or line.get("input_media") or ()
    asked, seen, timestamps = _frames(facts)
    tokens = line.get("token_counts")
    counted = as_mapping(tokens[0]) if isinstance(tokens, list) and tokens else {}
    num_tokens = as_number(facts.get("num_prompt_tokens", counted.get("input_tokens")))
    return Sample(
        **own,
        doc_id=line["doc_id"] if isinstance(line["doc_id"], int) else str(line["doc_id"]),
        outcome=majority(str(outcome), tries),
        score=math.fsum(tries) / len(tries),
        tries=tuple(tries) if len(tries) > 1 else (),
        answer=_right_answer(line, record),
        choice=_choice(record),
        generated=text,
        question=question,
        options=tuple(map(str, options)),
        media=tuple(_text(item) for item in media) if isinstance(media, (list, tuple)) else (),
        prompt=prompt,
        frames_asked=asked,
        frames_seen=seen,
        timestamps=timestamps,
        num_prompt_tokens=None if num_tokens is None else int(num_tokens),
        seconds=as_number(facts.get("seconds")),
        reason=str(facts.get("reason") or record.get("reason") or ""),
        record=record,
        facts=facts,
    )


def _handed_in(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the host would send to a board: `{id: answer}`, or fields of their own."""
    if len(record) == 1:
        ((name, value),) = record.items()
        record = {"question_id": name, _SUBMISSION: value}
    return {**record, "hidden_answer": True}


def _asked_in(prompt: str) -> tuple[str, list[str]]:
    """Question and options of a prompt in which these stand line by line, as `B. a dog`.

    Tasks of lmms-eval keep them nowhere else. Without options nothing is taken for the question.
    """
    lines = prompt.split("\n")
    found = [re.match(r"\s*\(?([A-J])[.)]\s*(.*)", line) for line in lines]
    letters = "ABCDEFGHIJ"
    for start, first in enumerate(found):
        if first is None or first[1] != "A":
            continue
        run = 1
        while start + run < len(found) and (n := found[start + run]) and n[1] == letters[run]:
            run += 1
        if run > 1:
            before = [line.strip() for line in lines[:start] if line.strip()]
            if len(before) > 1 and before[0].startswith("Select the best answer"):
                before = before[1:]
            return "\n".join(before), [line.strip() for line in lines[start : start + run]]
    return "", []


def majority(outcome: str, tries: Sequence[float]) -> str:
    """What became of a question that was answered several times: right if more than half are.

    As lmms-eval's consensus accuracy; what is not right keeps the outcome of the first answer.
    """
    if len(tries) < 2 or outcome not in ("right", "wrong", "no answer"):
        return outcome
    if sum(score == 1.0 for score in tries) > len(tries) / 2:
        return "right"
    return "wrong" if outcome == "right" else outcome


def within_question(samples: Sequence[Sample]) -> float:
    """Standard deviation of a score between the tries of one question, root mean square."""
    variances = []
    for sample in samples:
        if len(sample.tries) > 1:
            squares = math.fsum((score - sample.score) ** 2 for score in sample.tries)
            variances.append(squares / (len(sample.tries) - 1))
    return math.sqrt(math.fsum(variances) / len(variances)) if variances else 0.0


def _choice(record: Mapping[str, Any]) -> str | None:
    if "choice" in record:
        return None if record["choice"] is None else str(record["choice"])
    read = next((record[key] for key in _PREDICTION_KEYS if key in record), None)
    if isinstance(read, list) and len(read) == 1:
        read = read[0]
    return str(read) if isinstance(read, str) and re.fullmatch("[A-Z]", read) else None


def _outcome(text: str, score: float, record: Mapping[str, Any], is_right_or_wrong: bool) -> str:
    """Of a question whose task does not say."""
    if text.strip() == FAILED:
        return "failed"
    prediction = next((record[key] for key in _PREDICTION_KEYS if key in record), text)
    if not text.strip() or prediction is None or not str(prediction).strip():
        return "no answer"
    if not is_right_or_wrong:
        return "scored"
    return "right" if score == 1.0 else "wrong"


def _frames(facts: Mapping[str, Any]) -> tuple[int | None, int | None, tuple[float, ...]]:
    """Frames asked and seen over all videos of a question, and their times."""
    videos = [as_mapping(video) for video in facts.get("videos") or ()]

    def total(name: str) -> int | None:
        given = [facts.get(name)] if name in facts else [v.get(f"num_{name}") for v in videos]
        known = [number for value in given if (number := as_number(value)) is not None]
        return int(sum(known)) if known else None

    times: list[float] = []
    for video in videos:
        given = video.get("timestamps_seconds")
        # Hundreds a question: tested by adding them up, which is one pass in C.
        if isinstance(given, list) and _adds_up(given):
            times += given
    return total("frames_asked"), total("frames_seen"), tuple(times)


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
