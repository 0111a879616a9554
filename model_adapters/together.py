"""Many runs of one model, answered together: every video decoded once, every frame encoded once.

A study asks the same questions at several numbers of frames and RoPE settings. Point by point, each
video would be decoded, and most of its frames encoded, as often as there are points. Here the first
run that lmms-eval starts hands over its requests, and they are answered for all points at once,
video by video. Each answer goes into the journal of its own point, under the key that the point's
own run will ask for. That run then is an ordinary one that finds its answers.

What is not answered here (questions on single pictures, tasks in rounds, likelihoods) is computed
by each point's own run. So nothing depends on this module but the time a study takes.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lmms_eval.api.instance import Instance
from loguru import logger

from longva_eval.engine.conversation import Conversation
from longva_eval.errors import (
    EvaluationError,
    MediaError,
    PromptError,
    ResourceError,
    SettingsError,
)
from longva_eval.host.evaluation import Host, problems_of, reason_of
from longva_eval.model_adapters.longva import LongVA
from longva_eval.running.answering import Answering
from longva_eval.running.jobs import Job, JobKind, job_key
from longva_eval.running.journal import Journal, journal_settings
from longva_eval.running.ranks import Ranks
from longva_eval.running.run_log import FailurePolicy, RunLog, progress_bar
from longva_eval.studies.definition import Point, Study
from longva_eval.studies.points import (
    PointRun,
    check_same_model,
    complete_point,
    remove_incomplete,
)

__all__ = ["run_points"]

_KEPT_BYTES = 2 << 30
"""Visual tokens of the videos that are taken through all RoPE settings together: half of what an
encoder keeps."""


def run_points(study: Study, runs: Sequence[PointRun]) -> Iterator[PointRun]:
    """Run the points of a study that are not complete, and yield each when it was run.

    What cannot be run has its `reason`.

    Args:
        study: What is asked.
        runs: All its points.

    Raises:
        SettingsError: If a task is unknown, a setting impossible, or a complete point was made with
            another model.
        EvaluationError: If the model cannot be loaded, or memory or disk are not enough.
    """
    host = Host(study.model, study.tasks, include_path=study.include_path, limit=study.limit)
    left = [run for run in runs if not run.is_complete]
    model = host.load_model(left[0].point.arguments)
    for run in runs:
        model.set_point(run.point)  # one that does not fit shows now
    check_same_model(model.session, [run for run in runs if run.is_complete])
    together = _Together(model, left)
    for run in left:
        if run.error is not None:
            run.reason = str(run.error)
        else:
            remove_incomplete(run.folder)
            _run_point(host, together.adapter_of(run), run)
        yield run


def _run_point(host: Host, adapter: LongVA, run: PointRun) -> None:
    try:
        found = host.run(adapter, run.point.arguments, run.folder)
    except (SettingsError, ResourceError):
        raise
    except SystemExit as error:
        run.reason = f"a task gave up: {error.code}"
    except Exception as error:
        run.reason = reason_of(error)
        logger.debug("{}", traceback.format_exc())
    else:
        run.reason = " ".join(problems_of(found))
        if not run.reason:
            complete_point(run, found.results or {}, found.samples or {}, found.files)


@dataclass(kw_only=True)
class _PointJob(Job):
    """A job at a point."""

    point_run: PointRun


@dataclass
class _Media:
    """What belongs to one video: its jobs, and its frames over all points."""

    jobs: list[int]
    tokens: dict[str, int]


class _Together:
    """Answers the requests of one run for all points of a study.

    Args:
        model: Loaded; `adapter_of` gives what is handed to lmms-eval.
        runs: The points that are to be run.
    """

    def __init__(self, model: LongVA, runs: Sequence[PointRun]) -> None:
        self._model = model
        self._runs = list(runs)
        model.fix_frame_size(max((run.point.frames for run in runs), default=1))
        self._is_done = False

    def adapter_of(self, run: PointRun) -> LongVA:
        """The model for the run of a point, ready for lmms-eval."""
        adapter = self._model.another_run(run.point, journal=run.journal)
        adapter.before_answers = lambda requests: self._answer(adapter, run, requests)
        return adapter

    def _answer(self, adapter: LongVA, current: PointRun, requests: Sequence[Instance]) -> None:
        """Before the first run is answered: answer for all."""
        if self._is_done:
            return
        self._is_done = True
        journals: dict[int, Journal] = {}
        try:
            for run in self._runs:
                own = adapter.journal if run is current else None
                self._model.set_point(run.point)
                settings = journal_settings(self._model.session.describe())
                journals[id(run)] = own if own is not None else Journal(run.journal, settings)
            rotated = any(run.point.method.control == "circular" for run in self._runs)
            for kind, jobs in adapter.jobs_of(requests, rotated=rotated).items():
                _Pass(adapter, kind, jobs, self._runs, journals).run()
        finally:
            for run in self._runs:
                if run is not current and id(run) in journals:
                    journals[id(run)].close()
            self._model.set_point(current.point)


def _seeing(point: Point) -> tuple[int, str, str]:
    """What the prompts of a point depend on."""
    return point.frames, point.method.frame_policy, point.method.control


def _reading(point: Point) -> tuple[Any, ...]:
    """What of a point the model's layers depend on: one batch of prompts has one such setting."""
    return point.rope, point.method.positions, point.method.kv_press


