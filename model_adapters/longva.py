"""LongVA for lmms-eval: `lmms-eval --model longva --model_args pretrained=...`.

A thin layer over `longva_eval.engine.session`: requests become prompts, prompts become answers,
answers go back in the order the host wants. What differs from the adapter built into lmms-eval,
which this one replaces (docs/differences.md lists it all):

* needs no `longva` package, no CUDA, no flash-attn; runs in bfloat16, float32 or float16;
* all requests of a call are seen together, so that questions on one video share its frames;
* a video that cannot be read ends the run with its name, or fails by name with on_error=skip; it
  is never answered blind;
* answers are on disk as they come, so that a run that dies is resumed (running.journal);
* several processes divide whole videos among them;
* likelihoods are those of the answer's own tokens, for pictures and videos too;
* the template is the tokenizer's own, not Vicuna's.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from PIL import Image

from longva_eval.engine.conversation import Conversation, Media
from longva_eval.engine.generation import GenerationSettings, parse_gen_kwargs
from longva_eval.engine.opening import open_session
from longva_eval.engine.prefix import EngineCounts
from longva_eval.engine.session import Session
from longva_eval.errors import MediaError, SettingsError
from longva_eval.families.vision import FamilyVision
from longva_eval.host.patches import HostRun, apply_patches
from longva_eval.media.images import whole_pictures_only
from longva_eval.model_adapters.arguments import Arguments, LongVAArguments, read_arguments
from longva_eval.prompts.pieces import IMAGE_PLACEHOLDER, tokenize
from longva_eval.questions.options import find_options
from longva_eval.questions.outcomes import FAILED
from longva_eval.running.answering import Answering
from longva_eval.running.jobs import FORCE, GENERATE, SCORE, Job, JobKind
from longva_eval.running.journal import Journal, journal_settings
from longva_eval.running.ranks import Ranks, current_ranks, end_all
from longva_eval.running.run_log import FailurePolicy, RunLog, progress_bar
from longva_eval.studies.definition import Point
from longva_eval.studies.points import set_point

__all__ = ["LongVA"]

_MOST_ROUNDS = 100
"""A failed document's rounds are asked for no more often than that."""


