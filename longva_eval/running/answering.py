"""From requests to answers: journal, failures, and several processes, around a session.

What an adapter of lmms-eval would otherwise do by itself for each kind of request. Three things
hold for all kinds:

* All jobs of a call are planned together, whoever computes them and whatever was answered before.
  So a resumed run, or one on several processes, makes the numbers of an uninterrupted one.
* An answer is in the journal as soon as it is there.
* A document that cannot be asked, or whose logits are NaN, is a failure with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from longva_eval.engine.conversation import Conversation
from longva_eval.engine.session import Session
from longva_eval.errors import EvaluationError, MediaError, PromptError
from longva_eval.prompts.visits import Query, plan_visits
from longva_eval.running.jobs import GENERATE, SCORE, Job, JobKind, job_key
from longva_eval.running.journal import Journal
from longva_eval.running.packing import (
    light,
    pack_jobs,
    pack_result,
    unpack_failure,
    unpack_jobs,
)
from longva_eval.running.ranks import Ranks, Share, assign
from longva_eval.running.run_log import RunLog

__all__ = ["Answering"]

_PENDING_PICTURE_BYTES = 1 << 30
"""Pictures held at once while prompts are gathered; videos are held by name only."""


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
        self._log.begin_call(len({(job.task, job.doc_id) for job in jobs}))
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

    def begin(self, num_docs: int) -> None:
        """Before the first `one` of a call of the host."""
        self._log.begin_call(num_docs)

    def one(self, job: Job) -> dict[str, Any] | None:
        """Generate the answer of a single job here, whatever other processes do.

        For tasks whose next question depends on the last answer.

        Returns:
            The value; None if the document failed.
        """
        for _ in self._batches(GENERATE, [job]):
            if job.failure is None and job.value is None:
                self._visit(GENERATE, [job], [job], lambda: None)
        self._finish(GENERATE, [job])
        return None if job.failure is not None else job.value

    def _batches(self, kind: JobKind, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        """Jobs with their prompts, as many at once as pictures fit in memory."""

        def prepared() -> Iterator[Job]:
            for job in jobs:
                self._prepare(job)
                self._look_up(kind, job)
                if job.failure is not None:
                    self._count(job, kind)
                yield job

        return _by_picture_bytes(prepared())

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
            job.doc_id,
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
        if value is not None and kind.is_value(value):
            # In the order in which it was made: it becomes text for the host.
            names = (*kind.fields, *kind.optional)
            job.value = {name: value[name] for name in names if name in value}
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

        def keep(place: int, answer: Any) -> None:
            job = planned[place]
            if isinstance(answer, EvaluationError):
                job.failure = type(answer)(f"{job.place}: {answer}")
                self._count(job, kind)
            else:
                job.value = kind.value_of(job, answer)
                journal = job.journal if job.journal is not None else self.journal
                if journal is not None:
                    journal.put(job_key(kind, job), job.value, about=job.place)
                self.num_computed += 1
            self.ranks.check()
            on_done()

        kind.ask(self._session, planned, only, keep)

    def _count(self, job: Job, kind: JobKind) -> None:
        """Hold a failure against the policy."""
        assert job.failure is not None
        if kind is SCORE and self._log.policy.skips:
            raise EvaluationError(
                f"{job.failure} on_error=skip cannot help here: the task compares likelihoods, "
                "and lmms-eval takes the first option where one is missing. Mend the document, or "
                "use a task whose answers are generated."
            ) from job.failure
        kept = "" if self.journal is None else f" Answers so far: {self.journal.folder}"
        self._log.count_failure(job.task, job.doc_id, job.failure, self.ranks, kept=kept)

    def _finish(self, kind: JobKind, jobs: Sequence[Job]) -> dict[int, dict[str, Any] | None]:
        """Note what became of this process's jobs."""
        found: dict[int, dict[str, Any] | None] = {}
        for job in jobs:
            if job.number is None:
                continue
            if job.failure is not None:
                reason = f"{type(job.failure).__name__}: {job.failure}"
                self._log.failed(job.task, job.doc_id, reason)
            elif job.value is not None:
                if job.rotation is not None:
                    said = job.value["text"]
                    self._log.rotated(job.task, job.doc_id, job.context, said, job.rotation)
                if not job.rotation:
                    self._log.answered(job.task, job.doc_id, **kind.facts(job.value))
                if job.detail.get("do_sample"):
                    self._log.drew(job.task, job.doc_id, job.detail["seed"])
            found[job.number] = None if job.failure is not None else job.value
        return found

    # Several processes.

    def _run_together(
        self, kind: JobKind, own: Sequence[Job], on_done: Callable[[], None]
    ) -> dict[int, dict[str, Any] | None]:
        for job in own:
            self._prepare(job)
            self._look_up(kind, job)
        everything = self.ranks.share("jobs", pack_jobs(own))
        jobs: list[Job] = []
        for rank, packed in enumerate(everything):
            jobs.extend(own if rank == self.ranks.rank else unpack_jobs(packed))
        # The order in which one process would have been given them.
        jobs.sort(
            key=lambda job: (job.task_place, job.doc_id, job.idx, job.repeat, job.rotation or 0)
        )
        self._log.begin_call(len({(job.task, job.doc_id) for job in jobs}))
        for job in own:
            if job.conversation is not None and job.picture_bytes:
                job.conversation = light(job.conversation)  # its pictures are opened again
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
                    job.conversation = light(job.conversation)
        results = self.ranks.share("results", [pack_result(job) for job in computed])
        by_place = {(job.task, job.doc_id, job.idx, job.repeat, job.rotation): job for job in own}
        for packed in results:
            for task, doc_id, idx, repeat, rotation, value, failure in packed:
                job_here = by_place.get((task, doc_id, idx, repeat, rotation))
                if job_here is not None:
                    job_here.value, job_here.failure = value, unpack_failure(failure)
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


def _by_picture_bytes(jobs: Iterable[Job]) -> Iterator[list[Job]]:
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
