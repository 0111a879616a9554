"""Needle tests: pictures hidden in a long video, asked for at every place and length.

All prompts of a grid go through the prefix engine at once: haystack frames before a needle are
shared by all cells, and the lengths of one needle at one insertion index are prefixes of each
other. Frames and needles are padded to squares of the mean colour (videos elsewhere are cropped),
as in the original.

Source: LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from longva_eval.engine.conversation import ComposedClip, Failure, ForcedAnswer
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.engine.vision import ClipVision
from longva_eval.errors import MediaError, SettingsError
from longva_eval.media.frames import FramePolicy, colour_shares, sample_places
from longva_eval.needle.grid import (
    Cell,
    LatticeGrid,
    NeedleGrid,
    TestGrid,
    arrange,
    controls_of,
    seconds_shown,
)
from longva_eval.needle.items import Item
from longva_eval.needle.media import Haystack, check_captioned, composed_clip
from longva_eval.needle.results import NeedleAnswer
from longva_eval.prompts.pieces import Piece, TextPiece, tokenize
from longva_eval.running.journal import Journal

__all__ = ["Grid", "open_needle_session", "run_grid"]

Grid = NeedleGrid | LatticeGrid | TestGrid


def open_needle_session(pretrained: str | Path, **settings: Any) -> Session:
    """As `open_session`; frames are pooled as in the original test, whatever config.json says."""
    session = open_session(pretrained, **settings)
    if isinstance(session.vision, ClipVision):
        session.vision.pool_stride, session.vision.pool_mode = 2, "average"
    return session


def run_grid(
    session: Session,
    haystack: Haystack,
    items: Sequence[Item],
    grid: Grid,
    *,
    max_new_tokens: int = 8,
    controls: bool = False,
    captions: Sequence[str] | None = None,
    select: FramePolicy | None = None,
    journal: Journal | None = None,
    on_answer: Callable[[NeedleAnswer], None] = lambda _: None,
) -> list[NeedleAnswer]:
    """Ask about every item at every place of the grid.

    Args:
        session: The model.
        haystack: From `open_haystack`.
        items: What to hide.
        grid: Where.
        max_new_tokens: Tokens to decode of what the model would say by itself; 0 for none.
        controls: Also ask on the clean haystack (at every length), without frames, and about the
            pictures alone, in the same pass (`longva_eval.needle.controls`).
        captions: What each haystack frame shows. If given, every frame is read as its caption: the
            text twin of the same cells.
        select: Which frames of each clip are shown; all if None.
        journal: Where answers are kept as they come, and taken over from.
        on_answer: Called with each answer as soon as it is there, in the engine's order; first
            with those that were taken over.

    Returns:
        An answer for each cell (lengths, then places, then items), then the controls'.

    Raises:
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        SettingsError: If no cell can hold the test, or a picture has no caption for the twin.
        NumericalError: If logits are NaN or infinite.
    """
    tokenizer = session.checkpoint.tokenizer
    haystack.check_length(max(grid.frame_counts))
    size = session.vision.frames_per_unit
    cells = grid.lay_out(items).in_whole_units(size).cells
    cells += controls_of(cells, len(items)) if controls else []
    frames = _Frames(session, haystack, items, max(grid.frame_counts), captions, select)
    answer_ids = [tokenize(tokenizer, item.answer) for item in items]
    for item, ids in zip(items, answer_ids, strict=True):
        if not ids:
            raise MediaError(f"The answer {item.answer!r} of needle {item.name} has no tokens.")
    shown = [frames.of(cell) for cell in cells]
    prompts = [
        session.clip_prompt(items[cell.item].question, pieces)
        for cell, (pieces, _) in zip(cells, shown, strict=True)
    ]
    wanted = [answer_ids[cell.item] for cell in cells]

    def answer_at(number: int, scored: Mapping[str, Any]) -> NeedleAnswer:
        cell = cells[number]
        item = items[cell.item]
        facts = {
            **{name: value for name, value in vars(cell).items() if name != "item"},
            "test": item.test,
            "insert_index": min(cell.insert_indices, default=None),
            "times": seconds_shown(cell, frames_per_unit=size),
            "needle": cell.item,
            "needle_name": item.name,
            "rotation": item.rotation,
            "question": item.question.strip(),
            "answer": item.answer,
            "floor": item.floor,
        }
        length = {"num_prompt_tokens": prompts[number].num_tokens, "shown": shown[number][1]}
        return NeedleAnswer.from_json({**facts, **scored, **length})

    keys = [
        {"kind": "needle", "prompt": prompt.digest, "answer": ids, "max_new_tokens": max_new_tokens}
        for prompt, ids in zip(prompts, wanted, strict=True)
    ]
    answers: dict[int, NeedleAnswer] = {}
    for number, key in enumerate(keys):
        known = None if journal is None else journal.get(key)
        if known is not None:
            answers[number] = answer_at(number, known)
            on_answer(answers[number])

    def keep(number: int, forced: ForcedAnswer | Failure) -> None:
        assert isinstance(forced, ForcedAnswer), "force raises what fails"
        answers[number] = answer_at(number, forced.to_json())
        if journal is not None:
            journal.put(keys[number], forced.to_json())
        on_answer(answers[number])

    session.force(
        prompts,
        wanted,
        max_new_tokens=max_new_tokens,
        on_answer=keep,
        only=[number for number in range(len(prompts)) if number not in answers],
    )
    return [answers[number] for number in range(len(prompts))]


class _Frames:
    """The frames of cells as pieces of prompts: visual ones, or their captions."""

    def __init__(
        self,
        session: Session,
        haystack: Haystack,
        items: Sequence[Item],
        longest: int,
        captions: Sequence[str] | None,
        select: FramePolicy | None,
    ) -> None:
        self._items = items
        self._select = select
        self._seen: list[Any] = []
        """Of each item, what the policy sees of each haystack frame."""
        self._seen_of: list[dict[int, Any]] = []
        """And of each picture."""
        self._size = 1 if captions else session.vision.frames_per_unit
        self._trunk: Sequence[Piece]
        if captions is None:
            clean = Cell(item=0, num_frames=longest, control="no needle")
            self._trunk, _ = session.units(composed_clip(haystack, clean, items[0]))
            shown = [each for item in items for each in (*item.needles, *item.distractors)]
            different = list({id(each): each for each in shown}.values())
            if select is not None:
                self._look(session, haystack, longest, different)
            clip = ComposedClip(parts=tuple(each.image for each in different), aspect="pad")
            pieces, _ = session.units(clip)
            self._pieces: dict[int, Piece] = {
                id(each): piece for each, piece in zip(different, pieces, strict=True)
            }
            return
        check_captioned(items)
        as_sentence = not captions[0].endswith(" .")

        def piece(caption: str) -> Piece:
            text = caption + "\n" if as_sentence else caption
            return TextPiece(tokenize(session.checkpoint.tokenizer, text))

        self._trunk = [piece(caption) for caption in captions[:longest]]
        self._pieces = {
            id(each): piece(each.caption(as_sentence=as_sentence))
            for item in items
            for each in (*item.needles, *item.distractors)
        }

    def _look(
        self, session: Session, haystack: Haystack, longest: int, different: Sequence[Any]
    ) -> None:
        """See all frames, for a policy that goes by their colours, or by what is asked."""
        if self._size > 1:
            raise SettingsError(
                f"This model sees {self._size} frames at once: frames of a needle test cannot be "
                "selected for it."
            )
        assert self._select is not None
        shown = [np.array(each.image.convert("RGB")) for each in different]
        runs = [
            (session.probe(path), [index for _, index in run])
            for path, run in itertools.groupby(haystack.frames[:longest], lambda frame: frame[0])
        ]
        selector = session.selector
        if selector is not None:
            seen = [selector.frames(*run, session.read, session.looks) for run in runs]
            frames, pictures = np.concatenate(seen), selector.pictures([each] for each in shown)
            asked, cut = zip(*(selector.text(item.question.strip()) for item in self._items),
                             strict=True)  # fmt: skip
            if any(cut):
                logger.warning(
                    "{} reads at most the first {} tokens of a question; the longest has {} more.",
                    self._select.policy, selector.describe()["text_tokens"], max(cut),
                )  # fmt: skip
            # Of each item the similarity of all that is shown, to what it asks.
            self._seen = [(frames @ question).tolist() for question in asked]
            self._seen_of = [
                {id(each): own for each, own in zip(different, pictures @ question, strict=True)}
                for question in asked
            ]
        elif self._select.kind[0] == "scene":
            blocks = itertools.chain.from_iterable(session.read(*run) for run in runs)
            colours = [colour_shares(frame) for block in blocks for frame in block]
            own = {id(each): colour_shares(picture)
                   for each, picture in zip(different, shown, strict=True)}  # fmt: skip
            self._seen = [colours] * len(self._items)
            self._seen_of = [own] * len(self._items)

    def of(self, cell: Cell) -> tuple[list[Piece], float | None]:
        """The frames of a cell; which share of its needles is among them, where some are chosen."""
        item, cell = self._items[cell.item], self._in_units(cell)
        needles = [self._pieces[id(each)] for each in item.needles]
        distractors = [self._pieces[id(each)] for each in item.distractors]
        pieces = arrange(cell, item, self._trunk, needles, distractors)
        if self._select is None or cell.control in ("needle only", "blind"):
            return pieces, None
        seen: list[Any] = []
        if self._seen:
            trunk, own = self._seen[cell.item], self._seen_of[cell.item]
            seen = arrange(cell, item, trunk, [own[id(each)] for each in item.needles],
                           [own[id(each)] for each in item.distractors])  # fmt: skip
        whose = arrange(cell, item, [-1] * len(self._trunk), list(range(len(needles))),
                        [-1] * len(distractors))  # fmt: skip
        places = sample_places(len(pieces), self._select, seen)
        shown = {whose[place] for place in places} - {-1}
        return [pieces[place] for place in places], len(shown) / max(1, len(needles))

    def _in_units(self, cell: Cell) -> Cell:
        """The cell, whose frames are whole units, counted in units."""
        size = self._size
        if cell.control == "needle only":
            return cell
        return replace(
            cell,
            num_frames=cell.num_frames // size,
            insert_indices=tuple(place // size for place in cell.insert_indices),
            distractor_indices=tuple(place // size for place in cell.distractor_indices),
        )
