"""V-NIAH: one picture hidden in a long video, asked for at every depth and length.

The haystack is the first N frames of one or several videos at one frame a second. A needle
picture is inserted before frame `int(depth * N)`, so that the model sees N + 1 frames, and a
question about it follows. Scoring is teacher-forced, as in the original: the true answer is the
input, and a cell is correct if every answer token is the model's first choice. That is the same
as greedy decoding starting with exactly the answer; what the model would have said is decoded too
and kept beside it.

All prompts of a grid go through the prefix engine at once: haystack frames before a needle are
shared by all cells, and the lengths of one needle at one insertion index are prefixes of each
other.

Source: LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`. Frames and
needles are padded to squares of the mean colour (videos elsewhere are cropped), and scores run
over the whole output layer, padding rows included: both as there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longva_eval.engine.session import ComposedClip, ForcedAnswer, Session
from longva_eval.errors import MediaError, SettingsError
from longva_eval.needle.controls import Control, ControlResult
from longva_eval.needle.media import Haystack, Needle, needle_clip
from longva_eval.needle.results import mean_by_place
from longva_eval.prompts.pieces import Prompt, TextPiece, VisualPiece, tokenize
from longva_eval.running.answering import force_journaled
from longva_eval.running.journal import Journal

__all__ = [
    "CellResult",
    "GridRun",
    "LatticeGrid",
    "NeedleCell",
    "NeedleGrid",
    "accuracy_rows",
    "insert_index",
    "is_answer",
    "lattice_rows",
    "run_grid",
]


@dataclass(frozen=True, kw_only=True)
class NeedleCell:
    """A place in a grid."""

    num_frames: int
    """Haystack length, in frames, the needle not counted."""
    depth: float
    """Needle position: 0.0 before the first frame, 1.0 after the last."""
    insert_index: int
    """The haystack frame that the needle stands before."""


@dataclass(frozen=True, kw_only=True)
class NeedleGrid:
    """Haystack lengths and needle depths, as in the paper."""

    frame_counts: tuple[int, ...]
    depths: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        if not self.depths:
            raise SettingsError("A needle grid needs at least one depth.")
        if not all(0 <= depth <= 1 for depth in self.depths):
            raise SettingsError(f"depths={list(self.depths)} must lie between 0 and 1.")

    def cells(self) -> list[NeedleCell]:
        """All places, lengths first, in the original's order."""
        return [
            NeedleCell(num_frames=count, depth=depth, insert_index=insert_index(count, depth))
            for count in self.frame_counts
            for depth in self.depths
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "depths",
            "frames": list(self.frame_counts),
            "depths": list(self.depths),
            "insert_rule": "int(depth * num_frames); num_frames + 1 frames in all",
        }


@dataclass(frozen=True, kw_only=True)
class LatticeGrid:
    """Needles at absolute positions: every multiple of a step, in every length beyond it.

    The paper's depths put the needle of each length somewhere else, so that lengths share only what
    comes before. Here all lengths share their needles, and one growing video per needle and
    position serves them all: at a step of 200 up to 3,000 frames a cell costs a seventh
    (docs/performance.md). It also separates where a needle stands from how much follows it.
    """

    frame_counts: tuple[int, ...]
    step: int
    """Insertion indices are 0, step, 2 * step, ... up to the length."""

    def __post_init__(self) -> None:
        _check_frame_counts(self.frame_counts)
        if self.step < 1:
            raise SettingsError(f"lattice={self.step} must be at least 1 frame.")

    def cells(self) -> list[NeedleCell]:
        """All places, lengths first."""
        return [
            NeedleCell(num_frames=count, depth=index / count, insert_index=index)
            for count in self.frame_counts
            for index in range(0, count + 1, self.step)
        ]

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "lattice",
            "frames": list(self.frame_counts),
            "step": self.step,
            "insert_rule": "multiples of step; num_frames + 1 frames in all",
        }


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One needle at one place of the grid."""

    num_frames: int
    depth: float
    insert_index: int
    needle: int
    """Place of the needle in the list."""
    answer_ids: tuple[int, ...]
    pred_ids: tuple[int, ...]
    """First choice at each answer position, with the true answer as input."""
    correct: bool
    logprob: float
    """Of the answer, natural logarithm, over the whole output layer."""
    min_margin: float
    """Smallest gap between the best and second-best logit at the answer's positions."""
    generated: str
    """What greedy decoding says."""
    num_prompt_tokens: int

    def to_json(self) -> dict[str, Any]:
        """The line in `cells.jsonl`."""
        return {
            "num_frames": self.num_frames,
            "depth": self.depth,
            "insert_index": self.insert_index,
            "needle": self.needle,
            "answer_ids": list(self.answer_ids),
            "pred_ids": list(self.pred_ids),
            "correct": self.correct,
            "logprob": self.logprob,
            "min_margin": self.min_margin,
            "generated": self.generated,
            "num_prompt_tokens": self.num_prompt_tokens,
        }


