"""Runs as logs of inspect_ai, which its viewer opens: samples, scores and the frames seen.

A log is written by inspect_ai itself (its `.eval` format), one for each task of a run. Its correct,
incorrect and no answer are our right, wrong and no answer. A question that failed counts as not
right in our score, so it is a *no answer* there too, with its reason as explanation: as an error it
would be called not scored. The score is that of our tables, with its clustered standard error and
interval beside it.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from longva_eval import __version__
from longva_eval.errors import ResourceError, SettingsError
from longva_eval.reports.page.film import Strip
from longva_eval.reports.page.media import make_film
from longva_eval.reports.page.runs import PageRun, read_page_runs
from longva_eval.reports.page.samples import Film
from longva_eval.reports.reading.runs import Run, Sample, TaskRun
from longva_eval.reports.reading.samples import as_number
from longva_eval.reports.reading.scores import score_of

__all__ = ["write_inspect_logs"]

_VALUES: Final = {"right": "C", "wrong": "I", "no answer": "N", "failed": "N"}
"""inspect_ai's CORRECT, INCORRECT and NOANSWER."""


def write_inspect_logs(
    path: Path, out: Path, *, media: Sequence[Path] = (), film_megabytes: float = 200.0
) -> tuple[list[Path], str]:
    """Write the logs of the runs at a path.

    Args:
        path: Results of lmms-eval, a needle test or a study.
        out: Folder of the logs.
        media: Folders with media that do not lie in the run's own.
        film_megabytes: What all frames may take together; 0 leaves them out.

    Returns:
        The files, and a sentence on the frames.

    Raises:
        SettingsError: If inspect_ai is not installed.
        MediaError: If nothing can be read.
        ResourceError: If a log cannot be written.
    """
    try:
        from inspect_ai.log import write_eval_log
    except ImportError as error:
        raise SettingsError(
            f"--to inspect needs inspect_ai ({error}): pip install 'longva-eval[inspect]'"
        ) from error
    runs = read_page_runs(path)
    film: Film = {}
    note = "Frames were left out (--no-film)."
    if film_megabytes:
        film, note = make_film(runs, media=media, megabytes=film_megabytes)
    files = []
    for place, each in enumerate(runs):
        for task in each.run.tasks.values():
            if not task.samples:
                continue
            strips = {
                sample.key: film.get((place, task.name, sample.key)) for sample in task.samples
            }
            log = _log(each, task, strips)
            name = re.sub(r"[^\w.-]+", "-", f"{log.eval.created[:19]}_{task.name}_{each.run.name}")
            file = out / f"{name}{f'_{place}' if len(runs) > 1 else ''}.eval"
            try:
                out.mkdir(parents=True, exist_ok=True)
                write_eval_log(log, str(file), format="eval")
            except OSError as error:
                raise ResourceError(f"{file} cannot be written: {error}") from error
            files.append(file)
    return files, note


def _log(each: PageRun, task: TaskRun, strips: dict[str, Any]) -> Any:
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )

    run = each.run
    host = str(run.results.get("lmms_eval_version") or "unknown")
    scorer = task.metric or "score"
    found, scale = score_of(task), task.scale
    numbers: dict[str, float | None] = {}
    if found is not None:
        numbers = {
            "accuracy" if task.is_share else "mean": found.value, "stderr": found.standard_error,
            "low_95": found.low, "high_95": found.high,
        }  # fmt: skip
    metrics = {
        name: EvalMetric(name=name, value=value / scale)
        for name, value in numbers.items()
        if value is not None
    }
    samples = [_sample(sample, run, scorer, strips.get(sample.key)) for sample in task.samples]
    scored = [sample for sample in task.samples if sample.is_scored]
    return EvalLog(
        status="success",
        eval=EvalSpec(
            created=_created(run.date),
            task=task.name,
            task_version=task.version or 0,
            model=f"lmms-eval/{run.name}",
            model_args=dict(run.model_args),
            dataset=EvalDataset(
                name=task.name,
                samples=task.num_in_benchmark or len(samples),
                sample_ids=[sample.id for sample in samples],
            ),
            config=EvalConfig(limit=int(run.limit) if run.limit and run.limit >= 1 else None),
            packages={"longva-eval": __version__, "lmms-eval": host},
            metadata={
                "problems": [p.text for p in run.problems_of(task.name)],
                "recipe": run.recipe,
            },
        ),
        results=EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[
                EvalScore(
                    name=scorer,
                    scorer=scorer,
                    scored_samples=len(scored),
                    unscored_samples=len(samples) - len(scored),
                    metrics=metrics,
                )
            ],
        ),
        stats=EvalStats(started_at=_created(run.date), completed_at=_created(run.date, run)),
        samples=samples,
    )


