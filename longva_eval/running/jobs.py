"""Requests of the host as jobs: what is asked, what depends on it, what its answer is in JSON.

A *job* is one request. It ends as a *value* (JSON: it goes to the journal, to other processes and
to the host) or as a failure. What differs between generating, forcing and scoring stands in three
`JobKind`s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from longva_eval.engine.conversation import Conversation, ForcedAnswer, Media
from longva_eval.engine.generation import GenerationSettings, is_degenerate
from longva_eval.engine.session import Session
from longva_eval.errors import EvaluationError
from longva_eval.running.journal import Journal

__all__ = ["FORCE", "GENERATE", "SCORE", "Job", "JobKind", "job_key"]

OnAnswer = Callable[[int, Any], None]
"""Called with the place of a job and its answer or `Failure`, as they come."""


@dataclass(kw_only=True)
class Job:
    """One request of the host, and what becomes of it."""

    task: str
    doc_id: Any
    """Its number in the task."""
    idx: int = 0
    """Which of the document's requests."""
    repeat: int = 0
    """Which of several equal requests."""
    context: str
    """The question, as the task words it."""
    rotation: int | None = None
    """By how many letters the options are rotated, if they are (`control=circular`)."""
    letters: str = ""
    """Of the options that the question lists."""
    fit: bool = True
    """Whether its prompt must fit the context."""
    detail: dict[str, Any]
    """What is asked besides the prompt, in JSON: generation settings, expected tokens, ..."""
    task_place: int = 0
    """The task's place among all that are run."""
    picture_bytes: int = 0
    media: Callable[[], list[Media]] | None = field(default=None, repr=False)
    """Its pictures and videos, where they are not those of the document."""
    number: int | None = None
    """Its place in this process's list; None if another process was given it."""
    conversation: Conversation | None = field(default=None, repr=False)
    journal: Journal | None = field(default=None, repr=False)
    """Where its answer is kept, if not in the run's journal."""
    value: dict[str, Any] | None = None
    failure: EvaluationError | None = None

    @property
    def place(self) -> str:
        return f"Task {self.task}, document {self.doc_id}"

    @property
    def group(self) -> str:
        """What the job is about: jobs on one video, or of one document, are one group."""
        assert self.conversation is not None
        for piece in self.conversation.prompt.visual_pieces:
            return piece.key
        return f"{self.task}\0{self.doc_id}"


@dataclass(frozen=True, eq=False)
class JobKind:
    """What is asked of the model, and what its answer is in JSON."""

    name: str
    """In keys of journals."""
    fields: dict[str, type | tuple[type, ...]]
    """Of a value, in the order in which it becomes text for the host."""
    ask: Callable[[Session, Sequence[Job], Sequence[int], OnAnswer], object]
    """Ask the jobs at some places of a list that is planned together."""
    value: Callable[[Any], dict[str, Any]]
    """An answer in JSON, but for the length of its prompt."""
    facts: Callable[[Mapping[str, Any]], dict[str, Any]]
    """What a sample's entry says about its answer."""
    optional: dict[str, type] = field(default_factory=dict)
    """Fields that only some values have."""

    def is_value(self, value: Mapping[str, Any]) -> bool:
        """Whether a journal's line holds what this kind of job needs."""
        return value.keys() - self.optional.keys() == self.fields.keys() and all(
            isinstance(value[name], of)
            for name, of in (self.fields | self.optional).items()
            if name in value
        )

    def value_of(self, job: Job, answer: Any) -> dict[str, Any]:
        """An answer in JSON."""
        assert job.conversation is not None
        found = self.value(answer) | {"num_prompt_tokens": job.conversation.prompt.num_tokens}
        there = [name for name in self.optional if found.get(name)]
        return {name: found[name] for name in (*self.fields, *there)}


def job_key(kind: JobKind, job: Job) -> dict[str, Any]:
    """What an answer depends on, besides the session's settings."""
    assert job.conversation is not None
    return {
        "kind": kind.name,
        "task": job.task,
        "document": job.doc_id,  # named so in every journal that was written
        "prompt": job.conversation.prompt.digest,
        "detail": job.detail,
    }