def _ends_all_processes(function: Callable[..., None]) -> Callable[..., None]:
    """Where several processes share the work, one that cannot begin ends all."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **settings: Any) -> None:
        try:
            function(*arguments, **settings)
        except Exception as error:
            end_all(None, error)
            raise

    return wrapped


class LongVA(lmms):  # type: ignore[misc]  # lmms-eval is untyped
    """LongVA as an lmms-eval model.

    Args:
        pretrained: A folder, a hub id, or an embedded checkpoint.
        **arguments: Those of `LongVAArguments`, as they stand in `--model_args`.

    Raises:
        SettingsError: If an argument is unknown or impossible.
        CheckpointError: If the checkpoint cannot be loaded.
    """

    is_simple = True
    model_id = "longva"
    """As `--model` names it."""
    default_checkpoint = "lmms-lab/LongVA-7B"
    arguments: type[Arguments] = LongVAArguments
    """What `--model_args` may say."""
    architectures: tuple[str, ...] = ("LlavaQwenForCausalLM",)
    """What `architectures` in the checkpoint's config.json may say."""

    @_ends_all_processes
    def __init__(self, pretrained: str | None = None, **arguments: Any) -> None:
        super().__init__()
        given = {"pretrained": pretrained or self.default_checkpoint, **arguments}
        asked = read_arguments(self.arguments, given)
        apply_patches()
        self._log = RunLog(FailurePolicy(asked.on_error, asked.max_failed))
        self._journal_at, self._fresh = _journal_place(asked.journal), asked.fresh
        settings = asked.session_settings() | {"device": _own_device(asked.device)}
        self.session: Session = open_session(
            asked.pretrained, **settings, architectures=self.architectures
        )
        self._own_frames = replace(self.session.frames, fps=asked.fps, policy="uniform")
        self.device = self.session.checkpoint.device
        self._ignored_settings: set[str] = set()
        # Signs of life begin here: others may wait while this process loads its data.
        self._answering = Answering(
            self.session, self._log, ranks=current_ranks(), prompt=self.prompt_of
        )
        self._removes_journal = False
        self._requests: dict[str, Instance] = {}
        self.before_answers: Callable[[Sequence[Instance]], None] = lambda requests: None
        """Called with the requests of each `generate_until`; a study answers for all its runs."""

    @property
    def rank(self) -> int:
        """This process among those that share the work."""
        return int(self._rank)

    @property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer."""
        return self.session.checkpoint.tokenizer

    @property
    def skips_failures(self) -> bool:
        """Whether a document that cannot be asked fails alone."""
        return self._log.policy.skips

    @property
    def journal(self) -> Journal | None:
        """Of the run it works in."""
        return self._answering.journal

    def set_point(self, point: Point) -> None:
        """Ask as at a point of a study from now on.

        Raises:
            SettingsError: If its settings do not fit the checkpoint.
        """
        set_point(self.session, point, self._own_frames)

    def another_run(self, point: Point, *, journal: Path) -> LongVA:
        """This model for a run of its own at other settings; loaded once, counted from zero.

        Both share the session, whose settings change: use the one that was made last.

        Raises:
            SettingsError: If the settings do not fit the checkpoint.
        """
        self.set_point(point)
        self.session.engine.counts = EngineCounts()
        self.session.encoder.num_encoded = self.session.encoder.num_passes = 0
        other = copy.copy(self)
        other.task_dict = {}
        other._log = RunLog(self._log.policy)
        other._journal_at, other._fresh = str(journal), False
        other._answering = Answering(
            self.session, other._log, ranks=self._answering.ranks, prompt=other.prompt_of
        )
        other._requests, other._ignored_settings = {}, set()
        return other

    def fix_frame_size(self, num_frames: int) -> None:
        """Make frames as large as they are where there are so many, whatever their number.

        For studies over the number of frames: in some families a frame is smaller where there are
        more of them, and a study would compare two things at once.
        """
        vision = self.session.vision
        if isinstance(vision, FamilyVision) and vision.family.size_depends_on_count:
            vision.size_for_frames = vision.size_for_frames or num_frames

    def begin_run(self, run: HostRun) -> None:
        """lmms-eval is about to evaluate; called by the plugin.

        Raises:
            SettingsError: If the journal cannot be written, or was made under other settings.
        """
        if self._answering.ranks.size == 1:  # lmms-eval may start torch.distributed only now
            self._answering.ranks = current_ranks()
        ranks = self._answering.ranks
        leader = int(os.environ.get("RANK", "0")) == 0
        if self._journal_at == "off":
            return
        on = self._journal_at == "on"
        folder = run.journal_folder() if on else Path(self._journal_at).expanduser()
        self._removes_journal = folder is None
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")

        def open_journal() -> Journal:
            return Journal(
                folder or cache / "longva-eval" / "journal",
                journal_settings(self.session.describe()),
                fresh=self._fresh or run.fresh,
                leader=leader,
                refuse_others=folder is not None,
            )

        # The leader decides what is taken over; the others come after it.
        journal = open_journal() if leader else None
        ranks.share("journal", leader)
        if journal is None:
            journal = open_journal()
        self._answering.journal = journal
        if len(journal):
            logger.info("Journal: {} answers of an earlier run in {}", len(journal), journal.folder)

    def end_run(self) -> None:
        """lmms-eval is done; called by the plugin in the process that has the results."""
        if self._answering.journal is not None:
            self._answering.journal.finish(remove=self._removes_journal)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Answer what this process is given here, whatever the others do."""
        ranks, self._answering.ranks = self._answering.ranks, Ranks()
        try:
            yield
        finally:
            self._answering.ranks = ranks

    def sample_info(self, task: str, doc_id: Any) -> dict[str, Any] | None:
        """What is known of a document, for its line in the samples file."""
        return self._log.entries.get(str(task), {}).get(str(doc_id))

    def recipe(self) -> dict[str, Any]:
        """How the scores were made; the plugin writes it into the results file.

        `engine` and `journal` say what this very run did; the rest is the same however often a run
        was resumed.
        """
        counts = self.session.engine.counts
        answering = self._answering
        return {
            "model": self.model_id,
            **self.session.describe(),
            "failures": self._log.policy.describe(),
            "outcomes": self._log.counts(),
            "engine": {
                "tokens_asked": counts.tokens_asked,
                "tokens_computed": counts.tokens_computed,
                "smallest_chunk": counts.smallest_chunk,
                "frames_encoded": self.session.encoder.num_encoded,
                "media_read": self.session.encoder.num_passes,
            },
            "journal": {
                "folder": None if answering.journal is None else str(answering.journal.folder),
                "answers_taken_over": answering.num_taken_over,
                "answers_computed": answering.num_computed,
                "processes": answering.ranks.size,
            },
            "ignored_generation_settings": sorted(self._ignored_settings),
            "prompts": self._log.entries,
        }

    def clean(self) -> None:
        """Let go of the model; lmms-eval calls this when all requests are answered."""
        answering = self._answering
        # All processes come by here once, also those that were given nothing.
        for entries, taken_over, computed in answering.ranks.share(
            "entries", [self._log.entries, answering.num_taken_over, answering.num_computed]
        )[1:]:
            if self.rank == 0:
                self._log.merge(entries)
                answering.num_taken_over += taken_over
                answering.num_computed += computed
        if answering.num_taken_over and self.rank == 0:
            logger.info(
                "{} answers were taken over from the journal, {} computed",
                answering.num_taken_over, answering.num_computed,
            )  # fmt: skip
        recipe = self.recipe()
        self.recipe = lambda: recipe  # type: ignore[method-assign]  # the session goes, this stays
        if answering.journal is not None:
            answering.journal.close()
        answering.ranks.close()
        answering.release()
        del self.session
        super().clean()

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answer the requests; see `longva_eval.engine.session.Session.generate`.

        A task that sets `score_column` in its generation settings gets, instead of plain text, a
        JSON object: the answer in that column of the document, scored as input token by token,
        and what the model says by itself (`longva_eval.engine.session.Session.force`). Where a
        document fails and `on_error` is `skip`, the text is `outcomes.FAILED`.

        Raises:
            MediaError: If a picture or video of a request cannot be read.
        """
        results = [GenerationResult(text="")] * len(requests)  # stays for what only fills up
        self.before_answers(requests)
        jobs = self.jobs_of(requests, rotated=self.session.control == "circular")
        with self._progress(sum(map(len, jobs.values())), "Answering") as bar:
            done = functools.partial(bar.update, 1)
            forced = functools.partial(_forced, self.session.vision.frames_per_unit)
            for kind, written in ((GENERATE, _generated), (FORCE, forced)):
                for number, value in self._answering.run(kind, jobs[kind], on_done=done).items():
                    if number < len(requests):
                        results[number] = written(value)
        return results

    def jobs_of(
        self, requests: Sequence[Instance], *, rotated: bool = False
    ) -> dict[JobKind, list[Job]]:
        """The requests of a `generate_until` as jobs.

        Args:
            requests: Of the host.
            rotated: Whether each is also asked with every rotation of its options, right behind it.

        Raises:
            SettingsError: If options are to be rotated, and a question has none that can be.
        """
        forced = [bool(_score_column(request)) for request in requests]
        plain = self._jobs(
            requests,
            lambda number: not forced[number],
            lambda request: self._settings(request.args[1]).describe(),
        )
        if rotated and any(forced):
            raise SettingsError("control=circular: the task scores a given answer, not a choice.")
        if rotated:
            plain = [each for job in plain for each in self._rotations(job)]
            for place, job in enumerate(each for each in plain if each.rotation):
                job.number = len(requests) + place
        return {
            GENERATE: plain,
            FORCE: self._jobs(requests, forced.__getitem__, self._forcing),
        }

    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Mean loss of each continuation (lower is better), and whether greedy decoding says it.

        lmms-eval 0.7.3 compares losses by argmin, whatever its docstring says, and turns a plain
        `(float, bool)` into a string; inside a `GenerationResult` the pair arrives unharmed. Its
        `--use_cache` cannot store such a pair. There is no loss that says *failed*, so documents
        that fail end the run here whatever `on_error` is.
        """
        self._refuse_circular("compares likelihoods")
        results = [GenerationResult(text=(0.0, False))] * len(requests)
        with self._progress(len(requests), "Scoring") as bar:
            jobs = self._jobs(requests, lambda _: True, self._continuing)
            done = functools.partial(bar.update, 1)
            for number, value in self._answering.run(SCORE, jobs, on_done=done).items():
                assert value is not None, "failed likelihoods end the run"
                pair = (value["mean_loss"], value["is_greedy"])
                results[number] = GenerationResult(text=pair)
        return results

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[list[str]]:
        """Answer tasks that ask again: each round's question comes from the task's own code.

        Where a round fails, it and those after it are `longva_eval.questions.outcomes.FAILED`.
        """
        self._refuse_circular("asks in rounds")
        answers: list[list[str]] = []
        real = [request for request in requests if not _is_padding(request)]
        self._answering.begin(sum(self._answering.ranks.share("rounds", len(real))))
        with self._progress(len(requests), "Answering in rounds") as bar:
            for request in requests:
                answers.append([] if _is_padding(request) else self._rounds(request))
                bar.update(1)
        return answers

    def _rounds(self, request: Instance) -> list[str]:
        context, gen_kwargs, to_visual, to_text, doc_id, task, split = request.args
        doc = self.task_dict[task][split][doc_id]
        settings = self._settings(gen_kwargs)
        media: Callable[[], list[Media]]
        media = functools.partial(self._media, request, to_visual, doc)
        said: list[str] = []
        info: Any = None
        failed = False
        while True:
            job = Job(
                task=str(task),
                doc_id=doc_id,
                idx=len(said),
                context=context or "",
                detail=settings.describe(),
                media=media,
                number=0,
            )
            if not failed:
                value = self._answering.one(job)
                failed = value is None
            said.append(FAILED if failed or value is None else value["text"])
            found, context, is_last, said, info = to_text(
                doc, previous_output=said, round_idx=len(said), previous_round_info=info
            )
            said = list(said)
            if is_last or (failed and len(said) >= _MOST_ROUNDS):
                return said
            media = functools.partial(list, found or [])

    def _jobs(
        self,
        requests: Sequence[Instance],
        wanted: Callable[[int], bool],
        detail: Callable[[Instance], dict[str, Any]],
    ) -> list[Job]:
        """The requests as jobs, without those that only fill up a process's share."""
        tasks: dict[str, int] = {}
        repeats: dict[int, int] = {}
        jobs = []
        for number, request in enumerate(requests):
            *_, doc_id, task, _ = request.args
            tasks.setdefault(task, len(tasks))
            self._requests[task] = request
            if not wanted(number) or _is_padding(request):
                continue
            repeat = repeats[id(request)] = repeats.get(id(request), -1) + 1
            asked = detail(request)
            if asked.get("do_sample"):
                asked["seed"] += repeat  # each try draws anew
            jobs.append(
                Job(
                    task=str(task),
                    doc_id=doc_id,
                    idx=request.idx,
                    repeat=repeat,
                    context=request.args[0],
                    letters=_letters(request),
                    # A needle test goes beyond the context on purpose: see _score_column.
                    fit=not _score_column(request),
                    detail=asked,
                    task_place=tasks[task],
                    media=functools.partial(self._media_of, request),
                    number=number,
                )
            )
        return jobs

    def _refuse_circular(self, what: str) -> None:
        if self.session.control == "circular":
            raise SettingsError(
                f"control=circular: the task {what}; it lists no options to rotate."
            )

    def _rotations(self, job: Job) -> list[Job]:
        """A job with every rotation of its options; a further try as it is."""
        if job.repeat:
            return [job]
        options = find_options(job.context)
        stated = self._doc_of(job).get("options")
        texts = [text.strip() for text in options.texts] if options is not None else []
        if options is None or (
            isinstance(stated, list) and [_bare(text, n) for n, text in enumerate(stated)] != texts
        ):
            raise SettingsError(
                f"control=circular: {job.place}: the prompt does not list its options as lines "
                f"`A. ...` that could be rotated; it ends {job.context[-200:]!r}."
            )
        return [replace(job, rotation=by, context=options.rotated(by)) for by in range(len(texts))]

    def _forcing(self, request: Instance) -> dict[str, Any]:
        column = _score_column(request)
        *_, doc_id, task, _ = request.args
        answer = self._doc(request).get(column)
        if not isinstance(answer, str) or not answer:
            raise SettingsError(
                f"Task {task}, document {doc_id}: the task scores its column {column!r}, which "
                f"holds {answer!r} instead of a text."
            )
        return {
            "expected": list(tokenize(self.tokenizer, answer)),
            "max_new_tokens": int(request.args[1].get("max_new_tokens") or 0),
        }

    def _continuing(self, request: Instance) -> dict[str, Any]:
        continuation = request.args[1]
        if callable(continuation):
            continuation = continuation(self._doc(request))
        return {"continuation": str(continuation)}

    def prompt_of(self, job: Job) -> tuple[Conversation, int]:
        """The prompt of a job and the size of its pictures.

        Raises:
            MediaError: If a picture or video cannot be read.
            PromptError: If it does not fit.
        """
        try:
            with whole_pictures_only():  # a data set decodes its pictures here
                found = self._media_of_job(job)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise MediaError(f"the task's picture or video cannot be read: {error}") from error
        # Rows mark the places of several pictures this way, of a video never.
        shows_video = any(not isinstance(item, Image.Image) for item in found)
        placed = not (shows_video and self._row_says_image(job))
        question: tuple[str, ...] = ()
        sought = ""
        if self.session.frames.is_per_question:
            doc = self._doc_of(job)
            sought = str(doc.get("question") or "")
            ids = [str(doc[name]) for name in ("question_id", "qid", "id") if name in doc]
            question = (*ids, str(job.doc_id))
        conversation = self.session.prompt(
            job.context, found, fit=job.fit, placed=placed, question=question, sought=sought
        )
        return conversation, sum(map(_picture_bytes, found))

    def _row_says_image(self, job: Job) -> bool:
        """Whether an `<image>` of the prompt is the row's own text, not placed by the task."""
        if IMAGE_PLACEHOLDER not in job.context:
            return False
        doc = self._doc_of(job)
        return IMAGE_PLACEHOLDER in json.dumps(doc, default=lambda _: "")

    def _doc_of(self, job: Job) -> Any:
        return self.task_dict[job.task][self._requests[job.task].args[-1]][job.doc_id]

    def _media_of_job(self, job: Job) -> list[Media]:
        if job.media is not None:
            return job.media()
        # It comes from another process; requests of a task differ in their document only.
        request = self._requests[job.task]
        return self._media(request, request.args[2], self._doc_of(job))

    def _media_of(self, request: Instance) -> list[Media]:
        return self._media(request, request.args[2], self._doc(request))

    def _media(self, request: Instance, to_visual: Callable[[Any], Any], doc: Any) -> list[Media]:
        try:
            found = to_visual(doc)
        except SystemExit as error:
            # Tasks end the whole process where a video is missing; the reason is worth keeping.
            raise MediaError(f"the task gave up: {error.code}") from error
        if found is None:
            return []
        if not isinstance(found, (list, tuple)):
            found = [found]
        if any(item is None for item in found):
            raise MediaError("the document has no picture or video.")
        pictures = [item for item in found if isinstance(item, Image.Image)]
        # The host's own convention for tasks that hand over the frames of a video as pictures.
        if request.metadata.get("task_type") == "video" and len(pictures) == len(found) > 0:
            return [pictures]
        return list(found)

    def _doc(self, request: Instance) -> Any:
        *_, doc_id, task, split = request.args
        return self.task_dict[task][split][doc_id]

    def _settings(self, gen_kwargs: Mapping[str, Any]) -> GenerationSettings:
        settings, ignored = parse_gen_kwargs(
            gen_kwargs, self.session.checkpoint.generation_config, seed=self.session.seed
        )
        for name in set(ignored) - self._ignored_settings:
            logger.warning("The task sets {}, which has no meaning for longva.", name)
            self._ignored_settings.add(name)
        return settings

    def _progress(self, total: int, what: str) -> Any:
        return progress_bar(total, what, unit="question", disable=self.rank != 0)