def _created(date: str, until: Run | None = None) -> str:
    """A run's date with its time zone; the end of the run `until`, if it says how long it took.

    lmms-eval writes 20261101_120000 without a time zone, a needle test an ISO date.
    """
    told = datetime.datetime(1970, 1, 1)
    with contextlib.suppress(ValueError):
        told = datetime.datetime.fromisoformat(date)
    with contextlib.suppress(ValueError):
        told = datetime.datetime.strptime(date, "%Y%m%d_%H%M%S")
    if told.tzinfo is None:
        told = told.replace(tzinfo=datetime.timezone.utc)
    if until is not None:
        seconds = as_number(until.results.get("total_evaluation_time_seconds"))
        told += datetime.timedelta(seconds=seconds or 0.0)
    return told.isoformat()


def _sample(sample: Sample, run: Run, scorer: str, strip: Any) -> Any:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, ModelOutput
    from inspect_ai.scorer import Score

    text = sample.prompt or sample.question
    # The text first: lists show the beginning of an input. The frames follow as they were seen.
    content: list[Any] = [ContentText(text=text)]
    if isinstance(strip, Strip):
        for label, picture in zip(strip.labels, _frames(strip), strict=True):
            content += [ContentText(text=label), ContentImage(image=picture)]
        if strip.num_seen > len(strip.labels):
            content.append(
                ContentText(text=f"({len(strip.labels)} of the {strip.num_seen:,} frames seen)")
            )
    output = ModelOutput.from_content(run.name, sample.generated)
    partial = sample.outcome in ("right", "wrong") and sample.score not in (0.0, 1.0)
    value = _VALUES.get(sample.outcome)
    scores = {}
    if sample.is_scored:
        scores[scorer] = Score(
            value=sample.score if value is None or partial else value,
            answer=sample.choice or sample.generated,
            explanation=sample.reason or sample.generated,
            metadata={"outcome": sample.outcome, "score": sample.score},
        )
    question = ChatMessageUser(content=content if len(content) > 1 else text)
    return EvalSample(
        id=sample.question_id or str(sample.doc_id),
        epoch=1,
        input=[question],
        choices=list(sample.options) or None,
        target=sample.answer.split(" | "),
        messages=[question, output.message],
        output=output,
        scores=scores,
        metadata={
            **sample.categories,
            "cluster": sample.cluster,
            "media": list(sample.media),
            "frames_asked": sample.frames_asked,
            "frames_seen": sample.frames_seen,
            "timestamps_seconds": list(sample.timestamps),
            "num_prompt_tokens": sample.num_prompt_tokens,
        },
        total_time=sample.seconds,
    )


def _frames(strip: Strip) -> list[str]:
    """The frames of a strip, each as a data: address."""
    found = []
    with Image.open(io.BytesIO(strip.data)) as sheet:
        width, height = strip.frame_width_pixels, strip.frame_height_pixels
        for place in range(len(strip.labels)):
            out = io.BytesIO()
            frame = sheet.crop((place * width, 0, (place + 1) * width, height)).convert("RGB")
            frame.save(out, "JPEG", quality=88)
            found.append(f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}")
    return found