def _conversations(jobs: Sequence[Job]) -> list[Conversation]:
    found = [job.conversation for job in jobs if job.conversation is not None]
    assert len(found) == len(jobs), "jobs without a prompt have failed before"
    return found


def _settings(detail: Mapping[str, Any]) -> GenerationSettings:
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in detail.items()}
    return GenerationSettings(**values)


def _generate(session: Session, jobs: Sequence[Job], only: Sequence[int], keep: OnAnswer) -> object:
    settings = [_settings(job.detail) for job in jobs]
    # Failures go to the policy, which knows the document's name.
    return session.generate(
        _conversations(jobs), settings, on_answer=keep, only=only, keep_going=True,
        letters=[job.letters for job in jobs],
    )  # fmt: skip


def _force(session: Session, jobs: Sequence[Job], only: Sequence[int], keep: OnAnswer) -> object:
    return session.force(
        [conversation.prompt for conversation in _conversations(jobs)],
        [tuple(job.detail["expected"]) for job in jobs],
        max_new_tokens=[job.detail["max_new_tokens"] for job in jobs],
        on_answer=keep,
        only=only,
        keep_going=True,
    )


def _score(session: Session, jobs: Sequence[Job], only: Sequence[int], keep: OnAnswer) -> object:
    continuations = [job.detail["continuation"] for job in jobs]
    return session.score(
        _conversations(jobs), continuations, on_answer=keep, only=only, keep_going=True
    )


def _generation_facts(value: Mapping[str, Any]) -> dict[str, Any]:
    reason = value["finish_reason"]
    return {
        "text": value["text"],
        "num_tokens": len(value["token_ids"]),
        "degenerate": is_degenerate(value["token_ids"], reason),
        "finish": "length" if reason == "length" else "stop",
        "thought": value.get("thought"),
        **_held(value),
        **_option_facts(value.get("option_log_probs", ())),
    }


def _option_facts(log_probs: Sequence[float]) -> dict[str, Any]:
    """Probabilities of the options, which add up to 1, and the share that fell on any of them.

    Six places: the bits behind them depend on how prompts were cut.
    """
    if not log_probs:
        return {}
    most = max(log_probs)
    parts = [math.exp(each - most) for each in log_probs]
    whole = math.fsum(parts)
    return {
        "option_probabilities": {
            chr(ord("A") + n): round(part / whole, 6) for n, part in enumerate(parts)
        },
        "option_mass": round(min(1.0, whole * math.exp(most)), 6),
    }


_HELD: dict[str, type] = {"kv_tokens": int, "kv_bytes": int}
"""What was held of a prompt, under a press."""


def _held(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in _HELD if name in value}


_NUMBER = (int, float)
GENERATE = JobKind(
    "generate",
    {
        "text": str, "token_ids": list, "finish_reason": str, "num_prompt_tokens": int,
        "min_margin": _NUMBER,
    },
    _generate,
    lambda answer: asdict(answer)
    | {"token_ids": list(answer.token_ids), "option_log_probs": list(answer.option_log_probs)},
    _generation_facts,
    {"thought": str, "option_log_probs": list, **_HELD},
)  # fmt: skip
"""Say something."""
FORCE = JobKind(
    "force",
    {
        "generated": str, "correct": bool, "logprob": _NUMBER, "answer_ids": list,
        "pred_ids": list, "min_margin": _NUMBER, "num_prompt_tokens": int,
    },
    _force,
    ForcedAnswer.to_json,
    lambda value: {"text": value["generated"], **_held(value)},
    _HELD,
)  # fmt: skip
"""Score the true answer as input, and say something."""
SCORE = JobKind(
    "score",
    {"mean_loss": _NUMBER, "is_greedy": bool, "num_prompt_tokens": int},
    _score,
    lambda answer: (
        {"mean_loss": answer.mean_loss, "is_greedy": answer.continuation.is_greedy}
        | {name: getattr(answer.all_tokens, name) for name in _HELD}
    ),
    _held,
    _HELD,
)
"""Score a continuation."""