def _score_column(request: Instance) -> str | None:
    """The column whose text is scored as input, if the task asks for that.

    Such prompts may be longer than the context, which is what a needle test is about.
    """
    gen_kwargs = request.args[1]
    return gen_kwargs.get("score_column") if isinstance(gen_kwargs, Mapping) else None


def _bare(text: Any, number: int) -> str:
    """An option of a document, without the letter that some data sets write before it."""
    letter = chr(ord("A") + number)
    return re.sub(rf"^\s*\(?{letter}\s*[.):]\s*(?=\S)", "", str(text)).strip()


def _letters(request: Instance) -> str:
    """Of the options that a question lists; none where it is no multiple choice."""
    options = find_options(request.args[0]) if isinstance(request.args[0], str) else None
    return options.letters if options is not None else ""


def _is_padding(request: Instance) -> bool:
    """Whether lmms-eval added the request so that all processes have equally many."""
    return bool(request.metadata.get("__padding_only__"))


def _generated(value: Mapping[str, Any] | None) -> GenerationResult:
    if value is None:
        return GenerationResult(text=FAILED)
    tokens = TokenCounts(
        input_tokens=value["num_prompt_tokens"], output_tokens=len(value["token_ids"])
    )
    return GenerationResult(text=value["text"], token_counts=tokens)