@dataclass(frozen=True, kw_only=True)
class GridRun:
    """All answers of a grid."""

    cells: list[CellResult]
    controls: list[ControlResult]
    """Empty unless they were asked for."""


def _check_frame_counts(frame_counts: Sequence[int]) -> None:
    if not frame_counts:
        raise SettingsError("A needle grid needs at least one frame count.")
    if min(frame_counts) < 1:
        raise SettingsError(f"frames={min(frame_counts)} must be at least 1.")


def insert_index(num_frames: int, depth: float) -> int:
    """The haystack frame that the needle stands before; truncated, as in the original."""
    return int(depth * num_frames)


def run_grid(
    session: Session,
    haystack: Haystack,
    needles: Sequence[Needle],
    grid: NeedleGrid | LatticeGrid,
    *,
    max_new_tokens: int = 8,
    controls: bool = False,
    journal: Journal | None = None,
    on_result: Callable[[CellResult | ControlResult], None] | None = None,
) -> GridRun:
    """Ask for every needle at every place of the grid.

    Args:
        session: The model.
        haystack: From `open_haystack`.
        needles: What to hide.
        grid: Where.
        max_new_tokens: Tokens to decode of what the model would say by itself; 0 for none.
        controls: Also ask without the needle (at every length), without frames, and about the
            needle alone, in the same pass (`longva_eval.needle.controls`).
        journal: Where answers are kept as they come, and taken over from.
        on_result: Called with each result as soon as it is there, in the engine's order; first
            with those that were taken over.

    Returns:
        A result for each cell and needle (lengths, then depths, then needles), and the controls'.

    Raises:
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        NumericalError: If logits are NaN or infinite.
    """
    pieces = _pieces(session, haystack, needles, max(grid.frame_counts))
    cells = [(cell, number) for cell in grid.cells() for number in range(len(needles))]
    asked = list(_controls(grid.frame_counts, len(needles))) if controls else []
    prompts = [pieces.cell(cell, number) for cell, number in cells]
    prompts += [pieces.control(*control) for control in asked]
    answers = [pieces.answers[number] for _, number in cells]
    answers += [pieces.answers[number] for *_, number in asked]

    def result_of(place: int, answer: ForcedAnswer) -> CellResult | ControlResult:
        if place >= len(cells):
            control, num_frames, number = asked[place - len(cells)]
            return ControlResult(
                control=control,
                num_frames=num_frames,
                needle=number,
                correct=answer.scores.is_greedy,
                logprob=answer.scores.log_prob,
                generated=answer.generated,
            )
        cell, number = cells[place]
        return CellResult(
            num_frames=cell.num_frames,
            depth=cell.depth,
            insert_index=cell.insert_index,
            needle=number,
            answer_ids=answer.scores.token_ids,
            pred_ids=answer.scores.argmax_ids,
            correct=answer.scores.is_greedy,
            logprob=answer.scores.log_prob,
            min_margin=answer.scores.min_margin,
            generated=answer.generated,
            num_prompt_tokens=prompts[place].num_tokens,
        )

    answered = force_journaled(
        session,
        prompts,
        answers,
        journal=journal,
        max_new_tokens=max_new_tokens,
        on_answer=lambda place, answer: on_result(result_of(place, answer)) if on_result else None,
    )
    results = [result_of(place, answer) for place, answer in enumerate(answered)]
    return GridRun(
        cells=[result for result in results if isinstance(result, CellResult)],
        controls=[result for result in results if isinstance(result, ControlResult)],
    )


