"""Multiple-choice questions on videos, at several numbers of frames, in one go.

All prompts of all frame counts go through the engine together: each video is decoded once, each
frame encoded once, and the questions on a video share its prefix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from longva_eval.answering import generate_journaled
from longva_eval.answers import read_choice
from longva_eval.generation import Generation, parse_gen_kwargs
from longva_eval.journal import Journal
from longva_eval.session import Failure, Session
from longva_eval.stats import clustered_standard_error
from longva_eval.videomme import multiple_choice_prompt

__all__ = ["SweepAnswer", "multiple_choice_prompt", "run_frame_sweep", "sweep_rows"]

Outcome = Literal["right", "wrong", "no answer", "failed"]


@dataclass(frozen=True, kw_only=True)
class SweepAnswer:
    """One question at one number of frames."""

    question_id: str
    video_id: str
    duration: str
    num_frames_asked: int
    num_frames_seen: int
    text: str
    """What the model said, or why the video could not be read."""
    choice: str | None
    """The letter that was read, or none."""
    answer: str
    outcome: Outcome


def run_frame_sweep(
    session: Session,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    frame_counts: Sequence[int],
    *,
    max_new_tokens: int = 8,
    journal: Journal | None = None,
    on_answer: Callable[[], None] | None = None,
) -> list[SweepAnswer]:
    """Ask every question at every number of frames.

    Args:
        session: The model; its frame policy is kept but for the number.
        rows: Questions with Video-MME's columns.
        folder: Holds `<videoID>.mp4` for each row.
        frame_counts: Numbers of frames.
        max_new_tokens: Of an answer.
        journal: Where answers are kept as they come, and taken over from.
        on_answer: Called after each answer.

    Returns:
        An answer per number of frames and row, in that order.

    Raises:
        MediaError: If a video is missing or cannot be looked at.
    """
    before = session.frames
    prompts = []
    try:
        for count in frame_counts:
            session.frames = replace(before, max_frames=count)
            for row in rows:
                video = folder / f"{row['videoID']}.mp4"
                prompts.append(session.prompt(multiple_choice_prompt(row), [video]))
    finally:
        session.frames = before
    settings, _ = parse_gen_kwargs(
        {"max_new_tokens": max_new_tokens}, session.checkpoint.generation_config
    )
    answers = generate_journaled(
        session,
        prompts,
        settings,
        journal=journal,
        on_answer=lambda *_: on_answer() if on_answer else None,
    )
    asked = [(count, row) for count in frame_counts for row in rows]
    return [
        _judge(row, count, len(prompt.frames[0].indices), answer)
        for (count, row), prompt, answer in zip(asked, prompts, answers, strict=True)
    ]


def _judge(
    row: Mapping[str, Any], count: int, seen: int, answer: Generation | Failure
) -> SweepAnswer:
    outcome: Outcome
    if not isinstance(answer, Generation):
        text, choice, outcome = str(answer), None, "failed"
    else:
        text = answer.text
        choice = read_choice(text, row["options"])
        right = choice == row["answer"]
        outcome = "no answer" if choice is None else "right" if right else "wrong"
    return SweepAnswer(
        question_id=row["question_id"],
        video_id=row["video_id"],
        duration=row["duration"],
        num_frames_asked=count,
        num_frames_seen=seen,
        text=text,
        choice=choice,
        answer=row["answer"],
        outcome=outcome,
    )


def sweep_rows(answers: Sequence[SweepAnswer]) -> list[dict[str, Any]]:
    """Accuracy by duration and number of frames, with standard errors clustered by video.

    A question without a readable answer, or whose video failed, counts as not right and is counted
    apart. `duration` is also `overall`.
    """
    groups: dict[tuple[str, int], list[SweepAnswer]] = {}
    for answer in answers:
        for duration in (answer.duration, "overall"):
            groups.setdefault((duration, answer.num_frames_asked), []).append(answer)
    rows = []
    for (duration, count), group in groups.items():
        scores = [float(answer.outcome == "right") for answer in group]
        rows.append(
            {
                "duration": duration,
                "num_frames": count,
                "num_questions": len(group),
                "num_right": int(sum(scores)),
                "num_no_answer": sum(answer.outcome == "no answer" for answer in group),
                "num_failed": sum(answer.outcome == "failed" for answer in group),
                "accuracy": sum(scores) / len(scores),
                "standard_error": clustered_standard_error(
                    scores, [answer.video_id for answer in group]
                ),
            }
        )
    return rows
