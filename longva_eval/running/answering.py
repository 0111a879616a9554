"""From requests to answers: journal, failures, and several processes, around a session.

What an adapter of lmms-eval would otherwise do by itself for each kind of request. A *job* is one
request; it ends as a *value* (JSON: it goes to the journal, to other processes and to the host) or
as a failure. Three things hold for all kinds:

* All jobs of a call are planned together, whoever computes them and whatever was answered before.
  So a resumed run, or one on several processes, makes the numbers of an uninterrupted one.
* An answer is in the journal before the next one is computed.
* A document that cannot be asked, or whose logits are NaN, is a failure with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from longva_eval.engine.generation import Generation, GenerationSettings, is_degenerate
from longva_eval.engine.session import (
    Conversation,
    Failure,
    ForcedAnswer,
    Media,
    ScoredText,
    Session,
)
from longva_eval.errors import EvaluationError, MediaError, NumericalError, PromptError
from longva_eval.prompts.pieces import Piece, Prompt, TextPiece, VisualPiece
from longva_eval.prompts.visits import Query, plan_visits
from longva_eval.running.journal import Journal
from longva_eval.running.ranks import Ranks, Share, assign
from longva_eval.running.run_log import RunLog

__all__ = ["Answering", "Job", "JobKind", "job_key"]

JobKind = Literal["generate", "force", "score"]
"""Say something; score the true answer as input; score a continuation."""

_PENDING_PICTURE_BYTES = 1 << 30
"""Pictures held at once while prompts are gathered; videos are held by name only."""
_ERRORS = {kind.__name__: kind for kind in (MediaError, NumericalError, PromptError)}


@dataclass(kw_only=True)
class Job:
    """One request of the host, and what becomes of it."""

    task: str
    document: Any
    """Its number in the task."""
    idx: int = 0
    """Which of the document's requests."""
    repeat: int = 0
    """Which of several equal requests."""
    context: str
    """The question, as the task words it."""
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
        return f"Task {self.task}, document {self.document}"

    @property
    def group(self) -> str:
        """What the job is about: jobs on one video, or of one document, are one group."""
        assert self.conversation is not None
        for piece in self.conversation.prompt.visual_pieces:
            return piece.key
        return f"{self.task}\0{self.document}"