class _Pass:
    """One pass over the media of all jobs of a kind."""

    def __init__(
        self,
        adapter: LongVA,
        kind: JobKind,
        jobs: Sequence[Job],
        runs: Sequence[PointRun],
        journals: dict[int, Journal],
    ) -> None:
        self._adapter = adapter
        self._kind = kind
        self._jobs = jobs
        self._runs = runs
        self._journals = journals
        self._usable: dict[tuple[int, str, str], set[int]] = {}
        """Which frames -> the jobs that have a prompt of videos there."""
        self._media: dict[str, _Media] = {}
        self._num_left = 0
        self._bar: Any = None
        self._written_before = 0
        self._num_failed = 0

    def run(self) -> None:
        if not self._jobs:
            return
        self._look()
        open_runs = self._open()
        readings = list(dict.fromkeys(_reading(run.point) for run in open_runs))
        if not self._num_left or not open_runs:
            return
        self._written_before = self._written()
        session = self._adapter.session
        what = f"{len(open_runs)} points together"
        with progress_bar(self._num_left, what, unit="answer") as self._bar:
            for block in self._blocks(len(readings)):
                session.encoder.keep_all = len(readings) > 1
                try:
                    for reading in readings:
                        runs = [run for run in self._open() if _reading(run.point) == reading]
                        if runs:
                            self._adapter.set_point(runs[0].point)
                            self._compute(block, runs)
                finally:
                    session.encoder.keep_all = False
                    session.encoder.expect([])  # lets go of what was kept

    def _open(self) -> list[PointRun]:
        return [run for run in self._runs if run.error is None]

    def _look(self) -> None:
        """Make every prompt once, so that what is wrong shows before anything is computed."""
        points: dict[tuple[int, str, str], Point] = {}
        for run in self._runs:
            points.setdefault(_seeing(run.point), run.point)
        several = len({_reading(run.point) for run in self._runs}) > 1
        with progress_bar(len(points) * len(self._jobs), "Reading", unit="prompt") as bar:
            for seeing, point in points.items():
                self._adapter.set_point(point)
                usable = self._usable[seeing] = set()
                here = [run for run in self._open() if _seeing(run.point) == seeing]
                for number, job in enumerate(self._jobs):
                    bar.update(1)
                    if job.rotation and point.method.control != "circular":
                        continue
                    try:
                        conversation, picture_bytes = self._adapter.prompt_of(job)
                    except (MediaError, PromptError) as error:
                        if self._adapter.skips_failures:
                            continue
                        for run in here:
                            run.error = type(error)(f"{job.place}: {error}")
                        break
                    if picture_bytes:
                        continue
                    usable.add(number)
                    self._note(number, conversation, several)
                    asked = replace(job, conversation=conversation)
                    for run in here:
                        if self._journals[id(run)].get(job_key(self._kind, asked)) is None:
                            self._num_left += 1
                        else:
                            run.num_taken_over += 1

    def _note(self, number: int, conversation: Conversation, several: bool) -> None:
        pieces = conversation.prompt.visual_pieces
        if not pieces and any(number in media.jobs for media in self._media.values()):
            return  # asked blind, too: it is taken through with its video
        source = pieces[0].source if pieces else None
        key = source.media_key if source is not None else ""
        media = self._media.setdefault(key, _Media([], {}))
        if not media.jobs or media.jobs[-1] != number:
            media.jobs.append(number)
        if several:
            media.tokens.update((piece.key, piece.num_tokens) for piece in pieces)

    def _blocks(self, num_readings: int) -> Iterator[list[int]]:
        """Jobs whose visual tokens are kept for all settings of layers; all if there is only one.

        Which these are does not depend on what was answered before.
        """
        model = self._adapter.session.checkpoint.model
        token_bytes = int(model.config.hidden_size) * model.dtype.itemsize
        block: list[int] = []
        held = 0
        for media in self._media.values():
            size = token_bytes * sum(media.tokens.values())
            if num_readings > 1 and block and held + size > _KEPT_BYTES:
                yield sorted(set(block))
                block, held = [], 0
            block.extend(media.jobs)
            held += size
        if block:
            yield sorted(set(block))

    def _compute(self, block: Sequence[int], runs: Sequence[PointRun]) -> None:
        """Answer a block at points of one setting of layers; without one that is given up."""
        session = self._adapter.session
        while runs:
            jobs = self._point_jobs(block, runs)
            answering = Answering(
                session, _Log(self._adapter.skips_failures), ranks=Ranks(), prompt=self._prompt
            )
            try:
                answering.run(self._kind, jobs, on_done=self._count)
            except EvaluationError as error:
                lost = next((job.point_run for job in jobs if job.failure is error), None)
                if lost is None:
                    raise
                lost.error = error
                logger.warning("Point {} is left out: {}", lost.point.name, error)
                runs = [run for run in runs if run is not lost]
            else:
                self._num_failed += sum(job.failure is not None for job in jobs)
                self._count()
                return

    def _point_jobs(self, block: Sequence[int], runs: Sequence[PointRun]) -> list[_PointJob]:
        jobs: list[_PointJob] = []
        for run in runs:
            for number in block:
                if number in self._usable[_seeing(run.point)]:
                    job = self._jobs[number]
                    values = {each.name: getattr(job, each.name) for each in fields(Job)}
                    values |= {"number": len(jobs), "journal": self._journals[id(run)]}
                    jobs.append(_PointJob(**values, point_run=run))
        return jobs

    def _prompt(self, job: Job) -> tuple[Conversation, int]:
        assert isinstance(job, _PointJob)
        self._adapter.set_point(job.point_run.point)
        return self._adapter.prompt_of(job)

    def _written(self) -> int:
        return sum(journal.num_written for journal in self._journals.values())

    def _count(self) -> None:
        for run in self._runs:
            run.num_computed = self._journals[id(run)].num_written
        done = self._written() - self._written_before
        self._bar.update(min(self._num_left, done + self._num_failed) - self._bar.n)


class _Log(RunLog):
    """Keeps no count of what fails: each point's own run does. Or ends at the first."""

    def __init__(self, skips: bool) -> None:
        super().__init__(FailurePolicy("skip"))
        self._skips = skips

    def count_failure(
        self, task: str, doc_id: Any, error: EvaluationError, ranks: Ranks, *, kept: str = ""
    ) -> None:
        if not self._skips:
            raise error
