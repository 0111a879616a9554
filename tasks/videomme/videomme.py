"""Video-MME: how a row is read, its prompt, and its subtitles. No torch.

The mini suite has Video-MME's schema and uses the same. Source: Video-MME repository, commit
06c2315 (README: prompt, rule for subtitles).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from longva_eval.errors import DataError
from longva_eval.media.subtitles import (
    cues_at,
    evenly_spread_seconds,
    read_subtitles,
    subtitle_block,
    subtitle_marker,
)
from longva_eval.questions.choice_task import ChoiceTask
from longva_eval.questions.documents import answer_letter, make_choice_doc

__all__ = ["INSTRUCTION", "TASK", "lettered_options", "read_row", "subtitle_text"]

INSTRUCTION: Final = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter ({letters}) of the correct option."
)
_NUM_OPTIONS: Final = 4
_FRAMES_OF_OTHER_MODELS: Final = 32


def read_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of Video-MME's as a document, its options as they are.

    Raises:
        ValueError: If it is not four options, one of them right, with a duration.
    """
    if row["duration"] not in ("short", "medium", "long"):
        raise ValueError(f"the duration is {row['duration']!r}, not short, medium or long")
    options = lettered_options(row["options"])
    if len(options) != _NUM_OPTIONS:
        raise ValueError(f"the question has {len(options)} options, not {_NUM_OPTIONS}: {options}")
    return make_choice_doc(
        question_id=row["question_id"],
        video=row["videoID"],
        question=row["question"],
        options=options,
        answer=answer_letter(row["answer"], options),
        categories={
            name: row[name] for name in ("duration", "domain", "sub_category", "task_type")
        },
        video_id=str(row["video_id"]),
    )


def subtitle_text(file: Path, video: Callable[[], str], settings: Mapping[str, Any]) -> str:
    """What stands before the question, by the rule that the task's YAML has for the model.

    Args:
        file: The subtitles.
        video: Gives the video's path; asked for only where the rule needs it.
        settings: `subtitles` is `frames_seen` for models of longva-eval, which know their frames;
            `evenly_spread`, at `frame_num` frames, for others; `all` for the whole file.

    Raises:
        DataError: If the rule is unknown or the file cannot be read.
        MediaError: If the video is needed and cannot be read.
    """
    rule = settings.get("subtitles", "evenly_spread")
    if rule not in ("frames_seen", "evenly_spread", "all"):
        raise DataError(
            f"subtitles: {rule!r} in lmms_eval_specific_kwargs is unknown; use frames_seen, "
            "evenly_spread or all."
        )
    cues = read_subtitles(file)
    if rule == "frames_seen":
        return subtitle_marker(file)
    if rule == "all":
        return subtitle_block(cues)
    num_frames = int(settings.get("frame_num", _FRAMES_OF_OTHER_MODELS))
    return subtitle_block(cues_at(cues, evenly_spread_seconds(video(), num_frames)))


def lettered_options(given: Any) -> list[str]:
    """Options that begin with their letters, in order; ValueError if they do not."""
    if given is None or isinstance(given, str) or not len(given):
        raise ValueError("the question has no options")
    options = [str(option).strip() for option in given]
    for place, option in enumerate(options):
        letter = chr(ord("A") + place)
        if not option.startswith(letter):
            raise ValueError(f"option {place + 1} does not begin with {letter}: {option!r}")
    return options


TASK: Final = ChoiceTask(
    name="Video-MME",
    folder="videomme/data",
    entry="videomme",
    columns=(
        "video_id", "duration", "domain", "sub_category", "videoID", "question_id", "task_type",
        "question", "options", "answer",
    ),
    read=read_row,
    question=f"{{subtitles}}{INSTRUCTION.format(letters='A, B, C, or D')}\n{{question}}",
    option="{text}",
    instruction="The best answer is:",
    metric_of="duration",
)  # fmt: skip