class Answering:
    """Computes jobs, on this process and with others.

    Args:
        session: The model.
        log: Keeps what is said about each document; has the policy for failures.
        ranks: The processes that share the work.
        journal: Where answers are kept as they come.
        prompt: Makes the prompt of a job; asked again for jobs that come from another process.
    """

    def __init__(
        self,
        session: Session,
        log: RunLog,
        *,
        ranks: Ranks | None = None,
        journal: Journal | None = None,
        prompt: Callable[[Job], tuple[Conversation, int]],
    ) -> None:
        self._session = session
        self._log = log
        self.ranks = ranks or Ranks()
        self.journal = journal
        self._prompt = prompt
        self.num_taken_over = 0
        """Answers that came from the journal."""
        self.num_computed = 0

    def run(
        self, kind: JobKind, jobs: Sequence[Job], *, on_done: Callable[[], None] = lambda: None
    ) -> dict[int, dict[str, Any] | None]:
        """Compute the jobs of a call of the host.

        All processes call this together.

        Args:
            kind: What is asked.
            jobs: Of this process.
            on_done: Called for each job that is finished here.

        Returns:
            By `Job.number`, the value; None where the document failed.

        Raises:
            EvaluationError: If something is wrong that the policy does not skip, or another process
                failed.
        """
        if self.ranks.size > 1:
            return self._run_together(kind, jobs, on_done)
        self._log.begin_call(len({(job.task, job.document) for job in jobs}))
        for batch in self._batches(kind, jobs):
            for job in batch:
                if job.value is not None or job.failure is not None:
                    on_done()
            asked = [job for job in batch if job.failure is None]
            self._visit(kind, asked, [job for job in asked if job.value is None], on_done)
            for job in batch:
                if job.value is not None or job.failure is not None:
                    job.conversation = None  # with its pictures
        return self._finish(kind, jobs)

    def release(self) -> None:
        """Let go of the model."""
        del self._session

    def begin(self, num_documents: int) -> None:
        """Before the first `one` of a call of the host."""
        self._log.begin_call(num_documents)

    def one(self, job: Job) -> dict[str, Any] | None:
        """Generate the answer of a single job here, whatever other processes do.

        For tasks whose next question depends on the last answer.

        Returns:
            The value; None if the document failed.
        """
        for _ in self._batches("generate", [job]):
            if job.failure is None and job.value is None:
                self._visit("generate", [job], [job], lambda: None)
        self._finish("generate", [job])
        return None if job.failure is not None else job.value

    def _batches(self, kind: JobKind, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs with their prompts, as many at once as pictures fit in memory."""
        batch: list[Job] = []
        held = 0
        for job in jobs:
            self._prepare(job)
            self._look_up(kind, job)
            if job.failure is not None:
                self._count(job, kind)
            batch.append(job)
            held += job.picture_bytes
            if held > _PENDING_PICTURE_BYTES:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def _prepare(self, job: Job) -> None:
        """Give a job its prompt, or the reason why it has none."""
        try:
            job.conversation, job.picture_bytes = self._prompt(job)
        except (MediaError, PromptError) as error:
            job.failure = type(error)(f"{job.place}: {error}")
            if not self._log.policy.skips:
                raise job.failure from error
            return
        facts = job.conversation.describe()
        self._log.describe(
            job.task,
            job.document,
            {
                "frames_asked": sum(video["num_frames_asked"] for video in facts["videos"]),
                "frames_seen": sum(video["num_frames_seen"] for video in facts["videos"]),
                **facts,
            },
        )

    def _look_up(self, kind: JobKind, job: Job) -> None:
        journal = job.journal if job.journal is not None else self.journal
        if journal is None or job.conversation is None:
            return
        value = journal.get(job_key(kind, job))
        if value is not None and _is_value(kind, value):
            # In the order in which it was made: it becomes text for the host.
            job.value = {name: value[name] for name in _FIELDS[kind]}
            self.num_taken_over += 1

    def _visit(
        self,
        kind: JobKind,
        planned: Sequence[Job],
        mine: Sequence[Job],
        on_done: Callable[[], None],
    ) -> None:
        """Compute some of the jobs that were planned together, and journal each."""
        places = {id(job): place for place, job in enumerate(planned)}
        only = [places[id(job)] for job in mine]
        if not only:
            return

        def keep(place: int, answer: Generation | ForcedAnswer | ScoredText | Failure) -> None:
            job = planned[place]
            if isinstance(answer, (MediaError, NumericalError)):
                job.failure = type(answer)(f"{job.place}: {answer}")
                self._count(job, kind)
            else:
                job.value = _value(job, answer)
                journal = job.journal if job.journal is not None else self.journal
                if journal is not None:
                    journal.put(job_key(kind, job), job.value, about=job.place)
                self.num_computed += 1
            self.ranks.check()
            on_done()

        conversations = [job.conversation for job in planned if job.conversation is not None]
        assert len(conversations) == len(planned), "jobs without a prompt have failed before"
        if kind == "generate":
            self._session.generate(
                conversations,
                [_settings(job.detail) for job in planned],
                on_answer=keep,
                only=only,
                keep_going=True,  # to the policy, which knows the document's name
            )
        elif kind == "force":
            self._session.force(
                [conversation.prompt for conversation in conversations],
                [tuple(job.detail["expected"]) for job in planned],
                max_new_tokens=[job.detail["max_new_tokens"] for job in planned],
                on_answer=keep,
                only=only,
                on_failure=keep,
            )
        else:
            self._session.score(
                conversations,
                [job.detail["continuation"] for job in planned],
                on_answer=keep,
                only=only,
                keep_going=True,
            )

    def _count(self, job: Job, kind: JobKind) -> None:
        """Hold a failure against the policy."""
        assert job.failure is not None
        if kind == "score" and self._log.policy.skips:
            raise EvaluationError(
                f"{job.failure} on_error=skip cannot help here: the task compares likelihoods, "
                "and lmms-eval takes the first option where one is missing. Mend the document, or "
                "use a task whose answers are generated."
            ) from job.failure
        kept = "" if self.journal is None else f" Answers so far: {self.journal.folder}"
        self._log.count_failure(job.task, job.document, job.failure, self.ranks, kept=kept)

    def _finish(self, kind: JobKind, jobs: Sequence[Job]) -> dict[int, dict[str, Any] | None]:
        """Note what became of this process's jobs."""
        found: dict[int, dict[str, Any] | None] = {}
        for job in jobs:
            if job.number is None:
                continue
            if job.failure is not None:
                reason = f"{type(job.failure).__name__}: {job.failure}"
                self._log.failed(job.task, job.document, reason)
            elif job.value is not None:
                self._log.answered(job.task, job.document, **_facts(kind, job.value))
            found[job.number] = None if job.failure is not None else job.value
        return found

    # Several processes.

    def _run_together(
        self, kind: JobKind, own: Sequence[Job], on_done: Callable[[], None]
    ) -> dict[int, dict[str, Any] | None]:
        for job in own:
            self._prepare(job)
            self._look_up(kind, job)
        everything = self.ranks.share("jobs", _pack_jobs(own))
        jobs: list[Job] = []
        for rank, packed in enumerate(everything):
            jobs.extend(own if rank == self.ranks.rank else _unpack_jobs(packed))
        # The order in which one process would have been given them.
        jobs.sort(key=lambda job: (job.task_place, job.document, job.idx, job.repeat))
        self._log.begin_call(len({(job.task, job.document) for job in jobs}))
        for job in own:
            if job.conversation is not None and job.picture_bytes:
                job.conversation = _light(job.conversation)  # its pictures are opened again
            if job.failure is not None:
                self._count(job, kind)
            if job.value is not None or job.failure is not None:
                on_done()
        computed: list[Job] = []
        for batch in _by_picture_bytes(jobs):
            asked = [job for job in batch if job.failure is None]
            shares = self._divide([job for job in asked if job.value is None])
            mine = shares[self.ranks.rank]
            for job in mine:
                self._open_again(kind, job)
                self._look_up(kind, job)
            computed.extend(mine)
            mine = [job for job in mine if job.failure is None]
            asked = [job for job in asked if job.failure is None]
            self._visit(kind, asked, [job for job in mine if job.value is None], on_done)
            for job in mine:
                if job.conversation is not None and job.picture_bytes:
                    job.conversation = _light(job.conversation)
        results = self.ranks.share("results", [_pack_result(job) for job in computed])
        by_place = {(job.task, job.document, job.idx, job.repeat): job for job in own}
        for packed in results:
            for task, document, idx, repeat, value, failure in packed:
                job_here = by_place.get((task, document, idx, repeat))
                if job_here is not None:
                    job_here.value, job_here.failure = value, _unpack_failure(failure)
        return self._finish(kind, own)

    def _divide(self, jobs: Sequence[Job]) -> list[list[Job]]:
        """Who computes which of these; the same on every process."""
        conversations = [job.conversation for job in jobs]
        queries = [Query(conversation.prompt) for conversation in conversations if conversation]
        plan = plan_visits(queries, chunk_tokens=self._session.engine.chunk_tokens)
        work = [
            Share(
                index,
                jobs[index].group,
                queries[index].prompt.num_tokens,
                queries[index].prompt.num_tokens - plan.kept[index],
            )
            for index in plan.order
        ]
        return [[jobs[index] for index in share] for share in assign(work, self.ranks.size)]

    def _open_again(self, kind: JobKind, job: Job) -> None:
        """The prompt of a job with its media, where they were left with another process."""
        known = job.conversation
        if known is None or all(piece.source is not None for piece in known.prompt.visual_pieces):
            return
        try:
            conversation, _ = self._prompt(job)
            if conversation.prompt.digest != known.prompt.digest:
                raise MediaError(
                    "another process made another prompt of it. Do all see the same files and "
                    "data, and did nobody change them?"
                )
        except (MediaError, PromptError) as error:
            job.failure = type(error)(f"{job.place}: {error}")
            self._count(job, kind)
        else:
            job.conversation = conversation


def _by_picture_bytes(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The batches that one process would make."""
    batch: list[Job] = []
    held = 0
    for job in jobs:
        batch.append(job)
        held += job.picture_bytes
        if held > _PENDING_PICTURE_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def job_key(kind: JobKind, job: Job) -> dict[str, Any]:
    """What an answer depends on, besides the session's settings."""
    assert job.conversation is not None
    return {
        "kind": kind,
        "task": job.task,
        "document": job.document,
        "prompt": job.conversation.prompt.digest,
        "detail": job.detail,
    }


def _settings(detail: Mapping[str, Any]) -> GenerationSettings:
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in detail.items()}
    return GenerationSettings(**values)


def _value(job: Job, answer: Generation | ForcedAnswer | ScoredText) -> dict[str, Any]:
    """An answer as JSON."""
    assert job.conversation is not None
    if isinstance(answer, Generation):
        return asdict(answer) | {"token_ids": list(answer.token_ids)}
    length = {"num_prompt_tokens": job.conversation.prompt.num_tokens}
    if isinstance(answer, ForcedAnswer):
        return length | answer.to_json()
    return length | {"mean_loss": answer.mean_loss, "is_greedy": answer.continuation.is_greedy}


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "generate": {
        "text": str, "token_ids": list, "finish_reason": str, "num_prompt_tokens": int,
        "min_margin": (int, float),
    },
    "force": {
        "generated": str, "correct": bool, "logprob": (int, float), "answer_ids": list,
        "pred_ids": list, "min_margin": (int, float), "num_prompt_tokens": int,
    },
    "score": {"mean_loss": (int, float), "is_greedy": bool, "num_prompt_tokens": int},
}  # fmt: skip