def _forced(frames_per_unit: int, value: Mapping[str, Any] | None) -> GenerationResult:
    if value is None:
        return GenerationResult(text=FAILED)
    report = {name: part for name, part in value.items() if name != "num_prompt_tokens"}
    if frames_per_unit > 1:
        report["frames_per_unit"] = frames_per_unit
    tokens = TokenCounts(input_tokens=value["num_prompt_tokens"], output_tokens=None)
    return GenerationResult(text=json.dumps(report), token_counts=tokens)


def _picture_bytes(item: Media) -> int:
    if isinstance(item, Image.Image):
        return item.width * item.height * 3
    if isinstance(item, (list, tuple)):
        return sum(_picture_bytes(part) for part in item)
    return 0


def _journal_place(journal: str) -> str:
    """`on`, `off`, or a folder."""
    text = journal.strip()
    if text.lower() in ("off", "false", "no", "none", ""):
        return "off"
    return "on" if text.lower() in ("on", "true", "yes") else text


def _own_device(device: str) -> str:
    """`auto` and plain `cuda` as this process's own GPU, when several share the work."""
    local = os.environ.get("LOCAL_RANK")
    if device in ("auto", "cuda") and local is not None and torch.cuda.is_available():
        return f"cuda:{int(local) % torch.cuda.device_count()}"
    return device