@dataclass(frozen=True, kw_only=True)
class _Pieces:
    """What the prompts of a grid are put together from."""

    trunk: list[VisualPiece]
    """The haystack's frames."""
    pictures: list[VisualPiece]
    """A frame for each needle."""
    around: list[tuple[TextPiece, TextPiece]]
    """For each needle, the texts before and after the video."""
    answers: list[tuple[int, ...]]

    def cell(self, cell: NeedleCell, number: int) -> Prompt:
        (before, after), index = self.around[number], cell.insert_index
        frames = self.trunk[: cell.num_frames]
        return Prompt((before, *frames[:index], self.pictures[number], *frames[index:], after))

    def control(self, control: Control, num_frames: int, number: int) -> Prompt:
        before, after = self.around[number]
        if control == "needle only":
            return Prompt((before, self.pictures[number], after))
        return Prompt((before, *self.trunk[:num_frames], after))


def _controls(frame_counts: Sequence[int], num_needles: int) -> Iterator[tuple[Control, int, int]]:
    for number in range(num_needles):
        yield "blind", 0, number
        yield "needle only", 1, number
        for count in frame_counts:
            yield "no needle", count, number


def _pieces(
    session: Session, haystack: Haystack, needles: Sequence[Needle], longest: int
) -> _Pieces:
    """Visual pieces and tokenised texts; answers are tokenised on their own."""
    tokenizer = session.checkpoint.tokenizer
    around = [session.template.around_video(tokenizer, needle.question) for needle in needles]
    trunk, _ = session.visual(needle_clip(haystack, None, num_frames=longest))
    pictures, _ = session.visual(
        ComposedClip(parts=tuple(needle.image for needle in needles), aspect="pad")
    )
    answers = [tokenize(tokenizer, needle.answer) for needle in needles]
    for needle, ids in zip(needles, answers, strict=True):
        if not ids:
            raise MediaError(f"The answer {needle.answer!r} of needle {needle.name} has no tokens.")
    return _Pieces(
        trunk=trunk,
        pictures=pictures,
        around=[(TextPiece(before), TextPiece(after)) for before, after in around],
        answers=answers,
    )


def accuracy_rows(results: Iterable[CellResult]) -> list[dict[str, float]]:
    """The rows of `all_accuracies.json`: the share of needles found at each place."""
    return mean_by_place((cell.num_frames, cell.depth, cell.correct) for cell in results)


def lattice_rows(results: Iterable[CellResult]) -> list[dict[str, float]]:
    """As `accuracy_rows`, by absolute position: `Insert Index` in place of `Frame Depth`."""
    found: dict[tuple[int, int], list[bool]] = {}
    for cell in results:
        found.setdefault((cell.num_frames, cell.insert_index), []).append(cell.correct)
    return [
        {"Num. Frame": count, "Insert Index": index, "Score": sum(correct) / len(correct)}
        for (count, index), correct in found.items()
    ]


def is_answer(text: str, answer: str) -> bool:
    """Whether a generated text gives the answer: for models that can only generate.

    Case and closing punctuation do not count. A letter of a choice may carry its bracket, dot or
    option text (`(B)`, `B.`, `B. San Diego`); a word or number must be all of the first line, or
    be followed by punctuation. A blank answer is given by no text.
    """
    if not text.strip() or not answer.strip():
        return False
    line = text.strip().splitlines()[0].strip()
    bare = re.escape(answer.strip())
    if re.fullmatch(r"[A-Z]", answer.strip()):
        return re.match(rf"[(\[*\"']*{bare}(?:[)\].:,*\"']|$)", line) is not None
    # Punctuation ends an answer where a blank or the end follows: `3.5` and `3:30` are not `3`.
    end = r"[\"'*]*(?:[.,;:!]+[\"'*]*(?:\s|$)|$)"
    return re.match(rf"[\"'*]*{bare}{end}", line, re.IGNORECASE) is not None