def _is_value(kind: JobKind, value: Mapping[str, Any]) -> bool:
    """Whether a journal's line holds what this kind of job needs."""
    fields = _FIELDS[kind]
    return value.keys() == fields.keys() and all(
        isinstance(value[name], of) for name, of in fields.items()
    )


def _facts(kind: JobKind, value: Mapping[str, Any]) -> dict[str, Any]:
    """What a sample's entry says about its answer."""
    if kind == "score":
        return {}
    if kind == "force":
        return {"text": value["generated"]}
    reason = value["finish_reason"]
    return {
        "text": value["text"],
        "num_tokens": len(value["token_ids"]),
        "degenerate": is_degenerate(value["token_ids"], reason),
        "finish": "length" if reason == "length" else "stop",
    }


def _light(conversation: Conversation) -> Conversation:
    """The same prompt without media: enough to plan with."""
    table = _Table()
    return _unpack_conversation(_pack_conversation(conversation, table), table.rows)


class _Table:
    """Visual pieces, each once."""

    def __init__(self) -> None:
        self.rows: list[list[Any]] = []
        self._places: dict[tuple[str, int], int] = {}

    def add(self, piece: VisualPiece) -> int:
        key = (piece.key, piece.num_tokens)
        if key not in self._places:
            self._places[key] = len(self.rows)
            self.rows.append([piece.key, piece.num_tokens])
        return self._places[key]


