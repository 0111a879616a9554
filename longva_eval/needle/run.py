"""Needle tests: pictures hidden in a long video, asked for at every place and length.

All prompts of a grid go through the prefix engine at once: haystack frames before a needle are
shared by all cells, and the lengths of one needle at one insertion index are prefixes of each
other. Frames and needles are padded to squares of the mean colour (videos elsewhere are cropped),
as in the original.

Source: LongVA, arXiv:2406.16852 section 4; repository commit f4c8781, `vision_niah/`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from longva_eval.engine.conversation import ComposedClip, Failure, ForcedAnswer
from longva_eval.engine.opening import open_session
from longva_eval.engine.session import Session
from longva_eval.engine.vision import ClipVision
from longva_eval.errors import MediaError, SettingsError
from longva_eval.files import set_aside, write_atomically
from longva_eval.media.frames import FramePolicy, colour_shares, sample_places
from longva_eval.model.rope import RopeSettings
from longva_eval.needle.controls import circular_items
from longva_eval.needle.grid import (
    Cell,
    LatticeGrid,
    NeedleGrid,
    TestGrid,
    arrange,
    controls_of,
    in_whole_units,
    seconds_shown,
)
from longva_eval.needle.items import Item
from longva_eval.needle.kinds import DRAWN_TESTS
from longva_eval.needle.media import Haystack, composed_clip
from longva_eval.needle.results import (
    NeedleAnswer,
    read_answers,
    rows_by_depth,
    rows_by_index,
    to_lines,
)
from longva_eval.needle.summary import original, summarize_grid, unanswerable
from longva_eval.needle.tests import NeedleTest
from longva_eval.prompts.pieces import Piece, TextPiece, tokenize
from longva_eval.running.journal import Journal, journal_settings, settings_difference
from longva_eval.running.run_log import progress_bar

__all__ = [
    "Grid",
    "NiahRun",
    "open_needle_session",
    "run_and_write",
    "run_grid",
    "run_test",
    "run_tests",
]

Grid = NeedleGrid | LatticeGrid | TestGrid

_FILES = (
    "run.json",
    "all_accuracies.json",
    "lattice_accuracies.json",
    "cells.jsonl",
    "controls.jsonl",
    "circular.jsonl",
    "summary.json",
    "heatmap.png",
    "heatmap.svg",
)
"""All that a finished test leaves. `run.json` is written after all numbers."""


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
    cells = [in_whole_units(cell, size) for cell in grid.lay_out(items).cells]
    cells += controls_of(grid.frame_counts, len(items)) if controls else []
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
        length = {"num_prompt_tokens": prompts[number].num_tokens, "shown": shown[number][1]}
        facts = _facts(cell, items[cell.item], frames_per_unit=size)
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
        as_sentence = not captions[0].endswith(" .")

        def piece(caption: str, of: str) -> Piece:
            if not caption:
                raise SettingsError(
                    f"The picture of {of} has no caption for the text twin: give it a "
                    '"caption" in dataset.json.'
                )
            text = caption + "\n" if as_sentence else caption
            return TextPiece(tokenize(session.checkpoint.tokenizer, text))

        self._trunk = [piece(caption, "the haystack") for caption in captions[:longest]]
        self._pieces = {
            id(each): piece(each.caption(as_sentence=as_sentence), item.name)
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


def _facts(cell: Cell, item: Item, *, frames_per_unit: int) -> dict[str, Any]:
    """What is known about an answer before it is given."""
    facts = {name: value for name, value in vars(cell).items() if name != "item"}
    return {
        **facts,
        "test": item.test,
        "insert_index": min(cell.insert_indices, default=None),
        "times": seconds_shown(cell, frames_per_unit=frames_per_unit),
        "needle": cell.item,
        "needle_name": item.name,
        "rotation": item.rotation,
        "question": item.question.strip(),
        "answer": item.answer,
        "floor": item.floor,
    }


@dataclass(frozen=True, kw_only=True)
class NiahRun:
    """A finished needle test."""

    folder: Path
    rows: list[dict[str, float]]
    """As in `all_accuracies.json`; of a lattice, as in `lattice_accuracies.json`."""
    cells: list[NeedleAnswer]
    """Of the needles as they are, without rotated options."""
    summary: dict[str, Any]
    """What the heatmap must be compared with, as in `summary.json`."""
    was_there: bool = False
    """Whether it was read from the folder, not computed now."""
    as_text: bool = False
    """Whether it is a text twin; the test itself is in the folder above."""
    model: str = ""
    """And its RoPE base, if several are tried."""

    @property
    def test(self) -> str:
        """Its name."""
        return str(self.summary.get("test", "single"))


def run_and_write(
    session: Session,
    haystack: Haystack,
    items: Sequence[Item],
    grid: Grid,
    folder: Path,
    *,
    max_new_tokens: int = 8,
    controls: bool = True,
    circular: bool = False,
    captions: Sequence[str] | None = None,
    select: FramePolicy | None = None,
    fresh: bool = False,
) -> NiahRun:
    """Run a grid with a progress bar and write its results into a folder.

    `all_accuracies.json` is the original's file, `cells.jsonl` has every answer in the grid's
    order, `controls.jsonl` those of the controls, `summary.json` what is concluded from them,
    `run.json` how all that was made. Until they are written, answers are in a journal beside them,
    from which a run that was interrupted is resumed. What the same settings have written before
    is read, not computed again.

    Args:
        session: The model.
        haystack: From `open_haystack`.
        items: What to hide; all of one test.
        grid: Where.
        folder: For the results.
        max_new_tokens: As in `run_grid`.
        controls: As in `run_grid`.
        circular: Also ask lettered items with every rotation of their options.
        captions: As in `run_grid`.
        select: As in `run_grid`.
        fresh: Start over instead of resuming; earlier results are set aside.

    Raises:
        SettingsError: If the folder cannot be written, or holds a run with other settings; or no
            item is left that is answered on its pictures alone (`latent`).
        MediaError: If the haystack is too short, or a frame cannot be decoded.
        NumericalError: If logits are NaN or infinite.
    """
    haystack.check_length(max(grid.frame_counts))
    asked = circular_items(items) if circular else list(items)
    layout = grid.lay_out(asked)
    settings = {
        "grid": grid.describe(),
        "haystack": haystack.describe(),
        "needles": [item.describe() for item in asked],
        "model": session.describe(),
        "max_new_tokens": max_new_tokens,
        "controls": controls,
        "circular": circular,
        **({} if captions is None else {"captions_sha256": _digest(captions)}),
        **({} if select is None else {"select": select.describe()}),
    }
    if fresh:
        try:
            number = set_aside(*(folder / name for name in _FILES))
        except OSError as error:
            raise SettingsError(
                f"Earlier results in {folder} cannot be set aside: {error.strerror}. Give another "
                "--out, or move them."
            ) from error
        if number:
            logger.info("Starting over: earlier results were set aside as {}/*{}", folder, number)
    elif (folder / "run.json").exists():
        return _finished(folder, settings)
    journal = Journal(folder / "journal", journal_settings(session.describe()), fresh=fresh)
    began = time.perf_counter()
    counts = replace(session.engine.counts)
    test = items[0].test
    name = "V-NIAH" if test == "single" else f"V-NIAH {test}"
    num_controls = len(asked) * (len(grid.frame_counts) + 2) if controls else 0
    with journal, progress_bar(len(layout.cells) + num_controls, name, unit="cell") as bar:
        frames_seen = 0

        def show(answer: NeedleAnswer) -> None:
            nonlocal frames_seen
            frames_seen += answer.num_frames + len(answer.insert_indices)
            rate = frames_seen / (time.perf_counter() - began)
            bar.set_postfix_str(f"{rate:,.0f} frames/s", refresh=False)
            bar.update(1)

        answers = run_grid(
            session,
            haystack,
            asked,
            grid,
            max_new_tokens=max_new_tokens,
            controls=controls,
            captions=captions,
            select=select,
            journal=journal,
            on_answer=show,
        )
    if journal.num_taken_over:
        logger.info("{} answers were taken over from an earlier run", journal.num_taken_over)
    for refused in layout.refused:
        logger.warning("{}: left out: {}", name, refused)
    seconds = round(time.perf_counter() - began, 1)
    least = DRAWN_TESTS[test].least_needle_only if test in DRAWN_TESTS and controls else 0.0
    left_out = unanswerable(answers, least=least)
    answers_kept = [answer for answer in answers if original(answer) not in left_out]
    in_grid = [answer for answer in answers_kept if answer.control is None]
    if not in_grid:
        raise SettingsError(
            f"{name}: no item has a needle-only score of {least:.0%} or more: this model does not "
            "know the questions, so nothing can be said about lengths."
        )
    originals = [number for number, item in enumerate(asked) if not item.rotation]
    cells = [
        replace(answer, needle=originals.index(answer.needle))
        for answer in in_grid
        if not answer.rotation
    ]
    rows = by_depth = rows_by_depth(cells)
    summary = {
        **summarize_grid(answers_kept),
        "test": test,
        "refused_cells": layout.refused,
        "left_out": {asked[number].name: share for number, share in left_out.items()},
    }
    _write(folder / "cells.jsonl", to_lines(cells))
    if controls:
        _write(folder / "controls.jsonl", to_lines(each for each in answers if each.control))
    if circular:
        _write(folder / "circular.jsonl", to_lines(in_grid))
    _write(folder / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    _write(folder / "all_accuracies.json", json.dumps(by_depth, indent=4) + "\n")
    if isinstance(grid, LatticeGrid):
        rows = rows_by_index(cells)
        _write(folder / "lattice_accuracies.json", json.dumps(rows, indent=4) + "\n")
    record = {
        "test": f"{name}, teacher-forced" + (", as text" if captions is not None else ""),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "average_accuracy": sum(row["Score"] for row in rows) / len(rows),
        "num_answers": len(cells),
        "seconds": seconds,
        "frame_rule": "one a second from the first: every round(average fps)-th frame; where the "
        "rate varies, the one on screen",
        "frame_preparation": "pad to a square of the mean colour, pool 2 x 2 by average",
        **settings,
        "engine": {
            "tokens_asked": session.engine.counts.tokens_asked - counts.tokens_asked,
            "tokens_computed": session.engine.counts.tokens_computed - counts.tokens_computed,
            "answers_taken_over": journal.num_taken_over,
        },
    }
    _write(folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    journal.finish(remove=True)
    logger.debug("{}: {} answers in {:.1f} s", name, len(cells), seconds)
    return NiahRun(folder=folder, rows=rows, cells=cells, summary=summary)


def run_test(
    session: Session,
    haystack: Haystack,
    test: NeedleTest,
    folder: Path,
    *,
    captions: Sequence[str] | None = None,
    **how: Any,
) -> Iterator[NiahRun]:
    """Run a test, and its text twin into `folder / "text"`, and yield each when it is finished.

    Args:
        session: From `open_needle_session`.
        haystack: From `open_haystack`.
        test: From `make_tests`.
        folder: For the results.
        captions: Of the twin; None for none.
        **how: As in `run_and_write`.
    """
    yield run_and_write(session, haystack, test.items, test.grid, folder, **how)
    if captions is not None and test.has_twin:
        how |= {"captions": captions}
        run = run_and_write(session, haystack, test.items, test.grid, folder / "text", **how)
        yield replace(run, as_text=True)


def run_tests(
    session: Session,
    haystack: Haystack,
    tests: Sequence[NeedleTest],
    out: Path,
    *,
    model: str,
    ropes: Sequence[RopeSettings],
    own_folders: bool = True,
    **how: Any,
) -> Iterator[NiahRun]:
    """Run tests at several RoPE settings, and yield each when it is finished.

    Args:
        session: From `open_needle_session`.
        haystack: From `open_haystack`.
        tests: From `make_tests`.
        out: For the results; settings that name a base have a folder each, `rope_theta_1000000`.
        model: What it is called.
        ropes: Tried one after the other.
        own_folders: Whether each test has a folder of its own, too.
        **how: As in `run_test`.
    """
    session.encoder.keep_all = len(ropes) * len(tests) > 1  # the same frames are asked for again
    for rope in ropes:
        folder, name = out, model
        if rope.theta is not None:
            folder = out / f"rope_theta_{rope.theta:.12g}"
            name = f"{model}, theta {rope.theta:g}"
        session.change_rope(rope)
        for test in tests:
            place = folder / test.name if own_folders else folder
            for run in run_test(session, haystack, test, place, **how):
                yield replace(run, model=name)


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()


def _finished(folder: Path, settings: Mapping[str, Any]) -> NiahRun:
    """The results that lie in a folder, if they were made with these settings."""
    ways_out = "Give another --out, or set what is there aside with --fresh."
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        there, now = _comparable(record), _comparable(json.loads(json.dumps(settings)))
        if there != now:
            raise SettingsError(
                f"{folder} holds a finished needle test with other settings: "
                f"{settings_difference(there, now)}. {ways_out}"
            )
        is_lattice = settings["grid"]["kind"] == "lattice"
        name = "lattice_accuracies.json" if is_lattice else "all_accuracies.json"
        run = NiahRun(
            folder=folder,
            rows=json.loads((folder / name).read_text(encoding="utf-8")),
            cells=read_answers(folder / "cells.jsonl"),
            summary=json.loads((folder / "summary.json").read_text(encoding="utf-8")),
            was_there=True,
        )
        if len(run.cells) != record["num_answers"]:
            raise ValueError(f"cells.jsonl has {len(run.cells)} of {record['num_answers']} answers")
    except SettingsError:  # it is a ValueError, too
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError(
            f"{folder} holds a finished needle test that cannot be read "
            f"({type(error).__name__}: {error}). {ways_out}"
        ) from error
    return run


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """What of `run.json` can move a number, in a form whose differences can be named."""
    listed = {
        name: {str(number): item for number, item in enumerate(record[name])}
        for name in ("haystack", "needles")
    }
    names = ("max_new_tokens", "controls", "circular", "captions_sha256", "select")
    rest = {name: record.get(name) for name in names}
    model = journal_settings(record["model"])
    return {**listed, **rest, "grid": record["grid"], "model": model}


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        # The name of a file may hold bytes that are no UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