def _pack_conversation(conversation: Conversation, table: _Table) -> dict[str, Any]:
    return {
        "pieces": [
            list(piece.token_ids) if isinstance(piece, TextPiece) else table.add(piece)
            for piece in conversation.prompt.pieces
        ],
        "visuals": [[table.add(piece) for piece in item] for item in conversation.visuals],
        "context": conversation.context_text,
        "cut": conversation.num_tokens_cut,
    }


def _unpack_conversation(packed: Mapping[str, Any], rows: Sequence[Sequence[Any]]) -> Conversation:
    known = [VisualPiece(key, num_tokens, None) for key, num_tokens in rows]
    pieces: list[Piece] = [
        known[piece] if isinstance(piece, int) else TextPiece(tuple(piece))
        for piece in packed["pieces"]
    ]
    return Conversation(
        prompt=Prompt(tuple(pieces)),
        context_text=packed["context"],
        visuals=tuple(tuple(known[place] for place in item) for item in packed["visuals"]),
        num_tokens_cut=packed["cut"],
    )


def _pack_jobs(jobs: Sequence[Job]) -> dict[str, Any]:
    table = _Table()
    packed = [
        {
            "task": job.task,
            "document": job.document,
            "idx": job.idx,
            "repeat": job.repeat,
            "context": job.context,
            "fit": job.fit,
            "detail": job.detail,
            "task_place": job.task_place,
            "picture_bytes": job.picture_bytes,
            "conversation": job.conversation and _pack_conversation(job.conversation, table),
            "value": job.value,
            "failure": _pack_failure(job.failure),
        }
        for job in jobs
    ]
    return {"jobs": packed, "pieces": table.rows}


def _unpack_jobs(packed: Mapping[str, Any]) -> list[Job]:
    jobs = []
    for fields in packed["jobs"]:
        values = dict(fields)
        conversation, failure = values.pop("conversation"), values.pop("failure")
        jobs.append(
            Job(
                **values,
                failure=_unpack_failure(failure),
                conversation=conversation and _unpack_conversation(conversation, packed["pieces"]),
            )
        )
    return jobs


def _pack_result(job: Job) -> list[Any]:
    failure = _pack_failure(job.failure)
    return [job.task, job.document, job.idx, job.repeat, job.value, failure]


def _pack_failure(failure: EvaluationError | None) -> list[str] | None:
    return None if failure is None else [type(failure).__name__, str(failure)]


def _unpack_failure(packed: Sequence[str] | None) -> EvaluationError | None:
    return None if packed is None else _ERRORS.get(packed[0], EvaluationError)(packed[1])
